"""The baselines: each against a step computed by hand, and at extreme ratios."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from spo.trainer.objectives import OBJECTIVES, grpo, oapl, policy_gradient, ppo, terminal_q
from spo.trainer.objectives.policy_gradient import clipped_surrogate, divergence_estimate, soft_group_value
from spo.trainer.objectives.ppo import (
    WEIGHT_CAP,
    clipped_value_loss,
    generalised_advantages,
    importance_weights,
    soft_rewards,
)

F64 = torch.float64


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=F64)


def test_grpo_equals_a_step_computed_by_hand() -> None:
    # A group of four with one success: mean −3/4, standard deviation √3/4, so the success has advantage √3.
    policy = row(-1.0, -0.5, -3.0).requires_grad_()
    behavior, reference, mask = row(-1.1, -1.0, 0.0), row(-1.2, -0.4, 0.0), torch.tensor([[True, True, False]])
    mean, metrics = grpo(
        policy,
        reference,
        mask,
        torch.tensor([0.0], dtype=F64),
        torch.tensor([-0.5], dtype=F64),
        beta=0.1,
        behavior_logprobs_BT=behavior,
        group_success_rate_B=torch.tensor([0.25], dtype=F64),
    )
    mean.backward()
    # Token 1: ratio e^0.1 = 1.105 is within 1.2; token 2: e^0.5 = 1.649 is cut to 1.2 and has no gradient.
    first = math.exp(0.1) * math.sqrt(3)
    second = 1.2 * math.sqrt(3)
    divergences = [math.exp(-0.2) + 0.2 - 1, math.exp(0.1) - 0.1 - 1]
    assert mean.item() == pytest.approx((-first - second + 0.1 * sum(divergences)) / 2, rel=1e-12)
    slopes = [(-first + 0.1 * (1 - math.exp(-0.2))) / 2, 0.1 * (1 - math.exp(0.1)) / 2, 0.0]
    assert policy.grad is not None
    np.testing.assert_allclose(policy.grad.numpy()[0], slopes, rtol=1e-12)
    means = {name: (total / count).item() for name, (total, count) in metrics.items() if count}
    assert means["loss/ratio_clipped_fraction"] == 0.5
    assert means["loss/divergence"] == pytest.approx(sum(divergences) / 2)


def test_a_failure_in_that_group_has_the_opposite_advantage_and_is_cut_below() -> None:
    policy = row(-1.0, -2.0).requires_grad_()
    arguments = (row(-1.0, -2.0), torch.tensor([[True, True]]), torch.tensor([-1.0], dtype=F64), torch.zeros(1))
    behavior, rate = row(-1.0, -1.0), torch.tensor([0.25], dtype=F64)
    mean, _ = grpo(policy, *arguments, beta=0.0, behavior_logprobs_BT=behavior, group_success_rate_B=rate)
    mean.backward()
    # (−1 + 3/4) / (√3/4) = −1/√3. Token 2's ratio e^−1 is below 0.8 already, so it is not pushed down further.
    assert mean.item() == pytest.approx((1 + 0.8) / math.sqrt(3) / 2, rel=1e-12)
    assert policy.grad is not None
    np.testing.assert_allclose(policy.grad.numpy()[0], [1 / math.sqrt(3) / 2, 0.0], rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_group_that_fared_alike_teaches_grpo_nothing(rate: float) -> None:
    policy = row(-1.0, -2.0).requires_grad_()
    data = (row(-1.0, -2.0), torch.tensor([[True, True]]), torch.tensor([rate - 1.0], dtype=F64), torch.zeros(1))
    mean, _ = grpo(
        policy,
        *data,
        beta=0.1,
        behavior_logprobs_BT=row(-1.5, -1.5),
        group_success_rate_B=torch.tensor([rate], dtype=F64),
    )
    mean.backward()
    assert policy.grad is not None
    assert (policy.grad == 0).all()


def test_oapl_equals_a_step_computed_by_hand() -> None:
    policy = row(-1.0, -0.5, -9.0).requires_grad_()
    behavior, mask = row(-1.3, -0.9, 0.0), torch.tensor([[True, True, False]])
    beta, rate = 0.5, 0.25
    mean, _ = oapl(
        policy,
        row(-2.0, -2.0, 0.0),
        mask,
        torch.tensor([-1.0], dtype=F64),
        torch.zeros(1, dtype=F64),
        beta=beta,
        behavior_logprobs_BT=behavior,
        group_success_rate_B=torch.tensor([rate], dtype=F64),
    )
    mean.backward()
    value = 0.5 * math.log(0.25 + 0.75 * math.exp(-2.0))
    error = 0.5 * 0.7 - (-1.0 - value)
    assert mean.item() == pytest.approx(error**2, rel=1e-12)
    assert policy.grad is not None
    np.testing.assert_allclose(policy.grad.numpy()[0], [error, error, 0.0], rtol=1e-12)


def test_oapl_is_squared_terminal_q_with_the_sampler_for_reference_and_the_group_for_initial_value() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, behavior, reference = (torch.randn(6, 5, generator=generator, dtype=F64) - 1.5 for _ in range(3))
    mask = torch.arange(5)[None] < torch.randint(1, 6, (6, 1), generator=generator)
    reward = torch.tensor([0.0, -1.0, -1.0, 0.0, -1.0, 0.0], dtype=F64)
    rate = torch.full((6,), 0.5, dtype=F64)
    mean, _ = oapl(
        policy, reference, mask, reward, reward, beta=0.2, behavior_logprobs_BT=behavior, group_success_rate_B=rate
    )
    value = soft_group_value(rate, beta=0.2)
    assert mean.item() == pytest.approx(terminal_q(policy, behavior, mask, reward, value, beta=0.2, loss="squared")[0])


def test_soft_group_values_are_exact_where_all_fared_alike() -> None:
    value = soft_group_value(torch.tensor([0.0, 1.0, 0.5], dtype=F64), beta=0.25).tolist()
    assert value[:2] == pytest.approx([-1.0, 0.0], abs=1e-15)
    assert value[2] == pytest.approx(0.25 * math.log(0.5 + 0.5 * math.exp(-4)), rel=1e-12)


def test_ppo_equals_a_step_computed_by_hand() -> None:
    # Two tokens; the old policy is between the sampler and the current one.
    policy, value = row(-1.0, -1.0).requires_grad_(), row(-0.3, -0.9).requires_grad_()
    mean, metrics = ppo(
        policy,
        row(-1.4, -1.2),
        torch.tensor([[True, True]]),
        torch.tensor([-1.0], dtype=F64),
        torch.zeros(1, dtype=F64),
        beta=0.5,
        behavior_logprobs_BT=row(-1.2, -1.5),
        value_BT=value,
        old_logprobs_BT=row(-1.1, -1.1),
        old_value_BT=row(-0.4, -0.5),
        gae_lambda=0.5,
        value_weight=0.5,
    )
    mean.backward()
    rewards = [-0.5 * 0.3, -0.5 * 0.1 - 1.0]
    delta = [rewards[0] - 0.5 + 0.4, rewards[1] + 0.5]
    advantages = [delta[0] + 0.5 * delta[1], delta[1]]
    returns = [advantages[0] - 0.4, advantages[1] - 0.5]
    # Both ratios are e^0.1 = 1.105, within the clip. Weights e^0.1 and e^0.4.
    weights = [math.exp(0.1), math.exp(0.4)]
    surrogate = [-math.exp(0.1) * a for a in advantages]
    # The first value moved 0.1, within the clip; the second −0.4, cut to −0.2: −0.7.
    near = [-0.3, -0.7]
    errors = [max((v - r) ** 2, (n - r) ** 2) for v, n, r in zip([-0.3, -0.9], near, returns, strict=True)]
    value_losses = [0.5 * error for error in errors]
    parts = [w * s + 0.5 * v for w, s, v in zip(weights, surrogate, value_losses, strict=True)]
    assert mean.item() == pytest.approx(sum(parts) / 2, rel=1e-12)
    assert policy.grad is not None
    assert value.grad is not None
    np.testing.assert_allclose(
        policy.grad.numpy()[0], [w * s / 2 for w, s in zip(weights, surrogate, strict=True)], rtol=1e-12
    )
    assert value.grad[0, 0].item() == pytest.approx(0.5 * (-0.3 - returns[0]) / 2, rel=1e-12)
    assert (metrics["loss/value"][0] / 2).item() == pytest.approx(sum(value_losses) / 2)


def test_generalised_advantages_are_the_discounted_sums_of_temporal_differences() -> None:
    generator = np.random.default_rng(0)
    lengths, starts = generator.integers(1, 6, 20), generator.integers(0, 3, 20)
    columns = np.arange(9)
    mask = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])
    reward, value = generator.normal(size=(2, 20, 9))
    reward *= mask
    for gae_lambda in (0.0, 0.7, 1.0):
        arguments = (torch.from_numpy(reward), torch.from_numpy(value), torch.from_numpy(mask))
        advantage, returns = generalised_advantages(*arguments, gae_lambda=gae_lambda)
        for b in range(20):
            v = [*value[b, mask[b]], 0.0]
            delta = [reward[b, mask[b]][t] + v[t + 1] - v[t] for t in range(lengths[b])]
            for t, column in enumerate(columns[mask[b]]):
                expected = sum(gae_lambda**k * delta[t + k] for k in range(lengths[b] - t))
                assert advantage[b, column].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
                assert returns[b, column].item() == pytest.approx(expected + v[t], rel=1e-10, abs=1e-12)
        assert (advantage[~torch.from_numpy(mask)] == 0).all()


def test_soft_rewards_sum_to_the_reward_less_the_divergence_of_the_response() -> None:
    policy, reference = row(-9.0, -1.0, -2.0, -7.0), row(-1.0, -1.5, -1.0, -1.0)
    mask = torch.tensor([[False, True, True, False]])
    reward = soft_rewards(policy, reference, mask, torch.tensor([-1.0], dtype=F64), beta=0.5)
    assert reward[0].tolist() == [0.0, -0.25, 0.5 - 1.0, 0.0]


def test_importance_weights_are_cut_and_carry_no_gradient() -> None:
    policy = row(-1.0, -1.0, -1.0).requires_grad_()
    weight = importance_weights(policy, row(-1.5, -9.0, -1.0), torch.tensor([[True, True, False]]))
    assert weight[0].tolist() == [pytest.approx(math.exp(0.5)), WEIGHT_CAP, 0.0]
    assert not weight.requires_grad


def test_the_value_loss_takes_the_worse_of_clipped_and_unclipped() -> None:
    loss = clipped_value_loss(row(1.0, 0.1), row(0.0, 0.0), row(1.0, 1.0), torch.tensor([[True, True]]), value_clip=0.2)
    assert loss[0].tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2])


@pytest.mark.parametrize("difference", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_extreme_ratios_give_finite_values_and_gradients_in_the_right_direction(difference: float) -> None:
    old, mask = torch.full((2, 3), -1.0), torch.ones(2, 3, dtype=torch.bool)
    for what in ("surrogate", "divergence"):
        policy = torch.full((2, 3), -1.0 + difference, requires_grad=True)
        if what == "surrogate":
            # A success in the first line, a failure in the second.
            advantage_BT = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
            value, _ = clipped_surrogate(policy, old, advantage_BT, mask, ratio_clip=0.2)
        else:
            value = divergence_estimate(policy, old, mask)
            assert (value >= 0).all()
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert policy.grad is not None
        assert torch.isfinite(policy.grad).all()
        if what == "surrogate":
            # Nothing pulls a success that is likelier already, or a failure that is less likely already.
            assert (policy.grad[0] <= 0).all()
            assert (policy.grad[0] == 0).all() == (difference > 0 or difference < -100)
            assert (policy.grad[1] >= 0).all()
            assert (policy.grad[1] == 0).all() == (difference < 0)
        else:
            assert (policy.grad.sign() == math.copysign(1, difference) * (difference != 0)).all()


@pytest.mark.parametrize("name", ["policy_gradient", "grpo", "oapl", "ppo"])
def test_masked_tokens_change_nothing(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    policy, behavior, reference, value = (torch.randn(3, 6, generator=generator, dtype=F64) - 1.5 for _ in range(4))
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    extras = {"behavior_logprobs_BT": behavior}
    if name in ("grpo", "oapl"):
        extras["group_success_rate_B"] = torch.full((3,), 0.5, dtype=F64)
    if name == "ppo":
        extras["value_BT"] = value
    objective = {"policy_gradient": policy_gradient, "grpo": grpo, "oapl": oapl, "ppo": ppo}[name]

    def run(garbage: float) -> tuple[float, Tensor]:
        dirty = [torch.where(mask, tensor, garbage) for tensor in (policy, reference, behavior)]
        dirty[0].requires_grad_()
        others = {**extras, "behavior_logprobs_BT": dirty[2]}
        if name == "ppo":
            others["value_BT"] = torch.where(mask, value, garbage)
        reward = torch.tensor([0.0, -1.0, 0.0], dtype=F64)
        mean, _ = objective(dirty[0], dirty[1], mask, reward, reward, beta=0.1, **others)
        mean.backward()
        assert dirty[0].grad is not None
        return mean.item(), dirty[0].grad

    clean, dirty = run(0.0), run(math.nan)
    assert clean[0] == dirty[0]
    torch.testing.assert_close(clean[1], dirty[1])


TOTALS = [-1e4, -1e3, -88.0, -11.5, -1e-3, 0.0, 1e-3, 1.0, 50.0]
"""ln πθ/π0 and ln πθ/πb of whole responses."""


@pytest.mark.parametrize("num_tokens", [1, 1000, 32_768])
@pytest.mark.parametrize("name", ["policy_gradient", "grpo", "oapl", "ppo"])
def test_values_and_gradients_are_right_in_float32_for_extreme_ratios_and_any_length(
    name: str, num_tokens: int
) -> None:
    shape = (2 * len(TOTALS), num_tokens)
    generator = torch.Generator().manual_seed(num_tokens)
    old_BT = torch.randn(shape, generator=generator, dtype=F64) * 0.5 - 2.0
    step_B = torch.tensor(TOTALS * 2, dtype=F64)[:, None] / num_tokens
    reward_B = torch.tensor([0.0] * len(TOTALS) + [-1.0] * len(TOTALS), dtype=F64)
    extras = {"behavior_logprobs_BT": old_BT}
    if name in ("grpo", "oapl"):
        extras["group_success_rate_B"] = torch.full_like(reward_B, 0.125)
    if name == "ppo":
        extras["value_BT"] = torch.rand(shape, generator=generator, dtype=F64) - 1.0
    # The exact computation starts from the float32 numbers as they are.
    tensors = (old_BT + step_B, old_BT, *extras.values())
    rounded = [value.float() for value in tensors]
    found = []
    for dtype in (torch.float32, F64):
        policy, reference, *others = (value.to(dtype).detach() for value in rounded)
        policy.requires_grad_()
        mask, initial = torch.ones(shape, dtype=torch.bool), torch.full_like(reward_B, -0.125).to(dtype)
        arguments = (policy, reference, mask, reward_B.to(dtype), initial)
        mean, _ = OBJECTIVES[name](*arguments, beta=1 / math.log(100_000), **dict(zip(extras, others, strict=True)))
        mean.backward()
        assert policy.grad is not None
        found.append((mean.item(), policy.grad.double()))
    (value, gradient_BT), (exact, exact_BT) = found
    assert math.isfinite(exact)
    assert torch.isfinite(exact_BT).all()
    assert value == pytest.approx(exact, rel=1e-3)
    scale_B1 = exact_BT.abs().amax(dim=1, keepdim=True)
    # What a clip decides may fall to either side where a ratio is at its edge; none of these is.
    assert ((gradient_BT - exact_BT).abs() <= 2e-3 * scale_B1 + 1e-7).all()
