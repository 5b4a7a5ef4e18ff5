"""Trajectories through Python: their fields, their encoding, their way through a store."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo.store import CorruptShardError, Trajectory, TrajectoryStore, decode_trajectories, encode_trajectories

FIELDS: dict[str, Any] = {
    "problem_id": "p1",
    "prompt_tokens": [1, 2, 3],
    "response_tokens": [4, 5],
    "reward": -1.0,
    "verdict": "wrong_answer",
    "source": "online",
}


def make(**changes: Any) -> Trajectory:
    return Trajectory(**{**FIELDS, **changes})


def test_a_trajectory_keeps_what_it_was_given() -> None:
    logprobs = np.array([-0.5, -0.25], dtype=np.float32)
    record = make(
        prompt_tokens=np.array([7, 8], dtype=np.int32),
        response_tokens=np.array([9, 10], dtype=np.int64),
        behavior_logprobs=logprobs,
        min_policy_version=3,
        max_policy_version=4,
        temperature=0.3,
        top_p=0.95,
        seed=2**64 - 1,
        metadata={"worker": "w0"},
    )
    assert record.prompt_tokens.dtype == record.response_tokens.dtype == np.int32
    assert record.prompt_tokens.tolist() == [7, 8]
    assert record.response_tokens.tolist() == [9, 10]
    assert record.behavior_logprobs is not None
    np.testing.assert_array_equal(record.behavior_logprobs, logprobs)
    assert record.reference_logprobs is None
    assert (record.min_policy_version, record.max_policy_version) == (3, 4)
    assert (record.temperature, record.top_p, record.seed) == (0.3, 0.95, 2**64 - 1)
    assert (record.reward, record.verdict, record.source) == (-1.0, "wrong_answer", "online")
    assert record.metadata == {"worker": "w0"}
    assert record.num_tokens == 4
    assert len(record.content_hash) == 16


def test_trajectories_are_equal_by_content_and_immutable() -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(seed=1)
    assert make() != "something else"
    with pytest.raises(AttributeError):
        make().reward = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reward", float("nan")),
        ("prompt_tokens", [1, -2]),
        ("prompt_tokens", [[1], [2]]),
        ("response_tokens", np.array([2**31])),
        ("response_tokens", np.zeros((2, 2), dtype=np.int32)),
        ("behavior_logprobs", [-0.1]),
        ("behavior_logprobs", np.array([-0.1, np.nan], dtype=np.float32)),
        ("reference_logprobs", ["a", "b"]),
        ("temperature", -1.0),
        ("top_p", 1.5),
        ("problem_id", ""),
    ],
)
def test_a_wrong_field_is_a_value_error_that_names_it(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        make(**{field: value})


def test_strided_arrays_are_read_right() -> None:
    tokens = np.arange(10, dtype=np.int32)
    assert make(prompt_tokens=tokens[::3]).prompt_tokens.tolist() == [0, 3, 6, 9]


tokens = st.lists(st.integers(0, 2**31 - 1), max_size=40)
names = st.text(min_size=1, max_size=10)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    response = draw(tokens)
    column = st.lists(st.floats(-100, 0, width=32), min_size=len(response), max_size=len(response)) | st.none()
    versions = sorted(draw(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))))
    return Trajectory(
        problem_id=draw(names),
        prompt_tokens=draw(tokens),
        response_tokens=response,
        reward=draw(st.floats(-10, 10)),
        verdict=draw(st.text(max_size=10)),
        source=draw(names),
        behavior_logprobs=draw(column),
        reference_logprobs=draw(column),
        min_policy_version=versions[0],
        max_policy_version=versions[1],
        temperature=draw(st.floats(0, 5)),
        top_p=draw(st.floats(0.01, 1)),
        seed=draw(st.integers(0, 2**64 - 1)),
        metadata=draw(st.dictionaries(names, st.text(max_size=10), max_size=3)),
    )


@given(st.lists(trajectories(), max_size=4))
@settings(deadline=None, max_examples=50)
def test_any_trajectories_survive_encoding(records: list[Trajectory]) -> None:
    assert decode_trajectories(encode_trajectories(records)) == records


@given(st.lists(trajectories(), max_size=4))
@settings(deadline=None, max_examples=15)
def test_any_trajectories_survive_the_store(
    tmp_path_factory: pytest.TempPathFactory, records: list[Trajectory]
) -> None:
    path = tmp_path_factory.mktemp("store")
    with TrajectoryStore.open(path, tokenizer="tests") as store:
        ids = store.append(records)
    with TrajectoryStore.open(path, "r") as store:
        assert store.read_many(ids) == records
        assert store.scan() == ids


def test_damaged_messages_are_refused() -> None:
    message = encode_trajectories([make()])
    for damaged in (b"", message[:-1], message + b"\0", bytes([message[0] ^ 1]) + message[1:]):
        with pytest.raises(CorruptShardError):
            decode_trajectories(damaged)
