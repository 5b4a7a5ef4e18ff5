"""CodeContests as published (`deepmind/code_contests`, Parquet): rows to problems.

Problems that the judge cannot run as they are (files instead of stdin and stdout, no tests) are left out and
counted in the log. Generated tests may be invalid, and some problems accept several answers: the data set does not
say which, so nothing is filtered for it here.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from spo.problems.omissions import log_omissions
from spo.problems.parquet import data_files, read_rows
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    HIDDEN,
    PUBLIC,
    PYTHON_TIME_FACTOR,
    Problem,
    ProblemTest,
    Solution,
    check_problem,
)

_SPLITS = {"public_tests": PUBLIC, "private_tests": HIDDEN, "generated_tests": "generated"}
_SOURCES = ("UNKNOWN", "CODECHEF", "CODEFORCES", "HACKEREARTH", "CODEJAM", "ATCODER", "AIZU")
_DIFFICULTIES = (
    "UNKNOWN", "EASY", "MEDIUM", "HARD", "HARDER", "HARDEST", "EXTERNAL",
    *"ABCDEFGHIJKLMNOPQRSTUV",
)  # fmt: skip
_LANGUAGES = ("unknown", "python2", "cpp", "python", "java")
_REQUIRED = ("name", "description", *_SPLITS)
_OPTIONAL = (
    "source", "difficulty", "solutions", "incorrect_solutions", "time_limit", "memory_limit_bytes", "input_file",
    "output_file", "cf_contest_id", "cf_index", "cf_rating", "cf_tags",
)  # fmt: skip
_METADATA = ("cf_contest_id", "cf_index", "cf_rating")


def load_code_contests(path: str) -> list[Problem]:
    """Load the problems of a Parquet file, a folder of them or a glob.

    Raises:
        ConfigError: pyarrow is not installed.
        ProblemError: A file is missing, damaged or of another data set, or a row has a hole.
    """
    problems = []
    left_out: Counter[str] = Counter()
    for where, row in read_rows(data_files(path), _REQUIRED, _OPTIONAL):
        reason = _unsupported(row)
        if reason:
            left_out[reason] += 1
        else:
            problems.append(check_problem(_problem(row), where))
    log_omissions(path, left_out)
    return problems


def _unsupported(row: Mapping[str, Any]) -> str:
    if row["input_file"] or row["output_file"]:
        return "they read or write files instead of stdin and stdout"
    if not any(_pairs(row[split]) for split in _SPLITS):
        return "they have no tests"
    if not (row["description"] or "").strip():
        return "they have no statement"
    return ""


def _problem(row: Mapping[str, Any]) -> Problem:
    metadata = {key: str(row[key]) for key in _METADATA if row[key]}
    if row["cf_tags"]:
        metadata["cf_tags"] = ", ".join(tag for tag in row["cf_tags"] if tag)
    return Problem(
        id=f"code_contests/{row['name'].strip()}",
        dataset="code_contests",
        statement=row["description"],
        tests=tuple(
            ProblemTest(text, answer, split, f"{split}-{number}")
            for column, split in _SPLITS.items()
            for number, (text, answer) in enumerate(_pairs(row[column]), start=1)
        ),
        time_limit_s=_time_limit_s(row["time_limit"]),
        memory_limit_bytes=row["memory_limit_bytes"] or DEFAULT_MEMORY_LIMIT_BYTES,
        checker="code_contests",
        difficulty=_label(_DIFFICULTIES, row["difficulty"]),
        source=_label(_SOURCES, row["source"]),
        solutions=(*_solutions(row["solutions"], True), *_solutions(row["incorrect_solutions"], False)),
        metadata=metadata,
    )


def _pairs(tests: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not tests:
        return []
    return list(zip(tests["input"] or (), tests["output"] or (), strict=True))


def _time_limit_s(limit: Mapping[str, int] | None) -> float:
    """Seconds for Python; our default where the limit is missing or zero."""
    seconds = (limit["seconds"] or 0) + (limit["nanos"] or 0) / 1e9 if limit else 0.0
    return seconds * PYTHON_TIME_FACTOR if seconds > 0 else DEFAULT_TIME_LIMIT_S


def _label(labels: tuple[str, ...], value: int | None) -> str:
    """The name of an enumerated value; its number where the data set has grown."""
    if value is None:
        return ""
    return labels[value] if 0 <= value < len(labels) else str(value)


def _solutions(solutions: Mapping[str, Any] | None, correct: bool) -> list[Solution]:
    if not solutions:
        return []
    return [
        Solution(_label(_LANGUAGES, language), code, correct)
        for language, code in zip(solutions["language"] or (), solutions["solution"] or (), strict=True)
    ]
