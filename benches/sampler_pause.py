"""How long vLLM's engine stands still for a new policy version, beside one of its steps.

    python benches/sampler_pause.py --model MODEL_FOLDER --cache FOLDER [--rows 8] [--versions 12]

In an environment with vLLM. While rows are sampled, versions come one after the other: the states before and after a
real AdamW step (`peers/weights_data.py`), in turns, so each changes what a step changes. A version is staged in a
thread beside the engine's, as rollout workers do it, and then put in place between two steps. Prints medians for each
learning rate: a step of the engine alone and while a version is staged, staging, and putting in place: the pause.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import weights_data

from spo.config import Config, VllmConfig, WorkersConfig
from spo.rollout.engine import Request
from spo.rollout.vllm import StagedVersion, VllmSampler
from spo.rollout.vllm_loading import load_sampler
from spo.weights import Snapshot

PROMPT_TOKENS = 64
NEW_TOKENS = 512
STEPS_ALONE = 20
"""Steps between two versions."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal language model")
    parser.add_argument("--cache", type=Path, default=Path("weights-states"), help="where real states are kept")
    parser.add_argument("--rows", type=int, default=8, help="responses sampled at once")
    parser.add_argument("--versions", type=int, default=12, help="versions of each learning rate")
    arguments = parser.parse_args()
    config = Config(
        workers=WorkersConfig(engine="vllm", max_batch_size=arguments.rows, dtype="float32"),
        vllm=VllmConfig(max_model_len=PROMPT_TOKENS + NEW_TOKENS),
    )
    sampler = load_sampler(config, str(arguments.model), end_tokens=[])
    sampler.add([request(key) for key in range(arguments.rows)])
    policy = AutoModelForCausalLM.from_pretrained(arguments.model)
    shapes = {name: tuple(parameter.shape) for name, parameter in policy.named_parameters()}
    del policy
    version = 0
    for rate in (6e-8, 1e-6, 1e-5):
        states = weights_data.real(arguments.model, rate, arguments.cache)
        alone, beside, staging, pauses = [], [], [], []
        for number in range(arguments.versions + 1):
            alone += [timed_step(sampler) for _ in range(STEPS_ALONE)]
            version += 1
            snapshot = snapshot_of(shapes, version, states.new if number % 2 else states.old)
            staged, during, staging_s = stage(sampler, snapshot)
            started = time.monotonic()
            sampler.switch(staged)
            if number:  # the first changes more
                pauses.append(time.monotonic() - started)
                staging.append(staging_s)
                beside += during
        assert sampler.policy_version == version
        share = np.count_nonzero(states.old != states.new) / len(states.old)
        print(f"{states.name}, {100 * share:.3f} % changed, {arguments.rows} rows, milliseconds")
        print(f"  a step, alone and beside staging  {1e3 * median(alone):.1f}  {1e3 * median(beside):.1f}")
        print(f"  staging                           {1e3 * median(staging):.1f}")
        print(f"  the pause: median, longest        {1e3 * median(pauses):.1f}  {1e3 * max(pauses):.1f}")
        print(f"  of a step                         {median(pauses) / median(alone):.2f}", flush=True)


def stage(sampler: VllmSampler, snapshot: Snapshot) -> tuple[StagedVersion, list[float], float]:
    """Stages a version while the engine goes on; also the seconds of each step meanwhile, and of staging."""
    staged: list[StagedVersion] = []
    started = time.monotonic()
    thread = threading.Thread(target=lambda: staged.append(sampler.stage(snapshot)))
    thread.start()
    steps = []
    while thread.is_alive():
        steps.append(timed_step(sampler))
    return staged[0], steps, time.monotonic() - started


def request(key: int) -> tuple[int, Request]:
    """A response to sample under this key."""
    prompt = np.random.default_rng(key).integers(100, 1000, PROMPT_TOKENS).tolist()
    return key, Request(tuple(prompt), temperature=1.0, top_p=1.0, seed=key, max_new_tokens=NEW_TOKENS)


def timed_step(sampler: VllmSampler) -> float:
    """Seconds of a step of the engine. What is finished is followed by others."""
    started = time.monotonic()
    finished = sampler.step()
    taken = time.monotonic() - started
    sampler.add([request(key + sampler.max_batch_size) for key, _ in finished])
    return taken


def snapshot_of(shapes: dict[str, tuple[int, ...]], version: int, state: NDArray[np.uint16]) -> Snapshot:
    """A version of this flat state."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(state, ends[:-1])
    return Snapshot(version, {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)})


if __name__ == "__main__":
    main()
