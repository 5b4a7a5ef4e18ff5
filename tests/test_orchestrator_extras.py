"""What some objectives need of a batch beyond tokens and rewards, and which responses are left out of batches."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import run_peers
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_replay, make_run, orchestrate, response, rows_of

from spo.config import ObjectiveConfig, ObjectiveTerm
from spo.errors import RunFailed
from spo.orchestrator.extras import Extras, extras_of, group_label
from spo.replay import Batch, pack
from spo.store import Trajectory, TrajectoryStore
from spo.types import Work

ON_POLICY = ("sampling.temperature_min=1.0", "sampling.temperature_max=1.0", "sampling.top_p=1.0")
GRPO = ("objective.name=grpo", "batch.online_fraction=1.0", "sampling.samples_per_problem=4", *ON_POLICY)


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def stored_and_packed(
    folder: Path, trajectories: list[Trajectory], token_budget: int = 24
) -> tuple[TrajectoryStore, Batch]:
    store = TrajectoryStore.open(folder / "store", mode="a", tokenizer=TOKENIZER)
    ids = store.append(trajectories)
    return store, pack(trajectories, ids, [1] * len(ids), token_budget=token_budget)


def trajectory(length: int, source: str = "online", **fields: object) -> Trajectory:
    tokens = np.arange(length, dtype=np.int32) + 100 * length
    return Trajectory("p", [1, 2], tokens, -1.0, "wrong_answer", source, **fields)


def of(store: TrajectoryStore, batch: Batch, *names: str) -> Extras:
    first, *rest = names
    objective = ObjectiveConfig(first, terms=tuple(ObjectiveTerm(name) for name in rest))
    return extras_of(batch, objective, lambda ids, columns: store.read_many(ids, columns=columns))


def test_regressions_need_nothing(tmp_path: Path) -> None:
    store, batch = stored_and_packed(tmp_path, [trajectory(3)])
    assert of(store, batch, "terminal_q", "reverse_q", "advantage") == Extras()
    assert Extras().of_rows(slice(None)) == {}


def test_the_samplers_logprobs_lie_where_its_tokens_do_also_beside_trajectories_without_any(tmp_path: Path) -> None:
    logprobs = [-0.5 * np.arange(1, length + 1, dtype=np.float32) for length in (3, 5, 7)]
    trajectories = [trajectory(len(values), behavior_logprobs=values) for values in logprobs]
    store, batch = stored_and_packed(tmp_path, [*trajectories, trajectory(9, source="human")])
    assert batch.behavior_logprobs is None
    found = of(store, batch, "policy_gradient").behavior_logprobs
    assert found is not None
    for index, values in enumerate(logprobs):
        at = (batch.segment_ids == index) & batch.response_mask
        np.testing.assert_array_equal(found[at], values)
    assert (found[batch.segment_ids == 3] == 0).all()


def test_an_online_trajectory_without_what_the_objective_needs_ends_the_run_with_its_id(tmp_path: Path) -> None:
    store, batch = stored_and_packed(tmp_path, [trajectory(3), trajectory(4, behavior_logprobs=[-1.0] * 4)])
    with pytest.raises(RunFailed, match=rf"trajectory {batch.ids[0]} has no log-probabilities of its sampler"):
        of(store, batch, "policy_gradient")
    store, batch = stored_and_packed(tmp_path / "other", [trajectory(3, behavior_logprobs=[-1.0] * 3)])
    with pytest.raises(RunFailed, match=rf"trajectory {batch.ids[0]} does not say how those sampled with it fared"):
        of(store, batch, "grpo")


def test_monte_carlo_counts_lie_at_the_token_that_they_come_after(tmp_path: Path) -> None:
    annotated = trajectory(6, source="annotated")
    store, batch = stored_and_packed(tmp_path, [trajectory(3), annotated])
    assert of(store, batch, "mc_q") == Extras()
    # Positions count the response tokens before: 0 is the prompt's value, 1 that after the first token.
    store.annotate([batch.ids[1]], mc_successes=[([0, 1, 4, 6], [2, 3, 5, 10], [10, 10, 11, 10])])
    extras = of(store, batch, "mc_q")
    assert extras.mc_successes is not None
    assert extras.mc_rollouts is not None
    at = (batch.segment_ids == 1) & batch.response_mask
    assert extras.mc_successes[at].tolist() == [3, 0, 0, 5, 0, 10]
    assert extras.mc_rollouts[at].tolist() == [10, 0, 0, 11, 0, 10]
    assert extras.mc_rollouts[~at].sum() == 0


def test_ranks_get_their_rows_of_tokens_and_all_of_trajectories() -> None:
    logprobs = np.arange(12, dtype=np.float32).reshape(4, 3)
    rates = np.array([0.25, np.nan], np.float32)
    extras = Extras(behavior_logprobs=logprobs, group_success_rates=rates)
    fields = extras.of_rows(slice(1, None, 2))
    assert set(fields) == {"behavior_logprobs", "group_success_rates"}
    assert np.frombuffer(fields["behavior_logprobs"], np.float32).tolist() == [3, 4, 5, 9, 10, 11]
    assert fields["group_success_rates"] == rates.tobytes()


def test_a_group_is_labelled_with_its_successes() -> None:
    success = Trajectory("p", [1], [5], 0.0, "accepted", "online")
    assert group_label([trajectory(2), success, trajectory(3)]) == "1/3"


def test_a_grpo_run_gets_logprobs_and_the_success_rates_of_whole_groups(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *GRPO)
    trainer, worker = ScriptedTrainer(run_dir), ScriptedWorker(run_dir)
    orchestrate(run_dir, trainer, worker)
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        online = store.read_many(store.scan(source="online"))
    groups: dict[str, list[float]] = {}
    for item in online:
        groups.setdefault(item.metadata["work"], []).append(item.reward)
    expected = {
        item.response_tokens.tobytes(): groups[item.metadata["work"]].count(0.0) / len(groups[item.metadata["work"]])
        for item in online
    }
    assert {len(rewards) for rewards in groups.values()} == {4}
    for batch in trainer.batches.values():
        tokens_RT, segments_RT = rows_of(batch)
        mask_RT = np.frombuffer(batch.response_mask, np.uint8).reshape(tokens_RT.shape) != 0
        logprobs_RT = np.frombuffer(batch.behavior_logprobs, np.float32).reshape(tokens_RT.shape)
        np.testing.assert_allclose(logprobs_RT[mask_RT], -tokens_RT[mask_RT] / 1000, rtol=1e-6)
        rates = np.frombuffer(batch.group_success_rates, np.float32)
        assert len(rates) == batch.num_trajectories
        for index, rate in enumerate(rates):
            assert rate == expected[tokens_RT[(segments_RT == index) & mask_RT].tobytes()]


def test_a_replayed_grpo_run_gets_the_same(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *GRPO)
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    replay_dir = make_replay(run_dir, "problems.evaluation=[]")
    again = ScriptedTrainer(replay_dir)
    orchestrate(replay_dir, again)
    assert again.batches == trainer.batches


@pytest.mark.parametrize("rule", ["failed", "left_out"])
def test_truncated_responses_are_failures_or_left_out_of_batches_but_never_of_store_and_values(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_some(work: Work, index: int, version: int) -> Trajectory:
        item = response(work, index, version)
        if item.reward == 0.0 or work.seeds[index] % 2:
            return item
        return Trajectory(
            item.problem_id,
            item.prompt_tokens,
            item.response_tokens,
            item.reward,
            "truncated",
            item.source,
            min_policy_version=version,
            max_policy_version=version,
            seed=item.seed,
        )

    monkeypatch.setattr(run_peers, "response", cut_some)
    run_dir = make_run(tmp_path, f"objective.truncated={rule}")
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir))
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        online = store.read_many(store.scan(source="online"))
    truncated = {item.response_tokens.tobytes() for item in online if item.verdict == "truncated"}
    complete_failures = {item.response_tokens.tobytes() for item in online if item.verdict == "wrong_answer"}
    assert truncated
    trained = set()
    for batch in trainer.batches.values():
        tokens_RT, segments_RT = rows_of(batch)
        mask_RT = np.frombuffer(batch.response_mask, np.uint8).reshape(tokens_RT.shape) != 0
        trained |= {tokens_RT[(segments_RT == b) & mask_RT].tobytes() for b in range(batch.num_trajectories)}
    assert trained & complete_failures
    assert bool(trained & truncated) == (rule == "failed")
    (folder,) = (run_dir.parent / "values").iterdir()
    counts = msgspec.json.decode((folder / "counts.json").read_bytes())["counts"]
    assert {count["num_samples"] for count in counts.values()} == {12}
