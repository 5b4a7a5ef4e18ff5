"""The same seed and calls give the same batches: in every process, thread and mode, across every save, for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = """
oldest 763605ea2fc80dda
uniform 2aa96e5194eff38b
recent 29366fb25d5f7c80
priority e8f4280666e105ce
computed 9cd1ce1d2dc636ac
memory 2aa96e5194eff38b
tokens 35441660917e00a2
groups efc0a8c79bd12bf5
"""
"""What `replay_stream.py` prints. Never to be changed: a run that is resumed or repeated draws these."""


@pytest.mark.parametrize(
    "how",
    [[], ["reload", "pieces"], ["thread", "one-core"], ["reload", "reopen", "thread"]],
    ids=lambda how: "-".join(how) or "plain",
)
@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_the_streams_are_the_recorded_ones(how: list[str], hash_seed: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("replay_stream.py")
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(script), str(tmp_path / "store"), *how]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.split() == RECORDED.split()
