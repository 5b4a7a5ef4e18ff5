"""How long the same training takes with new weights every step or every tenth, and when sampling waits for training.

    python benches/wall_clock.py [--preset tiny] [--steps 40] [--rounds 2] [setting=value …]

Three arms take turns, with the same steps, trajectories, seed and reference values, every trajectory used once:

- `synchronous`: each batch is sampled with the weights that it changes (`replay.max_staleness=0`), so sampler and
  trainer take turns;
- `interval 1`, `interval 10`: versions are published every step or every tenth, sampling goes on meanwhile, up to four
  steps further ahead than the interval makes it: without a bound all would be sampled before much was trained.

Prints, for each arm, the medians over the rounds of the seconds between two steps and of where they go, and the
ratios. The first steps, when the pipeline fills, are left out. The reference is made and its samples are drawn before
the first round.
For SmolLM2-135M with vLLM, in an environment with both:

    python benches/wall_clock.py --preset smollm2-135m --steps 24 --skip 4 --rounds 1 workers.engine=vllm \
        model.path=FOLDER problems.train='["builtin:easy"]' problems.evaluation='["builtin:clock"]' \
        values.num_samples=2 batch.num_trajectories=2 sampling.samples_per_problem=2 sampling.max_new_tokens=64
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median

STEPS_AHEAD = 4

PARTS = {
    "time/between_steps_s": "from step to step",
    "time/step_s": "forward, backward, update",
    "time/batch_wait_s": "waiting for a batch",
    "time/publish_s": "publishing",
    "time/sampling_s": "the engine's sampling, beside the above",
    "staleness/mean": "staleness, in steps",
}


def main() -> None:
    """Runs the arms in turns and prints."""
    arguments = parse_arguments()
    arms = {
        "synchronous": ["weights.model_update_interval=1", "replay.max_staleness=0"],
        "interval 1": ["weights.model_update_interval=1", f"replay.max_staleness={1 + STEPS_AHEAD}"],
        f"interval {arguments.interval}": [
            f"weights.model_update_interval={arguments.interval}",
            f"replay.max_staleness={arguments.interval + STEPS_AHEAD}",
        ],
    }  # fmt: skip
    taken: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        train(arguments, Path(folder), "first", ["trainer.total_steps=1"])
        for round_number in range(arguments.rounds):
            for arm, settings in arms.items():
                run = train(arguments, Path(folder), f"{arm}-{round_number}".replace(" ", "-"), settings)
                taken[arm].append(summary(run, arguments.skip))
    medians = {arm: {part: median(run[part] for run in runs) for part in runs[0]} for arm, runs in taken.items()}
    for arm, parts in medians.items():
        print(f"\n{arm}")
        for part, value in parts.items():
            print(f"  {PARTS[part]:42} {value:.3f}")
    seconds = [parts["time/between_steps_s"] for parts in medians.values()]
    print(f"\nsynchronous / interval 1: {seconds[0] / seconds[1]:.2f}")
    print(f"interval 1 / interval {arguments.interval}: {seconds[1] / seconds[2]:.2f}")
    print(json.dumps(taken))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--skip", type=int, default=10, help="first steps that are left out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--interval", type=int, default=10, help="steps between versions in the last arm")
    parser.add_argument("settings", nargs="*", help="further settings of every run")
    return parser.parse_args()


def train(arguments: argparse.Namespace, folder: Path, name: str, settings: list[str]) -> Path:
    """One run; returns its directory. All share the reference values, and the tiny preset its reference."""
    run = folder / name
    common = [
        f"run_dir={run}", f"values.directory={folder / 'values'}", f"trainer.total_steps={arguments.steps}",
        "batch.online_fraction=1", "replay.max_uses=1", "evaluation.interval=0", "evaluation.num_samples=1",
        "evaluation.ks=[1]",
    ]  # fmt: skip
    if arguments.preset == "tiny":
        common += ["values.num_samples=4"]
        if name != "first":
            common += [f"model.path={folder / 'first' / 'reference'}"]
    started = time.monotonic()
    command = [sys.executable, "-m", "spo.train", arguments.preset, *common, *settings, *arguments.settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    print(f"{name}: {time.monotonic() - started:.0f} s in all", flush=True)
    return run


def summary(run: Path, skip: int) -> dict[str, float]:
    """Means over the steps of a run, from its journal. Sampling runs ahead: it is spread over all steps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "time/step_s" in line]
    sampling = sum(line.get("time/sampling_s", 0.0) for line in lines if line["phase"] == "training") / len(steps)
    means = {part: fmean(line.get(part, 0.0) for line in steps[skip:]) for part in PARTS}
    return means | {"time/sampling_s": sampling}


if __name__ == "__main__":
    main()
