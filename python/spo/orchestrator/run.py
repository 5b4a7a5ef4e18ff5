"""A run from beginning to end: services that run throughout, and the phases that it goes through.

    reference          reference samples of the training problems for Q̂_0, and the held-out problems' first evaluation
    training           workers sample with the latest policy, trainers ask for batches; evaluations go on beside it
    final evaluation   of the last policy
    report

The first thing that fails, in whichever task, ends the run with its reason: phases are cancelled, trainers and
workers told, local workers ended, files closed, in this order.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from spo.errors import RunFailed
from spo.files import replace_file
from spo.jsonl import read_lineage
from spo.orchestrator.evaluation import EVALUATION, FINAL_ROUND, REFERENCE_ROUND, ROUND_KEY, Policy, Round
from spo.orchestrator.experience import OFFLINE, mix_of
from spo.orchestrator.local_workers import LocalWorkers
from spo.orchestrator.parts import Parts
from spo.orchestrator.server import Server, address_of, listen
from spo.orchestrator.state import decode_state
from spo.orchestrator.values import ValueEstimation, values_key
from spo.progress import Display, Status, make_display
from spo.report import write_report
from spo.rundir import EVALUATIONS_FILE
from spo.wire import ADDRESS_FILE, read_token

_COMMIT_INTERVAL_S = 1.0
_STALL_CHECK_S = 5.0

log = logging.getLogger(__name__)


class Interrupted(RunFailed):
    """The run was ended from outside."""


class Run:
    """A run of the orchestrator.

    Args:
        parts: What it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._values: ValueEstimation | None = None
        self._round: Round | None = None
        self._failure: Exception | None = None
        self._failed = trio.Event()

    async def run(self, watch_parent: Callable[[], Awaitable[None]] | None = None) -> None:
        """Runs to the end.

        Args:
            watch_parent: Returns when this process should no longer run.

        Raises:
            RunFailed: The run could not be finished; any other exception: likewise.
        """
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            try:
                await self._guarded(self._serve, signals, watch_parent)
            finally:
                self._close()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, signals: Any, watch_parent: Callable[[], Awaitable[None]] | None) -> None:
        listener = await listen(self._config.network)
        address = address_of(listener)
        local = self._local_workers(address)
        async with trio.open_nursery() as services:
            services.start_soon(self._guarded, self._watch_signals, signals)
            if watch_parent is not None:
                services.start_soon(self._guarded, self._watch_parent, watch_parent)
            services.start_soon(self._guarded, self._server().run, listener)
            services.start_soon(self._guarded, local.run)
            services.start_soon(self._guarded, self._watch_progress)
            services.start_soon(self._guarded, self._commit_regularly)
            services.start_soon(self._guarded, self._display)
            replace_file(self._parts.run_dir / ADDRESS_FILE, address.encode())
            log.info("listening on %s", address)
            await self._phases_until_failure()
            await self._farewell(local)
            services.cancel_scope.cancel()

    def fail(self, error: Exception) -> None:
        """Ends the run with this reason, unless there is one already."""
        if self._failure is None:
            self._failure = first_leaf(error)
            self._failed.set()

    async def _guarded(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await function(*arguments)
        except* Exception as group:
            self.fail(group)

    async def _phases_until_failure(self) -> None:
        async with trio.open_nursery() as nursery:

            async def phases() -> None:
                await self._guarded(self._phases)
                nursery.cancel_scope.cancel()

            nursery.start_soon(phases)
            await self._failed.wait()
            nursery.cancel_scope.cancel()

    # --- phases -------------------------------------------------------------------------------------------------

    async def _phases(self) -> None:
        parts = self._parts
        await parts.workers.first_ready.wait()
        self._enter("reference")
        self._values = values = await self._open_values()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(values.run)
            nursery.start_soon(self._evaluate_reference)
        self._enter("waiting for the trainers")
        await parts.trainers.connected.wait()
        await self._begin_training(values)
        self._enter("training")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._evaluate_regularly)
            await parts.trainers.finished.wait()
            nursery.cancel_scope.cancel()
        parts.online.enabled = False
        if self._round is not None:
            parts.evaluation.drop(self._round)
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
        parts = self._parts
        key = values_key(self._config, parts.model, parts.workers.prompt_template, parts.training_problems)
        values = ValueEstimation(self._config, key, parts.training_problems, parts.model.tokenizer_fingerprint)
        await trio.to_thread.run_sync(values.scan)
        log.info("values %s: %d of %d samples are there", key.digest, values.num_reused, values.num_wanted)
        parts.dispatcher.sources = [parts.evaluation, values, parts.online]
        parts.dispatcher.fill()
        values.check_finished()
        return values

    async def _begin_training(self, values: ValueEstimation) -> None:
        parts, step = self._parts, self._parts.trainers.step
        if parts.info.num_sessions > 1:
            log.info("resumed after step %d", step)
            parts.monitor.mark_resumed(step)
            parts.evaluations.mark_resumed(step)
            parts.consumption.mark_resumed(step)
        state = decode_state(parts.trainers.replay_state, step)
        if state is None and step > 0:
            raise RunFailed(f"the checkpoint of step {step} holds no orchestrator state; resume from another one")
        stored = await trio.to_thread.run_sync(parts.experience.restore, state.experience if state else None)
        parts.online.restore(state.online if state else None, stored)
        if state is None and OFFLINE in mix_of(self._config):
            parts.experience.add_offline(await trio.to_thread.run_sync(values.accepted))
        parts.batches.begin(step, values.initial_values())
        parts.online.enabled = True
        parts.dispatcher.fill()

    # --- evaluation ---------------------------------------------------------------------------------------------

    async def _evaluate_reference(self) -> None:
        experience = self._parts.experience
        stored = [item for _, item in experience.read(experience.scan(EVALUATION))]
        await self._evaluate(
            REFERENCE_ROUND, 0, [item for item in stored if item.metadata[ROUND_KEY] == REFERENCE_ROUND]
        )

    async def _evaluate_regularly(self) -> None:
        """Evaluates the first version at or after each multiple of `evaluation.interval`; the last one has its own."""
        interval, online = self._config.evaluation.interval, self._parts.online
        last = self._parts.trainers.step
        while interval:
            version = online.published_version
            if version // interval > last // interval and version < self._config.trainer.total_steps:
                last = version
                await self._evaluate(f"step-{version}", version)
            else:
                await self._parts.trainers.version_changed()

    async def _evaluate(self, name: str, step: int, stored: list[Any] | None = None) -> None:
        """Does an evaluation round, unless it was done in an earlier session."""
        parts = self._parts
        done = {line["round"]: line for line in read_lineage(parts.run_dir / EVALUATIONS_FILE)}
        if name in done:
            parts.monitor.remember_evaluation(done[name])
            return
        if not parts.held_out_problems:
            return
        policy: Policy = "reference" if name == REFERENCE_ROUND else "latest"
        self._round = parts.evaluation.start(name, step, policy, stored or [])
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

    # --- services -----------------------------------------------------------------------------------------------

    def _server(self) -> Server:
        parts = self._parts
        return Server(read_token(parts.run_dir), parts.trainers.serve, parts.workers.serve, self.fail)

    def _local_workers(self, address: str) -> LocalWorkers:
        parts = self._parts
        return LocalWorkers(
            self._config,
            parts.run_dir,
            parts.model.path,
            address,
            is_connected=parts.workers.is_connected,
            on_death=lambda: parts.monitor.count("worker_deaths"),
        )

    async def _watch_signals(self, signals: Any) -> None:
        async for number in signals:
            self.fail(Interrupted(f"interrupted by {signal.Signals(number).name}"))

    async def _watch_parent(self, watch: Callable[[], Awaitable[None]]) -> None:
        await watch()
        self.fail(Interrupted("the process that started the orchestrator is gone"))

    async def _watch_progress(self) -> None:
        timeout_s = self._config.network.stall_timeout_s
        while True:
            await trio.sleep(min(_STALL_CHECK_S, timeout_s / 4))
            if trio.current_time() - self._parts.monitor.last_progress > timeout_s:
                raise RunFailed(
                    f"no progress of any kind for {timeout_s:.0f} s (network.stall_timeout_s) in phase "
                    f"{self._parts.monitor.phase!r}: {self._note() or 'nobody reports anything'}; see the logs of the "
                    "workers and trainers"
                )

    async def _commit_regularly(self) -> None:
        while True:
            await trio.sleep(_COMMIT_INTERVAL_S)
            await self._parts.experience.commit()
            self._parts.monitor.tick()

    async def _display(self) -> None:
        display: Display = make_display()
        try:
            while True:
                display.show(self._status())
                await trio.sleep(display.interval_s)
        finally:
            display.show(self._status())
            display.close()

    def _status(self) -> Status:
        parts, monitor = self._parts, self._parts.monitor
        done, total, unit = 0, 0, ""
        if monitor.phase == "training":
            done, total, unit = monitor.step, self._config.trainer.total_steps, "steps"
        elif self._round is not None or monitor.phase == "reference":
            done = len(self._round.trajectories) if self._round else 0
            total = parts.evaluation.num_wanted if self._round else 0
            unit = "samples"
            if monitor.phase == "reference" and self._values is not None:
                done, total = done + self._values.num_done, total + self._values.num_wanted
        return monitor.status(done, total, unit, len(parts.workers.sessions), self._note())

    def _note(self) -> str:
        """What is waited for."""
        parts = self._parts
        if parts.monitor.phase == "report":
            return ""
        if not parts.workers.sessions:
            return "no rollout worker is ready"
        if parts.monitor.phase == "training":
            return f"waiting for {parts.batches.waiting_for}" if parts.batches.waiting_for else ""
        return "the trainers have not all connected" if parts.monitor.phase.startswith("waiting") else ""

    # --- the end ------------------------------------------------------------------------------------------------

    async def _farewell(self, local: LocalWorkers) -> None:
        local.expect_end()
        if self._failure is not None:
            log.error("the run ends: %s", self._failure)
        await self._parts.trainers.farewell(None if self._failure is None else str(self._failure))
        self._parts.workers.shut_down()
        await local.wait_ended()

    def _close(self) -> None:
        (self._parts.run_dir / ADDRESS_FILE).unlink(missing_ok=True)
        for close in (self._parts.close, *([self._values.close] if self._values else [])):
            try:
                close()
            except Exception as error:
                self.fail(error)


def first_leaf(error: BaseException) -> Exception:
    """The first exception in a group that tells most: one of ours before any other."""
    leaves = list(_leaves(error))
    ours = [leaf for leaf in leaves if isinstance(leaf, RunFailed)]
    return (ours or leaves)[0]


def _leaves(error: BaseException) -> list[Exception]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error] if isinstance(error, Exception) else []


async def run_directory(run_dir: Path, watch_parent: Callable[[], Awaitable[None]] | None = None) -> None:
    """Runs the orchestrator of a run directory to the end; see `Run.run` for what is raised."""
    await Run(Parts(run_dir)).run(watch_parent)
