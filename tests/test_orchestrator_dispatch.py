"""Dispatch: who is served, and that nothing is answered twice."""

from dataclasses import dataclass, field

from spo.orchestrator.dispatch import Dispatcher
from spo.store import Trajectory, encode_trajectories
from spo.types import Work, WorkDone


@dataclass(eq=False)
class Desk:
    """A worker that keeps what it is given."""

    capacity: int
    name: str = "desk"
    policy_version: int = 0
    given: list[Work] = field(default_factory=list)

    def give(self, work: Work) -> None:
        self.given.append(work)


@dataclass(eq=False)
class Endless:
    """A source that always has two more responses to sample."""

    name: str
    finished: list[Work] = field(default_factory=list)
    taken: int = 0

    def take(self, limit: int) -> Work | None:
        self.taken += 1
        seeds = [2 * self.taken, 2 * self.taken + 1]
        return Work(0, "p", "latest", self.name, [1.0, 1.0], 1.0, seeds, 8)

    def renew(self, work: Work) -> Work:
        return work

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        self.finished.append(work)


def _answer(work: Work) -> WorkDone:
    trajectories = [
        Trajectory(work.problem_id, [1], [2], -1.0, "wrong_answer", work.source, seed=seed) for seed in work.seeds
    ]
    return WorkDone(work.work_id, encode_trajectories(trajectories), 0, 0, 0.0, 0.0, 0.0)


def _dispatcher(*sources: Endless) -> Dispatcher:
    dispatcher = Dispatcher(lambda _result: None, lambda: None)
    dispatcher.sources = sources
    return dispatcher


def test_two_sources_share_a_worker_evenly_however_long_it_goes_on() -> None:
    evaluation, online = Endless("evaluation"), Endless("online")
    dispatcher, desk = _dispatcher(evaluation, online), Desk(capacity=16)
    dispatcher.add_worker(desk)
    for _ in range(50):
        dispatcher.done(desk, _answer(desk.given.pop(0)))
    assert abs(len(evaluation.finished) - len(online.finished)) <= 1
    assert dispatcher.num_responses == 16


def test_the_earlier_source_is_served_first() -> None:
    evaluation, online = Endless("evaluation"), Endless("online")
    dispatcher, desk = _dispatcher(evaluation, online), Desk(capacity=2)
    dispatcher.add_worker(desk)
    assert [work.source for work in desk.given] == ["evaluation"]


def test_what_a_lost_worker_had_goes_to_the_next_one_and_is_finished_once() -> None:
    online = Endless("online")
    dispatcher, lost, heir = _dispatcher(online), Desk(capacity=4, name="lost"), Desk(capacity=4, name="heir")
    dispatcher.add_worker(lost)
    before = list(lost.given)
    dispatcher.remove_worker(lost)
    dispatcher.add_worker(heir)
    assert [work.seeds for work in heir.given] == [work.seeds for work in before]
    dispatcher.done(heir, _answer(heir.given[0]))
    dispatcher.done(lost, _answer(before[0]))
    assert len(online.finished) == 1
    assert dispatcher.num_late == 1
