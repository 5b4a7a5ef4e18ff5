"""The trajectory store beside what else could hold trajectories: speed and size, in one run.

    python -m venv peers && peers/bin/pip install -r benches/peers/store_requirements.txt
    PYTHONPATH=python peers/bin/python benches/peers/store.py --records 8000 --rounds 3

Every store gets the same arrays (`store_data.py`). A peer's record is their bytes one after another, with the
Monte-Carlo targets as a dense column; reading gives the arrays back. Rounds are interleaved, the best of each figure
counts; times are wall time, and CPU time of the process in brackets. Durable appends are of 8 records.
"""

# ruff: noqa: D102 - every store has the same methods: write, open, random, one_by_one, sequential, close.

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from store_data import TRIALS, Sample, make_samples

from spo.store import Trajectory, TrajectoryStore

BATCH = 64
HEADER = struct.Struct("<IIdI32s")


def pack(sample: Sample) -> bytes:
    """A peer's record."""
    header = HEADER.pack(
        len(sample.prompt), len(sample.response), sample.reward, sample.version, sample.problem.encode()
    )
    columns = (sample.prompt, sample.response, sample.logprobs, sample.targets())
    return b"".join((header, *(column.tobytes() for column in columns)))


def unpack(data: bytes) -> tuple[Any, ...]:
    """The arrays of a peer's record; views, as whoever reads would have them."""
    prompt, response, *rest = HEADER.unpack_from(data)
    at = HEADER.size
    tokens = np.frombuffer(data, np.int32, prompt + response, at)
    at += 4 * (prompt + response)
    logprobs = np.frombuffer(data, np.float32, response, at)
    targets = np.frombuffer(data, np.float32, response, at + 4 * response)
    return tokens[:prompt], tokens[prompt:], logprobs, targets, rest


