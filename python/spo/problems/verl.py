"""Rows as verl and SkyRL train on them (Parquet, Arrow or JSON Lines): a chat prompt, and tests as its ground truth.

The user's messages become the statement; the chat template is that of the model trained here. Rows without tests are
left out and counted in the log.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from spo.errors import ProblemError
from spo.problems.data_files import LINES, DataFiles
from spo.problems.ground_truth import Unsupported, function_of, parse_json, tests_of
from spo.problems.jsonl import numbered_lines
from spo.problems.parquet import read_rows
from spo.problems.reading import Reading, UniqueIds, unix_lines
from spo.problems.schema import Problem, check_problem

_OPTIONAL = ("data_source", "reward_model", "reward_spec", "extra_info")


def read_verl(data: DataFiles, reading: Reading) -> Iterator[Problem]:
    """Read the problems of `.jsonl`, Parquet or Arrow files, one row at a time.

    Raises:
        ConfigError: pyarrow is needed and not installed.
        ProblemError: A file is damaged, or a row has a hole; names it.
    """
    ids = UniqueIds()
    for file in data.files:
        for where, row in _rows(file, reading):
            try:
                truth = _ground_truth(row, where)
                problem = _problem(row, truth, where)
            except Unsupported as reason:
                reading.leave_out(str(reason))
                continue
            problem_id = ids.take(problem.id, problem.statement)
            if problem_id is None:
                reading.leave_out("they repeat another problem")
            else:
                yield check_problem(msgspec.structs.replace(problem, id=problem_id), where)


def _rows(file: Path, reading: Reading) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if file.suffix not in LINES:
        yield from read_rows([file], ("prompt",), _OPTIONAL, reading.advance)
        return
    for where, line in numbered_lines(file, reading.advance):
        row = _parse(line, where, "row")
        if "prompt" not in row:
            raise ProblemError(f"{where}: prompt is missing; is it a file of another kind?")
        yield where, dict.fromkeys(_OPTIONAL) | row


def _ground_truth(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The object with `inputs`, `outputs` and perhaps `fn_name`, which may be given as JSON text."""
    spec = row["reward_model"] or row["reward_spec"] or {}
    truth = spec.get("ground_truth") if isinstance(spec, dict) else None
    if not truth:
        raise ProblemError(f"{where}: reward_model.ground_truth is missing; it must hold inputs and outputs")
    return truth if isinstance(truth, dict) else _parse(truth, where, "ground_truth")


def _parse(text: str | bytes, where: str, what: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProblemError(f"{where}: {what}: not JSON ({error}); mend it or leave it out") from None
    if not isinstance(value, dict):
        raise ProblemError(f"{where}: {what}: expected a JSON object, got {type(value).__name__}")
    return value


def _problem(row: Mapping[str, Any], truth: Mapping[str, Any], where: str) -> Problem:
    statement = _statement(row["prompt"], where)
    dataset = row["data_source"] or "verl"
    extra = row["extra_info"] if isinstance(row["extra_info"], dict) else {}
    number = extra.get("index")
    name = hashlib.blake2b(statement.encode(errors="replace"), digest_size=8).hexdigest() if number is None else number
    return Problem(
        id=f"{dataset}/{extra.get('split') or 'row'}-{name}",
        dataset=dataset,
        statement=statement,
        fn_name=function_of(truth),
        tests=tests_of(truth),
        difficulty=str(extra.get("difficulty") or ""),
    )


def _statement(prompt: Any, where: str) -> str:
    if isinstance(prompt, str):
        return unix_lines(prompt)
    try:
        return unix_lines("\n\n".join(message["content"] for message in prompt if message["role"] == "user"))
    except (TypeError, KeyError):
        raise ProblemError(f"{where}: prompt: expected text or chat messages with role and content") from None
