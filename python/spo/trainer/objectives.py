"""The objectives (Sec. 3.1): pure functions from log-probabilities and rewards to a loss, with their metrics beside it.

Every objective is called as `name(policy_logprobs_BT, reference_logprobs_BT, mask_BT, reward_B, initial_value_B, *,
beta, loss, clip_epsilon)` and returns the mean loss over the trajectories and its metrics. Sums run over response
tokens only (the mask): prompts, padding and whatever follows the end token do not count.

A metric is a `[2]` tensor of a sum and a count, so that metrics of several micro-batches and ranks are added up first
and divided once, at the end.

Shapes: B trajectories, T tokens. Everything is float32 (float64 in the tests), and in the reward's unit unless divided
by β, which makes a log-probability of it: exp(Q/β) is the probability of success.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from spo.config import ObjectiveConfig

Metrics = dict[str, Tensor]
Objective = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Metrics]]


def advantages(policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, *, beta: float) -> Tensor:
    """The advantage of each response token, 0 elsewhere: A_t = β (ln πθ − ln π0) (Eq. 11)."""
    return beta * torch.where(mask_BT, policy_logprobs_BT - reference_logprobs_BT, 0.0)


def q_values(
    policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, initial_value_B: Tensor, *, beta: float
) -> Tensor:
    """The soft Q-value after each token, Q_t = Q̂_0 + Σ_{t'≤t} A_t' (Eq. 12); the last column is Q_T."""
    advantage_BT = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta)
    return initial_value_B[:, None] + advantage_BT.cumsum(dim=1)


def terminal_q(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    loss: str = "cross_entropy",
    clip_epsilon: float = 0.3,
) -> tuple[Tensor, Metrics]:
    """Fits Q_T to the reward (Sec. 3.1; enough for πθ = π* by Thm 2.4).

    Args:
        policy_logprobs_BT: ln πθ of each token given those before it; carries the gradient.
        reference_logprobs_BT: ln π0 of the same tokens.
        mask_BT: True at response tokens.
        reward_B: 0 or −1.
        initial_value_B: Q̂_0 of each trajectory's problem.
        beta: The temperature β.
        loss: `squared`, of Q_T and r; or `cross_entropy`, of Q_T/β and r/β.
        clip_epsilon: The cross-entropy's clip; see `cross_entropy_loss`.
    """
    q_BT = q_values(policy_logprobs_BT, reference_logprobs_BT, mask_BT, initial_value_B, beta=beta)
    terminal_B = q_BT[:, -1]
    if loss == "squared":
        loss_B = (terminal_B - reward_B).square()
    elif loss == "cross_entropy":
        loss_B = cross_entropy_loss(terminal_B / beta, reward_B / beta, clip_epsilon)
    else:
        raise ValueError(f"loss {loss!r}: terminal_q knows cross_entropy and squared")
    with torch.no_grad():
        metrics = _terminal_metrics(loss_B, terminal_B, terminal_B - initial_value_B, reward_B, beta, clip_epsilon)
    return loss_B.mean(), metrics


def cross_entropy_loss(prediction: Tensor, target: Tensor, clip_epsilon: float) -> Tensor:
    """The binary cross-entropy −x ŷ − (1 − x) ln(1 − exp ŷ), x = exp y, of log-probabilities ŷ and y (Sec. 3.1).

    Estimates of log-probabilities can exceed 0. y is clipped to at most 0. In the second term ŷ is clipped to at most
    −ε, the gradient passing straight through, which bounds a failure's gradient by 1 / (exp ε − 1). The first term is
    x · relu(−ŷ) of the unclipped ŷ, so that nothing rewards pushing ŷ above 0.

    Args:
        prediction: ŷ, of any shape.
        target: y, of the same shape; no gradient flows into it.
        clip_epsilon: ε.
    """
    success = target.detach().clamp(max=0.0).exp()
    clipped = _clip_straight_through(prediction, -clip_epsilon)
    return success * functional.relu(-prediction) - (1.0 - success) * log1mexp(clipped)


def log1mexp(log_probability: Tensor) -> Tensor:
    """ln(1 − exp v) for v < 0, accurate and with a finite gradient both near 0 and far below."""
    near_zero = log_probability > -math.log(2)
    # Each branch only sees values that it is accurate for: the other's infinities would turn into NaN gradients.
    near = torch.where(near_zero, log_probability, -1.0)
    far = torch.where(near_zero, -1.0, log_probability)
    return torch.where(near_zero, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


def _clip_straight_through(value: Tensor, maximum: float) -> Tensor:
    """min(value, maximum), with the gradient of `value`."""
    # `value - value.detach()` is exactly 0, whatever the rounding of `value`; `clamped + value − clamped` is not.
    return value.detach().clamp(max=maximum) + (value - value.detach())


def _terminal_metrics(
    loss_B: Tensor, terminal_B: Tensor, gain_B: Tensor, reward_B: Tensor, beta: float, clip_epsilon: float
) -> Metrics:
    success_B = reward_B > -0.5
    every_B = torch.ones_like(success_B)
    return {
        "loss/objective": _mean(loss_B, every_B),
        "loss/objective_success": _mean(loss_B, success_B),
        "loss/objective_failure": _mean(loss_B, ~success_B),
        "loss/q_terminal": _mean(terminal_B, every_B),
        "loss/q_terminal_success": _mean(terminal_B, success_B),
        "loss/q_terminal_failure": _mean(terminal_B, ~success_B),
        "loss/clipped_fraction": _mean((terminal_B / beta > -clip_epsilon).float(), every_B),
        "loss/log_ratio": _mean(gain_B / beta, every_B),
    }


def _mean(value_B: Tensor, selected_B: Tensor) -> Tensor:
    """The metric "mean of `value_B` where `selected_B`", as sum and count."""
    return torch.stack([torch.where(selected_B, value_B, 0.0).sum(), selected_B.sum().to(value_B.dtype)])


OBJECTIVES: dict[str, Callable[..., tuple[Tensor, Metrics]]] = {"terminal_q": terminal_q}
"""All objectives, under the names that `objective.name` takes."""


def make_objective(config: ObjectiveConfig) -> Objective:
    """The configured objective, as a function of its five tensors."""
    return functools.partial(
        OBJECTIVES[config.name], beta=config.beta, loss=config.loss, clip_epsilon=config.clip_epsilon
    )
