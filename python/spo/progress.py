"""What a person sees while a run goes on: a live panel on a terminal, a line every few seconds elsewhere.

`Status` is what there is to show; a display shows it. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Status:
    """A run at one moment; what is None is not known yet."""

    phase: str
    """What is being done: `reference`, `training`, `final evaluation`, …"""
    done: int = 0
    """Steps, samples or whatever the phase counts."""
    total: int = 0
    unit: str = ""
    """What is counted."""
    eta_s: float | None = None
    """Time left in this phase."""
    elapsed_s: float = 0.0
    """Wall time of the run."""
    loss: float | None = None
    success_rate: float | None = None
    """Share of the latest online responses that were accepted: 1 plus their mean reward."""
    staleness: float | None = None
    """Mean of the last batch, in steps."""
    pass_at: dict[str, list[float]] = field(default_factory=dict)
    """Values of each pass@k over the evaluations so far, the reference's first."""
    steps_per_s: float = 0.0
    tokens_per_s: float = 0.0
    programs_per_s: float = 0.0
    num_workers: int = 0
    note: str = ""
    """What is waited for, if anything is."""


class Display(Protocol):
    """Shows the status of a run."""

    interval_s: float
    """How often it wants to be told."""

    def show(self, status: Status) -> None:
        """Shows a status."""

    def close(self) -> None:
        """Leaves the output clean."""


def make_display(console: Console | None = None) -> Display:
    """The display that suits where stdout goes."""
    console = console or Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


async def keep_showing(display: Display, status: Callable[[], Status]) -> None:
    """Shows the newest status again and again until cancelled, and closes the display."""
    try:
        while True:
            display.show(status())
            await trio.sleep(display.interval_s)
    finally:
        display.show(status())
        display.close()


class LiveDisplay:
    """A panel that is redrawn in place."""

    interval_s = 1.0

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, status: Status) -> None:
        """Redraws the panel."""
        self._live.update(render(status), refresh=True)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._live.stop()


class PlainDisplay:
    """One line now and then, for logs and pipes."""

    interval_s = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, status: Status) -> None:
        """Prints one line."""
        self._console.print(line(status), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to clean up."""


def line(status: Status) -> str:
    """A status as one line of text."""
    parts = [f"[{_duration(status.elapsed_s)}] {status.phase}"]
    if status.total:
        parts[0] += f" {status.done}/{status.total} {status.unit}".rstrip()
    parts += [f"{name} {value}" for name, value in _facts(status)]
    return " · ".join(parts + ([status.note] if status.note else []))


def render(status: Status) -> Group:
    """A status as a panel of a few lines."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(status.phase, style="bold"),
        ProgressBar(total=max(status.total, 1), completed=status.done, width=32),
        Text(f"{status.done}/{status.total} {status.unit}" if status.total else ""),
        Text(_duration(status.elapsed_s), style="dim"),
    )
    facts = Table.grid(padding=(0, 2))
    entries = [Text.assemble((f"{name} ", "dim"), value) for name, value in _facts(status)]
    width = 4
    for start in range(0, len(entries), width):
        facts.add_row(*entries[start : start + width])
    return Group(head, facts, Text(status.note, style="dim"))


def _facts(status: Status) -> list[tuple[str, str]]:
    facts = []
    if status.loss is not None:
        facts.append(("loss", f"{status.loss:.4f}"))
    if status.success_rate is not None:
        facts.append(("reward", f"{status.success_rate - 1:.3f}"))
    for name, values in status.pass_at.items():
        shown = f"{values[0]:.3f}" if len(values) == 1 else f"{values[0]:.3f} → {values[-1]:.3f}"
        facts.append((name, shown))
    if status.staleness is not None:
        facts.append(("staleness", f"{status.staleness:.1f}"))
    if status.steps_per_s:
        facts.append(("steps/s", f"{status.steps_per_s:.2f}"))
    if status.tokens_per_s:
        facts.append(("tokens/s", f"{status.tokens_per_s:.0f}"))
    if status.programs_per_s:
        facts.append(("programs/s", f"{status.programs_per_s:.0f}"))
    facts.append(("workers", str(status.num_workers)))
    if status.eta_s is not None:
        facts.append(("left", _duration(status.eta_s)))
    return facts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
