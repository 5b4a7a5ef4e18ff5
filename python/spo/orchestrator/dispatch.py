"""Dispatch: work items go out to workers, results come in, and what a dead worker leaves is handed out again.

Work comes from sources; a source decides what is due and takes its results. The one that is furthest below its share
of the responses on their way is served first, so that an evaluation slows sampling for training but never stops it.
Every item is answered exactly once: what fails or is lost is given out again as it was, with the same seeds, and a
late second answer is ignored. How workers are reached is not known here (`workers.py`), nor what the work is for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from spo.errors import RunFailed, SpoError
from spo.store import Trajectory, decode_trajectories
from spo.types import Work, WorkDone

MAX_ATTEMPTS = 5
"""A work item that fails this often, on whichever worker, ends the run."""
MAX_CONSECUTIVE_EXCLUDED = 64
"""So many responses in a row that the judge could not judge end the run."""

log = logging.getLogger(__name__)


class Source(Protocol):
    """Something that there is work for."""

    share: float
    """How much of the workers it gets, in proportion to the shares of others that have work too."""

    def take(self, limit: int) -> Work | None:
        """The next work item, of at most `limit` responses where it can be split; None while nothing is due.

        The dispatcher fills in `work_id`.
        """

    def renew(self, work: Work) -> Work:
        """The same item, as it should be handed out now that it was lost."""

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        """Takes the result of an item that `take` gave."""


class Worker(Protocol):
    """A worker that takes work."""

    name: str
    policy_version: int
    """The version that it is known to have applied."""
    capacity: int
    """How many responses to keep with it."""

    def give(self, work: Work) -> None:
        """Queues an item for it; never waits."""


class Assignment(msgspec.Struct, eq=False):
    """A work item on its way."""

    work: Work
    source: Source
    worker: Worker | None = None
    """Who has it; None while it waits to be handed out again."""
    attempts: int = 0
    version: int = 0
    """It is sampled with this policy version at least."""


class Result(msgspec.Struct, frozen=True):
    """An accepted result."""

    work: Work
    done: WorkDone
    trajectories: list[Trajectory]


class Dispatcher:
    """Keeps every worker full.

    Args:
        on_result: Told of every accepted result, once its source has it.
        on_again: Told whenever an item is handed out once more.
    """

    def __init__(self, on_result: Callable[[Result], None], on_again: Callable[[], None]) -> None:
        self.sources: Sequence[Source] = ()
        """What there is work for; the earlier first where they are equally far from their shares."""
        self._on_result = on_result
        self._on_again = on_again
        self._loads: dict[Worker, int] = {}
        self._assignments: dict[int, Assignment] = {}
        self._again: deque[int] = deque()
        self._next_id = 1
        self._consecutive_excluded = 0
        self.num_late = 0
        """Answers that nobody waited for any more."""

    def add_worker(self, worker: Worker) -> None:
        """A worker is ready."""
        self._loads[worker] = 0
        self.fill()

    def remove_worker(self, worker: Worker) -> None:
        """A worker is gone; what it had is handed out again."""
        del self._loads[worker]
        for assignment in self._assignments.values():
            if assignment.worker is worker:
                self._take_back(assignment)
        self.fill()

    def fill(self) -> None:
        """Hands out all work that is due and that workers have room for; to be called whenever either has changed."""
        while self._loads:
            worker = max(self._loads, key=self._room)
            assignment = self._next(self._room(worker)) if self._room(worker) > 0 else None
            if assignment is None:
                return
            assignment.worker = worker
            assignment.attempts += 1
            assignment.version = max(assignment.work.min_policy_version, worker.policy_version)
            self._loads[worker] += len(assignment.work.seeds)
            worker.give(assignment.work)

    def done(self, worker: Worker, message: WorkDone) -> None:
        """Takes a worker's result.

        Raises:
            RunFailed: Results like this one will not come to anything.
        """
        assignment = self._assignments.get(message.work_id)
        if assignment is None:
            self.num_late += 1
            log.info("worker %s: late result of work %d ignored", worker.name, message.work_id)
            return
        try:
            trajectories = _checked(assignment.work, message)
        except (SpoError, ValueError) as error:
            self.failed(worker, message.work_id, f"its result cannot be used: {error}")
            return
        self._forget(message.work_id, assignment)
        self._watch_excluded(len(trajectories), message.num_excluded)
        assignment.source.finish(assignment.work, trajectories, message.num_excluded)
        self._on_result(Result(assignment.work, message, trajectories))
        self.fill()

    def failed(self, worker: Worker, work_id: int, reason: str) -> None:
        """A worker could not do an item; it is handed out again.

        Raises:
            RunFailed: It has failed too often.
        """
        assignment = self._assignments.get(work_id)
        if assignment is None or assignment.worker is not worker:
            return
        problem = assignment.work.problem_id
        log.warning("worker %s: work %d (problem %s) failed: %s", worker.name, work_id, problem, reason)
        if assignment.attempts >= MAX_ATTEMPTS:
            raise RunFailed(f"work on problem {problem} failed {assignment.attempts} times, at last so: {reason}")
        self._loads[worker] -= len(assignment.work.seeds)
        self._take_back(assignment)
        self.fill()

    def in_flight(self, source: Source) -> Iterator[Assignment]:
        """The items of a source that are on their way."""
        return (assignment for assignment in self._assignments.values() if assignment.source is source)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way, nor to be handed out again."""
        return not self._assignments

    @property
    def num_responses(self) -> int:
        """Responses on their way, of all sources."""
        return sum(self._loads.values())

    def _room(self, worker: Worker) -> int:
        return worker.capacity - self._loads[worker]

    def _take_back(self, assignment: Assignment) -> None:
        assignment.worker = None
        self._again.append(assignment.work.work_id)

    def _forget(self, work_id: int, assignment: Assignment) -> None:
        del self._assignments[work_id]
        if assignment.worker is None:
            self._again.remove(work_id)
        else:
            self._loads[assignment.worker] -= len(assignment.work.seeds)

    def _next(self, room: int) -> Assignment | None:
        if self._again:
            self._on_again()
            assignment = self._assignments[self._again.popleft()]
            assignment.work = assignment.source.renew(assignment.work)
            return assignment
        for source in sorted(self.sources, key=self._load_of):
            work = source.take(room)
            if work is not None:
                work = msgspec.structs.replace(work, work_id=self._next_id)
                self._next_id += 1
                self._assignments[work.work_id] = assignment = Assignment(work, source)
                return assignment
        return None

    def _load_of(self, source: Source) -> float:
        return sum(len(assignment.work.seeds) for assignment in self.in_flight(source)) / source.share

    def _watch_excluded(self, num_judged: int, num_excluded: int) -> None:
        self._consecutive_excluded = 0 if num_judged else self._consecutive_excluded + num_excluded
        if self._consecutive_excluded >= MAX_CONSECUTIVE_EXCLUDED:
            raise RunFailed(
                f"the judge could not judge any of the last {self._consecutive_excluded} responses; "
                "run `spo doctor` on the workers' hosts and read their logs"
            )


def split(total: int, limit: int, most: int) -> int:
    """How many of `total` responses to put into one work item, given room for `limit` and at `most` in one item."""
    return max(1, min(total, limit, most))


def _checked(work: Work, message: WorkDone) -> list[Trajectory]:
    """The decoded trajectories, which must answer this work.

    Raises:
        ValueError: They answer something else.
        SpoError: They are damaged.
    """
    trajectories: list[Trajectory] = decode_trajectories(message.trajectories)
    seeds = {trajectory.seed for trajectory in trajectories}
    if len(seeds) != len(trajectories) or not seeds <= set(work.seeds):
        raise ValueError("its seeds are not those of the work")
    for trajectory in trajectories:
        if trajectory.problem_id != work.problem_id or trajectory.source != work.source:
            raise ValueError(f"a trajectory of {trajectory.problem_id} from {trajectory.source} answers other work")
        if trajectory.reward not in (0.0, -1.0):
            raise ValueError(f"reward {trajectory.reward} is neither 0 nor -1")
    if len(trajectories) + message.num_excluded != len(work.seeds):
        raise ValueError(f"{len(trajectories)} judged and {message.num_excluded} excluded of {len(work.seeds)}")
    return trajectories
