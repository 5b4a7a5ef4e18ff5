"""The baselines on a bandit of four responses of one token, whose optimum is known."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spo.trainer.objectives import grpo, oapl, policy_gradient, ppo, terminal_q
from spo.trainer.objectives.policy_gradient import soft_group_value

F64 = torch.float64


REFERENCE = np.array([0.1, 0.4, 0.2, 0.3])
REWARD = np.array([0.0, -1.0, 0.0, -1.0])
BETA = 0.4
VALUE = BETA * math.log((REFERENCE * np.exp(REWARD / BETA)).sum())
OPTIMUM = REFERENCE * np.exp((REWARD - VALUE) / BETA)
SUCCEEDS = REWARD == 0.0

Loss = Callable[..., tuple[Tensor, object]]


def bandit(step: Callable[[Tensor, Tensor], Tensor], num_steps: int = 400) -> np.ndarray:
    """Trains a softmax over the responses; `step` gives the loss from ln πθ [4, 1] and the policy's probabilities."""
    logits = torch.from_numpy(np.log(REFERENCE)).clone().requires_grad_()
    optimizer = torch.optim.Adam([logits])
    for index in range(num_steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - index / num_steps) ** 2
        logprobs = torch.log_softmax(logits, dim=0)
        optimizer.zero_grad()
        step(logprobs[:, None], logprobs.detach().exp()).backward()
        optimizer.step()
    return torch.softmax(logits.detach(), dim=0).numpy()


def shared_arguments() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reward, value = torch.from_numpy(REWARD), torch.full((4,), VALUE, dtype=F64)
    return torch.from_numpy(np.log(REFERENCE))[:, None], torch.ones(4, 1, dtype=torch.bool), reward, value


def weighted(logprobs: Tensor, probability: Tensor) -> Tensor:
    """Scales each response's gradient so that a mean over the four becomes the expectation under `probability`."""
    logprobs = logprobs * 1.0
    logprobs.register_hook(lambda gradient: gradient * probability[:, None] * 4)
    return logprobs


def test_the_policy_gradient_is_the_gradient_of_the_soft_objective() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=F64, requires_grad=True)
    logprobs = torch.log_softmax(logits, dim=0)
    reference, mask, reward, value = shared_arguments()
    soft_objective = (logprobs.exp() * (reward - BETA * (logprobs - reference[:, 0]))).sum()
    (expected,) = torch.autograd.grad(soft_objective, logits, retain_graph=True)
    policy = weighted(logprobs[:, None], logprobs.detach().exp())
    mean, _ = policy_gradient(policy, reference, mask, reward, value, beta=BETA, behavior_logprobs_BT=policy.detach())
    (actual,) = torch.autograd.grad(mean, logits)
    torch.testing.assert_close(actual, -expected, rtol=1e-10, atol=1e-12)


def test_on_policy_the_policy_gradient_is_that_of_squared_terminal_q() -> None:
    policy = (torch.randn(4, 1, generator=torch.Generator().manual_seed(2), dtype=F64) - 1).requires_grad_()
    data = shared_arguments()
    squared, _ = terminal_q(policy, *data, beta=BETA, loss="squared")
    surrogate, _ = policy_gradient(policy, *data, beta=BETA, behavior_logprobs_BT=policy.detach())
    (expected,) = torch.autograd.grad(squared, policy)
    (actual,) = torch.autograd.grad(surrogate, policy)
    torch.testing.assert_close(actual, expected / (2 * BETA), rtol=1e-12, atol=1e-15)


def test_the_policy_gradient_finds_the_soft_optimum() -> None:
    def step(logprobs: Tensor, probability: Tensor) -> Tensor:
        policy = weighted(logprobs, probability)
        return policy_gradient(policy, *shared_arguments(), beta=BETA, behavior_logprobs_BT=policy.detach())[0]

    np.testing.assert_allclose(bandit(step), OPTIMUM, atol=1e-4)


def test_ppo_finds_the_soft_optimum_and_its_value() -> None:
    value = torch.zeros((), dtype=F64, requires_grad=True)
    critic = torch.optim.Adam([value], lr=0.02)

    def step(logprobs: Tensor, probability: Tensor) -> Tensor:
        critic.step()
        critic.zero_grad()
        policy = weighted(logprobs, probability)
        values = weighted(value.expand(4, 1), probability)
        return ppo(policy, *shared_arguments(), beta=BETA, behavior_logprobs_BT=policy.detach(), value_BT=values)[0]

    np.testing.assert_allclose(bandit(step, 800), OPTIMUM, atol=1e-3)
    # At the optimum the soft objective is V (Eq. 4).
    assert value.item() == pytest.approx(VALUE, abs=1e-3)


