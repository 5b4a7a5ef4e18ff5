"""Trajectories as records: read from a store some at a time, and the same under another source or with other fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spo.store import Trajectory, TrajectoryStore

READ_AT_ONCE = 1024
"""Trajectories decoded in one call when a store is gone through."""

_FIELDS = (
    "problem_id", "prompt_tokens", "response_tokens", "reward", "verdict", "source", "behavior_logprobs",
    "reference_logprobs", "min_policy_version", "max_policy_version", "temperature", "top_p", "seed", "metadata",
    "mc_successes",
)  # fmt: skip


def read_all(store: TrajectoryStore, ids: Sequence[int]) -> Iterator[tuple[int, Trajectory]]:
    """Ids with their trajectories, decoded some at a time."""
    for start in range(0, len(ids), READ_AT_ONCE):
        part = list(ids[start : start + READ_AT_ONCE])
        yield from zip(part, store.read_many(part), strict=True)


def relabelled(trajectory: Trajectory, *, source: str = "", **metadata: str) -> Trajectory:
    """The same record under another source (unless empty) and with more metadata."""
    return changed(trajectory, source=source or trajectory.source, metadata={**trajectory.metadata, **metadata})


def changed(trajectory: Trajectory, **changes: Any) -> Trajectory:
    """The same record but for some fields."""
    return Trajectory(**{name: getattr(trajectory, name) for name in _FIELDS} | changes)
