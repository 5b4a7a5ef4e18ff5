"""Programs of the `tiny` family: two arithmetic steps on one integer, written in several ways.

A `Step` is an operator with a constant, a composition is a tuple of two steps; `statement` says it in words
(`mul 3 then max 7`) and `render` writes the Python program in one of `STYLES`. `confuse` makes the wrong
programs: it exchanges operators for their partners. This module knows nothing of tests, tokens or models.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Operator:
    """One arithmetic operation with a constant.

    Attributes:
        name: The word in the statement.
        symbol: The infix symbol, or the name of the builtin function of two arguments.
        partner: The name of the operator that it is confused with.
        apply: What it computes.
    """

    name: str
    symbol: str
    partner: str
    apply: Callable[[int, int], int]

    @property
    def infix(self) -> bool:
        """Whether the symbol stands between its arguments."""
        return not self.symbol.isalpha()


OPERATORS: Final[dict[str, Operator]] = {
    operator.name: operator
    for operator in (
        Operator("add", "+", "sub", lambda x, k: x + k),
        Operator("sub", "-", "add", lambda x, k: x - k),
        Operator("mul", "*", "pow", lambda x, k: x * k),
        Operator("pow", "**", "mul", lambda x, k: x**k),
        Operator("div", "//", "mod", lambda x, k: x // k),
        Operator("mod", "%", "div", lambda x, k: x % k),
        Operator("max", "max", "min", max),
        Operator("min", "min", "max", min),
        Operator("and", "&", "or", lambda x, k: x & k),
        Operator("or", "|", "and", lambda x, k: x | k),
    )
}

CONSTANTS: Final = range(2, 10)
VARIABLES: Final = ("x", "n", "a")


@dataclass(frozen=True)
class Step:
    """An operator applied with a constant."""

    operator: str
    constant: int

    def apply(self, value: int) -> int:
        """Returns the step's result on `value`."""
        return OPERATORS[self.operator].apply(value, self.constant)


Composition = tuple[Step, ...]


def evaluate(composition: Composition, value: int) -> int:
    """Returns what a right program prints for the input `value`."""
    for step in composition:
        value = step.apply(value)
    return value


def statement(composition: Composition) -> str:
    """Returns the problem in words, such as `mul 3 then max 7`."""
    return " then ".join(f"{step.operator} {step.constant}" for step in composition)


def confuse(composition: Composition, shares: Mapping[str, float], rng: random.Random) -> Composition:
    """Exchanges each step's operator for its partner with the probability `shares[operator]`."""
    return tuple(
        Step(OPERATORS[step.operator].partner, step.constant) if rng.random() < shares[step.operator] else step
        for step in composition
    )


def _expression(step: Step, argument: str) -> str:
    operator = OPERATORS[step.operator]
    if operator.infix:
        return f"{argument} {operator.symbol} {step.constant}"
    return f"{operator.symbol}({argument}, {step.constant})"


def _assignments(composition: Composition, variable: str) -> str:
    lines = [f"{variable} = {_expression(step, variable)}" for step in composition]
    return "\n".join([f"{variable} = int(input())", *lines, f"print({variable})"])


def _augmented(composition: Composition, variable: str) -> str:
    lines = [
        f"{variable} {OPERATORS[step.operator].symbol}= {step.constant}"
        if OPERATORS[step.operator].infix
        else f"{variable} = {_expression(step, variable)}"
        for step in composition
    ]
    return "\n".join([f"{variable} = int(input())", *lines, f"print({variable})"])


def _printed(composition: Composition, variable: str) -> str:
    *first, last = composition
    lines = [f"{variable} = {_expression(step, variable)}" for step in first]
    return "\n".join([f"{variable} = int(input())", *lines, f"print({_expression(last, variable)})"])


STYLES: Final[tuple[Callable[[Composition, str], str], ...]] = (_assignments, _augmented, _printed)


def render(composition: Composition, style: int, variable: str) -> str:
    """Writes the program of `composition`.

    Args:
        composition: The steps, first to last.
        style: Index into `STYLES`.
        variable: Name of the program's only variable, one of `VARIABLES`.
    """
    return STYLES[style](composition, variable)
