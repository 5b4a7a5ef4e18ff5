"""CodeContests as published (`deepmind/code_contests`, Parquet): rows to problems.

Problems that the judge cannot run as they are (files instead of stdin and stdout, no tests) are left out and
counted in the log. Generated tests may be invalid, and some problems accept several answers: the data set does not
say which, so nothing is filtered for it here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from spo.problems.data_files import DataFiles
from spo.problems.parquet import read_rows
from spo.problems.reading import Reading, UniqueIds, unix_lines
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
    "output_file", "cf_contest_id", "cf_index", "cf_points", "cf_rating", "cf_tags", "is_description_translated",
    "untranslated_description",
)  # fmt: skip
_METADATA = ("cf_contest_id", "cf_index", "cf_points", "cf_rating")


def read_code_contests(data: DataFiles, reading: Reading) -> Iterator[Problem]:
    """Read the problems of Parquet or Arrow files, one row at a time.

    Raises:
        ConfigError: pyarrow is not installed.
        ProblemError: A file is damaged or of another data set, or a row has a hole.
    """
    ids = UniqueIds()
    for where, row in read_rows(data.files, _REQUIRED, _OPTIONAL, reading.advance):
        if reason := _unsupported(row):
            reading.leave_out(reason)
            continue
        problem_id = ids.take(f"code_contests/{row['name'].strip()}", row["description"])
        if problem_id is None:
            reading.leave_out("they repeat another problem")
        else:
            yield check_problem(_problem(problem_id, row), where)


def _unsupported(row: Mapping[str, Any]) -> str:
    if row["input_file"] or row["output_file"]:
        return "they read or write files instead of stdin and stdout"
    counts = [[len(tests[side] or ()) for side in ("input", "output")] for tests in map(row.get, _SPLITS) if tests]
    if any(inputs != outputs for inputs, outputs in counts):
        return "their inputs and outputs differ in number"
    if not any(inputs for inputs, _ in counts):
        return "they have no tests"
    if not (row["description"] or "").strip():
        return "they have no statement"
    return ""


def _problem(problem_id: str, row: Mapping[str, Any]) -> Problem:
    return Problem(
        id=problem_id,
        dataset="code_contests",
        statement=unix_lines(row["description"]),
        tests=tuple(
            ProblemTest(unix_lines(text), unix_lines(answer), split, f"{split}-{number}")
            for column, split in _SPLITS.items()
            for number, (text, answer) in enumerate(_pairs(row[column]), start=1)
        ),
        time_limit_s=_time_limit_s(row["time_limit"]),
        memory_limit_bytes=row["memory_limit_bytes"] or DEFAULT_MEMORY_LIMIT_BYTES,
        checker="code_contests",
        difficulty=_label(_DIFFICULTIES, row["difficulty"]),
        source=_label(_SOURCES, row["source"]),
        solutions=(*_solutions(row["solutions"], True), *_solutions(row["incorrect_solutions"], False)),
        metadata=_metadata(row),
    )


def _metadata(row: Mapping[str, Any]) -> dict[str, str]:
    metadata = {key: str(row[key]) for key in _METADATA if row[key]}
    if row["cf_tags"]:
        metadata["cf_tags"] = ", ".join(tag for tag in row["cf_tags"] if tag)
    if row["is_description_translated"]:
        metadata["untranslated_description"] = row["untranslated_description"] or ""
    return metadata


def _pairs(tests: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return list(zip(tests["input"] or (), tests["output"] or (), strict=True)) if tests else []


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
        Solution(_label(_LANGUAGES, language), unix_lines(code), correct)
        for language, code in zip(solutions["language"] or (), solutions["solution"] or (), strict=True)
    ]
