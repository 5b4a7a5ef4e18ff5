"""Copying between stores, and finding what is in one twice: the loops behind `spo store`. Prints nothing."""

from collections.abc import Iterable, Iterator, Sequence

from spo.errors import CorruptShardError
from spo.store import RESCUE, Trajectory, TrajectoryStore

READ_AT_ONCE = 256
"""Records decoded in one call."""


def read_each(store: TrajectoryStore, ids: Sequence[int]) -> Iterator[tuple[int, Trajectory | CorruptShardError]]:
    """Ids with their trajectories, or with what is wrong with them; `READ_AT_ONCE` are decoded in one call."""
    for start in range(0, len(ids), READ_AT_ONCE):
        part = ids[start : start + READ_AT_ONCE]
        try:
            yield from zip(part, store.read_many(part), strict=True)
        except CorruptShardError:
            yield from ((record_id, _read_one(store, record_id)) for record_id in part)


def read_whole(store: TrajectoryStore, ids: Sequence[int]) -> Iterator[tuple[int, Trajectory]]:
    """Ids with their trajectories.

    Raises:
        CorruptShardError: One is damaged.
    """
    for record_id, record in read_each(store, ids):
        if isinstance(record, CorruptShardError):
            raise CorruptShardError(f"{record}; {RESCUE}")
        yield record_id, record


def copy(records: Iterable[Trajectory], store: TrajectoryStore, seen: set[bytes] | None = None) -> int:
    """Appends records, durably, and returns how many.

    Args:
        records: What to append.
        store: Where to.
        seen: Content hashes that are left out; those appended are added. None keeps duplicates.
    """
    batch: list[Trajectory] = []
    count = 0
    for record in records:
        if seen is not None:
            if record.content_hash in seen:
                continue
            seen.add(record.content_hash)
        batch.append(record)
        count += 1
        if len(batch) == READ_AT_ONCE:
            store.append(batch)
            batch.clear()
    store.append(batch)
    store.commit()
    return count


def duplicates(records: Iterable[tuple[int, Trajectory]]) -> Iterator[int]:
    """Ids of the records whose problem, prompt and response an earlier one has too."""
    seen: set[bytes] = set()
    for record_id, record in records:
        if record.content_hash in seen:
            yield record_id
        seen.add(record.content_hash)


def _read_one(store: TrajectoryStore, record_id: int) -> Trajectory | CorruptShardError:
    try:
        return store[record_id]
    except CorruptShardError as error:
        return error
