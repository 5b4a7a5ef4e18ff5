"""Every objective against an independent computation and finite differences; the paper's equalities; extremes."""

import math

import numpy as np
import objective_oracle as oracle
import pytest
import torch
from numpy.typing import NDArray
from objective_oracle import BETA, COMBINATIONS, REGRESSIONS

from spo.objective_rules import SAMPLED
from spo.trainer.objectives import OBJECTIVES, WARPS, advantage, mc_q, mc_targets, reverse_q, terminal_q

Case = dict[str, NDArray]


def call(
    case: Case, name: str, loss: str, warp: str, dtype: torch.dtype = torch.float64, **options: float
) -> tuple[torch.Tensor, NDArray]:
    """The objective under test: its mean loss, and its gradient by the policy's log-probabilities."""
    policy_BT = torch.from_numpy(case["policy"]).to(dtype).requires_grad_()
    others = [torch.from_numpy(case[key]) for key in ("reference", "mask", "reward", "value")]
    others = [value.to(dtype) if value.is_floating_point() else value for value in others]
    extras = {f"{key}_BT": torch.from_numpy(case[key]) for key in ("mc_successes", "mc_rollouts") if name == "mc_q"}
    mean, _ = OBJECTIVES[name](policy_BT, *others, beta=BETA, loss=loss, warp=warp, **extras, **options)
    mean.backward()
    assert policy_BT.grad is not None
    return mean.detach(), policy_BT.grad.numpy()


@pytest.mark.parametrize(("name", "loss", "warp"), COMBINATIONS)
def test_value_and_gradient_equal_an_independent_computation(name: str, loss: str, warp: str) -> None:
    for seed in range(6):
        case = oracle.random_case(seed)
        for epsilon in (0.3, 0.01):
            mean, gradient_BT = call(case, name, loss, warp, clip_epsilon=epsilon)
            expected, expected_BT = oracle.objective(case, name, loss, warp, epsilon=epsilon)
            assert mean.item() == pytest.approx(expected, rel=1e-11)
            np.testing.assert_allclose(gradient_BT, expected_BT, rtol=1e-9, atol=1e-13)


def test_every_objective_and_warp_is_among_the_combinations() -> None:
    assert {name for name, _, _ in COMBINATIONS} == set(REGRESSIONS) == set(OBJECTIVES) - SAMPLED
    assert {warp for _, _, warp in COMBINATIONS} == set(WARPS)


@pytest.mark.parametrize(("name", "loss", "warp"), [entry for entry in COMBINATIONS if entry[0] != "reverse_q"])
def test_gradients_equal_finite_differences_below_the_clip(name: str, loss: str, warp: str) -> None:
    case = oracle.random_case(0)
    # Far from the clip, where a straight-through gradient is not that of the value.
    case["value"] -= 1.5
    others = [torch.from_numpy(case[key]) for key in ("reference", "mask", "reward", "value")]
    extras = {f"{key}_BT": torch.from_numpy(case[key]) for key in ("mc_successes", "mc_rollouts") if name == "mc_q"}
    assert torch.autograd.gradcheck(
        lambda policy: OBJECTIVES[name](policy, *others, beta=BETA, loss=loss, warp=warp, **extras)[0],
        torch.from_numpy(case["policy"]).requires_grad_(),
    )


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_reverse_q_gradient_equals_finite_differences_with_its_targets_held_fixed(loss: str) -> None:
    case = oracle.random_case(1)
    case["value"] -= 1.5
    _, gradient_BT = call(case, "reverse_q", loss, "none")
    policy, reference, mask, value = (torch.from_numpy(case[key]) for key in ("policy", "reference", "mask", "value"))
    advantage_BT = BETA * torch.where(mask, policy - reference, 0.0)

    def with_fixed_targets(policy_BT: torch.Tensor) -> float:
        """Each Q_t as the terminal value of the prefix that ends there, its target as the reward."""
        total = 0.0
        for t in range(policy.shape[1]):
            target_B = torch.from_numpy(case["reward"]) - advantage_BT[:, t + 1 :].sum(dim=1)
            prefix_BT = mask & (torch.arange(policy.shape[1]) <= t)
            for b in torch.nonzero(mask[:, t])[:, 0].tolist():
                one = (policy_BT[b : b + 1], reference[b : b + 1], prefix_BT[b : b + 1], target_B[b : b + 1])
                total += terminal_q(*one, value[b : b + 1], beta=BETA, loss=loss)[0].item()
        return total / len(policy)

    step = 1e-6
    for b, t in ((0, 0), (1, 2), (2, 0), (3, 1)):
        bump = torch.zeros_like(policy)
        bump[b, t] = step
        difference = (with_fixed_targets(policy + bump) - with_fixed_targets(policy - bump)) / (2 * step)
        assert gradient_BT[b, t] == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_every_term_of_squared_reverse_q_is_the_terminal_error_and_earlier_tokens_get_more_gradient() -> None:
    case = oracle.random_case(2)
    lengths_B = case["mask"].sum(axis=1)
    for b in range(len(lengths_B)):
        one = {key: value[b : b + 1] for key, value in case.items()}
        terminal, terminal_gradient_BT = call(one, "terminal_q", "squared", "none")
        reverse, reverse_gradient_BT = call(one, "reverse_q", "squared", "none")
        assert reverse.item() == pytest.approx(lengths_B[b] * terminal.item(), rel=1e-12)
        remaining_T = np.maximum(lengths_B[b] - np.arange(case["mask"].shape[1]), 0)
        np.testing.assert_allclose(reverse_gradient_BT[0], remaining_T * terminal_gradient_BT[0], rtol=1e-12)