@pytest.mark.parametrize(
    ("beta", "num_steps", "tolerance"), [(1 / math.log(100_000), 1000, 2e-3), (BETA, 400, 1e-4), (1.0, 400, 1e-4)]
)
def test_oapl_finds_the_optimum_relative_to_its_sampler_from_the_samplers_data_alone(
    beta: float, num_steps: int, tolerance: float
) -> None:
    sampler = torch.tensor([0.3, 0.3, 0.1, 0.3], dtype=F64)
    rate = torch.full((4,), sampler[torch.from_numpy(SUCCEEDS)].sum().item(), dtype=F64)

    def step(logprobs: Tensor, _probability: Tensor) -> Tensor:
        policy = weighted(logprobs, sampler)
        extras = {"behavior_logprobs_BT": sampler.log()[:, None], "group_success_rate_B": rate}
        return oapl(policy, *shared_arguments(), beta=beta, **extras)[0]

    expected = sampler.numpy() * np.exp(REWARD / beta)
    expected /= expected.sum()
    found = bandit(step, num_steps)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_allclose(found[~SUCCEEDS], expected[~SUCCEEDS], rtol=1e-2)


@pytest.mark.parametrize("value_beta", [0.0, 1.0])
@pytest.mark.parametrize("beta", [1 / math.log(100_000), 1.0])
def test_at_its_sampler_oapl_raises_the_success_rate_in_the_mean_over_all_groups(
    beta: float, value_beta: float
) -> None:
    # Every group of three, by its probability: V̂ has each response's own reward in it, which shortens the step only.
    logits = torch.log(torch.tensor([0.3, 0.3, 0.1, 0.3], dtype=F64)).requires_grad_()
    sampler = torch.softmax(logits.detach(), dim=0)
    total, gap = torch.zeros(4, dtype=F64), 1.0
    for group in itertools.product(range(4), repeat=3):
        chance = sampler[list(group)].prod().item()
        rewards = torch.from_numpy(REWARD[list(group)])
        rate = torch.full((3,), (rewards == 0).double().mean().item(), dtype=F64)
        policy = torch.log_softmax(logits, dim=0)[list(group)][:, None]
        extras = {"behavior_logprobs_BT": policy.detach(), "group_success_rate_B": rate, "value_beta": value_beta}
        data = (policy.detach(), torch.ones(3, 1, dtype=torch.bool), rewards, torch.zeros(3, dtype=F64))
        (gradient,) = torch.autograd.grad(oapl(policy, *data, beta=beta, **extras)[0], logits)
        total += chance * gradient
        value = math.log(rate[0] + (1 - rate[0]) * math.exp(-1 / (value_beta or beta))) * (value_beta or beta)
        own = SUCCEEDS[group[0]]
        gap -= value * chance * (1 / 0.4 if own else -1 / 0.6)
    success = torch.softmax(logits, dim=0)[torch.from_numpy(SUCCEEDS)].sum()
    (uphill,) = torch.autograd.grad(success, logits)
    assert gap > 0
    torch.testing.assert_close(total, -2 * beta * gap * uphill, rtol=1e-9, atol=1e-12)


def test_at_a_small_beta_groups_fall_short_of_their_value_and_at_a_larger_one_for_the_value_hardly() -> None:
    # The mean of r − V̂: where it is negative, any departure from the sampler, in whatever direction, is rewarded.
    rate = torch.tensor([0.125], dtype=F64)
    shortfall = [(rate - 1 - soft_group_value(rate, beta=beta)).item() for beta in (1 / math.log(100_000), 1.0)]
    assert shortfall == [pytest.approx(-0.694, abs=1e-3), pytest.approx(-0.070, abs=1e-3)]


def test_grpo_finds_where_its_advantages_balance_the_divergence() -> None:
    def step(logprobs: Tensor, probability: Tensor) -> Tensor:
        policy = weighted(logprobs, probability)
        rate = probability[torch.from_numpy(SUCCEEDS)].sum().expand(4)
        extras = {"behavior_logprobs_BT": policy.detach(), "group_success_rate_B": rate}
        return grpo(policy, *shared_arguments(), beta=1.0, **extras)[0]

    found = bandit(step, 800)
    # E[A ∇ln π] = E[(1 − π0/π) ∇ln π] gives π (1 − A) = π0 with A = √((1 − p)/p) for a success: p − √(p(1 − p)) = p0.
    low, high = 0.5, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - math.sqrt(middle * (1 - middle)) < 0.3 else (low, middle)
    assert found[SUCCEEDS].sum() == pytest.approx(low, abs=1e-3)
    # Within successes and within failures the proportions stay the reference's.
    assert found[0] / found[2] == pytest.approx(0.5, abs=1e-3)
    assert found[1] / found[3] == pytest.approx(4 / 3, abs=1e-3)
