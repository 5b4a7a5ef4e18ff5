"""Rows as verl and SkyRL train on them (Parquet, Arrow or JSON Lines): a chat prompt, and tests as its ground truth.

The user's messages become the statement; the chat template is that of the model trained here. Rows without tests are
left out and counted in the log.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spo.errors import ProblemError
from spo.problems.jsonl import numbered_lines
from spo.problems.omissions import log_omissions
from spo.problems.parquet import data_files, read_rows
from spo.problems.schema import Problem, ProblemTest, check_problem

_OPTIONAL = ("data_source", "reward_model", "reward_spec", "extra_info")


def load_verl(path: str) -> list[Problem]:
    """Load the problems of a `.jsonl` file, or of a Parquet or Arrow file, a folder of them or a glob.

    Raises:
        ConfigError: pyarrow is needed and not installed.
        ProblemError: A file is missing or damaged, or a row has a hole; names it.
    """
    problems = []
    left_out: Counter[str] = Counter()
    for where, row in _rows(path):
        tests = _ground_truth(row, where)
        reason = _unsupported(tests)
        if reason:
            left_out[reason] += 1
        else:
            problems.append(check_problem(_problem(row, tests, where), where))
    log_omissions(path, left_out)
    return problems


def _rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.endswith(".jsonl"):
        yield from read_rows(data_files(path), ("prompt",), _OPTIONAL)
        return
    for where, line in numbered_lines(Path(path)):
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
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProblemError(f"{where}: {what}: not JSON ({error}); mend it or leave it out") from None
    if not isinstance(value, dict):
        raise ProblemError(f"{where}: {what}: expected a JSON object, got {type(value).__name__}")
    return value


def _unsupported(tests: Mapping[str, Any]) -> str:
    inputs, outputs = tests.get("inputs") or (), tests.get("outputs") or ()
    if not inputs:
        return "they have no tests"
    return "" if len(inputs) == len(outputs) else "their inputs and outputs differ in number"


def _problem(row: Mapping[str, Any], tests: Mapping[str, Any], where: str) -> Problem:
    statement = _statement(row["prompt"], where)
    dataset = row["data_source"] or "verl"
    extra = row["extra_info"] if isinstance(row["extra_info"], dict) else {}
    number = extra.get("index")
    name = hashlib.blake2b(statement.encode(errors="replace"), digest_size=8).hexdigest() if number is None else number
    fn_name = str(tests["fn_name"]) if tests.get("fn_name") else None
    return Problem(
        id=f"{dataset}/{extra.get('split') or 'row'}-{name}",
        dataset=dataset,
        statement=statement,
        fn_name=fn_name,
        tests=tuple(
            ProblemTest(_text(text, fn_name, where), _text(answer, fn_name, where), name=f"test-{index}")
            for index, (text, answer) in enumerate(zip(tests["inputs"], tests["outputs"], strict=True), start=1)
        ),
        difficulty=str(extra.get("difficulty") or ""),
    )


def _statement(prompt: Any, where: str) -> str:
    if isinstance(prompt, str):
        return prompt
    try:
        return "\n\n".join(message["content"] for message in prompt if message["role"] == "user")
    except (TypeError, KeyError):
        raise ProblemError(f"{where}: prompt: expected text or chat messages with role and content") from None


def _text(entry: Any, fn_name: str | None, where: str) -> str:
    """A test's text, or the JSON of its arguments or value."""
    if fn_name is not None:
        return json.dumps(entry)
    if not isinstance(entry, str):
        raise ProblemError(f"{where}: ground_truth: expected tests as text, got {entry!r:.60}")
    return entry
