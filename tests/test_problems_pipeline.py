"""From data sets as they are published to what is trained on, by the commands that a user gives."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from test_problems_parquet import CODE_CONTESTS, TACO, contest_row, taco_row

from spo.cli import main
from spo.errors import ConfigError
from spo.problems import load_problems
from spo.problems.manifest import load_training_problems

RIGHT = ["print(int(input()) * 2)", "n = int(input())\nprint(n + n)", "print(2 * int(input()))"]
STORY = "A gardener plants two rows of tulips for every row that her neighbour has; tell her how many rows that makes."


def multiples(*numbers: int, factor: int = 2) -> dict[str, list[str]]:
    return {"input": [f"{n}\n" for n in numbers], "output": [f"{n * factor}\n" for n in numbers]}


def solutions(*codes: str) -> dict[str, Any]:
    return {"language": [3] * len(codes), "solution": list(codes)}


@pytest.fixture
def data_sets(tmp_path: Path) -> Path:
    """CodeContests with a duplicate of TACO's test set, a bad test, and a problem that nobody solves."""
    own = {"cf_contest_id": 0, "cf_index": ""}
    noisy = {name: [*values, *multiples(9, factor=3)[name]] for name, values in multiples(3, 4).items()}
    rows = [
        contest_row(name="plain", description="Twice, please.", solutions=solutions(*RIGHT), **own),
        contest_row(name="noisy", description="Double it.", private_tests=noisy, solutions=solutions(*RIGHT), **own),
        contest_row(name="unsolved", description="Half it.", solutions=solutions("print(0)", "print(-1)"), **own),
        contest_row(name="leaked", description=f"{STORY}\n<image>", **own),
        contest_row(name="same contest", description="In other words.", cf_contest_id=1575, cf_index="A"),
        contest_row(name="from a file", description="Read it.", input_file="in.txt", **own),
    ]
    test_set = [
        taco_row({"inputs": ["1\n"], "outputs": ["2\n"]}, question=STORY.upper(), name="Tulips"),
        taco_row(
            {"inputs": ["2\n"], "outputs": ["4\n"]},
            question="Something else.",
            url="https://codeforces.com/problemset/problem/1575/A",
        ),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=CODE_CONTESTS), tmp_path / "train.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(test_set, schema=TACO), tmp_path / "test.parquet")
    return tmp_path


def test_duplicates_and_bad_problems_are_kept_out_of_training(
    data_sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_sets)
    monkeypatch.setattr("spo.problems.cache.SMALL_BYTES", 0)
    dedup = ["problems", "dedup", "code_contests:train.parquet", "--against", "taco:test.parquet"]
    assert main([*dedup, "--output", "train.jsonl", "--report", "pairs.jsonl"]) == 0
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert {(pair["problem_id"], pair["reason"]) for pair in pairs} == {
        ("code_contests/leaked", "statement"),
        ("code_contests/same contest", "contest"),
    }
    assert main(["problems", "verify", "jsonl:train.jsonl", "--manifest", "manifest.json", "--workers", "2"]) == 1
    assert main(["problems", "stats", "jsonl:train.jsonl"]) == 0
    assert "code_contests" in capsys.readouterr().out
    problems, left_out = load_training_problems(("jsonl:train.jsonl",), manifest="manifest.json")
    assert problems.ids == ["code_contests/plain", "code_contests/noisy"]
    assert sum(left_out.values()) == 1
    assert [test.input for test in problems[1].tests] == ["1\n", "3\n", "4\n"]
    kept, left_out = load_training_problems(("code_contests:train.parquet",), without=["pairs.jsonl"])
    assert kept.ids == load_problems(["jsonl:train.jsonl"]).ids
    assert left_out == {"they are duplicates": 2}
    with pytest.raises(ConfigError, match=r"manifest.json: no report of duplicates"):
        load_training_problems(("code_contests:train.parquet",), without=["manifest.json"])
    assert load_problems(["taco:test.parquet"])[0].statement == STORY.upper()
