"""Which online trajectories no batch has had yet: the supply that admission reckons with. Ids and versions only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Unused = list[tuple[int, int]]
"""Ids with least policy versions, in the order in which they came."""


class UnusedOnline:
    """Keeps account of them.

    Args:
        max_staleness: Older ones are forgotten.
        group_size: How many of a problem are drawn together.
        problems_of: The problems of trajectories, where groups are drawn.
    """

    def __init__(
        self, max_staleness: int, group_size: int, problems_of: Callable[[Sequence[int]], Sequence[str]]
    ) -> None:
        self._max_staleness = max_staleness
        self._group_size = group_size
        self._problems_of = problems_of
        self._versions: dict[int, int] = {}
        """Least policy version by id."""
        self._problem_of: dict[int, str] = {}

    def add(self, trajectories: Iterable[tuple[int, int]]) -> None:
        """They have come, ids with least policy versions."""
        self._versions.update(trajectories)

    def drawn(self, ids: Iterable[int]) -> None:
        """A batch has them."""
        for id in ids:
            self._versions.pop(id, None)

    def versions(self, steps_done: int) -> list[int]:
        """Least policy versions of those that a batch can still have."""
        self._versions = {id: v for id, v in self._versions.items() if v + self._max_staleness >= steps_done}
        return list(self._versions.values())

    def num_grouped(self, steps_done: int) -> int:
        """How many of them there are, without those that wait for others of their problem."""
        self.versions(steps_done)
        if self._group_size == 1:
            return len(self._versions)
        self._problem_of = {id: problem for id, problem in self._problem_of.items() if id in self._versions}
        if unknown := [id for id in self._versions if id not in self._problem_of]:
            self._problem_of.update(zip(unknown, self._problems_of(unknown), strict=True))
        counts = Counter(self._problem_of.values()).values()
        return sum(count // self._group_size * self._group_size for count in counts)

    def state(self) -> Unused:
        """All of them, for the checkpoint."""
        return list(self._versions.items())

    def restore(self, state: Unused) -> None:
        """Brings them back to `state`."""
        self._versions = dict(state)
