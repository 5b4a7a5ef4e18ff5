"""Runs whose batches are had again: replays from log and store alone, and what a resume repeats."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import trio
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_replay, make_run, orchestrate

from spo.consumption import ConsumptionLog
from spo.errors import ConfigError, RunFailed
from spo.jsonl import read_lineage, read_lines
from spo.rerun import replayed_config
from spo.store import TrajectoryStore


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


class Dying(ScriptedTrainer):
    """A rank that dies as soon as it has the batch of a step."""

    dies_at = 0

    async def run(self) -> None:
        with trio.CancelScope() as self.scope:
            await super().run()

    async def _answer(self, connection: object) -> object:
        message = await super()._answer(connection)
        if getattr(message, "step", None) == self.dies_at:
            self.scope.cancel()
        return message


def trained(folder: Path, *overrides: str, num_ranks: int = 1) -> tuple[Path, list[ScriptedTrainer]]:
    """A finished run and its ranks, which know what they were given."""
    run_dir = make_run(folder, *overrides)
    ranks = [ScriptedTrainer(run_dir, rank=rank, world_size=num_ranks) for rank in range(num_ranks)]
    orchestrate(run_dir, *ranks, ScriptedWorker(run_dir))
    return run_dir, ranks


def killed_at(run_dir: Path, step: int, worker: ScriptedWorker) -> Dying:
    """A run whose trainer dies at `step`, before any checkpoint after the one of step 3."""
    trainer = Dying(run_dir)
    trainer.dies_at = step
    with pytest.raises(RunFailed, match="lost trainer rank 0"):
        orchestrate(run_dir, trainer, worker)
    return trainer


def survivor(trainer: ScriptedTrainer) -> ScriptedTrainer:
    """Its successor, with its checkpoints and its memory of batches."""
    return ScriptedTrainer(trainer.run_dir, checkpoints=trainer.checkpoints, batches=trainer.batches)


def test_a_replay_gives_every_rank_the_same_batches_with_nothing_but_the_run_directory(tmp_path: Path) -> None:
    run_dir, ranks = trained(tmp_path, num_ranks=2)
    for name in ("train.jsonl", "evaluation.jsonl", "values"):
        (tmp_path / name).rename(tmp_path / f"{name}.gone")
    replay_dir = make_replay(run_dir)
    again = [ScriptedTrainer(replay_dir, rank=rank, world_size=2) for rank in range(2)]
    orchestrate(replay_dir, *again)
    for before, after in zip(ranks, again, strict=True):
        assert sorted(after.batches) == list(range(1, 13))
        assert after.batches == before.batches
    report = json.loads((replay_dir / "report.json").read_text())
    assert report["replay"]["steps_compared"] == 12
    assert report["replay"]["first_step_with_other_losses"] is None
    assert set(report["trajectories"].values()) == {0}
    assert read_lineage(replay_dir / "consumption.jsonl") == read_lineage(run_dir / "consumption.jsonl")


def test_a_run_that_was_killed_and_never_resumed_is_replayed_as_far_as_its_log_goes(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    original = killed_at(run_dir, 8, ScriptedWorker(run_dir))
    assert sorted(original.batches) == list(range(1, 9))
    with (run_dir / "consumption.jsonl").open("ab") as log:
        log.write(b'{"step":9,"ids":[1,')  # Cut off, so nobody had this batch.
    replay_dir = make_replay(run_dir)
    again = ScriptedTrainer(replay_dir, total_steps=8)
    orchestrate(replay_dir, again)
    assert again.finished
    assert again.batches == original.batches
    told = json.loads((replay_dir / "report.json").read_text())["replay"]
    # It was killed before it had done the last of them, and before it saved a policy.
    assert (told["steps_compared"], told["first_step_with_other_losses"], told["same_policy"]) == (7, None, None)
    with pytest.raises(ConfigError, match=r"total_steps is 9, but .* has the batches of 8 steps"):
        replayed_config(run_dir, ["trainer.total_steps=9"])


def test_rewards_that_were_revised_since_do_not_change_a_replay(tmp_path: Path) -> None:
    run_dir, (original,) = trained(tmp_path)
    with TrajectoryStore.open(run_dir / "store", tokenizer=TOKENIZER) as store:
        ids = store.scan(source="online")
        store.annotate(ids, reward=[-1.0 - reward for reward in store.read_many(ids, ["reward"])["reward"]])
    replay_dir = make_replay(run_dir)
    again = ScriptedTrainer(replay_dir)
    orchestrate(replay_dir, again)
    assert again.batches == original.batches


def test_an_interrupted_replay_goes_on_and_can_itself_be_replayed(tmp_path: Path) -> None:
    run_dir, (original,) = trained(tmp_path)
    replay_dir = make_replay(run_dir)
    trainer = Dying(replay_dir)
    trainer.dies_at = 8
    with pytest.raises(RunFailed, match="lost trainer rank 0"):
        orchestrate(replay_dir, trainer)
    make_replay(run_dir, resume=True)
    orchestrate(replay_dir, survivor(trainer))
    assert trainer.batches == original.batches
    assert [line["step"] for line in read_lineage(replay_dir / "consumption.jsonl")] == list(range(1, 13))
    assert replayed_config(replay_dir).experience.replay == str(run_dir)


def test_a_replay_may_be_shorter_and_tells_where_losses_differ(tmp_path: Path) -> None:
    run_dir, _ = trained(tmp_path)
    replay_dir = make_replay(run_dir, "trainer.total_steps=5")
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"loss/objective":0.25,', '"loss/objective":0.2500001,'))
    for folder in (run_dir, replay_dir):
        (folder / "policy").mkdir()
        (folder / "policy" / "model.safetensors").write_bytes(bytes(folder.name, "ascii"))
    orchestrate(replay_dir, ScriptedTrainer(replay_dir, total_steps=5))
    report = json.loads((replay_dir / "report.json").read_text())
    assert (report["replay"]["steps_compared"], report["replay"]["first_step_with_other_losses"]) == (5, 4)
    assert report["replay"]["same_policy"] is None, "that of 5 steps is not that of 12"
    assert "are others from step 4 on" in (replay_dir / "report.md").read_text()


def test_what_cannot_be_replayed_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere holds no run"):
        replayed_config(tmp_path / "nowhere")
    untrained = make_run(tmp_path)
    with pytest.raises(ConfigError, match="has not trained a single step"):
        replayed_config(untrained)
    orchestrate(untrained, ScriptedTrainer(untrained), ScriptedWorker(untrained))
    for override, message in (
        ("optimizer.learning_rate=1.0", r"optimizer\.learning_rate is 1\.0 here and was .* must agree: seed, "),
        ("batch.rows_per_forward=7", r"batch\.rows_per_forward is 7 here and was 1"),
        ("trainer.total_steps=13", r"total_steps is 13, but .* has the batches of 12 steps"),
    ):
        with pytest.raises(ConfigError, match=message):
            replayed_config(untrained, [override])


def test_a_replay_with_other_ranks_ends_with_how_many_there_were(tmp_path: Path) -> None:
    run_dir, _ = trained(tmp_path)
    replay_dir = make_replay(run_dir)
    ranks = [ScriptedTrainer(replay_dir, rank=rank, world_size=2) for rank in range(2)]
    with pytest.raises(RunFailed, match=r"step 1 .* trained by 1 ranks, this replay has 2; .*--nproc-per-node 1"):
        orchestrate(replay_dir, *ranks)


def test_a_damaged_log_is_refused_by_file_and_step(tmp_path: Path) -> None:
    run_dir, _ = trained(tmp_path)
    log = run_dir / "consumption.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:4], b'{"step":5,"ids":[1,2]}\n', *lines[5:]]))
    replay_dir = make_replay(run_dir)
    with pytest.raises(ConfigError, match=r"consumption\.jsonl: the line of step 5 does not say what its batch was"):
        orchestrate(replay_dir, ScriptedTrainer(replay_dir))
    log.write_bytes(b"".join([*lines[:4], *lines[5:-1], lines[-1][:20]]))
    assert ConsumptionLog(run_dir).last_step == 11
    with pytest.raises(ConfigError, match="has no batch of step 5; its last is that of step 11"):
        ConsumptionLog(run_dir)[5]


@pytest.mark.parametrize("died_at", [2, 8])
def test_a_resume_repeats_the_steps_after_its_checkpoint_before_it_samples_for_new_ones(
    tmp_path: Path, died_at: int
) -> None:
    run_dir = make_run(tmp_path)
    trainer = killed_at(run_dir, died_at, ScriptedWorker(run_dir, delay_s=0.002))
    before = dict(trainer.batches)
    assert max(before) == died_at
    make_run(tmp_path, resume=True)
    # `ScriptedTrainer` itself checks that no step has another batch than before.
    orchestrate(run_dir, survivor(trainer), ScriptedWorker(run_dir, delay_s=0.002))
    assert [line["step"] for line in read_lines(run_dir / "consumption.jsonl")] == list(range(1, 13))
    replay_dir = make_replay(run_dir)
    again = ScriptedTrainer(replay_dir)
    orchestrate(replay_dir, again)
    assert again.batches == trainer.batches


def test_a_resume_with_other_batches_goes_another_way_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = make_run(tmp_path)
    trainer = killed_at(run_dir, 8, ScriptedWorker(run_dir))
    make_run(tmp_path, "batch.num_trajectories=4", resume=True)
    trainer.batches.clear()
    with caplog.at_level(logging.WARNING):
        orchestrate(run_dir, survivor(trainer), ScriptedWorker(run_dir))
    assert "from step 7 on, the run goes another way than before the resume" in caplog.text
    sizes = {line["step"]: len(line["ids"]) for line in read_lineage(run_dir / "consumption.jsonl")}
    assert sizes == {step: 8 if step <= 6 else 4 for step in range(1, 13)}
