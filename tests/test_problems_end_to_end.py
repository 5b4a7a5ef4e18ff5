"""From the published files of CodeContests and TACO to a trained and evaluated policy, by the `spo` command alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from byte_model import make_byte_model
from test_problems_parquet import CODE_CONTESTS, TACO, contest_row, taco_row

import spo as spo_package
from spo.jsonl import read_lineage
from spo.problems import fenced
from spo.store import TrajectoryStore

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
SETTINGS = """
[model]
path = "model"
[problems]
train = ["code_contests:contests-train.parquet"]
evaluation = ["code_contests:contests-test.parquet", "taco:taco-test.arrow"]
without = ["pairs.jsonl"]
manifest = "manifest.json"
[values]
directory = "values"
num_samples = 12
[sampling]
max_new_tokens = 64
temperature_min = 0.7
temperature_max = 1.0
[batch]
num_trajectories = 8
online_fraction = 0.5
token_budget = 256
[optimizer]
warmup_steps = 0
learning_rate = 1e-4
[replay]
max_staleness = 4
[weights]
model_update_interval = 1
[evaluation]
interval = 0
num_samples = 4
ks = [1, 4]
[workers]
max_batch_size = 32
[trainer]
total_steps = 3
checkpoint_interval = 3
"""


def statement(factor: int) -> str:
    return f"Read a whole number and print it times {factor}, that is, {NUMBERS[factor]} times."


def program(factor: int) -> str:
    return f"print(int(input()) * {factor})"


def contest(factor: int, **changes: Any) -> dict[str, Any]:
    tests = {name: [f"{n}\n" for n in values] for name, values in
             (("input", (3, 8, 11)), ("output", (3 * factor, 8 * factor, 11 * factor)))}  # fmt: skip
    row = contest_row(
        name=f"times {factor}", description=statement(factor), public_tests=tests, private_tests=None,
        solutions={"language": [3, 3, 2], "solution": [program(factor), f"n = int(input())\nprint({factor} * n)", "x"]},
        incorrect_solutions={"language": [3], "solution": [program(factor + 1)]}, cf_contest_id=0, cf_index="",
    )  # fmt: skip
    return row | changes


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has downloaded: two files of CodeContests, one of TACO, and a model that is right now and then."""
    folder = tmp_path_factory.mktemp("downloads")
    bad = {"input": ["3\n", "4\n", "5\n"], "output": ["9\n", "12\n", "0\n"]}
    train = [
        contest(2),
        contest(3, private_tests=bad),
        contest(4),
        contest(5),
        contest(7, name="disputed", solutions={"language": [3, 3], "solution": ["print(0)", "print(-1)"]}),
        contest(6, name="leaked", description="Six-fold!\n" + statement(6)),
        contest(6, name="of files", input_file="in.txt"),
        contest(2, name="long", description=statement(2) + " Mind the margin." * 20),
    ]
    numbers = {"inputs": ["3\n", "8\n"], "outputs": ["18\n", ["48"]]}
    calls = {"fn_name": "six", "inputs": [[3], [8]], "outputs": [18, [48]]}
    taco = pyarrow.Table.from_pylist(
        [
            taco_row(numbers, question="<p>Six-fold!</p>\n" + statement(6), name="Sixfold"),
            taco_row(calls, question="Return the sixfold.", starter_code="def six(n):"),
        ],
        schema=TACO,
    )
    for name, rows in (("train", train), ("test", [contest(1), contest(0)])):
        table = pyarrow.Table.from_pylist(rows, schema=CODE_CONTESTS)
        pyarrow.parquet.write_table(table, folder / f"contests-{name}.parquet")
    with pyarrow.ipc.new_stream(folder / "taco-test.arrow", TACO) as writer:
        writer.write_table(taco)
    make_byte_model(folder / "model", [(statement(n), fenced(program(n))) for n in range(8)])
    (folder / "settings.toml").write_text(SETTINGS)
    return folder


def spo(folder: Path, *words: str, status: int = 0) -> str:
    """Calls the command as a user does; returns what it says."""
    package = str(Path(spo_package.__file__).parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPO_CACHE": str(folder / "cache"), "PYTHONPATH": package}
    done = subprocess.run(
        [sys.executable, "-m", "spo.cli", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout


def test_from_downloaded_files_to_an_evaluated_policy(downloads: Path) -> None:
    train = "code_contests:contests-train.parquet"
    evaluation = ("code_contests:contests-test.parquet", "taco:taco-test.arrow")
    said = spo(downloads, "problems", "dedup", train, "--against", *evaluation, "--report", "pairs.jsonl")
    assert "6 of 7 problems kept; duplicates: 1 by statement" in said
    said = spo(downloads, "problems", "verify", train, "--manifest", "manifest.json", status=1)
    assert "left out: they have several right answers: 1" in said
    assert "kept without their bad tests: 1" in said

    estimate = json.loads(spo(downloads, "values", "estimate", "settings.toml", "--json"))
    assert estimate["num_sampled"] == 4 * 12
    assert list(estimate["too_long"]) == ["code_contests/long"]

    collect = ("collect", "offline", "--policy", "settings.toml", "--json")
    collected = json.loads(spo(downloads, *collect, "--human", "--samples", "6"))
    assert collected["collected"]["human"]["done"] == 4 * 3
    assert collected["collected"]["human"]["accepted"] == 4 * 2
    assert collected["collected"]["collected"]["done"] == 4 * 6
    assert list(collected["left_out"].values()) == [3, 1]  # Solutions and the samples of the problem without room.

    stores = 'experience.stores=["offline"]'
    spo(downloads, "train", "settings.toml", stores, "run_dir=run", "curriculum.weights=variance")
    report = json.loads((downloads / "run" / "report.json").read_text())
    assert report["finished"]
    assert report["problems"]["left_out"] == {"they are duplicates": 1, "they have several right answers": 1}
    assert list(report["problems"]["too_long"]) == ["code_contests/long"]
    assert report["trajectories"]["reference"] == 0  # All were there.
    trained = set()
    with TrajectoryStore.open(downloads / "run" / "store", "r") as store:
        for line in read_lineage(downloads / "run" / "consumption.jsonl"):
            trained.update(store.read_many(line["ids"], ["source"])["source"])
    assert trained >= {"online", "human"}

    evaluated = json.loads(spo(downloads, "evaluate", "run", *evaluation, "--json"))
    assert (evaluated["num_problems"], evaluated["num_excluded"]) == (4, 0)
    assert set(evaluated["sets"]["pass_at_1"]) == {"code_contests", "taco"}
    assert evaluated["pass_at_1"] > 0
