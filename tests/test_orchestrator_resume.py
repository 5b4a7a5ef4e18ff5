"""Orchestrators killed at random moments and resumed: the same run goes on, nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_run

from spo.jsonl import read_lineage
from spo.launch import start_orchestrator
from spo.store import TrajectoryStore
from spo.wire import ADDRESS_FILE

TOTAL_STEPS = 24


def session(run_dir: Path, trainer: ScriptedTrainer, kill_after_s: float | None) -> int:
    """Runs the orchestrator as a process of its own beside scripted peers; returns its exit status."""
    orchestrator = start_orchestrator(run_dir)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ScriptedWorker(run_dir, delay_s=0.004).run)
            nursery.start_soon(trainer.run)
            with trio.move_on_after(60 if kill_after_s is None else kill_after_s):
                while orchestrator.poll() is None:
                    await trio.sleep(0.01)
            if orchestrator.poll() is None:
                orchestrator.kill()
            nursery.cancel_scope.cancel()

    trio.run(main)
    status = orchestrator.wait(30)
    assert not (run_dir / ADDRESS_FILE).exists(), "nobody listens there any more, killed or not"
    return status


ONLINE_VALUES = (
    *("sampling.temperature_min=1", "sampling.temperature_max=1", "sampling.top_p=1"),
    *("values.online=true", "trainer.reference_update_interval=5"),
)
"""Q̂_0 is another at every step, and the steps that a resume undid must be repeated with what it was."""


@pytest.mark.parametrize(("seed", "settings"), [(1, ()), (2, ONLINE_VALUES)])
def test_killed_at_random_moments_the_run_still_does_everything_exactly_once(
    tmp_path: Path, seed: int, settings: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(seed)
    overrides = [f"trainer.total_steps={TOTAL_STEPS}", *settings]
    run_dir = make_run(tmp_path, *overrides)
    trainer = ScriptedTrainer(run_dir, total_steps=TOTAL_STEPS, step_s=0.02)
    statuses = [session(run_dir, trainer, generator.uniform(0.05, 1.5))]
    while statuses[-1] != 0:
        assert len(statuses) < 12, f"seed {seed}: {statuses}"
        make_run(tmp_path, *overrides, resume=True)
        kill_after_s = generator.uniform(0.2, 2.0) if len(statuses) < 5 else None
        statuses.append(session(run_dir, trainer, kill_after_s))
    assert trainer.finished
    assert "## Held-out evaluation" in capfd.readouterr().out
    check_store(run_dir)
    check_journals(run_dir)


def check_store(run_dir: Path) -> None:
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        online = store.read_many(store.scan(source="online"))
        offline = store.read_many(store.scan(source="offline"))
        reference_round = [
            item for item in store.read_many(store.scan(source="evaluation")) if item.metadata["round"] == "reference"
        ]
    numbers = Counter(int(item.metadata["work"]) for item in online)
    assert set(numbers) == set(range(len(numbers)))
    assert set(numbers.values()) == {2}
    assert len({item.seed for item in online}) == len(online)
    assert len({item.content_hash for item in offline}) == len(offline)
    assert len({item.seed for item in reference_round}) == len(reference_round) == 30
    (folder,) = (run_dir.parent / "values").iterdir()
    with TrajectoryStore.open(folder / "store", mode="r", tokenizer=TOKENIZER) as store:
        samples = store.read_many(store.scan())
    assert len({item.seed for item in samples}) == len(samples) == 6 * 12
    counts = json.loads((folder / "counts.json").read_text())["counts"]
    assert sum(count["num_samples"] for count in counts.values()) == 6 * 12


def check_journals(run_dir: Path) -> None:
    consumption = read_lineage(run_dir / "consumption.jsonl")
    assert [line["step"] for line in consumption] == list(range(1, TOTAL_STEPS + 1))
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        drawn = Counter(id for line in consumption for id in line["ids"])
        sources = dict(zip(drawn, store.read_many(drawn, ["source"])["source"], strict=True))
    assert max(count for id, count in drawn.items() if sources[id] == "online") <= 2
    assert all(line["max_staleness"] <= 6 for line in consumption)
    rounds = [line["round"] for line in read_lineage(run_dir / "evaluations.jsonl")]
    assert rounds[0] == "reference"
    assert rounds[-1] == "final"
    assert len(set(rounds)) == len(rounds)


def test_an_orchestrator_whose_parent_dies_ends_by_itself(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    script = (
        "import os, sys, time; from pathlib import Path; from spo.launch import start_orchestrator; "
        "process = start_orchestrator(Path(sys.argv[1])); print('listening', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(run_dir)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = iter(parent.stdout.readline, "")
    assert any(line == "listening\n" for line in lines)
    parent.kill()
    parent.wait()
    parent.stdout.read()  # Ends when the orchestrator, which has the same stdout, is gone.
    parent.stdout.close()
    assert "is gone" in (run_dir / "logs" / "orchestrator.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    run_dir = make_run(tmp_path)
    orchestrator = start_orchestrator(run_dir)
    trainer = ScriptedTrainer(run_dir)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trainer.run)
            await trio.sleep(0.3)
            os.kill(orchestrator.pid, number)

    trio.run(main)
    assert orchestrator.wait(20) == 130
    assert orchestrator.last_error() == f"interrupted by {number.name}"
    assert trainer.stopped == f"interrupted by {number.name}"
