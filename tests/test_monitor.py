"""What the monitor notes about a run, on a clock that jumps."""

from pathlib import Path

import pytest
import trio

from spo.config import load_config
from spo.jsonl import read_lines
from spo.orchestrator.monitor import Monitor
from spo.rundir import RunInfo
from spo.types import StepDone


async def test_the_time_between_steps_is_not_cut_by_the_lines_in_between(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    info = RunInfo("2026-01-01T00:00:00+00:00", 0.0, 0.0, 1, "", {}, [])
    monitor = Monitor(load_config("tiny"), tmp_path, info, dict)
    monitor.on_step(StepDone(step=1, metrics={"time/step_s": 5.0}))
    for _ in range(3):
        await trio.sleep(11)
        monitor.tick()
    await trio.sleep(7)
    monitor.on_step(StepDone(step=2, metrics={"time/step_s": 30.0}))
    monitor.close()
    lines = list(read_lines(tmp_path / "metrics.jsonl"))
    steps = [line["time/between_steps_s"] for line in lines if "time/step_s" in line]
    assert len(lines) == 6, "two steps, three ticks and the end"
    assert steps == pytest.approx([5.0, 40.0])
