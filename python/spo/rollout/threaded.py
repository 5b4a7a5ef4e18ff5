"""The engine's thread: lets any number of trio tasks share one sampler, whose steps block.

The sampler lives on the thread from its making to its end; between two of its steps requests join and leave, and a
new policy version is switched to. A failure on the thread reaches every waiter as an `EngineError`. Known here:
who waits for what. Not known here: models and tokens.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from spo.errors import EngineError, WeightsError
from spo.rollout.engine import Request, Response, Sampler, Snapshot, Statistics

CLOSE_TIMEOUT_S = 10.0
"""How long `close` waits for the decode step that is under way."""

_log = logging.getLogger(__name__)


@dataclass
class _Call:
    """One `generate` call: its responses so far, and its waiter."""

    responses: list[Response | None]
    num_missing: int
    is_cancelled: bool = False
    error: EngineError | None = None
    done: trio.Event = field(default_factory=trio.Event)


@dataclass
class _Ticket:
    """A request's place in its call."""

    call: _Call
    index: int
    request: Request
    time_at_start_s: float = 0.0


@dataclass
class _Switch:
    """A staged version that waits for the current step to end."""

    staged: Any
    error: EngineError | WeightsError | None = None
    done: trio.Event = field(default_factory=trio.Event)


class ThreadedEngine:
    """An `Engine` that drives a `Sampler` on a thread of its own.

    Waiting requests join first come, first served. While many wait, they join in groups of an eighth of the batch,
    since taking in one costs about as much as taking in several.
    """

    def __init__(self) -> None:
        """Not for direct use; see `start`."""
        self._trio = trio.lowlevel.current_trio_token()
        self._wake = threading.Condition()
        # Shared with the thread, guarded by `_wake`:
        self._inbox: deque[_Ticket] = deque()
        self._switches: deque[_Switch] = deque()
        self._is_closing = False
        self._failure: EngineError | None = None
        # Written by the thread only:
        self._waiting: deque[_Ticket] = deque()
        self._active: dict[int, _Ticket] = {}
        self._next_key = 0
        self._num_steps = 0
        self._num_tokens = 0
        self._time_per_request_s = 0.0
        self._sampler: Sampler
        self._started = trio.Event()
        self._thread: threading.Thread

    @classmethod
    async def start(cls, make_sampler: Callable[[], Sampler]) -> ThreadedEngine:
        """Makes the sampler on the engine's thread and returns when it is ready.

        Args:
            make_sampler: Loads the model; may take long. What it raises is raised here.
        """
        engine = cls()
        failure: list[BaseException] = []

        def main() -> None:
            try:
                engine._sampler = make_sampler()
            except BaseException as error:
                failure.append(error)
                return
            finally:
                engine._notify(engine._started)
            engine._run()

        engine._thread = threading.Thread(target=main, name="spo-engine", daemon=True)
        engine._thread.start()
        try:
            await engine._started.wait()
        except trio.Cancelled:
            engine._is_closing = True
            raise
        if failure:
            raise failure[0]
        return engine

    @property
    def max_batch_size(self) -> int:
        """How many responses are sampled at once."""
        return self._sampler.max_batch_size

    async def generate(self, requests: Sequence[Request]) -> list[Response]:
        """See `Engine.generate`."""
        for request in requests:
            self._sampler.check(request)
        if not requests:
            return []
        call = _Call(responses=[None] * len(requests), num_missing=len(requests))
        with self._wake:
            self._check_alive()
            self._inbox.extend(_Ticket(call, index, request) for index, request in enumerate(requests))
            self._wake.notify()
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.is_cancelled = True
            raise
        if call.error is not None:
            raise call.error
        return [response for response in call.responses if response is not None]

    async def update_weights(self, snapshot: Snapshot) -> None:
        """See `Engine.update_weights`."""
        staged = await trio.to_thread.run_sync(self._sampler.stage, snapshot)
        switch = _Switch(staged)
        with self._wake:
            self._check_alive()
            self._switches.append(switch)
            self._wake.notify()
        await switch.done.wait()
        if switch.error is not None:
            raise switch.error

    def statistics(self) -> Statistics:
        """See `Engine.statistics`."""
        return Statistics(
            num_steps=self._num_steps,
            num_tokens=self._num_tokens,
            policy_version=self._sampler.policy_version,
            num_active=len(self._active),
            num_waiting=len(self._waiting) + len(self._inbox),
        )

    async def close(self) -> None:
        """See `Engine.close`; a thread that does not end in time is left behind, and dies with the process."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _log.warning("the engine's step did not end within %.0f s of closing", CLOSE_TIMEOUT_S)

    # --- on the engine's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "the engine is closed"
        try:
            while self._take_orders():
                self._step()
        except BaseException as error:
            _log.exception("the engine failed")
            reason = f"the engine failed: {type(error).__name__}: {error}"
        self._fail_all(EngineError(reason))

    def _take_orders(self) -> bool:
        """Waits for something to do and prepares the batch for a step; False when the engine is to close."""
        with self._wake:
            while not (self._inbox or self._switches or self._waiting or self._active or self._is_closing):
                self._wake.wait()
            if self._is_closing:
                return False
            self._waiting.extend(self._inbox)
            self._inbox.clear()
        while self._switches:
            self._switch(self._switches.popleft())
        self._drop_cancelled()
        self._admit()
        return True

    def _switch(self, switch: _Switch) -> None:
        try:
            self._sampler.switch(switch.staged)
        except WeightsError as error:
            switch.error = error
        except BaseException as error:
            switch.error = EngineError(f"the engine failed at a new version: {error}")
            raise
        finally:
            self._notify(switch.done)

    def _drop_cancelled(self) -> None:
        cancelled = {key for key, ticket in self._active.items() if ticket.call.is_cancelled}
        if cancelled:
            self._sampler.drop(cancelled)
            for key in cancelled:
                del self._active[key]
        if any(ticket.call.is_cancelled for ticket in self._waiting):
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.call.is_cancelled)

    def _admit(self) -> None:
        num_free = self._sampler.max_batch_size - len(self._active)
        group = max(1, self._sampler.max_batch_size // 8)
        if num_free < min(group, len(self._waiting)) or not self._waiting:
            return
        added: list[tuple[int, Request]] = []
        while self._waiting and len(added) < num_free:
            ticket = self._waiting.popleft()
            ticket.time_at_start_s = self._time_per_request_s
            self._active[self._next_key] = ticket
            added.append((self._next_key, ticket.request))
            self._next_key += 1
        start = time.monotonic()
        self._sampler.add(added)
        self._charge(time.monotonic() - start)

    def _step(self) -> None:
        if not self._active:
            return
        start = time.monotonic()
        finished = self._sampler.step()
        self._num_steps += 1
        self._charge(time.monotonic() - start)
        for key, response in finished:
            ticket = self._active.pop(key)
            engine_time_s = self._time_per_request_s - ticket.time_at_start_s
            self._deliver(ticket, response, engine_time_s)

    def _charge(self, time_s: float) -> None:
        """Shares time among the active requests; each one's share is a difference of two readings of this sum."""
        self._time_per_request_s += time_s / len(self._active)

    def _deliver(self, ticket: _Ticket, response: Response, engine_time_s: float) -> None:
        call = ticket.call
        self._num_tokens += len(response.tokens)
        call.responses[ticket.index] = dataclasses.replace(response, engine_time_s=engine_time_s)
        call.num_missing -= 1
        if call.num_missing == 0:
            self._notify(call.done)

    def _fail_all(self, error: EngineError) -> None:
        with self._wake:
            self._failure = error
            tickets = [*self._active.values(), *self._waiting, *self._inbox]
            switches = list(self._switches)
        for call in {id(ticket.call): ticket.call for ticket in tickets}.values():
            call.error = error
            self._notify(call.done)
        for switch in switches:
            switch.error = error
            self._notify(switch.done)

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_closing:
            raise EngineError("the engine is closed")

    def _notify(self, event: trio.Event) -> None:
        try:
            self._trio.run_sync_soon(event.set)
        except trio.RunFinishedError:
            _log.debug("the waiter's event loop has ended")
