"""The phases that a run goes through, and how far it is in them.

    measuring prompts  those that leave no room for a response are left out
    reference          reference samples of the training problems for Q̂_0, and the held-out problems' first evaluation
    training           workers sample with the latest policy, trainers ask for batches; evaluations go on beside it
    final evaluation   of the last policy
    report

What goes on throughout (connections, worker processes, signals, the display) is in `run.py`.
"""

from __future__ import annotations

import logging

import msgspec
import trio

from spo.consumption import ConsumptionLog
from spo.earlier import locate_stores, values_directories
from spo.errors import RunFailed
from spo.jsonl import read_lineage
from spo.orchestrator.evaluation import EVALUATION, FINAL_ROUND, REFERENCE_ROUND, ROUND_KEY, Policy, Round
from spo.orchestrator.mix import ONLINE, mix_of, pool_of
from spo.orchestrator.online_values import FixedValues, OnlineValues, ProblemValues
from spo.orchestrator.parts import Parts
from spo.orchestrator.prompts import leave_out_long_prompts, write_problems
from spo.orchestrator.state import SavedProgress, decode_state
from spo.orchestrator.values import ValueEstimation, stored_key, values_key
from spo.progress import Status
from spo.report import write_report
from spo.reward import ACCEPTED_REWARD
from spo.rundir import EVALUATIONS_FILE
from spo.store import Trajectory

log = logging.getLogger(__name__)