def size_of(path: Path) -> int:
    """Bytes of a file or of a directory's files."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_blocks * 512 if "lmdb" in str(file) else file.stat().st_size for file in files)


class Ours:
    """`spo.store`."""

    def __init__(self, logprobs: str = "float32") -> None:
        self.logprobs = logprobs
        self.name = f"spo {logprobs}"

    def write(self, path: Path, samples: Sequence[Sample]) -> None:
        with TrajectoryStore.open(path, tokenizer="bench", logprobs=self.logprobs) as store:  # type: ignore[arg-type]
            for start in range(0, len(samples), BATCH):
                store.append([self.trajectory(sample) for sample in samples[start : start + BATCH]])

    @staticmethod
    def trajectory(sample: Sample) -> Trajectory:
        trials = np.full(len(sample.positions), TRIALS, np.uint32)
        return Trajectory(
            sample.problem,
            sample.prompt,
            sample.response,
            sample.reward,
            "wrong_answer",
            "online",
            sample.logprobs,
            min_policy_version=sample.version,
            max_policy_version=sample.version,
            mc_successes=(sample.positions, sample.successes, trials),
        )

    def open(self, path: Path) -> None:
        self.store = TrajectoryStore.open(path, "r")
        self.ids = self.store.scan()

    def random(self, places: Sequence[int]) -> None:
        for start in range(0, len(places), BATCH):
            ids = [self.ids[place] for place in places[start : start + BATCH]]
            for record in self.store.read_many(ids):
                _ = (record.prompt_tokens, record.response_tokens, record.behavior_logprobs, record.mc_successes)

    def one_by_one(self, places: Sequence[int]) -> None:
        for place in places:
            record = self.store[self.ids[place]]
            _ = (record.prompt_tokens, record.response_tokens, record.behavior_logprobs, record.mc_successes)

    def sequential(self) -> None:
        for start in range(0, len(self.ids), 256):
            self.store.read_many(self.ids[start : start + 256], ("tokens",))

    def close(self) -> None:
        self.store.close()


class Bagz:
    """bagz, which compresses records with zstd."""

    name = "bagz"

    def write(self, path: Path, samples: Sequence[Sample]) -> None:
        import bagz

        with bagz.Writer(str(path.with_suffix(".bagz"))) as writer:
            for sample in samples:
                writer.write(pack(sample))

    def open(self, path: Path) -> None:
        import bagz

        self.reader = bagz.Reader(str(path.with_suffix(".bagz")))

    def random(self, places: Sequence[int]) -> None:
        for start in range(0, len(places), BATCH):
            for data in self.reader.read_indices(places[start : start + BATCH]):
                unpack(data)

    def one_by_one(self, places: Sequence[int]) -> None:
        for place in places:
            unpack(self.reader[place])

    def sequential(self) -> None:
        for data in self.reader:
            unpack(data)

    def close(self) -> None:
        del self.reader


class ArrayRecord:
    """array-record, one record a group, which random access wants."""

    name = "array-record"

    def write(self, path: Path, samples: Sequence[Sample]) -> None:
        from array_record.python import array_record_module

        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for sample in samples:
            writer.write(pack(sample))
        writer.close()

    def open(self, path: Path) -> None:
        from array_record.python import array_record_module

        self.reader = array_record_module.ArrayRecordReader(str(path))

    def random(self, places: Sequence[int]) -> None:
        for start in range(0, len(places), BATCH):
            for data in self.reader.read(places[start : start + BATCH]):
                unpack(data)

    def one_by_one(self, places: Sequence[int]) -> None:
        for place in places:
            unpack(self.reader.read([place])[0])

    def sequential(self) -> None:
        for data in self.reader.read_all():
            unpack(data)

    def close(self) -> None:
        self.reader.close()


class Lmdb:
    """LMDB, which does not compress."""

    name = "lmdb"

    def write(self, path: Path, samples: Sequence[Sample]) -> None:
        import lmdb

        with lmdb.open(str(path), map_size=1 << 32, sync=False) as store:
            for start in range(0, len(samples), BATCH):
                with store.begin(write=True) as transaction:
                    for at, sample in enumerate(samples[start : start + BATCH], start):
                        transaction.put(at.to_bytes(8, "big"), pack(sample))
            store.sync(True)

    def open(self, path: Path) -> None:
        import lmdb

        self.store = lmdb.open(str(path), readonly=True)

    def random(self, places: Sequence[int]) -> None:
        with self.store.begin() as transaction:
            for place in places:
                unpack(transaction.get(place.to_bytes(8, "big")))

    one_by_one = random

    def sequential(self) -> None:
        with self.store.begin() as transaction:
            for _, data in transaction.cursor():
                unpack(data)

    def close(self) -> None:
        self.store.close()


class Rocks:
    """RocksDB with zstd."""

    name = "rocksdict"

    def write(self, path: Path, samples: Sequence[Sample]) -> None:
        import rocksdict

        options = rocksdict.Options(raw_mode=True)
        options.set_compression_type(rocksdict.DBCompressionType.zstd())
        store = rocksdict.Rdict(str(path), options)
        for at, sample in enumerate(samples):
            store[at.to_bytes(8, "big")] = pack(sample)
        store.flush()
        store.close()

    def open(self, path: Path) -> None:
        import rocksdict

        self.store = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))

    def random(self, places: Sequence[int]) -> None:
        for place in places:
            unpack(self.store[place.to_bytes(8, "big")])

    one_by_one = random

    def sequential(self) -> None:
        for data in self.store.values():
            unpack(data)

    def close(self) -> None:
        self.store.close()


def _table(samples: Sequence[Sample]) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "problem": [sample.problem for sample in samples],
            "prompt": pa.array([sample.prompt for sample in samples], pa.list_(pa.int32())),
            "response": pa.array([sample.response for sample in samples], pa.list_(pa.int32())),
            "logprobs": pa.array([sample.logprobs for sample in samples], pa.list_(pa.float32())),
            "targets": pa.array([sample.targets() for sample in samples], pa.list_(pa.float32())),
            "reward": [sample.reward for sample in samples],
            "version": [sample.version for sample in samples],
        }
    )


class Lance:
    """Lance."""

    name = "lance"

    def write(self, path: Path, samples: Sequence[Sample]) -> None:
        import lance

        for start in range(0, len(samples), 1024):
            lance.write_dataset(_table(samples[start : start + 1024]), str(path), mode="append" if start else "create")

    def open(self, path: Path) -> None:
        import lance

        self.store = lance.dataset(str(path))

    def random(self, places: Sequence[int]) -> None:
        for start in range(0, len(places), BATCH):
            self._arrays(self.store.take(places[start : start + BATCH]))

    def one_by_one(self, places: Sequence[int]) -> None:
        for place in places:
            self._arrays(self.store.take([place]))

    def sequential(self) -> None:
        for batch in self.store.to_batches(columns=["prompt", "response"]):
            self._arrays(batch)

    @staticmethod
    def _arrays(table: Any) -> None:
        for column in table.column_names if hasattr(table, "column_names") else table.schema.names:
            if column in ("prompt", "response", "logprobs", "targets"):
                for value in table[column]:
                    value.values.to_numpy()

    def close(self) -> None:
        del self.store


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
        lance.write_dataset(_table(part), str(path), mode="append" if path.exists() else "create")

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
