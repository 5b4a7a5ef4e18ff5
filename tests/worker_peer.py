"""The orchestrator's end of a worker's connection, played by a test; a judge that knows one program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from spo.config import Config, to_toml
from spo.errors import ConnectionLost
from spo.judge import Judgement, Verdict
from spo.problems import Problem, ProblemTest, Solution, extract_code
from spo.rollout.fake import FakeCodec, FakeSampler
from spo.rollout.grading import Grader
from spo.rollout.threaded import ThreadedEngine
from spo.rollout.worker import Parts, run_worker
from spo.store import Trajectory
from spo.types import (
    Heartbeat,
    Shutdown,
    ToOrchestrator,
    ToWorker,
    Work,
    WorkerHello,
    WorkerReady,
    WorkerSetup,
)
from spo.wire import AsyncConnection

TOKEN = b"a token of this test, 32 bytes.."
RIGHT = "print(2 * int(input()))\n"
WRONG = "print(2 + int(input()))\n"
PROBLEM = Problem(
    id="test/double",
    dataset="test",
    statement="Double the number.",
    tests=(ProblemTest("2\n", "4\n"), ProblemTest("5\n", "10\n")),
    solutions=(Solution("python", RIGHT, True), Solution("python", WRONG, False)),
)
CONFIG = Config()
READY = WorkerReady(tokenizer_fingerprint="bytes", prompt_template="statement", max_batch_size=8, isolation_tier="root")


class QuickJudge:
    """Knows the right program; says nothing of any other than what it is told to."""

    def __init__(self, others: Verdict = Verdict.WRONG_ANSWER) -> None:
        self.others = others

    async def judge_async(self, source: str, tests: Any, **settings: Any) -> Judgement:
        await trio.lowlevel.checkpoint()
        verdict = Verdict.ACCEPTED if source == RIGHT else self.others
        return Judgement(verdict, 0, "root", "", ())


def parts_maker(judge: Any = None, **sampler_settings: Any) -> Callable[[Config], Awaitable[Parts]]:
    async def make(config: Config) -> Parts:
        codec = FakeCodec()
        settings = {"max_batch_size": 8, "step_time_s": 0.0} | sampler_settings
        sampler_class = settings.pop("sampler_class", FakeSampler)
        engine = await ThreadedEngine.start(lambda: sampler_class(codec, **settings))
        return Parts(engine, codec, Grader(judge or QuickJudge(), 1 << 20), "root", engine.close)

    return make


class Orchestrator:
    """The other end of a worker's connection."""

    def __init__(self, connection: AsyncConnection[ToOrchestrator]) -> None:
        self.connection = connection
        self.version = 0
        self.num_beats = 0

    async def send(self, *messages: Any) -> None:
        for message in messages:
            await self.connection.send(message)

    async def receive(self) -> Any:
        """The next message that is no heartbeat."""
        while True:
            message = await self.connection.receive()
            if not isinstance(message, Heartbeat):
                return message
            self.num_beats += 1
            self.version = message.policy_version

    async def results(self, num: int) -> dict[int, Any]:
        messages = [await self.receive() for _ in range(num)]
        return {message.work_id: message for message in messages}


@asynccontextmanager
async def running(
    make_parts: Callable[[Config], Awaitable[Parts]], config: Config = CONFIG, ready: bool = True
) -> AsyncIterator[Orchestrator]:
    """A worker and its orchestrator, which ends it with `Shutdown`."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    accepted: list[AsyncConnection[ToOrchestrator]] = []

    async def accept() -> None:
        accepted.append(await AsyncConnection.accept(await listener.accept(), TOKEN, ToOrchestrator))

    with trio.fail_after(60):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            connection: AsyncConnection[ToWorker] = await AsyncConnection.connect(address, TOKEN, ToWorker)
            nursery.start_soon(run_worker, connection, "worker-7", TOKEN, make_parts)
            while not accepted:
                await trio.sleep(0.001)
            orchestrator = Orchestrator(accepted[0])
            try:
                assert await orchestrator.receive() == WorkerHello(name="worker-7")
                await orchestrator.send(WorkerSetup(config=to_toml(config), publishers=[]))
                if ready:
                    assert await orchestrator.receive() == READY
                yield orchestrator
                await orchestrator.send(Shutdown())
                with pytest.raises(ConnectionLost):
                    await orchestrator.receive()
            finally:
                await orchestrator.connection.aclose()


def work(work_id: int, num: int = 4, **fields: Any) -> Work:
    settings: dict[str, Any] = {
        "work_id": work_id,
        "problem_id": PROBLEM.id,
        "policy": "latest",
        "source": "online",
        "temperatures": [0.5 + 0.1 * index for index in range(num)],
        "top_p": 0.95,
        "seeds": [1000 * work_id + index for index in range(num)],
        "max_new_tokens": 200,
    }
    return Work(**(settings | fields))


def program(trajectory: Trajectory) -> str | None:
    return extract_code(FakeCodec().decode_response(trajectory.response_tokens.tolist()))
