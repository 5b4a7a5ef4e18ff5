"""The objectives (Sec. 3.1): pure functions from log-probabilities and rewards to a loss, with their metrics beside it.

Every objective is called as `name(policy_logprobs_BT, reference_logprobs_BT, mask_BT, reward_B, initial_value_B, *,
beta, loss, …)` and returns the mean loss over the trajectories and its metrics. Sums run over response tokens only (the
mask): prompts, padding and whatever follows the end token do not count. `regression` has those of the paper, `losses`
how predictions are compared, `policy_gradient` and `ppo` the baselines, `combined` the weighted sum that the settings
ask for. Formulas and names stand side by side in `docs/objectives.md`.

Shapes: B trajectories, T tokens. Everything is float32 (float64 in the tests), and in the reward's unit unless divided
by β, which makes a log-probability of it: exp(Q/β) is the probability of success.
"""

from spo.trainer.objectives.combined import OBJECTIVES, Objective, make_objective
from spo.trainer.objectives.common import Metrics, advantages, q_values
from spo.trainer.objectives.losses import WARPS, compare, cross_entropy_loss, log1mexp
from spo.trainer.objectives.policy_gradient import grpo, oapl, policy_gradient
from spo.trainer.objectives.ppo import ppo
from spo.trainer.objectives.regression import advantage, mc_q, mc_targets, reverse_q, terminal_q

__all__ = [
    "OBJECTIVES",
    "WARPS",
    "Metrics",
    "Objective",
    "advantage",
    "advantages",
    "compare",
    "cross_entropy_loss",
    "grpo",
    "log1mexp",
    "make_objective",
    "mc_q",
    "mc_targets",
    "oapl",
    "policy_gradient",
    "ppo",
    "q_values",
    "reverse_q",
    "terminal_q",
]
