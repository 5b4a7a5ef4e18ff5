"""What some objectives need of a batch beyond what the buffer packs, read from the store by the trajectories' ids.

The log-probabilities that tokens were drawn with, how the responses sampled together with each fared, and Monte-Carlo
counts. The stored records are all it takes, so a resumed or replayed run has the same. What an objective does with
these is not known here.

Shapes: R rows, T tokens in a row, B trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spo.config import ObjectiveConfig
from spo.errors import RunFailed
from spo.objective_rules import GROUPED, SAMPLED, objective_terms
from spo.orchestrator.mix import ONLINE
from spo.replay import Batch
from spo.reward import ACCEPTED_REWARD
from spo.store import Trajectory

GROUP_KEY = "group"
"""Metadata of an online trajectory: how many of those sampled together were accepted, as `3/4`."""
MC_OBJECTIVE = "mc_q"

Columns = dict[str, list[Any]]
ReadColumns = Callable[[Sequence[int], Sequence[str]], Columns]
"""Columns of stored records by their ids, as `TrajectoryStore.read_many` gives them."""


class Extras(NamedTuple):
    """See `spo.types.Batch`; None where the objective needs none."""

    behavior_logprobs: npt.NDArray[np.float32] | None = None
    """[R, T]."""
    group_success_rates: npt.NDArray[np.float32] | None = None
    """[B]."""
    mc_successes: npt.NDArray[np.uint16] | None = None
    """[R, T]."""
    mc_rollouts: npt.NDArray[np.uint16] | None = None
    """[R, T]."""

    def of_rows(self, rows: slice) -> dict[str, bytes]:
        """Some rows of these, as the fields of `spo.types.Batch`."""
        by_token = {name: value for name, value in self._asdict().items() if value is not None}
        by_trajectory = by_token.pop("group_success_rates", None)
        fields = {name: np.ascontiguousarray(value[rows]).tobytes() for name, value in by_token.items()}
        return fields if by_trajectory is None else {**fields, "group_success_rates": by_trajectory.tobytes()}


def group_label(trajectories: Sequence[Trajectory]) -> str:
    """What `GROUP_KEY` says of trajectories that were sampled together."""
    return f"{sum(item.reward == ACCEPTED_REWARD for item in trajectories)}/{len(trajectories)}"


def extras_of(batch: Batch, objective: ObjectiveConfig, read: ReadColumns) -> Extras:
    """What the objective needs of a batch.

    Raises:
        RunFailed: An online trajectory lacks it.
    """
    names = {term.name for _, term in objective_terms(objective)}
    extras = Extras()
    if names & SAMPLED:
        extras = extras._replace(behavior_logprobs=_behavior_logprobs(batch, read))
    if names & GROUPED:
        extras = extras._replace(group_success_rates=_group_success_rates(batch, read))
    if MC_OBJECTIVE in names:
        successes, rollouts = _mc_counts(batch, read)
        extras = extras._replace(mc_successes=successes, mc_rollouts=rollouts)
    return extras


def _behavior_logprobs(batch: Batch, read: ReadColumns) -> npt.NDArray[np.float32]:
    if batch.behavior_logprobs is not None:
        return batch.behavior_logprobs
    logprobs = np.zeros(batch.tokens.shape, np.float32)
    for index, values in enumerate(read(batch.ids.tolist(), ["behavior_logprobs"])["behavior_logprobs"]):
        if values is not None:
            row, start = _place(batch, index)
            logprobs[row, start : start + len(values)] = values
        elif batch.sources[index] == ONLINE:
            raise RunFailed(
                f"trajectory {batch.ids[index]} has no log-probabilities of its sampler, which the objective needs; "
                "take another objective.name"
            )
    return logprobs


def _group_success_rates(batch: Batch, read: ReadColumns) -> npt.NDArray[np.float32]:
    rates = np.full(len(batch.ids), np.nan, np.float32)
    for index, metadata in enumerate(read(batch.ids.tolist(), ["metadata"])["metadata"]):
        if GROUP_KEY in metadata:
            accepted, total = map(int, metadata[GROUP_KEY].split("/"))
            rates[index] = accepted / total
        elif batch.sources[index] == ONLINE:
            raise RunFailed(
                f"trajectory {batch.ids[index]} does not say how those sampled with it fared, which the objective "
                "needs; take another objective.name"
            )
    return rates


def _mc_counts(batch: Batch, read: ReadColumns) -> tuple[npt.NDArray[np.uint16] | None, npt.NDArray[np.uint16] | None]:
    counts_B = read(batch.ids.tolist(), ["mc_successes"])["mc_successes"]
    if all(counts is None for counts in counts_B):
        return None, None
    successes, rollouts = np.zeros(batch.tokens.shape, np.uint16), np.zeros(batch.tokens.shape, np.uint16)
    for index, counts in enumerate(counts_B):
        if counts is not None:
            row, start = _place(batch, index)
            positions, accepted, trials = (np.asarray(value, np.int64) for value in counts)
            # A position is the number of response tokens before it; what comes before the first is the prompt's value.
            inside = positions > 0
            successes[row, start + positions[inside] - 1] = accepted[inside]
            rollouts[row, start + positions[inside] - 1] = trials[inside]
    return successes, rollouts


def _place(batch: Batch, index: int) -> tuple[int, int]:
    """Row of a trajectory, and column of its first response token."""
    return int(batch.rows[index]), int(batch.starts[index]) + int(batch.prompt_lengths[index])
