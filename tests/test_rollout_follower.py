"""The follower: the newest version reaches the engine, whatever happens to the fetches."""

import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import trio
import trio.testing
from counting_proxy import CountingProxy

from spo.errors import VersionGone, WeightsError
from spo.rollout import follower as module
from spo.rollout.engine import Statistics
from spo.rollout.follower import Follower
from spo.types import NewVersion
from spo.weights import Snapshot, WeightPublisher, WeightShard, WeightSubscriber


class FakeSnapshot:
    def __init__(self, version: int) -> None:
        self.version = version


class FakeEngine:
    def __init__(self) -> None:
        self.applied: list[int] = [0]

    async def update_weights(self, snapshot: FakeSnapshot) -> None:
        self.applied.append(snapshot.version)

    def statistics(self) -> Statistics:
        return Statistics(0, 0, self.applied[-1], 0, 0)


class FakePublishers:
    """What a fetch of each version comes to: a snapshot, or the next of its errors."""

    def __init__(self) -> None:
        self.errors: dict[int, list[Exception]] = {}
        self.fetched: list[int] = []
        self.bases: list[int | None] = []
        self.spares: list[int | None] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, addresses: list[str]) -> "FakePublishers":
        assert addresses == ["a:1", "b:2"]
        return self

    def fetch(
        self, version: int, *, base: FakeSnapshot | None = None, into: FakeSnapshot | None = None
    ) -> FakeSnapshot:
        self.fetched.append(version)
        self.bases.append(base and base.version)
        self.spares.append(into and into.version)
        assert self.gate.wait(timeout=30)
        if self.errors.get(version):
            raise self.errors[version].pop(0)
        return FakeSnapshot(version)


def new_version(version: int) -> NewVersion:
    return NewVersion(version=version, publishers=["a:1", "b:2"])


def gone(version: int) -> VersionGone:
    return VersionGone(f"version {version} is no longer kept; the newest is 9", newest=9)


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_DELAY_S", 0.001)


async def test_the_versions_between_are_skipped() -> None:
    engine, publishers = FakeEngine(), FakePublishers()
    follower = Follower(engine, publishers)
    publishers.gate.clear()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            follower.offer(new_version(1))
            while not publishers.fetched:
                await trio.sleep(0.001)
            for version in (2, 3, 4):
                follower.offer(new_version(version))
            publishers.gate.set()
            await follower.wait_for(4, timeout_s=20)
            nursery.cancel_scope.cancel()
    assert engine.applied == [0, 1, 4]


async def test_versions_that_are_not_newer_are_ignored() -> None:
    engine, publishers = FakeEngine(), FakePublishers()
    follower = Follower(engine, publishers)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            for version in (0, 5, 3, 5, 6):
                follower.offer(new_version(version))
                await trio.testing.wait_all_tasks_blocked()
                await follower.wait_for(version, timeout_s=20)
            nursery.cancel_scope.cancel()
    assert publishers.fetched == [5, 6]
    assert engine.applied == [0, 5, 6]


async def test_a_version_that_is_gone_is_made_good_by_the_next() -> None:
    engine, publishers = FakeEngine(), FakePublishers()
    publishers.errors[1] = [gone(1)]
    follower = Follower(engine, publishers)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            follower.offer(new_version(1))
            while publishers.errors[1]:
                await trio.sleep(0.001)
            follower.offer(new_version(2))
            await follower.wait_for(2, timeout_s=20)
            nursery.cancel_scope.cancel()
    assert publishers.fetched == [1, 2]


@pytest.mark.usefixtures("short_retries")
async def test_a_failed_fetch_is_tried_again() -> None:
    engine, publishers = FakeEngine(), FakePublishers()
    publishers.errors[3] = [WeightsError("damaged"), TimeoutError("too slow"), ConnectionRefusedError("no")]
    follower = Follower(engine, publishers)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            follower.offer(new_version(3))
            await follower.wait_for(3, timeout_s=20)
            nursery.cancel_scope.cancel()
    assert publishers.fetched == [3] * 4


