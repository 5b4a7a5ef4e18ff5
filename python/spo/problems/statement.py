"""Statements: the sections that loaders put below a problem's text, in one wording for all of them."""

from collections.abc import Iterable

from spo.problems.schema import PUBLIC, ProblemTest


def with_samples(text: str, tests: Iterable[ProblemTest]) -> str:
    """Append the public tests to a statement, numbered under `## Sample Input`, `## Sample Output`."""
    samples = [test for test in tests if test.split == PUBLIC]
    return text.strip() + "".join(
        f"\n\n## Sample Input {number}\n{test.input.rstrip()}\n\n## Sample Output {number}\n{test.output.rstrip()}"
        for number, test in enumerate(samples, start=1)
    )
