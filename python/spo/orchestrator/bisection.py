"""Pivotal Token Search on one response: where the reference's success probability changes along it (Sec. 3.1.3).

Position t stands for the response's first t tokens; S_t is the success probability of the reference's continuations.
Both ends of an interval are estimated; where they differ by the threshold or more, its middle is, and both halves are
gone into alike, down to single tokens (Abdin et al. 2024). Whoever calls says how S_t is estimated: nothing is sampled
here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
import trio

from spo.values import ProblemCounts

Estimate = Callable[[int], Awaitable[ProblemCounts]]
"""Counts the successes of continuations from a position."""
Interval = tuple[int, int]


class SearchSettings(msgspec.Struct, frozen=True):
    """How finely is searched."""

    num_rollouts: int = 10
    """K: continuations from each visited position."""
    threshold: float = 0.2
    """Intervals whose ends differ by less are not gone into."""
    budget: int = 400
    """The most continuations of one response."""


class PivotalToken(msgspec.Struct, frozen=True):
    """A token that changes the success probability by the threshold or more."""

    position: int
    """Response tokens before it."""
    before: float
    """Success probability before it."""
    after: float
    """Success probability after it."""


class SearchResult(msgspec.Struct, frozen=True):
    """What a search found."""

    counts: dict[int, ProblemCounts]
    """Of every visited position, from 0; the end of the response, whose reward is known, is not among them."""
    pivotal: list[PivotalToken]
    """In the order of their positions."""
    is_complete: bool
    """Whether the budget sufficed to go into every interval that asked for it."""


async def search(length: int, estimate: Estimate, settings: SearchSettings) -> SearchResult:
    """Searches a response that was accepted.

    Intervals are estimated several at once, as many as the budget allows to go down in to single tokens; those with the
    largest difference first.

    Args:
        length: T, its tokens.
        estimate: Called at most once a position in 0 .. T - 1.
        settings: How finely.
    """
    counts: dict[int, ProblemCounts] = {}
    affordable = settings.budget // settings.num_rollouts
    if affordable < 1:
        return SearchResult({}, [], False)
    await _estimate_all([0], estimate, counts)
    intervals = [(0, length)]
    pivotal: list[Interval] = []
    while True:
        steep = [each for each in intervals if abs(_rise(each, counts, length)) >= settings.threshold]
        pivotal += [each for each in steep if each[1] - each[0] == 1]
        wide = sorted((each for each in steep if each[1] - each[0] > 1), key=lambda each: _order(each, counts, length))
        chosen = _affordable(wide, affordable - len(counts))
        if not chosen:
            break
        await _estimate_all([_middle(each) for each in chosen], estimate, counts)
        halves = [half for each in chosen for half in ((each[0], _middle(each)), (_middle(each), each[1]))]
        intervals = halves + [each for each in wide if each not in chosen]
    found = [_token(low, counts, length) for low, _ in sorted(pivotal)]
    return SearchResult(dict(sorted(counts.items())), found, is_complete=not wide)


def pivotal_tokens(counts: Mapping[int, ProblemCounts], length: int, threshold: float) -> list[PivotalToken]:
    """The pivotal tokens that counts of an accepted response tell: those with counts at both sides."""
    known = {*counts, length}
    single = [position for position in sorted(counts) if position + 1 in known]
    return [_token(low, counts, length) for low in single if abs(_rise((low, low + 1), counts, length)) >= threshold]


async def _estimate_all(positions: list[int], estimate: Estimate, counts: dict[int, ProblemCounts]) -> None:
    async def one(position: int) -> None:
        counts[position] = await estimate(position)

    async with trio.open_nursery() as nursery:
        for position in positions:
            nursery.start_soon(one, position)


def _affordable(wide: list[Interval], num_left: int) -> list[Interval]:
    """The first of these intervals, at least one, that can be gone down in with so many estimates."""
    chosen: list[Interval] = []
    for low, high in wide:
        depth = (high - low - 1).bit_length()
        if depth > num_left and (chosen or num_left < 1):
            break
        chosen.append((low, high))
        num_left -= depth
    return chosen


def _middle(interval: Interval) -> int:
    return (interval[0] + interval[1]) // 2


def _token(position: int, counts: Mapping[int, ProblemCounts], length: int) -> PivotalToken:
    return PivotalToken(position, _rate(position, counts, length), _rate(position + 1, counts, length))


def _rate(position: int, counts: Mapping[int, ProblemCounts], length: int) -> float:
    if position == length:
        return 1.0
    return counts[position].successes / counts[position].num_samples


def _rise(interval: Interval, counts: Mapping[int, ProblemCounts], length: int) -> float:
    return _rate(interval[1], counts, length) - _rate(interval[0], counts, length)


def _order(interval: Interval, counts: Mapping[int, ProblemCounts], length: int) -> tuple[float, int]:
    return -abs(_rise(interval, counts, length)), interval[0]
