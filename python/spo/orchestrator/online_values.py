"""Q̂_0 while training goes on: a running average of importance-weighted online samples, problem by problem.

For a response a that the sampler drew with probability b(a), π0(a)/b(a) · exp(r/β) is an unbiased estimate of
exp(Q_0/β) = E_π0[exp(r/β)], whichever policy sampled it; once the policy is optimal, it has no variance at all (Eq. 2).
What the trainers tell of the reference, and what the sampler told of itself, is therefore enough. The average begins at
the reference's counts. When the reference becomes the policy of a step, it begins anew, at the plain successes of the
online samples since the last such change: roughly the new reference's own, and soon outweighed.

`docs/values.md` has the rule in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from spo.reward import ACCEPTED_REWARD
from spo.values import ValueCounts

MAX_RATIO = 10.0
"""Ratios of probabilities are cut here: a few responses that the policy has all but unlearned would decide alone."""
_OLD_WEIGHT = 16.0
"""When the reference changes, what was known of the old one counts like at most so many samples: a few samples alone
would make values of single problems jump, and their mean fall, since the logarithm is concave."""


class ProblemValues(Protocol):
    """Q̂_0 of the problems."""

    learns: bool
    """Whether it wants to be told of samples."""

    def at_step(self, step: int) -> Mapping[str, float]:
        """Q̂_0 by problem, for the batch of a step; steps come in order."""

    def count(self, step: int, problem_id: str, log_ratio: float, reward: float) -> None:
        """Takes a sample in that was trained on in `step`; see `OnlineValues.count`."""

    def mean(self) -> float:
        """The mean over the problems."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""


class FixedValues:
    """Estimated once, before training; see `ProblemValues` for the calls."""

    learns = False

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values
        self._mean = sum(values.values()) / max(1, len(values))

    def at_step(self, step: int) -> Mapping[str, float]:
        """The same at every step."""
        return self._values

    def count(self, step: int, problem_id: str, log_ratio: float, reward: float) -> None:
        """Changes nothing."""

    def mean(self) -> float:
        """The mean over the problems; 0 without any."""
        return self._mean

    def state(self) -> dict[str, Any]:
        """Nothing: the counts are on disk."""
        return {}


class OnlineValues:
    """The running averages of exp(Q_0/β); see `ProblemValues` for the calls.

    Args:
        counts: The reference's, of all training problems.
        beta: The temperature.
        window: An average weighs like at most so many samples against the next one.
        reference_interval: Steps after which the reference becomes the policy; 0 if it never does.
    """

    learns = True

    def __init__(self, counts: ValueCounts, beta: float, window: int, reference_interval: int = 0) -> None:
        self._beta = beta
        self._window = float(window)
        self._interval = reference_interval
        self._failure = math.exp(-1 / beta)
        self._means: dict[str, tuple[float, float]] = {}
        """Weight and mean by problem."""
        for problem_id, one in counts.as_dict().items():
            share = one.successes / one.num_samples
            mean = share + (1 - share) * self._failure
            self._means[problem_id] = min(float(one.num_samples), self._window), mean
        self._recent: dict[str, tuple[int, int]] = {}
        """Accepted and all online samples since the reference last changed."""
        self._num_changes = 0
        """How often the reference has changed."""

    def at_step(self, step: int) -> Mapping[str, float]:
        """Q̂_0 under the reference that the step is trained with."""
        while self._num_changes < self._changes_before(step):
            self._change_reference()
        return {problem_id: self._value(mean) for problem_id, (_, mean) in self._means.items()}

    def count(self, step: int, problem_id: str, log_ratio: float, reward: float) -> None:
        """Takes a sample in; one that was told too late, of an earlier reference, is passed over.

        Args:
            step: In which it was trained on.
            problem_id: Its problem.
            log_ratio: ln π0(a) − ln b(a).
            reward: r.
        """
        if self._changes_before(step) != self._num_changes:
            return
        weight, mean = self._means[problem_id]
        estimate = min(MAX_RATIO, math.exp(min(log_ratio, 100.0))) * math.exp(reward / self._beta)
        self._means[problem_id] = min(weight + 1, self._window), mean + (estimate - mean) / (weight + 1)
        accepted, total = self._recent.get(problem_id, (0, 0))
        self._recent[problem_id] = accepted + (reward == ACCEPTED_REWARD), total + 1

    def mean(self) -> float:
        """The mean over the problems."""
        return sum(self._value(mean) for _, mean in self._means.values()) / len(self._means)

    def state(self) -> dict[str, Any]:
        """All that it knows, as plain values."""
        return {"means": dict(self._means), "recent": dict(self._recent), "num_changes": self._num_changes}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Brings it back to `state`."""
        self._means.update({problem_id: (weight, mean) for problem_id, (weight, mean) in state["means"].items()})
        self._recent = {problem_id: (accepted, total) for problem_id, (accepted, total) in state["recent"].items()}
        self._num_changes = state["num_changes"]

    def _value(self, mean: float) -> float:
        return self._beta * math.log(min(1.0, max(self._failure, mean)))

    def _changes_before(self, step: int) -> int:
        return (step - 1) // self._interval if self._interval else 0

    def _change_reference(self) -> None:
        """The reference becomes the policy whose samples were counted last."""
        self._num_changes += 1
        for problem_id, (accepted, total) in self._recent.items():
            weight, mean = self._means[problem_id]
            kept = min(weight, _OLD_WEIGHT)
            recent = accepted + (total - accepted) * self._failure
            self._means[problem_id] = min(kept + total, self._window), (kept * mean + recent) / (kept + total)
        self._recent.clear()
