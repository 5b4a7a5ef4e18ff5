"""A collection: a folder with a trajectory store, and a journal of what has been done for it.

Whatever is collected is a *task* with numbered items (the samples of a problem, its solutions, the records of a store).
Trajectories are stored first, then the journal says which items are done; so a collection that is killed at any moment
goes on with the items that are missing, and what was stored but not yet journalled comes to the same again and is
recognised by its content.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from spo.errors import ConfigError
from spo.jsonl import Journal, read_lines
from spo.locks import RunLock
from spo.reward import ACCEPTED_REWARD
from spo.store import Trajectory, TrajectoryStore
from spo.store_copy import read_whole

STORE_DIR = "store"
JOURNAL_FILE = "collect.jsonl"
_RUN_SETTINGS = "config.toml"


class Tally(msgspec.Struct):
    """What became of the items of one source."""

    done: int = 0
    """Judged, or taken as they were judged before."""
    accepted: int = 0
    stored: int = 0
    duplicates: int = 0
    """Their content was in the store already."""
    refused: int = 0
    """Not accepted, and so not stored by `--accepted-only`."""
    judge_failed: int = 0
    """The judge itself failed on them; they are left out."""


class Collection:
    """An open collection; the only one that writes to its folder.

    Args:
        directory: Made where there is none.
        tokenizer: Fingerprint that all trajectories share.
        accepted_only: Whether only accepted trajectories are stored.

    Raises:
        ConfigError: The folder is a run, a bare store, or in use by another process.
        StoreError: The store in it is of another tokenizer.
        OSError: It cannot be read or written.
    """

    def __init__(self, directory: Path, tokenizer: str, accepted_only: bool = False) -> None:
        check_place(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.accepted_only = accepted_only
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        """Of this session, by source."""
        self.left_out: Counter[str] = Counter()
        """What was not collected in this session, by reason."""
        self.contradictions: Counter[str] = Counter()
        """Where the judge and a data set are of different opinions, in this session."""
        self._lock = RunLock(directory, "collect")
        self._done: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for line in read_lines(directory / JOURNAL_FILE):
            self._done[line["task"]].append((line["first"], line["count"]))
        self.store = TrajectoryStore.open(directory / STORE_DIR, mode="a", tokenizer=tokenizer)
        self._seen = {item.content_hash for _, item in read_whole(self.store, self.store.scan())}
        self._journal = Journal(directory / JOURNAL_FILE)
        self._pending: list[dict[str, Any]] = []

    def missing(self, task: str, total: int, most: int) -> Iterator[range]:
        """The items of a task below `total` that are not done, at most `most` in a piece.

        Args:
            task: Names all that its items depend on, but `accepted_only`.
            total: How many there are to be.
            most: Items in a piece.
        """
        start = 0
        for first, count in [*sorted(self._done[self._named(task)]), (total, 0)]:
            for begin in range(start, min(first, total), most):
                yield range(begin, min(begin + most, first, total))
            start = max(start, first + count)

    def add(self, task: str, items: range, trajectories: Sequence[Trajectory]) -> None:
        """Stores what came of some items, as far as it is wanted and new; durable after the next `commit`."""
        fresh = [trajectory for trajectory in trajectories if self._is_wanted(trajectory)]
        if fresh:
            self.store.append(fresh)
        self._pending.append({"task": self._named(task), "first": items.start, "count": len(items)})

    def _is_wanted(self, trajectory: Trajectory) -> bool:
        tally = self.tallies[trajectory.source]
        accepted = trajectory.reward == ACCEPTED_REWARD
        is_new = trajectory.content_hash not in self._seen
        wanted = (accepted or not self.accepted_only) and is_new
        tally.done += 1
        tally.accepted += accepted
        tally.refused += self.accepted_only and not accepted
        tally.duplicates += (accepted or not self.accepted_only) and not is_new
        tally.stored += wanted
        if wanted:
            self._seen.add(trajectory.content_hash)
        return wanted

    def commit(self) -> None:
        """Makes everything added so far durable, and then says that it is done."""
        pending, self._pending = self._pending, []
        if pending:
            self.store.commit()
            for line in pending:
                self._journal.append(line)
                self._done[line["task"]].append((line["first"], line["count"]))

    def summary(self) -> dict[str, Any]:
        """What this session did, and what is in the store now."""
        return {
            "directory": str(self.directory),
            "trajectories": len(self.store),
            "sources": self.store.info()["sources"],
            "collected": {source: msgspec.to_builtins(tally) for source, tally in sorted(self.tallies.items())},
            "left_out": dict(+self.left_out),
            "contradictions": dict(self.contradictions),
        }

    def close(self) -> None:
        """Makes everything durable and closes the files."""
        try:
            self.commit()
        finally:
            self._journal.close()
            self.store.close()
            self._lock.release()

    def _named(self, task: str) -> str:
        """What was refused is wanted when `accepted_only` no longer holds, so it is another task then."""
        return f"accepted {task}" if self.accepted_only else task


def check_place(directory: Path) -> None:
    """Checks that a folder may be a collection.

    Raises:
        ConfigError: It is a run, a bare store, or holds other things.
    """
    if (directory / _RUN_SETTINGS).exists():
        what = f"{directory} is a run; collect into a folder of its own, which a run takes by experience.stores"
    elif (directory / "store.spo").exists():
        what = f"{directory} is a store; collect into a folder of its own, and take this one in by --from {directory}"
    elif directory.exists() and not (directory / STORE_DIR).is_dir() and any(_foreign(directory)):
        what = f"{directory} holds other things; give an empty or a new folder"
    else:
        return
    raise ConfigError(what)


def _foreign(directory: Path) -> Iterator[Path]:
    """What is in a folder beside what a collection that has just begun leaves there; a file is foreign itself."""
    if not directory.is_dir():
        yield directory
        return
    own = {JOURNAL_FILE, "reference"}
    yield from (entry for entry in directory.iterdir() if entry.name not in own and entry.name[0] != ".")
