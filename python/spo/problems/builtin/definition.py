"""The definition of a built-in problem: its text, a seeded generator of tests, and programs right and wrong.

The generators compute the expected output from the data they draw, not by running the right program: so the two
check each other wherever the right program is judged. How the problems look to the rest of `spo` is decided
here; what they ask is in the family modules beside this one.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from textwrap import dedent
from typing import Literal, NamedTuple

from spo.problems.schema import HIDDEN, PUBLIC, Problem, ProblemTest, Solution
from spo.problems.statement import with_samples

Case = tuple[str, str]
"""What a program reads, and what it must print."""

Difficulty = Literal["easy", "medium", "hard"]


class Edit(NamedTuple):
    """A wrong program, as the one place where it differs from the right one."""

    old: str
    new: str


@dataclass(frozen=True)
class Definition:
    """A built-in problem.

    Attributes:
        name: Unique among the built-in problems.
        difficulty: For a programmer, not for a model.
        task: What to do.
        reads: The input format.
        prints: The output format.
        examples: The public tests, shown in the statement.
        cases: Draws the hidden tests from a seeded generator; fixed edge cases come with them.
        right: A Python program that solves it.
        wrong: Python programs that do not, or the edits that make them, by what is wrong with them.
        time_limit_s: CPU seconds a test may take.
    """

    name: str
    difficulty: Difficulty
    task: str
    reads: str
    prints: str
    examples: tuple[Case, ...]
    cases: Callable[[random.Random], Iterable[Case]]
    right: str
    wrong: Mapping[str, str | Edit]
    time_limit_s: float = 2.0

    def build(self, seed: int) -> Problem:
        """The problem, with the hidden tests that `seed` gives; examples drawn again are left out."""
        generator = random.Random(f"{seed}/{self.name}")
        drawn = dict(case for case in self.cases(generator) if case not in self.examples)
        public = tuple(
            ProblemTest(text, answer, PUBLIC, f"example-{number}")
            for number, (text, answer) in enumerate(self.examples, start=1)
        )
        hidden = tuple(
            ProblemTest(text, answer, HIDDEN, f"hidden-{number}")
            for number, (text, answer) in enumerate(drawn.items(), start=1)
        )
        return Problem(
            id=f"builtin/{self.name}",
            dataset="builtin",
            statement=self._statement(public),
            tests=public + hidden,
            time_limit_s=self.time_limit_s,
            difficulty=self.difficulty,
            solutions=self._solutions(),
            metadata={"name": self.name.replace("_", " ").capitalize()},
        )

    def _statement(self, public: tuple[ProblemTest, ...]) -> str:
        sections = f"{clean(self.task)}\n\n## Input\n\n{clean(self.reads)}\n\n## Output\n\n{clean(self.prints)}"
        return with_samples(sections, public)

    def _solutions(self) -> tuple[Solution, ...]:
        right = Solution("python", clean(self.right) + "\n", correct=True)
        wrong = (Solution("python", self._program(wrong), False, note) for note, wrong in self.wrong.items())
        return (right, *wrong)

    def _program(self, wrong: str | Edit) -> str:
        if isinstance(wrong, str):
            return clean(wrong) + "\n"
        right = clean(self.right)
        if right.count(wrong.old) != 1:
            raise ValueError(f"{self.name}: {wrong.old!r} must occur once in the right program")
        return right.replace(wrong.old, wrong.new) + "\n"


def clean(text: str) -> str:
    """Text from an indented literal, without the indentation and the blank lines around it."""
    return dedent(text.strip("\n")).strip()


def lines(*rows: object) -> str:
    """One line a row: the row itself, or the elements of a list or tuple with spaces between them."""
    return "".join(" ".join(map(str, row)) + "\n" if isinstance(row, list | tuple) else f"{row}\n" for row in rows)


def integers(generator: random.Random, count: int, low: int, high: int) -> list[int]:
    """`count` integers in low..high, both included."""
    return generator.choices(range(low, high + 1), k=count)


def word(generator: random.Random, low: int, high: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    """A word of low..high letters."""
    return "".join(generator.choices(alphabet, k=generator.randint(low, high)))
