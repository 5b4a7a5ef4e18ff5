"""Stores written once and kept: what any later version must still read, and must still refuse.

`tests/fixtures/store-1` was written by the first version of the format: a sealed segment, and a live one whose last
append is cut. The names and numbers below say what is in it.
"""

import shutil
from pathlib import Path

import pytest

from spo.store import CorruptShardError, Trajectory, TrajectoryStore

FIXTURE = Path(__file__).parent / "fixtures" / "store-1"
CUT_BYTES = 9
"""How much is missing of the record that is cut."""


def records() -> list[Trajectory]:
    """What the fixture was made of, five records; the last is the one that is cut."""
    prompt = [(7919 * place) % 5000 for place in range(120)]
    return [
        Trajectory(
            problem_id=f"problem-{number // 2}",
            prompt_tokens=prompt if number < 4 else [],
            response_tokens=[(place * place + number) % 2**31 for place in range(40 * number)],
            reward=-(number % 2) / 3,
            verdict="accepted" if number % 2 == 0 else "wrong_answer",
            source="online" if number else "offline",
            behavior_logprobs=[-place / 7 for place in range(40 * number)] if number % 2 else None,
            reference_logprobs=[-place / 3 for place in range(40 * number)] if number == 2 else None,
            min_policy_version=number,
            max_policy_version=2**64 - 1 if number == 3 else number,
            temperature=0.1 * number,
            top_p=0.95,
            seed=2**63 + number,
            metadata={"günther": "ä" * number} if number else {},
        )
        for number in range(5)
    ]


def write(path: Path) -> None:
    """How the fixture was written."""
    with TrajectoryStore.open(path, tokenizer="sha256:fixture", segment_bytes=1) as store:
        for part in (records()[:2], records()[2:3]):
            store.append(part)
    with TrajectoryStore.open(path) as store:
        store.append(records()[3:4])
        store.append(records()[4:])
    (live,) = path.glob("segment-*.live")
    live.write_bytes(live.read_bytes()[:-CUT_BYTES])


def test_the_first_format_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(FIXTURE, path)
    with TrajectoryStore.open(path, "r") as store:
        assert store.tokenizer == "sha256:fixture"
        assert store.read_many(store.scan()) == records()[:4]
        assert store.info()["sealed_segments"] == 1
    with TrajectoryStore.open(path) as store:
        assert len(store.torn_tails) == 1
        store.append(records()[4:])
    with TrajectoryStore.open(path, "r") as store:
        assert store.read_many(store.scan()) == records()


def test_what_is_written_now_has_the_sizes_of_the_first_format(tmp_path: Path) -> None:
    write(tmp_path / "store")

    def sizes(path: Path) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in path.iterdir()}

    now, then = sizes(tmp_path / "store"), sizes(FIXTURE)
    assert now.keys() == then.keys()
    # Compressors may change by a few bytes; the layout may not without a new fixture.
    assert all(abs(now[name] - then[name]) <= 16 for name in then), (now, then)


def test_a_file_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(FIXTURE, path)
    identity = path / "store.spo"
    data = bytearray(identity.read_bytes())
    data[6] += 1
    identity.write_bytes(data)
    with pytest.raises(CorruptShardError, match="another version"):
        TrajectoryStore.open(path, "r")
