"""Trajectories to measure stores with: made up, but with the statistics of sampled programs.

Eight responses of a few hundred tokens to a prompt; words and idioms follow Zipf's law, token ids grow only roughly
with rarity (as byte-pair vocabularies do); most log-probabilities are near 0; a few Monte-Carlo counts along each
response. The same seed gives the same trajectories.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 128_000
WORDS = 40_000
IDIOMS = 6_000
GROUP = 8
TRIALS = 16


class Sample(NamedTuple):
    """One trajectory, as arrays that every store gets."""

    problem: str
    prompt: NDArray[np.int32]
    response: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    positions: NDArray[np.uint32]
    successes: NDArray[np.uint32]
    reward: float
    version: int

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt) + len(self.response)

    def targets(self) -> NDArray[np.float32]:
        """The Monte-Carlo estimates as a dense column, constant from one position to the next."""
        lengths = np.diff(self.positions, prepend=0, append=len(self.response))
        return np.repeat(np.append(0, self.successes / TRIALS).astype(np.float32), lengths)


def _zipf(size: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return np.cumsum(weights / weights.sum())


def make_samples(count: int, seed: int = 0, tokens: int = 1_180) -> Iterator[Sample]:
    """Yields `count` trajectories of about `tokens` tokens, a fifth of them the prompt."""
    rng = np.random.default_rng(seed)
    # Rare words have high ids, give or take: a factor of three either way.
    order = np.argsort(np.log(np.arange(1, WORDS + 1)) + rng.normal(0, 1.1, WORDS))
    ids = np.sort(rng.choice(VOCABULARY, WORDS, replace=False))
    token_of = np.empty(WORDS, dtype=np.int32)
    token_of[order] = ids
    words, idioms = _zipf(WORDS, 1.05), _zipf(IDIOMS, 0.9)
    idiom_words = [token_of[np.searchsorted(words, rng.random(rng.integers(2, 9)))] for _ in range(IDIOMS)]

    def text(length: int) -> NDArray[np.int32]:
        parts: list[NDArray[np.int32]] = []
        have = 0
        picks = np.searchsorted(idioms, rng.random(length))
        singles = token_of[np.searchsorted(words, rng.random(length))]
        kinds = rng.random(length)
        for pick, single, kind in zip(picks, singles, kinds, strict=True):
            part = idiom_words[pick] if kind < 0.45 else np.array([single], dtype=np.int32)
            parts.append(part)
            have += len(part)
            if have >= length:
                break
        return np.concatenate(parts)[:length]

    for number in range(count):
        if number % GROUP == 0:
            prompt = text(max(8, int(rng.normal(0.19, 0.05) * tokens)))
        response = text(max(16, int(rng.normal(0.81, 0.25) * tokens)))
        size = len(response)
        surprise = np.where(rng.random(size) < 0.6, rng.exponential(0.004, size), rng.exponential(1.1, size))
        positions = np.unique(rng.integers(0, size, 8)).astype(np.uint32)
        yield Sample(
            problem=f"problem-{number // GROUP}",
            prompt=prompt,
            response=response,
            logprobs=(-surprise).astype(np.float32),
            positions=positions,
            successes=rng.integers(0, TRIALS + 1, len(positions)).astype(np.uint32),
            reward=float(-(rng.random() < 0.7)),
            version=number // 128,
        )
