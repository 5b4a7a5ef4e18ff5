"""The metrics' files, and that every name in them is described."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from spo.jsonl import read_lines
from spo.metrics import MetricsWriter
from spo.progress import LiveDisplay, PlainDisplay, Status, line, make_display

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
NAME = re.compile(r'"((?:loss|reward|staleness|replay|rollout|workers|judge|weights|time)/[a-z_]+)"')


def test_a_line_holds_step_labels_and_values_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(3, {"loss/objective": 0.5, "loss/gradient_norm": math.inf}, phase="training")
    writer.mark_resumed(2)
    writer.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": 3, "phase": "training", "loss/objective": 0.5, "loss/gradient_norm": None},
        {"resumed_at": 2},
    ]


def test_tensorboard_reads_back_what_was_written_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from spo.metrics import MetricsWriter; "
        "w = MetricsWriter(Path(sys.argv[1])); w.write(1, {'loss/objective': 0.5}); "
        "w.write(2, {'loss/objective': 0.25}); w.close(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [event for event in loader.LegacyEventFileLoader(str(file)).Load() if event.HasField("summary")]
    values = [(event.step, event.summary.value[0].tag, event.summary.value[0].simple_value) for event in events]
    assert values == [(1, "loss/objective", 0.5), (2, "loss/objective", 0.25)]


def test_every_metric_in_the_sources_is_described() -> None:
    text = DOCUMENT.read_text()
    folder = DOCUMENT.parent.parent / "python" / "spo"
    sources = [folder / "metrics.py", *(folder / "orchestrator").glob("*.py"), *(folder / "trainer").glob("*.py")]
    names = {name for source in sources for name in NAME.findall(source.read_text())}
    assert len(names) > 30
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_a_line_of_progress_tells_all_that_is_known() -> None:
    status = Status(
        phase="training",
        done=5,
        total=20,
        unit="steps",
        eta_s=3700,
        elapsed_s=65,
        loss=0.25,
        success_rate=0.4,
        staleness=2.5,
        pass_at={"pass@1": [0.2, 0.3], "pass@10": [0.5]},
        steps_per_s=1.5,
        tokens_per_s=1000,
        programs_per_s=30,
        num_workers=2,
        note="waiting for 3 of 4 online trajectories",
    )
    assert line(status) == (
        "[1:05] training 5/20 steps · loss 0.2500 · reward -0.600 · pass@1 0.200 → 0.300 · pass@10 0.500 · "
        "staleness 2.5 · steps/s 1.50 · tokens/s 1000 · programs/s 30 · workers 2 · left 1:01:40 · "
        "waiting for 3 of 4 online trajectories"
    )


def test_a_terminal_gets_a_live_panel_and_a_pipe_gets_lines() -> None:
    terminal = make_display(Console(force_terminal=True, width=100, record=True))
    assert isinstance(terminal, LiveDisplay)
    terminal.show(Status(phase="training", done=5, total=20, unit="steps", loss=0.25))
    terminal.close()
    pipe = Console(force_terminal=False, width=40, record=True)
    plain = make_display(pipe)
    assert isinstance(plain, PlainDisplay)
    plain.show(Status(phase="training", done=5, total=20, unit="steps", loss=0.25, note="x" * 60))
    assert pipe.export_text() == f"[0:00] training 5/20 steps · loss 0.2500 · workers 0 · {'x' * 60}\n"
