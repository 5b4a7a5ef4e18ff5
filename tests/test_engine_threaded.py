"""The engine's thread: who waits for what, and what waiters see when it fails, closes or is left."""

import threading

import pytest
import trio
import trio.testing

from spo.errors import EngineError
from spo.rollout.engine import Request, Response
from spo.rollout.threaded import ThreadedEngine


def request(length: int, prompt: int = 5) -> Request:
    """A request that the scripted sampler answers after `length` steps."""
    return Request(prompt_tokens=(prompt,), temperature=1.0, top_p=1.0, seed=0, max_new_tokens=length)


class ScriptedSampler:
    """Answers each request after `max_new_tokens` steps; steps only when permitted, fails when told to."""

    def __init__(self, max_batch_size: int = 8, free_running: bool = True) -> None:
        self.max_batch_size = max_batch_size
        self.policy_version = 0
        self.batch: dict[int, tuple[Request, int]] = {}
        self.groups: list[int] = []
        self.dropped: set[int] = set()
        self.fail_at_step = -1
        self.thread_names: set[str] = set()
        self.permits = threading.Semaphore(0)
        self.free_running = free_running
        self.num_steps = 0

    def check(self, request: Request) -> None:
        if request.max_new_tokens > 1000:
            raise ValueError("too long")

    def add(self, requests: list[tuple[int, Request]]) -> None:
        self.groups.append(len(requests))
        self.batch |= {key: (request, 0) for key, request in requests}
        assert len(self.batch) <= self.max_batch_size

    def drop(self, keys: set[int]) -> None:
        self.dropped |= keys
        for key in keys:
            self.batch.pop(key, None)

    def step(self) -> list[tuple[int, Response]]:
        self.thread_names.add(threading.current_thread().name)
        if not self.free_running:
            assert self.permits.acquire(timeout=30)
        if self.num_steps == self.fail_at_step:
            raise RuntimeError("out of memory")
        self.num_steps += 1
        finished = []
        for key, (request, done) in list(self.batch.items()):
            self.batch[key] = (request, done + 1)
            if done + 1 == request.max_new_tokens:
                del self.batch[key]
                tokens = (request.prompt_tokens[0],) * request.max_new_tokens
                finished.append((key, Response(tokens, True, ((self.policy_version, len(tokens)),))))
        return finished

    def stage(self, snapshot: object) -> object:
        return snapshot

    def switch(self, staged: object) -> None:
        assert isinstance(staged, int)
        if staged < 0:
            raise RuntimeError("bad version")
        self.policy_version = staged


async def test_calls_of_many_tasks_share_the_batch_and_each_gets_its_own_responses() -> None:
    sampler = ScriptedSampler(max_batch_size=4)
    engine = await ThreadedEngine.start(lambda: sampler)
    results: dict[int, list[Response]] = {}

    async def caller(index: int) -> None:
        results[index] = await engine.generate([request(index % 5 + 1, index), request(3, index)])

    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(caller, index)
    for index in range(20):
        assert [r.tokens for r in results[index]] == [(index,) * (index % 5 + 1), (index,) * 3]
        assert all(r.engine_time_s > 0 for r in results[index])
    statistics = engine.statistics()
    assert statistics.num_tokens == sum(len(r.tokens) for rs in results.values() for r in rs)
    assert statistics.num_steps == sampler.num_steps < statistics.num_tokens / 2
    assert sampler.thread_names == {"spo-engine"}
    await engine.close()


async def test_a_call_returns_when_its_last_response_is_complete() -> None:
    sampler = ScriptedSampler(free_running=False)
    engine = await ThreadedEngine.start(lambda: sampler)
    returned: list[list[Response]] = []

    async def caller() -> None:
        returned.append(await engine.generate([request(1), request(3)]))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            sampler.permits.release(2)
            while engine.statistics().num_steps < 2:
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked()
            assert returned == []
            sampler.permits.release(1)
    assert [len(response.tokens) for response in returned[0]] == [1, 3]
    await engine.close()


async def test_waiting_requests_join_in_groups_of_an_eighth_of_the_batch() -> None:
    sampler = ScriptedSampler(max_batch_size=16)
    engine = await ThreadedEngine.start(lambda: sampler)
    await engine.generate([request(index + 1) for index in range(64)])
    await engine.close()
    assert sampler.groups[0] == 16
    assert sum(sampler.groups) == 64
    assert min(sampler.groups[:-1]) >= 2


