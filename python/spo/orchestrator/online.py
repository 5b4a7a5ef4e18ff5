"""Online work: which problem is sampled next with the latest policy, as far as admission lets it.

Work number k samples the problem at position k of the schedule with seeds that follow from k alone. Each number is
done exactly once in a run: after a crash, the numbers that the store does not have (whole) are done first, with the
problems that they had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from spo.config import Config
from spo.orchestrator.admission import expected_steps_done, needed_version
from spo.orchestrator.curriculum import Curriculum
from spo.orchestrator.experience import Experience
from spo.orchestrator.extras import GROUP_KEY, group_label
from spo.orchestrator.mix import ONLINE, most_per_step
from spo.orchestrator.records import relabelled
from spo.orchestrator.schedule import ProblemSchedule, derive_seed, draw_temperature
from spo.store import Trajectory
from spo.types import Work

WORK_KEY = "work"
"""Metadata of an online trajectory: the number of the work that it comes from."""


class _Item(msgspec.Struct, frozen=True, array_like=True):
    """One number's work."""

    number: int
    problem_id: str
    seeds: list[int]


class OnlineSource:
    """Hands out online work while trainers can use it in time.

    Args:
        config: The run's settings.
        schedule: Of the training problems.
        experience: Where results go.
        curriculum: Counts them.
    """

    share = 1.0
    """See `dispatch`."""

    def __init__(
        self, config: Config, schedule: ProblemSchedule, experience: Experience, curriculum: Curriculum
    ) -> None:
        self._config = config
        self.schedule = schedule
        """Of the training problems; fixed once there is work."""
        self._experience = experience
        self._curriculum = curriculum
        self._per_step = most_per_step(config, ONLINE)
        self._next = 0
        self._missing: deque[_Item] = deque()
        self._open: dict[int, _Item] = {}
        """What is on its way, by its first seed."""
        self._num_responses = 0
        self.enabled = False
        """Whether training has begun and not ended."""
        self.steps_done = 0
        """Optimiser steps whose batches have been drawn."""
        self.published_version = 0
        """The latest version that every rank has published."""

    @property
    def supply(self) -> int:
        """Online trajectories that no batch has had yet, and responses on their way."""
        return self._experience.num_unused(self.steps_done) + self._num_responses

    def take(self, limit: int) -> Work | None:
        """The next group of responses, or None while it would be drawn too late, or never."""
        if not self.enabled or self._per_step == 0:
            return None
        supply = self.supply
        version = needed_version(self.steps_done, supply, self._per_step, self._config.replay.max_staleness)
        expected = expected_steps_done(self.steps_done, supply, self._per_step)
        if version > self.published_version or expected >= self._config.trainer.total_steps:
            return None
        item = self._missing.popleft() if self._missing else self._new()
        self._open[item.seeds[0]] = item
        self._num_responses += len(item.seeds)
        return self._work(item, version)

    def renew(self, work: Work) -> Work:
        """The same responses, sampled with weights that are young enough now."""
        version = needed_version(self.steps_done, 0, self._per_step, self._config.replay.max_staleness)
        version = max(work.min_policy_version, min(version, self.published_version))
        return msgspec.structs.replace(work, min_policy_version=version)

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        """Stores the result; what the judge could not judge is left out."""
        item = self._open.pop(work.seeds[0])
        self._num_responses -= len(item.seeds)
        labels = {WORK_KEY: str(item.number), GROUP_KEY: group_label(trajectories)}
        self._experience.add_online([relabelled(one, **labels) for one in trajectories])
        for one in trajectories:
            self._curriculum.count(one.problem_id, one.reward)

    def state(self) -> dict[str, Any]:
        """Which numbers are not done, so that a resumed run does them: small, for the checkpoint."""
        return {
            "next": self._next,
            "open": [msgspec.structs.astuple(item) for item in (*self._open.values(), *self._missing)],
            "schedule": self.schedule.state(),
        }

    def restore(self, state: dict[str, Any] | None, stored: Sequence[Trajectory]) -> None:
        """Finds out what is to be done next.

        Args:
            state: Of the checkpoint; None: the start of the run.
            stored: Online trajectories stored since then.
        """
        wanted: dict[int, _Item] = {}
        start = 0
        if state is not None:
            start = state["next"]
            wanted = {item.number: item for item in msgspec.convert(state["open"], list[_Item])}
            self.schedule.restore(state["schedule"])
        problem_of: dict[int, str] = {number: item.problem_id for number, item in wanted.items()}
        seeds_of: dict[int, set[int]] = {}
        for trajectory in stored:
            number = int(trajectory.metadata[WORK_KEY])
            seeds_of.setdefault(number, set()).add(trajectory.seed)
            problem_of[number] = trajectory.problem_id
        self._next = max([start - 1, *seeds_of]) + 1
        for number in [*sorted(wanted), *range(start, self._next)]:
            seeds = wanted[number].seeds if number in wanted else self._seeds(number)
            missing = [seed for seed in seeds if seed not in seeds_of.get(number, set())]
            if missing:
                self._missing.append(_Item(number, self._problem_of(number, problem_of), missing))

    def _problem_of(self, number: int, known: Mapping[int, str]) -> str:
        """What the number had before, if that is known and still trained on; else what the schedule says."""
        problem_id = known.get(number, "")
        return problem_id if problem_id in self.schedule else self.schedule.problem_at(number)

    def _new(self) -> _Item:
        number = self._next
        self._next += 1
        return _Item(number, self.schedule.problem_at(number), self._seeds(number))

    def _seeds(self, number: int) -> list[int]:
        count = self._config.sampling.samples_per_problem
        return [derive_seed(self._config.seed, ONLINE, number, index) for index in range(count)]

    def _work(self, item: _Item, version: int) -> Work:
        sampling, seeds = self._config.sampling, item.seeds
        return Work(
            work_id=0,
            problem_id=item.problem_id,
            policy="latest",
            min_policy_version=version,
            source=ONLINE,
            temperatures=[draw_temperature(seed, sampling.temperature_min, sampling.temperature_max) for seed in seeds],
            top_p=sampling.top_p,
            seeds=seeds,
            max_new_tokens=sampling.max_new_tokens,
        )
