"""TACO as published (`BAAI/TACO`, Parquet or Arrow): rows to problems.

Every column is text, some of it JSON. Problems without tests are left out and counted in the log. TACO holds problems
of APPS and CodeContests: nothing is deduplicated here.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from spo.errors import ProblemError
from spo.problems.data_files import DataFiles
from spo.problems.ground_truth import Unsupported, function_of, parse_json, tests_of
from spo.problems.parquet import read_rows
from spo.problems.reading import Reading, unix_lines
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    PYTHON_TIME_FACTOR,
    Problem,
    Solution,
    check_problem,
)

_REQUIRED = ("question", "input_output")
_OPTIONAL = (
    "solutions", "starter_code", "difficulty", "name", "source", "url", "time_limit", "memory_limit", "skill_types",
    "tags", "date",
)  # fmt: skip
_METADATA = ("name", "url", "skill_types", "tags", "date")
_SECONDS = {"seconds": 1, "second": 1}
_BYTES = {"kilobytes": 2**10, "kb": 2**10, "megabytes": 2**20, "mb": 2**20, "gigabytes": 2**30, "gb": 2**30, "bytes": 1}


def read_taco(data: DataFiles, reading: Reading) -> Iterator[Problem]:
    """Read the problems of Parquet or Arrow files, one row at a time.

    Raises:
        ConfigError: pyarrow is not installed.
        ProblemError: A file is damaged or of another data set, or a row has a hole.
    """
    seen: set[str] = set()
    for where, row in read_rows(data.files, _REQUIRED, _OPTIONAL, reading.advance):
        problem_id = _id(row)
        try:
            truth = _json(row, "input_output", where) or {}
            if not isinstance(truth, dict):
                raise ProblemError(f"{where}: input_output: expected a JSON object, got {type(truth).__name__}")
            if problem_id in seen:
                raise Unsupported("they repeat another problem")
            seen.add(problem_id)
            problem = _problem(problem_id, row, truth, where)
        except Unsupported as reason:
            reading.leave_out(str(reason))
        else:
            yield check_problem(problem, where)


def _problem(problem_id: str, row: Mapping[str, Any], truth: Mapping[str, Any], where: str) -> Problem:
    statement, fn_name = unix_lines(row["question"]), function_of(truth)
    tests = tests_of(truth)
    if not statement.strip():
        raise Unsupported("they have no statement")
    if fn_name and not row["starter_code"]:
        statement += f"\n\nWrite a function `{fn_name}`."
    return Problem(
        id=problem_id,
        dataset="taco",
        statement=statement,
        fn_name=fn_name,
        tests=tests,
        time_limit_s=_amount(row["time_limit"], _SECONDS) * PYTHON_TIME_FACTOR or DEFAULT_TIME_LIMIT_S,
        memory_limit_bytes=int(_amount(row["memory_limit"], _BYTES)) or DEFAULT_MEMORY_LIMIT_BYTES,
        starter_code=unix_lines(row["starter_code"]),
        difficulty=_word(row["difficulty"]),
        source=_word(row["source"]),
        solutions=tuple(
            Solution("python", unix_lines(code), True)
            for code in _json(row, "solutions", where) or ()
            if isinstance(code, str)
        ),
        metadata={key: _word(row[key]) for key in _METADATA if row[key]},
    )


def _json(row: Mapping[str, Any], column: str, where: str) -> Any:
    text = row[column]
    if not text:
        return None
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{where}: {column}: not JSON ({error}); mend the row or leave it out") from None


def _word(value: Any) -> str:
    """Text as it is; what conversions of the data set have made of it, as JSON."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _amount(text: str | None, units: Mapping[str, float]) -> float:
    """The quantity in texts such as `2.0 seconds` or `256.0 megabytes`; 0 if there is none."""
    match = re.match(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)", (text or "").lower())
    return float(match[1]) * units.get(match[2], 0) if match else 0.0


def _id(row: Mapping[str, Any]) -> str:
    """The problem's name, else the end of its address, and what tells apart those that share it."""
    name = row["name"] or PurePosixPath(urlsplit(row["url"] or "").path).name or "problem"
    slug = re.sub(r"\W+", "-", name.lower()).strip("-")[:60]
    digest = hashlib.blake2b((row["question"] or "").encode(), digest_size=4).hexdigest()
    return f"taco/{slug}-{digest}"
