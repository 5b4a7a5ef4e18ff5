"""Journals of a run: append-only JSON Lines files that survive being cut off anywhere.

One object a line. A run that goes on from the checkpoint of step s appends `{"resumed_at": s}`; whatever stands
before that line and belongs to a later step was undone, and `read_lineage` leaves it out. Nothing is ever rewritten.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from spo.files import sync_directory

_encoder = msgspec.json.Encoder()


class Journal:
    """A JSON Lines file that is appended to.

    Args:
        path: Made if it does not exist; a half-written last line is ended first, and read as none.
    """

    def __init__(self, path: Path) -> None:
        is_new = not path.exists()
        self._file = path.open("ab")
        if is_new:
            sync_directory(path.parent)
        if self._file.tell() > 0 and not _ends_with_newline(path):
            self._file.write(b"\n")
            self._file.flush()

    def append(self, line: dict[str, Any] | msgspec.Struct, *, durable: bool = False) -> None:
        """Appends one object; others see it when this returns, a crash of the host only spares it if `durable`."""
        self._file.write(_encoder.encode(line) + b"\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def mark_resumed(self, step: int) -> None:
        """Records that the run goes on from `step`: what was written for later steps no longer counts."""
        self.append({"resumed_at": step}, durable=True)

    def close(self) -> None:
        """Closes the file; closing twice is fine."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal; none where the file does not exist."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = []
    for line in content.splitlines():
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # Cut off by a crash.
        if isinstance(value, dict):
            lines.append(value)
    return lines


def read_lineage(path: Path) -> list[dict[str, Any]]:
    """The lines that lead to the run's present state: those undone by a resume are left out."""
    lineage: list[dict[str, Any]] = []
    for line in read_lines(path):
        if "resumed_at" in line:
            lineage = [earlier for earlier in lineage if earlier.get("step", 0) <= line["resumed_at"]]
        else:
            lineage.append(line)
    return lineage


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
