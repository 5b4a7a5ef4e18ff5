"""The replay buffer: what training batches are drawn from, many times if need be, never staler than allowed.

Trajectories whose source is "online" pass through a window, first in first out: each is drawn at most
`max_uses` times, and only while the trainer's version is at most `max_staleness` ahead of its oldest token's.
By default all are used once before one is used twice. Trajectories of any other source stay in a pool of that
source, drawn without replacement, epoch after epoch.

The same seed and the same calls give the same batches on every machine, also across `state_dict` and
`load_state_dict`. Drawing and packing are done in Rust (`rust/replay`, `rust/packing.rs`) without the GIL.
Nothing here waits or reads models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from spo._native import NativeReplayBuffer, Trajectory, pack_batch
from spo.errors import NotEnough, StoreError
from spo.store import TrajectoryStore

if TYPE_CHECKING:
    from spo._native import _BatchParts

__all__ = ["ONLINE", "Batch", "NotEnough", "ReplayBuffer", "pack"]

ONLINE = "online"
STATE_FORMAT = 2
_ADDED_BY_FORMAT_2: dict[str, Any] = {"window_priorities": [], "owed": {}}


class Batch:
    """B trajectories packed into R rows of T tokens: several to a row, none split.

    The columns with one value a trajectory become arrays, or lists, when they are first asked for.

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
        has_reference_logprobs: bool [B]; whether it has them.
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
    has_reference_logprobs: NDArray[np.bool_]
    sources: list[str]
    problem_ids: list[str]

    def __init__(self, parts: _BatchParts) -> None:
        (
            self.tokens,
            self.position_ids,
            self.segment_ids,
            self.response_mask,
            self.behavior_logprobs,
            self.reference_logprobs,
            self._columns,
        ) = parts

    if not TYPE_CHECKING:  # For a type checker there are the attributes above and no others.

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            value = self.__dict__[name] = getattr(self._columns, name)
            return value


