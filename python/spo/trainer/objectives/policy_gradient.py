"""The baselines that learn from what the policy itself sampled: policy gradients with clipped ratios, GRPO, and OAPL.

They need the log-probabilities that each token was drawn with (`behavior_logprobs_BT`), so sampling must be from the
policy as it is, temperature 1 and no truncation. PPO, which has a value model besides, is `ppo`'s.

Shapes: B trajectories, T tokens. Rewards are 0 or −1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spo.trainer.objectives.common import Metrics, advantages, mean_and_metrics, mean_where
from spo.trainer.objectives.losses import CLIP_EPSILON

RATIO_CLIP = 0.2
"""How far a ratio of probabilities may be from 1 unless told otherwise (Schulman et al. 2017)."""
_MAX_LOG_RATIO = 20.0
"""Ratios grow linearly beyond its exponential, so that they and their gradients stay finite."""


def policy_gradient(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    behavior_logprobs_BT: Tensor,
    ratio_clip: float = RATIO_CLIP,
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """The clipped policy gradient of L(π) = E[r] − β KL(π ‖ π0) (Eq. 1), with Q̂_0 as its baseline.

    Every token of a response has the advantage r − β Σ ln(πθ/π0) − Q̂_0 = r − Q_T. On-policy the gradient is that of
    −L, and half that of the squared `terminal_q` over β; the optimum of both is π*.

    Args:
        policy_logprobs_BT: ln πθ of each token; carries the gradient.
        reference_logprobs_BT: ln π0 of the same tokens.
        mask_BT: True at response tokens.
        reward_B: 0 or −1.
        initial_value_B: Q̂_0 of each trajectory's problem.
        beta: The temperature β.
        behavior_logprobs_BT: ln of the probability that each token was drawn with.
        ratio_clip: How far πθ/πb may be from 1 before a token has no more gradient.
        clip_epsilon: Of the cross-entropies that it may be combined with: for the metric only.

    Returns:
        The mean loss over the trajectories, each summed over its tokens, and metrics.
    """
    gain_B = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta).sum(dim=1)
    q_terminal_B = initial_value_B + gain_B
    advantage_BT = (reward_B - q_terminal_B).detach()[:, None].expand_as(policy_logprobs_BT)
    loss_BT, ratio_metrics = clipped_surrogate(
        policy_logprobs_BT, behavior_logprobs_BT, advantage_BT, mask_BT, ratio_clip=ratio_clip
    )
    mean, metrics = mean_and_metrics(
        loss_BT.sum(dim=1), q_terminal_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon
    )
    return mean, metrics | ratio_metrics


def grpo(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    behavior_logprobs_BT: Tensor,
    group_success_rate_B: Tensor,
    ratio_clip: float = RATIO_CLIP,
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, Eq. 3 and 4).

    The advantage of every token is (r − mean) / std over the group, the responses to a problem that were sampled
    together; the loss is the clipped surrogate plus β times the estimate π0/πθ − ln(π0/πθ) − 1 of the divergence,
    averaged over a response's tokens.

    Args are those of `policy_gradient`, and:
        group_success_rate_B: Share of each trajectory's group that was accepted, itself included: with rewards 0 and
            −1 it gives mean and standard deviation.
    """
    advantage_B = group_advantages(reward_B, group_success_rate_B)
    surrogate_BT, ratio_metrics = clipped_surrogate(
        policy_logprobs_BT,
        behavior_logprobs_BT,
        advantage_B[:, None].expand_as(policy_logprobs_BT),
        mask_BT,
        ratio_clip=ratio_clip,
    )
    divergence_BT = divergence_estimate(policy_logprobs_BT, reference_logprobs_BT, mask_BT)
    length_B = mask_BT.sum(dim=1).clamp(min=1)
    loss_B = (surrogate_BT + beta * divergence_BT).sum(dim=1) / length_B
    gain_B = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta).sum(dim=1)
    mean, metrics = mean_and_metrics(
        loss_B, initial_value_B + gain_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon
    )
    with torch.no_grad():
        own = {"loss/divergence": mean_where(divergence_BT, mask_BT)}
    return mean, metrics | ratio_metrics | own


