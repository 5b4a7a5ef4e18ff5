"""Runs whose processes are killed again and again: nothing is lost or done twice, and the replay is the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_input import make_input
from crash_run import crash


@pytest.mark.timeout(1200)
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_a_run_killed_at_random_moments_does_everything_once_and_is_replayed_bit_for_bit(
    seed: int, tmp_path: Path
) -> None:
    """Real processes, but steps that only hash their batches; `crash_run.py` itself does more, and with real steps."""
    given = make_input(tmp_path, None, is_light=True)
    crash(tmp_path, given, seed, kills=4, num_ranks=1, is_light=True)