def test_squared_advantage_is_squared_terminal_q_in_value_and_gradient() -> None:
    case = oracle.random_case(3)
    data = [torch.from_numpy(case[key]) for key in ("policy", "reference", "mask", "reward", "value")]
    for objective in (terminal_q, advantage):
        data[0] = data[0].detach().clone().requires_grad_()
        mean, _ = objective(*data, beta=BETA, loss="squared")
        mean.backward()
        assert data[0].grad is not None
        if objective is terminal_q:
            expected, expected_BT = mean.item(), data[0].grad.clone()
    assert mean.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(data[0].grad, expected_BT, rtol=1e-12, atol=1e-15)


def test_advantage_gradient_is_the_difference_of_the_sigmoids() -> None:
    case = oracle.random_case(4)
    data = [torch.from_numpy(case[key]) for key in ("policy", "reference", "mask", "reward", "value")]
    data[0].requires_grad_()
    advantage(*data, beta=BETA)[0].backward()
    gain_B = ((case["policy"] - case["reference"]) * case["mask"]).sum(axis=1)
    target_B = (case["reward"] - case["value"]) / BETA
    slope_B = 1 / (1 + np.exp(-gain_B)) - 1 / (1 + np.exp(-target_B))
    assert data[0].grad is not None
    np.testing.assert_allclose(data[0].grad.numpy(), slope_B[:, None] * case["mask"] / len(slope_B), rtol=1e-10)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_at_initialisation_advantages_are_zero_and_every_q_is_the_initial_value(name: str) -> None:
    case = oracle.random_case(5)
    case["policy"] = case["reference"].copy()
    data = [torch.from_numpy(case[key]) for key in ("policy", "reference", "mask", "reward", "value")]
    _, metrics = OBJECTIVES[name](*data, beta=BETA)
    assert metrics["loss/log_ratio"][0] == 0.0
    assert metrics["loss/q_terminal"][0].item() == pytest.approx(case["value"].sum(), rel=1e-12)


def test_mc_q_without_estimates_is_terminal_q() -> None:
    case = oracle.random_case(6)
    data = [torch.from_numpy(case[key]) for key in ("policy", "reference", "mask", "reward", "value")]
    expected = terminal_q(*data, beta=BETA)[0].item()
    assert mc_q(*data, beta=BETA)[0].item() == expected
    nothing = torch.zeros(case["mask"].shape, dtype=torch.int64)
    assert mc_q(*data, beta=BETA, mc_successes_BT=nothing, mc_rollouts_BT=nothing)[0].item() == expected


def test_mc_q_says_how_many_targets_it_used_and_their_loss() -> None:
    case = oracle.random_case(9)
    case["mc_rollouts"][0] = 0
    data = [torch.from_numpy(case[key]) for key in ("policy", "reference", "mask", "reward", "value")]
    counts = {f"{key}_BT": torch.from_numpy(case[key]) for key in ("mc_successes", "mc_rollouts")}
    mean, metrics = mc_q(*data, beta=BETA, mc_weight=3.0, **counts)
    used_BT = case["mask"] & (case["mc_rollouts"] > 0)
    assert metrics["loss/mc_targets"].tolist() == [used_BT.sum(), 5]
    assert metrics["loss/mc_annotated_fraction"].tolist() == [used_BT.any(axis=1).sum(), 5]
    extra = 5 * (mean - terminal_q(*data, beta=BETA)[0]).item() / 3.0
    assert metrics["loss/mc_objective"].tolist() == [pytest.approx(extra, rel=1e-9), used_BT.sum()]
    _, without = mc_q(*data, beta=BETA)
    assert without["loss/mc_targets"].tolist() == [0.0, 5.0]
    assert without["loss/mc_objective"].tolist() == [0.0, 0.0]
    assert list(without) == list(metrics)


