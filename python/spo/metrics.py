"""Metrics of a run: one line a step in `metrics.jsonl`, and the same scalars for TensorBoard where it is installed.

Names are stable and described in `docs/metrics.md`; where values come from is not known here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spo.jsonl import Journal
from spo.rundir import METRICS_FILE

TENSORBOARD_DIR = "tensorboard"


class MetricsWriter:
    """Writes the metrics of a run.

    Args:
        run_dir: Where they go; an earlier session's are gone on with.
        tensorboard: Whether to write TensorBoard's files, too, if it can be imported.
    """

    def __init__(self, run_dir: Path, tensorboard: bool = True) -> None:
        self._journal = Journal(run_dir / METRICS_FILE)
        self._directory = run_dir / TENSORBOARD_DIR
        self._tensorboard = tensorboard
        self._events: _EventWriter | None = None

    def write(self, step: int, values: Mapping[str, float], **labels: str) -> None:
        """Writes one line; values that are not finite are left out of JSON's way as null.

        Args:
            step: Optimiser steps done.
            values: Scalars by name.
            labels: Text beside them, such as the phase.
        """
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._journal.append({"step": step, **labels, **numbers})
        if self._tensorboard and self._events is None:
            self._events = _event_writer(self._directory)
            self._tensorboard = self._events is not None
        if self._events is not None:
            self._events.write(step, values)

    def mark_resumed(self, step: int) -> None:
        """The run goes on from the checkpoint of `step`."""
        self._journal.mark_resumed(step)

    def close(self) -> None:
        """Closes the files."""
        self._journal.close()
        if self._events is not None:
            self._events.close()


class _EventWriter:
    """TensorBoard's event files, written without TensorFlow or torch."""

    def __init__(self, directory: Path, modules: tuple[Any, Any, Any]) -> None:
        writer, self._event, self._summary = modules
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = writer(str(directory), flush_secs=10)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        entries = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=entries)))

    def close(self) -> None:
        self._writer.close()


def _event_writer(directory: Path) -> _EventWriter | None:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return None
    return _EventWriter(directory, (EventFileWriter, Event, Summary))
