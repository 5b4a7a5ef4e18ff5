"""Drawing batches from a replay buffer, beside torchrl 0.14.1 and beside copying the same bytes.

    pip install torchrl==0.14.1 && python benches/peers/replay.py [--json]

4,096 trajectories of about 1,200 tokens, as uneven as responses are (log-normal, at most 4,096), with tokens, response
mask and log-probabilities; a batch is 128 of them. Ours is packed into rows of 4,096 tokens, with positions and
segments. torchrl gives what it holds, padded to the longest, from its memory-mapped storage, uniformly and by priority
(left out, with the reason, where its compiled part does not load with the torch that is there). One thread each, rounds
interleaved, medians over rounds of CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer

from spo.replay import ReplayBuffer
from spo.store import Trajectory

COUNT, BATCH, TOKEN_BUDGET = 4096, 128, 4096
ROUNDS, CALLS = 15, 10
FOR_EVER = 2**31


def lengths() -> list[tuple[int, int]]:
    """Prompt and response tokens of each trajectory."""
    generator = np.random.default_rng(0)
    prompts = generator.integers(150, 350, COUNT)
    responses = np.minimum(generator.lognormal(6.65, 0.6, COUNT).astype(int) + 1, TOKEN_BUDGET - prompts)
    return list(zip(prompts.tolist(), responses.tolist(), strict=True))


def ours(shapes: list[tuple[int, int]], order: str) -> ReplayBuffer:
    """Our buffer with trajectories of these shapes."""
    buffer = ReplayBuffer(COUNT, max_uses=FOR_EVER, max_staleness=FOR_EVER, seed=1, order=order)
    records = [
        Trajectory(f"problem-{at}", range(prompt), range(response), 0.0, "accepted", "online", np.zeros(response, "f4"))
        for at, (prompt, response) in enumerate(shapes)
    ]
    buffer.add(records, range(len(records)))
    if order == "priority":
        buffer.set_priorities(range(len(records)), [1.0 + at % 7 for at in range(len(records))])
    return buffer


def theirs(shapes: list[tuple[int, int]], kind: type, folder: str, **options: float) -> TensorDictReplayBuffer:
    """A buffer of torchrl with the same trajectories, padded."""
    longest = max(prompt + response for prompt, response in shapes)
    tokens = torch.zeros(COUNT, longest, dtype=torch.int32)
    logprobs = torch.zeros(COUNT, longest)
    mask = torch.zeros(COUNT, longest, dtype=torch.bool)
    for at, (prompt, response) in enumerate(shapes):
        tokens[at, :prompt] = torch.arange(prompt)
        tokens[at, prompt : prompt + response] = torch.arange(response)
        mask[at, prompt : prompt + response] = True
    scalars = {"reward": torch.zeros(COUNT), "td_error": torch.ones(COUNT)}
    fields = {"tokens": tokens, "response_mask": mask, "logprobs": logprobs, **scalars}
    buffer = kind(storage=LazyMemmapStorage(COUNT, scratch_dir=folder), batch_size=BATCH, **options)
    buffer.extend(TensorDict(fields, batch_size=[COUNT]))
    return buffer


def contenders(folder: str) -> dict[str, Callable[[], object]]:
    """What is measured, by name: each call draws a batch, or copies one."""
    shapes = lengths()
    uniform, by_priority = ours(shapes, "uniform"), ours(shapes, "priority")
    short = ours([(1, 1)] * BATCH, "uniform")
    one = uniform.sample(BATCH, 0, token_budget=TOKEN_BUDGET)
    arrays = (one.tokens, one.position_ids, one.segment_ids, one.response_mask, one.behavior_logprobs)
    assert one.behavior_logprobs is not None
    memmap = theirs(shapes, TensorDictReplayBuffer, f"{folder}/uniform")
    calls: dict[str, Callable[[], object]] = {
        "spo, uniform": lambda: uniform.sample(BATCH, 0, token_budget=TOKEN_BUDGET),
        "spo, priority": lambda: by_priority.sample(BATCH, 0, token_budget=TOKEN_BUDGET),
        "copy of the same bytes": lambda: [array.copy() for array in arrays],
        "torchrl, memmap": memmap.sample,
        # All that holds the GIL is in this, too: arguments, handing over arrays, names.
        "spo, 128 of two tokens, of 128": lambda: short.sample(BATCH, 0, token_budget=TOKEN_BUDGET),
    }
    try:
        prioritized = theirs(shapes, TensorDictPrioritizedReplayBuffer, f"{folder}/priority", alpha=0.6, beta=0.4)
        calls["torchrl, memmap, prioritized"] = prioritized.sample
    except RuntimeError as error:
        print(f"torchrl's prioritized buffer is not measured, with torch {torch.__version__}: {error}", file=sys.stderr)
    return calls


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of CPU a call, of every round, by name."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(ROUNDS + 1):
        for name, call in calls.items():
            started = time.thread_time()
            for _ in range(CALLS):
                call()
            if round_number > 0:  # The first one warms up.
                times[name].append((time.thread_time() - started) / CALLS * 1e3)
    return times


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(contenders(folder))
    medians = {name: statistics.median(values) for name, values in times.items()}
    if options.json:
        print(json.dumps({"median_ms": medians, "all_ms": times}))
        return
    print("| what | CPU ms a batch, median (least to most) | × spo, uniform |\n| --- | --- | --- |")
    for name, values in times.items():
        ratio = medians[name] / medians["spo, uniform"]
        print(f"| {name} | {medians[name]:.3f} ({min(values):.3f} to {max(values):.3f}) | {ratio:.2f} |")
    held = medians["spo, 128 of two tokens, of 128"] / medians["spo, uniform"]
    print(f"\nThe GIL is held for less than {held:.1%} of a call.")


if __name__ == "__main__":
    main()
