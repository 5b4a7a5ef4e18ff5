"""Answers of built-in problems against brute force, where the generator and the right program use the same idea."""

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise

import pytest

from spo.problems import load_problems

Rows = list[list[int]]


def largest(count: int, valid: Callable[[tuple[int, ...]], bool]) -> int:
    """The size of the largest valid subset of 0..count-1."""
    return max(size for size in range(count + 1) if any(map(valid, combinations(range(count), size))))


def meetings(rows: Rows) -> int:
    spans = rows[1:]

    def compatible(chosen: tuple[int, ...]) -> bool:
        return all(spans[a][1] <= spans[b][0] or spans[b][1] <= spans[a][0] for a, b in combinations(chosen, 2))

    return largest(len(spans), compatible)


def increasing(rows: Rows) -> int:
    numbers = rows[1]
    return largest(len(numbers), lambda chosen: all(numbers[a] < numbers[b] for a, b in pairwise(chosen)))


def boats(rows: Rows) -> int:
    limit = rows[0][1]

    def fewest(weights: list[int]) -> int:
        if not weights:
            return 0
        first, *others = weights
        alone = fewest(others)
        pairs = [fewest(others[:i] + others[i + 1 :]) for i, other in enumerate(others) if first + other <= limit]
        return 1 + min([alone, *pairs])

    return fewest(rows[1])


def stones(rows: Rows) -> int:
    powers = rows[1]
    reached, jumps = {0}, 0
    while len(powers) - 1 not in reached:
        further = {j for i in reached for j in range(i, min(len(powers), i + powers[i] + 1))}
        if further == reached:
            return -1
        reached, jumps = further, jumps + 1
    return jumps


def small_tests(name: str, count: int) -> Iterator[tuple[Rows, str]]:
    """The tests of some seeds whose input has at most `count` things in it."""
    for seed in range(5):
        [problem] = load_problems([f"builtin:{name}"], seed)
        for test in problem.tests:
            rows = [[int(word) for word in line.split()] for line in test.input.splitlines()]
            if rows[0][0] <= count:
                yield rows, test.output.strip()


@pytest.mark.parametrize(
    ("name", "oracle", "count"),
    [("meetings", meetings, 10), ("increasing", increasing, 10), ("boats", boats, 9), ("stones", stones, 500)],
)
def test_answers_agree_with_brute_force(name: str, oracle: Callable[[Rows], int], count: int) -> None:
    checked = 0
    for rows, answer in small_tests(name, count):
        assert str(oracle(rows)) == answer, rows
        checked += 1
    assert checked >= 20
