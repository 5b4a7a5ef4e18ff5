"""Drawing and packing batches, beside torchrl 0.14.1 and beside copying the same bytes.

    pip install torchrl==0.14.1 && python benches/peers/replay.py [--json]

4,096 trajectories of about 1,200 tokens, as uneven as responses are (log-normal, at most 4,096), with tokens, response
mask and log-probabilities; a batch is 128 of them. Ours is packed into rows of 4,096 tokens, with positions and
segments. torchrl gives what its memory-mapped storage holds, padded to the longest, uniformly and by priority; "packed"
is that and the same rows made of it, in numpy. Copying is measured twice: one batch again and again, which stays in
the processor's caches, and sixteen in turn, which do not, as the trajectories that a batch is made from do not. One
thread each, rounds interleaved in shuffled orders, medians over rounds of CPU time.

torchrl's prioritized buffer needs its compiled part, which is bound to one version of torch. Where it does not load,
that is said and the buffer left out; `g++ -O3 -std=c++20 -shared -fPIC -DTORCH_EXTENSION_NAME=_torchrl` with torch's
include and library folders makes it anew from the `torchrl/csrc/{pybind,utils}.cpp` that come with the package.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer

from spo.replay import ReplayBuffer
from spo.store import Trajectory

COUNT, BATCH, TOKEN_BUDGET = 4096, 128, 4096
ROUNDS, CALLS, COLD_BATCHES = 15, 10, 16
FOR_EVER = 2**31
COLUMNS = ("rows", "starts", "rewards", "ids", "uses", "sources", "problem_ids")


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
    length = torch.tensor([prompt + response for prompt, response in shapes])
    scalars = {"reward": torch.zeros(COUNT), "td_error": torch.ones(COUNT), "length": length}
    fields = {"tokens": tokens, "response_mask": mask, "logprobs": logprobs, **scalars}
    buffer = kind(storage=LazyMemmapStorage(COUNT, scratch_dir=folder), batch_size=BATCH, **options)
    buffer.extend(TensorDict(fields, batch_size=[COUNT]))
    return buffer


def packed(sample: TensorDict) -> dict[str, NDArray[Any]]:
    """The rows that ours gives, made of a padded sample."""
    lengths = sample["length"].tolist()
    used: list[int] = []
    places = [(0, 0)] * len(lengths)
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        row = next((row for row, taken in enumerate(used) if TOKEN_BUDGET - taken >= lengths[at]), len(used))
        if row == len(used):
            used.append(0)
        places[at] = (row, used[row])
        used[row] += lengths[at]
    shape = (len(used), TOKEN_BUDGET)
    rows = {name: np.zeros(shape, sample[name].numpy().dtype) for name in ("tokens", "response_mask", "logprobs")}
    positions, segments = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    counting = np.arange(TOKEN_BUDGET, dtype=np.int32)
    padded = {name: sample[name].numpy() for name in rows}
    for at, ((row, start), length) in enumerate(zip(places, lengths, strict=True)):
        for name, array in rows.items():
            array[row, start : start + length] = padded[name][at, :length]
        positions[row, start : start + length] = counting[:length]
        segments[row, start : start + length] = at
    return {**rows, "position_ids": positions, "segment_ids": segments}


def our_calls(shapes: list[tuple[int, int]]) -> dict[str, Callable[[], object]]:
    """What is measured of ours, and copying what it gives."""
    uniform, by_priority, one = ours(shapes, "uniform"), ours(shapes, "priority"), ours([(1, 1)], "uniform")
    batches = []
    for _ in range(COLD_BATCHES):
        batch = uniform.sample(BATCH, 0, token_budget=TOKEN_BUDGET)
        assert batch.behavior_logprobs is not None
        arrays = (batch.tokens, batch.position_ids, batch.segment_ids, batch.response_mask, batch.behavior_logprobs)
        batches.append(arrays)
    turn = itertools.cycle(batches)

    def with_columns() -> list[object]:
        batch = uniform.sample(BATCH, 0, token_budget=TOKEN_BUDGET)
        return [getattr(batch, name) for name in COLUMNS]

    return {
        "spo, uniform": lambda: uniform.sample(BATCH, 0, token_budget=TOKEN_BUDGET),
        "spo, uniform, ids and names asked for": with_columns,
        "spo, priority": lambda: by_priority.sample(BATCH, 0, token_budget=TOKEN_BUDGET),
        "copy of the same bytes, in caches": lambda: [array.copy() for array in batches[0]],
        "copy of the same bytes, not in caches": lambda: [array.copy() for array in next(turn)],
        # All that holds the GIL is in this, too: arguments, and handing over arrays.
        "spo, one of two tokens, of one": lambda: one.sample(1, 0, token_budget=2),
    }


def their_calls(shapes: list[tuple[int, int]], folder: str) -> dict[str, Callable[[], object]]:
    """What is measured of torchrl."""
    memmap = theirs(shapes, TensorDictReplayBuffer, f"{folder}/uniform")
    calls: dict[str, Callable[[], object]] = {
        "torchrl, memmap, padded": memmap.sample,
        "torchrl, memmap, packed": lambda: packed(memmap.sample()),
    }
    try:
        prioritized = theirs(shapes, TensorDictPrioritizedReplayBuffer, f"{folder}/priority", alpha=0.6, beta=0.4)
    except RuntimeError as error:
        print(f"torchrl's prioritized buffer is not measured, with torch {torch.__version__}: {error}", file=sys.stderr)
        return calls
    return {
        **calls,
        "torchrl, memmap, prioritized, padded": prioritized.sample,
        "torchrl, memmap, prioritized, packed": lambda: packed(prioritized.sample()),
    }


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of CPU a call, of every round, by name."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(ROUNDS + 1):
        # In another order each time: what comes after torchrl finds little in the processor's caches.
        for name, call in random.Random(round_number).sample([*calls.items()], len(calls)):
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
    shapes = lengths()
    with tempfile.TemporaryDirectory() as folder:
        times = measure({**our_calls(shapes), **their_calls(shapes, folder)})
    medians = {name: statistics.median(values) for name, values in times.items()}
    if options.json:
        print(json.dumps({"median_ms": medians, "all_ms": times}))
        return
    print("| what | CPU ms a batch, median (least to most) | × spo, uniform |\n| --- | --- | --- |")
    for name, values in times.items():
        ratio = medians[name] / medians["spo, uniform"]
        print(f"| {name} | {medians[name]:.3f} ({min(values):.3f} to {max(values):.3f}) | {ratio:.2f} |")
    held = medians["spo, one of two tokens, of one"] / medians["spo, uniform"]
    print(f"\nThe GIL is held for less than {held:.1%} of a call.")


if __name__ == "__main__":
    main()
