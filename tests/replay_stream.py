"""Draws batches in every mode of the replay buffer and prints a digest of each stream: what every machine must print.

    python replay_stream.py DIRECTORY [reload] [reopen] [pieces] [thread] [one-core]

`reload`: after every draw the buffer is thrown away and another one goes on from its state; `reopen`: with the store
closed and opened in between. `pieces`: trajectories are added a few at a time. `thread`: in a thread. `one-core`: with
one core, so that nothing is read in parallel.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Set
from pathlib import Path
from typing import Any

from spo.replay import Batch, ReplayBuffer
from spo.store import Trajectory, TrajectoryStore

MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "oldest": ({}, {}),
    "uniform": ({"order": "uniform"}, {}),
    "recent": ({"order": "recent", "half_life": 3.0}, {}),
    "priority": ({"order": "priority"}, {}),
    "computed": ({"pool_order": "computed"}, {}),
    "memory": ({"order": "uniform", "memory_bytes": 2000}, {}),
    "tokens": ({"order": "uniform"}, {"unit": "tokens"}),
    "groups": ({"order": "uniform"}, {"group_size": 3}),
}
DRAWS = 6


def record(number: int) -> Trajectory:
    """Any trajectory."""
    return Trajectory(
        problem_id=f"p{number % 7}",
        prompt_tokens=range(1, 2 + number % 3),
        response_tokens=range(number % 11),
        reward=-float(number % 2),
        verdict="accepted",
        source="online" if number % 2 else "pool",
        behavior_logprobs=[-token / 8 for token in range(number % 11)],
        min_policy_version=number // 10,
        max_policy_version=number // 10,
    )


def digest_of(batch: Batch) -> bytes:
    """A digest of all that a batch holds, but the ids, which name the store."""
    assert batch.behavior_logprobs is not None
    arrays = (
        batch.tokens, batch.position_ids, batch.segment_ids, batch.response_mask, batch.behavior_logprobs, batch.rows,
        batch.starts, batch.rewards, batch.uses, batch.min_policy_versions,
    )  # fmt: skip
    texts = json.dumps([batch.sources, batch.problem_ids]).encode()
    return hashlib.blake2b(b"".join([array.tobytes() for array in arrays]) + texts).digest()


def stream(path: Path, ids: list[int], mode: str, how: Set[str]) -> str:
    """Digest of the batches of a mode."""
    options, request = MODES[mode]
    bounds = {"capacity": 60, "max_uses": 2, "max_staleness": 30}
    store = TrajectoryStore.open(path, mode="r")
    buffer = ReplayBuffer(seed=11, store=store, **bounds, **options)
    at_once = 7 if "pieces" in how else len(ids)
    for first in range(0, len(ids), at_once):
        piece = ids[first : first + at_once]
        buffer.add([record(number) for number in range(first, first + len(piece))], piece)
    buffer.set_priorities(ids, [1.0 + number % 5 for number in range(len(ids))])
    digest = hashlib.blake2b(digest_size=8)
    for draw in range(DRAWS):
        batch = buffer.sample(9, 12 + draw, {"online": 2 / 3, "pool": 1 / 3}, token_budget=40, **request)
        digest.update(digest_of(batch))
        if "reload" in how:
            state = json.loads(json.dumps(buffer.state_dict()))
            buffer.close()
            if "reopen" in how:
                store.close()
                store = TrajectoryStore.open(path, mode="r")
            buffer = ReplayBuffer(seed=0, store=store, **bounds, **options)
            buffer.load_state_dict(state)
    store.close()
    return digest.hexdigest()


def main(directory: str, *how: str) -> None:
    """Prints a line a mode."""

    def draw_all() -> None:
        with TrajectoryStore.open(Path(directory), tokenizer="stream") as store:
            ids = store.append([record(number) for number in range(100)])
        for mode in MODES:
            print(mode, stream(Path(directory), ids, mode, set(how)))

    if "one-core" in how:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if "thread" in how:
        thread = threading.Thread(target=draw_all)
        thread.start()
        thread.join()
    else:
        draw_all()


if __name__ == "__main__":
    main(*sys.argv[1:])
