"""The parts of a run, made in the order in which they need one another, from what the run directory says.

Nothing runs yet when they have been made; `run.py` runs them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from spo.config import Config, read_resolved
from spo.earlier import same_reference
from spo.errors import ProblemError
from spo.jsonl import Journal
from spo.locks import RunLock
from spo.orchestrator.batches import Batches
from spo.orchestrator.curriculum import Curriculum
from spo.orchestrator.dispatch import Dispatcher, Result
from spo.orchestrator.evaluation import EvaluationSource
from spo.orchestrator.experience import Experience
from spo.orchestrator.mix import ONLINE, per_step
from spo.orchestrator.monitor import Monitor
from spo.orchestrator.online import OnlineSource
from spo.orchestrator.replayed import ReplayedRun
from spo.orchestrator.schedule import ProblemSchedule
from spo.orchestrator.trainers import Trainers
from spo.orchestrator.workers import Workers, worker_setup
from spo.problems import ById, Problems, load_problems
from spo.problems.manifest import load_training_problems
from spo.rundir import CONSUMPTION_FILE, EVALUATIONS_FILE, ModelInfo, read_model, read_run

_PREDECESSOR_TIMEOUT_S = 30.0
"""How long the orchestrator of a session that was killed may still take to end."""

log = logging.getLogger(__name__)


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
        self.info = read_run(run_dir)
        self.model = read_model(run_dir)
        self.config: Config = _trusting(read_resolved(run_dir), self.model)
        config, tokenizer = self.config, self.model.tokenizer_fingerprint
        self.replayed = ReplayedRun(Path(config.experience.replay), tokenizer) if config.experience.replay else None
        """The run whose batches are trained on again, if this is a replay."""
        self.training_problems, self.left_out = Problems(), dict[str, int]()
        """What is trained on; how many problems of the specs are not, by reason."""
        if not self.replayed:
            self.training_problems, self.left_out = load_training_problems(
                config.problems.train, config.seed, config.problems.without, config.problems.manifest
            )
        self.held_out_problems = (
            load_problems(config.problems.evaluation, config.seed) if config.problems.evaluation else Problems()
        )
        # Only the fake engine answers with known solutions; to all others workers need not be told them.
        with_solutions = config.workers.engine == "fake"
        self.problems = _by_id(self.training_problems, self.held_out_problems, with_solutions)
        self.experience = Experience(run_dir, tokenizer, config)
        self.too_long: dict[str, int] = {}
        """Training problems that were left out, with the tokens of their prompts."""
        self.curriculum = Curriculum(config.curriculum, run_dir)
        self.online = OnlineSource(config, self._schedule(), self.experience, self.curriculum)
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
            setup=worker_setup(config, self.model.path),
            tokenizer=tokenizer,
            on_progress=self.monitor.progress,
            ready_timeout_s=config.network.stall_timeout_s,
        )

    @property
    def needs_workers(self) -> bool:
        """Whether anything is to be sampled: not in a replay, nor where all experience is there and no worker is."""
        config = self.config
        all_is_there = per_step(config, ONLINE) == 0 and config.workers.num_workers == 0
        return bool(self.held_out_problems) or not (self.replayed or all_is_there)

    def leave_out(self, too_long: Mapping[str, int]) -> None:
        """Trains without these problems, given with their prompts' tokens; to be called before anything is due."""
        self.too_long = dict(too_long)
        self.training_problems = self.training_problems.where(lambda info: info.id not in too_long)
        self.online.schedule = self._schedule()

    def leave_out_all_but(self, valued: Problems) -> None:
        """Trains with the problems that have values, where no worker can sample any."""
        if len(valued) < len(self.training_problems):
            reason = "they have no values (their prompts were too long, or they are new)"
            self.left_out = {**self.left_out, reason: len(self.training_problems) - len(valued)}
            log.warning(
                "%d of %d problems are left out: %s", self.left_out[reason], len(self.training_problems), reason
            )
        self.training_problems = valued

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

    def _schedule(self) -> ProblemSchedule:
        shares = None if self.curriculum.is_plain else self.curriculum.shares
        return ProblemSchedule(self.training_problems.ids, self.config.seed, shares)

    def _on_result(self, result: Result) -> None:
        self.monitor.on_result(result)
        self.batches.notify()

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
            "values/mean": self.batches.mean_value,
            "problems/train": len(self.training_problems),
            "problems/too_long": len(self.too_long),
            **self.curriculum.gauges(),
            "workers/ready": len(versions),
            "workers/responses_on_way": self.dispatcher.num_responses,
        }


def _by_id(training: Problems, held_out: Problems, with_solutions: bool) -> ById:
    content = {info.id: info.content_digest for info in training.infos}
    for info in held_out.infos:
        if content.get(info.id, info.content_digest) != info.content_digest:
            raise ProblemError(
                f"problems.evaluation: {info.id!r} is in problems.train with other content; rename one of the two"
            )
    return ById(training, held_out, with_solutions=with_solutions)


def _trusting(config: Config, model: ModelInfo) -> Config:
    """The settings, without use of stored log-probabilities where they may be those of another reference."""
    changes = config.trainer.reference_update_interval > 0
    if not config.replay.keep_reference_logprobs or (same_reference(config, model) and not changes):
        return config
    reason = "the reference changes" if changes else "earlier stores may be of another reference"
    log.info("%s: its log-probabilities are computed anew, and not kept", reason)
    return msgspec.structs.replace(config, replay=msgspec.structs.replace(config.replay, keep_reference_logprobs=False))
