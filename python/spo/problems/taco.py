"""TACO as published (`BAAI/TACO`, Parquet or Arrow): rows to problems.

Every column is text, some of it JSON. Problems without tests are left out and counted in the log. TACO holds problems
of APPS and CodeContests: nothing is deduplicated here.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from spo.errors import ProblemError
from spo.problems.omissions import log_omissions
from spo.problems.parquet import data_files, read_rows
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    PYTHON_TIME_FACTOR,
    Problem,
    ProblemTest,
    Solution,
    check_problem,
)

_REQUIRED = ("question", "input_output")
_OPTIONAL = (
    "solutions", "starter_code", "difficulty", "name", "source", "url", "time_limit", "memory_limit", "skill_types",
)  # fmt: skip
_METADATA = ("name", "url", "skill_types")
_SECONDS = {"seconds": 1, "second": 1}
_BYTES = {"kilobytes": 2**10, "kb": 2**10, "megabytes": 2**20, "mb": 2**20, "gigabytes": 2**30, "gb": 2**30, "bytes": 1}


def load_taco(path: str) -> list[Problem]:
    """Load the problems of a Parquet or Arrow file, a folder of them or a glob.

    Raises:
        ConfigError: pyarrow is not installed.
        ProblemError: A file is missing, damaged or of another data set, or a row has a hole.
    """
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for where, row in read_rows(data_files(path), _REQUIRED, _OPTIONAL):
        tests = _json(row, "input_output", where) or {}
        if not isinstance(tests, dict):
            raise ProblemError(f"{where}: input_output: expected a JSON object, got {type(tests).__name__}")
        problem_id = _id(row)
        reason = "they repeat another problem" if problem_id in seen else _unsupported(row, tests)
        seen.add(problem_id)
        if reason:
            left_out[reason] += 1
        else:
            problems.append(check_problem(_problem(problem_id, row, tests, where), where))
    log_omissions(path, left_out)
    return problems


def _unsupported(row: Mapping[str, Any], tests: Mapping[str, Any]) -> str:
    if not tests.get("inputs"):
        return "they have no tests"
    if len(tests["inputs"]) != len(tests.get("outputs") or ()):
        return "their inputs and outputs differ in number"
    if tests.get("fn_name") and not all(isinstance(arguments, list) for arguments in tests["inputs"]):
        return "their function's arguments are not lists"
    return "" if (row["question"] or "").strip() else "they have no statement"


def _problem(problem_id: str, row: Mapping[str, Any], tests: Mapping[str, Any], where: str) -> Problem:
    fn_name = str(tests["fn_name"]) if tests.get("fn_name") else None
    encode = _text if fn_name is None else json.dumps
    statement = row["question"]
    if fn_name and not row["starter_code"]:
        statement += f"\n\nWrite a function `{fn_name}`."
    return Problem(
        id=problem_id,
        dataset="taco",
        statement=statement,
        fn_name=fn_name,
        tests=tuple(
            ProblemTest(encode(text), encode(answer), name=f"test-{index}")
            for index, (text, answer) in enumerate(zip(tests["inputs"], tests["outputs"], strict=True), start=1)
        ),
        time_limit_s=_amount(row["time_limit"], _SECONDS) * PYTHON_TIME_FACTOR or DEFAULT_TIME_LIMIT_S,
        memory_limit_bytes=int(_amount(row["memory_limit"], _BYTES)) or DEFAULT_MEMORY_LIMIT_BYTES,
        starter_code=row["starter_code"] or "",
        difficulty=row["difficulty"] or "",
        source=row["source"] or "",
        solutions=tuple(Solution("python", code, True) for code in _json(row, "solutions", where) or ()),
        metadata={key: row[key] for key in _METADATA if row[key]},
    )


def _json(row: Mapping[str, Any], column: str, where: str) -> Any:
    text = row[column]
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ProblemError(f"{where}: {column}: not JSON ({error}); mend the row or leave it out") from None


def _text(entry: Any) -> str:
    """An entry is the whole text, or the list of its lines."""
    if isinstance(entry, list):
        return "".join(_text(line).rstrip("\n") + "\n" for line in entry)
    return entry if isinstance(entry, str) else json.dumps(entry)


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
