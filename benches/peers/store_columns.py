"""Stores that know columns: `spo.store` itself, and Lance."""

# ruff: noqa: D102 - every store has the same methods: write, open, random, one_by_one, sequential, close.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from store_data import TRIALS, Sample
from store_records import BATCH

from spo.store import Trajectory, TrajectoryStore


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
            tokens, begins = self.store.read_tokens(self.ids[start : start + 256])
            ends = begins.tolist()
            _ = [tokens[begin:end] for begin, end in pairwise(ends)]

    def close(self) -> None:
        self.store.close()


def table(samples: Sequence[Sample]) -> Any:
    """The samples as an Arrow table."""
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
            lance.write_dataset(table(samples[start : start + 1024]), str(path), mode="append" if start else "create")

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
