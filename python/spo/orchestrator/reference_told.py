"""What trainers tell of the reference: its log-probabilities of the trajectories of a batch, for Q̂_0 and for the store.

A rank tells after its step, and ranks need not tell in step, so the last two batches are remembered. Who asks the
reference, and when a batch does without it, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spo.errors import RunFailed
from spo.orchestrator.experience import Experience
from spo.orchestrator.mix import ONLINE
from spo.orchestrator.online_values import ProblemValues
from spo.replay import Batch
from spo.types import ReferenceLogprobs


class _Lacking(NamedTuple):
    """Of which trajectories of a batch the reference's log-probabilities are not stored."""

    ids: list[int]
    """Of the whole batch."""
    lengths: list[int]
    """Response tokens of each."""
    still: set[int]
    """Ids of those that lack them."""
    fresh: set[int]
    """Ids of the online ones that are trained on for the first time, as far as their values were not counted yet."""

    def fit(self, trajectories: Sequence[int], num_values: int) -> bool:
        """Whether there are so many values of these trajectories."""
        known = len(trajectories) > 0 and all(0 <= index < len(self.ids) for index in trajectories)
        return known and sum(self.lengths[index] for index in trajectories) == num_values


class ReferenceTold:
    """Takes what ranks tell.

    Args:
        experience: Where it is kept.
        keeps: Whether it is kept at all.
    """

    def __init__(self, experience: Experience, keeps: bool) -> None:
        self._experience = experience
        self._keeps = keeps
        self._lacking: dict[int, _Lacking] = {}
        """By step."""

    def note(self, step: int, batch: Batch) -> None:
        """The batch of `step` goes out."""
        ids, lengths = batch.ids.tolist(), batch.response_lengths.tolist()
        still = {id for id, has in zip(ids, batch.has_reference_logprobs.tolist(), strict=True) if not has}
        self._lacking = {earlier: one for earlier, one in self._lacking.items() if earlier >= step - 1}
        firsts = zip(ids, batch.uses.tolist(), batch.sources, strict=True)
        fresh = {id for id, uses, source in firsts if uses == 1 and source == ONLINE}
        self._lacking[step] = _Lacking(ids, lengths, still, fresh)

    def take(self, message: ReferenceLogprobs, values: ProblemValues) -> None:
        """Takes what a rank computed: for Q̂_0, and to be stored.

        It is stored of those trajectories that it was not known of: what is kept never changes. `values` counts each
        online trajectory once, when it is trained on for the first time.

        Raises:
            RunFailed: It does not fit the batch.
        """
        lacking = self._lacking.get(message.step)
        logprobs = np.frombuffer(message.logprobs, dtype="<f4")
        if lacking is None or not lacking.fit(message.trajectories, len(logprobs)):
            raise RunFailed(f"a trainer told log-probabilities of step {message.step} that fit no batch")
        parts = np.split(logprobs, np.cumsum([lacking.lengths[index] for index in message.trajectories])[:-1])
        told = {lacking.ids[index]: part for index, part in zip(message.trajectories, parts, strict=True)}
        # In the order of the message, since the average depends on it: not in that of a set.
        fresh = {id: part for id, part in told.items() if id in lacking.fresh}
        lacking.fresh.difference_update(fresh)
        if fresh and values.learns:
            self._count(message.step, fresh, values)
        new = [id for id in told if id in lacking.still and self._keeps]
        if new:
            self._experience.keep_reference_logprobs(new, [told[id] for id in new])
        for batch in self._lacking.values():
            batch.still.difference_update(new)

    def _count(self, step: int, told: Mapping[int, NDArray[np.float32]], values: ProblemValues) -> None:
        ids = list(told)
        columns = self._experience.columns(ids, ["problem_id", "reward", "behavior_logprobs"])
        for id, problem_id, reward, behavior in zip(ids, *columns.values(), strict=True):
            if behavior is None:
                raise RunFailed(
                    f"trajectory {id} has no log-probabilities of its sampler; values.online needs them: switch it off"
                )
            log_ratio = float((told[id].astype(np.float64) - behavior).sum())
            values.count(step, problem_id, log_ratio, reward)
