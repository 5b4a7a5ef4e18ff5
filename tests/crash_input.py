"""What the runs of `crash_run.py` are started with: settings, a model, problems, and the processes' environment."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from run_peers import write_problems

from spo.tiny.problems import load

STEPS = 16
SETTINGS = [
    "batch.num_trajectories=8",
    "batch.online_fraction=0.75",
    "optimizer.warmup_steps=2",
    "sampling.max_new_tokens=32",
    "sampling.samples_per_problem=2",
    "values.num_samples=8",
    "weights.model_update_interval=2",
    "replay.max_staleness=4",
    "replay.max_uses=2",
    "evaluation.num_samples=2",
    "evaluation.ks=[1]",
    "evaluation.interval=6",
    "trainer.checkpoint_interval=3",
    f"trainer.total_steps={STEPS}",
    "network.stall_timeout_s=300",
    "workers.max_restarts=100",
]
LIGHT = [
    "workers.engine=fake",
    "batch.token_budget=2048",
    "sampling.max_new_tokens=64",
    "judge.num_workers=1",
]


def make_input(folder: Path, reference: Path | None, is_light: bool) -> list[str]:
    """Settings that name a model and a few problems.

    Args:
        folder: Where they are put.
        reference: A `tiny` reference, which succeeds now and then; made if it is not given, unless the run is light.
        is_light: Whether it is.
    """
    if is_light:
        reference = folder / "reference"
        reference.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (reference / name).write_text("{}")
    elif reference is None:
        from spo.tiny.reference import make_reference  # Brings in torch.

        reference = make_reference(folder / "reference", seed=0)
    for split in ("train", "evaluation"):
        if is_light:
            write_problems(folder / f"{split}.jsonl", split, 4)
        else:
            lines = [msgspec.json.encode(problem) for problem in load(split, 0)[:4]]
            (folder / f"{split}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return [
        f"model.path={reference}",
        f'problems.train=["jsonl:{folder / "train.jsonl"}"]',
        f'problems.evaluation=["jsonl:{folder / "evaluation.jsonl"}"]',
        *SETTINGS,
        *(LIGHT if is_light else []),
    ]


def environment(folder: Path, is_light: bool) -> dict[str, str]:
    """Of a run's processes."""
    if not is_light:
        return dict(os.environ)
    light = Path(__file__).with_name("light")
    path = os.pathsep.join([str(light), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    return {**os.environ, "PYTHONPATH": path, "SPO_LIGHT": str(folder)}
