"""The rollout workers as the orchestrator sees them: one session a worker, wherever it runs.

A session hands the dispatcher's items to its worker and results back, tells it of new policy versions, and ends when
the worker goes or is silent for too long; then the dispatcher hands its work to others. Workers come and go; how
those of this machine are started is in `local_workers.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import trio

from spo.config import Config, to_toml
from spo.errors import ConnectionLost, RunFailed
from spo.orchestrator.dispatch import Dispatcher
from spo.problems import Problem
from spo.types import (
    Heartbeat,
    MeasurePrompts,
    NewVersion,
    ProblemData,
    PromptLengths,
    Shutdown,
    Stop,
    ToOrchestrator,
    Work,
    WorkDone,
    WorkerHello,
    WorkerReady,
    WorkerSetup,
    WorkFailed,
)
from spo.wire import AsyncConnection

SILENCE_TIMEOUT_S = 60.0
"""A worker that is ready and sends nothing for this long is taken for dead."""
OVERLAP = 0.5
"""A worker is given this much more than one batch of its engine, so that judging and sampling overlap."""

_POLL_S = 0.2
"""While there is no worker to be asked, one is looked for this often."""

log = logging.getLogger(__name__)


class WorkerSession:
    """One worker's connection."""

    def __init__(self, connection: AsyncConnection[ToOrchestrator], name: str, problems: Mapping[str, Problem]) -> None:
        self.connection = connection
        self.name = name
        self.policy_version = 0
        self.capacity = 0
        self.engine_steps = 0
        self.num_tokens = 0
        self.ready: WorkerReady | None = None
        self._problems = problems
        self._known: set[str] = set()
        self.lengths, self._measured = trio.open_memory_channel[list[int]](1)
        """Where its answers to `MeasurePrompts` go; closed when it is gone."""
        self._send, self._outbox = trio.open_memory_channel[msgspec.Struct](math.inf)

    def give(self, work: Work) -> None:
        """Queues an item, after its problem if the worker has not seen it yet."""
        if work.problem_id not in self._known:
            self._known.add(work.problem_id)
            self.tell(ProblemData(problem=self._problems[work.problem_id]))
        self.tell(work)

    def tell(self, message: msgspec.Struct) -> None:
        """Queues a message; what is in the queue is bounded by `capacity` and a few versions."""
        self._send.send_nowait(message)

    async def measure(self, problems: Sequence[Problem]) -> list[int] | None:
        """The lengths of the problems' prompts in tokens; None if the worker went."""
        self.tell(MeasurePrompts(problems=list(problems)))
        try:
            return await self._measured.receive()
        except trio.EndOfChannel:
            return None

    async def send_queued(self) -> None:
        """Sends what is queued, for as long as the session lasts."""
        async for message in self._outbox:
            await self.connection.send(message)


