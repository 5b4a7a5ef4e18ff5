"""The worker's problems: on disk until they are judged, since the tests of thousands do not fit into memory.

The orchestrator sends each problem once. They lie compressed in one temporary file (`TMPDIR` says where), which is gone
with the process.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from typing import NamedTuple

import msgspec

from spo.problems import Problem

_LEVEL = 1


class _Place(NamedTuple):
    offset: int
    size: int


class ProblemSpool:
    """Problems by id, of which none is kept in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="spo-problems-")  # noqa: SIM115
        self._places: dict[str, _Place] = {}
        self._size = 0

    def add(self, problem: Problem) -> None:
        """Put a problem away.

        Raises:
            OSError: The file system of temporary files is full.
        """
        content = zlib.compress(msgspec.msgpack.encode(problem), _LEVEL)
        self._file.seek(self._size)
        self._file.write(content)
        self._file.flush()
        self._places[problem.id] = _Place(self._size, len(content))
        self._size += len(content)

    def get(self, problem_id: str) -> Problem | None:
        """Read a problem; None if it was never added."""
        place = self._places.get(problem_id)
        if place is None:
            return None
        content = bytearray()
        while part := os.pread(self._file.fileno(), place.size - len(content), place.offset + len(content)):
            content += part
        return msgspec.msgpack.decode(zlib.decompress(content), type=Problem)

    def close(self) -> None:
        """Gives the space back."""
        self._file.close()
