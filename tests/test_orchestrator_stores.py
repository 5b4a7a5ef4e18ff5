"""Runs that train on what earlier runs left in their stores, without any worker; and what the reference gave, kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_replay, make_run, orchestrate, response

from spo.errors import ConfigError, RunFailed, StoreError
from spo.jsonl import read_lineage
from spo.rundir import MODEL_FILE, read_model
from spo.store import Trajectory, TrajectoryStore
from spo.train_cli import check_input
from spo.types import Work

NO_SAMPLING = ("batch.online_fraction=0.0", "workers.num_workers=0", "problems.evaluation=[]", "trainer.total_steps=16")


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished run."""
    run_dir = make_run(tmp_path)
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    return run_dir


def second(earlier: Path, *overrides: str, stores: list[Path] | None = None, resume: bool = False) -> Path:
    """A run that trains on the store of another one."""
    names = json.dumps([str(path) for path in stores or [earlier]])
    return make_run(
        earlier.parent, f"experience.stores={names}", *NO_SAMPLING, *overrides, name="second", resume=resume
    )


def open_store(run_dir: Path) -> TrajectoryStore:
    return TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER)


def contents(run_dir: Path) -> dict[bytes, Trajectory]:
    """What a run has that may be trained on, by content."""
    with open_store(run_dir) as store:
        everything = store.read_many(store.scan())
    return {item.content_hash: item for item in everything if item.source != "evaluation"}


def test_a_run_trains_on_an_earlier_store_alone_each_content_once_an_epoch(earlier: Path) -> None:
    run_dir = second(earlier)
    trainer = ScriptedTrainer(run_dir, total_steps=16)
    orchestrate(run_dir, trainer)
    wanted = contents(earlier)
    assert any(item.reward == -1.0 for item in wanted.values())
    lines = read_lineage(run_dir / "consumption.jsonl")
    assert len(lines) == 16
    with open_store(run_dir) as store:
        assert store.own(store.scan()) == [], "nothing was sampled, nothing was copied"
        hashes = [item.content_hash for line in lines for item in store.read_many(line["ids"])]
    counts = Counter(hashes)
    assert set(counts) <= set(wanted)
    assert len(hashes) > len(wanted), "the test is to see a second epoch"
    assert set(Counter(hashes[: len(wanted)]).values()) == {1}
    assert all(set(batch.sources) == {"offline"} for batch in trainer.batches.values())
    replay_dir = make_replay(run_dir)
    again = ScriptedTrainer(replay_dir, total_steps=16)
    orchestrate(replay_dir, again)
    assert again.batches == trainer.batches


def test_problems_that_the_earlier_run_left_out_have_no_values_and_are_left_out_again(tmp_path: Path) -> None:
    """Without a worker nobody can measure prompts; those that were too long were never sampled."""
    earlier = make_run(tmp_path)
    orchestrate(
        earlier,
        ScriptedTrainer(earlier),
        ScriptedWorker(earlier, prompt_length=lambda id: 999 if id == "train4" else 3),
    )
    run_dir = second(earlier)
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=16))
    problems = json.loads((run_dir / "report.json").read_text())["problems"]
    assert problems["train"] == 5
    assert problems["left_out"] == {"they have no values (their prompts were too long, or they are new)": 1}
    with open_store(run_dir) as store:
        drawn = [id for line in read_lineage(run_dir / "consumption.jsonl") for id in line["ids"]]
        assert "train4" not in store.read_many(drawn, ["problem_id"])["problem_id"]


def test_what_the_reference_gives_is_kept_once_and_not_asked_again(earlier: Path) -> None:
    run_dir = second(earlier)
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=16))
    lines = read_lineage(run_dir / "consumption.jsonl")
    with open_store(earlier) as store:
        annotated = {item.content_hash for item in store.read_many(store.scan(has=["reference_logprobs"]))}
    with open_store(run_dir) as store:
        assert any(line["reference_stored"] for line in lines)
        known: set[int] = set(store.scan(has=["reference_logprobs"])) - {id for line in lines for id in line["ids"]}
        for line in lines:
            items = dict(zip(line["ids"], store.read_many(line["ids"]), strict=True))
            had = {id for id, item in items.items() if id in known or item.content_hash in annotated}
            assert line["reference_stored"] == (len(had) == len(items))
            for id in items.keys() - had:
                # Scripted values tell the step that they were computed in: it is the first one of each trajectory.
                assert items[id].reference_logprobs == pytest.approx(-1.0 - line["step"] / 1024)
            known |= items.keys()


