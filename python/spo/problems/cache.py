"""The cache of data sets: each as an archive, read from its files once and opened from then on.

An archive is named after the spec, and after its files' names, sizes and times of change and the versions of loaders
and format: what has changed has another name, and is read again. Archives appear whole under their names, so any number
of processes may read and write them at once. What is small is read anew each time. The folder is `$SPO_CACHE`, else
`spo` in `$XDG_CACHE_HOME`, else `~/.cache/spo`.
"""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from spo.errors import ProblemError
from spo.problems.archive import FORMAT_VERSION, Archive, ArchiveError, ArchiveWriter
from spo.problems.collection import MemoryShelf, Shelf
from spo.problems.data_files import DataFiles
from spo.problems.info import ProblemInfo
from spo.problems.reading import Reading, in_unicode, log_omissions
from spo.problems.schema import Problem

LOADERS_VERSION = 2
"""Raised whenever a loader makes other problems of the same files."""
SMALL_BYTES = 4 << 20
"""Data sets whose files are no larger together are kept in memory, and not in the cache."""

_MAX_WRITING_S = 24 * 3600.0
"""A half-written archive that nobody has written to for so long is what a killed process left."""

Read = Callable[[DataFiles, Reading], Iterator[Problem]]

_log = logging.getLogger("spo.problems")


def open_data_set(source: str, data: DataFiles, read: Read) -> Shelf:
    """The problems of a data set, from the cache where they are in it.

    Raises:
        ProblemError: The files have a hole, or there is no room for the archive anywhere.
    """
    if sum(file.stat().st_size for file in data.files) <= SMALL_BYTES:
        reading = Reading()
        problems = [in_unicode(problem) for problem in read(data, reading)]
        log_omissions(data.named, reading.left_out)
        return MemoryShelf(problems)
    return CachedShelf(source, data, read)


class CachedShelf:
    """Problems in an archive, which is made where it is missing and made again where it is damaged.

    Args:
        source: Whose loader it is.
        data: The files.
        read: The loader.

    Raises:
        ProblemError: The files have a hole, or there is no room for the archive anywhere.
    """

    def __init__(self, source: str, data: DataFiles, read: Read) -> None:
        self._data = data
        self._read = read
        self._path = _archive_path(source, data)
        self._archive = self._open() or self._build()
        log_omissions(data.named, self._archive.left_out)

    @property
    def infos(self) -> Sequence[ProblemInfo]:
        """See `Shelf.infos`."""
        return self._archive.infos

    def head(self, index: int) -> Problem:
        """See `Shelf.head`."""
        return self._repaired(lambda: self._archive.head(index))

    def read(self, index: int, with_solutions: bool = True) -> Problem:
        """See `Shelf.read`."""
        return self._repaired(lambda: self._archive.read(index, with_solutions))

    def _repaired(self, get: Callable[[], Problem]) -> Problem:
        try:
            return get()
        except ArchiveError as error:
            _log.warning("%s %s; %s is read again", self._path, error, self._data.named)
        before = self._archive.infos
        self._archive = self._build()
        if self._archive.infos != before:
            raise ProblemError(f"{self._data.named}: the files have changed while they were in use; start again")
        return get()

    def _open(self) -> Archive | None:
        try:
            return Archive(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        except (OSError, ArchiveError) as error:
            _log.warning("%s %s; %s is read again", self._path, error, self._data.named)
            return None

    def _build(self) -> Archive:
        try:
            return self._build_at(self._path)
        except ArchiveError as error:
            _log.warning("the cache %s %s: going on without it; set SPO_CACHE to another folder", self._path, error)
        try:
            with tempfile.TemporaryFile(prefix="spo-problems-", buffering=1 << 20) as file:
                self._written(file)
                return Archive(os.dup(file.fileno()))
        except (ArchiveError, OSError) as error:
            raise ProblemError(
                f"{self._data.named}: there is no room for the problems, neither at {self._path} nor in "
                f"{tempfile.gettempdir()} ({error}); set SPO_CACHE to a folder with room"
            ) from None

    def _build_at(self, path: Path) -> Archive:
        """The archive, written beside its place and then put there.

        Raises:
            ArchiveError: It cannot be written there.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, sibling = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        except OSError as error:
            raise ArchiveError(f"cannot be written ({error.strerror})") from error
        try:
            with open(descriptor, "wb", buffering=1 << 20) as file:
                self._written(file)
            archive = Archive(os.open(sibling, os.O_RDONLY | os.O_CLOEXEC))
            os.replace(sibling, path)
        finally:
            Path(sibling).unlink(missing_ok=True)
        self._remove_outdated()
        return archive

    def _written(self, file: IO[bytes]) -> None:
        total = sum(one.stat().st_size for one in self._data.files)
        _log.info("%s: reading %.1f MB into the cache, this once", self._data.named, total / 1e6)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"reading {self._data.named}", total=total)
            reading = Reading(lambda amount: progress.advance(task, amount))
            writer = ArchiveWriter(file)
            for problem in self._read(self._data, reading):
                writer.add(in_unicode(problem))
            writer.finish(dict(reading.left_out))

    def _remove_outdated(self) -> None:
        """Removes what the cache holds of the same spec from before; who has it open may go on reading."""
        identity = self._path.name.rpartition("-")[0]
        others = [other for other in self._path.parent.glob(f"{identity}-*") if other != self._path]
        cut_off = [other for other in self._path.parent.glob(f".{identity}-*.tmp") if _age_s(other) > _MAX_WRITING_S]
        for other in (*others, *cut_off):
            _log.info("%s: %s is out of date, and removed", self._data.named, other)
            other.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where archives lie."""
    if named := os.environ.get("SPO_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spo"


def _archive_path(source: str, data: DataFiles) -> Path:
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in data.files]
    identity = (source, str(Path(data.named).absolute()))
    state = (FORMAT_VERSION, LOADERS_VERSION, stats)
    return cache_folder() / "problems" / f"{source}-{_short(identity)}-{_short(state)}"


def _age_s(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _short(value: object) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(value), digest_size=8).hexdigest()