class ReplayBuffer:
    """A deterministic buffer of trajectories; see the module's head for its rules.

    Args:
        capacity: most online trajectories in the window; the oldest leave first.
        max_uses: most times that an online trajectory is drawn.
        max_staleness: most versions that an online trajectory's oldest token may be behind the trainer.
        seed: decides every order.
        store: where trajectories that are not in memory are read.
        order: which online trajectories go first. "oldest": the least used, among them those of the oldest policy
            version; "uniform": the least used, among them any; "recent": any, with a chance that halves with every
            `half_life` versions of age; "priority": any, with a chance in proportion to its priority to the power
            of `priority_exponent` (see `set_priorities`).
        half_life: of "recent", in policy versions.
        priority_exponent: of "priority"; 0 is uniform.
        pool_order: "kept": what is added to a pool joins the rest of its epoch, and the order is kept, also in the
            state. "computed": what is added waits for the next epoch, and any place of an epoch's order is computed
            from seed, pool and epoch alone, so that there is next to nothing to keep.
        memory_bytes: about the most bytes of decoded trajectories to keep in memory; the others are read from the
            store when they are drawn. None: all are kept.

    Raises:
        ValueError: a bound is impossible, or `memory_bytes` is given without a store.
    """

    def __init__(
        self,
        capacity: int,
        max_uses: int,
        max_staleness: int,
        seed: int,
        store: TrajectoryStore | None = None,
        *,
        order: Literal["oldest", "uniform", "recent", "priority"] = "oldest",
        half_life: float = 10.0,
        priority_exponent: float = 0.6,
        pool_order: Literal["kept", "computed"] = "kept",
        memory_bytes: int | None = None,
    ) -> None:
        for name, value, least in (
            ("capacity", capacity, 1),
            ("max_uses", max_uses, 1),
            ("max_staleness", max_staleness, 0),
            ("seed", seed, 0),
            ("memory_bytes", memory_bytes or 0, 0),
        ):
            _check_count(name, value, least)
        if memory_bytes is not None and store is None:
            raise ValueError("memory_bytes needs a store that trajectories can be read from: give store=")
        self._buffer = NativeReplayBuffer(
            capacity,
            max_uses,
            max_staleness,
            seed,
            order=order,
            half_life=half_life,
            priority_exponent=priority_exponent,
            pool_order=pool_order,
            store=None if store is None else store._native,
            memory_bytes=memory_bytes,
        )
        self._store = store

    def add(self, trajectories: Sequence[Trajectory], ids: Iterable[int], pool: str | None = None) -> None:
        """Adds trajectories under their ids in the store: all of them or, on an error, none.

        Args:
            trajectories: what to add.
            ids: their ids.
            pool: where to: batches then give this as their source. None: where the source of each says.

        Raises:
            ValueError: an id is in the buffer already, or there are more or fewer ids than trajectories.
        """
        self._buffer.add(trajectories, list(ids), pool)

    def add_stored(self, ids: Iterable[int], pool: str) -> None:
        """Adds stored trajectories to a pool without reading them: all of them or, on an error, none.

        Args:
            ids: in the store.
            pool: any name but "online"; batches give it as their source.

        Raises:
            ValueError: an id is in the buffer already, or the pool is "online".
            StoreError: an id is unknown, or the buffer has no store.
        """
        self._buffer.add_stored(list(ids), pool)

    def sample(
        self,
        num_trajectories: int,
        policy_version: int,
        mix: Mapping[str, float] | None = None,
        *,
        token_budget: int,
        row_multiple: int = 1,
        unit: Literal["trajectories", "tokens"] = "trajectories",
        group_size: int = 1,
    ) -> Batch:
        """Draws a batch and counts the uses; on an error nothing is taken.

        Args:
            num_trajectories: B.
            policy_version: version of the trainer's weights: an online trajectory's staleness is this minus
                its `min_policy_version`.
            mix: share of each source, summing to 1; all online unless given.
            token_budget: T.
            row_multiple: R is a multiple of it; empty rows fill up.
            unit: what the shares are counted in. "trajectories": of B; where a share is no whole number, the
                largest remainders are rounded up. "tokens": of all batches' tokens, to within a trajectory of each
                source, whatever their lengths.
            group_size: so many trajectories of one problem and source come together; problems that have fewer wait.

        Raises:
            NotEnough: a source cannot give its part.
            ValueError: an argument is wrong, or a drawn trajectory has more than `token_budget` tokens.
            StoreError: a trajectory that is not in memory cannot be read.
        """
        for name, value, least in (
            ("num_trajectories", num_trajectories, 1),
            ("policy_version", policy_version, 0),
            ("token_budget", token_budget, 1),
            ("row_multiple", row_multiple, 1),
            ("group_size", group_size, 1),
        ):
            _check_count(name, value, least)
        shares = {ONLINE: 1.0} if mix is None else dict(mix)
        return Batch(
            self._buffer.sample(num_trajectories, policy_version, shares, unit, group_size, token_budget, row_multiple)
        )

    def set_reference_logprobs(self, ids: Sequence[int], logprobs: Sequence[NDArray[np.float32]]) -> None:
        """Notes the log-probabilities that the reference gives to responses; ids that are gone are passed over.

        The store has to be told as well (`TrajectoryStore.annotate`), for later sessions and what memory lets go.

        Raises:
            ValueError: some do not fit their response.
        """
        self._buffer.set_reference_logprobs(list(ids), list(logprobs))

    def set_priorities(self, ids: Sequence[int], priorities: Sequence[float]) -> None:
        """Sets the priorities of online trajectories, for `order="priority"`; ids that are gone are passed over.

        A trajectory comes with the greatest priority that there is in the window, 1 in an empty one.

        Raises:
            ValueError: a priority is not above 0.
        """
        self._buffer.set_priorities(dict(zip(ids, priorities, strict=True)))

    def memory_bytes(self) -> int:
        """About how many bytes the decoded trajectories in memory take."""
        return self._buffer.memory_bytes()

    def close(self) -> None:
        """Lets go of the store; what is in memory can still be drawn."""
        self._buffer.close()

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
        if state.get("format") not in (1, STATE_FORMAT):
            raise ValueError(f"the buffer's state has format {state.get('format')!r}, not 1 to {STATE_FORMAT}")
        added = _ADDED_BY_FORMAT_2 if state["format"] == 1 else {}
        if self._store is None:
            raise StoreError("a replay buffer without a store cannot load a state: give it store=")
        self._buffer.load_state({**added, **state}, self._store._native)

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
    return Batch(pack_batch(trajectories, list(ids), list(uses), token_budget, row_multiple))


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
