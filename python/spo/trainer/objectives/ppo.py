"""PPO, the paper's baseline (Sec. 3.1.4, after Gehring et al. 2024), as pure functions of log-probabilities and values.

The reward has the divergence from π0 inside, with SPO's β; the advantages are generalised advantage estimates of a
learned value (Schulman et al. 2016); the ratio is clipped (Schulman et al. 2017); and the loss of what an older policy
sampled is weighted by the ratio of the policies. The value model itself is not known here.

Shapes: B trajectories, T tokens; the value at column t is that of the state *before* token t.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from spo.trainer.objectives.common import Metrics, advantages, mean_and_metrics, mean_where
from spo.trainer.objectives.losses import CLIP_EPSILON
from spo.trainer.objectives.policy_gradient import RATIO_CLIP, clipped_surrogate

WEIGHT_CAP = 5.0
"""Importance weights are cut here: rare tokens must not dominate a batch."""


def ppo(
    policy_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    initial_value_B: Tensor,
    *,
    beta: float,
    behavior_logprobs_BT: Tensor,
    value_BT: Tensor,
    old_logprobs_BT: Tensor | None = None,
    old_value_BT: Tensor | None = None,
    ratio_clip: float = RATIO_CLIP,
    value_clip: float = RATIO_CLIP,
    value_weight: float = 0.5,
    gae_lambda: float = 0.95,
    clip_epsilon: float = CLIP_EPSILON,
) -> tuple[Tensor, Metrics]:
    """The clipped policy loss, weighted by importance, plus the value loss; means over a response's tokens.

    Args:
        policy_logprobs_BT: ln πθ of each token; carries the policy's gradient.
        reference_logprobs_BT: ln π0 of the same tokens.
        mask_BT: True at response tokens.
        reward_B: 0 or −1.
        initial_value_B: Q̂_0, for the metrics only.
        beta: Weight of the divergence in the reward.
        behavior_logprobs_BT: ln of the probability that each token was drawn with.
        value_BT: The value model's; carries its gradient.
        old_logprobs_BT: What πθ is clipped to; the sampler's, unless given. Then the ratio itself is the importance
            weight, as in the paper; if it is a policy between the two, the loss is weighted by its ratio to the
            sampler's besides.
        old_value_BT: The values then; now, unless given.
        ratio_clip: How far πθ may move away from `old_logprobs_BT`.
        value_clip: How far values may move away from `old_value_BT`.
        value_weight: Of the value loss.
        gae_lambda: λ of the advantage estimates.
        clip_epsilon: For the metric only.
    """
    old_BT = behavior_logprobs_BT if old_logprobs_BT is None else old_logprobs_BT
    baseline_BT = value_BT.detach() if old_value_BT is None else old_value_BT
    token_reward_BT = soft_rewards(old_BT, reference_logprobs_BT, mask_BT, reward_B, beta=beta)
    advantage_BT, return_BT = generalised_advantages(token_reward_BT, baseline_BT, mask_BT, gae_lambda=gae_lambda)
    surrogate_BT, metrics = clipped_surrogate(policy_logprobs_BT, old_BT, advantage_BT, mask_BT, ratio_clip=ratio_clip)
    weight_BT = importance_weights(old_BT, behavior_logprobs_BT, mask_BT)
    value_loss_BT = clipped_value_loss(value_BT, baseline_BT, return_BT, mask_BT, value_clip=value_clip)
    loss_BT = weight_BT * surrogate_BT + value_weight * value_loss_BT
    loss_B = loss_BT.sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)
    gain_B = advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta).sum(dim=1)
    mean, shared = mean_and_metrics(
        loss_B, initial_value_B + gain_B, reward_B, initial_value_B, beta=beta, clip_epsilon=clip_epsilon
    )
    with torch.no_grad():
        metrics["loss/importance_weight"] = mean_where(weight_BT, mask_BT)
        metrics["loss/value"] = mean_where(value_loss_BT, mask_BT)
    return mean, shared | metrics


def soft_rewards(
    policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, reward_B: Tensor, *, beta: float
) -> Tensor:
    """The reward of each token, −β ln(πθ/π0), and r besides at the last one; no gradient flows into it."""
    penalty_BT = -advantages(policy_logprobs_BT, reference_logprobs_BT, mask_BT, beta=beta)
    later_BT = mask_BT.flip(1).cumsum(dim=1).flip(1)
    return torch.where(mask_BT & (later_BT == 1), penalty_BT + reward_B[:, None], penalty_BT).detach()


def generalised_advantages(
    token_reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, *, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Â_t = Σ_k λ^k δ_{t+k} with δ_t = r_t + V_{t+1} − V_t and no discount, and the returns Â_t + V_t.

    Response tokens must follow each other; the value after the last is 0.
    """
    value_BT = torch.where(mask_BT, value_BT, 0.0)
    next_value_BT = functional.pad(value_BT[:, 1:], (0, 1))
    advantage_BT = torch.where(mask_BT, token_reward_BT + next_value_BT - value_BT, 0.0)
    reach = 1
    while reach < advantage_BT.shape[1]:
        # Each has the errors of `reach` tokens by now, and gets those of as many again: no loop over tens of thousands.
        advantage_BT = advantage_BT + gae_lambda**reach * functional.pad(advantage_BT[:, reach:], (0, reach))
        reach *= 2
    advantage_BT = torch.where(mask_BT, advantage_BT, 0.0)
    return advantage_BT, torch.where(mask_BT, advantage_BT + value_BT, 0.0)


def importance_weights(policy_logprobs_BT: Tensor, behavior_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The weight πθ/πb of each token, cut at `WEIGHT_CAP`, without gradient; 0 where masked (Sec. 3.1.4)."""
    log_ratio_BT = torch.where(mask_BT, policy_logprobs_BT - behavior_logprobs_BT, 0.0).detach()
    return torch.where(mask_BT, log_ratio_BT.exp().clamp(max=WEIGHT_CAP), 0.0)


def clipped_value_loss(
    value_BT: Tensor, old_value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, *, value_clip: float
) -> Tensor:
    """½ max((V − R)², (Vold + clip(V − Vold, ±ε) − R)²) of each token, 0 where masked."""
    near_BT = old_value_BT + (value_BT - old_value_BT).clamp(-value_clip, value_clip)
    worse_BT = torch.maximum((value_BT - return_BT).square(), (near_BT - return_BT).square())
    return torch.where(mask_BT, 0.5 * worse_BT, 0.0)
