"""Starting the processes of a run, without torch: the orchestrator beside rank 0, and what its own children share.

A child is told of its parent's death by its stdin: the parent holds the other end of the pipe, however it dies. What
happens inside a process is not known here, nor how the trainer ranks are started (`spo.cli`, or torchrun itself).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from spo.errors import RunFailed
from spo.rundir import finished_report, prepare_run, resumed_config
from spo.wire import ADDRESS_FILE

__all__ = [
    "ERROR_PREFIX",
    "OrchestratorProcess",
    "finished_report",
    "last_line",
    "module_command",
    "prepare_run",
    "resumed_config",
    "start_orchestrator",
]

ORCHESTRATOR_LOG = "logs/orchestrator.log"
ERROR_PREFIX = "spo: error: "
"""Begins the one line by which a process tells why it ends."""
START_TIMEOUT_S = 120.0
"""An orchestrator that does not listen by then has failed."""
_POLL_S = 0.02


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package as a child that dies with its parent."""
    return [sys.executable, "-m", module, *arguments, "--die-with-parent"]


def last_line(log: Path) -> str:
    """The line of a log that best tells why its process ended: its last error line, else its last line."""
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return "(no log)"
    errors = [line for line in lines[-200:] if line.startswith(ERROR_PREFIX)]
    return (errors or lines or ["(empty log)"])[-1].removeprefix(ERROR_PREFIX)


class OrchestratorProcess:
    """The running orchestrator of a run; made by `start_orchestrator`."""

    def __init__(self, process: subprocess.Popen[bytes], run_dir: Path) -> None:
        self._process = process
        self._log = run_dir / ORCHESTRATOR_LOG
        self._address_file = run_dir / ADDRESS_FILE
        self.address = ""
        """`host:port`, once it listens."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kills it at once; its workers end by themselves."""
        self._process.kill()

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for its end and returns the exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout_s`.
        """
        status = self._process.wait(timeout_s)
        self._close_stdin()
        self._address_file.unlink(missing_ok=True)  # One that was killed could not.
        return status

    def last_error(self) -> str:
        """The last error line of its log."""
        return last_line(self._log)

    def terminate(self, timeout_s: float = 20.0) -> int:
        """Ends it, orderly if it can within `timeout_s`, and returns the exit status."""
        self._close_stdin()
        self._process.terminate()
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self.wait()

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def start_orchestrator(run_dir: Path, timeout_s: float = START_TIMEOUT_S) -> OrchestratorProcess:
    """Starts `python -m spo.orchestrator RUN_DIR` and waits until it listens.

    Its progress goes to this process's stdout, everything else to `logs/orchestrator.log`.

    Raises:
        RunFailed: It ended or does not listen within `timeout_s`; the text is its own last error line.
    """
    address_file = run_dir / ADDRESS_FILE
    address_file.unlink(missing_ok=True)
    with (run_dir / ORCHESTRATOR_LOG).open("ab") as log:
        process = subprocess.Popen(module_command("spo.orchestrator", str(run_dir)), stdin=subprocess.PIPE, stderr=log)
    orchestrator = OrchestratorProcess(process, run_dir)
    deadline = time.monotonic() + timeout_s
    while not address_file.exists():
        if process.poll() is not None:
            orchestrator.wait()
            raise RunFailed(orchestrator.last_error())
        if time.monotonic() > deadline:
            orchestrator.terminate(timeout_s=1.0)
            raise RunFailed(f"the orchestrator did not listen within {timeout_s:.0f} s: {orchestrator.last_error()}")
        time.sleep(_POLL_S)
    orchestrator.address = address_file.read_text(encoding="ascii").strip()
    return orchestrator
