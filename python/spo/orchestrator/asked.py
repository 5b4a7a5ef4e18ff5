"""Responses that tasks of this process ask for and wait for, as a source of work for the dispatcher.

Each call is cut into work items, first come first served; its trajectories are handed over together, once the last is
judged. What is asked for, and what becomes of it, is the callers' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import trio

from spo.orchestrator.dispatch import split
from spo.store import Trajectory
from spo.types import Work

MAX_RESPONSES_PER_WORK = 16


class _Call(msgspec.Struct, eq=False):
    """One call that is waited for."""

    work: Work
    """All that was asked for, as one item."""
    due: deque[int]
    """Places in it that are not handed out yet."""
    missing: set[int]
    """Seeds of the responses that have not come in."""
    found: dict[int, Trajectory]
    """By seed."""
    done: trio.Event


class AskedFor:
    """A `spo.orchestrator.dispatch.Source` that tasks ask and wait at.

    Args:
        fill: Called when there is new work.
    """

    share = 1.0
    """See `dispatch`."""

    def __init__(self, fill: Callable[[], None]) -> None:
        self._fill = fill
        self._waiting: deque[_Call] = deque()
        self._under_way: dict[tuple[str, int], _Call] = {}
        """By problem and seed."""

    @property
    def num_waited_for(self) -> int:
        """Responses that were asked for and have not come in."""
        return sum(len(call.missing) for call in {id(call): call for call in self._under_way.values()}.values())

    async def ask(self, work: Work) -> list[Trajectory | None]:
        """Has responses sampled and judged; any number of tasks may wait here at once.

        Args:
            work: What is wanted, of any number of responses; `work_id` does not count.

        Returns:
            The trajectories in the order of the work's seeds; None where the judge itself failed twice.

        Raises:
            ValueError: Two responses to a problem that are under way at once have the same seed.
        """
        if not work.seeds:
            return []
        keys = [(work.problem_id, seed) for seed in work.seeds]
        if len(set(keys)) != len(keys) or not self._under_way.keys().isdisjoint(keys):
            raise ValueError(f"problem {work.problem_id}: a seed is asked for twice at once; give each its own")
        call = _Call(work, deque(range(len(work.seeds))), set(work.seeds), {}, trio.Event())
        self._under_way.update(dict.fromkeys(keys, call))
        self._waiting.append(call)
        try:
            self._fill()
            await call.done.wait()
        finally:
            for key in keys:
                del self._under_way[key]
            if call.due:
                self._waiting.remove(call)
        return [call.found.get(seed) for seed in work.seeds]

    def take(self, limit: int) -> Work | None:
        """Some more responses of the call that has waited longest."""
        if not self._waiting:
            return None
        call = self._waiting[0]
        places = [call.due.popleft() for _ in range(split(len(call.due), limit, MAX_RESPONSES_PER_WORK))]
        if not call.due:
            self._waiting.popleft()
        return msgspec.structs.replace(
            call.work,
            seeds=[call.work.seeds[place] for place in places],
            temperatures=[call.work.temperatures[place] for place in places],
        )

    def renew(self, work: Work) -> Work:
        """The same item: the policy does not change."""
        return work

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        """Hands the result to whoever waits for it; to nobody where the waiter was cancelled."""
        call = self._under_way.get((work.problem_id, work.seeds[0]))
        if call is None:
            return
        call.found.update((item.seed, item) for item in trajectories)
        call.missing.difference_update(work.seeds)
        if not call.missing:
            call.done.set()
