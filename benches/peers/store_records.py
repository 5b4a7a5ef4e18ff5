"""Stores of records of bytes: bagz, array-record, LMDB, RocksDB; and what a record is there.

A record is a trajectory's arrays one after another, with the Monte-Carlo targets as a dense column.
"""

# ruff: noqa: D102 - every store has the same methods: write, open, random, one_by_one, sequential, close.

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from store_data import Sample

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
