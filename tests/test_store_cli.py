"""`spo store …`: what each command prints, and what it does to the stores."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from spo.errors import ConfigError, CorruptShardError, StoreError
from spo.store import Trajectory, TrajectoryStore
from spo.store_cli import register


def spo_store(*words: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["store", *map(str, words)])
    code: int = arguments.run(arguments)
    return code


def make(number: int, **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "problem_id": f"p{number % 2}",
        "prompt_tokens": [1, 2],
        "response_tokens": [number, 3],
        "reward": -float(number % 2),
        "verdict": "accepted",
        "source": "online",
        "behavior_logprobs": [-0.1, -1 / 3],
        "seed": number,
        "metadata": {"n": str(number)},
    }
    return Trajectory(**{**fields, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "one" / "store"
    with TrajectoryStore.open(path, tokenizer="tests") as store:
        store.append([make(number) for number in range(5)])
    return path


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def records(path: Path) -> list[Trajectory]:
    with TrajectoryStore.open(path, "r") as store:
        read: list[Trajectory] = store.read_many(store.scan())
        return read


def test_ls_finds_stores_below_a_directory(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spo_store("ls", tmp_path, "--json") == 0
    (found,) = lines(capsys)
    assert (found["path"], found["records"]) == (str(path), 5)
    assert spo_store("ls", tmp_path) == 0
    assert "online 5" in capsys.readouterr().out


def test_info_gives_totals(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spo_store("info", path, "--json") == 0
    (info,) = lines(capsys)
    assert (info["prompt_tokens"], info["response_tokens"]) == (10, 10)
    assert spo_store("info", path) == 0
    assert "bytes_per_token" in capsys.readouterr().out


def test_cat_prints_what_the_filters_let_through(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spo_store("cat", path, "--problem", "p1", "--reward", "-1") == 0
    rows = lines(capsys)
    assert [row["seed"] for row in rows] == [1, 3]
    assert rows[0]["response_tokens"] == [1, 3]
    assert spo_store("cat", path, "--limit", 2) == 0
    assert len(lines(capsys)) == 2


def test_what_is_exported_can_be_imported_unchanged(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    assert spo_store("export", path, output) == 0
    assert spo_store("import", tmp_path / "copy", output, "--tokenizer", "tests") == 0
    assert records(tmp_path / "copy") == records(path)
    with pytest.raises(FileExistsError):
        spo_store("export", path, output)
    with pytest.raises(ConfigError, match="--tokenizer"):
        spo_store("import", tmp_path / "third", output)


def test_late_columns_go_along_with_copies(path: Path, tmp_path: Path) -> None:
    counts = ([1], [2], [3])
    with TrajectoryStore.open(path) as store:
        ids = store.scan()[:2]
        store.annotate(ids, reference_logprobs=[[-1.0, -2.0]] * 2, mc_successes=[counts, None], reward=[None, 0.5])
    assert spo_store("export", path, tmp_path / "rows.jsonl") == 0
    assert spo_store("import", tmp_path / "imported", tmp_path / "rows.jsonl", "--tokenizer", "tests") == 0
    assert spo_store("merge", tmp_path / "merged", path) == 0
    expected = records(path)
    assert expected[1].reward == 0.5
    assert expected[0] == make(0, reference_logprobs=[-1.0, -2.0], mc_successes=counts)
    assert records(tmp_path / "imported") == records(tmp_path / "merged") == expected


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "rows.jsonl:2: "),
        ('{"problem_id": "p"}', "rows.jsonl:2: .*prompt_tokens"),
        (
            '{"problem_id":"p","prompt_tokens":[],"response_tokens":[-1],"reward":0,"verdict":"","source":"s"}',
            r"rows.jsonl:2: response_tokens\[0\]",
        ),
    ],
)
def test_a_line_that_is_no_trajectory_is_named(path: Path, tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(StoreError, match=complaint):
        spo_store("import", path, file)
    assert len(records(path)) == 5


def test_verify_counts_damage_and_fails(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spo_store("verify", path, "--json") == 0
    assert lines(capsys) == [{"records": 5, "damaged": {}, "damaged_places": 0}]
    (segment,) = path.glob("segment-*.live")
    data = bytearray(segment.read_bytes())
    data[data.index(b"accepted")] ^= 1
    segment.write_bytes(data)
    assert spo_store("verify", path) == 1
    assert "1 other damaged places" in capsys.readouterr().out


def test_verify_names_damaged_records_of_sealed_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrajectoryStore.open(tmp_path, tokenizer="tests", segment_bytes=1) as store:
        ids = store.append([make(0), make(1)])
        store.append([make(2)])
    (segment,) = tmp_path.glob("segment-*1.spo")
    data = bytearray(segment.read_bytes())
    data[data.rindex(b"accepted")] ^= 1
    segment.write_bytes(data)
    assert spo_store("verify", tmp_path, "--json") == 1
    (report,) = lines(capsys)
    assert [*report["damaged"]] == [str(ids[1])]
    assert "segment-00000001.spo: damaged at byte" in report["damaged"][str(ids[1])]


def test_merge_saves_what_can_be_read_of_a_damaged_store(tmp_path: Path) -> None:
    damaged, saved = tmp_path / "damaged", tmp_path / "saved"
    with TrajectoryStore.open(damaged, tokenizer="tests", segment_bytes=1) as store:
        store.append([make(0), make(1)])
        store.append([make(2)])
        store.append([make(3)])
        store.append([make(4)])
    first, second = sorted(damaged.glob("segment-*.spo"))[:2]
    for segment in (first, second):
        data = bytearray(segment.read_bytes())
        data[data.index(b"accepted")] ^= 1
        segment.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(CorruptShardError):
        spo_store("merge", saved, damaged)
    assert spo_store("merge", saved, damaged, "--skip-damage") == 0
    assert [record.seed for record in records(saved)] == [1, 3, 4]


def test_merge_appends_all_or_each_once(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with TrajectoryStore.open(other, tokenizer="tests") as store:
        store.append([make(4), make(9)])
    assert spo_store("merge", tmp_path / "all", path, other) == 0
    assert [record.seed for record in records(tmp_path / "all")] == [0, 1, 2, 3, 4, 4, 9]
    assert spo_store("merge", tmp_path / "once", path, other, "--dedup") == 0
    assert [record.seed for record in records(tmp_path / "once")] == [0, 1, 2, 3, 4, 9]
    assert spo_store("merge", tmp_path / "once", path, other, "--dedup") == 0
    assert len(records(tmp_path / "once")) == 6, "nothing is new the second time"


def test_merge_refuses_other_tokenizers_and_itself(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    TrajectoryStore.open(other, tokenizer="another").close()
    with pytest.raises(StoreError, match="never mix"):
        spo_store("merge", tmp_path / "all", path, other)
    with pytest.raises(StoreError, match="itself"):
        spo_store("merge", path, path)
    assert not (tmp_path / "all").exists()
