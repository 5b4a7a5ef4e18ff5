"""Opening a sampling session, and running what samples until it is done or interrupted.

    async def main() -> None:
        async with sampling_session(config, model, problems) as session:
            trajectories = await session.sample("two-sum", seeds=[1, 2, 3], temperatures=0.8, top_p=0.95)

    run_sampling(main)

What a session does is `session`'s business.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from spo.config import Config
from spo.orchestrator.failures import Interrupted, first_leaf
from spo.orchestrator.session import SamplingSession
from spo.problems import Problems
from spo.rundir import ModelInfo
from spo.wire import ADDRESS_FILE

T = TypeVar("T")


@asynccontextmanager
async def sampling_session(
    config: Config, model: ModelInfo, problems: Problems, directory: Path | None = None
) -> AsyncIterator[SamplingSession]:
    """Opens a session: a worker is ready when the block begins, and none is left when it has ended.

    Args:
        config: The settings: of workers, judge, sampling, problems and network.
        model: The policy, which is its own reference; see `spo.models.resolve_model` and `model_info`.
        problems: All problems that may be asked about.
        directory: Where the token and the workers' logs lie; a folder for the time being where None.

    Raises:
        RunFailed: Workers cannot start, die too often, or nothing goes on; whatever the block waits for is cancelled.
        ConfigError: The address cannot be listened at.
    """
    try:
        with contextlib.ExitStack() as stack:
            folder = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spo-session-")))
            stack.callback((folder / ADDRESS_FILE).unlink, missing_ok=True)
            session = SamplingSession(config, model, problems, folder)
            async with trio.open_nursery() as services:
                await session.start(services)
                yield session
                await session.end()
                services.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None and (failures := group.subgroup(Exception)) is not None:
            raise first_leaf(failures) from None
        raise


def run_sampling(main: Callable[[], Awaitable[T]]) -> T:
    """Runs an async function that samples; SIGINT and SIGTERM end it in order, so that nothing is left running.

    Raises:
        KeyboardInterrupt: It was ended by a signal.
        SpoError: What `main` raises, also where several tasks failed at once.
    """

    async def guarded() -> T:
        result: list[T] = []
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_interrupt, signals)
                result.append(await main())
                nursery.cancel_scope.cancel()
        return result[0]

    try:
        return trio.run(guarded)
    except ExceptionGroup as failures:
        if (interruptions := failures.subgroup(Interrupted)) is not None:
            raise KeyboardInterrupt(str(first_leaf(interruptions))) from None
        raise first_leaf(failures) from None


async def _interrupt(signals: AsyncIterator[int]) -> None:
    async for number in signals:
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")
