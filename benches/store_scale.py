"""How a store behaves when it is large: opening it, memory a record, memory over a long time of appending and sampling.

    PYTHONPATH=python python benches/store_scale.py open --records 1000000
    PYTHONPATH=python python benches/store_scale.py soak --minutes 5

`open` fills sealed segments with small records, then opens the store in fresh processes: seconds, and bytes of
resident memory a record. `soak` appends and reads without a pause and prints resident memory as it goes; what grows
must be the index, at 48 bytes a record, beside 8 for the list of ids here and 64 KiB a segment for the ranks of tokens.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import numpy as np

from spo.store import Trajectory, TrajectoryStore

BATCH = 10_000

OPEN = """
import sys, time
from pathlib import Path
from spo.store import TrajectoryStore
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
start, cpu = time.perf_counter(), time.process_time()
store = TrajectoryStore.open(sys.argv[1], "r")
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
print(wall, cpu, resident() - before, len(store))
"""


def resident() -> int:
    """Bytes of resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure_open(records: int) -> None:
    """Fills a store and opens it three times."""
    with tempfile.TemporaryDirectory() as directory:
        # A record of 1,200 tokens takes about 4.7 kB, one of these 0.1: as many a segment as 256 MiB of those are.
        with TrajectoryStore.open(directory, tokenizer="bench", segment_bytes=6 << 20) as store:
            for start in range(0, records, BATCH):
                numbers = range(start, min(records, start + BATCH))
                store.append(
                    [Trajectory(f"problem-{n // 64}", [1], [2], -1.0, "wrong", "online", seed=n) for n in numbers]
                )
            store.compact()
            segments = store.info()["sealed_segments"]
        for _ in range(3):
            done = subprocess.run([sys.executable, "-c", OPEN, directory], capture_output=True, text=True, check=True)
            wall, cpu, memory, found = map(float, done.stdout.split())
            assert found == records, done.stdout
            print(
                f"{records} records in {segments} sealed segments: opened in {wall:.3f} s ({cpu:.3f} s of CPU), "
                f"{memory / records:.1f} B of memory a record"
            )


def soak(minutes: float) -> None:
    """Appends, annotates and reads for so long."""
    rng, choice = np.random.default_rng(0), random.Random(0)
    responses = [rng.integers(0, 50_000, 900).astype(np.int32) for _ in range(256)]
    logprobs = -rng.random(900).astype(np.float32)
    with tempfile.TemporaryDirectory() as directory:
        store = TrajectoryStore.open(directory, tokenizer="bench", segment_bytes=32 << 20)
        ids = array("Q")
        start = shown = time.monotonic()
        while (now := time.monotonic()) - start < 60 * minutes:
            batch = [
                Trajectory(
                    f"p{len(ids) // 512}", responses[0][:200], choice.choice(responses), -1.0, "", "online", logprobs
                )
                for _ in range(64)
            ]
            ids.extend(store.append(batch))
            store.commit()
            store.read_many([ids[place] for place in choice.sample(range(len(ids)), 64)])
            if now - shown > 5 * minutes:
                shown = now
                print(f"{now - start:6.0f} s  {len(ids):8} records  {resident() / 2**20:7.1f} MiB resident", flush=True)


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["open", "soak"])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    measure_open(options.records) if options.what == "open" else soak(options.minutes)


if __name__ == "__main__":
    main()
