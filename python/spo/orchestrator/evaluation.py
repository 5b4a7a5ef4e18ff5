"""Evaluation rounds: held-out problems sampled with one policy, while workers go on with other work (Sec. 5).

A round asks for `evaluation.num_samples` judged responses a problem. Rounds go one after the other, before other
work. Trajectories of a round are stored with source `evaluation` and never trained on. During training a round
samples with the version that it is for *or a later one*, since workers do not wait; the result says with which.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import trio

from spo.config import Config
from spo.evaluate import evaluate, sample_of
from spo.orchestrator.dispatch import split
from spo.orchestrator.experience import Experience
from spo.orchestrator.records import relabelled
from spo.orchestrator.schedule import derive_seed
from spo.problems import Problem, infos_of
from spo.store import Trajectory
from spo.types import Work

EVALUATION = "evaluation"
ROUND_KEY = "round"
"""Metadata of an evaluation trajectory: the name of its round."""
REFERENCE_ROUND = "reference"
FINAL_ROUND = "final"
MAX_RESPONSES_PER_WORK = 20
_MAX_EXTRA = 2
"""A problem gets at most so many times `num_samples` tries, when the judge fails on some."""

Policy: TypeAlias = Literal["latest", "reference"]

log = logging.getLogger(__name__)


class Round:
    """One evaluation round; made by `EvaluationSource.start`."""

    def __init__(self, name: str, step: int, policy: Policy, problems: Iterable[str]) -> None:
        self.name = name
        self.step = step
        self.policy: Policy = policy
        self.due: dict[str, deque[int]] = {problem_id: deque() for problem_id in problems}
        self.next_index = dict.fromkeys(self.due, 0)
        self.num_on_way = 0
        self.trajectories: list[Trajectory] = []
        self.finished = trio.Event()

    def check_finished(self) -> None:
        """Sets `finished` if nothing is due or on its way."""
        if self.num_on_way == 0 and not any(self.due.values()):
            self.finished.set()


class EvaluationSource:
    """Hands out the work of evaluation rounds.

    Args:
        config: The run's settings.
        problems: The held-out problems; there may be none, then there are no rounds.
        experience: Where trajectories are stored.
    """

    share = 3.0
    """Most of the workers, so that a round is over before the policy is another; see `dispatch`."""

    def __init__(self, config: Config, problems: Sequence[Problem], experience: Experience) -> None:
        self._config = config
        self._problem_ids = [info.id for info in infos_of(problems)]
        self._experience = experience
        self._rounds: deque[Round] = deque()
        self._round_of: dict[int, Round] = {}
        """Rounds of the responses on their way, by seed."""

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those not finished, the current one first."""
        return tuple(self._rounds)

    @property
    def num_wanted(self) -> int:
        """Judged responses that a round asks for."""
        return len(self._problem_ids) * self._config.evaluation.num_samples

    def start(self, name: str, step: int, policy: Policy, stored: Sequence[Trajectory] = ()) -> Round:
        """Puts a round into the queue.

        Args:
            name: Names it in the store.
            step: The policy version that it is for.
            policy: Which weights sample.
            stored: Its trajectories from an interrupted session, not to be sampled again.
        """
        round = Round(name, step, policy, self._problem_ids)
        by_seed = {trajectory.seed: trajectory for trajectory in stored}
        for problem_id, due in round.due.items():
            indices = range(self._config.evaluation.num_samples)
            round.next_index[problem_id] = len(indices)
            for index in indices:
                earlier = by_seed.get(self._seed(round, problem_id, index))
                if earlier is None:
                    due.append(index)
                else:
                    round.trajectories.append(earlier)
        self._rounds.append(round)
        round.check_finished()
        return round

    def take(self, limit: int) -> Work | None:
        """Some responses to one problem of the earliest round with anything due."""
        for round in self._rounds:
            for problem_id, due in round.due.items():
                if due:
                    count = split(len(due), limit, MAX_RESPONSES_PER_WORK)
                    return self._work(round, problem_id, [due.popleft() for _ in range(count)])
        return None

    def renew(self, work: Work) -> Work:
        """The same item."""
        return work

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        """Stores the result; what could not be judged is tried again with other seeds, within bounds."""
        for seed in work.seeds[1:]:
            self._round_of.pop(seed)
        round = self._round_of.pop(work.seeds[0])
        labelled = [relabelled(item, **{ROUND_KEY: round.name}) for item in trajectories]
        self._experience.append(labelled)
        round.trajectories += labelled
        round.num_on_way -= len(work.seeds)
        first = round.next_index[work.problem_id]
        last = min(first + num_excluded, (1 + _MAX_EXTRA) * self._config.evaluation.num_samples)
        round.due[work.problem_id].extend(range(first, last))
        round.next_index[work.problem_id] = last
        round.check_finished()

    def result(self, round: Round) -> dict[str, Any]:
        """The line of `evaluations.jsonl` for a finished round, which leaves the queue.

        Raises:
            ValueError: Too few responses could be judged for the largest k.
        """
        self._rounds.remove(round)
        samples = [sample_of(item) for item in round.trajectories]
        report = evaluate(samples, self._config.evaluation.ks, self._config.seed).as_report()
        return {
            "step": round.step,
            "round": round.name,
            **report,
            "min_policy_version": min(item.min_policy_version for item in round.trajectories),
            "max_policy_version": max(item.max_policy_version for item in round.trajectories),
        }

    def _work(self, round: Round, problem_id: str, indices: list[int]) -> Work:
        settings = self._config.evaluation
        seeds = [self._seed(round, problem_id, index) for index in indices]
        self._round_of.update(dict.fromkeys(seeds, round))
        round.num_on_way += len(seeds)
        return Work(
            work_id=0,
            problem_id=problem_id,
            policy=round.policy,
            min_policy_version=0 if round.policy == "reference" else round.step,
            source=EVALUATION,
            temperatures=[settings.temperature] * len(seeds),
            top_p=settings.top_p,
            seeds=seeds,
            max_new_tokens=self._config.sampling.max_new_tokens,
        )

    def _seed(self, round: Round, problem_id: str, index: int) -> int:
        return derive_seed(self._config.seed, EVALUATION, round.name, problem_id, index)
