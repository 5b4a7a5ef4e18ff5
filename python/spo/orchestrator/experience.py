"""The experience of a run: its trajectory store and the replay buffer over it, always changed together.

Everything sampled is appended to the store; what may be trained on is also put into the buffer. `commit` makes it
durable in a thread, since it waits for the disk. What is sampled and why is not known here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from spo.config import Config
from spo.errors import RunFailed
from spo.orchestrator.mix import ANNOTATED, OFFLINE, ONLINE, mix_of
from spo.orchestrator.records import READ_AT_ONCE, read_all
from spo.orchestrator.unused import UnusedOnline
from spo.replay import Batch, ReplayBuffer
from spo.reward import TRUNCATED
from spo.store import Trajectory, TrajectoryStore

log = logging.getLogger(__name__)


class Experience:
    """Store and buffer.

    Args:
        run_dir: The store is `RUN_DIR/store`; made if it does not exist, repaired if its tail is torn.
        tokenizer: Fingerprint that all trajectories share.
        config: The run's settings.
    """

    def __init__(self, run_dir: Path, tokenizer: str, config: Config) -> None:
        self._path = run_dir / "store"
        self._store = TrajectoryStore.open(self._path, mode="a", tokenizer=tokenizer)
        self._buffer = ReplayBuffer(
            capacity=config.replay.capacity,
            max_uses=config.replay.max_uses,
            max_staleness=config.replay.max_staleness,
            seed=config.seed,
            store=self._store,
            order=config.replay.order,
            half_life=config.replay.half_life,
            # Groups are looked for in what is left of an epoch, whose order has to be kept for that.
            pool_order="computed" if config.batch.group_size == 1 else "kept",
            memory_bytes=config.replay.memory_bytes,
        )
        self._mix = mix_of(config)
        self._batch = config.batch
        self._token_budget = config.batch.token_budget
        self._trains_on_truncated = config.objective.truncated == "failed"
        self._dirty = False
        self._committing = trio.Lock()
        self.newest_online: int | None = None
        """The online trajectory that was put into the buffer last."""
        self._held: deque[tuple[int, Trajectory]] = deque()
        """Stored online trajectories that are not in the buffer yet; see `restore`."""
        self._is_holding = False
        self._unused = UnusedOnline(
            config.replay.max_staleness,
            config.batch.group_size,
            problems_of=lambda ids: self.columns(ids, ["problem_id"])["problem_id"],
        )

    def append(self, trajectories: Sequence[Trajectory]) -> list[int]:
        """Stores trajectories that are not trained on; returns their ids.

        Raises:
            RunFailed: The disk refused.
        """
        if not trajectories:
            return []
        self._dirty = True
        try:
            return self._store.append(list(trajectories))
        except OSError as error:
            raise self._unwritable(error) from None

    def add_online(self, trajectories: Sequence[Trajectory]) -> None:
        """Stores fresh trajectories and puts them into the buffer's window, now or when it is their turn."""
        self._held.extend(zip(self.append(trajectories), trajectories, strict=True))
        if not self._is_holding:
            self.release_all()

    def release_until(self, newest: int | None) -> bool:
        """Puts held trajectories into the buffer until `newest` is the last; False, and none, if it cannot be."""
        if newest == self.newest_online:
            return True
        place = next((place for place, (id, _) in enumerate(self._held) if id == newest), None)
        if place is None:
            return False
        self._release(place + 1)
        return True

    def release_all(self) -> None:
        """Puts all held trajectories into the buffer, and from now on further ones at once."""
        self._is_holding = False
        self._release(len(self._held))

    def add_offline(self, trajectories: Sequence[Trajectory], known: Set[bytes] = frozenset()) -> None:
        """Fills the offline pool with `trajectories`, storing those that an earlier session did not.

        Args:
            trajectories: Offline ones.
            known: Content hashes of those that are in the pool already, and are passed over.
        """
        wanted = [trajectory for trajectory in trajectories if trajectory.content_hash not in known]
        ids = {trajectory.content_hash: id for id, trajectory in self.read(self.scan(OFFLINE))}
        new = [trajectory for trajectory in wanted if trajectory.content_hash not in ids]
        ids.update(zip((trajectory.content_hash for trajectory in new), self.append(new), strict=True))
        if wanted:
            self._buffer.add(wanted, [ids[trajectory.content_hash] for trajectory in wanted])

    def add_earlier(self, stores: Sequence[Path], pool_of: Callable[[Trajectory], str | None]) -> set[bytes]:
        """Attaches earlier stores and fills the pools with what is wanted of them, each content once.

        Reads all of them once: call it in a thread. Of trajectories of the same content the first is taken, but one for
        the annotated pool before any other.

        Args:
            stores: Where they lie.
            pool_of: The pool of a trajectory, None for none.

        Returns:
            The content hashes of what was added.

        Raises:
            StoreError: One cannot be attached.
        """
        for store in stores:
            self._store.attach(store)
        everything = self._store.scan()
        own = set(self._store.own(everything))
        chosen: dict[bytes, tuple[str, int]] = {}
        for id, trajectory in read_all(self._store, [id for id in everything if id not in own]):
            if trajectory.num_tokens > self._token_budget or not self._trains_on(trajectory):
                continue
            pool, content = pool_of(trajectory), trajectory.content_hash
            if pool is not None and (content not in chosen or chosen[content][0] != pool == ANNOTATED):
                chosen[content] = pool, id
        for pool in (OFFLINE, ANNOTATED):
            self._buffer.add_stored([id for name, id in chosen.values() if name == pool], pool)
        log.info("%d of %d trajectories of earlier runs are used", len(chosen), len(everything) - len(own))
        return set(chosen)

    def available(self, steps_done: int) -> dict[str, int]:
        """How many trajectories of each source can be drawn when `steps_done` steps are done."""
        return dict(self._buffer.available(steps_done))

    def unused_versions(self, steps_done: int) -> list[int]:
        """Least policy versions of the online trajectories that no batch has had and that one can still have."""
        return self._unused.versions(steps_done)

    def num_unused(self, steps_done: int) -> int:
        """How many those are that make whole groups, held ones included; the buffer draws them first."""
        num_grouped = self._unused.num_grouped(steps_done)
        return min(num_grouped, self.available(steps_done).get(ONLINE, 0)) + len(self._held)

    def sample(self, steps_done: int, row_multiple: int) -> Batch:
        """Draws and packs the batch of step `steps_done + 1`.

        Raises:
            NotEnough: A source cannot fill its part; nothing has changed.
        """
        batch = self._buffer.sample(
            num_trajectories=self._batch.num_trajectories,
            policy_version=steps_done,
            mix=self._mix,
            token_budget=self._token_budget,
            row_multiple=row_multiple,
            unit=self._batch.fractions_of,
            group_size=self._batch.group_size,
        )
        self._unused.drawn(batch.ids.tolist())
        return batch

    def keep_reference_logprobs(self, ids: list[int], logprobs: list[NDArray[np.float32]]) -> None:
        """Stores what the reference gives to responses, so that it need not be asked again.

        Raises:
            RunFailed: The disk refused.
        """
        self._dirty = True
        try:
            self._store.annotate(ids, reference_logprobs=logprobs)
        except OSError as error:
            raise self._unwritable(error) from None
        self._buffer.set_reference_logprobs(ids, logprobs)

    def read(self, ids: Sequence[int]) -> list[tuple[int, Trajectory]]:
        """Ids with their trajectories, in the order of `ids`."""
        return list(read_all(self._store, ids))

    def columns(self, ids: Sequence[int], names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of stored trajectories, in the order of `ids`."""
        columns: dict[str, list[Any]] = self._store.read_many(ids, columns=names)
        return columns

    def rewards(self, source: str) -> Iterator[tuple[str, float]]:
        """Problem and reward of each of this run's trajectories of a source, in append order."""
        ids = self.scan(source)
        for start in range(0, len(ids), READ_AT_ONCE):
            columns = self.columns(ids[start : start + READ_AT_ONCE], ["problem_id", "reward"])
            yield from zip(columns["problem_id"], columns["reward"], strict=True)

    def scan(self, source: str) -> list[int]:
        """Ids of all of this run's trajectories of a source, in append order."""
        return self._store.own(self._store.scan(source=source))

    async def commit(self) -> None:
        """Makes everything appended so far durable; other tasks go on meanwhile."""
        async with self._committing:
            if self._dirty:
                self._dirty = False
                try:
                    await trio.to_thread.run_sync(self._store.commit)
                except OSError as error:
                    raise self._unwritable(error) from None

    def state(self) -> dict[str, Any]:
        """What `restore` needs to bring the buffer back to where it is now."""
        return {
            "buffer": self._buffer.state_dict(),
            "newest_online": self.newest_online,
            "unused": self._unused.state(),
        }

    def restore(self, state: dict[str, Any] | None) -> list[Trajectory]:
        """Brings the buffer back to `state` (None: the start of the run).

        Online trajectories that were stored since are held, and so are further ones, in store order: until
        `release_until` or `release_all` puts them into the buffer. So earlier draws can be repeated just as they were.

        Returns:
            The online trajectories stored since, in store order.
        """
        stored = self.scan(ONLINE)
        if state is not None:
            self._buffer.load_state_dict(state["buffer"])
            self._unused.restore(state["unused"])
            self.newest_online = state["newest_online"]
            if self.newest_online is not None:
                stored = stored[stored.index(self.newest_online) + 1 :]
        self._held = deque(self.read(stored))
        self._is_holding = True
        return [trajectory for _, trajectory in self._held]

    def counters(self) -> dict[str, int]:
        """What became of the online trajectories that left the buffer."""
        return self._buffer.counters()

    def __len__(self) -> int:
        return len(self._buffer)

    def close(self) -> None:
        """Makes everything durable and closes the store."""
        self._store.commit()
        self._buffer.close()
        self._store.close()

    def _unwritable(self, error: OSError) -> RunFailed:
        return RunFailed(f"{self._path} cannot be written ({error}); make room there, then resume the run")

    def _release(self, count: int) -> None:
        if count == 0:
            return
        released = [self._held.popleft() for _ in range(count)]
        self.newest_online = released[-1][0]
        items = [item for item in released if self._trains_on(item[1])]
        if not items:
            return
        self._buffer.add([trajectory for _, trajectory in items], [id for id, _ in items])
        self._unused.add((id, trajectory.min_policy_version) for id, trajectory in items)

    def _trains_on(self, trajectory: Trajectory) -> bool:
        """Whether an online trajectory is put into the buffer, as `objective.truncated` has it."""
        return self._trains_on_truncated or trajectory.verdict != TRUNCATED