class Workers:
    """All workers of the run.

    Args:
        dispatcher: Whose items they do.
        problems: All problems by id.
        setup: The settings as TOML, for workers to start from.
        tokenizer: Fingerprint that a worker's tokenizer must have.
        on_progress: Called whenever a worker shows signs of progress.
        ready_timeout_s: How long a worker may take from its hello until it is ready.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        problems: Mapping[str, Problem],
        setup: str,
        tokenizer: str,
        on_progress: Callable[[], None],
        ready_timeout_s: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._problems = problems
        self._setup = setup
        self._tokenizer = tokenizer
        self._on_progress = on_progress
        self._ready_timeout_s = ready_timeout_s
        self._sessions: dict[str, WorkerSession] = {}
        self._version: NewVersion | None = None
        self._ending = False
        self.first_ready = trio.Event()
        self.prompt_template = ""
        """Of the first worker; all have the same."""
        self.tiers: set[str] = set()
        """Isolation tiers of the judges seen so far."""

    @property
    def sessions(self) -> list[WorkerSession]:
        """The workers that are ready."""
        return [session for session in self._sessions.values() if session.ready is not None]

    def is_connected(self, name: str) -> bool:
        """Whether the worker of this name has a session."""
        return name in self._sessions

    async def serve(self, connection: AsyncConnection[ToOrchestrator], hello: WorkerHello) -> None:
        """Serves a worker until it goes; its unfinished work is handed out again.

        Raises:
            RunFailed: Its work cannot be done by anyone.
        """
        if hello.name in self._sessions:
            await connection.send(Stop(reason=f"there is a worker named {hello.name} already; choose another name"))
            return
        session = WorkerSession(connection, hello.name, self._problems)
        self._sessions[hello.name] = session
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.send_queued)
                session.tell(WorkerSetup(config=self._setup, publishers=self._publishers))
                await self._receive(session)
                nursery.cancel_scope.cancel()
        except* ConnectionLost as group:
            level = logging.INFO if self._ending else logging.WARNING
            log.log(level, "worker %s is gone: %s", session.name, group.exceptions[0])
        finally:
            del self._sessions[hello.name]
            session.lengths.close()
            if session.ready is not None:
                self._dispatcher.remove_worker(session)

    async def prompt_lengths(self, problems: Sequence[Problem]) -> list[int]:
        """How many tokens the prompts of `problems` have, by whichever worker is ready; waits for one."""
        while True:
            lengths = await self.sessions[0].measure(problems) if self.sessions else None
            if lengths is not None:
                self._on_progress()
                return lengths
            await trio.sleep(_POLL_S)

    def new_version(self, version: int, publishers: list[str]) -> None:
        """Tells all workers of a policy version."""
        self._version = NewVersion(version=version, publishers=publishers)
        for session in self.sessions:
            session.tell(self._version)

    def shut_down(self) -> None:
        """Asks all workers to end."""
        self._ending = True
        for session in self._sessions.values():
            session.tell(Shutdown())

    @property
    def _publishers(self) -> list[str]:
        return self._version.publishers if self._version else []

    async def _receive(self, session: WorkerSession) -> None:
        while True:
            timeout_s = SILENCE_TIMEOUT_S if session.ready else self._ready_timeout_s
            message = None
            with trio.move_on_after(timeout_s):
                message = await session.connection.receive()
            match message:
                case None:
                    raise ConnectionLost(f"it was silent for {timeout_s:.0f} s")
                case WorkerReady() if session.ready is None:
                    self._welcome(session, message)
                case Heartbeat():
                    self._heard(session, message)
                case PromptLengths(lengths=lengths):
                    await session.lengths.send(lengths)
                case WorkDone():
                    self._on_progress()
                    self._dispatcher.done(session, message)
                case WorkFailed():
                    self._dispatcher.failed(session, message.work_id, message.reason)
                case _:
                    raise ConnectionLost(f"it sent {type(message).__name__}")

    def _welcome(self, session: WorkerSession, message: WorkerReady) -> None:
        template = self.prompt_template or message.prompt_template
        for what, theirs, ours in (
            ("tokenizer", message.tokenizer_fingerprint, self._tokenizer),
            ("prompt template", message.prompt_template, template),
        ):
            if theirs != ours:
                reason = f"worker {session.name} has the {what} {theirs}, this run {ours}; give it the run's model"
                session.tell(Stop(reason=reason))
                raise RunFailed(reason)
        session.ready = message
        session.capacity = message.max_batch_size + max(1, math.ceil(message.max_batch_size * OVERLAP))
        self.prompt_template = template
        self.tiers.add(message.isolation_tier)
        log.info(
            "worker %s is ready: %d responses at once, judge isolation %s",
            session.name,
            message.max_batch_size,
            message.isolation_tier,
        )
        self._on_progress()
        if self._version is not None:
            session.tell(self._version)
        self._dispatcher.add_worker(session)
        self.first_ready.set()

    def _heard(self, session: WorkerSession, message: Heartbeat) -> None:
        if message.engine_steps != session.engine_steps or message.policy_version != session.policy_version:
            self._on_progress()
        session.engine_steps = message.engine_steps
        session.num_tokens = message.num_tokens
        session.policy_version = message.policy_version


def worker_setup(config: Config, model_path: str) -> str:
    """The settings that workers are told, as TOML, with the model's local folder."""
    return to_toml(msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, path=model_path)))
