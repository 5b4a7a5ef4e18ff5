"""The worker against an orchestrator that the test plays, with the fake engine behind the real engine thread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from spo.config import Config, to_toml
from spo.errors import ConnectionLost, EngineError, RunFailed
from spo.judge import Judgement, Verdict
from spo.launch import module_command
from spo.problems import Problem, ProblemTest, Solution, extract_code
from spo.rollout.fake import END_TOKEN, FakeCodec, FakeSampler, share_of_right_answers
from spo.rollout.grading import Grader
from spo.rollout.spool import ProblemSpool
from spo.rollout.threaded import ThreadedEngine
from spo.rollout.worker import Parts, run_worker
from spo.store import Trajectory, decode_trajectories
from spo.types import (
    Heartbeat,
    MeasurePrompts,
    NewVersion,
    ProblemData,
    PromptLengths,
    Shutdown,
    Stop,
    ToOrchestrator,
    ToWorker,
    Work,
    WorkDone,
    WorkerHello,
    WorkerReady,
    WorkerSetup,
    WorkFailed,
)
from spo.weights import WeightPublisher, WeightShard
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


async def test_work_comes_back_as_judged_trajectories_with_their_settings() -> None:
    async with running(parts_maker()) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM), *(work(index) for index in range(1, 11)))
        results = await orchestrator.results(10)
    assert results.keys() == set(range(1, 11))
    everything = []
    for work_id, result in results.items():
        assert isinstance(result, WorkDone)
        assert (result.num_excluded, result.num_truncated) == (0, 0)
        assert result.sampling_time_s > 0
        trajectories = decode_trajectories(result.trajectories)
        assert [t.seed for t in trajectories] == work(work_id).seeds
        np.testing.assert_allclose([t.temperature for t in trajectories], work(work_id).temperatures, rtol=1e-6)
        assert all(t.metadata == {"work_id": str(work_id), "worker": "worker-7"} for t in trajectories)
        everything += trajectories
    for trajectory in everything:
        assert trajectory.problem_id == PROBLEM.id
        assert bytes(trajectory.prompt_tokens.tolist()).decode() == PROBLEM.statement
        assert trajectory.response_tokens[-1] == END_TOKEN
        assert program(trajectory) in (RIGHT, WRONG)
        assert trajectory.reward == (0.0 if program(trajectory) == RIGHT else -1.0)
        assert trajectory.verdict == ("accepted" if program(trajectory) == RIGHT else "wrong_answer")
        assert (trajectory.source, trajectory.min_policy_version, trajectory.max_policy_version) == ("online", 0, 0)
    assert {trajectory.reward for trajectory in everything} == {0.0, -1.0}


def test_problems_lie_on_disk_until_they_are_asked_for() -> None:
    spool = ProblemSpool()
    others = [Problem(f"test/{n}", "test", "Do.", (ProblemTest(str(n) * 10_000, "x"),)) for n in range(20)]
    for problem in (PROBLEM, *others):
        spool.add(problem)
    assert [spool.get(problem.id) for problem in (*others, PROBLEM)] == [*others, PROBLEM]
    spool.add(Problem(PROBLEM.id, "test", "Anew.", PROBLEM.tests))
    assert spool.get(PROBLEM.id).statement == "Anew."
    assert spool.get("test/unknown") is None
    spool.close()


async def test_the_same_seeds_give_the_same_trajectories() -> None:
    async with running(parts_maker()) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM), work(3), work(4, seeds=work(3).seeds))
        results = await orchestrator.results(2)
    first, second = (decode_trajectories(results[work_id].trajectories) for work_id in (3, 4))
    assert [t.response_tokens.tolist() for t in first] == [t.response_tokens.tolist() for t in second]


async def test_evaluation_trajectories_carry_their_program() -> None:
    async with running(parts_maker()) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, source="evaluation"))
        results = await orchestrator.results(1)
    for trajectory in decode_trajectories(results[1].trajectories):
        assert trajectory.metadata["program"] == program(trajectory)


async def test_responses_without_an_end_are_truncated_failures() -> None:
    async with running(parts_maker()) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, max_new_tokens=20))
        results = await orchestrator.results(1)
    assert results[1].num_truncated == 4
    for trajectory in decode_trajectories(results[1].trajectories):
        assert (trajectory.verdict, trajectory.reward, len(trajectory.response_tokens)) == ("truncated", -1.0, 20)


async def test_what_the_judge_fails_on_is_left_out_and_counted() -> None:
    async with running(parts_maker(QuickJudge(others=Verdict.JUDGE_ERROR))) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, num=20))
        results = await orchestrator.results(1)
    trajectories = decode_trajectories(results[1].trajectories)
    assert 0 < results[1].num_excluded < 20
    assert len(trajectories) == 20 - results[1].num_excluded
    assert {trajectory.verdict for trajectory in trajectories} == {"accepted"}


async def test_work_that_cannot_be_done_fails_with_the_reason_and_harms_no_other() -> None:
    async with running(parts_maker()) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM))
        await orchestrator.send(work(1, problem_id="test/unknown"), work(3), work(4, top_p=7.0))
        results = await orchestrator.results(3)
    assert isinstance(results[3], WorkDone)
    for work_id, reason in ((1, "was not sent"), (4, "top_p 7.0")):
        assert isinstance(results[work_id], WorkFailed)
        assert reason in results[work_id].reason


async def test_prompts_are_measured_in_tokens() -> None:
    problems = [Problem("test/long", "test", "x" * 5000, ()), PROBLEM]
    async with running(parts_maker()) as orchestrator:
        await orchestrator.send(MeasurePrompts(problems=problems))
        assert await orchestrator.receive() == PromptLengths(lengths=[5000, len(PROBLEM.statement)])


async def test_published_weights_are_applied_while_work_goes_on_and_waited_for_where_asked() -> None:
    weight = np.zeros(6, np.float32)
    with WeightPublisher(token=TOKEN) as publisher:
        async with running(parts_maker()) as orchestrator:
            await orchestrator.send(ProblemData(problem=PROBLEM), work(1, min_policy_version=500), work(2))
            assert (await orchestrator.receive()).work_id == 2
            publisher.publish(500, [WeightShard("w", "float32", (2, 3), 0, weight)])
            await orchestrator.send(NewVersion(version=500, publishers=[publisher.address]))
            results = await orchestrator.results(1)
            await orchestrator.send(work(3, num=50), work(4, num=50, policy="reference"))
            results |= await orchestrator.results(2)
    trajectories = {work_id: decode_trajectories(result.trajectories) for work_id, result in results.items()}
    assert {t.min_policy_version for work_id in (1, 3) for t in trajectories[work_id]} == {500}
    assert {t.max_policy_version for t in trajectories[4]} == {0}
    shares = [np.mean([t.reward == 0 for t in trajectories[work_id]]) for work_id in (3, 4)]
    assert shares[0] == 1.0 == pytest.approx(share_of_right_answers(500), abs=1e-3)
    assert shares[1] == pytest.approx(share_of_right_answers(0), abs=0.2)


async def test_heartbeats_tell_of_progress_while_the_engine_loads_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spo.rollout.worker.HEARTBEAT_S", 0.001)
    loaded = trio.Event()

    async def slow(config: Config) -> Parts:
        await loaded.wait()
        return await parts_maker()(config)

    async with running(slow, ready=False) as orchestrator:
        assert await orchestrator.connection.receive() == Heartbeat(engine_steps=0, policy_version=0, num_tokens=0)
        loaded.set()
        assert isinstance(await orchestrator.receive(), WorkerReady)
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1))
        result = await orchestrator.receive()
        num_tokens = sum(len(t.response_tokens) for t in decode_trajectories(result.trajectories))
        beat = await orchestrator.connection.receive()
        while beat.num_tokens == 0:
            beat = await orchestrator.connection.receive()
        assert (beat.num_tokens, beat.engine_steps > 0) == (num_tokens, True)


async def test_an_orchestrator_that_is_gone_ends_the_worker_at_once() -> None:
    with pytest.RaisesGroup(ConnectionLost, flatten_subgroups=True):
        async with running(parts_maker(step_time_s=0.01)) as orchestrator:
            await orchestrator.send(ProblemData(problem=PROBLEM), work(1, num=100))
            await orchestrator.connection.aclose()
            start = trio.current_time()
            try:
                await trio.sleep(30)
            finally:
                assert trio.current_time() - start < 10


async def test_stop_ends_the_worker_with_its_reason() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(RunFailed, match="two of that name"), flatten_subgroups=True):
        async with running(parts_maker()) as orchestrator:
            await orchestrator.send(Stop(reason="two of that name"))
            await trio.sleep(30)


async def test_a_failed_engine_ends_the_worker_with_its_reason() -> None:
    class Failing(FakeSampler):
        def step(self) -> Any:
            raise RuntimeError("out of memory")

    with pytest.RaisesGroup(pytest.RaisesExc(EngineError, match="out of memory"), flatten_subgroups=True):
        async with running(parts_maker(sampler_class=Failing)) as orchestrator:
            await orchestrator.send(ProblemData(problem=PROBLEM), work(1))
            await trio.sleep(30)


class Process:
    """`python -m spo.rollout` with a connection to it."""

    def __init__(self, tmp_path: Path, *, num_connections: int = 1) -> None:
        self._token_file = tmp_path / "token"
        self._token_file.write_bytes(TOKEN)
        self.log = tmp_path / "worker.log"
        self.process: trio.Process

    async def start(self) -> Orchestrator:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        command = module_command(
            "spo.rollout", "--connect", address, "--token-file", str(self._token_file), "--name", "worker-0"
        )
        with self.log.open("wb") as log:
            self.process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stderr=log)
        async with listener:
            stream = await listener.accept()
        orchestrator = Orchestrator(await AsyncConnection.accept(stream, TOKEN, ToOrchestrator))
        assert await orchestrator.receive() == WorkerHello(name="worker-0")
        return orchestrator


def fake_settings(**sections: Any) -> str:
    import msgspec

    settings: dict[str, Any] = {"workers": {"engine": "fake", "max_batch_size": 8}}
    return to_toml(msgspec.convert(settings | sections, Config))


async def test_the_process_samples_judges_and_ends_when_told_to(tmp_path: Path) -> None:
    worker = Process(tmp_path)
    with trio.fail_after(60):
        orchestrator = await worker.start()
        await orchestrator.send(WorkerSetup(config=fake_settings(), publishers=[]))
        assert isinstance(await orchestrator.receive(), WorkerReady)
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, num=20))
        result = await orchestrator.receive()
        await orchestrator.send(Shutdown())
        assert await worker.process.wait() == 0
        await orchestrator.connection.aclose()
    trajectories = decode_trajectories(result.trajectories)
    assert len(trajectories) == 20
    assert all(t.verdict == ("accepted" if program(t) == RIGHT else "wrong_answer") for t in trajectories)
    assert {trajectory.reward for trajectory in trajectories} == {0.0, -1.0}


@pytest.mark.parametrize("ending", ["stdin", "connection"])
async def test_the_process_ends_soon_when_its_parent_or_the_orchestrator_is_gone(tmp_path: Path, ending: str) -> None:
    worker = Process(tmp_path)
    with trio.fail_after(60):
        orchestrator = await worker.start()
        await orchestrator.send(WorkerSetup(config=fake_settings(), publishers=[]))
        assert isinstance(await orchestrator.receive(), WorkerReady)
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, num=500))
        if ending == "stdin":
            assert worker.process.stdin is not None
            await worker.process.stdin.aclose()
        else:
            await orchestrator.connection.aclose()
        with trio.fail_after(10):
            status = await worker.process.wait()
        await orchestrator.connection.aclose()
    assert status == (0 if ending == "stdin" else 1)
    if ending == "connection":
        assert worker.log.read_text().splitlines()[-1].startswith("spo: error: ")


async def test_a_model_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    worker = Process(tmp_path)
    settings = to_toml(Config()).replace('path = ""', f'path = "{tmp_path}/nothing"')
    with trio.fail_after(60):
        orchestrator = await worker.start()
        await orchestrator.send(WorkerSetup(config=settings, publishers=[]))
        assert await worker.process.wait() == 2
        await orchestrator.connection.aclose()
    last = worker.log.read_text().splitlines()[-1]
    assert last.startswith("spo: error: model.path: ")


def test_the_command_line_refuses_a_wrong_address(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(TOKEN)
    arguments = ["--connect", "nowhere", "--token-file", str(tmp_path / "token")]
    done = subprocess.run([sys.executable, "-m", "spo.rollout", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "spo: error: address 'nowhere': write HOST:PORT, such as 127.0.0.1:29600\n"
