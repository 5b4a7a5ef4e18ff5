"""The problem schedule and every seed of a run: functions of the run's seed, of positions and of the problems' shares.

Online work number k samples problem `problem_at(k)`. An epoch has as many places as there are problems: without shares
each problem has one, in a fresh seeded shuffle; with shares a problem has its share of the places, rounded up or down.
Which numbers are done is known from the store (`online.py`), so a resumed run goes through the same problems with the
same seeds.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

_SEED_BITS = 63


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits that is a function of `parts` alone, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - _SEED_BITS)


def draw_temperature(seed: int, low: float, high: float) -> float:
    """The temperature of the request with this seed, uniform in [low, high] (Sec. 5)."""
    return low + (high - low) * (derive_seed(seed, "temperature") / (1 << _SEED_BITS))


class ProblemSchedule:
    """Which problem comes at which position.

    Args:
        problem_ids: All problems, in any fixed order.
        seed: Of the shuffles.
        shares: Given the number of an epoch that begins, how much of it each problem gets, in sum 1; None: all the
            same.
    """

    def __init__(
        self, problem_ids: Sequence[str], seed: int, shares: Callable[[int], Sequence[float]] | None = None
    ) -> None:
        self._problem_ids = tuple(problem_ids)
        self._known = frozenset(problem_ids)
        self._seed = seed
        self._shares = shares
        self._epoch = -1
        self._order: list[int] = []

    def problem_at(self, position: int) -> str:
        """The problem at a position from 0."""
        epoch, index = divmod(position, len(self._problem_ids))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._drawn(epoch)
        return self._problem_ids[self._order[index]]

    def __contains__(self, problem_id: str) -> bool:
        return problem_id in self._known

    def state(self) -> dict[str, Any]:
        """The current epoch: where shares change, what is known later would give another order."""
        return {"epoch": self._epoch, "order": self._order if self._shares else []}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on in the epoch of a checkpoint, unless the problems are others now."""
        if self._shares and len(state["order"]) == len(self._problem_ids):
            self._epoch, self._order = state["epoch"], list(state["order"])

    def _drawn(self, epoch: int) -> list[int]:
        places = list(range(len(self._problem_ids)))
        if self._shares is not None:
            offset = derive_seed(self._seed, "shares", epoch) / (1 << _SEED_BITS)
            places = apportioned(self._shares(epoch), offset)
        random.Random(derive_seed(self._seed, "epoch", epoch)).shuffle(places)
        return places


def apportioned(shares: Sequence[float], offset: float) -> list[int]:
    """As many places as there are shares, each given to an index: its share of them, rounded up or down.

    Over offsets that are uniform in [0, 1) an index has its exact share on average (systematic sampling).

    Args:
        shares: In sum 1, up to rounding.
        offset: In [0, 1).
    """
    totals = list(itertools.accumulate(shares))
    # An offset close to 1 is rounded up by the sum.
    ends = [min(math.floor(total / totals[-1] * len(shares) + offset), len(shares)) for total in totals]
    return [index for index, (start, end) in enumerate(itertools.pairwise([0, *ends])) for _ in range(start, end)]
