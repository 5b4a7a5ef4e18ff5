"""Archives: the problems of a data set in one file, compressed, with an index that opens at once.

    MAGIC | frames | index | trailer

A problem has three frames (its texts and limits; its tests; its solutions), each MessagePack compressed by zlib, which
checks itself. The index, another such frame, has for each problem its `ProblemInfo` and where its frames lie. The
trailer says where the index is, with its checksum. All numbers are little-endian. An archive is written once, in order,
and never changed; whose problems it holds and when it is out of date is not known here (`cache.py`).
"""

import os
import struct
import weakref
import zlib
from collections.abc import Sequence
from typing import IO, Any, TypeVar

import msgspec

from spo.errors import SpoError
from spo.problems.info import ProblemInfo, digest, info_of
from spo.problems.schema import Problem, ProblemTest, Solution

FORMAT_VERSION = 1
_MAGIC = b"SPOPROB" + bytes([FORMAT_VERSION])
_TRAILER = struct.Struct("<QQ16s8s")
"""Offset and size of the index, its digest, and the magic again."""
_LEVEL = 1
"""zlib's fastest: tests of programming contests shrink three- to tenfold by it."""

_T = TypeVar("_T")
_Row = tuple[str, str, str, str]


class ArchiveError(SpoError):
    """An archive is damaged, or cannot be written; the text says how."""


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    size: int


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    info: ProblemInfo
    head: _Frame
    tests: _Frame
    solutions: _Frame


class _Index(msgspec.Struct, frozen=True):
    entries: list[_Entry]
    left_out: dict[str, int]


class ArchiveWriter:
    """Writes an archive to an empty file, problem by problem, holding one at a time.

    Args:
        file: Open for writing; stays the caller's to close.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._offset = 0
        self._entries: list[_Entry] = []
        self._write(_MAGIC)

    def add(self, problem: Problem) -> None:
        """Append a problem.

        Raises:
            ArchiveError: The file cannot be written.
        """
        head = msgspec.structs.replace(problem, tests=(), solutions=())
        rows = [(test.input, test.output, test.split, test.name) for test in problem.tests]
        frames = (self._frame(head), self._frame(rows), self._frame(problem.solutions))
        self._entries.append(_Entry(info_of(problem), *frames))

    def finish(self, left_out: dict[str, int]) -> None:
        """Write the index, and all of it to the disk.

        Args:
            left_out: How many rows of the data set are not in it, by reason.

        Raises:
            ArchiveError: The file cannot be written.
        """
        index = zlib.compress(msgspec.msgpack.encode(_Index(self._entries, left_out)), _LEVEL)
        offset = self._offset
        self._write(index + _TRAILER.pack(offset, len(index), digest(index), _MAGIC))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ArchiveError(f"cannot be written ({error.strerror})") from error

    def _frame(self, value: Any) -> _Frame:
        content = zlib.compress(msgspec.msgpack.encode(value), _LEVEL)
        frame = _Frame(self._offset, len(content))
        self._write(content)
        return frame

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            raise ArchiveError(f"cannot be written ({error.strerror})") from error
        self._offset += len(content)


class Archive:
    """An archive that is read from; its methods may be called from any thread.

    Args:
        descriptor: Of the file, open for reading. It becomes the archive's, which keeps it open as long as it is there:
            so the file may be replaced or removed meanwhile.

    Raises:
        ArchiveError: It is no archive of this version, or is damaged where that is seen without reading all of it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        index = self._read_index()
        self._entries = index.entries
        self.infos: Sequence[ProblemInfo] = [entry.info for entry in index.entries]
        self.left_out = index.left_out

    def head(self, index: int) -> Problem:
        """A problem without tests and solutions.

        Raises:
            ArchiveError: The file is damaged there.
        """
        return self._decode(self._entries[index].head, Problem)

    def read(self, index: int, with_solutions: bool = True) -> Problem:
        """A whole problem, or one without solutions.

        Raises:
            ArchiveError: The file is damaged there.
        """
        entry = self._entries[index]
        tests = tuple(ProblemTest(*row) for row in self._decode(entry.tests, list[_Row]))
        solutions = self._decode(entry.solutions, tuple[Solution, ...]) if with_solutions else ()
        return msgspec.structs.replace(self.head(index), tests=tests, solutions=solutions)

    def _read_index(self) -> _Index:
        length = os.fstat(self._descriptor).st_size
        if length < len(_MAGIC) + _TRAILER.size or self._bytes(_Frame(0, len(_MAGIC))) != _MAGIC:
            raise ArchiveError("is no problem archive of this version")
        trailer = self._bytes(_Frame(length - _TRAILER.size, _TRAILER.size))
        offset, size, checksum, magic = _TRAILER.unpack(trailer)
        if magic != _MAGIC or offset + size + _TRAILER.size != length:
            raise ArchiveError("is cut off, or has been written into")
        if digest(self._bytes(_Frame(offset, size))) != checksum:
            raise ArchiveError("has a damaged index")
        return self._decode(_Frame(offset, size), _Index)

    def _decode(self, frame: _Frame, kind: type[_T]) -> _T:
        try:
            return msgspec.msgpack.decode(zlib.decompress(self._bytes(frame)), type=kind)
        except (zlib.error, msgspec.DecodeError) as error:
            raise ArchiveError(f"is damaged at byte {frame.offset} ({error})") from None

    def _bytes(self, frame: _Frame) -> bytes:
        content = bytearray()
        try:
            while len(content) < frame.size:  # One read gives 2 GiB at most.
                part = os.pread(self._descriptor, frame.size - len(content), frame.offset + len(content))
                if not part:
                    raise ArchiveError(f"ends before byte {frame.offset + frame.size}")
                content += part
        except OSError as error:
            raise ArchiveError(f"cannot be read ({error.strerror})") from error
        return bytes(content)
