"""The rollout worker: work comes in, sampled and judged trajectories go out.

One trio process around an engine and a judge, each with threads or processes of its own. Several work items are under
way at once, so that the engine samples some while the judge is at others. The worker does what the orchestrator
says and keeps nothing: which problems, how many, with which settings, is decided there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from spo.config import Config, parse_config
from spo.errors import ConnectionLost, ProblemError, RunFailed, WeightsError
from spo.problems import Problem
from spo.rollout.engine import Engine, Request, Response
from spo.rollout.follower import Follower, Subscriber
from spo.rollout.grading import Grade, Grader
from spo.rollout.prompts import Codec
from spo.rollout.spool import ProblemSpool
from spo.store import Trajectory, encode_trajectories
from spo.types import (
    PREFIX_KEY,
    Heartbeat,
    MeasurePrompts,
    NewVersion,
    ProblemData,
    PromptLengths,
    Shutdown,
    Stop,
    ToWorker,
    Work,
    WorkDone,
    WorkerHello,
    WorkerReady,
    WorkerSetup,
    WorkFailed,
)
from spo.versions import spans_to_metadata
from spo.weights import WeightSubscriber
from spo.wire import AsyncConnection

HEARTBEAT_S = 2.0
SETUP_TIMEOUT_S = 60.0
"""The orchestrator answers a hello within this time."""
FETCH_TIMEOUT_S = 120.0
"""A policy version's weights are here within this time, or are asked for again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a worker is made of; see `spo.rollout.parts` for how."""

    engine: Engine
    codec: Codec
    grader: Grader
    isolation_tier: str
    close: Callable[[], Awaitable[None]]
    """Ends engine and judge."""


async def run_worker(
    connection: AsyncConnection[ToWorker],
    name: str,
    token: bytes,
    make_parts: Callable[[Config], Awaitable[Parts]],
) -> None:
    """Serves the orchestrator at the other end until it says that the run is over.

    Args:
        connection: To the orchestrator; closed in the end.
        name: The worker's name, unique in the run.
        token: The run's token, for fetching weights.
        make_parts: Loads the engine and starts the judge.

    Raises:
        ConnectionLost: The orchestrator is gone.
        RunFailed: The orchestrator gave up on the run or this worker; the text is its reason.
        EngineError: The engine has failed.
        WeightsError: New versions cannot be had.
    """
    try:
        await connection.send(WorkerHello(name=name))
        setup = await _receive_setup(connection)
        config = parse_config(setup.config, "settings from the orchestrator")
        worker = Worker(connection, config, name, token)
        async with contextlib.aclosing(worker), trio.open_nursery() as nursery:
            nursery.start_soon(worker.receive, nursery.cancel_scope)
            nursery.start_soon(worker.send_heartbeats)
            nursery.start_soon(worker.serve, make_parts)
    finally:
        await connection.aclose()


async def _receive_setup(connection: AsyncConnection[ToWorker]) -> WorkerSetup:
    with trio.move_on_after(SETUP_TIMEOUT_S):
        match await connection.receive():
            case WorkerSetup() as setup:
                return setup
            case Stop(reason=reason):
                raise RunFailed(reason)
            case message:
                raise ConnectionLost(f"the orchestrator answered the hello with {type(message).__name__}")
    raise ConnectionLost(f"the orchestrator did not answer the hello within {SETUP_TIMEOUT_S:.0f} s")


