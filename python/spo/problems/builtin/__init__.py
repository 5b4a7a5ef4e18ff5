"""The built-in problems: small stdin/stdout tasks that need no download.

Each family is a module; `load_builtin` collects them. They are for tests, first steps and comparisons on a host
without data sets; they are no benchmark, since their solutions are in this package.
"""

from collections.abc import Iterator

from spo.errors import ConfigError
from spo.problems.builtin import (
    arithmetic,
    dynamic,
    formatting,
    graphs,
    greedy,
    grids,
    numbers,
    parsing,
    roads,
    sequences,
    simulation,
    strings,
)
from spo.problems.builtin.definition import Definition
from spo.problems.schema import Problem

_FAMILIES = (
    arithmetic, numbers, strings, sequences, formatting, simulation, grids, greedy, dynamic, parsing, graphs, roads,
)  # fmt: skip
_DIFFICULTIES = ("easy", "medium", "hard")


def load_builtin(argument: str = "", seed: int = 0) -> list[Problem]:
    """Load the built-in problems, with hidden tests drawn by `seed`.

    Args:
        argument: A difficulty or the name of a problem; empty for all.
        seed: Of the test generators.

    Raises:
        ConfigError: `argument` names no difficulty and no problem.
    """
    chosen = [definition for definition in definitions() if argument in ("", definition.difficulty, definition.name)]
    if not chosen:
        raise ConfigError(
            f'problems: "builtin:{argument}" names no built-in problem and no difficulty; '
            f"write builtin, builtin:{'|'.join(_DIFFICULTIES)} or builtin:NAME, such as builtin:clock"
        )
    return [definition.build(seed) for definition in chosen]


def definitions() -> Iterator[Definition]:
    """All definitions, family by family."""
    for family in _FAMILIES:
        yield from family.PROBLEMS
