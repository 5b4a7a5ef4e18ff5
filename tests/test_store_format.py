"""Stores written once and kept: what any later version must still read, and must still refuse.

`tests/fixtures/store-N` was written by version N of the format: each has a sealed segment, and a live one whose last
append is cut. From the second on there are late columns and a deletion as well, from the third on enough tokens are
coded by rank, from the fourth on the sealed segment was merged from three, in the fifth columns are coded by prefix
codes. The names and numbers below say what is in them.
"""

import shutil
from pathlib import Path

import pytest

from spo.store import CorruptShardError, Trajectory, TrajectoryStore
from spo.store_copy import read_each

FIXTURES = Path(__file__).parent / "fixtures"
CUT_BYTES = 9
"""How much is missing of the record that is cut."""
DAMAGED = {
    "damaged-identity": ("store.spo", 5),
    "damaged-header": (r"segment-00000003.spo", 5),
    "damaged-record": (r"segment-00000003.spo", 4),
    "damaged-footer": (r"segment-00000003.spo", 5),
    "damaged-live": (r"segment-00000004.live", 4),
    "cut-sealed": (r"segment-00000003.spo", 4),
}
"""Fixtures that are `store-4`, damaged by `damage`: the file that is named, and how many of five records are kept."""


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


def late() -> dict[str, list[object]]:
    """What the fixtures from the second on have of the first two records only in late columns."""
    return {
        "reference_logprobs": [[], [-place / 9 for place in range(40)]],
        "mc_successes": [None, ([0, 7, 40], [0, 3, 16], [16, 16, 16])],
        "reward": [0.75, None],
    }


def late_records() -> list[Trajectory]:
    """The first two records as they are with their late columns."""
    return [
        Trajectory(
            problem_id=record.problem_id,
            prompt_tokens=record.prompt_tokens,
            response_tokens=record.response_tokens,
            reward=record.reward if reward is None else reward,
            verdict=record.verdict,
            source=record.source,
            behavior_logprobs=record.behavior_logprobs,
            reference_logprobs=reference,
            min_policy_version=record.min_policy_version,
            max_policy_version=record.max_policy_version,
            temperature=record.temperature,
            top_p=record.top_p,
            seed=record.seed,
            metadata=record.metadata,
            mc_successes=counts,
        )
        for record, reference, counts, reward in zip(records()[:2], *late().values(), strict=True)  # type: ignore[arg-type]
    ]


def patterned(source: str, length: int, logprobs: bool) -> Trajectory:
    """A trajectory of few different tokens, with logprobs of few different sizes."""
    tokens = [7919 * place % 300 for place in range(length)]
    column = [token / -64 for token in tokens] if logprobs else None
    return Trajectory(source, [], tokens, 0.0, "", source, column)


LEARNED_FROM = [patterned("common", 2**12, logprobs=True), patterned("common", 2**16, logprobs=False)]
CODED = patterned("coded", 250, logprobs=True)
"""What the prefix codes of the fifth fixture fit."""


def write(path: Path) -> None:
    """How the fifth fixture was written; the fourth was so without `CODED` and the first of `LEARNED_FROM`, the third
    without `compact`, the second without `LEARNED_FROM`, the first without late columns.
    """
    with TrajectoryStore.open(path, tokenizer="sha256:fixture", segment_bytes=1) as store:
        store.append([*LEARNED_FROM, CODED])
        ids = store.append(records()[:2])
        store.append(records()[2:3])
    with TrajectoryStore.open(path) as store:
        assert store.compact()["merged"] == 2
        (deleted,) = store.append([records()[0]])
        store.annotate(ids, reference_logprobs=[[], [0.0] * 40])
        store.annotate(ids, **late())  # type: ignore[arg-type]
        store.delete([deleted])
        store.append(records()[3:4])
        store.append(records()[4:])
    (live,) = path.glob("segment-*.live")
    live.write_bytes(live.read_bytes()[:-CUT_BYTES])


