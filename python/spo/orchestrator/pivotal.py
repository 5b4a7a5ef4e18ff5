"""Pivotal Token Search on stored trajectories, many at once, through a sampling session (Sec. 3.1.3).

Continuations are sampled from the reference, temperature 1, nothing cut off, and judged like any response. They are
appended to the store as trajectories of the source `pivotal` as they come in; the counts of a finished search are
annotated on the trajectory that was searched (`mc_successes`). A continuation's seed follows from reference, problem,
given tokens and index: so an interrupted search is taken up where it was, and responses that begin alike share what
was sampled. Which positions are visited is `bisection.py`'s business.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec
import numpy as np
import trio

from spo.errors import RunFailed
from spo.orchestrator.bisection import SearchResult, SearchSettings, search
from spo.orchestrator.mix import PIVOTAL
from spo.orchestrator.records import read_all, relabelled
from spo.orchestrator.schedule import derive_seed
from spo.orchestrator.session import SamplingSession
from spo.orchestrator.values import INDEX_KEY
from spo.reward import ACCEPTED_REWARD
from spo.store import Trajectory, TrajectoryStore
from spo.types import PREFIX_KEY
from spo.values import ProblemCounts

MAX_TRIES = 3
"""At most so many times as many continuations as are wanted are sampled, where the judge fails on some."""
_UNKNOWN, _FAILED, _ACCEPTED = 0, 1, 2
_COMMIT_INTERVAL_S = 5.0


class Continuations:
    """Counts the successes of continuations, sampling those that the store lacks.

    Args:
        session: What samples.
        store: Where continuations are kept.
        num_rollouts: How many are wanted from a position.
    """

    def __init__(self, session: SamplingSession, store: TrajectoryStore, num_rollouts: int) -> None:
        self._session = session
        self._store = store
        self._num_rollouts = num_rollouts
        self._outcomes: dict[bytes, bytearray] = {}
        """What became of each index, by what is continued; compact, for there may be millions."""
        self._locks: dict[bytes, trio.Lock] = {}
        self.num_reused = self.num_sampled = 0
        """Continuations that were there, and that were added."""

    def scan(self, problems: Iterable[str]) -> None:
        """Takes in what is stored of these problems; reads it all once: call it in a thread."""
        for problem_id in problems:
            for _, item in read_all(self._store, self._store.scan(source=PIVOTAL, problem=problem_id)):
                if not {PREFIX_KEY, INDEX_KEY} <= item.metadata.keys():
                    continue
                prefix = item.response_tokens[: int(item.metadata[PREFIX_KEY])]
                index = int(item.metadata[INDEX_KEY])
                if item.seed == self._seed(problem_id, prefix.tobytes(), index):
                    self._note(_key(problem_id, prefix.tobytes()), index, item)

    async def count(self, trajectory: Trajectory, position: int) -> ProblemCounts:
        """The successes of the continuations of a trajectory's first `position` response tokens.

        Raises:
            RunFailed: The judge fails on them again and again, or the workers give the problem another prompt.
        """
        prefix = trajectory.response_tokens[:position]
        key = _key(trajectory.problem_id, prefix.tobytes())
        wanted = self._num_rollouts
        async with self._alone(key):
            self.num_reused += len(self._known(key, wanted))
            tried = 0
            while (lacking := wanted - len(self._known(key, tried))) > 0 and tried < MAX_TRIES * wanted:
                indices = range(tried, tried + lacking)
                tried += lacking
                await self._sample(trajectory, prefix, [i for i in indices if self._outcome(key, i) == _UNKNOWN])
            outcomes = self._known(key, tried)[:wanted]
        if len(outcomes) < wanted:
            raise RunFailed(
                f"problem {trajectory.problem_id}: the judge failed on {tried - len(outcomes)} of {tried} "
                "continuations; run `spo doctor` on the workers' hosts"
            )
        return ProblemCounts(outcomes.count(_ACCEPTED), wanted)

    async def _sample(self, trajectory: Trajectory, prefix: np.ndarray, indices: Sequence[int]) -> None:
        problem_id = trajectory.problem_id
        seeds = [self._seed(problem_id, prefix.tobytes(), index) for index in indices]
        items = await self._session.sample(problem_id, seeds=seeds, source=PIVOTAL, prefix=prefix.tolist())
        found = [
            (index, relabelled(item, **{INDEX_KEY: str(index), PREFIX_KEY: str(len(prefix))}))
            for index, item in zip(indices, items, strict=True)
            if item is not None
        ]
        for _, item in found:
            if not np.array_equal(item.prompt_tokens, trajectory.prompt_tokens):
                raise RunFailed(
                    f"problem {problem_id}: the stored trajectory has another prompt than the workers give the problem "
                    "now; search with the settings of the run that sampled it"
                )
        try:
            self._store.append([item for _, item in found])
        except OSError as error:
            raise RunFailed(f"the store cannot be written ({error}); make room there, then search again") from None
        self.num_sampled += len(found)
        for index, item in found:
            self._note(_key(problem_id, prefix.tobytes()), index, item)

    @contextlib.asynccontextmanager
    async def _alone(self, key: bytes) -> AsyncIterator[None]:
        """Only one task samples what is to be continued; the others find it known."""
        lock = self._locks.setdefault(key, trio.Lock())
        async with lock:
            yield
            if not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)

    def _note(self, key: bytes, index: int, item: Trajectory) -> None:
        outcomes = self._outcomes.setdefault(key, bytearray())
        outcomes.extend(bytes(index + 1 - len(outcomes)))
        outcomes[index] = _ACCEPTED if item.reward == ACCEPTED_REWARD else _FAILED

    def _outcome(self, key: bytes, index: int) -> int:
        outcomes = self._outcomes.get(key, b"")
        return outcomes[index] if index < len(outcomes) else _UNKNOWN

    def _known(self, key: bytes, count: int) -> list[int]:
        """What became of those of the first `count` indices that something is known of."""
        return [outcome for outcome in self._outcomes.get(key, b"")[:count] if outcome != _UNKNOWN]

    def _seed(self, problem_id: str, prefix: bytes, index: int) -> int:
        return derive_seed(self._session.model.reference_fingerprint, PIVOTAL, problem_id, prefix.hex(), index)


class Searched(msgspec.Struct, frozen=True):
    """A trajectory that was searched."""

    id: int
    problem_id: str
    num_tokens: int
    """Of its response."""
    result: SearchResult


async def search_trajectories(
    store: TrajectoryStore,
    ids: Sequence[int],
    continuations: Continuations,
    settings: SearchSettings,
    num_at_once: int,
    on_done: Callable[[Searched], None],
) -> None:
    """Searches accepted trajectories, and annotates each as soon as it is done.

    Args:
        store: Has the trajectories, and takes what is annotated.
        ids: Which.
        continuations: Counts.
        settings: How finely.
        num_at_once: How many are searched at the same time; no more are in memory.
        on_done: Told of each.

    Raises:
        RunFailed: Continuations cannot be sampled, judged or kept.
    """

    async def one(id: int) -> None:
        async with limiter:
            item = store[id]
            length = len(item.response_tokens)
            result = await search(length, lambda position: continuations.count(item, position), settings)
            _annotate(store, id, result)
            on_done(Searched(id, item.problem_id, length, result))

    async def commit() -> None:
        while True:
            await trio.sleep(_COMMIT_INTERVAL_S)
            await trio.to_thread.run_sync(store.commit)

    limiter = trio.CapacityLimiter(num_at_once)
    async with trio.open_nursery() as services:
        services.start_soon(commit)
        async with trio.open_nursery() as searches:
            for id in ids:
                searches.start_soon(one, id)
        services.cancel_scope.cancel()
    await trio.to_thread.run_sync(store.commit)


def _annotate(store: TrajectoryStore, id: int, result: SearchResult) -> None:
    if not result.counts:
        return
    positions = list(result.counts)
    counts = result.counts.values()
    columns = (positions, [one.successes for one in counts], [one.num_samples for one in counts])
    try:
        store.annotate([id], mc_successes=[columns])
    except OSError as error:
        raise RunFailed(f"the store cannot be written ({error}); make room there, then search again") from None


def _key(problem_id: str, prefix: bytes) -> bytes:
    return hashlib.blake2b(problem_id.encode() + b"\0" + prefix, digest_size=16).digest()
