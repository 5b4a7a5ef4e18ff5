"""`python -m spo.rollout`: a rollout worker; `spo worker` is the same.

Exit status: 0 when the run is over; 2 where starting again cannot help (no such model, no isolation for the judge); 1
for all else. The last line on stderr says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from spo.config import Config
from spo.errors import ConfigError, JudgeError, SpoError
from spo.launch import ERROR_PREFIX
from spo.types import ToWorker
from spo.wire import AsyncConnection

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        trio.run(_run, options)
    except BaseException as group:
        error = _first(group)
        if not isinstance(error, SpoError | OSError | KeyboardInterrupt):
            raise
        print(f"{ERROR_PREFIX}{error or type(error).__name__}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | JudgeError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spo worker", description="Samples and judges for a training run.")
    parser.add_argument("--connect", required=True, metavar="HOST:PORT", help="where the orchestrator listens")
    parser.add_argument("--token-file", required=True, type=Path, help="the run directory's `token` file, or a copy")
    parser.add_argument("--name", default=f"{os.uname().nodename}-{os.getpid()}", help="unique in the run")
    parser.add_argument("--model", metavar="PATH", help="the reference model on this host; else the run's own path")
    parser.add_argument("--die-with-parent", action="store_true", help="end when stdin is closed")
    return parser


async def _run(options: argparse.Namespace) -> None:
    token = options.token_file.read_bytes()
    async with trio.open_nursery() as nursery:
        if options.die_with_parent:
            nursery.start_soon(_die_with_parent, nursery.cancel_scope)
        await _work(options, token)
        nursery.cancel_scope.cancel()


async def _work(options: argparse.Namespace, token: bytes) -> None:
    from spo.rollout.parts import make_parts
    from spo.rollout.worker import Parts, run_worker

    async def parts(config: Config) -> Parts:
        return await make_parts(config, options.model or config.model.path)

    connection: AsyncConnection[ToWorker] = await AsyncConnection.connect(options.connect, token, ToWorker)
    await run_worker(connection, options.name, token, parts)


async def _die_with_parent(scope: trio.CancelScope) -> None:
    """Ends the worker at the end of stdin, whose other end the parent holds for as long as it lives."""
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    while await stdin.receive_some():
        pass
    _log.info("the parent process is gone")
    scope.cancel()


def _first(error: BaseException) -> BaseException:
    """The first failure in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Not `sys.exit`: a thread may still be loading a model or fetching weights, and nobody waits for either any more.
    os._exit(status)
