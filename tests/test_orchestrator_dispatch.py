"""The dispatcher: every item answered once, whatever workers do."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from run_peers import response

from spo.errors import RunFailed
from spo.orchestrator.dispatch import MAX_ATTEMPTS, MAX_CONSECUTIVE_EXCLUDED, Dispatcher, Result
from spo.store import Trajectory, encode_trajectories
from spo.types import Work, WorkDone


@dataclass(eq=False)
class FakeSource:
    num_items: int
    finished: list[Work] = field(default_factory=list)
    renewed: list[Work] = field(default_factory=list)
    taken: int = 0
    share: float = 1.0

    def take(self, limit: int) -> Work | None:
        if self.taken == self.num_items:
            return None
        self.taken += 1
        seeds = [2 * self.taken, 2 * self.taken + 1]
        return Work(
            work_id=0,
            problem_id="p",
            policy="latest",
            source="online",
            temperatures=[1.0, 1.0],
            top_p=1.0,
            seeds=seeds,
            max_new_tokens=8,
        )

    def renew(self, work: Work) -> Work:
        self.renewed.append(work)
        return msgspec.structs.replace(work, min_policy_version=work.min_policy_version + 1)

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        self.finished.append(work)


@dataclass(eq=False)
class FakeWorker:
    name: str = "w"
    policy_version: int = 0
    capacity: int = 4
    given: list[Work] = field(default_factory=list)

    def give(self, work: Work) -> None:
        self.given.append(work)


def answer(work: Work, num_excluded: int = 0) -> WorkDone:
    items = [response(work, index, 0) for index in range(len(work.seeds) - num_excluded)]
    return WorkDone(
        work_id=work.work_id,
        trajectories=encode_trajectories(items),
        num_excluded=num_excluded,
        num_truncated=0,
        sampling_time_s=0.0,
        judge_time_s=0.0,
        judge_cpu_time_s=0.0,
    )


def dispatcher_for(*sources: FakeSource) -> tuple[Dispatcher, list[Result]]:
    results: list[Result] = []
    dispatcher = Dispatcher(results.append, lambda: None)
    dispatcher.sources = sources
    return dispatcher, results


def test_workers_are_kept_full_and_no_fuller_and_the_emptiest_is_served_first() -> None:
    dispatcher, _ = dispatcher_for(FakeSource(100))
    small, large = FakeWorker(capacity=4), FakeWorker(capacity=8)
    dispatcher.add_worker(small)
    dispatcher.add_worker(large)
    assert (len(small.given), len(large.given)) == (2, 4)
    dispatcher.done(small, answer(small.given[0]))
    assert (len(small.given), len(large.given)) == (3, 4)


def test_the_earlier_source_is_served_first() -> None:
    evaluation, online = FakeSource(10), FakeSource(10)
    dispatcher, _ = dispatcher_for(evaluation, online)
    dispatcher.add_worker(FakeWorker(capacity=2))
    assert (evaluation.taken, online.taken) == (1, 0)


def test_two_sources_get_their_shares_of_a_worker_however_long_it_goes_on() -> None:
    evaluation, online = FakeSource(1000, share=3.0), FakeSource(1000)
    dispatcher, _ = dispatcher_for(evaluation, online)
    worker = FakeWorker(capacity=16)
    dispatcher.add_worker(worker)
    for _ in range(80):
        dispatcher.done(worker, answer(worker.given.pop(0)))
    assert abs(len(evaluation.finished) - 60) <= 2
    assert abs(len(online.finished) - 20) <= 2
    assert dispatcher.num_responses == 16


def test_what_a_lost_worker_had_is_renewed_and_given_to_another_with_the_same_seeds() -> None:
    source = FakeSource(2)
    dispatcher, results = dispatcher_for(source)
    lost, other = FakeWorker("lost"), FakeWorker("other")
    dispatcher.add_worker(lost)
    dispatcher.add_worker(other)
    dispatcher.remove_worker(lost)
    assert [work.seeds for work in other.given] == [work.seeds for work in lost.given]
    assert all(work.min_policy_version == 1 for work in other.given)
    for work in other.given:
        dispatcher.done(other, answer(work))
    assert len(results) == len(source.finished) == 2
    assert dispatcher.num_responses == 0


def test_the_second_answer_to_an_item_is_ignored() -> None:
    source = FakeSource(1)
    dispatcher, results = dispatcher_for(source)
    worker = FakeWorker()
    dispatcher.add_worker(worker)
    dispatcher.done(worker, answer(worker.given[0]))
    dispatcher.done(worker, answer(worker.given[0]))
    assert len(results) == 1
    assert dispatcher.num_late == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"trajectories": b"no trajectories"},
        {"num_excluded": 1},
        {"trajectories": encode_trajectories([])},
    ],
)
def test_an_answer_that_does_not_fit_its_item_is_no_answer(wrong: dict[str, object]) -> None:
    source = FakeSource(1)
    dispatcher, results = dispatcher_for(source)
    worker = FakeWorker()
    dispatcher.add_worker(worker)
    dispatcher.done(worker, msgspec.structs.replace(answer(worker.given[0]), **wrong))
    assert results == []
    assert [work.seeds for work in worker.given] == [[2, 3], [2, 3]]


def test_an_item_that_nobody_can_do_ends_the_run_with_its_reason() -> None:
    dispatcher, _ = dispatcher_for(FakeSource(1))
    worker = FakeWorker()
    dispatcher.add_worker(worker)
    for _ in range(MAX_ATTEMPTS - 1):
        dispatcher.failed(worker, worker.given[-1].work_id, "no such checker")
    with pytest.raises(RunFailed, match=f"problem p failed {MAX_ATTEMPTS} times, at last so: no such checker"):
        dispatcher.failed(worker, worker.given[-1].work_id, "no such checker")


def test_a_judge_that_fails_on_everything_ends_the_run_but_not_one_that_fails_now_and_then() -> None:
    dispatcher, _ = dispatcher_for(FakeSource(10_000))
    worker = FakeWorker()
    dispatcher.add_worker(worker)
    for turn in range(MAX_CONSECUTIVE_EXCLUDED):
        dispatcher.done(worker, answer(worker.given[turn], num_excluded=1))
    turns = MAX_CONSECUTIVE_EXCLUDED // 2
    for _ in range(turns - 1):
        dispatcher.done(worker, answer(worker.given[len(worker.given) - 2], num_excluded=2))
    last = answer(worker.given[-2], num_excluded=2)
    with pytest.raises(RunFailed, match="spo doctor"):
        dispatcher.done(worker, last)
