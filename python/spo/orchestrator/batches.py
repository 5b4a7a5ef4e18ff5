"""Batches: one a step, shared out among the trainer ranks by rows.

What a batch consists of is in the consumption log, and its trajectories durable in the store, before any rank gets its
rows: whatever crashes, what was trained on can be trained on again. A resumed run does so: the steps between its
checkpoint and the end of the log get the batches that they had. A replay of a run gets all of them from that run's log.
Who asks and how is not known here (`trainers.py`).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import trio

from spo.config import Config
from spo.consumption import Consumed, ConsumptionLog
from spo.errors import RunFailed
from spo.jsonl import Journal
from spo.orchestrator.admission import must_wait
from spo.orchestrator.dispatch import Dispatcher
from spo.orchestrator.experience import Experience
from spo.orchestrator.extras import Extras, extras_of
from spo.orchestrator.mix import ANNOTATED, OFFLINE, ONLINE, check_pools, most_per_step, per_step
from spo.orchestrator.online import OnlineSource
from spo.orchestrator.online_values import FixedValues, ProblemValues
from spo.orchestrator.rank_rows import max_staleness, rank_message
from spo.orchestrator.reference_told import ReferenceTold
from spo.orchestrator.repeats import Repeats
from spo.orchestrator.replayed import ReplayedRun
from spo.orchestrator.state import SavedProgress, encode_state
from spo.replay import Batch, NotEnough
from spo.types import Batch as BatchMessage
from spo.types import ReferenceLogprobs

_POLL_S = 1.0
"""A waiting batch looks again after this long, whether it was notified or not."""


class _Drawn(NamedTuple):
    """A batch, what the log says about it, and whether the log has yet to say it."""

    batch: Batch
    consumed: Consumed
    is_new: bool = True


class Batches:
    """Makes batches, one step after the other.

    Args:
        config: The run's settings.
        experience: What is drawn from.
        online: Told how far the drawing is.
        dispatcher: Knows what is on its way.
        consumption: The log of what was drawn.
        replayed: The run whose batches are to be had again instead, if this run is a replay.
    """

    def __init__(
        self,
        config: Config,
        experience: Experience,
        online: OnlineSource,
        dispatcher: Dispatcher,
        consumption: Journal,
        replayed: ReplayedRun | None = None,
    ) -> None:
        self._config = config
        self._experience = experience
        self._online = online
        self._dispatcher = dispatcher
        self._consumption = consumption
        self._replayed = replayed
        self._repeats = Repeats(experience, consumption)
        self._reference = ReferenceTold(experience, config.replay.keep_reference_logprobs)
        self._values: ProblemValues = FixedValues({})
        self._step = 0
        self._batch: Batch | None = None
        self._extras = Extras()
        self._consumed: Consumed | None = None
        """What is in the log about it."""
        self._taken: set[int] = set()
        """Ranks that have their rows of it."""
        self._drawing = trio.Lock()
        self._changed = trio.Event()
        self._state_before = b""
        self._begun = trio.Event()
        self.waiting_for = "Q̂_0 is being estimated"
        """Why there is no batch, for people."""

    def begin(self, step: int, values: ProblemValues, earlier: ConsumptionLog | None = None) -> None:
        """Training begins, or goes on, after `step`.

        Args:
            step: Steps done.
            values: Q̂_0 of the problems.
            earlier: What earlier sessions have drawn; steps after `step` that are in it get the same batches again.

        Raises:
            RunFailed: Batches as asked for cannot be made.
        """
        if self._replayed is None:
            check_pools(self._config, self._experience.available(step))
        self._repeats.begin(step, earlier)
        self._values = values
        self._step = self._online.steps_done = step
        self._state_before = self._encoded_state()
        self.waiting_for = "the first batch is being sampled"
        self._begun.set()

    def notify(self) -> None:
        """Something has changed that a waiting batch may have been waiting for."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def mean_value(self) -> float:
        """The mean of Q̂_0 over the training problems; 0 while there is none."""
        return self._values.mean()

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
        if step != self._step or self._batch is None or self._consumed is None:
            raise RunFailed(f"trainer rank {rank} asked for the batch of step {step} after that of step {self._step}")
        self._taken.add(rank)
        self.notify()
        wants = self._config.replay.keep_reference_logprobs or self._values.learns
        return rank_message(
            self._batch, self._consumed, rank, self._extras, wants and self._replayed is None
        ), self._batch

    def keep_reference_logprobs(self, message: ReferenceLogprobs) -> None:
        """Takes what a rank computed; see `ReferenceTold.take`."""
        self._reference.take(message, self._values)

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
        while (drawn := self._try_draw(step, world_size)) is None:
            await self._something_changed()
        with trio.CancelScope(shield=True):
            await self._experience.commit()
            if drawn.is_new:
                self._consumption.append(drawn.consumed, durable=True)
        self._dispatcher.fill()

    async def _something_changed(self) -> None:
        with trio.move_on_after(_POLL_S):
            await self._changed.wait()

    def _try_draw(self, step: int, world_size: int) -> _Drawn | None:
        """Makes the batch of `step` the current one, unless it cannot be drawn yet."""
        if self._replayed is not None:
            drawn: _Drawn | None = _Drawn(*self._replayed.batch(step, world_size))
            state_before = self._encoded_state()
        else:
            logged = self._repeats.logged(step)
            if logged is None and not self._is_time(step):
                return None
            state_before = self._encoded_state()
            drawn = self._sample(step, world_size, logged)
        if drawn is None:
            return None
        self._state_before = state_before
        read = self._experience.columns if self._replayed is None else self._replayed.columns
        self._extras = extras_of(drawn.batch, self._config.objective, read)
        self._batch, self._consumed = drawn.batch, drawn.consumed
        self._reference.note(step, drawn.batch)
        self._taken = set()
        self.waiting_for = ""
        self._step = self._online.steps_done = step
        return drawn

    def _sample(self, step: int, world_size: int, logged: Consumed | None) -> _Drawn | None:
        try:
            batch = self._experience.sample(step - 1, world_size)
        except NotEnough as error:
            if logged is not None:
                self._repeats.end(step, str(error))
            self.waiting_for = str(error)
            return None
        values = self._values.at_step(step)
        consumed = Consumed(
            step=step,
            ids=batch.ids.tolist(),
            uses=batch.uses.tolist(),
            sources=[(source, len(list(run))) for source, run in itertools.groupby(batch.sources)],
            rewards=batch.rewards.tolist(),
            initial_values=[values[problem_id] for problem_id in batch.problem_ids]
            if logged is None
            else logged.initial_values,
            reference_stored=self._reference_stored(batch, logged),
            token_budget=batch.tokens.shape[1],
            num_ranks=world_size,
            newest=self._experience.newest_online,
            max_staleness=max_staleness(batch, step),
        )
        return _Drawn(batch, consumed, is_new=self._repeats.drawn(consumed, logged))

    def _reference_stored(self, batch: Batch, logged: Consumed | None) -> bool:
        """Whether the reference need not be asked; where it was, it is asked again, since rows decide the last bits."""
        stored = batch.reference_logprobs is not None and self._config.replay.keep_reference_logprobs
        return stored and (logged is None or logged.reference_stored)

    def _is_time(self, step: int) -> bool:
        """Whether the batch of `step` may be drawn now; says in `waiting_for` why not."""
        if self._must_wait(step):
            self.waiting_for = "a rollout on its way would be too old when its turn comes"
            return False
        if self._config.batch.fractions_of == "tokens":
            return True  # How many of each are needed is known when they are drawn.
        available, sources = self._experience.available(step - 1), (ONLINE, OFFLINE, ANNOTATED)
        short = [source for source in sources if available.get(source, 0) < per_step(self._config, source)]
        if short:
            wanted = per_step(self._config, short[0])
            self.waiting_for = f"{available.get(short[0], 0)} of {wanted} {short[0]} trajectories"
            return False
        return True

    def _must_wait(self, step: int) -> bool:
        wanted = most_per_step(self._config, ONLINE)
        if wanted == 0:
            return False
        on_way = self._dispatcher.in_flight(self._online)
        versions = [assignment.version for assignment in on_way for _ in assignment.work.seeds]
        unused = self._experience.unused_versions(step - 1)
        return must_wait(step, versions, unused, wanted, self._config.replay.max_staleness)

    def _encoded_state(self) -> bytes:
        return encode_state(
            SavedProgress(
                step=self._step,
                experience=self._experience.state(),
                online=self._online.state(),
                values=self._values.state(),
            )
        )
