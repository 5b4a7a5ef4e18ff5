"""Problem specs: the words by which a configuration names problems, and the loaders behind them.

A spec is `SOURCE` or `SOURCE:ARGUMENT`: `builtin`, `builtin:easy`, `kattis:PATH`, `jsonl:PATH`, `tiny:train`.
What a source reads is in its own module; here specs are only split, dispatched and their results checked.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from spo.errors import ConfigError, ProblemError
from spo.problems.code_contests import load_code_contests
from spo.problems.humaneval import load_humaneval
from spo.problems.jsonl import load_jsonl
from spo.problems.kattis import load_kattis
from spo.problems.schema import Problem, check_problem
from spo.problems.taco import load_taco
from spo.problems.verl import load_verl

Loader = Callable[[str, int], list[Problem]]
"""Given what stands behind the colon ("" if nothing) and the seed, returns the problems."""


def load_problems(specs: Sequence[str], seed: int = 0) -> list[Problem]:
    """Load the problems that `specs` name, in their order.

    Args:
        specs: Each `builtin`, `builtin:easy|medium|hard`, `builtin:NAME`, `kattis:PATH` (a package or a folder of
            packages), `jsonl:PATH`, `code_contests:PATH` and `taco:PATH` (a Parquet or Arrow file, a folder or a
            glob), `verl:PATH` (the same, or a `.jsonl` file), `humaneval` or `humaneval:PATH`, `tiny:train` or
            `tiny:evaluation`.
        seed: Seeds the test generators of sources that generate tests.

    Raises:
        ConfigError: A spec is malformed or names an unknown source, or there is none.
        ProblemError: A file has a hole, a spec yields nothing, or two problems share an id; names the file or
            spec and the fix.
    """
    if isinstance(specs, str) or not specs:
        raise ConfigError(f'problems: expected a list of specs such as ["builtin"], got {specs!r}')
    loaded_by: dict[str, str] = {}
    problems: list[Problem] = []
    for spec in specs:
        for problem in _load_spec(spec, seed):
            if problem.id in loaded_by:
                raise ProblemError(
                    f"{spec}: problem id {problem.id!r} was already loaded by {loaded_by[problem.id]}; "
                    "leave one of the two out, or give them different ids"
                )
            loaded_by[problem.id] = spec
            problems.append(check_problem(problem, spec))
    return problems


def _load_spec(spec: str, seed: int) -> list[Problem]:
    source, _, argument = spec.partition(":")
    loader = _LOADERS.get(source)
    if loader is None:
        raise ConfigError(
            f"problems: {spec!r} names no known source; write SOURCE or SOURCE:ARGUMENT "
            f"with one of {', '.join(SOURCES)}"
        )
    problems = loader(argument, seed)
    if not problems:
        raise ProblemError(f"{spec}: no problems found; check the path or the name behind the colon")
    return problems


def _builtin(argument: str, seed: int) -> list[Problem]:
    from spo.problems.builtin import load_builtin  # Only runs that ask for them pay for the import.

    return load_builtin(argument, seed)


def _kattis(argument: str, seed: int) -> list[Problem]:
    return load_kattis(_path(argument, "kattis:PATH"))


def _jsonl(argument: str, seed: int) -> list[Problem]:
    return load_jsonl(_path(argument, "jsonl:PATH"))


def _code_contests(argument: str, seed: int) -> list[Problem]:
    return load_code_contests(str(_path(argument, "code_contests:PATH")))


def _taco(argument: str, seed: int) -> list[Problem]:
    return load_taco(str(_path(argument, "taco:PATH")))


def _humaneval(argument: str, seed: int) -> list[Problem]:
    return load_humaneval(str(Path(argument).expanduser()) if argument else "")


def _verl(argument: str, seed: int) -> list[Problem]:
    return load_verl(str(_path(argument, "verl:PATH")))


def _path(argument: str, form: str) -> Path:
    if not argument:
        raise ConfigError(f"problems: the path is missing; write {form}")
    return Path(argument).expanduser()


def _tiny(argument: str, seed: int) -> list[Problem]:
    split = _TINY_SPLITS.get(argument)
    if split is None:
        raise ConfigError(f'problems: "tiny:{argument}" is no split; write tiny:train or tiny:evaluation')
    from spo.tiny import problems  # Only runs that ask for it pay for the import.

    return problems.load(split, seed)


_TINY_SPLITS: dict[str, Literal["train", "evaluation"]] = {"train": "train", "evaluation": "evaluation"}
_LOADERS: dict[str, Loader] = {
    "builtin": _builtin,
    "kattis": _kattis,
    "code_contests": _code_contests,
    "humaneval": _humaneval,
    "jsonl": _jsonl,
    "taco": _taco,
    "tiny": _tiny,
    "verl": _verl,
}

SOURCES = tuple(sorted(_LOADERS))
"""The words that a spec may start with."""
