"""Batches: drawn once a step, shared out among the trainer ranks by rows.

The ids of a batch are in the consumption log, and their trajectories durable in the store, before any rank gets its
rows: whatever crashes, what was trained on can be read from the run directory. Who asks and how is not known here
(`trainers.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import trio

from spo.config import Config
from spo.errors import RunFailed
from spo.jsonl import Journal
from spo.orchestrator.admission import must_wait
from spo.orchestrator.dispatch import Dispatcher
from spo.orchestrator.experience import OFFLINE, ONLINE, Experience, per_step
from spo.orchestrator.online import OnlineSource
from spo.orchestrator.state import SavedProgress, encode_state
from spo.replay import Batch, NotEnough
from spo.types import Batch as BatchMessage

_POLL_S = 1.0
"""A waiting batch looks again after this long, whether it was notified or not."""

log = logging.getLogger(__name__)


class Batches:
    """Draws batches, one step after the other.

    Args:
        config: The run's settings.
        experience: What is drawn from.
        online: Told how far the drawing is.
        dispatcher: Knows what is on its way.
        consumption: The log of what was drawn.
    """

    def __init__(
        self,
        config: Config,
        experience: Experience,
        online: OnlineSource,
        dispatcher: Dispatcher,
        consumption: Journal,
    ) -> None:
        self._config = config
        self._experience = experience
        self._online = online
        self._dispatcher = dispatcher
        self._consumption = consumption
        self._initial_values: Mapping[str, float] = {}
        self._step = 0
        self._batch: Batch | None = None
        self._taken: set[int] = set()
        """Ranks that have their rows of it."""
        self._drawing = trio.Lock()
        self._changed = trio.Event()
        self._state_before = b""
        self._begun = trio.Event()
        self.waiting_for = "Q̂_0 is being estimated"
        """Why there is no batch, for people."""

    def begin(self, step: int, initial_values: Mapping[str, float]) -> None:
        """Training begins, or goes on, after `step`.

        Args:
            step: Steps done.
            initial_values: Q̂_0 by problem.

        Raises:
            RunFailed: Batches as asked for cannot be made.
        """
        wanted, there = per_step(self._config, OFFLINE), self._experience.available(step).get(OFFLINE, 0)
        if there < wanted:
            raise RunFailed(
                f"batch.online_fraction={self._config.batch.online_fraction} asks for {wanted} offline trajectories a "
                f"step, but the reference's {self._config.values.num_samples} samples a problem gave {there} different "
                "accepted ones; set batch.online_fraction=1, raise values.num_samples, or train on easier problems"
            )
        self._initial_values = initial_values
        self._step = self._online.steps_done = step
        self._state_before = self._encoded_state()
        self.waiting_for = "the first batch is being sampled"
        self._begun.set()

    def notify(self) -> None:
        """Something has changed that a waiting batch may have been waiting for."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def step(self) -> int:
        """The step whose batch was drawn last."""
        return self._step

    async def rows(self, step: int, rank: int, world_size: int) -> tuple[BatchMessage, Batch]:
        """A rank's rows of the batch of `step`, and the whole batch; waits until it can be drawn.

        Raises:
            RunFailed: `step` is neither the current step nor the one after it.
        """
        await self._begun.wait()
        while step == self._step + 1 and self._batch is not None and len(self._taken) < world_size:
            await self._something_changed()
        async with self._drawing:
            if step == self._step + 1:
                await self._draw(step, world_size)
        if step != self._step or self._batch is None:
            raise RunFailed(f"trainer rank {rank} asked for the batch of step {step} after that of step {self._step}")
        self._taken.add(rank)
        self.notify()
        return rank_message(self._batch, step, rank, world_size, self._initial_values), self._batch

    def state_after(self, step: int) -> bytes:
        """The state to be saved with the checkpoint of `step`.

        Raises:
            RunFailed: Another batch than the one after `step` has been drawn since.
        """
        if step == self._step:
            return self._encoded_state()
        if step == self._step - 1:
            return self._state_before
        raise RunFailed(f"the trainer saves step {step}, but the batch of step {self._step} is drawn")

    async def _draw(self, step: int, world_size: int) -> None:
        while (batch := self._try_draw(step, world_size)) is None:
            await self._something_changed()
        with trio.CancelScope(shield=True):
            await self._experience.commit()
            self._log(step, batch)
        self._dispatcher.fill()

    async def _something_changed(self) -> None:
        with trio.move_on_after(_POLL_S):
            await self._changed.wait()

    def _try_draw(self, step: int, world_size: int) -> Batch | None:
        if self._must_wait(step):
            self.waiting_for = "a rollout on its way would be too old when its turn comes"
            return None
        available = self._experience.available(step - 1)
        short = [source for source in (ONLINE, OFFLINE) if available.get(source, 0) < per_step(self._config, source)]
        if short:
            self.waiting_for = (
                f"{available.get(short[0], 0)} of {per_step(self._config, short[0])} {short[0]} trajectories"
            )
            return None
        state_before = self._encoded_state()
        try:
            batch = self._experience.sample(step - 1, world_size)
        except NotEnough as error:
            self.waiting_for = str(error)
            return None
        self._state_before = state_before
        self._batch = batch
        self._taken = set()
        self.waiting_for = ""
        self._step = self._online.steps_done = step
        return batch

    def _must_wait(self, step: int) -> bool:
        wanted = per_step(self._config, ONLINE)
        if wanted == 0:
            return False
        on_way = self._dispatcher.in_flight(self._online)
        versions = [assignment.version for assignment in on_way for _ in assignment.work.seeds]
        unused = self._experience.unused_versions(step - 1)
        return must_wait(step, versions, unused, wanted, self._config.replay.max_staleness)

    def _log(self, step: int, batch: Batch) -> None:
        line = {"step": step, "ids": batch.ids.tolist(), "max_staleness": max_staleness(batch, step)}
        self._consumption.append(line, durable=True)

    def _encoded_state(self) -> bytes:
        return encode_state(
            SavedProgress(step=self._step, experience=self._experience.state(), online=self._online.state())
        )


