"""The parts of a run, made in the order in which they need one another, from what the run directory says.

Nothing runs yet when they have been made; `run.py` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from spo.config import Config, read_resolved, to_toml
from spo.errors import ProblemError, RunFailed
from spo.jsonl import Journal
from spo.locks import RunLock
from spo.orchestrator.batches import Batches
from spo.orchestrator.dispatch import Dispatcher, Result
from spo.orchestrator.evaluation import EVALUATION, EvaluationSource
from spo.orchestrator.experience import Experience
from spo.orchestrator.monitor import Monitor
from spo.orchestrator.online import OnlineSource
from spo.orchestrator.replayed import ReplayedRun
from spo.orchestrator.schedule import ProblemSchedule
from spo.orchestrator.trainers import Trainers
from spo.orchestrator.workers import Workers
from spo.problems import Problem, load_problems
from spo.rundir import CONSUMPTION_FILE, EVALUATIONS_FILE, read_model, read_run

_PREDECESSOR_TIMEOUT_S = 30.0
"""How long the orchestrator of a session that was killed may still take to end."""


class Parts:
    """All parts of a run.

    Args:
        run_dir: Prepared by `spo.rundir.prepare_run`, with `model.json`.

    Raises:
        SpoError: Settings, problems or stored data cannot be used.
        OSError: The directory cannot be read or written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._lock = RunLock(run_dir, "orchestrator", _PREDECESSOR_TIMEOUT_S)
        self.config: Config = read_resolved(run_dir)
        self.info = read_run(run_dir)
        self.model = read_model(run_dir)
        config, tokenizer = self.config, self.model.tokenizer_fingerprint
        self.replayed = ReplayedRun(Path(config.experience.replay), tokenizer) if config.experience.replay else None
        """The run whose batches are trained on again, if this is a replay."""
        self.training_problems = [] if self.replayed else load_problems(config.problems.train, config.seed)
        self.held_out_problems = (
            load_problems(config.problems.evaluation, config.seed) if config.problems.evaluation else []
        )
        self.problems = _by_id(self.training_problems, self.held_out_problems)
        self.experience = Experience(run_dir, tokenizer, config)
        schedule = ProblemSchedule([problem.id for problem in self.training_problems], config.seed)
        self.online = OnlineSource(config, schedule, self.experience)
        self.evaluation = EvaluationSource(config, self.held_out_problems, self.experience)
        self.monitor = Monitor(config, run_dir, self.info, self._gauges)
        self.dispatcher = Dispatcher(self._on_result, lambda: self.monitor.count("work_redispatched"))
        self.dispatcher.sources = [self.evaluation, self.online]
        self.consumption = Journal(run_dir / CONSUMPTION_FILE)
        self.evaluations = Journal(run_dir / EVALUATIONS_FILE)
        self.batches = Batches(config, self.experience, self.online, self.dispatcher, self.consumption, self.replayed)
        self.trainers = Trainers(self.batches, self.experience, self.monitor, self._on_version)
        self.workers = Workers(
            self.dispatcher,
            self.problems,
            setup=to_toml(_with_model(config, self.model.path)),
            tokenizer=tokenizer,
            on_progress=self.monitor.progress,
            ready_timeout_s=config.network.stall_timeout_s,
        )

    @property
    def needs_workers(self) -> bool:
        """Whether anything is to be sampled."""
        return self.replayed is None or bool(self.held_out_problems)

    def close(self) -> None:
        """Makes everything durable and closes all files."""
        try:
            self.experience.close()
        finally:
            self.monitor.close()
            self.consumption.close()
            self.evaluations.close()
            if self.replayed is not None:
                self.replayed.close()
            self._lock.release()

    def _on_result(self, result: Result) -> None:
        if result.work.source != EVALUATION:
            self._check_length(result)
        self.monitor.on_result(result)
        self.batches.notify()

    def _check_length(self, result: Result) -> None:
        """Refuses problems whose responses could be too long to be trained on.

        Raises:
            RunFailed: Prompt and longest response exceed a row.
        """
        prompt = max((len(item.prompt_tokens) for item in result.trajectories), default=0)
        longest = prompt + self.config.sampling.max_new_tokens
        if longest > self.config.batch.token_budget:
            raise RunFailed(
                f"problem {result.work.problem_id}: its prompt of {prompt} tokens and sampling.max_new_tokens="
                f"{self.config.sampling.max_new_tokens} exceed batch.token_budget={self.config.batch.token_budget}; "
                f"set batch.token_budget={longest} or more, lower sampling.max_new_tokens, or leave the problem out"
            )

    def _on_version(self, version: int, publishers: list[str]) -> None:
        self.online.published_version = version
        self.monitor.progress()
        self.workers.new_version(version, publishers)
        self.dispatcher.fill()
        self.batches.notify()

    def _gauges(self) -> Mapping[str, float]:
        versions = [session.policy_version for session in self.workers.sessions]
        counters = self.experience.counters()
        return {
            "replay/size": len(self.experience),
            "replay/unused": self.experience.num_unused(self.online.steps_done),
            "replay/expired_unused": counters["expired_unused"],
            "replay/evicted_unused": counters["evicted_unused"],
            "weights/version": self.online.published_version,
            "weights/worker_lag": self.online.published_version - min(versions, default=self.online.published_version),
            "workers/ready": len(versions),
            "workers/responses_on_way": self.dispatcher.num_responses,
        }


def _by_id(training: Sequence[Problem], held_out: Sequence[Problem]) -> dict[str, Problem]:
    problems = {problem.id: problem for problem in training}
    for problem in held_out:
        if problems.setdefault(problem.id, problem) != problem:
            raise ProblemError(
                f"problems.evaluation: {problem.id!r} is in problems.train with other content; rename one of the two"
            )
    return problems


def _with_model(config: Config, path: str) -> Config:
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, path=path))
