"""Rollout workers as processes: started by the orchestrator, killed, replaced; with judge and weights, but no model."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import trio
from run_peers import ScriptedTrainer, make_run

from spo.errors import RunFailed
from spo.orchestrator.run import run_directory
from spo.store import TrajectoryStore
from spo.weights import WeightPublisher
from spo.wire import read_token

FAKE = (
    "workers.engine=fake",
    "workers.max_batch_size=8",
    "batch.token_budget=4096",
    "sampling.max_new_tokens=2000",
    "values.num_samples=8",
    "evaluation.interval=0",
    "evaluation.num_samples=2",
    "evaluation.ks=[1]",
)


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def worker_processes(run_dir: Path) -> list[int]:
    """Ids of the running worker processes of a run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"spo.rollout" in words and str(run_dir / "token").encode() in words:
            found.append(int(entry.name))
    return found


async def kill_one_after(trainer: ScriptedTrainer, num_batches: int) -> None:
    """Kills a worker once the trainer has had so many batches."""
    while len(trainer.batches) < num_batches:
        await trio.sleep(0.02)
    os.kill(worker_processes(trainer.run_dir)[0], signal.SIGKILL)


def run_with_kills(trainer: ScriptedTrainer, kill_after_batches: list[int]) -> None:
    """Runs to the end with a real publisher of weights, killing a worker after each of these numbers of batches."""

    async def main() -> None:
        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trainer.run)
                for num_batches in kill_after_batches:
                    nursery.start_soon(kill_one_after, trainer, num_batches)
                await run_directory(trainer.run_dir)
                nursery.cancel_scope.cancel()

    token = read_token(trainer.run_dir)
    with WeightPublisher("127.0.0.1:0", token=token, rank=0, world_size=1) as trainer.publisher:
        try:
            trio.run(main)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


def test_killed_workers_are_replaced_and_the_run_finishes_with_nothing_lost_or_repeated(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path,
        *FAKE,
        "trainer.total_steps=30",
        "workers.num_workers=2",
        "network.stall_timeout_s=120",
        tokenizer="bytes",
    )
    trainer = ScriptedTrainer(run_dir, total_steps=30, step_s=0.02)
    run_with_kills(trainer, [5, 15])
    assert worker_processes(run_dir) == []
    report = json.loads((run_dir / "report.json").read_text())
    assert report["finished"]
    assert report["restarts"]["workers"] == 2
    assert report["final"]["min_policy_version"] == report["final"]["max_policy_version"] == 30
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer="bytes") as store:
        online = store.read_many(store.scan(source="online"))
        evaluation = store.read_many(store.scan(source="evaluation"), ["seed"])["seed"]
    numbers = Counter(int(item.metadata["work"]) for item in online)
    assert set(numbers) == set(range(len(numbers)))
    assert set(numbers.values()) == {2}
    assert len({item.seed for item in online}) == len(online)
    assert len(set(evaluation)) == len(evaluation)
    assert max(item.min_policy_version for item in online) > 0


def test_workers_that_die_too_often_end_the_run_by_name(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *FAKE, "workers.num_workers=1", "workers.max_restarts=0", tokenizer="bytes")
    trainer = ScriptedTrainer(run_dir)
    started = time.monotonic()
    with pytest.raises(RunFailed, match=r"worker-0 ended with status -9: .*workers\.max_restarts=0"):
        run_with_kills(trainer, [2])
    assert time.monotonic() - started < 120
    assert "workers.max_restarts" in trainer.stopped
    assert worker_processes(run_dir) == []
