"""Which reference samples of a problem are due and which count."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from spo.orchestrator.tally import LOOK_INTERVAL, Tally
from spo.values import ProblemCounts, success_interval


def fill(tally: Tally, rate: float, seed: int, lost: frozenset[int] = frozenset(), most: int = 10**6) -> list[int]:
    """Samples what is due, in an order of its own, until nothing is or `most` are; returns the indices."""
    order, sampled = random.Random(seed), list[int]()
    tally.plan()
    while tally.due and len(sampled) < most:
        indices = tally.hand_out(min(len(tally.due), order.randint(1, 20)))
        order.shuffle(indices)
        for index in indices:
            sampled.append(index)
            if index not in lost:
                tally.add(index, 1000 + index, is_accepted(index, rate))
        tally.came_back(len(indices))
        tally.plan()
    return sampled


def is_accepted(index: int, rate: float) -> bool:
    """The same sample is accepted or not whenever it is sampled."""
    return random.Random(f"{index}").random() < rate


def width(counts: ProblemCounts) -> float:
    low, high = success_interval(counts.successes, counts.num_samples)
    return high - low


def test_without_an_interval_all_samples_are_taken_each_once() -> None:
    tally = Tally(100)
    assert sorted(fill(tally, 0.3, 1)) == list(range(100))
    assert tally.counts() == ProblemCounts(sum(is_accepted(index, 0.3) for index in range(100)), 100)
    assert tally.accepted() == [1000 + index for index in range(100) if is_accepted(index, 0.3)]


@given(st.floats(0, 1), st.floats(0.02, 0.5), st.integers(1, 800), st.integers(0, 99))
def test_sampling_stops_at_the_first_look_at_which_the_interval_is_narrow_enough(
    rate: float, interval_width: float, limit: int, seed: int
) -> None:
    tally = Tally(limit, interval_width)
    sampled = fill(tally, rate, seed)
    counts = tally.counts()
    assert sorted(sampled) == list(range(counts.num_samples))
    looks = [*range(LOOK_INTERVAL, limit, LOOK_INTERVAL), limit]
    outcomes = [is_accepted(index, rate) for index in range(limit)]
    narrow = [n for n in looks if width(ProblemCounts(sum(outcomes[:n]), n)) <= interval_width]
    assert counts.num_samples == (narrow or [limit])[0]


@given(st.floats(0, 1), st.integers(0, 300), st.integers(0, 99))
def test_an_interrupted_tally_goes_on_to_the_same_counts(rate: float, most: int, seed: int) -> None:
    whole = Tally(400, 0.1)
    fill(whole, rate, seed)
    interrupted, resumed = Tally(400, 0.1), Tally(400, 0.1)
    first = fill(interrupted, rate, seed + 1, most=most)
    for index in first:
        resumed.add(index, 1000 + index, is_accepted(index, rate))
    second = fill(resumed, rate, seed + 2)
    assert set(first).isdisjoint(second)
    assert resumed.counts() == whole.counts()


def test_more_samples_than_wanted_are_left_aside_and_lost_ones_are_made_up_for() -> None:
    tally = Tally(40)
    assert fill(tally, 0.5, 1, lost=frozenset({3, 39}))[-2:] == [40, 41] or tally.counts().num_samples == 40
    smaller = Tally(10)
    for index in range(40):
        smaller.add(index, index, is_accepted(index, 0.5))
    assert fill(smaller, 0.5, 1) == []
    assert smaller.counts() == ProblemCounts(sum(is_accepted(index, 0.5) for index in range(10)), 10)


def test_the_same_sample_stored_twice_counts_once() -> None:
    tally = Tally(2)
    tally.add(0, 7, True)
    tally.add(0, 8, False)
    assert fill(tally, 1.0, 1) == [1]
    assert tally.counts() == ProblemCounts(2, 2)
    assert tally.accepted() == [7, 1001]
