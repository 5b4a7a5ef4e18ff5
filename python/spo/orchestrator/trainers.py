"""The trainer ranks as the orchestrator sees them: one session a rank, from its hello to the end of the run.

A rank that is lost before it has done its last step ends the run: the others would hang in their next collective.
Ranks are answered in the order in which they ask, and told every few seconds that their batch is still being sampled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio

from spo.errors import ConnectionLost, RunFailed
from spo.orchestrator.batches import Batches
from spo.orchestrator.experience import Experience
from spo.replay import Batch
from spo.types import (
    BatchRequest,
    CheckpointSaved,
    Pending,
    ReferenceLogprobs,
    RunFinished,
    SavedState,
    SaveRequest,
    StepDone,
    Stop,
    ToOrchestrator,
    TrainerHello,
    TrainingDone,
    VersionPublished,
)
from spo.wire import AsyncConnection

PENDING_INTERVAL_S = 4.0
"""How often a waiting rank hears that it is not forgotten."""
FAREWELL_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class TrainingListener(Protocol):
    """Is told how training goes; neither call waits."""

    def on_batch(self, step: int, batch: Batch, waited_s: float) -> None:
        """The batch of a step goes out."""

    def on_step(self, message: StepDone) -> None:
        """A step is done."""


class _Session:
    """One rank's connection."""

    def __init__(self, connection: AsyncConnection[ToOrchestrator], hello: TrainerHello) -> None:
        self.connection = connection
        self.hello = hello
        self.published = hello.step
        self.done = False


class Trainers:
    """All ranks of the run.

    Args:
        batches: Where rows come from.
        experience: Made durable before a checkpoint refers to it.
        listener: Told how training goes.
        on_version: Called with a version and the publishers once every rank has published it.
    """

    def __init__(
        self,
        batches: Batches,
        experience: Experience,
        listener: TrainingListener,
        on_version: Callable[[int, list[str]], None],
    ) -> None:
        self._batches = batches
        self._experience = experience
        self._listener = listener
        self._on_version = on_version
        self._sessions: dict[int, _Session] = {}
        self._version = -1
        self._over = False
        self._version_event = trio.Event()
        self.connected = trio.Event()
        """All ranks are there."""
        self.finished = trio.Event()
        """All ranks have done their last step."""

    @property
    def step(self) -> int:
        """Steps done when the ranks connected."""
        return next(iter(self._sessions.values())).hello.step

    @property
    def replay_state(self) -> bytes:
        """The orchestrator's state of the checkpoint that is resumed from; empty at the start of a run."""
        return self._sessions[0].hello.replay_state

    @property
    def world_size(self) -> int:
        """Ranks; 0 before the first has connected."""
        return next((session.hello.world_size for session in self._sessions.values()), 0)

    async def serve(self, connection: AsyncConnection[ToOrchestrator], hello: TrainerHello) -> None:
        """Serves a rank until it goes.

        Raises:
            RunFailed: It is lost before its last step, or does not fit the others.
        """
        self._check(hello)
        session = _Session(connection, hello)
        self._sessions[hello.rank] = session
        log.info("trainer rank %d of %d is here, at step %d", hello.rank, hello.world_size, hello.step)
        if len(self._sessions) == hello.world_size:
            self._advance_version()
            self.connected.set()
        try:
            async with trio.open_nursery() as nursery:
                await self._receive(session, nursery)
        except* ConnectionLost as group:
            if not session.done:
                reason = group.exceptions[0]
                raise RunFailed(f"lost trainer rank {hello.rank} at step {self._batches.step}: {reason}") from None
        log.info("trainer rank %d is gone", hello.rank)

    async def version_changed_or_finished(self) -> None:
        """Waits until a further version has been published by all ranks, or training is over."""
        await self._version_event.wait()

    async def farewell(self, reason: str | None) -> None:
        """Tells all ranks that the run is finished (no reason) or cannot go on."""
        self._over = True
        message: msgspec.Struct = RunFinished() if reason is None else Stop(reason=reason)
        for session in self._sessions.values():
            with trio.move_on_after(FAREWELL_TIMEOUT_S, shield=True):
                try:
                    await session.connection.send(message)
                except ConnectionLost:
                    continue

    def _check(self, hello: TrainerHello) -> None:
        if not 0 <= hello.rank < hello.world_size or hello.rank in self._sessions:
            raise RunFailed(
                f"a trainer says it is rank {hello.rank} of {hello.world_size}, which is taken or impossible"
            )
        for other in self._sessions.values():
            if (other.hello.world_size, other.hello.step) != (hello.world_size, hello.step):
                raise RunFailed(
                    f"trainer ranks disagree: rank {hello.rank} is at step {hello.step} of {hello.world_size} ranks, "
                    f"rank {other.hello.rank} at step {other.hello.step} of {other.hello.world_size}"
                )

    async def _receive(self, session: _Session, nursery: trio.Nursery) -> None:
        while True:
            message = await session.connection.receive()
            match message:
                case BatchRequest():
                    nursery.start_soon(self._answer, session, message.step)
                case StepDone():
                    self._listener.on_step(message)
                case ReferenceLogprobs():
                    self._batches.keep_reference_logprobs(message)
                case VersionPublished():
                    session.published = max(session.published, message.version)
                    self._advance_version()
                case SaveRequest():
                    state = self._batches.state_after(message.step)
                    await self._experience.commit()
                    await session.connection.send(SavedState(step=message.step, state=state))
                case CheckpointSaved():
                    log.info("checkpoint of step %d is on disk", message.step)
                case TrainingDone():
                    session.done = True
                    nursery.start_soon(self._console, session)
                    if all(other.done for other in self._sessions.values()):
                        self.finished.set()
                        self._version_event.set()
                case _:
                    raise RunFailed(f"trainer rank {session.hello.rank} sent {type(message).__name__}")

    async def _answer(self, session: _Session, step: int) -> None:
        started = trio.current_time()
        rank, world_size = session.hello.rank, session.hello.world_size
        while True:
            with trio.move_on_after(PENDING_INTERVAL_S):
                message, batch = await self._batches.rows(step, rank, world_size)
                break
            await session.connection.send(Pending(reason=self._batches.waiting_for))
        if rank == 0:
            self._listener.on_batch(step, batch, trio.current_time() - started)
        await session.connection.send(message)

    async def _console(self, session: _Session) -> None:
        """Tells a rank that has done its last step that the run goes on, until `farewell`."""
        while not self._over:
            await session.connection.send(Pending(reason="the final policy is being evaluated"))
            await trio.sleep(PENDING_INTERVAL_S)

    def _advance_version(self) -> None:
        if len(self._sessions) < self.world_size:
            return
        version = min(session.published for session in self._sessions.values())
        if version > self._version:
            self._version = version
            self._version_event.set()
            self._version_event = trio.Event()
            self._on_version(version, [self._sessions[rank].hello.publisher for rank in sorted(self._sessions)])
