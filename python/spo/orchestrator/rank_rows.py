"""What a trainer rank gets of a batch, as a message, and how stale the batch is. Pure functions of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from spo.consumption import Consumed
from spo.orchestrator.extras import Extras
from spo.orchestrator.mix import ONLINE
from spo.replay import Batch
from spo.types import Batch as BatchMessage


def staleness(batch: Batch, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Staleness of the batch's online trajectories when it is trained on in `step`: int64 [number of them]."""
    online = np.array([source == ONLINE for source in batch.sources], dtype=bool)
    versions = np.asarray(batch.min_policy_versions).astype(np.int64)[online]
    return np.asarray(np.maximum(step - 1 - versions, 0), dtype=np.int64)


def max_staleness(batch: Batch, step: int) -> int:
    """The largest of them; 0 if there are none."""
    return int(staleness(batch, step).max(initial=0))


def rank_message(batch: Batch, consumed: Consumed, rank: int, extras: Extras, keeps_reference: bool) -> BatchMessage:
    """A rank's rows of a batch, every `num_ranks`-th, with what concerns all its trajectories."""
    rows = slice(rank, None, consumed.num_ranks)
    tokens = np.ascontiguousarray(batch.tokens[rows], dtype="<i4")
    reference = batch.reference_logprobs if consumed.reference_stored else None
    return BatchMessage(
        step=consumed.step,
        num_rows=tokens.shape[0],
        num_tokens=tokens.shape[1],
        num_trajectories=len(batch.sources),
        tokens=tokens.tobytes(),
        position_ids=np.ascontiguousarray(batch.position_ids[rows], dtype="<i4").tobytes(),
        segment_ids=np.ascontiguousarray(batch.segment_ids[rows], dtype="<i4").tobytes(),
        response_mask=np.ascontiguousarray(batch.response_mask[rows]).astype(np.uint8).tobytes(),
        rewards=np.asarray(batch.rewards, dtype="<f4").tobytes(),
        initial_values=np.array(consumed.initial_values, dtype="<f4").tobytes(),
        sources=list(batch.sources),
        reference_logprobs=b"" if reference is None else np.ascontiguousarray(reference[rows], dtype="<f4").tobytes(),
        keep_reference_logprobs=keeps_reference,
        **extras.of_rows(rows),
    )
