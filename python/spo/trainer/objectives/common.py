"""What all objectives share: advantages, Q-values, and how each trajectory's loss becomes a mean with its metrics.

A metric is a `[2]` tensor of a sum and a count, so that metrics of several micro-batches and ranks are added up first
and divided once, at the end.

Shapes: B trajectories, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

Metrics = dict[str, Tensor]


def advantages(policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, *, beta: float) -> Tensor:
    """The advantage of each response token, 0 elsewhere: A_t = β (ln πθ − ln π0) (Eq. 11)."""
    return beta * torch.where(mask_BT, policy_logprobs_BT - reference_logprobs_BT, 0.0)


def q_values(
    policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, initial_value_B: Tensor, *, beta: float
) -> Tensor:
    """The soft Q-value after each token, Q_t = Q̂_0 + Σ_{t'≤t} A_t' (Eq. 12); the last column is Q_T."""
    advantage_BT = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta)
    return initial_value_B[:, None] + advantage_BT.cumsum(dim=1)


def mean_and_metrics(
    loss_B: Tensor,
    q_terminal_B: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    clip_epsilon: float,
) -> tuple[Tensor, Metrics]:
    """The mean of the trajectories' losses, and the metrics that every objective has."""
    with torch.no_grad():
        metrics = loss_metrics(loss_B, reward_B) | value_metrics(
            q_terminal_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon
        )
    return loss_B.mean(), metrics


def loss_metrics(loss_B: Tensor, reward_B: Tensor) -> Metrics:
    """The objective: of all, of accepted and of failed trajectories."""
    success_B, every_B = by_outcome(reward_B)
    return {
        "loss/objective": mean_where(loss_B, every_B),
        "loss/objective_success": mean_where(loss_B, success_B),
        "loss/objective_failure": mean_where(loss_B, ~success_B),
    }


def value_metrics(
    q_terminal_B: Tensor, reward_B: Tensor, initial_value_B: Tensor, *, beta: float, clip_epsilon: float
) -> Metrics:
    """Q_T: of all, of accepted and of failed trajectories; how much of it the cross-entropy clips; ln πθ/π0."""
    success_B, every_B = by_outcome(reward_B)
    return {
        "loss/q_terminal": mean_where(q_terminal_B, every_B),
        "loss/q_terminal_success": mean_where(q_terminal_B, success_B),
        "loss/q_terminal_failure": mean_where(q_terminal_B, ~success_B),
        "loss/clipped_fraction": mean_where((q_terminal_B / beta > -clip_epsilon).to(q_terminal_B.dtype), every_B),
        "loss/log_ratio": mean_where((q_terminal_B - initial_value_B) / beta, every_B),
    }


def by_outcome(reward_B: Tensor) -> tuple[Tensor, Tensor]:
    """Which trajectories were accepted, and a selection of all of them."""
    success_B = reward_B > -0.5
    return success_B, torch.ones_like(success_B)


def mean_where(value: Tensor, selected: Tensor) -> Tensor:
    """The metric "mean of `value` where `selected`", as sum and count."""
    return torch.stack([torch.where(selected, value, 0.0).sum(), selected.sum().to(value.dtype)])
