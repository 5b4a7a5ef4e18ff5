"""The rollout workers of this machine: started, watched, restarted, and ended with the run.

Each is a process group of its own, so that Ctrl-C reaches the orchestrator alone, which then ends them in order, and
so that nothing that a worker started outlives it. They end by themselves when the orchestrator is gone: it holds
their stdin.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import trio

from spo.config import Config
from spo.errors import RunFailed
from spo.launch import last_line, module_command
from spo.wire import TOKEN_FILE

RESTART_DELAY_S = 1.0
LINGER_S = 10.0
"""A worker process whose connection has ended may take this long to end, too."""
SHUTDOWN_S = 5.0
"""How long workers may take to end when the run does."""
USAGE_ERROR = 2
"""Exit status by which a worker says that starting it again cannot help."""

log = logging.getLogger(__name__)


class LocalWorkers:
    """Starts `workers.num_workers` processes and keeps them running.

    Args:
        config: The run's settings.
        run_dir: Holds the token and the logs.
        model_path: The model's local folder.
        address: Where the orchestrator listens.
        is_connected: Whether the worker of a name has a session.
        on_death: Told of every worker that ends before the run does.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        model_path: str,
        address: str,
        is_connected: Callable[[str], bool],
        on_death: Callable[[], None],
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._model_path = model_path
        self._address = address
        self._is_connected = is_connected
        self._on_death = on_death
        self._processes: dict[str, trio.Process] = {}
        self._ending = False
        self._num_deaths = 0

    async def run(self) -> None:
        """Runs all workers until cancelled.

        Raises:
            RunFailed: They die too often, or cannot start at all.
        """
        try:
            async with trio.open_nursery() as nursery:
                for index in range(self._config.workers.num_workers):
                    nursery.start_soon(self._keep_running, index)
        finally:
            self.kill()

    def expect_end(self) -> None:
        """From now on, workers that end are not started again."""
        self._ending = True

    async def wait_ended(self) -> None:
        """Waits until all have ended; those that do not within `SHUTDOWN_S` are killed."""
        with trio.move_on_after(SHUTDOWN_S, shield=True):
            for process in list(self._processes.values()):
                await process.wait()
        self.kill()

    def kill(self, name: str | None = None) -> None:
        """Kills one worker, or all, with everything that they started."""
        for other, process in self._processes.items():
            if name in (None, other) and process.returncode is None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    async def _keep_running(self, index: int) -> None:
        attempt = 0
        while not self._is_ending():
            name = f"worker-{index}" + (f".{attempt}" if attempt else "")
            log_path = self._run_dir / "logs" / f"{name}.log"
            status = await self._run_one(name, log_path)
            if self._is_ending():
                return
            self._num_deaths += 1
            self._on_death()
            attempt += 1
            reason = f"rollout worker {name} ended with status {status}: {last_line(log_path)}"
            if status == USAGE_ERROR:
                raise RunFailed(reason)
            if self._num_deaths > self._config.workers.max_restarts:
                raise RunFailed(
                    f"{reason}; that is death number {self._num_deaths} in this run, more than "
                    f"workers.max_restarts={self._config.workers.max_restarts}"
                )
            log.warning("%s; starting another", reason)
            await trio.sleep(RESTART_DELAY_S)

    def _is_ending(self) -> bool:
        return self._ending

    async def _run_one(self, name: str, log_path: Path) -> int:
        command = module_command(
            "spo.rollout",
            *("--connect", self._address),
            *("--token-file", str(self._run_dir / TOKEN_FILE)),
            *("--name", name),
            *("--model", self._model_path),
        )
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._config.workers.torch_threads)}
        with log_path.open("ab") as log_file:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
                env=environment,
            )
        self._processes[name] = process
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with_session, name)
                status = await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.kill(name)
            with trio.move_on_after(SHUTDOWN_S, shield=True):
                await process.wait()
            del self._processes[name]
        return status

    async def _end_with_session(self, name: str) -> None:
        """Kills the process if it stays `LINGER_S` without the session that it had."""
        was_connected = False
        missed_s = 0.0
        while missed_s < LINGER_S:
            await trio.sleep(1.0)
            connected = self._is_connected(name)
            was_connected = was_connected or connected
            missed_s = 0.0 if connected or not was_connected else missed_s + 1.0
        log.warning("worker %s still runs without a connection; killed", name)
        self.kill(name)
