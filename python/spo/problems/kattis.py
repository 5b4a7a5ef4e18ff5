"""Kattis problem packages: a folder with `problem.yaml`, a statement, and tests as `.in`/`.ans` pairs.

Reads the legacy format and the parts of the 2023-07 one that correspond. A package counts as solved when
every test passes: the groups and points of scoring problems are not used. Custom output validators and
interactive problems are refused by name, since the judge compares outputs only.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from spo.errors import ProblemError
from spo.problems.data_files import DataFiles
from spo.problems.kattis_submissions import read_submissions
from spo.problems.kattis_tests import read_tests, read_text
from spo.problems.latex import latex_title, latex_to_text
from spo.problems.reading import Reading
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    Problem,
    check_problem,
)
from spo.problems.statement import with_samples

_STATEMENT_FOLDERS = ("problem_statement", "statement")
_UNSUPPORTED_TYPES = frozenset({"interactive", "multi-pass", "submit-answer"})
_FLAGS_WITHOUT_VALUE = frozenset({"case_sensitive", "space_change_sensitive"})
_FLAGS_WITH_VALUE = frozenset({"float_tolerance", "float_absolute_tolerance", "float_relative_tolerance"})


def find_kattis(named: str) -> DataFiles:
    """The files of the package at a path, or of every package in a folder.

    Raises:
        ProblemError: There is no package.
    """
    path = Path(named).expanduser()
    if not path.is_dir():
        raise ProblemError(f"{path}: no such folder; give a Kattis package or a folder of packages")
    if not _packages(path):
        raise ProblemError(f"{path}: holds no problem.yaml and no folders; give a Kattis package or a folder of them")
    return DataFiles(str(path), sorted(file for file in path.rglob("*") if file.is_file()))


def read_kattis(data: DataFiles, reading: Reading) -> Iterator[Problem]:
    """Read the packages one by one, by name.

    Raises:
        ProblemError: One has a hole; names the file and the fix.
    """
    packages = _packages(Path(data.named))
    total = sum(file.stat().st_size for file in data.files)
    for package in packages:
        yield load_package(package)
        reading.advance(total / len(packages))


def _packages(path: Path) -> list[Path]:
    if any((path / part).exists() for part in ("problem.yaml", "data", *_STATEMENT_FOLDERS)):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")


def load_package(package: Path) -> Problem:
    """Load one problem package.

    Raises:
        ProblemError: A part is missing, malformed or not supported; names the file and the fix.
    """
    config_path = package / "problem.yaml"
    config = _read_yaml(config_path)
    statement, title = _read_statement(package)
    tests = read_tests(package)
    limits = _section(config, "limits", config_path)
    memory_mib = _number(limits, "memory", config_path, DEFAULT_MEMORY_LIMIT_BYTES / 2**20)
    problem = Problem(
        id=f"kattis/{package.resolve().name}",
        dataset="kattis",
        statement=with_samples(statement, tests),
        tests=tests,
        time_limit_s=_time_limit_s(package, limits, config_path),
        memory_limit_bytes=int(memory_mib * 2**20),
        checker=_checker(package, config, config_path),
        source=str(config.get("source") or ""),
        solutions=read_submissions(package),
        metadata={"name": _name(config, config_path) or title or package.resolve().name},
    )
    return check_problem(problem, str(config_path))


def _read_yaml(path: Path) -> dict[str, Any]:
    text = read_text(path, "every Kattis package needs one (remove the folder if it is no package)")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ProblemError(f"{path}: not valid YAML: {' '.join(str(error).split())}; mend the file") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProblemError(f"{path}: holds a {type(value).__name__}; expected `key: value` lines")
    return value


def _section(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise ProblemError(f"{path}: {key}: expected `key: value` lines below it, got {value!r}")
    return value


def _number(section: Mapping[str, Any], key: str, path: Path, default: float) -> float:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ProblemError(f"{path}: limits.{key}: expected a number above 0, got {value!r}")
    return float(value)


def _time_limit_s(package: Path, limits: Mapping[str, Any], config_path: Path) -> float:
    """`limits.time_limit`, else the number in `.timelimit`, else our default: most packages set none."""
    file = package / ".timelimit"
    if "time_limit" in limits or not file.is_file():
        return _number(limits, "time_limit", config_path, DEFAULT_TIME_LIMIT_S)
    text = read_text(file, "")
    try:
        return _number({"time_limit": float(text)}, "time_limit", file, DEFAULT_TIME_LIMIT_S)
    except ValueError as error:
        if isinstance(error, ProblemError):
            raise
        raise ProblemError(f"{file}: expected one number of seconds, got {text.strip()!r}") from None


def _name(config: Mapping[str, Any], path: Path) -> str:
    """The name, given as text or as a map from language to text (English first)."""
    name = config.get("name", "")
    if isinstance(name, dict) and name:
        name = name.get("en", next(iter(name.values())))
    if not isinstance(name, str):
        raise ProblemError(f"{path}: name: expected text or a map from language to text, got {name!r}")
    return name


def _checker(package: Path, config: Mapping[str, Any], path: Path) -> str:
    """The default output validator with the package's flags, as a checker of the judge."""
    kind = config.get("validation") or "default"
    if kind != "default":
        raise ProblemError(f"{path}: validation {kind!r} is not supported; leave this package out")
    types = config.get("type") or []
    unsupported = _UNSUPPORTED_TYPES.intersection(types if isinstance(types, list) else [types])
    if unsupported:
        raise ProblemError(f"{path}: type {min(unsupported)!r} is not supported; leave this package out")
    flags = {str(config["validator_flags"]): path} if config.get("validator_flags") else {}
    for group in sorted((package / "data").rglob("testdata.yaml")):
        group_flags = _read_yaml(group).get("output_validator_flags")
        if group_flags is not None:
            flags.setdefault(str(group_flags), group)
    if len(flags) > 1:
        places = " and ".join(str(place) for place in flags.values())
        raise ProblemError(f"{places}: the validator flags differ; the tests of a package must share theirs")
    text, source = next(iter(flags.items()), ("", path))
    return " ".join(["kattis", *_parse_flags(text, source)])


def _parse_flags(text: str, path: Path) -> Iterator[str]:
    words = iter(text.split())
    for word in words:
        if word in _FLAGS_WITHOUT_VALUE:
            yield word
        elif word in _FLAGS_WITH_VALUE:
            yield f"{word} {_tolerance(word, next(words, ''), path)!r}"
        else:
            raise ProblemError(f"{path}: validator flag {word!r} is unknown; remove it")


def _tolerance(flag: str, text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ProblemError(f"{path}: {flag} needs a number of at least 0 behind it, got {text!r}")
    return value


def _read_statement(package: Path) -> tuple[str, str]:
    """The statement as text, and its title if it has one; English before other languages."""
    files = [
        file
        for folder in _STATEMENT_FOLDERS
        for suffix in (".tex", ".md")
        for file in sorted((package / folder).glob(f"problem*{suffix}"))
    ]
    if not files:
        raise ProblemError(f"{package}: no problem_statement/problem.en.tex (or .md); add the statement")
    english = [file for file in files if file.name.split(".")[1] in ("en", "tex", "md")]
    chosen = (english or files)[0]
    text = read_text(chosen, "add the statement")
    if chosen.suffix == ".md":
        return text.strip(), ""
    try:
        return latex_to_text(text), latex_title(text)
    except RecursionError:
        raise ProblemError(f"{chosen}: braces are nested too deeply; simplify the statement") from None
