"""The orchestrator from its first to its last phase, with scripted peers."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_run, orchestrate, rows_of

from spo.config import read_resolved
from spo.errors import ConfigError, RunFailed
from spo.jsonl import read_lineage
from spo.orchestrator.run import run_directory
from spo.problems import load_problems
from spo.problems.manifest import Entry, Manifest
from spo.problems.verify import ProblemReport, VerifySettings
from spo.store import TrajectoryStore
from spo.types import MeasurePrompts, Work
from spo.values import initial_value
from spo.wire import ADDRESS_FILE, AsyncConnection


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def stored(run_dir: Path, source: str) -> list:
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        return store.read_many(store.scan(source=source))


def values_store(run_dir: Path) -> TrajectoryStore:
    (folder,) = (run_dir.parent / "values").iterdir()
    return TrajectoryStore.open(folder / "store", mode="r", tokenizer=TOKENIZER)


def test_a_run_goes_through_all_phases_and_reports(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    trainer, worker = ScriptedTrainer(run_dir), ScriptedWorker(run_dir)
    orchestrate(run_dir, trainer, worker)
    assert trainer.finished
    assert not (run_dir / ADDRESS_FILE).exists()
    report = json.loads((run_dir / "report.json").read_text())
    assert report["finished"]
    assert report["steps"] == 12
    for name in ("reference", "final"):
        low, high = report[name]["pass_at_1_interval"]
        assert low <= report[name]["pass_at_1"] <= high
        assert report[name]["num_samples"] == 30
    assert report["final"]["min_policy_version"] == 12
    assert [line["round"] for line in report["evaluations"]] == ["reference", "step-4", "step-8", "final"]
    assert report["trajectories"]["reference"] == 6 * 12
    assert [line["step"] for line in read_lineage(run_dir / "consumption.jsonl")] == list(range(1, 13))


def test_online_responses_are_sampled_at_temperatures_from_the_whole_range(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "sampling.temperature_min=0.5", "sampling.temperature_max=0.9")
    worker = ScriptedWorker(run_dir)
    orchestrate(run_dir, ScriptedTrainer(run_dir), worker)
    drawn = [temperature for work in worker.done if work.source == "online" for temperature in work.temperatures]
    assert len(drawn) > 30
    assert 0.5 <= min(drawn) < 0.6
    assert 0.8 < max(drawn) <= 0.9


def test_a_round_that_is_under_way_when_training_ends_is_finished(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "batch.online_fraction=0")
    trainer = ScriptedTrainer(run_dir)

    class LateWorker(ScriptedWorker):
        """Answers the work of a round during training only when training is over."""

        async def _answer(self, connection: AsyncConnection, work: Work, version: int) -> None:
            while work.source == "evaluation" and work.policy == "latest" and not trainer.pending:
                await trio.sleep(0.01)
            await super()._answer(connection, work, version)

    orchestrate(run_dir, trainer, LateWorker(run_dir))
    rounds = json.loads((run_dir / "report.json").read_text())["evaluations"]
    assert [line["round"] for line in rounds] == ["reference", "step-4", "final"]
    assert [line["num_samples"] for line in rounds] == [30, 30, 30]
    assert len(stored(run_dir, "evaluation")) == 90


def test_two_ranks_share_every_batch_by_rows_and_get_the_same_trajectories(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    ranks = [ScriptedTrainer(run_dir, rank=rank, world_size=2) for rank in (0, 1)]
    orchestrate(run_dir, *ranks, ScriptedWorker(run_dir))
    for step in range(1, 13):
        first, second = (rank.batches[step] for rank in ranks)
        assert (first.num_rows, first.rewards, first.initial_values) == (
            second.num_rows,
            second.rewards,
            second.initial_values,
        )
        present = [set(np.unique(rows_of(batch)[1])) - {-1} for batch in (first, second)]
        assert present[0].isdisjoint(present[1])
        assert present[0] | present[1] == set(range(8))
        assert first.sources.count("online") == first.sources.count("offline") == 4


def test_initial_values_are_those_of_the_counts(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    beta = read_resolved(run_dir).objective.beta
    with values_store(run_dir) as store:
        rewards = {
            f"train{i}": store.read_many(store.scan(problem=f"train{i}"), ["reward"])["reward"] for i in range(6)
        }
    expected = {round(initial_value(of_one.count(0.0), 12, beta), 5) for of_one in rewards.values()}
    given = np.concatenate([np.frombuffer(batch.initial_values, "<f4") for batch in trainer.batches.values()])
    assert {round(float(value), 5) for value in given} <= expected
    assert len({round(float(value), 5) for value in given}) > 1


def test_offline_trajectories_are_the_references_accepted_samples_each_once(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    with values_store(run_dir) as store:
        accepted = store.read_many(store.scan(reward=0.0))
    offline = stored(run_dir, "offline")
    assert {item.content_hash for item in offline} == {item.content_hash for item in accepted}
    assert len({item.content_hash for item in offline}) == len(offline)


def test_staleness_stays_within_its_bound_and_nothing_expires_unused(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir, delay_s=0.002))
    lines = [line for line in read_lineage(run_dir / "metrics.jsonl") if "staleness/max" in line]
    assert len(lines) == 12
    assert max(line["staleness/max"] for line in lines) <= 6
    assert lines[-1]["replay/expired_unused"] == 0


def test_work_of_a_lost_worker_is_done_by_another_and_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "trainer.total_steps=20")
    lost = Counter()

    def lose(work: Work) -> bool:
        lost[work.source] += 1
        return lost[work.source] == 3 and work.source != "reference"

    class Restarting(ScriptedWorker):
        async def run(self) -> None:
            for attempt in range(3):
                self.name = f"restarting-{attempt}"
                await super().run()

    restarting = Restarting(run_dir, lose=lose)
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=20), restarting, ScriptedWorker(run_dir, name="steady"))
    metrics = read_lineage(run_dir / "metrics.jsonl")
    assert metrics[-1]["total/work_redispatched"] > 0
    for source in ("online", "evaluation"):
        seeds = [item.seed for item in stored(run_dir, source)]
        assert len(set(seeds)) == len(seeds)
    numbers = Counter(int(item.metadata["work"]) for item in stored(run_dir, "online"))
    assert set(numbers) == set(range(len(numbers)))
    assert set(numbers.values()) == {2}


def test_a_later_run_with_the_same_reference_reuses_its_samples(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    orchestrate(first, ScriptedTrainer(first), ScriptedWorker(first))
    first.rename(tmp_path / "first")
    second = make_run(tmp_path, "seed=1")
    worker = ScriptedWorker(second)
    orchestrate(second, ScriptedTrainer(second), worker)
    assert not [work for work in worker.done if work.source == "reference"]
    assert (second / "report.json").exists()


def test_samples_under_another_key_are_never_used(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    orchestrate(first, ScriptedTrainer(first), ScriptedWorker(first))
    first.rename(tmp_path / "first")
    second = make_run(tmp_path)
    worker = ScriptedWorker(second, prompt_template="another")
    orchestrate(second, ScriptedTrainer(second), worker)
    assert sum(len(work.seeds) for work in worker.done if work.source == "reference") == 6 * 12
    assert len(list((tmp_path / "values").iterdir())) == 2


def test_responses_that_the_judge_fails_on_are_replaced_by_further_ones(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    worker = ScriptedWorker(run_dir, exclude=lambda work: 1 if work.seeds[0] % 3 == 0 else 0)
    orchestrate(run_dir, ScriptedTrainer(run_dir), worker)
    with values_store(run_dir) as store:
        assert len(store) == 6 * 12
    report = json.loads((run_dir / "report.json").read_text())
    assert report["responses_excluded"] > 0
    assert report["final"]["num_samples"] == 30


def test_a_judge_that_always_fails_ends_the_run(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with pytest.raises(RunFailed, match="judge could not judge any of the last"):
        orchestrate(run_dir, ScriptedWorker(run_dir, exclude=lambda work: len(work.seeds)))


def test_without_accepted_reference_samples_an_offline_share_is_refused_by_name(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "values.num_samples=1", "batch.num_trajectories=64", "batch.token_budget=128")
    trainer = ScriptedTrainer(run_dir)
    with pytest.raises(
        RunFailed, match=r"batch\.online_fraction=0\.5 asks for 32 offline .* set batch\.online_fraction=1"
    ):
        orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    assert "batch.online_fraction" in trainer.stopped


def test_problems_with_prompts_too_long_for_a_row_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = make_run(tmp_path)
    trainer = ScriptedTrainer(run_dir)
    worker = ScriptedWorker(run_dir, prompt_length=lambda id: {"train1": 41, "train4": 999}.get(id, 40))
    orchestrate(run_dir, trainer, worker)
    assert trainer.finished
    sampled = {work.problem_id for work in worker.done if work.source != "evaluation"}
    assert sampled == {"train0", "train2", "train3", "train5"}
    assert {work.problem_id for work in worker.done if work.source == "online"} == sampled
    report = json.loads((run_dir / "report.json").read_text())
    assert report["problems"] == {
        "train": 4, "evaluation": 3, "max_prompt_tokens": 40, "too_long": {"train1": 41, "train4": 999},
        "left_out": {},
    }  # fmt: skip
    assert "4 to train on, 3 held out; 2 left out: their prompts are too long" in (run_dir / "report.md").read_text()
    assert read_lineage(run_dir / "metrics.jsonl")[-1]["problems/too_long"] == 2
    assert "2 of 6 training problems are left out" in caplog.text
    assert "train1 (41 tokens), train4 (999 tokens)" in caplog.text


def test_problems_that_the_manifest_rejects_are_left_out_and_counted(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, f"problems.manifest={tmp_path / 'manifest.json'}")
    entries = []
    for info in load_problems([f"jsonl:{tmp_path / 'train.jsonl'}"]).infos:
        report = ProblemReport(info.id, 1, 1, 1, 0, 0, (), (), False, 0.1, 2.0, 0)
        left_out = "they are bad" if info.id == "train3" else ""
        entries.append(Entry(info.content_digest.hex(), left_out, report, info.tests_digest.hex(), info.splits))
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(Manifest(VerifySettings(), {}, entries)))
    trainer, worker = ScriptedTrainer(run_dir), ScriptedWorker(run_dir)
    orchestrate(run_dir, trainer, worker)
    assert trainer.finished
    sampled = {work.problem_id for work in worker.done if work.source == "online"}
    assert sampled == {f"train{number}" for number in (0, 1, 2, 4, 5)}
    assert {problem.time_limit_s for problem in worker.problems if problem.id.startswith("train")} == {4.0}
    assert "5 to train on, 3 held out; 1 left out: they are bad" in (run_dir / "report.md").read_text()


def test_without_any_prompt_that_fits_the_run_ends_with_what_would(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    trainer = ScriptedTrainer(run_dir)
    worker = ScriptedWorker(run_dir, prompt_length=lambda id: 41 + int(id.removeprefix("train")))
    with pytest.raises(RunFailed, match=r"all 6 .* prompt of 41 tokens .* set batch\.token_budget=65 or more"):
        orchestrate(run_dir, trainer, worker)


def test_prompts_are_measured_by_another_worker_when_the_first_is_lost(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)

    class Vanishing(ScriptedWorker):
        async def _work(self, connection: object) -> None:
            while not isinstance(await connection.receive(), MeasurePrompts):
                pass

    trainer = ScriptedTrainer(run_dir)
    second = ScriptedWorker(run_dir, name="second", starts_after_s=0.1)
    orchestrate(run_dir, trainer, Vanishing(run_dir), second)
    assert trainer.finished


def test_a_trainer_lost_in_training_ends_the_run_and_the_workers(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)

    class Dying(ScriptedTrainer):
        async def run(self) -> None:
            with trio.CancelScope() as self.scope:
                await super().run()

        async def _answer(self, connection: object) -> object:
            message = await super()._answer(connection)
            if len(self.batches) == 3:
                self.scope.cancel()
            return message

    worker = ScriptedWorker(run_dir)
    with pytest.raises(RunFailed, match="lost trainer rank 0"):
        orchestrate(run_dir, Dying(run_dir), worker)


def test_without_any_worker_the_run_ends_by_its_stall_timeout(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "network.stall_timeout_s=0.3")
    trainer = ScriptedTrainer(run_dir)
    with pytest.raises(RunFailed, match=r"no progress .*network\.stall_timeout_s.*no rollout worker is ready"):
        orchestrate(run_dir, trainer)
    assert "no progress" in trainer.stopped


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            await run_directory(make_run(tmp_path, f"network.port={port}"))

    with pytest.raises(ConfigError, match=r"network\.port: \d+ on 127\.0\.0\.1 is in use"):
        trio.run(main)


def test_a_waiting_trainer_hears_why_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spo.orchestrator.trainers.PENDING_INTERVAL_S", 0.05)
    run_dir = make_run(tmp_path)
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir, delay_s=0.02))
    assert "Q̂_0 is being estimated" in trainer.pending
    assert "the final policy is being evaluated" in trainer.pending


def test_a_full_disk_ends_the_run_with_what_to_do_and_the_run_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path)
    append = TrajectoryStore.append

    def full(store: TrajectoryStore, trajectories: list) -> list[int]:
        if trajectories[0].source == "online":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(store, trajectories)

    monkeypatch.setattr(TrajectoryStore, "append", full)
    trainer = ScriptedTrainer(run_dir)
    with pytest.raises(RunFailed, match=r"store cannot be written .*No space left.*then resume"):
        orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    assert "No space left" in trainer.stopped
    monkeypatch.undo()
    make_run(tmp_path, resume=True)
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    assert json.loads((run_dir / "report.json").read_text())["finished"]
