"""The follower: brings the newest policy version to the engine while sampling goes on.

It is told of versions as they are published and fetches the newest in a thread; those in between are skipped. The
version that the engine has is held here as well, so that only what has changed since need be fetched. What goes
wrong with a fetch is logged and tried again: a version that is no longer kept is made good by the next one. Who waits
for a version waits here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import trio

from spo.errors import VersionGone, WeightsError
from spo.rollout.engine import Engine, Snapshot
from spo.types import NewVersion

RETRY_DELAY_S = 1.0
MAX_FAILURES = 30
"""So many fetches in a row may fail."""

_log = logging.getLogger(__name__)


class Subscriber(Protocol):
    """What following needs of `spo.weights.WeightSubscriber`."""

    def fetch(self, version: int, *, base: Any = None, into: Any = None) -> Snapshot:
        """A whole, verified version, in the memory of `into`, sent as changes to `base` where publishers keep that."""


class Follower:
    """Keeps an engine at the newest policy version."""

    def __init__(self, engine: Engine, make_subscriber: Callable[[list[str]], Subscriber]) -> None:
        """Follows nothing yet; see `run`.

        Args:
            engine: Whose version it is.
            make_subscriber: Makes a subscriber to the publishers at these addresses.
        """
        self._engine = engine
        self._make_subscriber = make_subscriber
        self._newest: NewVersion | None = None
        self._held: Snapshot | None = None
        self._spare: Snapshot | None = None
        """The one held before; its memory takes the next."""
        self._changed = trio.Condition()
        self._offered = trio.Event()

    @property
    def version(self) -> int:
        """The version that the engine samples with."""
        return self._engine.statistics().policy_version

    def offer(self, message: NewVersion) -> None:
        """Tells of a published version."""
        if self._newest is None or message.version >= self._newest.version:
            self._newest = message
            self._offered.set()

    async def wait_for(self, version: int, timeout_s: float) -> None:
        """Returns when the engine samples with this version or a newer one.

        Raises:
            WeightsError: That was not the case within `timeout_s`.
        """
        with trio.move_on_after(timeout_s):
            async with self._changed:
                while self.version < version:
                    await self._changed.wait()
            return
        raise WeightsError(
            f"policy version {version} did not come within {timeout_s:.0f} s; the engine has version {self.version}"
        )

    async def run(self) -> None:
        """Fetches and applies versions until cancelled.

        Raises:
            WeightsError: Fetching failed `MAX_FAILURES` times in a row.
            EngineError: The engine has failed.
        """
        num_failures = 0
        while True:
            await self._offered.wait()
            self._offered = trio.Event()
            newest = self._newest
            if newest is None or newest.version <= self.version:
                continue
            try:
                await self._bring(newest)
                num_failures = 0
            except VersionGone as error:
                _log.warning("policy version %d: %s; waiting for the next", newest.version, error)
            except (WeightsError, OSError) as error:
                num_failures += 1
                _log.warning("policy version %d, attempt %d: %s", newest.version, num_failures, error)
                if num_failures == MAX_FAILURES:
                    raise WeightsError(
                        f"{MAX_FAILURES} fetches of policy versions failed, the last: {error}"
                    ) from error
                await trio.sleep(RETRY_DELAY_S)
                self._offered.set()

    async def _bring(self, newest: NewVersion) -> None:
        subscriber = self._make_subscriber(newest.publishers)
        start = trio.current_time()
        spare, self._spare = self._spare, None
        fetch = partial(subscriber.fetch, newest.version, base=self._held, into=spare)
        snapshot = await trio.to_thread.run_sync(fetch, abandon_on_cancel=True)
        fetched = trio.current_time()
        await self._engine.update_weights(snapshot)
        self._held, self._spare = snapshot, self._held
        async with self._changed:
            self._changed.notify_all()
        _log.info(
            "policy version %d: fetched in %.2f s, applied in %.2f s",
            newest.version,
            fetched - start,
            trio.current_time() - fetched,
        )