def test_log_probabilities_of_another_reference_are_not_trusted(earlier: Path) -> None:
    model = msgspec.structs.replace(read_model(earlier), reference_fingerprint="another")
    (earlier / MODEL_FILE).write_bytes(msgspec.json.encode(model))
    run_dir = second(earlier)
    trainer = ScriptedTrainer(run_dir, total_steps=16)
    orchestrate(run_dir, trainer)
    assert not any(line["reference_stored"] for line in read_lineage(run_dir / "consumption.jsonl"))
    assert not any(batch.reference_logprobs for batch in trainer.batches.values())


@pytest.mark.parametrize("has_some", [False, True])
def test_a_store_of_no_run_is_no_trouble_unless_it_holds_some_references_log_probabilities(
    earlier: Path, tmp_path: Path, has_some: bool
) -> None:
    fields = {"prompt_tokens": [1, 2, 3], "response_tokens": [9], "reward": 0.0, "verdict": "accepted"}
    with TrajectoryStore.open(tmp_path / "bare", tokenizer=TOKENIZER) as store:
        store.append([Trajectory("train0", source="human", reference_logprobs=[-0.5] if has_some else None, **fields)])
    run_dir = second(earlier, stores=[earlier, tmp_path / "bare"])
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=16))
    assert any(line["reference_stored"] for line in read_lineage(run_dir / "consumption.jsonl")) != has_some


def test_only_accepted_ones_are_taken_where_asked_for_and_evaluated_where_there_is_a_worker(earlier: Path) -> None:
    settings = ("experience.accepted_only=true", "batch.online_fraction=0.0", f'experience.stores=["{earlier}/store"]')
    run_dir = make_run(earlier.parent, *settings, name="second")
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    assert all(set(np.frombuffer(batch.rewards, "<f4")) == {0.0} for batch in trainer.batches.values())
    report = json.loads((run_dir / "report.json").read_text())
    assert report["final"]["num_samples"] == 30
    assert report["trajectories"]["online"] == report["trajectories"]["reference"] == 0


def test_what_cannot_be_trained_on_is_left_out(earlier: Path, tmp_path: Path) -> None:
    wanted = contents(earlier)
    one = next(iter(wanted.values()))
    fields = {"prompt_tokens": [1, 2, 3], "response_tokens": [9], "reward": 0.0, "verdict": "accepted", "seed": 1}
    unwanted = [
        Trajectory(problem_id="train0", source="online", **{**fields, "response_tokens": range(62)}),
        Trajectory(problem_id="train0", source="evaluation", **fields),
        Trajectory(problem_id="of another run", source="online", **fields),
        Trajectory(one.problem_id, one.prompt_tokens, one.response_tokens, 0.0, "accepted", "another source"),
    ]
    with TrajectoryStore.open(tmp_path / "more", tokenizer=TOKENIZER) as store:
        store.append(unwanted)
    run_dir = second(earlier, stores=[earlier, tmp_path / "more"])
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=16))
    lines = read_lineage(run_dir / "consumption.jsonl")
    with open_store(run_dir) as store:
        drawn = store.read_many({id for line in lines for id in line["ids"]})
    assert len({item.content_hash for item in drawn}) == len(drawn)
    assert {item.content_hash for item in drawn} <= set(wanted)
    assert read_lineage(run_dir / "metrics.jsonl")[-1]["replay/size"] == len(wanted)


def test_a_store_of_something_else_is_refused_by_name(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"experience\.stores: .*nowhere is neither a run directory nor"):
        check_input(["tiny", f'experience.stores=["{tmp_path / "nowhere"}"]'])
    other = tmp_path / "other"
    with TrajectoryStore.open(other, tokenizer="another tokenizer") as store:
        work = Work(0, "train0", "latest", "online", [1.0], 1.0, [5], 10)
        store.append([response(work, 0, 0)])
    run_dir = second(earlier, stores=[other])
    with pytest.raises(StoreError, match="another tokenizer"):
        orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=16))


def test_a_run_without_workers_and_values_says_what_is_lacking(earlier: Path) -> None:
    (earlier.parent / "values").rename(earlier.parent / "moved")
    run_dir = second(earlier)
    with pytest.raises(RunFailed, match=r"Q̂_0: there are no values .*workers\.num_workers=1"):
        orchestrate(run_dir)
    make_run(
        earlier.parent,
        f'experience.stores=["{earlier}"]',
        *NO_SAMPLING,
        "values.num_samples=13",
        f"values.directory={earlier.parent / 'moved'}",
        name="second",
        resume=True,
    )
    with pytest.raises(RunFailed, match=r"has 72 of 78 samples; lower values\.num_samples"):
        orchestrate(run_dir)
