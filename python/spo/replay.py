"""The replay buffer: what training batches are drawn from, many times if need be, never staler than allowed.

Trajectories whose source is "online" pass through a window, first in first out: each is drawn at most
`max_uses` times, and only while the trainer's version is at most `max_staleness` ahead of its oldest token's.
All are used once before one is used twice. Trajectories of any other source stay in a pool of that source,
drawn without replacement, epoch after epoch.

The same seed and the same calls give the same batches on every machine, also across `state_dict` and
`load_state_dict`. Drawing and packing are done in Rust (`rust/replay`, `rust/packing.rs`) without the GIL.
Nothing here waits or reads models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spo._native import NativeReplayBuffer, Trajectory, pack_batch
from spo.errors import NotEnough, StoreError
from spo.store import TrajectoryStore

__all__ = ["ONLINE", "Batch", "NotEnough", "ReplayBuffer", "pack"]

ONLINE = "online"
STATE_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B trajectories packed into R rows of T tokens: several to a row, none split.

    Attributes:
        tokens: int32 [R, T]; 0 in padding.
        position_ids: int32 [R, T]; counts from 0 in each trajectory.
        segment_ids: int32 [R, T]; index of the trajectory in the batch, -1 in padding.
        response_mask: bool [R, T]; whether the token is part of a response.
        behavior_logprobs: float32 [R, T], 0 outside responses; None unless every trajectory has them.
        reference_logprobs: float32 [R, T], 0 outside responses; None unless every trajectory has them.
        rows: uint32 [B]; the row that the trajectory lies in.
        starts: uint32 [B]; the column of its first token.
        prompt_lengths: uint32 [B]; tokens of its prompt.
        response_lengths: uint32 [B]; tokens of its response, which follow the prompt's.
        rewards: float32 [B].
        temperatures: float32 [B]; what it was sampled with.
        min_policy_versions: uint64 [B]; version of the weights at its first token.
        max_policy_versions: uint64 [B]; version of the weights at its last token.
        ids: uint64 [B]; its id in the store.
        uses: uint32 [B]; how many times it has been drawn, this one included.
        sources: its source, B of them.
        problem_ids: its problem, B of them.
    """

    tokens: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    segment_ids: NDArray[np.int32]
    response_mask: NDArray[np.bool_]
    behavior_logprobs: NDArray[np.float32] | None
    reference_logprobs: NDArray[np.float32] | None
    rows: NDArray[np.uint32]
    starts: NDArray[np.uint32]
    prompt_lengths: NDArray[np.uint32]
    response_lengths: NDArray[np.uint32]
    rewards: NDArray[np.float32]
    temperatures: NDArray[np.float32]
    min_policy_versions: NDArray[np.uint64]
    max_policy_versions: NDArray[np.uint64]
    ids: NDArray[np.uint64]
    uses: NDArray[np.uint32]
    sources: list[str]
    problem_ids: list[str]


class ReplayBuffer:
    """A deterministic buffer of decoded trajectories; see the module's head for its rules.

    Args:
        capacity: most online trajectories in the window; the oldest leave first.
        max_uses: most times that an online trajectory is drawn.
        max_staleness: most versions that an online trajectory's oldest token may be behind the trainer.
        seed: decides every order.
        store: where `load_state_dict` reads trajectories again.
        order: which of the equally often used online trajectories go first: those of the "oldest" policy version,
            or any ("uniform").

    Raises:
        ValueError: a bound is below 1.
    """

    def __init__(
        self,
        capacity: int,
        max_uses: int,
        max_staleness: int,
        seed: int,
        store: TrajectoryStore | None = None,
        *,
        order: Literal["oldest", "uniform"] = "oldest",
    ) -> None:
        for name, value, least in (
            ("capacity", capacity, 1),
            ("max_uses", max_uses, 1),
            ("max_staleness", max_staleness, 0),
            ("seed", seed, 0),
        ):
            _check_count(name, value, least)
        self._buffer = NativeReplayBuffer(capacity, max_uses, max_staleness, seed, order)
        self._store = store

    def add(self, trajectories: Sequence[Trajectory], ids: Iterable[int]) -> None:
        """Adds trajectories under their ids in the store: all of them or, on an error, none.

        Raises:
            ValueError: an id is in the buffer already, or there are more or fewer ids than trajectories.
        """
        self._buffer.add(trajectories, list(ids))

    def sample(
        self,
        num_trajectories: int,
        policy_version: int,
        mix: Mapping[str, float] | None = None,
        *,
        token_budget: int,
        row_multiple: int = 1,
    ) -> Batch:
        """Draws a batch and counts the uses; on an error nothing is taken.

        Args:
            num_trajectories: B.
            policy_version: version of the trainer's weights: an online trajectory's staleness is this minus
                its `min_policy_version`.
            mix: share of each source in B, summing to 1; all online unless given. Where a share is no whole
                number of trajectories, the largest remainders are rounded up.
            token_budget: T.
            row_multiple: R is a multiple of it; empty rows fill up.

        Raises:
            NotEnough: a source cannot give its part.
            ValueError: an argument is wrong, or a drawn trajectory has more than `token_budget` tokens.
        """
        for name, value, least in (
            ("num_trajectories", num_trajectories, 1),
            ("policy_version", policy_version, 0),
            ("token_budget", token_budget, 1),
            ("row_multiple", row_multiple, 1),
        ):
            _check_count(name, value, least)
        shares = {ONLINE: 1.0} if mix is None else dict(mix)
        arrays = self._buffer.sample(num_trajectories, policy_version, shares, token_budget, row_multiple)
        return Batch(**arrays)

    def available(self, policy_version: int) -> dict[str, int]:
        """How many trajectories each source (always also "online") could give for a step at this version."""
        return self._buffer.available(policy_version)

    def counters(self) -> dict[str, int]:
        """What became of online trajectories that left.

        They were used_up, or expired (expired_unused: without one use), or evicted by capacity
        (evicted_unused).
        """
        return self._buffer.counters()

    def state_dict(self) -> dict[str, Any]:
        """All that decides future batches, as plain values: ids, uses, random states; no trajectories."""
        return {"format": STATE_FORMAT, **self._buffer.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the content by the state's; its trajectories are read from the store.

        The bounds stay those of this buffer. On an error the content stays as it was.

        Raises:
            StoreError: the buffer has no store, or the store lacks a record.
            ValueError: the state is not one that `state_dict` gave.
        """
        if state.get("format") != STATE_FORMAT:
            raise ValueError(f"the buffer's state has format {state.get('format')!r}, not {STATE_FORMAT}")
        if self._store is None:
            raise StoreError("a replay buffer without a store cannot load a state: give it store=")
        self._buffer.load_state(dict(state), self._store._native)

    def __len__(self) -> int:
        return len(self._buffer)


def pack(
    trajectories: Sequence[Trajectory],
    ids: Iterable[int],
    uses: Iterable[int],
    *,
    token_budget: int,
    row_multiple: int = 1,
) -> Batch:
    """Packs trajectories, in this order, into the batch that `ReplayBuffer.sample` makes when it draws them.

    Args:
        trajectories: B of them.
        ids: their ids in the store.
        uses: how many times each has been drawn, this time included.
        token_budget: T.
        row_multiple: R is a multiple of it; empty rows fill up.

    Raises:
        ValueError: a trajectory has more than `token_budget` tokens, or there are not as many ids or uses.
    """
    return Batch(**pack_batch(trajectories, list(ids), list(uses), token_budget, row_multiple))


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
