"""The replay buffer at its edges: bounds of one, shares that no batch holds exactly, empty sources, all together."""

from __future__ import annotations

import json
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo.replay import Batch, NotEnough, ReplayBuffer
from spo.store import Trajectory, TrajectoryStore

COUNT = 40
ONLINE, POOL = "online", "pool"


def record(number: int) -> Trajectory:
    """Every third is of a pool; versions grow."""
    return Trajectory(
        f"p{number % 4}", [1, 2], range(number % 6), -1.0, "wrong_answer", POOL if number % 3 == 0 else ONLINE,
        min_policy_version=number // 8, max_policy_version=number // 8, seed=number,
    )  # fmt: skip


RECORDS = [record(number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    path = tmp_path_factory.mktemp("edges") / "store"
    with TrajectoryStore.open(path, tokenizer="edges") as opened:
        return path, opened.append(RECORDS)


bounds = st.fixed_dictionaries(
    {
        "capacity": st.sampled_from([1, 2, 25, 26, 27, 100]),  # 26 are online.
        "max_uses": st.sampled_from([1, 2]),
        "max_staleness": st.sampled_from([0, 1, 100]),
        "seed": st.integers(0, 2**64 - 1),
        "order": st.sampled_from(["oldest", "uniform", "recent", "priority"]),
        "pool_order": st.sampled_from(["kept", "computed"]),
    }
)
shares = st.sampled_from([1.0, 0.5, 1 / 3, 0.1, 0.99, 0.0])
draws = st.lists(st.tuples(st.integers(1, 9), shares, st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=12)


def draw(buffer: ReplayBuffer, request: tuple[int, float, int, int]) -> Batch | None:
    """A batch, or None; nothing may have changed then."""
    count, share, version, row_multiple = request
    before = buffer.state_dict()
    try:
        return buffer.sample(
            count, version, {ONLINE: share, POOL: 1 - share}, token_budget=8, row_multiple=row_multiple
        )
    except NotEnough:
        after = buffer.state_dict()
        uses = [dict(zip(state["window_ids"], state["window_uses"], strict=True)) for state in (before, after)]
        assert uses[1].items() <= uses[0].items(), "only what is too old may have left"
        assert after["pools"] == before["pools"]
        assert after["window_random"] == before["window_random"]
        return None


def contents(batch: Batch | None) -> Any:
    """All that a batch says, comparable."""
    if batch is None:
        return None
    arrays = (batch.tokens, batch.position_ids, batch.segment_ids, batch.response_mask, batch.ids, batch.uses)
    return [array.tolist() for array in arrays], batch.sources, batch.problem_ids


@given(bounds=bounds, requests=draws)
@settings(max_examples=60)
def test_bounds_and_shares_hold_in_every_batch(
    store: tuple[Path, list[int]], bounds: dict[str, Any], requests: list[tuple[int, float, int, int]]
) -> None:
    _, ids = store
    buffer = ReplayBuffer(**bounds)
    buffer.add(RECORDS, ids)
    by_id = dict(zip(ids, RECORDS, strict=True))
    window = deque((id for id, one in by_id.items() if one.source == ONLINE), maxlen=bounds["capacity"])
    uses: Counter[int] = Counter()
    for request in requests:
        if (batch := draw(buffer, request)) is None:
            continue
        count, share, version, row_multiple = request
        drawn = [(id, by_id[id]) for id in batch.ids.tolist()]
        assert len(drawn) == count
        num_online = sum(one.source == ONLINE for _, one in drawn)
        assert abs(num_online - count * share) < 1
        assert batch.tokens.shape[0] % row_multiple == 0
        online = [id for id, one in drawn if one.source == ONLINE]
        assert len(set(online)) == len(online), "an online trajectory is in a batch twice"
        uses.update(online)
        for id in online:
            assert id in window
            assert version - by_id[id].min_policy_version <= bounds["max_staleness"]
            assert uses[id] <= bounds["max_uses"]


@given(bounds=bounds, requests=draws, pieces=st.lists(st.integers(1, 15), min_size=1, max_size=6), data=st.data())
@settings(max_examples=40)
def test_how_trajectories_came_in_and_where_the_stream_was_cut_changes_nothing(
    store: tuple[Path, list[int]],
    bounds: dict[str, Any],
    requests: list[tuple[int, float, int, int]],
    pieces: list[int],
    data: st.DataObject,
) -> None:
    path, ids = store
    at_once = ReplayBuffer(**bounds)
    at_once.add(RECORDS, ids)
    cut = data.draw(st.integers(0, len(requests)))
    with TrajectoryStore.open(path, "r") as opened:
        in_pieces = ReplayBuffer(**bounds, store=opened)
        first = 0
        while first < COUNT:
            last = first + pieces[first % len(pieces)]
            in_pieces.add(RECORDS[first:last], ids[first:last])
            first = last
        before = [contents(draw(in_pieces, request)) for request in requests[:cut]]
        state = json.loads(json.dumps(in_pieces.state_dict()))
        in_pieces.close()
    with TrajectoryStore.open(path, "r") as opened:
        reloaded = ReplayBuffer(**{**bounds, "seed": 0}, store=opened)
        reloaded.load_state_dict(state)
        after = [contents(draw(reloaded, request)) for request in requests[cut:]]
        reloaded.close()
    assert [contents(draw(at_once, request)) for request in requests] == [*before, *after]


@given(size=st.integers(1, 30), per_batch=st.integers(1, 9), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=60)
def test_an_epoch_of_computed_order_has_each_record_exactly_once(size: int, per_batch: int, seed: int) -> None:
    buffer = ReplayBuffer(1, 1, 0, seed, pool_order="computed")
    buffer.add([record(3 * number) for number in range(size)], range(size))
    drawn = (
        [id for _ in range(3 * size) for id in buffer.sample(per_batch, 0, {POOL: 1.0}, token_budget=8).ids.tolist()]
        if per_batch <= size
        else []
    )
    for first in range(0, len(drawn) - size + 1, size):
        assert sorted(drawn[first : first + size]) == list(range(size))


def test_a_source_without_anything_is_named_and_a_trajectory_beyond_the_row_says_what_to_change() -> None:
    buffer = ReplayBuffer(4, 1, 0, 0)
    with pytest.raises(NotEnough, match="online"):
        buffer.sample(1, 0, token_budget=8)
    buffer.add([RECORDS[1]], [1])
    assert buffer.sample(1, 0, token_budget=3).ids.tolist() == [1]
    buffer.add([RECORDS[5]], [5])
    with pytest.raises(ValueError, match=r"7 tokens.*token_budget"):
        buffer.sample(1, 0, token_budget=6)
    assert np.asarray(buffer.sample(1, 0, token_budget=7).tokens).shape == (1, 7)
