"""The trajectory store beside what else could hold trajectories: speed and size, in one run.

    python -m venv peers && peers/bin/pip install -r benches/peers/store_requirements.txt
    PYTHONPATH=python peers/bin/python benches/peers/store.py --records 8000 --rounds 3

Every store gets the same arrays (`store_data.py`). A peer's record is their bytes one after another, with the
Monte-Carlo targets as a dense column; reading gives the arrays back. Rounds are interleaved, the best of each figure
counts; times are wall time, and CPU time of the process in brackets. Durable appends are of 8 records.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from store_columns import Lance, Ours, table
from store_data import Sample, make_samples
from store_records import ArrayRecord, Bagz, Lmdb, Rocks, pack

from spo.store import TrajectoryStore


def size_of(path: Path) -> int:
    """Bytes of a file or of a directory's files."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_blocks * 512 if "lmdb" in str(file) else file.stat().st_size for file in files)


PEERS: dict[str, Callable[[], Any]] = {
    "spo": Ours,
    "spo16": lambda: Ours("float16"),
    "bagz": Bagz,
    "array-record": ArrayRecord,
    "lmdb": Lmdb,
    "rocksdict": Rocks,
    "lance": Lance,
}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(store: Any, path: Path, samples: Sequence[Sample], places: Sequence[int]) -> dict[str, Any]:
    """One round of one store."""
    tokens = sum(sample.num_tokens for sample in samples)
    write = timed(lambda: store.write(path, samples))
    files = path if path.exists() else path.with_suffix(".bagz")
    size = size_of(files) / tokens
    store.open(path)
    result = {
        "write us": [time / len(samples) * 1e6 for time in write],
        "random us": [time / len(places) * 1e6 for time in timed(lambda: store.random(places))],
        "one by one us": [time / len(places) * 1e6 for time in timed(lambda: store.one_by_one(places))],
        "tokens us": [time / len(samples) * 1e6 for time in timed(store.sequential)],
        "B/token": size,
    }
    store.close()
    return result


def durable_appends(samples: Sequence[Sample], count: int, directory: Path) -> dict[str, list[float]]:
    """Milliseconds of `count` durable appends of 8 records: median and 99th percentile, interleaved."""
    import lance
    import lmdb

    ours = TrajectoryStore.open(directory / "spo", tokenizer="bench")
    env = lmdb.open(str(directory / "lmdb"), map_size=1 << 32)

    def lance_append(part: Sequence[Sample]) -> None:
        path = directory / "lance"
        lance.write_dataset(table(part), str(path), mode="append" if path.exists() else "create")

    def ours_append(part: Sequence[Sample]) -> None:
        ours.append([Ours.trajectory(sample) for sample in part])
        ours.commit()

    def lmdb_append(part: Sequence[Sample]) -> None:
        with env.begin(write=True) as transaction:
            for sample in part:
                transaction.put(random.randbytes(8), pack(sample))

    kinds: dict[str, Callable[[Sequence[Sample]], None]] = {
        "spo": ours_append,
        "lance": lance_append,
        "lmdb": lmdb_append,
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(count):
        part = [samples[(8 * turn + at) % len(samples)] for at in range(8)]
        for name, append in kinds.items():
            times[name].append(1e3 * timed(lambda append=append, part=part: append(part))[0])
    return {name: [statistics.median(all_), float(np.percentile(all_, 99))] for name, all_ in times.items()}


def best(rounds: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The best of each figure."""
    first, *rest = rounds
    merged = dict(first)
    for other in rest:
        for key, value in other.items():
            merged[key] = [*map(min, merged[key], value)] if isinstance(value, list) else min(merged[key], value)
    return merged


def main() -> None:
    """Measures, prints a table, and JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=8000)
    parser.add_argument("--reads", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--appends", type=int, default=200)
    parser.add_argument("--stores", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--directory", help="where to write; a temporary one unless given")
    options = parser.parse_args()
    samples = list(make_samples(options.records))
    places = random.Random(1).sample(range(options.records), min(options.reads, options.records))
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.stores}
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for _ in range(options.rounds):
            for name in options.stores:
                path = Path(directory) / name
                rounds[name].append(measure(PEERS[name](), path, samples, places))
                shutil.rmtree(path, ignore_errors=True)
                for file in (path, path.with_suffix(".bagz")):
                    file.unlink(missing_ok=True)
        results = {name: best(all_) for name, all_ in rounds.items()}
        print(f"{len(samples)} trajectories, {sum(sample.num_tokens for sample in samples)} tokens")
        keys = ["write us", "random us", "one by one us", "tokens us", "B/token"]
        print(f"{'':14}" + "".join(f"{key:>18}" for key in keys))
        for name, result in results.items():
            cells = [
                f"{value:.3f}" if isinstance(value, float) else f"{value[0]:.1f} ({value[1]:.1f})"
                for value in map(result.__getitem__, keys)
            ]
            print(f"{name:14}" + "".join(f"{cell:>18}" for cell in cells))
        if options.appends:
            durable = durable_appends(samples, options.appends, Path(directory))
            for name, (median, worst) in durable.items():
                print(f"durable append of 8, {name}: median {median:.2f} ms, p99 {worst:.2f} ms")
            results["durable ms"] = durable
    json.dump(results, sys.stdout)
    print()


if __name__ == "__main__":
    main()
