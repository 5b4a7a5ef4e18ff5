"""`spo store …`: what each command prints, and what it does to the stores."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
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


def test_ls_names_a_store_that_it_cannot_read_and_lists_the_others(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(__file__).parent / "fixtures" / "damaged-live", tmp_path / "damaged")
    assert spo_store("ls", tmp_path, "--json") == 1
    damaged, whole = sorted(lines(capsys), key=lambda line: "records" in line)
    assert "segment-00000004.live: damaged at byte" in damaged["error"]
    assert whole["path"] == str(path)
    assert spo_store("ls", tmp_path) == 1
    printed = capsys.readouterr()
    assert "spo: error:" in printed.err
    assert "online 5" in printed.out


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


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst", "rows.parquet"])
def test_what_is_exported_can_be_imported_unchanged(path: Path, tmp_path: Path, name: str) -> None:
    with TrajectoryStore.open(path) as store:
        store.annotate(store.scan()[:1], mc_successes=[([0, 2], [1, 0], [4, 4])], reference_logprobs=[[-1 / 7, -2.0]])
        store.append([make(2**62, response_tokens=[], behavior_logprobs=None, metadata={})])
    output = tmp_path / name
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


def test_the_compressed_file_is_one_that_others_read(path: Path, tmp_path: Path) -> None:
    assert spo_store("export", path, tmp_path / "rows.jsonl") == 0
    assert spo_store("export", path, tmp_path / "rows.jsonl.zst") == 0
    with pyarrow.input_stream(str(tmp_path / "rows.jsonl.zst"), compression="zstd") as stream:
        assert stream.read() == (tmp_path / "rows.jsonl").read_bytes()
    table = pyarrow.parquet.read_table  # What is in a Parquet file, others read by name.
    assert spo_store("export", path, tmp_path / "rows.parquet", "--reward", 0) == 0
    assert table(tmp_path / "rows.parquet")["seed"].to_pylist() == [0, 2, 4]


@pytest.mark.parametrize("form", ["verl", "skyrl"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_of_other_projects_keep_what_they_can_say(path: Path, tmp_path: Path, form: str, name: str) -> None:
    output, copy = tmp_path / name, tmp_path / "copy"
    assert spo_store("export", path, output, "--rows", form) == 0
    assert spo_store("import", copy, output, "--rows", form, "--tokenizer", "tests") == 0
    for ours, theirs in zip(records(path), records(copy), strict=True):
        assert theirs.content_hash == ours.content_hash
        assert (theirs.reward, theirs.source) == (ours.reward, form)
        assert theirs.behavior_logprobs.tolist() == ours.behavior_logprobs.tolist()  # type: ignore[union-attr]


def test_rows_of_other_projects_are_read_as_those_write_them(tmp_path: Path) -> None:
    verl, skyrl = tmp_path / "verl.jsonl", tmp_path / "skyrl.jsonl"
    verl.write_text(
        '{"uid":"a","prompt_ids":[1],"response_ids":[2,3],"response_mask":[1,1],"reward_score":1.0,"num_turns":2}\n'
    )
    skyrl.write_text(
        '{"instance_id":7,"prompt_token_ids":[1],"response_ids":[2,3],"loss_masks":[1,1],"stop_reason":"length",'
        '"rewards":[0.0,0.5],"rollout_logprobs":[-0.5,-1.0]}\n'
    )
    store = tmp_path / "store"
    assert spo_store("import", store, verl, "--rows", "verl", "--tokenizer", "tests") == 0
    assert spo_store("import", store, skyrl, "--rows", "skyrl") == 0
    assert records(store) == [
        Trajectory("a", [1], [2, 3], 1.0, "", "verl"),
        Trajectory("7", [1], [2, 3], 0.5, "length", "skyrl", behavior_logprobs=[-0.5, -1.0]),
    ]
    verl.write_text('{"input":"text","output":"more text","score":1.0}\n')
    with pytest.raises(StoreError, match=r"verl.jsonl:1: .*no problem_id or uid .*, only input, output, score"):
        spo_store("import", store, verl, "--rows", "verl")
    verl.write_text('{"uid":"a","prompt_ids":[1],"response_ids":[2,3],"response_mask":[1,0],"reward_score":1.0}\n')
    with pytest.raises(StoreError, match=r"verl.jsonl:1: response_mask"):
        spo_store("import", store, verl, "--rows", "verl")


def test_files_that_are_cut_or_of_another_kind_are_named(path: Path, tmp_path: Path) -> None:
    for name in ("rows.jsonl.zst", "rows.parquet"):
        file = tmp_path / name
        assert spo_store("export", path, file) == 0
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(StoreError, match=name):
            spo_store("import", path, file)
    with pytest.raises(StoreError, match=r"must end in .jsonl, .jsonl.zst or .parquet"):
        spo_store("export", path, tmp_path / "rows.csv")
    with pytest.raises(StoreError, match=r"must end in"):
        spo_store("import", path, tmp_path / "rows.json")
    assert len(records(path)) == 5


def test_without_pyarrow_parquet_is_refused_with_the_fix(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'spo-rl\[data\]'"):
        spo_store("export", path, tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_attach_lists_and_copies_nothing(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    TrajectoryStore.open(other, tokenizer="tests").close()
    assert spo_store("attach", other, path, "--json") == 0
    assert lines(capsys) == [{"store": str(other), "input": str(path), "listed": 5}]
    assert records(other) == records(path)
    with pytest.raises(StoreError, match="merge them instead"):
        spo_store("attach", path, other)


def test_dedup_deletes_what_came_before(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = records(path)
    with TrajectoryStore.open(path) as store:
        store.append([make(2, seed=77), make(9), make(9, reward=0.5)])
    expected.append(make(9))
    assert spo_store("dedup", path, "--dry-run") == 0
    assert "2 of 8" in capsys.readouterr().out
    assert len(records(path)) == 8
    assert spo_store("dedup", path, "--json") == 0
    assert lines(capsys) == [{"store": str(path), "records": 8, "duplicates": 2}]
    assert records(path) == expected
    assert spo_store("dedup", path) == 0
    assert records(path) == expected


def test_compact_gives_space_back(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrajectoryStore.open(path) as store:
        ids = store.scan()
        store.append([make(number, prompt_tokens=range(4000)) for number in range(20)])
        store.delete(store.scan()[5:])
    assert spo_store("compact", path, "--json") == 0
    (done,) = lines(capsys)
    assert (done["segments"], done["records"]) == (1, 20)
    assert done["bytes_after"] < done["bytes_before"]
    with TrajectoryStore.open(path, "r") as store:
        assert store.scan() == ids


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
    assert lines(capsys) == [{"records": 5, "damaged": {}, "damaged_places": 0, "missing_segments": []}]
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


def test_verify_reads_late_columns_that_no_longer_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrajectoryStore.open(tmp_path, tokenizer="tests") as store:
        ids = store.append([make(0)])
        store.annotate(ids, mc_successes=[([0, 1], [77, 99], [100, 100])])
        store.compact()
        store.annotate(ids, mc_successes=[([0], [0], [1])])
    assert spo_store("verify", tmp_path, "--json") == 0
    assert lines(capsys) == [{"records": 1, "damaged": {}, "damaged_places": 0, "missing_segments": []}]
    segment = tmp_path / "segment-00000001.spo"
    data = bytearray(segment.read_bytes())
    at = data.index(bytes([2, 0, 77, 100, 1, 99, 100]))
    data[at + 2] ^= 1
    segment.write_bytes(data)
    assert spo_store("verify", tmp_path, "--json") == 1
    assert lines(capsys) == [{"records": 1, "damaged": {}, "damaged_places": 1, "missing_segments": []}]


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
    assert spo_store("merge", tmp_path / "annotated", path, other, "--has", "reference_logprobs") == 0
    assert records(tmp_path / "annotated") == []
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
