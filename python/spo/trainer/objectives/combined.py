"""The configured objective: a weighted sum of objectives, each of all trajectories or of those of some sources.

The mean is over all trajectories of the batch: a term that concerns some of them counts the others as 0, so that
micro-batches add up whatever is in them (Sec. 3.1: objectives may differ by source; by Thm 2.1 the regressions share
one optimum).

Shapes: B trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spo.config import ObjectiveConfig, ObjectiveTerm
from spo.objective_rules import objective_terms
from spo.trainer.objectives.common import Metrics, advantages, by_outcome, value_metrics
from spo.trainer.objectives.policy_gradient import grpo, oapl, policy_gradient
from spo.trainer.objectives.ppo import ppo
from spo.trainer.objectives.regression import advantage, mc_q, reverse_q, terminal_q

OBJECTIVES: dict[str, Callable[..., tuple[Tensor, Metrics]]] = {
    "terminal_q": terminal_q,
    "reverse_q": reverse_q,
    "advantage": advantage,
    "mc_q": mc_q,
    "policy_gradient": policy_gradient,
    "grpo": grpo,
    "oapl": oapl,
    "ppo": ppo,
}
"""All objectives, under the names that `objective.name` takes."""

_TENSORS: dict[str, tuple[str, ...]] = {
    "mc_q": ("mc_successes_BT", "mc_rollouts_BT"),
    "policy_gradient": ("behavior_logprobs_BT",),
    "grpo": ("behavior_logprobs_BT", "group_success_rate_B"),
    "oapl": ("behavior_logprobs_BT", "group_success_rate_B"),
    "ppo": ("behavior_logprobs_BT", "value_BT"),
}
"""What an objective takes beyond the five tensors that all take."""
_SETTINGS: dict[str, tuple[str, ...]] = {
    "mc_q": ("loss", "warp", "mc_weight"),
    "policy_gradient": ("ratio_clip",),
    "grpo": ("ratio_clip",),
    "oapl": ("value_beta",),
    "ppo": ("ratio_clip", "gae_lambda", "value_weight"),
}
"""Which settings an objective takes beyond `beta` and `clip_epsilon`: loss and warp, unless said here."""
_LOSS_METRICS = ("loss/objective", "loss/objective_success", "loss/objective_failure")


@dataclass(frozen=True)
class _Term:
    """One summand."""

    compute: Callable[..., tuple[Tensor, Metrics]]
    options: dict[str, Any]
    extras: tuple[str, ...]
    weight: float
    sources: tuple[str, ...]
    """Whose trajectories it is of; none: all."""


class Objective:
    """The configured objective, as a function of a micro-batch; see the module's head."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._beta = config.beta
        self._clip_epsilon = config.clip_epsilon
        self._terms = [
            _Term(
                OBJECTIVES[term.name],
                _options(config, term),
                _TENSORS.get(term.name, ()),
                term.weight,
                term.sources,
            )
            for _, term in objective_terms(config)
        ]

    def __call__(
        self,
        policy_logprobs_BT: Tensor,
        reference_logprobs_BT: Tensor,
        mask_BT: Tensor,
        reward_B: Tensor,
        initial_value_B: Tensor,
        *,
        sources: Sequence[str] = (),
        **extras: Tensor | None,
    ) -> tuple[Tensor, Metrics]:
        """The mean loss over the trajectories, and its metrics: the same names whatever is in the batch.

        Args:
            policy_logprobs_BT: ln πθ of each token given those before it; carries the gradient.
            reference_logprobs_BT: ln π0 of the same tokens.
            mask_BT: True at response tokens.
            reward_B: 0 or −1.
            initial_value_B: Q̂_0 of each trajectory's problem.
            sources: Of each trajectory; may be left out where no term asks for one.
            extras: What some objectives take besides, by name; those that no term takes are ignored.

        Raises:
            TypeError: An extra that a term cannot do without is missing.
        """
        shared = (policy_logprobs_BT, reference_logprobs_BT, mask_BT, reward_B, initial_value_B)
        # Also where no term concerns any trajectory, the loss leads back to all that is trained: ranks go backward
        # through the same models, or they wait for each other forever.
        learnt = (value for value in extras.values() if value is not None and value.requires_grad)
        sums = [torch.where(mask_BT, value_BT, 0.0).sum() for value_BT in (policy_logprobs_BT, *learnt)]
        loss = torch.stack(sums).sum() * 0.0
        metrics: Metrics = {}
        for term in self._terms:
            rows = _rows_of(term.sources, sources, reward_B)
            given = {name: value[rows] for name in term.extras if (value := extras.get(name)) is not None}
            mean, found = term.compute(*(value[rows] for value in shared), **given, **term.options)
            if len(rows):
                loss = loss + term.weight * len(rows) / len(reward_B) * mean
            for name, sum_and_count in found.items():
                weighted = sum_and_count * term.weight if name in _LOSS_METRICS else sum_and_count
                metrics[name] = metrics[name] + weighted if name in metrics else weighted
        return loss, metrics | self._whole(metrics, shared)

    def _whole(self, metrics: Metrics, shared: tuple[Tensor, ...]) -> Metrics:
        """The metrics that are of all trajectories, however many terms each had a part in."""
        policy_BT, reference_BT, mask_BT, reward_B, initial_value_B = shared
        success_B, every_B = by_outcome(reward_B)
        with torch.no_grad():
            gain_B = advantages(policy_BT, reference_BT, mask_BT, beta=self._beta).sum(dim=1)
            whole = value_metrics(
                initial_value_B + gain_B, reward_B, initial_value_B, beta=self._beta, clip_epsilon=self._clip_epsilon
            )
            for name, selected_B in zip(_LOSS_METRICS, (every_B, success_B, ~success_B), strict=True):
                whole[name] = torch.stack([metrics[name][0], selected_B.sum().to(gain_B.dtype)])
        return whole


def make_objective(config: ObjectiveConfig) -> Objective:
    """The configured objective."""
    return Objective(config)


def _options(config: ObjectiveConfig, term: ObjectiveConfig | ObjectiveTerm) -> dict[str, Any]:
    options: dict[str, Any] = {"beta": config.beta, "clip_epsilon": config.clip_epsilon}
    for setting in _SETTINGS.get(term.name, ("loss", "warp")):
        options[setting] = getattr(term if setting in ("loss", "warp") else config, setting)
    return options


def _rows_of(wanted: tuple[str, ...], sources: Sequence[str], reward_B: Tensor) -> Tensor:
    """Indices of the trajectories whose source is wanted: int64 [rows]."""
    if not wanted:
        return torch.arange(len(reward_B), device=reward_B.device)
    if len(sources) != len(reward_B):
        raise ValueError(f"a term asks for sources {wanted}, but {len(sources)} of {len(reward_B)} are given")
    rows = [row for row, source in enumerate(sources) if source in wanted]
    return torch.tensor(rows, dtype=torch.int64, device=reward_B.device)
