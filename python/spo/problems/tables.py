"""Tables in the terminal."""

from rich.console import Console
from rich.table import Table

_UNWATCHED_WIDTH = 1000
"""Columns of a table in a file or pipe: wide enough that no cell is wrapped."""


def print_table(table: Table) -> Console:
    """Print a table and return the console; where nobody watches, lines are as long as they need to be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNWATCHED_WIDTH)
    console.print(table)
    return console
