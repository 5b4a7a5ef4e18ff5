"""The run that is replayed: its batches, made again from its store and its consumption log.

No sampling and no chance: the batch of a step holds what it held, in the same rows. That the settings of both runs
agree was checked by `spo.rerun`; only the number of trainer ranks is known here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spo.consumption import Consumed, ConsumptionLog
from spo.errors import RunFailed, StoreError
from spo.replay import Batch, pack
from spo.store import TrajectoryStore


class ReplayedRun:
    """Gives out the batches of an earlier run.

    Args:
        run_dir: The earlier run.
        tokenizer: Fingerprint that its trajectories must have.

    Raises:
        ConfigError: Its log cannot be read.
        StoreError: Its store is of another tokenizer.
        OSError: Its store cannot be read.
    """

    def __init__(self, run_dir: Path, tokenizer: str) -> None:
        self._run_dir = run_dir
        self._log = ConsumptionLog(run_dir)
        self._store = TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=tokenizer)

    def batch(self, step: int, world_size: int) -> tuple[Batch, Consumed]:
        """The batch of a step, and what the log says about it.

        Raises:
            ConfigError: The log has no such step, or does not say all that is needed.
            RunFailed: The store lacks a trajectory, or there are more or fewer ranks than then.
        """
        consumed = self._log[step]
        if consumed.num_ranks != world_size:
            raise RunFailed(
                f"step {step} of {self._run_dir} was trained by {consumed.num_ranks} ranks, this replay has "
                f"{world_size}; start it with --nproc-per-node {consumed.num_ranks}"
            )
        try:
            trajectories = self._store.read_many(consumed.ids)
        except (StoreError, OSError) as error:
            raise RunFailed(f"the batch of step {step} of {self._run_dir} cannot be read again: {error}") from None
        batch = pack(
            trajectories,
            consumed.ids,
            consumed.uses,
            token_budget=consumed.token_budget,
            row_multiple=world_size,
        )
        batch.rewards[:] = consumed.rewards
        batch.sources[:] = [source for source, count in consumed.sources for _ in range(count)]
        if consumed.reference_stored and batch.reference_logprobs is None:
            raise RunFailed(
                f"step {step} of {self._run_dir} was trained with stored log-probabilities of the reference, but the "
                "store lacks some of them"
            )
        return batch, consumed

    def columns(self, ids: Sequence[int], names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of that run's trajectories, in the order of `ids`."""
        columns: dict[str, list[Any]] = self._store.read_many(ids, columns=names)
        return columns

    def close(self) -> None:
        """Lets go of the earlier run's files."""
        self._store.close()
