"""The trajectory store: the durable home of every rollout, shared by any number of processes.

A `Trajectory` is the record of one rollout. A `TrajectoryStore` is a directory of append-only, compressed,
checksummed segments. *Visible* and *durable* are two things: what `append` returned for, every reader sees,
and the death of this process cannot lose; what `commit` returned for, the machine's cannot either.
`encode_trajectories` and `decode_trajectories` are the same records as one message, for the wire.

The work is done in Rust (`rust/trajectory`, `rust/store`) without the GIL; every method may be called from
any thread. Nothing here samples or trains: see `spo.replay`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from spo._native import NativeStore, Trajectory, decode_trajectories, encode_trajectories
from spo.errors import CorruptShardError, StoreError

__all__ = [
    "CorruptShardError",
    "StoreError",
    "Trajectory",
    "TrajectoryStore",
    "decode_trajectories",
    "encode_trajectories",
]

logger = logging.getLogger(__name__)

PER_TOKEN_COLUMNS = frozenset(
    {"tokens", "prompt_tokens", "response_tokens", "behavior_logprobs", "reference_logprobs", "mc_successes"}
)
SCALAR_COLUMNS = frozenset(
    {
        "problem_id",
        "reward",
        "verdict",
        "source",
        "min_policy_version",
        "max_policy_version",
        "temperature",
        "top_p",
        "seed",
        "metadata",
    }
)


RESCUE = "what is whole is read with skip_damage=True, or saved by `spo store merge NEW DAMAGED --skip-damage`"
"""What to do about damage."""
WHOLE = (True, True, True, True, True)
"""Decode every column."""


class TrajectoryStore:
    """An open store of trajectories; make one with `TrajectoryStore.open`."""

    def __init__(self, native: NativeStore) -> None:
        self._store: NativeStore | None = native

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        mode: Literal["a", "r"] = "a",
        tokenizer: str | None = None,
        *,
        skip_damage: bool = False,
        segment_bytes: int | None = None,
        logprobs: Literal["float32", "float16"] = "float32",
    ) -> Self:
        """Opens the store in the directory `path`.

        A writer goes on where a dead one stopped. An append that a crash cut short never was: it is removed
        here, logged, and listed in `torn_tails`. Any other damage is refused.

        Args:
            path: the directory; mode "a" makes it where there is none.
            mode: "a" to append and read, "r" to read. Any number of processes may do either at once.
            tokenizer: fingerprint of the tokenizer that the tokens belong to. Needed to make a store; checked
                where given.
            skip_damage: read what can be read, and count the rest in `info()["skipped"]`; only with mode "r".
            segment_bytes: size at which a segment is sealed; 256 MiB unless given.
            logprobs: how exactly log-probabilities are kept of what is appended and annotated from now on: as they
                are, or rounded to float16 (three decimal digits, and to 6e-8 near 0), which halves most of a
                store. They are float32 arrays again when read.

        Raises:
            StoreError: the store is of another tokenizer.
            StoreError: an attached store is no longer there; the text names it and the fix.
            CorruptShardError: a file holds other bytes than were written; the text names file and offset.
            OSError: the directory cannot be read or written; with mode "r", there is no store.
            ValueError: an argument is wrong.
        """
        try:
            store = cls(NativeStore(path, mode, tokenizer, skip_damage, segment_bytes, logprobs))
        except CorruptShardError as error:
            raise CorruptShardError(f"{error}; {RESCUE}") from None
        for file, offset, dropped in store.torn_tails:
            logger.warning("%s: cut off an unfinished append of %d bytes at byte %d", file, dropped, offset)
        return store

    def append(self, trajectories: Sequence[Trajectory]) -> list[int]:
        """Appends all of them or, on an error, none; readers see them when this returns.

        Returns:
            Their ids: unique in the store, for good, below 2**53.

        Raises:
            StoreError: the store is open for reading, or an earlier sync failed.
            OSError: the disk refused (full, say). Nothing was appended, and a later try may work.
        """
        return self._native.append(trajectories)

    def annotate(
        self,
        ids: Sequence[int],
        *,
        reference_logprobs: Sequence[NDArray[np.float32] | Sequence[float] | None] | None = None,
        mc_successes: Sequence[tuple[Any, Any, Any] | None] | None = None,
        reward: Sequence[float | None] | None = None,
    ) -> None:
        """Appends what is known of stored records only now: all of it or, on an error, nothing.

        The records are not rewritten: reading one gives the newest of each column, whoever annotated it.
        Visible and durable as an append is; other readers see it within a second.

        Args:
            ids: the records, each once.
            reference_logprobs: for each id the log-probability of each response token under the reference
                policy, or None to leave the column as it is.
            mc_successes: for each id the outcomes of continuations sampled from within the response, or None:
                `(positions, successes, trials)`, of equal length. A position is the number of response tokens
                before it; positions rise; 0 <= successes <= trials, trials >= 1.
            reward: for each id a revised reward, or None. `scan` goes by it.

        Raises:
            ValueError: a column does not fit its record; the text names both.
            StoreError: an id is unknown, the store is open for reading, or an earlier sync failed.
            OSError: the disk refused (full, say). Nothing was appended, and a later try may work.
        """
        self._native.annotate(ids, reference_logprobs, mc_successes, reward)

    def delete(self, ids: Sequence[int]) -> None:
        """Deletes records, all or, on an error, none. Readers no longer see them; ids are never given again.

        Their bytes go when the store is compacted.

        Raises:
            StoreError: an id is unknown, the store is open for reading, or an earlier sync failed.
            OSError: the disk refused.
        """
        self._native.delete(ids)

    def attach(self, path: str | PathLike[str]) -> None:
        """Lists the records of another store here too, without copying them, for good and for every opener.

        They have ids of their own here, which never change, and what that store appends later is seen as well. What
        it has attached itself at this moment is attached along with it. Nothing is ever written into it: what is
        annotated or deleted here is so only here. Attaching a store again does nothing. Durable when this returns.

        Raises:
            StoreError: the other store is of another tokenizer, is this one, or has this one attached.
            OSError: there is no store in `path`.
        """
        self._native.attach(path)

    def compact(self, progress: Callable[[int, int], object] | None = None) -> dict[str, int]:
        """Gives the space of deleted records and superseded late columns back. Ids stay; readers may go on.

        Seals the segments that no other writer has open, writes those anew that hold what is not needed, and makes
        one of small ones that follow one another. A crash leaves the old ones or the new one. Attached stores are left
        alone.

        Args:
            progress: called with how many of how many segments were looked at.

        Returns:
            segments (written anew), merged (now part of another), records and late (gone frames), bytes_before,
            bytes_after.

        Raises:
            StoreError: another process compacts the store, or it is open for reading.
            CorruptShardError: a segment is damaged; it is left as it is.
            OSError: the disk refused. Nothing is lost.
        """
        return self._native.compact(progress)

    def commit(self) -> None:
        """Returns once everything appended before the call is on the disk. Concurrent calls share one sync.

        Raises:
            OSError: the sync failed. What is on the disk is unknown, so the store refuses to go on: reopen
            it.
            StoreError: an earlier sync failed, or the store is open for reading.
        """
        self._native.commit()

    def refresh(self) -> None:
        """Looks for what other writers have appended; `scan`, `len` and `info` do so by themselves."""
        self._native.refresh()

    def __getitem__(self, record_id: int) -> Trajectory:
        """The trajectory with this id.

        Raises:
            StoreError: there is none.
            CorruptShardError: its bytes are damaged.
        """
        return self._native.read(record_id)

    def read_many(self, ids: Iterable[int], columns: Sequence[str] | None = None) -> Any:
        """Reads records, in the order of `ids`.

        Args:
            ids: which.
            columns: names of `Trajectory` attributes, "tokens" (prompt, then response) among them. Only these are
                decompressed.

        Returns:
            Without `columns` a list of `Trajectory`. With it a dict of lists, one for each column: int32 or
            float32 arrays for columns of tokens, a triple of uint32 arrays for `mc_successes` (None where a
            trajectory has no such column), plain values for the others.

        Raises:
            StoreError: an id is unknown.
            CorruptShardError: a record's bytes are damaged.
            ValueError: a column is unknown.
        """
        ids = list(ids)
        if columns is None:
            return self._native.read_many(ids, *WHOLE)
        unknown = [name for name in columns if name not in PER_TOKEN_COLUMNS | SCALAR_COLUMNS]
        if unknown:
            known = ", ".join(sorted(PER_TOKEN_COLUMNS | SCALAR_COLUMNS))
            raise ValueError(f"columns has the unknown name {unknown[0]!r}; known are {known}")
        wanted = set(columns)
        records = self._native.read_many(
            ids,
            not wanted.isdisjoint({"tokens", "prompt_tokens"}),
            not wanted.isdisjoint({"tokens", "response_tokens"}),
            "behavior_logprobs" in wanted,
            "reference_logprobs" in wanted,
            "mc_successes" in wanted,
        )
        return {name: list(map(attrgetter(name), records)) for name in columns}

    def read_tokens(self, ids: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Reads the tokens of records, one after another, with no Python object for each: the fastest way through many.

        Args:
            ids: which, in this order.

        Returns:
            The tokens, int32 of shape [sum of their lengths]: each record's prompt, then its response. And where each
            one's begin, uint64 of shape [len(ids) + 1], the last being the end of all.

        Raises:
            StoreError: an id is unknown.
            CorruptShardError: a record's bytes are damaged.
        """
        return self._native.read_tokens(ids)

    def scan(
        self,
        source: str | None = None,
        problem: str | None = None,
        reward: float | None = None,
        since: float | None = None,
        *,
        has: Sequence[str] = (),
        lacks: Sequence[str] = (),
    ) -> list[int]:
        """Ids of the records that match, in the order in which they were appended. Decompresses nothing.

        Args:
            source: only with this `source`.
            problem: only with this `problem_id`.
            reward: only with exactly this `reward`.
            since: only appended at this time or later, in seconds since 1970.
            has: only with all these columns, of "behavior_logprobs", "reference_logprobs" and "mc_successes",
                appended or annotated.
            lacks: only with none of these columns.

        Raises:
            ValueError: a column is unknown.
        """
        if isinstance(has, str) or isinstance(lacks, str):
            raise ValueError("has and lacks are sequences of column names, not one name")
        since_us = None if since is None else max(0, int(since * 1e6))
        return self._native.scan(source, problem, reward, since_us, has, lacks)

    def own(self, ids: Sequence[int]) -> list[int]:
        """Those of the ids that are of this store itself, not of an attached one; in their order."""
        return self._native.own_ids(ids)

    def info(self) -> dict[str, Any]:
        """Totals: path, store_id, tokenizer, records, their tokens and sources, bytes, segments, damage skipped.

        Those of the attached stores are counted; `attached` has their paths. `missing_segments` has the numbers of the
        store's own segments whose files are gone.
        """
        totals = self._native.info()
        return {**totals, "path": str(totals["path"]), "attached": [str(path) for path in totals["attached"]]}

    def damaged_late_columns(self) -> int:
        """Reads every frame of late columns and every tombstone, superseded ones too, and counts the damaged."""
        return self._native.damaged_late_columns()

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer that all tokens in the store belong to."""
        return self._native.tokenizer

    @property
    def torn_tails(self) -> list[tuple[str, int, int]]:
        """File, offset and length of each unfinished append that opening the store removed."""
        return [(str(file), offset, dropped) for file, offset, dropped in self._native.torn_tails]

    def __len__(self) -> int:
        return len(self._native)

    def close(self) -> None:
        """Lets go of the store's files; another writer may then go on in this one's segment.

        Closing twice does no harm. It does not commit: a `with` block that ends well does.
        """
        self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._store is not None and self._store.writable:
                self._store.commit()
        finally:
            self.close()

    @property
    def _native(self) -> NativeStore:
        if self._store is None:
            raise StoreError("the store is closed")
        return self._store
