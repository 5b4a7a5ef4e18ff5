"""How batches are mixed and drawn, as a run's settings say: fractions of tokens, groups, orders; also after a kill."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_replay, make_run, orchestrate

from spo.config import load_config
from spo.jsonl import read_lineage
from spo.orchestrator.mix import most_per_step, per_step
from spo.store import Trajectory, TrajectoryStore

MODES = {
    "tokens": ["batch.fractions_of=tokens", "batch.online_fraction=0.7"],
    "groups": ["batch.group_size=2", "sampling.samples_per_problem=4"],
    "uniform": ["replay.order=uniform"],
    "recent": ["replay.order=recent", "replay.half_life=2"],
    "least stale": ["replay.max_staleness=1", "weights.model_update_interval=2"],
    "on-policy": ["replay.max_staleness=0", "weights.model_update_interval=1"],
}
LINE = tuple[dict[str, Any], list[Trajectory]]


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def trained_on(run_dir: Path) -> list[LINE]:
    """The lines of the log, each with its trajectories."""
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        return [(line, store.read_many(line["ids"])) for line in read_lineage(run_dir / "consumption.jsonl")]


def sources_of(line: dict[str, Any]) -> list[str]:
    return [source for source, count in line["sources"] for _ in range(count)]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_keeps_its_bounds_in_every_mode_and_is_replayed(mode: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "problems.evaluation=[]", *MODES[mode])
    config = load_config(str(run_dir / "config.toml"))
    trainer = ScriptedTrainer(run_dir, model_update_interval=config.weights.model_update_interval)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    lines = trained_on(run_dir)
    assert len(lines) == 12
    uses: Counter[int] = Counter()
    for line, items in lines:
        online = [source == "online" for source in sources_of(line)]
        uses.update(id for id, is_online in zip(line["ids"], online, strict=True) if is_online)
        ages = [
            line["step"] - 1 - item.min_policy_version
            for item, is_online in zip(items, online, strict=True)
            if is_online
        ]
        assert max(ages, default=0) <= config.replay.max_staleness
    assert max(uses.values()) <= 2
    replay_dir = make_replay(run_dir)
    again = ScriptedTrainer(replay_dir)
    orchestrate(replay_dir, again)
    assert again.batches == trainer.batches


def test_fractions_of_tokens_hold_over_all_batches(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "problems.evaluation=[]", *MODES["tokens"])
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    tokens: Counter[str] = Counter()
    for line, items in trained_on(run_dir):
        for source, item in zip(sources_of(line), items, strict=True):
            tokens[source] += item.num_tokens
        assert abs(tokens["online"] - 0.7 * tokens.total()) <= 64, "a trajectory of either source"


def test_groups_come_whole_from_either_source(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "problems.evaluation=[]", *MODES["groups"])
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    for line, items in trained_on(run_dir):
        counts = Counter((source, item.problem_id) for source, item in zip(sources_of(line), items, strict=True))
        assert all(count % 2 == 0 for count in counts.values())
        assert line["sources"] == [["online", 4], ["offline", 4]]


def test_responses_that_wait_for_their_group_do_not_end_the_sampling(tmp_path: Path) -> None:
    """Where the judge fails for one of a group, the rest of it cannot be drawn, and others have to be sampled."""
    run_dir = make_run(
        tmp_path, "problems.evaluation=[]", "batch.online_fraction=1", "replay.max_uses=1", *MODES["groups"]
    )
    worker = ScriptedWorker(run_dir, exclude=lambda work: int(work.source == "online" and work.seeds[0] % 3 == 0))
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, worker)
    assert trainer.finished


def test_recent_trajectories_are_drawn_more_often_under_that_order(tmp_path: Path) -> None:
    ages: dict[str, float] = {}
    for order in ("oldest", "recent"):
        settings = ["problems.evaluation=[]", f"replay.order={order}", "replay.half_life=0.5", "replay.max_uses=4"]
        run_dir = make_run(tmp_path, *settings, name=order)
        orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
        found = [
            line["step"] - 1 - item.min_policy_version
            for line, items in trained_on(run_dir)
            for source, item in zip(sources_of(line), items, strict=True)
            if source == "online"
        ]
        ages[order] = float(np.mean(found))
    assert ages["recent"] < ages["oldest"]


@pytest.mark.parametrize(
    ("settings", "online", "most"),
    [
        ([], 32, 32),
        (["batch.fractions_of=tokens"], 32, 64),
        (["batch.group_size=4"], 32, 32),
        (["batch.group_size=4", "batch.online_fraction=0.2"], 16, 16),
        (["batch.fractions_of=tokens", "batch.online_fraction=0"], 0, 0),
    ],
)
def test_what_a_step_draws_of_a_source(settings: list[str], online: int, most: int) -> None:
    config = load_config(None, ["batch.num_trajectories=64", "batch.online_fraction=0.5", *settings])
    assert (per_step(config, "online"), most_per_step(config, "online")) == (online, most)