def oapl(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    behavior_logprobs_BT: Tensor,
    group_success_rate_B: Tensor,
    value_beta: float = 0.0,
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """Regression on the optimal advantage over the lagged sampler (OAPL; Ritter et al. 2026, arXiv 2602.19362).

    (β Σ ln(πθ/πb) − (r − V̂))², where V̂ = β_V ln mean exp(r/β_V) over the group estimates the soft value under the
    sampler πb. With β_V = β this is squared `terminal_q` with the sampler in place of π0 and the group in place of the
    samples before training, and its optimum for a fixed sampler is πb exp(r/β) / Z; as the sampler follows, the policy
    leaves π0 ever further. Where β is small, r − V̂ is negative in the mean over a group, which rewards any departure
    from the sampler; with β_V of about 1 it is near 0 (A*-PO, arXiv 2505.20686, has two temperatures for that).

    Args are those of `grpo`, π0 and Q̂_0 being for the metrics only, and:
        value_beta: β_V; 0: β.
    """
    ratio_BT = torch.where(mask_BT, policy_logprobs_BT - behavior_logprobs_BT, 0.0)
    value_B = soft_group_value(group_success_rate_B, beta=value_beta or beta)
    loss_B = (beta * ratio_BT.sum(dim=1) - (reward_B - value_B)).square()
    gain_B = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta).sum(dim=1)
    mean, metrics = mean_and_metrics(
        loss_B, initial_value_B + gain_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon
    )
    return mean, metrics | {"loss/importance_ratio": mean_where(_exp(ratio_BT.detach()), mask_BT)}


def group_advantages(reward_B: Tensor, group_success_rate_B: Tensor) -> Tensor:
    """(r − mean) / std within the group, by its share of successes; 0 where all of a group fared alike."""
    mean_B = group_success_rate_B - 1.0
    std_B = (group_success_rate_B * (1.0 - group_success_rate_B)).sqrt()
    return torch.where(std_B > 0, (reward_B - mean_B) / std_B.clamp(min=1e-6), 0.0)


def soft_group_value(group_success_rate_B: Tensor, *, beta: float) -> Tensor:
    """V̂ = β ln mean exp(r/β) over the group, by its share of successes."""
    return beta * torch.logaddexp(group_success_rate_B.log(), torch.log1p(-group_success_rate_B) - 1 / beta)


def clipped_surrogate(
    policy_logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor, *, ratio_clip: float
) -> tuple[Tensor, Metrics]:
    """PPO's −min(ρA, clip(ρ, 1 ± ε)A) of each token, ρ = πθ/πold (Schulman et al. 2017, Eq. 7); 0 where masked.

    Returns:
        The loss of each token, and metrics: the mean ratio, and the share of tokens whose gradient the clip has cut.
    """
    ratio_BT = _exp(torch.where(mask_BT, policy_logprobs_BT - old_logprobs_BT, 0.0))
    clipped_BT = ratio_BT.clamp(1 - ratio_clip, 1 + ratio_clip)
    loss_BT = torch.where(mask_BT, -torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT), 0.0)
    with torch.no_grad():
        is_cut_BT = clipped_BT * advantage_BT < ratio_BT * advantage_BT
        metrics = {
            "loss/importance_ratio": mean_where(ratio_BT, mask_BT),
            "loss/ratio_clipped_fraction": mean_where(is_cut_BT.to(ratio_BT.dtype), mask_BT),
        }
    return loss_BT, metrics


def divergence_estimate(policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """π0/πθ − ln(π0/πθ) − 1 of each token, 0 where masked: never below 0, and in the mean over πθ KL(πθ ‖ π0)."""
    log_ratio_BT = torch.where(mask_BT, reference_logprobs_BT - policy_logprobs_BT, 0.0)
    return _exp(log_ratio_BT) - log_ratio_BT - 1.0


def _exp(log_ratio: Tensor) -> Tensor:
    """The exponential, continued by its tangent beyond `_MAX_LOG_RATIO`."""
    return log_ratio.clamp(max=_MAX_LOG_RATIO).exp() * (1.0 + (log_ratio - _MAX_LOG_RATIO).clamp(min=0.0))
