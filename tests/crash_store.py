"""Kills writers of a trajectory store at random moments, again and again, and checks that nothing is lost.

    python tests/crash_store.py --kills 1000 --seed 7

Three writers append, annotate, delete and compact without a pause, each operation acknowledged through a pipe once it
is durable; two readers watch. One writer after another is killed (SIGKILL) at a random moment and succeeded by a new
one. What a killed writer did is a function of its number alone, so afterwards the store must hold exactly what its
acknowledged operations left, or those and the one that it was at.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spo.store import StoreError, Trajectory, TrajectoryStore

WRITERS, READERS = 3, 2
CHECK_EVERY = 50
SEGMENT_BYTES = 40_000
LEARNED_FROM = 1 << 16
"""Tokens of the first record of every fourth writer: it codes what comes after by tables."""

Model = dict[int, float | None]
"""Seeds of a writer's records, with the logprob that they were annotated with."""


def record(writer: int, seed: int) -> Trajectory:
    """The record with this number of this writer."""
    rng = random.Random(writer * 1_000_003 + seed)
    prompt = range(rng.randrange(3) * 100, 200 + rng.randrange(2))
    learns = writer % 4 == 0
    response = [rng.randrange(300 if learns else 50_000) for _ in range(rng.randrange(1, 120))]
    if learns and seed == 0:
        response = [7919 * place % 300 for place in range(LEARNED_FROM)]
    logprobs = [-(token % 10) / 8 for token in response]
    return Trajectory("p", prompt, response, -1.0, "wrong_answer", f"writer-{writer}", logprobs, seed=seed)


def operations(writer: int) -> Iterator[tuple[str, int, float]]:
    """What a writer does, without end: (append, first seed, count), (annotate, seed, value), (delete, seed, 0)."""
    rng = random.Random(writer)
    seeds: list[int] = []
    following = 0
    while True:
        kind = rng.choices(["append", "annotate", "delete", "compact"], [6, 3, 1, 0.2])[0]
        if kind == "append" or len(seeds) < 4:
            count = rng.randrange(1, 5)
            seeds += range(following, following + count)
            yield "append", following, count
            following += count
        elif kind == "annotate":
            yield "annotate", rng.choice(seeds), -rng.random()
        elif kind == "delete":
            yield "delete", seeds.pop(rng.randrange(len(seeds))), 0
        else:
            yield "compact", 0, 0


def write(path: Path, writer: int, acknowledge: int) -> None:
    """A writer's life."""
    store = TrajectoryStore.open(path, tokenizer="tests", segment_bytes=SEGMENT_BYTES)
    ids: dict[int, int] = {}
    for kind, seed, value in operations(writer):
        if kind == "append":
            seeds = range(seed, seed + int(value))
            ids.update(zip(seeds, store.append([record(writer, one) for one in seeds]), strict=True))
        elif kind == "annotate":
            tokens = len(record(writer, seed).response_tokens)
            store.annotate([ids[seed]], reference_logprobs=[[value] * tokens])
        elif kind == "delete":
            store.delete([ids[seed]])
        else:
            try:
                store.compact()
            except StoreError as error:
                if "another process" not in str(error):
                    raise
        store.commit()
        new = {one: ids[one] for one in range(seed, seed + int(value))} if kind == "append" else {}
        os.write(acknowledge, json.dumps(new).encode() + b"\n")


def read(path: Path) -> None:
    """A reader's life: what it sees must be whole."""
    store = TrajectoryStore.open(path, "r")
    rng = random.Random(0)
    while True:
        ids = store.scan()
        for record_id in rng.sample(ids, min(8, len(ids))):
            try:
                seen = store[record_id]
            except StoreError as error:
                if "no record" in str(error):
                    continue  # Deleted since.
                raise
            expected = record(int(seen.source.removeprefix("writer-")), seen.seed)
            assert seen.content_hash == expected.content_hash, (record_id, seen, expected)


