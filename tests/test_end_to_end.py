"""The whole of it, every part real: `spo train` on a small Llama, with one rank and two, and killed while it runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from spo.rundir import read_model
from spo.store import TrajectoryStore
from spo.tiny.problems import load
from spo.tiny.reference import make_reference

pytestmark = pytest.mark.slow

STEPS = 12
SETTINGS = [
    "batch.num_trajectories=8",
    "batch.online_fraction=1.0",
    "optimizer.warmup_steps=2",
    "sampling.max_new_tokens=32",
    "values.num_samples=4",
    "weights.model_update_interval=2",
    "replay.max_staleness=4",
    "evaluation.num_samples=4",
    "evaluation.ks=[1, 2]",
    "evaluation.interval=6",
    "trainer.checkpoint_interval=3",
    f"trainer.total_steps={STEPS}",
    "network.stall_timeout_s=120",
]
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that name a reference that succeeds now and then, and a few problems."""
    folder = tmp_path_factory.mktemp("given")
    reference = make_reference(folder / "reference", seed=0)
    for split in ("train", "evaluation"):
        lines = [msgspec.json.encode(problem) for problem in load(split, 0)[:4]]
        (folder / f"{split}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return [
        f"model.path={reference}",
        f'problems.train=["jsonl:{folder / "train.jsonl"}"]',
        f'problems.evaluation=["jsonl:{folder / "evaluation.jsonl"}"]',
    ]


def _train(*arguments: str, num_ranks: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "spo.cli", "train", *arguments, "--nproc-per-node", str(num_ranks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def _processes(run_dir: Path, module: str = "") -> list[int]:
    """Processes of the run, by what their command lines name."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if entry.name.isdigit() and str(run_dir) in command and f"-m {module}" in command:
            found.append(int(entry.name))
    return found


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _wait_for_step(run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not any(line.get("step", 0) >= step for line in _lines(run_dir / "consumption.jsonl")):  # type: ignore[operator]
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.05)


def _wait_until_gone(run_dir: Path) -> None:
    deadline = time.monotonic() + 60
    while left := _processes(run_dir):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.1)


def _check_finished_run(run_dir: Path) -> None:
    report = json.loads((run_dir / "report.json").read_text())
    for name in ("reference", "final"):
        low, high = report[name]["pass_at_1_interval"]
        assert 0 <= low <= report[name]["pass_at_1"] <= high <= 1
    assert report["wall_time_s"] > 0
    assert (run_dir / "report.md").read_text().startswith("# Run")
    assert {plot.suffix for plot in (run_dir / "plots").iterdir()} == {".png"}
    with TrajectoryStore.open(run_dir / "store", "r", read_model(run_dir).tokenizer_fingerprint) as store:
        online = [store[index] for index in store.scan(source="online")]
    assert len(online) >= 8
    assert len({trajectory.seed for trajectory in online}) == len(online), "a rollout was repeated"


def _check_replay(run_dir: Path, *overrides: str, num_ranks: int = 1) -> Path:
    """Replays a run and checks that everything came out the same, bit for bit, with nothing sampled."""
    replay_dir = run_dir.with_name("replay")
    output = _finished(_train("--replay", str(run_dir), f"run_dir={replay_dir}", *overrides, num_ranks=num_ranks))
    assert "are the same, bit for bit. The final policy is the same, bit for bit" in output
    told = json.loads((replay_dir / "report.json").read_text())
    assert told["replay"] == {
        "of": str(run_dir),
        "steps_compared": STEPS,
        "first_step_with_other_losses": None,
        "same_policy": True,
    }
    assert told["trajectories"] == {"reference": 0, "evaluation": 0, "online": 0}
    assert not list((replay_dir / "logs").glob("worker*"))
    policies = [(folder / "policy" / "model.safetensors").read_bytes() for folder in (run_dir, replay_dir)]
    assert policies[0] == policies[1]
    return replay_dir


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_trains_publishes_evaluates_and_reports(num_ranks: int, given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    _finished(_train("tiny", *given, *SETTINGS, f"run_dir={run_dir}", num_ranks=num_ranks))
    _wait_until_gone(run_dir)
    _check_finished_run(run_dir)
    assert [line["step"] for line in _lines(run_dir / "consumption.jsonl")] == list(range(1, STEPS + 1))

    reference = Path(read_model(run_dir).path)
    before, after = (load_file(folder / "model.safetensors") for folder in (reference, run_dir / "policy"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    AutoModelForCausalLM.from_pretrained(run_dir / "policy")
    assert AutoTokenizer.from_pretrained(run_dir / "policy").eos_token is not None

    with TrajectoryStore.open(run_dir / "store", "r", read_model(run_dir).tokenizer_fingerprint) as store:
        versions = {store[index].max_policy_version for index in store.scan(source="online")}
    assert len(versions) > 1, "workers never applied a published version"

    _check_replay(run_dir, num_ranks=num_ranks)


def test_a_killed_worker_costs_a_retry_and_not_the_run(given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = _train("tiny", *given, *SETTINGS, f"run_dir={run_dir}")
    _wait_for_step(run_dir, 3)
    (worker,) = _processes(run_dir, "spo.rollout")
    os.kill(worker, signal.SIGKILL)
    _finished(process)
    _check_finished_run(run_dir)
    assert json.loads((run_dir / "report.json").read_text())["restarts"]["workers"] == 1


@pytest.mark.parametrize("victim", ["spo.orchestrator", "spo.train"])
def test_a_killed_run_is_over_at_once_and_continues_where_it_was(victim: str, given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = _train("tiny", *given, *SETTINGS, f"run_dir={run_dir}")
    _wait_for_step(run_dir, random.Random(victim).randrange(4, 9))
    for pid in _processes(run_dir, victim):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    _wait_until_gone(run_dir)

    _finished(_train("--resume", str(run_dir)))
    _check_finished_run(run_dir)
    # Steps after the checkpoint were repeated as they were, so no line of the log was undone or written twice.
    assert [line["step"] for line in _lines(run_dir / "consumption.jsonl")] == list(range(1, STEPS + 1))
    _check_replay(run_dir)


def test_a_finished_run_is_shown_again_and_an_existing_one_is_refused(given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    _finished(_train("tiny", *given, *SETTINGS, "trainer.total_steps=2", f"run_dir={run_dir}"))
    assert "pass@1" in _finished(_train("--resume", str(run_dir)))
    refused = _train("tiny", *given, *SETTINGS, f"run_dir={run_dir}")
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "exists already" in output