@pytest.mark.usefixtures("short_retries")
async def test_fetches_that_fail_without_end_are_an_error_with_the_last_reason() -> None:
    engine, publishers = FakeEngine(), FakePublishers()
    publishers.errors[3] = [WeightsError(f"damage {index}") for index in range(100)]
    follower = Follower(engine, publishers)
    follower.offer(new_version(3))
    with trio.fail_after(30), pytest.raises(WeightsError, match=f"damage {module.MAX_FAILURES - 1}"):
        await follower.run()


async def test_waiting_for_a_version_that_does_not_come_ends_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    follower = Follower(FakeEngine(), FakePublishers())
    with pytest.raises(WeightsError, match="policy version 7 did not come within 600 s; the engine has version 0"):
        await follower.wait_for(7, timeout_s=600)


@pytest.mark.usefixtures("short_retries")
async def test_the_base_of_a_fetch_is_the_version_that_the_engine_took() -> None:
    class PickyEngine(FakeEngine):
        async def update_weights(self, snapshot: FakeSnapshot) -> None:
            if snapshot.version == 2 and publishers.fetched.count(2) == 1:
                raise WeightsError("does not fit")
            await super().update_weights(snapshot)

    publishers = FakePublishers()
    follower = Follower(PickyEngine(), publishers)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            for version in (1, 2, 3, 4):
                follower.offer(new_version(version))
                await follower.wait_for(version, timeout_s=20)
            nursery.cancel_scope.cancel()
    given = list(zip(publishers.fetched, publishers.bases, publishers.spares, strict=True))
    assert given == [(1, None, None), (2, 1, None), (2, 1, None), (3, 2, 1), (4, 3, 2)]


class KeepingEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.weights = np.zeros(0, np.uint16)

    async def update_weights(self, snapshot: Snapshot) -> None:  # type: ignore[override]
        self.weights = snapshot.tensor("w")
        self.applied.append(snapshot.version)


@pytest.fixture
def publisher() -> Iterator[WeightPublisher]:
    with WeightPublisher(token=b"secret", keep=3) as publisher:
        yield publisher


def patterns(version: int, num_elements: int = 1 << 20) -> np.ndarray:
    """A thousandth of the elements differ between a version and the next."""
    data = np.random.default_rng(0).integers(0, 1 << 14, num_elements, dtype=np.uint16)
    for step in range(version):
        data[step::1000] += 1
    return data


async def test_only_what_has_changed_is_fetched_from_versions_that_are_gone_too(
    publisher: WeightPublisher,
) -> None:
    engine, sizes = KeepingEngine(), {}
    with CountingProxy(publisher.address) as proxy:

        def subscriber(addresses: list[str]) -> WeightSubscriber:
            assert addresses == [publisher.address]
            return WeightSubscriber([proxy.address], token=b"secret")

        follower = Follower(engine, subscriber)

        def publish(version: int) -> None:
            data = patterns(version)
            publisher.publish(version, [WeightShard("w", "bfloat16", (len(data) // 8, 8), 0, data)])

        async def follow(version: int) -> None:
            before = proxy.num_bytes
            follower.offer(NewVersion(version=version, publishers=[publisher.address]))
            await follower.wait_for(version, timeout_s=20)
            np.testing.assert_array_equal(engine.weights.reshape(-1), patterns(version))
            sizes[version] = proxy.num_bytes - before

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                for version in (1, 2, 3, 4, 5):
                    await trio.to_thread.run_sync(partial(publish, version))
                    if version != 4:
                        await follow(version)
                for version in (6, 7, 8):
                    await trio.to_thread.run_sync(partial(publish, version))
                await follow(8)
                nursery.cancel_scope.cancel()
    whole = patterns(0).nbytes
    assert sizes[1] > whole
    assert all(sizes[version] < whole / 100 for version in (2, 3, 5)), "a step, and two at once"
    assert sizes[8] < whole / 100, "version 5 is no longer kept, but what led on from it is"
    assert engine.applied == [0, 1, 2, 3, 5, 8]
