"""The consumption log of a run (`consumption.jsonl`): for every optimiser step, all that its batch was made of.

A line is written, durably, after its trajectories are durable in the store and before any trainer rank gets its rows.
So whatever a run was trained on can be made again, bit for bit, from its store and this log alone: `Consumed` says how.
Lines that a resume undid do not count (see `spo.jsonl`). Who makes batches from it is not known here.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from spo.errors import ConfigError
from spo.rundir import CONSUMPTION_FILE


class Consumed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line of the log: the batch of one step of B trajectories."""

    step: int
    """The optimiser step, from 1."""
    ids: list[int]
    """B ids in the store, in the order of the batch."""
    uses: list[int]
    """How many times each had been drawn, this time included."""
    sources: list[tuple[str, int]]
    """Where they were drawn from, neighbours of one source together: source and how many."""
    rewards: list[float]
    """The reward of each, as it was then: a store may be told of a revised one."""
    initial_values: list[float]
    """Q̂_0 of each one's problem."""
    reference_stored: bool
    """Whether the reference's log-probabilities came from the store; else the trainer computed them in this batch."""
    token_budget: int
    """Tokens in a row."""
    num_ranks: int
    """Trainer ranks, which had every `num_ranks`-th row each."""
    newest: int | None
    """The newest online trajectory that was in the replay buffer; None: there was none."""
    max_staleness: int
    """Of the online ones among them, in steps."""


class _Head(msgspec.Struct):
    """What is read of every line to find its place."""

    step: int = 0
    resumed_at: int | None = None


class ConsumptionLog:
    """The lines that lead to a run's present state; read a step at a time, since a log may be long.

    Args:
        run_dir: The run.

    Raises:
        ConfigError: The log cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / CONSUMPTION_FILE
        self._places: dict[int, tuple[int, int]] = {}
        """Offset and length of each step's line."""
        try:
            self._find_lines()
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read ({error.strerror})") from None

    def _find_lines(self) -> None:
        if not self._path.exists():
            return
        decoder = msgspec.json.Decoder(_Head)
        with self._path.open("rb") as file:
            offset = 0
            for line in file:
                try:
                    head = decoder.decode(line)
                except msgspec.DecodeError:
                    head = _Head()  # Cut off by a crash, before anyone got the batch.
                if head.resumed_at is not None:
                    last = head.resumed_at
                    self._places = {step: place for step, place in self._places.items() if step <= last}
                elif head.step > 0:
                    self._places[head.step] = (offset, len(line))
                offset += len(line)

    @property
    def last_step(self) -> int:
        """The last step whose batch was handed out; 0 if there is none."""
        return max(self._places, default=0)

    def __contains__(self, step: int) -> bool:
        return step in self._places

    def __getitem__(self, step: int) -> Consumed:
        """The line of a step.

        Raises:
            ConfigError: There is none, or it does not say all that is needed.
        """
        if step not in self._places:
            raise ConfigError(f"{self._path}: has no batch of step {step}; its last is that of step {self.last_step}")
        offset, length = self._places[step]
        with self._path.open("rb") as file:
            file.seek(offset)
            line = file.read(length)
        try:
            consumed = msgspec.json.decode(line, type=Consumed)
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{self._path}: the line of step {step} does not say what its batch was ({error}); "
                "was it written by another version of spo?"
            ) from None
        lists = (consumed.ids, consumed.uses, consumed.rewards, consumed.initial_values)
        num_sources = sum(count for _, count in consumed.sources)
        if len({num_sources, *(len(column) for column in lists)}) > 1:
            raise ConfigError(f"{self._path}: the line of step {step} is damaged: its lists differ in length")
        return consumed
