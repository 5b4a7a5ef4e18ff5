"""A step's batch on its way into the model: from the orchestrator's packed arrays to the micro-batches of this rank.

Rows become tensors, a few rows at a time; what the objective sees is one line a trajectory again, response tokens only.
Which trajectories are in the batch was decided by the orchestrator.

Shapes: R rows, T tokens in a row; B trajectories, L response tokens of the longest; N response tokens in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spo.errors import ConnectionLost
from spo.types import Batch

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a batch, and the trajectories in them."""

    tokens_RT: Tensor
    position_ids_RT: Tensor
    response_index_N: Tensor
    """Flat positions of the response tokens, trajectory after trajectory."""
    mask_BL: Tensor
    """True at response tokens; its N true elements are in the order of `response_index_N`."""
    reward_B: Tensor
    initial_value_B: Tensor
    sources: tuple[str, ...]
    """Of each trajectory."""
    extras: dict[str, Tensor]
    """What some objectives take besides, by the names of their arguments; those of tokens are [B, L]."""
    trajectory_B: IntArray
    """Index of each in the whole batch."""
    reference_logprobs_N: Tensor | None
    """Of the response tokens, float32; None where they have to be computed."""
    num_tokens: int
    """Prompts' and responses', without padding."""

    def by_trajectory(self, value_N: Tensor) -> Tensor:
        """Values of the N response tokens, one line a trajectory: [B, L], 0 past each one's end."""
        return value_N.new_zeros(self.mask_BL.shape).masked_scatter(self.mask_BL, value_N)


def micro_batches(batch: Batch, rows_per_forward: int, device: torch.device) -> Iterator[MicroBatch]:
    """Cuts a rank's rows into micro-batches of `rows_per_forward` rows; also those without a trajectory.

    Raises:
        ConnectionLost: The arrays do not fit together.
    """
    shape = (batch.num_rows, batch.num_tokens)
    try:
        tokens_RT = np.frombuffer(batch.tokens, np.int32).reshape(shape)
        position_ids_RT = np.frombuffer(batch.position_ids, np.int32).reshape(shape)
        segment_ids_RT = np.frombuffer(batch.segment_ids, np.int32).reshape(shape)
        response_mask_RT = np.frombuffer(batch.response_mask, np.uint8).reshape(shape) != 0
        reward_B = np.frombuffer(batch.rewards, np.float32).reshape(batch.num_trajectories)
        initial_value_B = np.frombuffer(batch.initial_values, np.float32).reshape(batch.num_trajectories)
        token_extras, trajectory_extras = _extras(batch)
        reference_RT = (
            np.frombuffer(batch.reference_logprobs, np.float32).reshape(shape) if batch.reference_logprobs else None
        )
    except ValueError as error:
        raise ConnectionLost(f"the batch of step {batch.step} does not fit its own shape: {error}") from error
    if (response_mask_RT & (position_ids_RT == 0)).any():
        raise ConnectionLost(f"the batch of step {batch.step} has a response without a prompt before it")

    def tensor(array: npt.NDArray[np.generic], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.array(array)).to(device, dtype, non_blocking=True)

    for start in range(0, batch.num_rows, rows_per_forward):
        rows = slice(start, start + rows_per_forward)
        # Columns that are padding in all of these rows need no computing.
        width = _used_width(segment_ids_RT[rows])
        trajectory_B, index_N, mask_BL = _responses(segment_ids_RT[rows, :width], response_mask_RT[rows, :width])
        extras = {name: tensor(value[trajectory_B], torch.float32) for name, value in trajectory_extras.items()}
        for name, value_RT in token_extras.items():
            value_BL = np.zeros(mask_BL.shape, np.float32)
            value_BL[mask_BL] = value_RT[rows, :width].ravel()[index_N]
            extras[name] = tensor(value_BL, torch.float32)
        yield MicroBatch(
            tokens_RT=tensor(tokens_RT[rows, :width], torch.int64),
            position_ids_RT=tensor(position_ids_RT[rows, :width], torch.int64),
            response_index_N=tensor(index_N, torch.int64),
            mask_BL=tensor(mask_BL, torch.bool),
            reward_B=tensor(reward_B[trajectory_B], torch.float32),
            initial_value_B=tensor(initial_value_B[trajectory_B], torch.float32),
            extras=extras,
            sources=tuple(batch.sources[trajectory] for trajectory in trajectory_B),
            trajectory_B=trajectory_B,
            reference_logprobs_N=(
                None if reference_RT is None else tensor(reference_RT[rows, :width].ravel()[index_N], torch.float32)
            ),
            num_tokens=int((segment_ids_RT[rows] >= 0).sum()),
        )


def _extras(batch: Batch) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Those that the batch has: by token [R, T], and by trajectory [B]."""
    by_token = {
        "behavior_logprobs_BT": (batch.behavior_logprobs, np.float32),
        "mc_successes_BT": (batch.mc_successes, np.uint16),
        "mc_rollouts_BT": (batch.mc_rollouts, np.uint16),
    }
    by_trajectory = {"group_success_rate_B": (batch.group_success_rates, np.float32)}
    shape = (batch.num_rows, batch.num_tokens)
    return (
        {name: np.frombuffer(data, dtype).reshape(shape) for name, (data, dtype) in by_token.items() if data},
        {
            name: np.frombuffer(data, dtype).reshape(batch.num_trajectories)
            for name, (data, dtype) in by_trajectory.items()
            if data
        },
    )


def _used_width(segment_ids_RT: npt.NDArray[np.int32]) -> int:
    used = np.flatnonzero((segment_ids_RT >= 0).any(axis=0))
    return int(used[-1]) + 1 if len(used) else 1


def _responses(
    segment_ids_RT: npt.NDArray[np.int32], response_mask_RT: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """What is in some rows: trajectories [B], flat positions of response tokens [N], which of [B, L] are such."""
    segments = segment_ids_RT.ravel()
    trajectory_B = np.unique(segments[segments >= 0])
    index_N = np.flatnonzero(response_mask_RT.ravel() & (segments >= 0))
    order_N = np.argsort(segments[index_N], kind="stable")
    index_N = index_N[order_N]
    count_B = np.bincount(np.searchsorted(trajectory_B, segments[index_N]), minlength=len(trajectory_B))
    longest = max(int(count_B.max(initial=0)), 1)
    mask_BL = np.arange(longest)[None, :] < count_B[:, None]
    return trajectory_B.astype(np.int64), index_N.astype(np.int64), mask_BL
