"""The reference samples of one problem: which are stored, which are due, and which count.

A problem has its samples once there are `num_samples`, or, where an interval is asked for, as soon as the 95% interval
of its success rate is narrow enough. That is looked at after every `LOOK_INTERVAL` samples, in the order of their
indices: so how many count follows from the samples, not from when they came in, and a later run comes to the same.
"""

from __future__ import annotations

import itertools
from array import array
from collections import deque

from spo.values import ProblemCounts, success_interval

LOOK_INTERVAL = 32
"""Samples between two looks at the interval."""
_MISSING = -1


class Tally:
    """One problem's samples.

    Args:
        num_samples: How many are wanted at most.
        interval_width: How wide the interval of the success rate may be; 0 where `num_samples` are wanted in any case.
    """

    def __init__(self, num_samples: int, interval_width: float = 0.0) -> None:
        self._limit = num_samples
        self._width = interval_width
        self.wanted = min(num_samples, LOOK_INTERVAL) if interval_width > 0 else num_samples
        """How many are wanted as far as is known."""
        self.due: deque[int] = deque()
        """Indices that are to be sampled."""
        self._ids = array("q")
        self._accepted = bytearray()
        self._num_stored = 0
        self._num_on_way = 0
        self._next_index = 0
        self._counts: ProblemCounts | None = None
        """What `counts` found, while it still holds: of thousands of problems, few have changed since the last time."""

    @property
    def num_done(self) -> int:
        """How many of the wanted ones are stored."""
        return min(self._num_stored, self.wanted)

    @property
    def is_complete(self) -> bool:
        """Whether all wanted ones are stored."""
        return self._num_stored >= self.wanted

    def has(self, index: int) -> bool:
        """Whether this sample is stored."""
        return index < len(self._ids) and self._ids[index] != _MISSING

    def add(self, index: int, id: int, accepted: bool) -> None:
        """Sample `index` is stored under `id`; the first of an index counts."""
        while len(self._ids) <= index:
            self._ids.append(_MISSING)
            self._accepted.append(False)
        if self._ids[index] == _MISSING:
            self._ids[index] = id
            self._accepted[index] = accepted
            self._num_stored += 1
            self._counts = None

    def plan(self) -> None:
        """Finds what is due, now that further samples are stored or could not be judged."""
        while self.is_complete and self.wanted < self._limit and self._interval_width() > self._width:
            self.wanted = min(self.wanted + LOOK_INTERVAL, self._limit)
            self._counts = None
        for _ in range(self.wanted - self._num_stored - self._num_on_way - len(self.due)):
            while self.has(self._next_index):
                self._next_index += 1
            self.due.append(self._next_index)
            self._next_index += 1

    def hand_out(self, count: int) -> list[int]:
        """Takes this many of the due indices away."""
        self._num_on_way += count
        return [self.due.popleft() for _ in range(count)]

    def came_back(self, count: int) -> None:
        """So many of those that were handed out are stored or will not be."""
        self._num_on_way -= count

    def counts(self) -> ProblemCounts:
        """The counts of the samples that count."""
        if self._counts is None:
            places = self._counted()
            self._counts = ProblemCounts(sum(self._accepted[place] for place in places), len(places))
        return self._counts

    def accepted(self) -> list[int]:
        """The ids of the accepted ones among them, in the order of their indices."""
        return [self._ids[place] for place in self._counted() if self._accepted[place]]

    def _counted(self) -> list[int]:
        stored = (index for index, id in enumerate(self._ids) if id != _MISSING)
        return list(itertools.islice(stored, self.wanted))

    def _interval_width(self) -> float:
        counts = self.counts()
        low, high = success_interval(counts.successes, counts.num_samples)
        return high - low
