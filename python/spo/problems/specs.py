"""Problem specs: the words by which a configuration names problems, and the loaders behind them.

A spec is `SOURCE` or `SOURCE:ARGUMENT`: `builtin`, `builtin:easy`, `kattis:PATH`, `jsonl:PATH`, `tiny:train`.
What a source reads is in its own module; here specs are only split, dispatched and their results checked.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from spo.errors import ConfigError, ProblemError
from spo.problems.cache import open_data_set
from spo.problems.code_contests import read_code_contests
from spo.problems.collection import MemoryShelf, Problems
from spo.problems.data_files import LINES, TABLES, DataFiles, find_files
from spo.problems.humaneval import find_humaneval, read_humaneval
from spo.problems.jsonl import read_jsonl
from spo.problems.kattis import find_kattis, read_kattis
from spo.problems.reading import Reading
from spo.problems.schema import Problem, check_problem
from spo.problems.taco import read_taco
from spo.problems.verl import read_verl


class _DataSet(NamedTuple):
    """A source that lies in files."""

    find: Callable[[str], DataFiles]
    """Given what stands behind the colon ("" if nothing)."""
    read: Callable[[DataFiles, Reading], Iterator[Problem]]
    needs_path: bool = True


def load_problems(specs: Sequence[str], seed: int = 0) -> Problems:
    """Load the problems that `specs` name, in their order.

    Problems of data sets that are more than a few megabytes are read into a cache (`spo.problems.cache`) at first,
    and from there whenever one is asked for.

    Args:
        specs: Each `builtin`, `builtin:easy|medium|hard`, `builtin:NAME`, `kattis:PATH` (a package or a folder of
            packages), `code_contests:FILES`, `taco:FILES`, `verl:FILES`, `jsonl:FILES` (a file, a folder, a glob or a
            hub id), `humaneval` or `humaneval:PATH`, `tiny:train` or `tiny:evaluation`.
        seed: Seeds the test generators of sources that generate tests.

    Raises:
        ConfigError: A spec is malformed or names an unknown source, or there is none, or it cannot be downloaded.
        ProblemError: A file has a hole, a spec yields nothing, or two problems share an id; names the file or
            spec and the fix.
    """
    if isinstance(specs, str) or not specs:
        raise ConfigError(f'problems: expected a list of specs such as ["builtin"], got {specs!r}')
    loaded_by: dict[str, str] = {}
    collections = []
    for spec in specs:
        problems = _load_spec(spec, seed)
        for problem_id in problems.ids:
            if problem_id in loaded_by:
                raise ProblemError(
                    f"{spec}: problem id {problem_id!r} was already loaded by {loaded_by[problem_id]}; "
                    "leave one of the two out, or give them different ids"
                )
            loaded_by[problem_id] = spec
        collections.append(problems)
    return Problems.joined(collections)


def _load_spec(spec: str, seed: int) -> Problems:
    source, _, argument = spec.partition(":")
    if source not in SOURCES:
        raise ConfigError(
            f"problems: {spec!r} names no known source; write SOURCE or SOURCE:ARGUMENT "
            f"with one of {', '.join(SOURCES)}"
        )
    if source in _GENERATORS:
        generated = _GENERATORS[source](argument, seed)
        problems = Problems.on(MemoryShelf([check_problem(problem, spec) for problem in generated]))
    else:
        data_set = _DATA_SETS[source]
        if data_set.needs_path and not argument:
            raise ConfigError(f"problems: the path is missing; write {source}:PATH")
        problems = Problems.on(open_data_set(source, data_set.find(argument), data_set.read))
    if not problems:
        raise ProblemError(f"{spec}: no problems found; check the path or the name behind the colon")
    return problems


def _builtin(argument: str, seed: int) -> list[Problem]:
    from spo.problems.builtin import load_builtin  # Only runs that ask for them pay for the import.

    return load_builtin(argument, seed)


def _tiny(argument: str, seed: int) -> list[Problem]:
    split = _TINY_SPLITS.get(argument)
    if split is None:
        raise ConfigError(f'problems: "tiny:{argument}" is no split; write tiny:train or tiny:evaluation')
    from spo.tiny import problems  # Only runs that ask for it pay for the import.

    return problems.load(split, seed)


def _jsonl_files(argument: str) -> DataFiles:
    path = Path(argument).expanduser()
    # A file that is named may be called as it likes.
    return DataFiles(argument, [path]) if path.is_file() else find_files(argument, LINES)


_TINY_SPLITS: dict[str, Literal["train", "evaluation"]] = {"train": "train", "evaluation": "evaluation"}
_GENERATORS: dict[str, Callable[[str, int], list[Problem]]] = {"builtin": _builtin, "tiny": _tiny}
_TABLES = partial(find_files, suffixes=TABLES)
_DATA_SETS = {
    "code_contests": _DataSet(_TABLES, read_code_contests),
    "humaneval": _DataSet(find_humaneval, read_humaneval, needs_path=False),
    "jsonl": _DataSet(_jsonl_files, read_jsonl),
    "kattis": _DataSet(find_kattis, read_kattis),
    "taco": _DataSet(_TABLES, read_taco),
    "verl": _DataSet(partial(find_files, suffixes=(*TABLES, *LINES)), read_verl),
}

SOURCES = tuple(sorted([*_GENERATORS, *_DATA_SETS]))
"""The words that a spec may start with."""