def staleness(batch: Batch, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Staleness of the batch's online trajectories when it is trained on in `step`: int64 [number of them]."""
    online = np.array([source == ONLINE for source in batch.sources], dtype=bool)
    versions = np.asarray(batch.min_policy_versions).astype(np.int64)[online]
    return np.asarray(np.maximum(step - 1 - versions, 0), dtype=np.int64)


def max_staleness(batch: Batch, step: int) -> int:
    """The largest of them; 0 if there are none."""
    return int(staleness(batch, step).max(initial=0))


def rank_message(
    batch: Batch, step: int, rank: int, world_size: int, initial_values: Mapping[str, float]
) -> BatchMessage:
    """The rows `rank::world_size` of a batch, with what concerns all its trajectories."""
    tokens = np.ascontiguousarray(batch.tokens[rank::world_size], dtype="<i4")
    values = np.array([initial_values[problem_id] for problem_id in batch.problem_ids], dtype="<f4")
    return BatchMessage(
        step=step,
        num_rows=tokens.shape[0],
        num_tokens=tokens.shape[1],
        num_trajectories=len(batch.sources),
        tokens=tokens.tobytes(),
        position_ids=np.ascontiguousarray(batch.position_ids[rank::world_size], dtype="<i4").tobytes(),
        segment_ids=np.ascontiguousarray(batch.segment_ids[rank::world_size], dtype="<i4").tobytes(),
        response_mask=np.ascontiguousarray(batch.response_mask[rank::world_size]).astype(np.uint8).tobytes(),
        rewards=np.asarray(batch.rewards, dtype="<f4").tobytes(),
        initial_values=values.tobytes(),
        sources=list(batch.sources),
    )