class Phases:
    """Takes a run through its phases.

    Args:
        parts: What it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._round: Round | None = None
        self.values: ValueEstimation | None = None
        """The estimate of Q̂_0, once it has begun."""

    async def run(self) -> None:
        """Goes through all phases; returns when the report is written.

        Raises:
            RunFailed: One of them cannot be done.
        """
        parts = self._parts
        if parts.needs_workers:
            await parts.workers.first_ready.wait()
        if parts.training_problems and parts.needs_workers:
            self._enter("measuring prompts")
            await leave_out_long_prompts(parts)
        self._enter("reference")
        if parts.replayed is None:
            self.values = await self._open_values()
        async with trio.open_nursery() as nursery:
            if self.values is not None:
                nursery.start_soon(self.values.run)
            nursery.start_soon(self._evaluate_reference)
        self._enter("waiting for the trainers")
        await parts.trainers.connected.wait()
        await self._begin_training()
        self._enter("training")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._evaluate_regularly)
            await parts.trainers.finished.wait()
            parts.online.enabled = False
            if self._round is not None:
                self._enter(f"evaluation {self._round.name}")
        self._enter("final evaluation")
        await self._evaluate(FINAL_ROUND, self._config.trainer.total_steps)
        self._enter("report")
        await parts.experience.commit()
        parts.monitor.write_totals()
        await trio.to_thread.run_sync(write_report, parts.run_dir, True)

    def _enter(self, phase: str) -> None:
        log.info("phase: %s", phase)
        self._parts.monitor.phase = phase
        self._parts.monitor.progress()

    async def _open_values(self) -> ValueEstimation:
        parts, config = self._parts, self._config
        if parts.needs_workers:
            key = values_key(config, parts.model, parts.workers.prompt_template, parts.training_problems)
        else:
            directory, key, valued = stored_key(
                config, parts.model, parts.training_problems, values_directories(config)
            )
            parts.leave_out_all_but(valued)
            write_problems(parts)
            there = msgspec.structs.replace(config.values, directory=str(directory))
            config = msgspec.structs.replace(config, values=there)
        values = ValueEstimation(config, key, parts.training_problems, parts.model.tokenizer_fingerprint)
        await trio.to_thread.run_sync(values.scan, values_directories(self._config))
        if not parts.needs_workers and values.num_done < values.num_wanted:
            raise RunFailed(
                f"Q̂_0: {config.values.directory} has {values.num_done} of {values.num_wanted} samples; lower "
                "values.num_samples, or have the others sampled by workers.num_workers=1"
            )
        log.info("values %s: %d of %d samples are there", key.digest, values.num_reused, values.num_wanted)
        parts.dispatcher.sources = [parts.evaluation, values, parts.online]
        parts.dispatcher.fill()
        values.check_finished()
        return values

    async def _begin_training(self) -> None:
        parts, step = self._parts, self._parts.trainers.step
        state = decode_state(parts.trainers.replay_state, step)
        if state is None and step > 0:
            raise RunFailed(f"the checkpoint of step {step} holds no orchestrator state; resume from another one")
        earlier = self._mark_resumed(step) if parts.info.num_sessions > 1 else None
        if self.values is None:
            parts.batches.begin(step, FixedValues({}))
            return
        stored = await trio.to_thread.run_sync(parts.experience.restore, state.experience if state else None)
        await self._begin_curriculum(self.values)
        parts.online.restore(state.online if state else None, stored)
        if state is None and mix_of(self._config).keys() - {ONLINE}:
            await self._add_offline(self.values)
        parts.batches.begin(step, self._problem_values(self.values, state), earlier)
        parts.online.enabled = True
        parts.dispatcher.fill()

    def _problem_values(self, estimated: ValueEstimation, state: SavedProgress | None) -> ProblemValues:
        """Q̂_0 of the problems from here on."""
        config = self._config
        if not config.values.online:
            return FixedValues(estimated.initial_values())
        values = OnlineValues(
            estimated.counts(),
            beta=config.objective.beta,
            window=config.values.online_window,
            reference_interval=config.trainer.reference_update_interval,
        )
        if state is not None and state.values:
            values.restore(state.values)
        return values

    async def _begin_curriculum(self, values: ValueEstimation) -> None:
        """Tells the curriculum what is known: reads every online trajectory so far where their order counts."""
        parts = self._parts
        history = parts.experience.rewards(ONLINE) if parts.curriculum.needs_history else ()
        await trio.to_thread.run_sync(parts.curriculum.begin, parts.training_problems.infos, values.counts(), history)

    async def _add_offline(self, values: ValueEstimation) -> None:
        """Fills the pools with what earlier runs left, and the offline one with the reference's accepted samples."""
        experience, settings = self._parts.experience, self._config.experience
        problems = set(self._parts.training_problems.ids)

        def pool(item: Trajectory) -> str | None:
            accepted = item.reward == ACCEPTED_REWARD or not settings.accepted_only
            wanted = accepted and item.source != EVALUATION and item.problem_id in problems
            return pool_of(self._config, item) if wanted else None

        known: set[bytes] = set()
        if settings.stores:
            paths = [earlier.store for earlier in locate_stores(settings.stores)]
            known = await trio.to_thread.run_sync(experience.add_earlier, paths, pool)
        experience.add_offline(await trio.to_thread.run_sync(values.accepted), known)

    def _mark_resumed(self, step: int) -> ConsumptionLog | None:
        """Notes that the run goes on after `step`; returns what was consumed, if that is to be repeated."""
        parts = self._parts
        log.info("resumed after step %d", step)
        parts.monitor.mark_resumed(step)
        parts.evaluations.mark_resumed(step)
        if parts.replayed is None:
            return ConsumptionLog(parts.run_dir)
        parts.consumption.mark_resumed(step)
        return None

    async def _evaluate_reference(self) -> None:
        if self._config.evaluation.reference:
            await self._evaluate(REFERENCE_ROUND, 0)

    async def _evaluate_regularly(self) -> None:
        """Evaluates the first version at or after each multiple of `evaluation.interval`; the last one has its own.

        Returns when training is over and the round that it ended in is done.
        """
        interval, online = self._config.evaluation.interval, self._parts.online
        last = self._parts.trainers.step
        while interval and not self._parts.trainers.finished.is_set():
            version = online.published_version
            if version // interval > last // interval and version < self._config.trainer.total_steps:
                last = version
                await self._evaluate(f"step-{version}", version)
            else:
                await self._parts.trainers.version_changed_or_finished()

    async def _evaluate(self, name: str, step: int) -> None:
        """Does an evaluation round, or what an earlier session left of it."""
        parts = self._parts
        done = {line["round"]: line for line in read_lineage(parts.run_dir / EVALUATIONS_FILE)}
        if name in done:
            parts.monitor.remember_evaluation(done[name])
            return
        if not parts.held_out_problems:
            return
        policy: Policy = "reference" if name == REFERENCE_ROUND else "latest"
        self._round = parts.evaluation.start(name, step, policy, self._stored_samples(name, step))
        parts.dispatcher.fill()
        await self._round.finished.wait()
        try:
            line = parts.evaluation.result(self._round)
        except ValueError as error:
            raise RunFailed(f"evaluation {name}: {error}") from None
        self._round = None
        await parts.experience.commit()
        parts.evaluations.append(line, durable=True)
        parts.monitor.on_evaluation(line)
        log.info("evaluation %s: %s", name, line)

    def _stored_samples(self, name: str, step: int) -> list[Trajectory]:
        """What earlier sessions sampled for an evaluation round; steps that were undone are done again as they were."""
        if self._parts.info.num_sessions == 1:
            return []
        experience = self._parts.experience
        stored = [item for _, item in experience.read(experience.scan(EVALUATION))]
        return [item for item in stored if item.metadata[ROUND_KEY] == name and item.min_policy_version >= step]

    def status(self) -> Status:
        """How far the run is, for the display."""
        parts, monitor = self._parts, self._parts.monitor
        done, total, unit = 0, 0, ""
        if monitor.phase == "training":
            done, total, unit = monitor.step, self._config.trainer.total_steps, "steps"
        elif self._round is not None or monitor.phase == "reference":
            done = len(self._round.trajectories) if self._round else 0
            total = parts.evaluation.num_wanted if self._round else 0
            unit = "samples"
            if monitor.phase == "reference" and self.values is not None:
                done, total = done + self.values.num_done, total + self.values.num_wanted
        return monitor.status(done, total, unit, len(parts.workers.sessions), self.note())

    def note(self) -> str:
        """What is waited for, for people."""
        parts = self._parts
        if parts.monitor.phase == "report":
            return ""
        if not parts.workers.sessions and parts.needs_workers:
            return "no rollout worker is ready"
        if parts.monitor.phase == "training":
            return f"waiting for {parts.batches.waiting_for}" if parts.batches.waiting_for else ""
        return "the trainers have not all connected" if parts.monitor.phase.startswith("waiting") else ""