@pytest.mark.parametrize(
    ("name", "first_two", "sealed"),
    [
        ("store-1", records()[:2], 1),
        ("store-2", late_records(), 1),
        ("store-3", late_records(), 2),
        ("store-4", late_records(), 1),
        ("store-5", late_records(), 1),
    ],
)
def test_earlier_formats_are_read_and_gone_on_with(
    tmp_path: Path, name: str, first_two: list[Trajectory], sealed: int
) -> None:
    path = tmp_path / "store"
    shutil.copytree(FIXTURES / name, path)
    with TrajectoryStore.open(path, "r") as store:
        ids = store.scan(source="offline") + store.scan(source="online")
        assert store.tokenizer == "sha256:fixture"
        assert store.read_many(ids) == first_two + records()[2:4]
        assert store.info()["sealed_segments"] == sealed
        assert store.read_many(store.scan(source="coded")) == ([CODED] if name == "store-5" else [])
        expected = [record.reference_logprobs is not None for record in first_two + records()[2:4]]
        assert store.scan(has=["reference_logprobs"]) == [id for id, has in zip(ids, expected, strict=True) if has]
    with TrajectoryStore.open(path) as store:
        assert len(store.torn_tails) == 1
        ids += store.append(records()[4:])
        store.annotate(ids[2:3], reward=[0.25])
    with TrajectoryStore.open(path, "r") as store:
        assert store.scan(source="offline") + store.scan(source="online") == ids
        assert store.read_many(ids)[3:] == records()[3:]
        assert store[ids[2]].reward == 0.25


def test_what_is_written_now_has_the_sizes_of_the_last_fixture(tmp_path: Path) -> None:
    write(tmp_path / "store")

    def sizes(path: Path) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in path.iterdir()}

    now, then = sizes(tmp_path / "store"), sizes(FIXTURES / "store-5")
    assert now.keys() == then.keys()
    # Compressors may change by a few bytes; the layout may not without a new fixture.
    assert all(abs(now[name] - then[name]) <= 16 for name in then), (now, then)


def test_a_file_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(FIXTURES / "store-5", path)
    identity = path / "store.spo"
    data = bytearray(identity.read_bytes())
    data[6] += 1
    identity.write_bytes(data)
    with pytest.raises(CorruptShardError, match="another version"):
        TrajectoryStore.open(path, "r")


@pytest.mark.parametrize("name", ["store-1", "store-2", "store-3", "store-4", "store-5"])
def test_earlier_formats_are_compacted_into_the_present_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(FIXTURES / name, path)
    with TrajectoryStore.open(path) as store:
        ids = store.scan()
        before = store.read_many(ids)
        assert store.compact()["segments"] >= 1
        assert store.scan() == ids
        assert store.read_many(ids) == before
    with TrajectoryStore.open(path, "r") as store:
        assert store.scan() == ids
        assert store.read_many(ids) == before


def damage(name: str, path: Path) -> None:
    """How the damaged fixtures were made of a copy of the fourth one."""
    file = path / DAMAGED[name][0]
    data = bytearray(file.read_bytes())
    magics = [at for at in range(len(data)) if data[at : at + 4] == b"SPOf"]
    match name:
        case "damaged-identity" | "damaged-header":
            data[magics[0] + 40] ^= 1
        case "damaged-record":
            data[magics[-2] + 60] ^= 16
        case "damaged-footer":
            data[magics[-1] + 40] ^= 128
        case "damaged-live":
            data[magics[-2] + 40] ^= 2
        case "cut-sealed":
            del data[magics[-2] + 20 :]
    file.write_bytes(data)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_store_is_refused_by_name_and_read_around(tmp_path: Path, name: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(FIXTURES / name, path)
    file, kept = DAMAGED[name]
    for mode in ("r", "a"):
        with (
            pytest.raises(CorruptShardError, match=rf"{file}: damaged at byte \d+"),
            TrajectoryStore.open(path, mode) as store,  # type: ignore[arg-type]
        ):
            store.read_many(store.scan())
    with TrajectoryStore.open(path, "r", skip_damage=True) as store:
        readable = [one for _, one in read_each(store, store.scan()) if isinstance(one, Trajectory)]
    assert len(readable) == kept
    assert len({one.content_hash for one in readable} - {one.content_hash for one in records()}) <= 1, "`LEARNED_FROM`"
