"""Policy-version spans: joined from tokens, carried by trajectories through the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo.store import Trajectory, TrajectoryStore, decode_trajectories, encode_trajectories
from spo.versions import Spans, spans_of, spans_to_metadata, version_spans


def make_trajectory(spans: Spans) -> Trajectory:
    num_tokens = sum(num for _, num in spans)
    return Trajectory(
        problem_id="p",
        prompt_tokens=[1],
        response_tokens=list(range(num_tokens)),
        reward=0.0,
        verdict="accepted",
        source="online",
        min_policy_version=spans[0][0],
        max_policy_version=spans[-1][0],
        metadata={"work_id": "3", **spans_to_metadata(spans)},
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_spans_name_the_version_of_every_token_in_order(increments: list[int]) -> None:
    versions = sorted(increments)
    spans = spans_of(versions)
    assert [version for version, num_tokens in spans for _ in range(num_tokens)] == versions
    assert len({version for version, _ in spans}) == len(spans)
    (decoded,) = decode_trajectories(encode_trajectories([make_trajectory(spans)]))
    assert version_spans(decoded) == spans


def test_one_version_needs_no_metadata() -> None:
    trajectory = make_trajectory(((7, 12),))
    assert trajectory.metadata == {"work_id": "3"}
    assert version_spans(trajectory) == ((7, 12),)


def test_the_store_keeps_spans(tmp_path: Path) -> None:
    spans = ((10, 57), (20, 31), (40, 1))
    with TrajectoryStore.open(tmp_path / "store", "a", "tokenizer") as store:
        (position,) = store.append([make_trajectory(spans)])
        store.commit()
        assert store[position].metadata["policy_versions"] == "10:57 20:31 40:1"
        assert version_spans(store[position]) == spans


def test_other_text_under_the_key_is_an_error() -> None:
    trajectory = Trajectory(
        problem_id="p",
        prompt_tokens=[1],
        response_tokens=[2],
        reward=0.0,
        verdict="accepted",
        source="online",
        metadata={"policy_versions": "ten"},
    )
    with pytest.raises(ValueError, match="ten"):
        version_spans(trajectory)
