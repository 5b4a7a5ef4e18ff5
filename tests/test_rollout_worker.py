"""The worker against an orchestrator that the test plays, with the fake engine behind the real engine thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio
from worker_peer import PROBLEM, RIGHT, TOKEN, WRONG, QuickJudge, parts_maker, program, running, work

from spo.config import Config
from spo.errors import ConnectionLost, EngineError, RunFailed
from spo.judge import Verdict
from spo.problems import Problem, ProblemTest
from spo.rollout.fake import END_TOKEN, FakeSampler, share_of_right_answers
from spo.rollout.spool import ProblemSpool
from spo.rollout.worker import Parts
from spo.store import decode_trajectories
from spo.types import (
    Heartbeat,
    MeasurePrompts,
    NewVersion,
    ProblemData,
    PromptLengths,
    Stop,
    WorkDone,
    WorkerReady,
    WorkFailed,
)
from spo.weights import WeightPublisher, WeightShard


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
