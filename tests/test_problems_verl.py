"""Rows of verl and SkyRL."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from spo.errors import ProblemError
from spo.problems import ProblemTest, load_problems

TESTS = {"inputs": ["1\n", "4\n"], "outputs": ["2\n", "8\n"]}


def row(tests: Any = TESTS, **changes: Any) -> dict[str, Any]:
    truth = tests if isinstance(tests, str) else json.dumps(tests)
    return {
        "data_source": "taco",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Double it."}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "train", "index": 7},
        **changes,
    }


def write_lines(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return f"verl:{path}"


def test_a_row_of_json_lines_becomes_a_problem(tmp_path: Path) -> None:
    [problem] = load_problems([write_lines(tmp_path, row())])
    assert (problem.id, problem.dataset, problem.statement) == ("taco/train-7", "taco", "Double it.")
    assert problem.tests == (
        ProblemTest("1\n", "2\n", "hidden", "test-1"),
        ProblemTest("4\n", "8\n", "hidden", "test-2"),
    )


def test_a_row_of_parquet_becomes_the_same_problem(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row()]), tmp_path / "train.parquet")
    assert load_problems([f"verl:{tmp_path}"]) == load_problems([write_lines(tmp_path, row())])


def test_a_row_of_skyrl_is_read_alike(tmp_path: Path) -> None:
    skyrl = row(reward_spec={"method": "rule", "ground_truth": TESTS}, reward_model=None, extra_info=None)
    [problem] = load_problems([write_lines(tmp_path, skyrl)])
    assert problem.id.startswith("taco/row-")
    assert len(problem.tests) == 2


def test_a_row_that_calls_a_function_keeps_arguments_and_value(tmp_path: Path) -> None:
    [problem] = load_problems([write_lines(tmp_path, row({"fn_name": "add", "inputs": [[1, [2]]], "outputs": [3]}))])
    assert problem.fn_name == "add"
    assert problem.tests == (ProblemTest("[1, [2]]", "3", "hidden", "test-1"),)


def test_rows_without_an_index_are_told_apart_by_their_statement(tmp_path: Path) -> None:
    rows = [row(extra_info={}, prompt=text, data_source=None) for text in ("Double it.", "Halve it.")]
    first, second = load_problems([write_lines(tmp_path, *rows)])
    assert first.id != second.id
    assert (first.dataset, first.statement) == ("verl", "Double it.")


def test_rows_that_cannot_be_judged_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write_lines(
        tmp_path,
        row(),
        row({"inputs": [], "outputs": []}),
        row({"inputs": ["1"], "outputs": []}),
    )
    with caplog.at_level(logging.WARNING):
        assert len(load_problems([spec])) == 1
    assert [record.getMessage().partition(": left out ")[2] for record in caplog.records] == [
        "1 problems: they have no tests",
        "1 problems: their inputs and outputs differ in number",
    ]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("{oops", r"rows.jsonl:1: row: not JSON"),
        ("[1]", r"rows.jsonl:1: row: expected a JSON object, got list"),
        ({"reward_model": {}}, r"rows.jsonl:1: prompt is missing"),
        (row(reward_model=None), r"rows.jsonl:1: reward_model.ground_truth is missing"),
        (row(reward_model="rule"), r"rows.jsonl:1: reward_model.ground_truth is missing"),
        (row("42x"), r"rows.jsonl:1: ground_truth: not JSON"),
        (row("42"), r"rows.jsonl:1: ground_truth: expected a JSON object, got int"),
        (row(prompt=[{"content": "x"}]), r"rows.jsonl:1: prompt: expected text or chat messages"),
        (row(prompt=None), r"rows.jsonl:1: prompt: expected text or chat messages"),
        (row(prompt=[]), r"rows.jsonl:1: statement is empty"),
    ],
)
def test_a_hole_is_named_by_file_line_and_field(tmp_path: Path, bad: Any, complaint: str) -> None:
    with pytest.raises(ProblemError, match=complaint):
        load_problems([write_lines(tmp_path, bad)])
