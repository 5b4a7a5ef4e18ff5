"""Problems of the `tiny` family: which compositions are trained on, which are held out, and their tests.

A problem asks for a program that reads one integer, applies two steps and prints the result. Pairs of operators
are split once and for all: an evaluation problem's pair of operators never occurs in training, with whatever
constants and seeds, while each operator occurs in each place of the training problems. The tests of a problem
refuse every program of the family that computes something else.
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, product
from typing import Final, Literal

from spo.problems import Problem, ProblemTest, Solution
from spo.tiny.programs import (
    CONSTANTS,
    OPERATORS,
    STYLES,
    VARIABLES,
    Composition,
    Step,
    evaluate,
    render,
    statement,
)

Split = Literal["train", "evaluation"]

INPUTS: Final = range(-12, 24)
"""The integers that a test may give."""

NUM_TESTS: Final = 5
"""Tests a problem."""

PROBLEMS_PER_PAIR: Final[dict[Split, int]] = {"train": 1, "evaluation": 3}
"""Problems, with different constants, for each pair of operators of a split."""

HELD_OUT_CLASSES: Final = 2
"""How many of the residue classes of `pairs` are held out: each holds every operator once in each place."""


def pairs(split: Split) -> list[tuple[str, str]]:
    """Returns the ordered pairs of operators of a split; the two splits share none, at any seed."""
    names = list(OPERATORS)
    return [
        (names[i], names[j])
        for i, j in product(range(len(names)), repeat=2)
        # 3 is coprime to the number of operators, so each residue class is a permutation.
        if ((i + 3 * j) % len(names) < HELD_OUT_CLASSES) == (split == "evaluation")
    ]


@lru_cache(maxsize=len(CONSTANTS) ** 2)
def _answers(constants: tuple[int, ...]) -> dict[Composition, list[int]]:
    """What every composition with these constants answers on `INPUTS`."""
    answers: dict[Composition, list[int]] = {(): list(INPUTS)}
    for constant in constants:
        answers = {
            (*first, step): [step.apply(value) for value in values]
            for first, values in answers.items()
            for step in (Step(name, constant) for name in OPERATORS)
        }
    return answers


def confusions(composition: Composition) -> list[Composition]:
    """Returns the compositions with at least one operator exchanged for its partner."""
    choices = [(step, Step(OPERATORS[step.operator].partner, step.constant)) for step in composition]
    return list(product(*choices))[1:]


def choose_inputs(composition: Composition, rng: random.Random) -> list[int] | None:
    """Chooses the inputs of a problem's tests, the most telling first.

    Returns:
        `NUM_TESTS` different inputs, on which each composition with the same constants that is wrong anywhere in
        `INPUTS` is wrong at least once; None where a confusion is right everywhere, or so few do not suffice.
    """
    answers = _answers(tuple(step.constant for step in composition))
    right = answers[composition]
    wrong = {other for other, values in answers.items() if values != right}
    if not wrong.issuperset(confusions(composition)):
        return None
    refused_by = {
        value: {other for other in wrong if answers[other][index] != right[index]} for index, value in enumerate(INPUTS)
    }
    candidates = rng.sample(INPUTS, len(INPUTS))
    chosen: list[int] = []
    while len(chosen) < NUM_TESTS:
        best = max(candidates, key=lambda value: len(refused_by[value] & wrong))
        candidates.remove(best)
        chosen.append(best)
        wrong -= refused_by[best]
    return None if wrong else chosen


def make_problem(composition: Composition, inputs: list[int]) -> Problem:
    """Builds the problem of a composition, with its right programs and its confusions as known solutions."""
    right = [render(composition, style, VARIABLES[0]) for style in range(len(STYLES))]
    wrong = [render(other, 0, VARIABLES[0]) for other in confusions(composition)]
    return Problem(
        id="tiny/" + "-".join(f"{step.operator}{step.constant}" for step in composition),
        dataset="tiny",
        statement=statement(composition),
        tests=tuple(ProblemTest(f"{x}\n", f"{evaluate(composition, x)}\n") for x in inputs),
        time_limit_s=2.0,
        memory_limit_bytes=256 * 1024 * 1024,
        solutions=(
            *(Solution("python", code, True) for code in dict.fromkeys(right)),
            *(Solution("python", code, False) for code in wrong),
        ),
    )


def load(split: Split, seed: int) -> list[Problem]:
    """Makes the problems of a split: the same ones for the same seed, in the same order.

    Raises:
        ValueError: `split` is neither `train` nor `evaluation`.
    """
    if split not in PROBLEMS_PER_PAIR:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(PROBLEMS_PER_PAIR)}")
    return [
        problem
        for names in pairs(split)
        for problem in islice(_problems(names, random.Random(f"{seed} {split} {names}")), PROBLEMS_PER_PAIR[split])
    ]


def _problems(names: tuple[str, ...], rng: random.Random) -> Iterator[Problem]:
    """Yields the problems of a composition of operators, in random order of their constants."""
    constants = list(product(CONSTANTS, repeat=len(names)))
    for choice in rng.sample(constants, len(constants)):
        composition = tuple(map(Step, names, choice))
        inputs = choose_inputs(composition, rng)
        if inputs is not None:
            yield make_problem(composition, inputs)
