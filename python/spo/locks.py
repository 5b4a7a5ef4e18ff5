"""Locks on a run directory, so that no two processes take the same part of one run at a time.

They are the kernel's (`flock`): however a process ends, its locks are gone with it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from spo.errors import ConfigError

_POLL_S = 0.05


class RunLock:
    """A lock that is held from here until `release`, or the end of the process.

    Args:
        run_dir: The run's directory.
        part: Which part of the run it stands for, such as `trainer`.
        timeout_s: How long to wait for another holder to end.

    Raises:
        ConfigError: Another process holds it.
    """

    def __init__(self, run_dir: Path, part: str, timeout_s: float = 0.0) -> None:
        self._descriptor = os.open(run_dir / f".{part}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + timeout_s
        while not self._try():
            if time.monotonic() >= deadline:
                holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(self._descriptor)
                raise ConfigError(
                    f"run_dir: {run_dir} is in use, its {part} runs as process {holder}; wait for its end or stop it"
                )
            time.sleep(_POLL_S)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets go of it; twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
