"""Each objective on one rank and on two, in packed rows; PPO's step, a trajectory at a time; clipping of gradients."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from objective_steps import BATCHES, CASES, all_steps, head_weight, make_learner
from trainer_harness import NUM_TRAJECTORIES, make_batch, make_model
from transformers import AutoModelForCausalLM

from spo.trainer.parallel import Ranks, local_shard, start_ranks, stop_ranks

BETA = 1 / math.log(100_000)
Steps = dict[str, list[dict[str, float]]]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    yield start_ranks("cpu", 1, 60.0)
    stop_ranks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory, model: Path, ranks: Ranks) -> Steps:
    return all_steps(tmp_path_factory.mktemp("one"), model, ranks)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Steps:
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, str(Path(__file__).with_name("objective_steps.py")), str(folder), str(model)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [subprocess.Popen(command, env={**shared, "WORLD_SIZE": "2", "RANK": rank}) for rank in "01"]
    try:
        assert [rank.wait(timeout=240) for rank in both] == [0, 0]
    finally:
        for rank in both:
            rank.kill()
            rank.wait()
    found: Steps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_one_rank_and_two_have_the_same_losses_gradients_and_weights(
    name: str, loss: str, one_rank: Steps, two_ranks: Steps
) -> None:
    one, two = one_rank[f"{name} {loss}"], two_ranks[f"{name} {loss}"]
    assert len(one) == len(two) == len(BATCHES)
    for expected, actual in zip(one, two, strict=True):
        assert actual == pytest.approx(expected, rel=5e-5, abs=3e-5)
        assert expected["loss/gradient_norm"] > 0
    # The policy has moved, so that the same batch has another loss.
    assert one[2]["loss/objective"] != pytest.approx(one[0]["loss/objective"], rel=1e-3)


def test_only_the_trajectories_of_one_row_have_monte_carlo_targets(two_ranks: Steps) -> None:
    metrics = two_ranks["mc_q cross_entropy"][0]
    assert metrics["loss/mc_annotated_fraction"] == pytest.approx(2 / NUM_TRAJECTORIES)
    assert metrics["loss/mc_targets"] > metrics["loss/mc_annotated_fraction"]


def test_gradients_longer_than_the_limit_are_scaled_down_to_it_and_shorter_ones_left_alone(
    tmp_path: Path, model: Path, ranks: Ranks
) -> None:
    def moved(limit: float) -> tuple[float, torch.Tensor]:
        # So large an `eps` makes AdamW's step the gradient itself, times the rate over `eps`.
        settings = ("optimizer.eps=1e6", "optimizer.learning_rate=1e4", f"optimizer.max_gradient_norm={limit}")
        learner = make_learner(tmp_path / str(limit), model, ranks, "terminal_q", "squared", *settings)
        before = [local_shard(weight).detach().clone() for weight in learner.trained.parameters()]
        norm = learner.step(make_batch(1, 0, 1))["loss/gradient_norm"]
        after = [local_shard(weight).detach() for weight in learner.trained.parameters()]
        return norm, torch.cat([(b - a).flatten() for a, b in zip(after, before, strict=True)]) * 1e2

    norm, gradient = moved(0.0)
    assert gradient.norm().item() == pytest.approx(norm, rel=1e-3)
    for limit in (norm / 4, norm * 4):
        same_norm, clipped = moved(limit)
        assert same_norm == norm
        torch.testing.assert_close(clipped, gradient * min(1.0, limit / norm), rtol=1e-2, atol=1e-3 * norm)


def test_a_ppo_step_on_packed_rows_is_that_of_each_trajectory_alone(tmp_path: Path, model: Path, ranks: Ranks) -> None:
    metrics = make_learner(tmp_path, model, ranks, "ppo", "cross_entropy").step(make_batch(1, 0, 1))

    policy, body = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
    head, bias = head_weight(policy.config.hidden_size).requires_grad_(), torch.zeros(1, requires_grad=True)
    batch = make_batch(1, 0, 1)
    tokens, segments = np.frombuffer(batch.tokens, np.int32), np.frombuffer(batch.segment_ids, np.int32)
    is_response, rewards = np.frombuffer(batch.response_mask, np.uint8) != 0, np.frombuffer(batch.rewards, np.float32)
    total = torch.zeros(())
    value_losses, ratios, cut = [], [], []
    for trajectory in range(NUM_TRAJECTORIES):
        own = segments == trajectory
        tokens_1T = torch.from_numpy(tokens[own].astype(np.int64))[None]
        first, length = int((~is_response[own]).sum()), int(own.sum())
        logits_TV = policy(tokens_1T).logits[0, first - 1 : -1]
        logprob_T = torch.log_softmax(logits_TV, dim=1).gather(1, tokens_1T[0, first:, None])[:, 0]
        value_T = (body.model(tokens_1T).last_hidden_state[0, first - 1 : -1] @ head.T)[:, 0] + bias
        behavior, reference = [-4.0] * (length - first), logprob_T.tolist()
        reward = [-BETA * (b - r) for b, r in zip(behavior, reference, strict=True)]
        reward[-1] += float(rewards[trajectory])
        values = [*value_T.tolist(), 0.0]
        advantage = [0.0] * (len(reward) + 1)
        for t in reversed(range(len(reward))):
            advantage[t] = reward[t] + values[t + 1] - values[t] + 0.95 * advantage[t + 1]
        loss = torch.zeros(())
        for t in range(len(reward)):
            ratio = (logprob_T[t] + 4.0).exp()
            unclipped, clipped = ratio * advantage[t], ratio.clamp(0.8, 1.2) * advantage[t]
            value_loss = 0.5 * (value_T[t] - (advantage[t] + values[t])) ** 2
            loss = loss - torch.minimum(unclipped, clipped) + 0.5 * value_loss
            value_losses.append(value_loss.item())
            ratios.append(ratio.item())
            cut.append(float(clipped < unclipped))
        total = total + loss / len(reward) / NUM_TRAJECTORIES
    total.backward()
    parameters = [*policy.parameters(), *body.model.parameters(), head, bias]
    norm = math.sqrt(sum(weight.grad.square().sum().item() for weight in parameters if weight.grad is not None))
    assert metrics["loss/objective"] == pytest.approx(total.item(), rel=1e-4)
    assert metrics["loss/value"] == pytest.approx(np.mean(value_losses), rel=1e-4)
    assert metrics["loss/importance_ratio"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert metrics["loss/ratio_clipped_fraction"] == pytest.approx(np.mean(cut), rel=1e-6)
    assert 0.1 < metrics["loss/ratio_clipped_fraction"] < 0.9
    assert metrics["loss/gradient_norm"] == pytest.approx(norm, rel=1e-4)