@dataclass
class Writer:
    """A writer that lives or lived."""

    number: int
    pid: int
    pipe: int
    acknowledged: int = 0
    ids: dict[int, int] = field(default_factory=dict)
    unfinished: bytes = b""

    def drain(self) -> None:
        """Takes in what it has acknowledged."""
        while select.select([self.pipe], [], [], 0)[0]:
            data = os.read(self.pipe, 1 << 16)
            if not data:
                return
            *lines, self.unfinished = (self.unfinished + data).split(b"\n")
            for line in lines:
                self.acknowledged += 1
                self.ids.update({int(seed): record_id for seed, record_id in json.loads(line).items()})

    def kill(self) -> None:
        """Kills it; it must not have died before."""
        os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        self.drain()
        os.close(self.pipe)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"writer {self.number} died by itself: status {status}")

    def models(self) -> list[Model]:
        """What it may have left: after the acknowledged operations, and after one more."""
        models: list[Model] = []
        model: Model = {}
        for done, (kind, seed, value) in enumerate(operations(self.number)):
            if done >= self.acknowledged:
                models.append(dict(model))
                if done > self.acknowledged:
                    return models
            if kind == "append":
                model.update(dict.fromkeys(range(seed, seed + int(value))))
            elif kind == "annotate":
                model[seed] = value
            elif kind == "delete":
                del model[seed]
        return models


def spawn(work: Any, *arguments: Any) -> int:
    """Forks a process that does this; it says why it failed."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        except BaseException as error:
            os.write(2, f"{work.__name__}{arguments}: {error!r}\n".encode())
        finally:
            os._exit(1)
    return pid


def check(path: Path, writers: list[Writer]) -> int:
    """Compares what dead writers left with what they may have left; returns how many records the store has."""
    store = TrajectoryStore.open(path, "r")
    for writer in writers:
        ids = store.scan(source=f"writer-{writer.number}")
        records = store.read_many(ids)
        found: Model = {}
        for record_id, seen in zip(ids, records, strict=True):
            assert seen.seed not in found, f"record {seen.seed} of writer {writer.number} is there twice"
            assert seen.content_hash == record(writer.number, seen.seed).content_hash
            assert writer.ids.get(seen.seed, record_id) == record_id, "an id has changed"
            logprobs = seen.reference_logprobs
            found[seen.seed] = None if logprobs is None else float(logprobs[0])
        models = [{seed: _single(value) for seed, value in model.items()} for model in writer.models()]
        assert found in models, f"writer {writer.number}, {writer.acknowledged} acknowledged: {found} not in {models}"
    assert not store.info()["missing_segments"], store.info()
    return len(store)


def _single(value: float | None) -> float | None:
    return None if value is None else float(np.float32(value))


def main() -> None:
    """Runs the harness; ends with a failure or one line of what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        TrajectoryStore.open(path, tokenizer="tests").close()
        readers = [spawn(read, path) for _ in range(READERS)]
        living: list[Writer] = []
        dead: list[Writer] = []
        number = options.seed * 1_000_000

        def more() -> None:
            nonlocal number
            receive, acknowledge = os.pipe()
            number += 1
            living.append(Writer(number, spawn(write, path, number, acknowledge), receive))
            os.close(acknowledge)

        try:
            for _ in range(WRITERS):
                more()
            for kill in range(options.kills):
                # From within its opening to well into its work.
                time.sleep(rng.expovariate(1 / rng.choice([0.005, 0.05, 0.1])))
                victim = living.pop(rng.randrange(WRITERS))
                victim.kill()
                dead.append(victim)
                more()
                for writer in living:
                    writer.drain()
                if (kill + 1) % CHECK_EVERY == 0:
                    check(path, dead[-CHECK_EVERY:])
            while living:
                living[0].kill()
                dead.append(living.pop(0))
            records = check(path, dead)
        finally:
            for pid in readers + [writer.pid for writer in living]:
                os.kill(pid, signal.SIGKILL)
        failed = [pid for pid in readers if not os.WIFSIGNALED(os.waitpid(pid, 0)[1])]
        assert not failed, "a reader failed"
        with TrajectoryStore.open(path) as store:
            store.compact()
            assert len(store) == records
        check(path, dead)
        done = sum(writer.acknowledged for writer in dead)
        idle = sum(writer.acknowledged == 0 for writer in dead)
    print(
        f"{len(dead)} writers killed ({idle} before their first acknowledgement), {done} operations acknowledged, "
        f"{records} records kept, nothing lost, nothing twice; {time.monotonic() - start:.0f} s, seed {options.seed}"
    )


if __name__ == "__main__":
    sys.exit(main())
