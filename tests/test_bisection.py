"""Pivotal Token Search by itself, against success curves that are known."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from spo.orchestrator.bisection import PivotalToken, SearchResult, SearchSettings, pivotal_tokens, search
from spo.values import ProblemCounts

EXACT = 10_000
"""Continuations by which a known probability of four digits is a share of counts."""


class Oracle:
    """Knows S_t; notes what it is asked."""

    def __init__(self, curve: list[float], num_rollouts: int) -> None:
        self.curve, self.num_rollouts = curve, num_rollouts
        self.asked: list[int] = []

    async def __call__(self, position: int) -> ProblemCounts:
        await trio.lowlevel.checkpoint()
        self.asked.append(position)
        return ProblemCounts(round(self.curve[position] * self.num_rollouts), self.num_rollouts)

    def search(self, threshold: float = 0.2, budget: float = math.inf) -> SearchResult:
        most = int(min(budget, self.num_rollouts * len(self.curve)))
        settings = SearchSettings(self.num_rollouts, threshold, most)
        return trio.run(search, len(self.curve), self, settings)


def curve_of(length: int, jumps: dict[int, float]) -> list[float]:
    """S_0 … S_{T-1} of a response whose tokens change S by `jumps`, such that S_T is 1."""
    start = 1 - sum(jumps.values())
    return [start + sum(jump for token, jump in jumps.items() if token < t) for t in range(length)]


@given(st.data())
def test_every_jump_of_a_rising_curve_is_found_and_nothing_else(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 300))
    tokens = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4, unique=True))
    large = dict.fromkeys(tokens, 0.22)
    small = {t: 0.0005 for t in data.draw(st.sets(st.integers(0, length - 1), max_size=20)) if t not in large}
    oracle = Oracle(curve_of(length, large | small), EXACT)
    result = oracle.search()
    assert [token.position for token in result.pivotal] == sorted(tokens)
    assert all(token.after - token.before == pytest.approx(0.22) for token in result.pivotal)
    assert result.is_complete
    assert sorted(oracle.asked) == list(result.counts)
    # A jump costs at most the depth of the search, the smaller ones nothing.
    assert len(oracle.asked) <= 1 + len(tokens) * math.ceil(math.log2(length) if length > 1 else 0)


def test_falls_are_pivotal_too_where_the_ends_tell_of_them() -> None:
    curve = [0.6] * 10 + [0.3] * 15
    assert Oracle(curve, 10).search().pivotal == [PivotalToken(9, 0.6, 0.3), PivotalToken(24, 0.3, 1.0)]
    assert Oracle([0.9, *curve[1:]], 10).search().pivotal == []


@given(st.integers(1, 200), st.integers(0, 300), st.integers(1, 20), st.integers(0, 10**6))
def test_the_budget_is_never_exceeded_and_the_search_is_repeatable(
    length: int, budget: int, num_rollouts: int, seed: int
) -> None:
    curve = [((seed * (t + 7) * 2654435761) % 1000) / 1000 for t in range(length)]
    oracles = [Oracle(curve, num_rollouts) for _ in range(2)]
    first, second = (oracle.search(budget=budget) for oracle in oracles)
    assert first == second
    assert len(oracles[0].asked) * num_rollouts <= budget
    assert len(set(oracles[0].asked)) == len(oracles[0].asked)
    assert set(oracles[0].asked) <= set(range(length))


def test_a_budget_that_ends_early_goes_to_the_steepest_intervals_and_says_so() -> None:
    curve = curve_of(64, {10: 0.25, 50: 0.6})
    result = Oracle(curve, 10).search(budget=80)
    assert [token.position for token in result.pivotal] == [50]
    assert not result.is_complete
    assert Oracle(curve, 10).search(budget=1000).is_complete


def test_a_sure_success_asks_once() -> None:
    oracle = Oracle([1.0] * 100, 10)
    assert oracle.search().pivotal == []
    assert oracle.asked == [0]


def test_pivotal_tokens_are_read_back_from_the_counts() -> None:
    result = Oracle(curve_of(40, {0: 0.3, 17: 0.3, 39: 0.4}), EXACT).search()
    assert pivotal_tokens(result.counts, 40, 0.2) == result.pivotal
    assert [token.position for token in result.pivotal] == [0, 17, 39]