def test_mc_targets_are_the_soft_values_of_the_success_rates() -> None:
    successes, rollouts = torch.tensor([[0, 3, 10, 0]]), torch.tensor([[10, 10, 10, 0]])
    target = mc_targets(successes, rollouts, beta=BETA, dtype=torch.float64)[0].tolist()
    assert target[0] == pytest.approx(-1.0, rel=1e-12)
    assert target[1] == pytest.approx(BETA * math.log(0.3 + 0.7e-5), rel=1e-12)
    assert target[2] == pytest.approx(0.0, abs=1e-15)
    assert math.isfinite(target[3])


def test_the_monte_carlo_cross_entropy_is_unbiased_for_unbiased_success_rates() -> None:
    case = oracle.random_case(7, num_trajectories=1, num_tokens=1)
    case["mask"][:] = True
    case["mc_rollouts"][:] = 4

    def loss_at(successes: int) -> float:
        case["mc_successes"][:] = successes
        return call(case, "mc_q", "cross_entropy", "none")[0].item()

    rate = 0.3
    mean = sum(math.comb(4, s) * rate**s * (1 - rate) ** (4 - s) * loss_at(s) for s in range(5))
    case["mc_rollouts"][:] = 10
    assert mean == pytest.approx(loss_at(3), rel=1e-12)


@pytest.mark.parametrize(("name", "loss", "warp"), COMBINATIONS)
def test_only_response_tokens_count_wherever_they_stand(name: str, loss: str, warp: str) -> None:
    case = oracle.random_case(8)
    expected, expected_BT = call(case, name, loss, warp)
    # A prompt before, padding after, both full of garbage.
    padded = {}
    for key, value in case.items():
        if value.ndim == 2:
            garbage = {"policy": -math.inf, "reference": math.nan, "mask": False, "mc_successes": 3, "mc_rollouts": 7}
            wide = np.full((len(value), 3 + value.shape[1] + 2), garbage[key], dtype=value.dtype)
            wide[:, 3:-2] = np.where(case["mask"], value, garbage[key])
            value = wide
        padded[key] = value
    mean, gradient_BT = call(padded, name, loss, warp)
    assert mean.item() == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient_BT[:, 3:-2], expected_BT, rtol=1e-9, atol=1e-15)
    assert (gradient_BT[~padded["mask"]] == 0).all()


TOTALS = [-1e4, -1e3, -88.0, -11.5, -2.0, -1e-3, 0.0, 1e-3, 1.0, 50.0]
"""Q/β of whole responses."""


@pytest.mark.parametrize("num_tokens", [1, 2, 1000, 32_768])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_right_for_extreme_q_and_any_length(num_tokens: int, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(num_tokens)
    for reward in (0.0, -1.0):
        shape = (len(TOTALS), num_tokens)
        reference = generator.normal(-2.0, 0.5, shape).astype(np.float32)
        step = np.array(TOTALS)[:, None] / num_tokens
        rollouts = np.full(shape, 10) * (np.arange(num_tokens) % max(num_tokens // 8, 1) == 0)
        # The oracle starts from the float32 numbers as they are.
        case: Case = {
            "policy": (reference + step).astype(np.float32),
            "reference": reference,
            "mask": np.ones(shape, dtype=bool),
            "reward": np.full(len(TOTALS), reward),
            "value": np.full(len(TOTALS), -0.125),
            "mc_successes": rollouts * 3 // 10,
            "mc_rollouts": rollouts,
        }
        for name, loss, warp in COMBINATIONS:
            mean, gradient_BT = call(case, name, loss, warp, dtype)
            expected, expected_BT = oracle.objective(case, name, loss, warp)
            what = f"{name} {loss} {warp} reward {reward}"
            assert mean.item() == pytest.approx(expected, rel=1e-4), what
            scale_B = np.abs(expected_BT).max(axis=1, keepdims=True)
            tolerance = 1e-9 if dtype == torch.float64 else 1e-3
            error_BT = np.abs(gradient_BT - expected_BT)
            assert (error_BT <= tolerance * scale_B + 1e-7).all(), what


def test_warps_are_injective_where_values_lie() -> None:
    grid = torch.linspace(-15.0, 15.0, 2001, dtype=torch.float64)
    for name, warp in WARPS.items():
        assert (warp(grid).diff() > 0).all(), name


def test_an_unknown_warp_and_one_that_does_not_go_with_the_loss_are_refused() -> None:
    data = [torch.from_numpy(value) for value in oracle.random_case(0).values()][:5]
    with pytest.raises(ValueError, match=r"warp 'cube': terminal_q with loss squared takes none or sigmoid or"):
        terminal_q(*data, beta=BETA, loss="squared", warp="cube")
    with pytest.raises(ValueError, match=r"warp 'none': advantage with loss cross_entropy takes sigmoid"):
        advantage(*data, beta=BETA, warp="none")
    with pytest.raises(ValueError, match=r"loss 'huber': reverse_q takes cross_entropy or squared"):
        reverse_q(*data, beta=BETA, loss="huber")