async def test_a_failing_step_reaches_every_waiter_and_every_later_call() -> None:
    sampler = ScriptedSampler(max_batch_size=2)
    sampler.fail_at_step = 3
    engine = await ThreadedEngine.start(lambda: sampler)
    errors: list[str] = []

    async def caller() -> None:
        with pytest.raises(EngineError) as caught:
            await engine.generate([request(50)])
        errors.append(str(caught.value))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(caller)
        await caller()
        with pytest.raises(EngineError, match="out of memory"):
            await engine.update_weights(4)  # type: ignore[arg-type]
    assert errors == ["the engine failed: RuntimeError: out of memory"] * 6
    await engine.close()


async def test_a_failure_while_loading_is_raised_by_start() -> None:
    def load() -> ScriptedSampler:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        await ThreadedEngine.start(load)


async def test_a_cancelled_call_drops_its_requests_and_the_others_go_on() -> None:
    sampler = ScriptedSampler(max_batch_size=2, free_running=False)
    engine = await ThreadedEngine.start(lambda: sampler)
    finished: list[Response] = []

    async def other() -> None:
        finished.extend(await engine.generate([request(6)]))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with trio.CancelScope() as scope:
                nursery.start_soon(_cancel_when_waiting, engine, scope)
                await engine.generate([request(900), request(900)])
            assert scope.cancelled_caught
            sampler.permits.release(100)
    assert len(finished) == 1
    assert sampler.num_steps < 20
    assert (engine.statistics().num_active, engine.statistics().num_waiting) == (0, 0)
    await engine.close()


async def _cancel_when_waiting(engine: ThreadedEngine, scope: trio.CancelScope) -> None:
    while engine.statistics().num_active < 2:
        await trio.sleep(0.001)
    scope.cancel()


async def test_a_new_version_is_switched_to_between_steps_and_then_known() -> None:
    sampler = ScriptedSampler()
    engine = await ThreadedEngine.start(lambda: sampler)
    with trio.fail_after(30):
        await engine.update_weights(7)  # type: ignore[arg-type]
        (response,) = await engine.generate([request(2)])
    assert engine.statistics().policy_version == 7
    assert response.min_policy_version == 7
    await engine.close()


async def test_a_failing_switch_fails_the_engine_and_its_waiters() -> None:
    sampler = ScriptedSampler()
    engine = await ThreadedEngine.start(lambda: sampler)

    async def caller() -> None:
        with pytest.raises(EngineError, match="bad version"):
            await engine.generate([request(1000)] * 20)

    async def permit_a_step_a_millisecond() -> None:
        while True:
            sampler.permits.release()
            await trio.sleep(0.001)

    sampler.free_running = False
    with trio.fail_after(30):
        async with trio.open_nursery() as permits:
            permits.start_soon(permit_a_step_a_millisecond)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller)
                nursery.start_soon(_expect_update_to_fail, engine)
            permits.cancel_scope.cancel()
    await engine.close()


async def _expect_update_to_fail(engine: ThreadedEngine) -> None:
    with pytest.raises(EngineError, match="bad version"):
        await engine.update_weights(-1)  # type: ignore[arg-type]


async def test_closing_ends_the_thread_and_fails_who_still_waits() -> None:
    sampler = ScriptedSampler(free_running=False)
    engine = await ThreadedEngine.start(lambda: sampler)

    async def caller() -> None:
        with pytest.raises(EngineError, match="closed"):
            await engine.generate([request(900)])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(engine.close)
            await trio.testing.wait_all_tasks_blocked()
            sampler.permits.release(1000)
        with pytest.raises(EngineError, match="closed"):
            await engine.generate([request(1)])
    assert "spo-engine" not in {thread.name for thread in threading.enumerate()}


async def test_a_request_that_cannot_be_sampled_is_refused_and_harms_nobody() -> None:
    engine = await ThreadedEngine.start(ScriptedSampler)
    with pytest.raises(ValueError, match="too long"):
        await engine.generate([request(1), request(1001)])
    with trio.fail_after(30):
        assert len(await engine.generate([request(1)])) == 1
    assert await engine.generate([]) == []
    await engine.close()


@pytest.mark.parametrize(
    "fields",
    [{"prompt_tokens": ()}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": 0}, {"seed": -1}],
)
def test_requests_without_meaning_are_refused(fields: dict[str, object]) -> None:
    good: dict[str, object] = {
        "prompt_tokens": (1,),
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 0,
        "max_new_tokens": 1,
    }
    (name,) = fields
    with pytest.raises(ValueError, match=name):
        Request(**(good | fields))  # type: ignore[arg-type]
