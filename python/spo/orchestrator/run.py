"""A run from beginning to end: the services that go on throughout, around the phases that it goes through.

The first thing that fails, in whichever task, ends the run with its reason: phases are cancelled, trainers and workers
told, local workers ended, files closed, in this order.
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
from spo.orchestrator.failures import Interrupted, first_leaf
from spo.orchestrator.local_workers import LocalWorkers
from spo.orchestrator.parts import Parts
from spo.orchestrator.phases import Phases
from spo.orchestrator.server import Server, address_of, listen
from spo.progress import keep_showing, make_display
from spo.wire import ADDRESS_FILE, read_token

_COMMIT_INTERVAL_S = 1.0
_STALL_CHECK_S = 5.0

log = logging.getLogger(__name__)


class Run:
    """A run of the orchestrator.

    Args:
        parts: What it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._phases = Phases(parts)
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
                await self._guarded(self._phases.run)
                nursery.cancel_scope.cancel()

            nursery.start_soon(phases)
            await self._failed.wait()
            nursery.cancel_scope.cancel()

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
                phase, note = self._parts.monitor.phase, self._phases.note() or "nobody reports anything"
                raise RunFailed(
                    f"no progress of any kind for {timeout_s:.0f} s (network.stall_timeout_s) in phase {phase!r}: "
                    f"{note}; see the logs of the workers and trainers"
                )

    async def _commit_regularly(self) -> None:
        while True:
            await trio.sleep(_COMMIT_INTERVAL_S)
            await self._parts.experience.commit()
            self._parts.monitor.tick()

    async def _display(self) -> None:
        await keep_showing(make_display(), self._phases.status)

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
        for close in (self._parts.close, *([self._phases.values.close] if self._phases.values else [])):
            try:
                close()
            except Exception as error:
                self.fail(error)


async def run_directory(run_dir: Path, watch_parent: Callable[[], Awaitable[None]] | None = None) -> None:
    """Runs the orchestrator of a run directory to the end; see `Run.run` for what is raised."""
    await Run(Parts(run_dir)).run(watch_parent)
