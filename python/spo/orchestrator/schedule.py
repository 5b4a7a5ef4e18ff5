"""The problem schedule and every seed of a run: pure functions of the run's seed and of positions.

Online work number k samples problem `problem_at(k)`: each epoch is a fresh seeded shuffle of all problems. Which
numbers are done is known from the store (`online.py`), so a resumed run goes through the same problems with the same
seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

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
    """

    def __init__(self, problem_ids: Sequence[str], seed: int) -> None:
        self._problem_ids = tuple(problem_ids)
        self._seed = seed
        self._epoch = -1
        self._order: list[str] = []

    def problem_at(self, position: int) -> str:
        """The problem at a position from 0; each epoch holds every problem once."""
        epoch, index = divmod(position, len(self._problem_ids))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = list(self._problem_ids)
            random.Random(derive_seed(self._seed, "epoch", epoch)).shuffle(self._order)
        return self._order[index]
