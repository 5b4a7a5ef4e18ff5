"""A run with vLLM as its sampler, every part real: trained, with a worker killed on the way, evaluated and reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

STEPS = 24
SETTINGS = [
    "workers.engine=vllm",
    "workers.max_batch_size=32",
    f"vllm.kv_cache_bytes={128 << 20}",
    "batch.num_trajectories=16",
    "optimizer.warmup_steps=2",
    "optimizer.learning_rate=3e-4",
    "values.num_samples=4",
    "weights.model_update_interval=2",
    "evaluation.num_samples=4",
    "evaluation.ks=[1]",
    "evaluation.interval=0",
    f"trainer.total_steps={STEPS}",
    "network.stall_timeout_s=240",
]
TIMEOUT_S = 900
"""A minute and a half is enough where nobody else computes."""


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def workers(run_dir: Path) -> list[int]:
    """Processes of the run's rollout workers."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if entry.name.isdigit() and str(run_dir) in command and "-m spo.rollout " in command:
            found.append(int(entry.name))
    return found


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_tiny_is_trained_with_vllm_and_goes_on_after_its_worker_was_killed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "spo.train", "tiny", f"run_dir={run_dir}", *SETTINGS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while len(lines(run_dir / "consumption.jsonl")) < 6:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"training did not begin; see {run_dir}"
            time.sleep(0.1)
        (worker,) = workers(run_dir)
        os.kill(worker, signal.SIGKILL)
        output, _ = process.communicate(timeout=max(1, deadline - time.monotonic()))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output

    report = json.loads((run_dir / "report.json").read_text())
    # Of the reference about a fifth passes; a sampler that draws from something else passes nothing.
    assert report["reference"]["pass_at_1"] > 0.05
    assert report["final"]["pass_at_1"] > 0.05
    logs = "".join((run_dir / "logs" / f"{name}.log").read_text() for name in ("worker-0", "worker-0.1"))
    applied = [int(version) for version in re.findall(r"policy version (\d+): fetched in", logs)]
    assert applied == sorted(applied)
    assert len(applied) >= 2
    assert applied[-1] == STEPS
    assert "status -9" in (run_dir / "logs" / "orchestrator.log").read_text()
    assert len(lines(run_dir / "consumption.jsonl")) == STEPS
