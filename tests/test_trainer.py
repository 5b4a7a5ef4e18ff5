"""The training loop against a fake orchestrator: one rank and two, published weights, checkpoints, endings."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_harness import FakeOrchestrator, make_batch, make_model, make_run, serving
from transformers import AutoModelForCausalLM

from spo.errors import ConnectionLost, RunFailed
from spo.objective_rules import SAMPLED
from spo.trainer.export import export_checkpoint
from spo.trainer.learner import Learner
from spo.trainer.loop import train
from spo.trainer.objectives import OBJECTIVES
from spo.trainer.parallel import Ranks, start_ranks, stop_ranks
from spo.trainer.policy import load_policy, load_value_model

CHANGING = (
    *("sampling.temperature_min=1", "sampling.temperature_max=1", "sampling.top_p=1"),
    *("values.online=true", "trainer.reference_update_interval=2"),
)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    yield start_ranks("cpu", 1, 60.0)
    stop_ranks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "llama")


@dataclass
class Run:
    """A finished run."""

    run_dir: Path
    told: FakeOrchestrator

    def policy(self) -> dict[str, torch.Tensor]:
        return AutoModelForCausalLM.from_pretrained(self.run_dir / "policy", dtype=torch.float32).state_dict()


def run_one_rank(run_dir: Path, model: Path, ranks: Ranks, *overrides: str) -> Run:
    config = make_run(run_dir, model, *overrides)
    with serving(FakeOrchestrator(run_dir)) as orchestrator:
        train(config, run_dir, ranks)
    return Run(run_dir, orchestrator)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory, model: Path, ranks: Ranks) -> Run:
    return run_one_rank(tmp_path_factory.mktemp("one") / "run", model, ranks)


def interrupted_at_step_3(run: Run, run_dir: Path) -> Path:
    """A copy of a run as it would be had it been killed before its second checkpoint."""
    shutil.copytree(run.run_dir / "checkpoints", run_dir / "checkpoints")
    shutil.rmtree(run_dir / "checkpoints" / "step-00000006")
    (run_dir / "checkpoints" / "partial-00000006").mkdir()
    return run_dir


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, model: Path, one_rank: Run) -> list[Run]:
    """A run from the start, one continued from the checkpoint of a single rank, one whose reference changes."""
    folder = tmp_path_factory.mktemp("two")
    run_dirs = [folder / "whole", interrupted_at_step_3(one_rank, folder / "resumed"), folder / "changing"]
    for run_dir in run_dirs:
        make_run(run_dir, model, *(CHANGING if run_dir.name == "changing" else ()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = str(Path(__file__).with_name("trainer_rank.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        told = [stack.enter_context(serving(FakeOrchestrator(run_dir))) for run_dir in run_dirs]
        subprocess.run([*command, script, *map(str, run_dirs)], env=environment, check=True, timeout=240)
    return [Run(run_dir, of_one) for run_dir, of_one in zip(run_dirs, told, strict=True)]


def test_every_step_is_reported_once_with_finite_metrics(one_rank: Run) -> None:
    assert sorted(one_rank.told.metrics) == [1, 2, 3, 4, 5, 6]
    for metrics in one_rank.told.metrics.values():
        assert all(np.isfinite(value) for value in metrics.values())
        assert {"loss/objective", "loss/gradient_norm", "loss/q_terminal", "time/step_s"} <= set(metrics)
    assert one_rank.told.done == [6]


def test_training_starts_at_the_reference_and_leaves_it(one_rank: Run) -> None:
    log_ratios = [one_rank.told.metrics[step]["loss/log_ratio"] for step in range(1, 7)]
    assert log_ratios[0] == 0.0
    assert all(ratio != 0.0 for ratio in log_ratios[1:])


def test_what_a_rank_holds_is_weights_gradients_moments_and_the_reference(one_rank: Run, two_ranks: list[Run]) -> None:
    shapes = dict(AutoModelForCausalLM.from_pretrained(one_rank.run_dir / "policy").named_parameters())
    whole = sum(5 * parameter.nbytes for parameter in shapes.values())
    counters = 4 * len(shapes)  # AdamW counts the steps of each parameter.
    for metrics in one_rank.told.metrics.values():
        assert metrics["memory/state_bytes"] == whole + counters
        assert metrics["memory/peak_bytes"] > 100e6
    for metrics in two_ranks[0].told.metrics.values():
        assert 0.5 <= (metrics["memory/state_bytes"] - counters) / whole < 0.7


def test_the_learning_rate_warms_up_linearly_and_stays(one_rank: Run) -> None:
    rates = [one_rank.told.metrics[step]["loss/learning_rate"] for step in range(1, 7)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3, 3e-3, 3e-3])


def test_one_rank_and_two_have_the_same_losses_and_gradients(one_rank: Run, two_ranks: list[Run]) -> None:
    for name in ("loss/objective", "loss/gradient_norm", "loss/q_terminal_failure", "loss/clipped_fraction"):
        expected = [one_rank.told.metrics[step][name] for step in range(1, 7)]
        actual = [two_ranks[0].told.metrics[step][name] for step in range(1, 7)]
        assert actual == pytest.approx(expected, rel=2e-5), name
    expected_policy = one_rank.policy()
    for name, weight in two_ranks[0].policy().items():
        torch.testing.assert_close(weight, expected_policy[name], rtol=1e-4, atol=1e-5)


def test_a_reference_that_changes_is_the_same_on_one_rank_and_two(
    tmp_path: Path, model: Path, ranks: Ranks, two_ranks: list[Run]
) -> None:
    one = run_one_rank(tmp_path / "run", model, ranks, *CHANGING)
    for step in (1, 3, 5):
        assert two_ranks[2].told.metrics[step]["loss/log_ratio"] == 0.0
    assert two_ranks[2].told.losses == pytest.approx(one.told.losses, rel=2e-5)


@pytest.mark.parametrize("world_size", [1, 2])
def test_published_versions_are_the_reference_every_interval_and_the_final_policy(
    world_size: int, one_rank: Run, two_ranks: list[Run], model: Path
) -> None:
    run = one_rank if world_size == 1 else two_ranks[0]
    assert sorted(run.told.snapshots) == [0, 2, 4, 6]
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for version, weights in ((0, reference.state_dict()), (6, run.policy())):
        snapshot = run.told.snapshots[version]
        # Tied weights travel once.
        assert set(snapshot) == set(weights) - {"lm_head.weight"}
        for name in snapshot:
            np.testing.assert_array_equal(snapshot[name], weights[name].numpy())
    assert any((run.told.snapshots[2][name] != run.told.snapshots[0][name]).any() for name in snapshot)


def test_bfloat16_versions_are_the_masters_rounded_to_nearest(tmp_path: Path, model: Path, ranks: Ranks) -> None:
    run = run_one_rank(tmp_path / "run", model, ranks, "weights.dtype=bfloat16", "trainer.total_steps=2")
    policy = run.policy()
    for name, patterns in run.told.snapshots[2].items():
        assert patterns.dtype == np.uint16
        published = torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16)
        assert torch.equal(published, policy[name].to(torch.bfloat16))
        assert not torch.equal(published.float(), policy[name])


def test_a_resumed_run_continues_with_bit_identical_losses(
    tmp_path: Path, one_rank: Run, model: Path, ranks: Ranks
) -> None:
    run = run_one_rank(interrupted_at_step_3(one_rank, tmp_path / "run"), model, ranks)
    (hello,) = run.told.hellos
    assert (hello.step, hello.replay_state) == (3, b"state of step 3")
    assert run.told.losses == {step: one_rank.told.losses[step] for step in (4, 5, 6)}
    expected = one_rank.policy()
    assert all(torch.equal(weight, expected[name]) for name, weight in run.policy().items())


def test_a_checkpoint_of_one_rank_is_continued_by_two(one_rank: Run, two_ranks: list[Run]) -> None:
    told = two_ranks[1].told
    assert {hello.step for hello in told.hellos} == {3}
    assert [hello.replay_state for hello in sorted(told.hellos, key=lambda h: h.rank)] == [b"state of step 3", b""]
    assert told.losses == pytest.approx({step: one_rank.told.losses[step] for step in (4, 5, 6)}, rel=2e-5)


def test_only_the_newest_checkpoints_are_kept_and_no_partial_one(tmp_path: Path, model: Path, ranks: Ranks) -> None:
    run = run_one_rank(
        tmp_path / "run",
        model,
        ranks,
        "trainer.total_steps=4",
        "trainer.checkpoint_interval=1",
        "trainer.keep_checkpoints=2",
    )
    assert run.told.saved == [1, 2, 3, 4]
    assert sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]


def test_a_run_killed_after_its_last_step_ends_without_another(
    tmp_path: Path, one_rank: Run, model: Path, ranks: Ranks
) -> None:
    shutil.copytree(one_rank.run_dir / "checkpoints", tmp_path / "run" / "checkpoints")
    run = run_one_rank(tmp_path / "run", model, ranks)
    assert run.told.metrics == {}
    assert run.told.done == [6]
    assert sorted(run.told.snapshots) == [6]


def test_the_final_policy_has_the_tokenizer_of_the_reference(one_rank: Run, model: Path) -> None:
    assert (one_rank.run_dir / "policy" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert not list(one_rank.run_dir.glob("partial-*"))


def test_an_untied_head_is_trained_and_published_too(tmp_path: Path, ranks: Ranks) -> None:
    untied = make_model(tmp_path / "untied", tied=False)
    run = run_one_rank(tmp_path / "run", untied, ranks, "trainer.total_steps=2")
    before, after = run.told.snapshots[0], run.told.snapshots[2]
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert (before[name] != after[name]).any()
    np.testing.assert_array_equal(after["lm_head.weight"], run.policy()["lm_head.weight"].numpy())


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"terminal_q"}))
def test_every_objective_trains(name: str, tmp_path: Path, model: Path, ranks: Ranks) -> None:
    settings = [f"objective.name={name}", "trainer.total_steps=2"]
    if name in SAMPLED:
        settings += ["sampling.temperature_min=1.0", "sampling.temperature_max=1.0", "sampling.top_p=1.0"]
        settings += ["batch.online_fraction=1.0"]
    run = run_one_rank(tmp_path / "run", model, ranks, *settings)
    assert run.told.metrics[1]["loss/log_ratio"] == 0.0
    assert run.told.metrics[2]["loss/log_ratio"] != 0.0
    assert all(np.isfinite(value) for value in run.told.metrics[2].values())
    assert ("loss/mc_targets" in run.told.metrics[2]) == (name == "mc_q")


PPO = (
    "objective.name=ppo",
    "sampling.temperature_min=1.0",
    "sampling.temperature_max=1.0",
    "sampling.top_p=1.0",
    "batch.online_fraction=1.0",
)


def test_ppo_trains_a_value_model_beside_the_policy_and_resumes_both_to_the_bit(
    tmp_path: Path, model: Path, ranks: Ranks
) -> None:
    whole = run_one_rank(tmp_path / "whole", model, ranks, *PPO)
    resumed = run_one_rank(interrupted_at_step_3(whole, tmp_path / "resumed"), model, ranks, *PPO)
    for step in (4, 5, 6):
        for name in ("loss/objective", "loss/value", "loss/gradient_norm"):
            assert resumed.told.metrics[step][name] == whole.told.metrics[step][name]
    expected = whole.policy()
    assert all(torch.equal(weight, expected[name]) for name, weight in resumed.policy().items())
    # The value model is neither published nor part of the final policy.
    assert set(whole.told.snapshots[6]) == set(expected) - {"lm_head.weight"}
    exported = tmp_path / "exported"
    export_checkpoint(whole.run_dir / "checkpoints" / "step-00000006", str(model), exported)
    weights = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


def test_the_value_model_learns_the_returns_of_a_batch_that_comes_again_and_again(
    tmp_path: Path, model: Path, ranks: Ranks
) -> None:
    config = make_run(tmp_path / "run", model, *PPO, "optimizer.warmup_steps=0")
    arguments = (str(model), config.model, config.batch.token_budget, ranks)
    value_model = load_value_model(*arguments)
    policy, reference = (load_policy(*arguments, trained=trained) for trained in (True, False))
    learner = Learner(policy, reference, config, ranks, value_model)
    batch = make_batch(1, 0, 1)
    losses = [learner.step(batch)["loss/value"] for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_stop_ends_training_with_its_reason(tmp_path: Path, model: Path, ranks: Ranks) -> None:
    config = make_run(tmp_path / "run", model)
    with (
        serving(FakeOrchestrator(tmp_path / "run", stop_at=2)),
        pytest.raises(RunFailed, match=r"^the problems are all solved$"),
    ):
        train(config, tmp_path / "run", ranks)


def test_a_lost_orchestrator_ends_training(tmp_path: Path, model: Path, ranks: Ranks) -> None:
    config = make_run(tmp_path / "run", model)
    with (
        serving(FakeOrchestrator(tmp_path / "run", hang_up_at=2)),
        pytest.raises(ConnectionLost, match="closed the connection"),
    ):
        train(config, tmp_path / "run", ranks)


def test_a_gradient_that_is_not_finite_ends_training_before_it_touches_the_weights(
    tmp_path: Path, model: Path, ranks: Ranks
) -> None:
    config = make_run(tmp_path / "run", model, "optimizer.learning_rate=1e30", "optimizer.warmup_steps=0")
    with (
        serving(FakeOrchestrator(tmp_path / "run")),
        pytest.raises(RunFailed, match=r"step 2 is not finite; lower optimizer\.learning_rate"),
    ):
        train(config, tmp_path / "run", ranks)
