"""The replay buffer through Python: arrays, bounds, errors, saving and loading."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo.replay import Batch, NotEnough, ReplayBuffer, pack
from spo.store import StoreError, Trajectory, TrajectoryStore


def make(number: int, source: str = "online", **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "problem_id": f"p{number}",
        "prompt_tokens": range(1, 2 + number % 5),
        "response_tokens": range(100, 100 + number % 7),
        "reward": -float(number % 2),
        "verdict": "accepted",
        "source": source,
        "temperature": 0.5,
        "min_policy_version": number,
        "max_policy_version": number + 1,
    }
    return Trajectory(**{**fields, **changes})


def filled(count: int = 12, **options: Any) -> ReplayBuffer:
    settings = {"capacity": 100, "max_uses": 2, "max_staleness": 1000, "seed": 3, **options}
    buffer = ReplayBuffer(**settings)
    buffer.add([make(number) for number in range(count)], range(count))
    offline = range(1000, 1000 + count)
    buffer.add([make(number, "offline") for number in offline], offline)
    return buffer


def check_arrays(batch: Batch, records: dict[int, Trajectory]) -> None:
    covered = np.zeros(batch.tokens.shape, dtype=int)
    for index, record_id in enumerate(batch.ids.tolist()):
        record = records[record_id]
        row, start = int(batch.rows[index]), int(batch.starts[index])
        prompt, response = int(batch.prompt_lengths[index]), int(batch.response_lengths[index])
        here = np.s_[row, start : start + prompt + response]
        covered[here] += 1
        np.testing.assert_array_equal(batch.tokens[here], [*record.prompt_tokens, *record.response_tokens])
        np.testing.assert_array_equal(batch.position_ids[here], np.arange(prompt + response))
        np.testing.assert_array_equal(batch.response_mask[here], [False] * prompt + [True] * response)
        assert (batch.segment_ids[here] == index).all()
        assert batch.rewards[index] == record.reward
        assert batch.temperatures[index] == np.float32(record.temperature)
        assert batch.sources[index] == record.source
        assert batch.problem_ids[index] == record.problem_id
        assert batch.min_policy_versions[index] == record.min_policy_version
        assert batch.max_policy_versions[index] == record.max_policy_version
    assert covered.max(initial=0) <= 1
    padding = covered == 0
    assert (batch.segment_ids[padding] == -1).all()
    assert not batch.response_mask[padding].any()
    assert not batch.tokens[padding].any()


def test_a_batch_has_the_promised_types_and_shapes() -> None:
    batch = filled().sample(8, 5, {"online": 0.5, "offline": 0.5}, token_budget=32, row_multiple=4)
    matrices = (batch.tokens, batch.position_ids, batch.segment_ids, batch.response_mask)
    assert [array.dtype for array in matrices] == [np.int32, np.int32, np.int32, np.bool_]
    assert len({array.shape for array in matrices}) == 1
    assert batch.tokens.shape[0] % 4 == 0
    assert batch.tokens.shape[1] == 32
    assert all(array.flags.c_contiguous and array.flags.writeable for array in matrices)
    vectors = {
        "rewards": np.float32,
        "temperatures": np.float32,
        "ids": np.uint64,
        "uses": np.uint32,
        "min_policy_versions": np.uint64,
        "max_policy_versions": np.uint64,
        "rows": np.uint32,
        "starts": np.uint32,
        "prompt_lengths": np.uint32,
        "response_lengths": np.uint32,
    }
    for name, dtype in vectors.items():
        array = getattr(batch, name)
        assert (array.dtype, array.shape) == (dtype, (8,)), name
    assert sorted(batch.sources) == ["offline"] * 4 + ["online"] * 4


@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30),
    token_budget=st.integers(40, 100),
    row_multiple=st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_any_lengths_are_packed_whole(lengths: list[tuple[int, int]], token_budget: int, row_multiple: int) -> None:
    records = {
        number: make(number, prompt_tokens=range(1, 1 + prompt), response_tokens=range(50, 50 + response))
        for number, (prompt, response) in enumerate(lengths)
    }
    buffer = ReplayBuffer(capacity=30, max_uses=1, max_staleness=10**6, seed=0)
    buffer.add(list(records.values()), records)
    batch = buffer.sample(len(records), 0, token_budget=token_budget, row_multiple=row_multiple)
    assert batch.tokens.shape[0] % row_multiple == 0
    assert sorted(batch.ids.tolist()) == sorted(records)
    check_arrays(batch, records)


def test_a_short_source_raises_not_enough_and_takes_nothing() -> None:
    buffer = filled(3)
    before = buffer.state_dict()
    with pytest.raises(NotEnough, match=r'"offline" can give 3 of the 4') as caught:
        buffer.sample(8, 0, {"online": 0.5, "offline": 0.5}, token_budget=32)
    assert isinstance(caught.value, StoreError)
    assert buffer.state_dict() == before
    assert buffer.available(0) == {"online": 3, "offline": 3}
    assert buffer.available(10**6) == {"online": 0, "offline": 3}


def test_uses_count_up_to_their_bound() -> None:
    buffer = filled(4, max_uses=3)
    uses = [buffer.sample(4, 0, token_budget=32).uses.tolist() for _ in range(3)]
    assert uses == [[1] * 4, [2] * 4, [3] * 4]
    assert buffer.counters()["used_up"] == 4
    assert len(buffer) == 4, "the offline ones"


def test_one_that_is_too_long_is_named() -> None:
    buffer = ReplayBuffer(capacity=5, max_uses=1, max_staleness=5, seed=0)
    buffer.add([make(0, response_tokens=range(50))], [17])
    with pytest.raises(ValueError, match=r"trajectory 17 of problem .* token_budget is 20"):
        buffer.sample(1, 0, token_budget=20)
    assert len(buffer) == 1
    with pytest.raises(ValueError, match=r"trajectory 17 of problem .*batch\.token_budget of a run. to 51 or more"):
        pack([make(0, response_tokens=range(50))], [17], [1], token_budget=20)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"capacity": 0}, "capacity"),
        ({"max_uses": 0}, "max_uses"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"seed": -1}, "seed"),
        ({"order": "random"}, "order"),
        ({"order": "recent", "half_life": 0.0}, "half_life"),
        ({"order": "priority", "priority_exponent": -1.0}, "priority_exponent"),
        ({"pool_order": "none"}, "pool_order"),
        ({"memory_bytes": 100}, "memory_bytes needs a store"),
    ],
)
def test_impossible_bounds_are_named(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        filled(0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_trajectories": 0}, "num_trajectories"),
        ({"policy_version": -1}, "policy_version"),
        ({"mix": {"online": 0.7}}, "mix"),
        ({"mix": {}}, "mix"),
        ({"token_budget": 0}, "token_budget"),
        ({"row_multiple": 0}, "row_multiple"),
        ({"unit": "bytes"}, "unit must be trajectories or tokens"),
        ({"group_size": 2}, "no multiple of group_size 2"),
    ],
)
def test_impossible_requests_are_named(arguments: dict[str, Any], name: str) -> None:
    request: dict[str, Any] = {"num_trajectories": 1, "policy_version": 0, "token_budget": 32, **arguments}
    with pytest.raises(ValueError, match=name):
        filled().sample(**request)


def test_ids_and_trajectories_must_match() -> None:
    buffer = filled(2)
    with pytest.raises(ValueError, match="1 trajectories came with 2 ids"):
        buffer.add([make(5)], [5, 6])
    with pytest.raises(ValueError, match="id 1 is in the buffer already"):
        buffer.add([make(5), make(1)], [5, 1])
    assert len(buffer) == 4


def draw(buffer: ReplayBuffer) -> list[int]:
    mix = {"online": 0.5, "offline": 0.5}
    return buffer.sample(6, 0, mix, token_budget=32).ids.tolist()


@pytest.mark.parametrize("pool_order", ["kept", "computed"])
@pytest.mark.parametrize("order", ["oldest", "uniform", "recent", "priority"])
def test_a_state_that_went_through_json_continues_the_stream(tmp_path: Path, order: str, pool_order: str) -> None:
    with TrajectoryStore.open(tmp_path, tokenizer="tests") as store:
        records = [make(number, "offline" if number % 2 else "online") for number in range(40)]
        ids = store.append(records)
        bounds = {"capacity": 100, "max_uses": 3, "max_staleness": 1000}
        options: dict[str, Any] = {**bounds, "store": store, "order": order, "pool_order": pool_order}
        buffer = ReplayBuffer(seed=5, **options)
        buffer.add(records, ids)
        buffer.set_priorities(ids, [1.0 + number % 3 for number in range(40)])
        for _ in range(3):
            draw(buffer)
        state = json.loads(json.dumps(buffer.state_dict()))
        loaded = ReplayBuffer(seed=99, **options)
        loaded.load_state_dict(state)
        assert len(loaded) == len(buffer)
        assert [draw(loaded) for _ in range(5)] == [draw(buffer) for _ in range(5)]
        assert loaded.state_dict() == buffer.state_dict()


def test_a_state_of_the_first_format_is_still_loaded(tmp_path: Path) -> None:
    with TrajectoryStore.open(tmp_path, tokenizer="tests") as store:
        records = [make(number, "offline" if number % 2 else "online") for number in range(40)]
        options: dict[str, Any] = {"capacity": 100, "max_uses": 3, "max_staleness": 1000, "store": store}
        buffer, loaded = (ReplayBuffer(seed=seed, **options) for seed in (5, 6))
        buffer.add(records, store.append(records))
        draw(buffer)
        state = {
            name: value for name, value in buffer.state_dict().items() if name not in ("window_priorities", "owed")
        }
        loaded.load_state_dict({**state, "format": 1})
        assert [draw(loaded) for _ in range(3)] == [draw(buffer) for _ in range(3)]


def test_the_state_of_a_pool_with_computed_orders_does_not_grow_with_the_pool(tmp_path: Path) -> None:
    with TrajectoryStore.open(tmp_path, tokenizer="tests") as store:
        ids = store.append([make(number, "offline") for number in range(2000)])
        options: dict[str, Any] = {"capacity": 1, "max_uses": 1, "max_staleness": 1, "store": store}
        buffer = ReplayBuffer(seed=5, pool_order="computed", memory_bytes=50_000, **options)
        buffer.add_stored(ids, "offline")
        drawn = [buffer.sample(300, 0, {"offline": 1.0}, token_budget=32).ids.tolist() for _ in range(7)]
        assert {id for batch in drawn for id in batch} == set(ids)
        assert buffer.memory_bytes() <= 50_000
        assert len(json.dumps(buffer.state_dict())) < 5_000
        with pytest.raises(StoreError, match="no record"):
            buffer.add_stored([max(ids) + 1], "offline")
        buffer.close()
        with pytest.raises(StoreError, match="is not in memory"):
            buffer.sample(300, 0, {"offline": 1.0}, token_budget=32)


def test_shares_may_be_counted_in_tokens_and_groups_come_whole() -> None:
    buffer = filled(30, max_uses=9)
    lengths = {number: len(make(number).prompt_tokens) + number % 7 for number in [*range(30), *range(1000, 1030)]}
    tokens = {"online": 0, "offline": 0}
    for _ in range(20):
        batch = buffer.sample(5, 0, {"online": 0.3, "offline": 0.7}, token_budget=32, unit="tokens")
        for record_id, source in zip(batch.ids.tolist(), batch.sources, strict=True):
            tokens[source] += lengths[record_id]
    assert abs(tokens["online"] - 0.3 * sum(tokens.values())) <= 24
    grouped = ReplayBuffer(capacity=50, max_uses=1, max_staleness=9, seed=0)
    grouped.add([make(0, problem_id=f"p{at % 5}") for at in range(18)], range(18))
    batch = grouped.sample(8, 0, token_budget=32, group_size=4)
    assert sorted(batch.problem_ids.count(name) for name in set(batch.problem_ids)) == [4, 4]


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    buffer = filled(3)
    good = buffer.state_dict()
    with pytest.raises(StoreError, match="without a store"):
        buffer.load_state_dict(good)
    with TrajectoryStore.open(tmp_path, tokenizer="tests") as store:
        buffer = ReplayBuffer(capacity=5, max_uses=1, max_staleness=5, seed=0, store=store)
        with pytest.raises(ValueError, match="format"):
            buffer.load_state_dict({})
        for name in good.keys() - {"format"}:
            with pytest.raises(ValueError, match=name):
                buffer.load_state_dict({key: value for key, value in good.items() if key != name})
        with pytest.raises(StoreError, match="no record"):
            buffer.load_state_dict(good)