class Worker:
    """A worker that has its settings."""

    def __init__(self, connection: AsyncConnection[ToWorker], config: Config, name: str, token: bytes) -> None:
        self._connection = connection
        self._config = config
        self._name = name
        self._token = token
        self._problems = ProblemSpool()
        self._newest: NewVersion | None = None
        self._parts: Parts | None = None
        self._follower: Follower | None = None
        self._send_work, self._receive_work = trio.open_memory_channel[Work](1 << 16)

    async def aclose(self) -> None:
        """Lets go of what it has on disk."""
        self._problems.close()

    async def receive(self, scope: trio.CancelScope) -> None:
        """Takes what the orchestrator sends; cancels `scope` when it says that the run is over."""
        while True:
            match await self._connection.receive():
                case ProblemData(problem=problem):
                    self._problems.add(problem)
                case MeasurePrompts(problems=problems) if self._parts is not None:
                    lengths = [len(self._parts.codec.encode_prompt(problem)) for problem in problems]
                    await self._connection.send(PromptLengths(lengths=lengths))
                case Work() as work:
                    await self._send_work.send(work)
                case NewVersion() as message:
                    self._newest = message
                    if self._follower is not None:
                        self._follower.offer(message)
                case Shutdown():
                    scope.cancel()
                    return
                case Stop(reason=reason):
                    raise RunFailed(reason)
                case message:
                    raise ConnectionLost(
                        f"the orchestrator sent {type(message).__name__} to a worker that has its setup"
                    )

    async def send_heartbeats(self) -> None:
        """Tells every two seconds how far the engine is, while it is loaded, too."""
        while True:
            if self._parts is None:
                beat = Heartbeat(engine_steps=0, policy_version=0, num_tokens=0)
            else:
                done = self._parts.engine.statistics()
                beat = Heartbeat(
                    engine_steps=done.num_steps, policy_version=done.policy_version, num_tokens=done.num_tokens
                )
            await self._connection.send(beat)
            await trio.sleep(HEARTBEAT_S)

    async def serve(self, make_parts: Callable[[Config], Awaitable[Parts]]) -> None:
        """Loads engine and judge, then does work until cancelled."""
        parts = await make_parts(self._config)
        try:
            self._parts = parts
            self._follower = Follower(parts.engine, self._make_subscriber)
            if self._newest is not None:
                self._follower.offer(self._newest)
            await self._connection.send(
                WorkerReady(
                    tokenizer_fingerprint=parts.codec.tokenizer_fingerprint,
                    prompt_template=parts.codec.prompt_template,
                    max_batch_size=parts.engine.max_batch_size,
                    isolation_tier=parts.isolation_tier,
                )
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follower.run)
                async for work in self._receive_work:
                    nursery.start_soon(self._do, work, parts, self._follower)
        finally:
            with trio.CancelScope(shield=True):
                await parts.close()

    def _make_subscriber(self, publishers: list[str]) -> Subscriber:
        return WeightSubscriber(publishers, token=self._token, timeout_s=FETCH_TIMEOUT_S)

    async def _do(self, work: Work, parts: Parts, follower: Follower) -> None:
        try:
            result: WorkDone | WorkFailed = await self._roll_out(work, parts, follower)
        except (ProblemError, ValueError, WeightsError) as error:
            _log.warning("work %d: %s", work.work_id, error)
            result = WorkFailed(work_id=work.work_id, reason=str(error))
        await self._connection.send(result)

    async def _roll_out(self, work: Work, parts: Parts, follower: Follower) -> WorkDone:
        prompt = parts.codec.encode_prompt(self._problem(work.problem_id))
        if work.policy == "latest":
            await follower.wait_for(work.min_policy_version, self._config.network.stall_timeout_s)
        responses = await parts.engine.generate(_requests(work, prompt))
        texts = [
            None if r.is_truncated else parts.codec.decode_response((*work.prefix_tokens, *r.tokens)) for r in responses
        ]
        grading = await parts.grader.grade(self._problem(work.problem_id), texts)
        trajectories = [
            self._trajectory(work, index, prompt, response, grade, grade.reward)
            for index, (response, grade) in enumerate(zip(responses, grading.grades, strict=True))
            if grade.reward is not None
        ]
        return WorkDone(
            work_id=work.work_id,
            trajectories=encode_trajectories(trajectories),
            num_excluded=len(responses) - len(trajectories),
            num_truncated=sum(response.is_truncated for response in responses),
            sampling_time_s=sum(response.engine_time_s for response in responses),
            judge_time_s=grading.wall_time_s,
            judge_cpu_time_s=grading.cpu_time_s,
        )

    def _problem(self, problem_id: str) -> Problem:
        problem = self._problems.get(problem_id)
        if problem is None:
            raise ProblemError(f"problem {problem_id} was not sent before the work that needs it")
        return problem

    def _trajectory(
        self, work: Work, index: int, prompt: tuple[int, ...], response: Response, grade: Grade, reward: float
    ) -> Trajectory:
        metadata = {"work_id": str(work.work_id), "worker": self._name, **spans_to_metadata(response.version_spans)}
        if work.source == "evaluation":
            # Who evaluates counts distinct programs, and has no tokenizer to read them from the tokens.
            metadata["program"] = grade.program
        if work.prefix_tokens:
            metadata[PREFIX_KEY] = str(len(work.prefix_tokens))
        return Trajectory(
            problem_id=work.problem_id,
            prompt_tokens=list(prompt),
            response_tokens=[*work.prefix_tokens, *response.tokens],
            reward=reward,
            verdict=grade.verdict,
            source=work.source,
            # Nobody says what the given tokens were drawn with, and half a column would pass for a whole one.
            behavior_logprobs=None if work.prefix_tokens else response.behavior_logprobs,
            min_policy_version=response.min_policy_version,
            max_policy_version=response.max_policy_version,
            temperature=work.temperatures[index],
            top_p=work.top_p,
            seed=work.seeds[index],
            metadata=metadata,
        )


def _requests(work: Work, prompt: tuple[int, ...]) -> list[Request]:
    given = (*prompt, *work.prefix_tokens)
    max_new_tokens = work.max_new_tokens - len(work.prefix_tokens)
    return [
        Request(given, temperature, work.top_p, seed, max_new_tokens, work.policy)
        for temperature, seed in zip(work.temperatures, work.seeds, strict=True)
    ]
