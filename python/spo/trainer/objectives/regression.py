"""The regressions of Soft Policy Optimization (Sec. 3.1.2 and 3.1.3): what is predicted, and towards which target.

All have the same optimum, πθ = π* with Q^θ = Q (Thm 2.1), whatever policy the trajectories were sampled from.

Shapes: B trajectories, T tokens. Values are in units of the reward; exp(Q/β) is the probability of success.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spo.objective_rules import resolve_warp
from spo.trainer.objectives.common import Metrics, advantages, mean_and_metrics, mean_where, q_values
from spo.trainer.objectives.losses import CLIP_EPSILON, compare


def terminal_q(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    loss: str = "cross_entropy",
    warp: str = "default",
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """Fits Q_T to the reward (Eq. 13; enough for πθ = π* by Thm 2.4).

    Args:
        policy_logprobs_BT: ln πθ of each token given those before it; carries the gradient.
        reference_logprobs_BT: ln π0 of the same tokens.
        mask_BT: True at response tokens; no other counts.
        reward_B: 0 or −1.
        initial_value_B: Q̂_0 of each trajectory's problem.
        beta: The temperature β.
        loss: `cross_entropy` or `squared`; see `losses.compare`.
        warp: The map that both sides go through first, by name; `default` is the first of `objective_rules.WARPS_OF`.
        clip_epsilon: The cross-entropy's clip; see `losses.cross_entropy_loss`.

    Returns:
        The mean loss over the trajectories, and metrics.

    Raises:
        ValueError: Loss and warp do not go together.
    """
    warp = resolve_warp("terminal_q", loss, warp)
    q_terminal_B = _q_terminal(policy_logprobs_BT, reference_logprobs_BT, mask_BT, initial_value_B, beta)
    loss_B = compare(q_terminal_B, reward_B, beta=beta, loss=loss, warp=warp, clip_epsilon=clip_epsilon)
    return mean_and_metrics(loss_B, q_terminal_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon)


def reverse_q(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    loss: str = "cross_entropy",
    warp: str = "default",
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """Fits Q_t to the reward less the later tokens' advantages, and sums over t (non-terminal, Sec. 3.1.2).

    The target R_t = detach(r − Σ_{t'>t} A_t') is the reward, adjusted for what came after. Under the squared loss
    every term is the terminal error, Q_t − R_t = Q_T − r; earlier tokens only get more gradient.

    Args, return value and errors are those of `terminal_q`.
    """
    warp = resolve_warp("reverse_q", loss, warp)
    q_BT = q_values(policy_logprobs_BT, reference_logprobs_BT, mask_BT, initial_value_B, beta=beta)
    later_BT = q_BT[:, -1:] - q_BT
    target_BT = (reward_B[:, None] - later_BT).detach()
    loss_BT = compare(q_BT, target_BT, beta=beta, loss=loss, warp=warp, clip_epsilon=clip_epsilon)
    loss_B = torch.where(mask_BT, loss_BT, 0.0).sum(dim=1)
    return mean_and_metrics(loss_B, q_BT[:, -1], reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon)


def advantage(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    loss: str = "cross_entropy",
    warp: str = "default",
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """Fits the sum of advantages to r − Q̂_0, both under the sigmoid, by the binary cross-entropy (Sec. 3.1.2).

    The logits are ΣA/β, the labels sigmoid((r − Q̂_0)/β). Under the squared loss without a warp this is `terminal_q`.

    Args, return value and errors are those of `terminal_q`; the clip concerns the metric only.
    """
    warp = resolve_warp("advantage", loss, warp)
    gain_B = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta).sum(dim=1)
    target_B = reward_B - initial_value_B
    loss_B = compare(gain_B, target_B, beta=beta, loss=loss, warp=warp, clip_epsilon=clip_epsilon)
    q_terminal_B = initial_value_B + gain_B
    return mean_and_metrics(loss_B, q_terminal_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon)


def mc_q(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    loss: str = "cross_entropy",
    warp: str = "default",
    clip_epsilon: float = CLIP_EPSILON,
    mc_successes_BT: Tensor | None = None,
    mc_rollouts_BT: Tensor | None = None,
    mc_weight: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """`terminal_q`, plus Q_t fitted to Monte-Carlo estimates at the tokens that have one (Sec. 3.1.3).

    The target is β ln(S_t + (1 − S_t) exp(−1/β)), S_t being the share of the reference's continuations from after
    token t that succeeded. Under the cross-entropy the loss is unbiased for unbiased S_t. The terms of a trajectory's
    estimates are summed; one without estimates contributes its terminal term alone.

    Args, return value and errors are those of `terminal_q`, and:
        mc_successes_BT: Successful continuations, at tokens that were estimated; any real dtype.
        mc_rollouts_BT: All continuations from there; 0 where there is no estimate. None: nowhere.
        mc_weight: Weight of the Monte-Carlo terms beside the terminal one.
    """
    warp = resolve_warp("mc_q", loss, warp)
    q_BT = q_values(policy_logprobs_BT, reference_logprobs_BT, mask_BT, initial_value_B, beta=beta)
    q_terminal_B = _q_terminal(policy_logprobs_BT, reference_logprobs_BT, mask_BT, initial_value_B, beta)
    loss_B = compare(q_terminal_B, reward_B, beta=beta, loss=loss, warp=warp, clip_epsilon=clip_epsilon)
    loss_BT, is_target_BT = torch.zeros_like(q_BT), torch.zeros_like(mask_BT)
    if mc_successes_BT is not None and mc_rollouts_BT is not None:
        target_BT = mc_targets(mc_successes_BT, mc_rollouts_BT, beta=beta, dtype=q_BT.dtype)
        loss_BT = compare(q_BT, target_BT, beta=beta, loss=loss, warp=warp, clip_epsilon=clip_epsilon)
        is_target_BT = mask_BT & (mc_rollouts_BT > 0)
    loss_B = loss_B + mc_weight * torch.where(is_target_BT, loss_BT, 0.0).sum(dim=1)
    mean, metrics = mean_and_metrics(
        loss_B, q_terminal_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon
    )
    with torch.no_grad():
        num_targets_B = is_target_BT.sum(dim=1).to(q_BT.dtype)
        every_B = torch.ones_like(reward_B, dtype=torch.bool)
        own = {
            "loss/mc_targets": mean_where(num_targets_B, every_B),
            "loss/mc_annotated_fraction": mean_where((num_targets_B > 0).to(q_BT.dtype), every_B),
            "loss/mc_objective": mean_where(loss_BT, is_target_BT),
        }
    return mean, metrics | own


def mc_targets(successes_BT: Tensor, rollouts_BT: Tensor, *, beta: float, dtype: torch.dtype) -> Tensor:
    """β ln(S + (1 − S) exp(−1/β)) of counts (Sec. 3.1.3); something finite where there are no rollouts."""
    rate_BT = successes_BT.to(dtype) / rollouts_BT.to(dtype).clamp(min=1)
    return beta * torch.logaddexp(rate_BT.log(), torch.log1p(-rate_BT) - 1 / beta)


def _q_terminal(
    policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, initial_value_B: Tensor, beta: float
) -> Tensor:
    """Q_T, as a sum: over tens of thousands of tokens it is more accurate than the end of a running sum."""
    return initial_value_B + advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta).sum(dim=1)
