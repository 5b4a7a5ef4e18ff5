"""Each objective's value and gradient against float64 numpy and finite differences, and its behaviour at the edges."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spo.config import ObjectiveConfig
from spo.trainer.objectives import advantages, cross_entropy_loss, log1mexp, make_objective, q_values, terminal_q

BETA = 1 / math.log(100_000)
LOSSES = ["squared", "cross_entropy"]
B, T = 5, 7


def batch(seed: int) -> dict[str, torch.Tensor]:
    """Random trajectories of different lengths; predictions on both sides of the clip and of 0."""
    generator = np.random.default_rng(seed)
    policy = generator.normal(-1.5, 1.0, (B, T))
    reference = generator.normal(-1.5, 1.0, (B, T))
    mask = np.arange(T)[None] < generator.integers(1, T + 1, B)[:, None]
    reward = -generator.integers(0, 2, B).astype(float)
    value = BETA * generator.uniform(-3.0, 0.0, B)
    arrays = {"policy": policy, "reference": reference, "mask": mask, "reward": reward, "value": value}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def call(
    data: dict[str, torch.Tensor], loss: str, epsilon: float = 0.3
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    arguments = [data[name] for name in ("policy", "reference", "mask", "reward", "value")]
    return terminal_q(*arguments, beta=BETA, loss=loss, clip_epsilon=epsilon)


def expected_terminal(data: dict[str, torch.Tensor]) -> NDArray[np.float64]:
    ratio = (data["policy"] - data["reference"]).numpy()
    return np.array(
        [data["value"][b].item() + BETA * ratio[b][data["mask"][b].numpy()].sum() for b in range(len(data["value"]))]
    )


def expected_loss_and_slope(
    data: dict[str, torch.Tensor], loss: str, epsilon: float
) -> tuple[float, NDArray[np.float64]]:
    """The mean loss, and its derivative by each trajectory's ln πθ, written out from method.md's formulas."""
    terminal, reward = expected_terminal(data), data["reward"].numpy()
    total, slopes = 0.0, []
    for q, r in zip(terminal, reward, strict=True):
        if loss == "squared":
            total += (q - r) ** 2
            slopes.append(2 * (q - r) * BETA)
            continue
        predicted, success = q / BETA, math.exp(min(r / BETA, 0.0))
        clipped = min(predicted, -epsilon)
        total += success * max(-predicted, 0.0) - (1 - success) * math.log(1 - math.exp(clipped))
        positive = -success if predicted < 0 else 0.0
        slopes.append(positive + (1 - success) * math.exp(clipped) / (1 - math.exp(clipped)))
    return total / len(terminal), np.array(slopes) / len(terminal)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(4))
def test_terminal_q_and_its_gradient_equal_an_independent_computation(loss: str, seed: int) -> None:
    data = batch(seed)
    data["policy"].requires_grad_()
    value, _ = call(data, loss)
    value.backward()
    expected, slope_B = expected_loss_and_slope({k: v.detach() for k, v in data.items()}, loss, 0.3)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    expected_gradient = slope_B[:, None] * data["mask"].numpy()
    np.testing.assert_allclose(data["policy"].grad.numpy(), expected_gradient, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
def test_terminal_q_gradient_equals_finite_differences_below_the_clip(loss: str) -> None:
    data = batch(0)
    # Far from the clip, where a straight-through gradient is not that of the value.
    data["value"] -= 1.0
    assert (expected_terminal(data) / BETA < -0.4).all()
    data["policy"].requires_grad_()
    assert torch.autograd.gradcheck(lambda policy: call({**data, "policy": policy}, loss)[0], data["policy"])


@pytest.mark.parametrize("predicted", [-0.2, 0.0, 0.5, 50.0])
def test_above_the_clip_a_failure_keeps_the_gradient_at_the_clip(predicted: float) -> None:
    prediction = torch.tensor([predicted], dtype=torch.float64, requires_grad=True)
    loss = cross_entropy_loss(prediction, torch.tensor([-1 / BETA], dtype=torch.float64), 0.3)
    loss.sum().backward()
    success = 1e-5
    slope = (1 - success) * math.exp(-0.3) / (1 - math.exp(-0.3)) - (success if predicted < 0 else 0.0)
    assert prediction.grad is not None
    assert prediction.grad.item() == pytest.approx(slope, rel=1e-12)
    assert loss.item() == pytest.approx(
        success * max(-predicted, 0.0) - (1 - success) * math.log(1 - math.exp(-0.3)), rel=1e-12
    )


def test_nothing_rewards_a_success_for_exceeding_probability_one() -> None:
    prediction = torch.tensor([-2.0, 0.5, 50.0], dtype=torch.float64, requires_grad=True)
    cross_entropy_loss(prediction, torch.zeros(3, dtype=torch.float64), 0.3).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [-1.0, 0.0, 0.0]


def test_a_target_above_zero_counts_as_certain_success_and_carries_no_gradient() -> None:
    prediction = torch.tensor([-2.0], dtype=torch.float64)
    target = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    loss = cross_entropy_loss(prediction, target, 0.3)
    assert loss.item() == 2.0
    assert not loss.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-3, 0.3])
def test_values_and_gradients_are_finite_from_minus_ten_thousand_to_fifty(
    loss: str, dtype: torch.dtype, epsilon: float
) -> None:
    ratio = torch.tensor([-1e4, -1e3, -88.0, -1e-3, -1e-30, 0.0, 1e-30, 1.0, 50.0], dtype=dtype)
    for reward in (0.0, -1.0):
        policy = ratio[:, None].clone().requires_grad_()
        zeros = torch.zeros(len(ratio), dtype=dtype)
        value, _ = terminal_q(
            policy,
            zeros[:, None],
            torch.ones(len(ratio), 1, dtype=torch.bool),
            zeros + reward,
            zeros,
            beta=BETA,
            loss=loss,
            clip_epsilon=epsilon,
        )
        value.backward()
        assert torch.isfinite(value)
        assert policy.grad is not None
        assert torch.isfinite(policy.grad).all()
        if loss == "cross_entropy" and reward == -1.0:
            # At least the failure's own slope, at most the clip's.
            assert policy.grad.max() * len(ratio) <= 1 / math.expm1(epsilon) + 1e-3
            assert policy.grad[-1] * len(ratio) > 0.99 / math.expm1(epsilon) - 1e-3


def test_log1mexp_is_accurate_near_zero_and_far_below() -> None:
    value = torch.tensor([-1e-12, -1e-4, -0.69, -0.7, -5.0, -40.0, -1e4], dtype=torch.float64, requires_grad=True)
    result = log1mexp(value)
    result.sum().backward()
    expected = [math.log(-math.expm1(v)) if v > -1 else math.log1p(-math.exp(v)) for v in value.tolist()]
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-14)
    assert value.grad is not None
    slope = [1 / math.expm1(-v) if v < -1e-13 else 0 for v in value.tolist()[:-1]]
    np.testing.assert_allclose(value.grad.numpy()[:-1], [-s for s in slope], rtol=1e-9)
    assert value.grad[-1] == 0.0


@pytest.mark.parametrize("loss", LOSSES)
def test_what_stands_at_masked_tokens_changes_nothing(loss: str) -> None:
    data = batch(1)
    before, _ = call(data, loss)
    for name, garbage in (("policy", -math.inf), ("reference", math.nan)):
        data[name] = torch.where(data["mask"], data[name], garbage)
    data["policy"].requires_grad_()
    after, _ = call(data, loss)
    after.backward()
    assert after.item() == before.item()
    assert data["policy"].grad is not None
    assert (data["policy"].grad[~data["mask"]] == 0).all()
    assert torch.isfinite(data["policy"].grad).all()


def test_advantages_are_zero_and_q_is_the_initial_value_where_policy_is_reference() -> None:
    data = batch(2)
    arguments = (data["policy"], data["policy"], data["mask"])
    assert (advantages(*arguments, beta=BETA) == 0).all()
    assert (q_values(*arguments, data["value"], beta=BETA) == data["value"][:, None]).all()


def test_q_values_telescope_to_the_advantages() -> None:
    data = batch(3)
    arguments = (data["policy"], data["reference"], data["mask"])
    q_BT = q_values(*arguments, data["value"], beta=BETA)
    previous_BT = torch.cat([data["value"][:, None], q_BT[:, :-1]], dim=1)
    torch.testing.assert_close(q_BT - previous_BT, advantages(*arguments, beta=BETA), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(q_BT[:, -1].numpy(), expected_terminal(data), rtol=1e-12)


def test_metrics_of_parts_add_up_to_those_of_the_whole() -> None:
    data = batch(4)
    _, whole = call(data, "cross_entropy")
    parts = [call({k: v[rows] for k, v in data.items()}, "cross_entropy")[1] for rows in (slice(0, 2), slice(2, B))]
    for name, sum_and_count in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], sum_and_count, rtol=1e-12, atol=1e-12)


def test_metrics_tell_q_by_reward_class_and_the_share_clipped() -> None:
    data = batch(5)
    data["reward"] = torch.tensor([0.0, 0.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    loss, metrics = call(data, "cross_entropy")
    terminal = expected_terminal(data)
    means = {name: (total / count).item() for name, (total, count) in metrics.items()}
    assert means["loss/objective"] == pytest.approx(loss.item())
    assert means["loss/q_terminal_success"] == pytest.approx(terminal[:2].mean())
    assert means["loss/q_terminal_failure"] == pytest.approx(terminal[2:].mean())
    assert means["loss/clipped_fraction"] == pytest.approx((terminal / BETA > -0.3).mean())


def test_the_configured_objective_uses_every_setting() -> None:
    data = batch(6)
    config = ObjectiveConfig(loss="cross_entropy", beta=0.25, clip_epsilon=0.05)
    arguments = [data[name] for name in ("policy", "reference", "mask", "reward", "value")]
    value, _ = make_objective(config)(*arguments)
    expected, _ = terminal_q(*arguments, beta=0.25, loss="cross_entropy", clip_epsilon=0.05)
    assert value.item() == expected.item()
    assert value.item() != terminal_q(*arguments, beta=0.25, loss="cross_entropy", clip_epsilon=0.3)[0].item()


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="cross_entropy or squared"):
        call(batch(0), "absolute")


def test_a_32k_token_sequence_loses_no_precision_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randn(1, 32_768, generator=generator, dtype=torch.float64) * 0.01
    reference = torch.randn(1, 32_768, generator=generator, dtype=torch.float64) - 2.0
    mask = torch.ones_like(ratio, dtype=torch.bool)
    value = torch.tensor([-0.1], dtype=torch.float64)
    exact = q_values(reference + ratio, reference, mask, value, beta=BETA)[:, -1]
    rounded = q_values((reference + ratio).float(), reference.float(), mask, value.float(), beta=BETA)[:, -1]
    assert rounded.item() / BETA == pytest.approx(exact.item() / BETA, abs=1e-3)
