"""The store through Python: columns, filters, errors, threads, damage."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spo.store import (
    CorruptShardError,
    StoreError,
    Trajectory,
    TrajectoryStore,
)

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


def open_store(path: Path, **options: Any) -> TrajectoryStore:
    return TrajectoryStore.open(path, tokenizer="tests", **options)


def test_columns_are_read_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.append([make(behavior_logprobs=[-1.0, -2.0]), make(response_tokens=[], reward=0.0)])
        columns = store.read_many(reversed(ids), ["tokens", "reward", "behavior_logprobs"])
        assert [array.tolist() for array in columns["tokens"]] == [[1, 2, 3], [1, 2, 3, 4, 5]]
        assert columns["reward"] == [0.0, -1.0]
        assert columns["behavior_logprobs"][0] is None
        assert columns["behavior_logprobs"][1].tolist() == [-1.0, -2.0]
        with pytest.raises(ValueError, match="'rewards'"):
            store.read_many(ids, ["rewards"])


def test_tokens_of_many_records_come_in_one_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 300, (200, 2))
    records = [
        make(prompt_tokens=[7] * prompt, response_tokens=rng.zipf(1.3, response) % 200_000, problem_id=str(prompt))
        for prompt, response in lengths
    ]
    # The ranks of tokens are learned on the way.
    common = make(response_tokens=rng.zipf(1.3, 2**16) % 200_000)
    with open_store(tmp_path, segment_bytes=20_000) as store:
        ids = store.append(records[:50]) + store.append([common])
        for start in range(50, 200, 10):
            ids += store.append(records[start : start + 10])
        records.insert(50, common)
        places = [*rng.permutation(len(ids)), 3, 3]
        tokens, begins = store.read_tokens([ids[place] for place in places])
        assert tokens.dtype == np.int32
        assert len(begins) == len(places) + 1
        for place, part in zip(places, np.split(tokens, begins[1:-1].astype(int)), strict=True):
            assert part.tolist() == records[place].tokens.tolist()
        empty, none = store.read_tokens([])
        assert (len(empty), none.tolist()) == (0, [0])
        with pytest.raises(StoreError, match="has no record 77"):
            store.read_tokens([ids[0], 77])


def test_scan_filters_and_keeps_the_order_of_appends(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = store.append([make(), make(source="offline", reward=0.0), make(problem_id="p2")])
        time.sleep(0.002)
        later = time.time()
        second = store.append([make(problem_id="p2", reward=0.0)])
        assert store.scan() == first + second
        assert store.scan(source="offline") == first[1:2]
        assert store.scan(problem="p2", reward=0.0) == second
        assert store.scan(since=later) == second
        assert len(store) == 4


def test_late_columns_are_annotated_read_and_scanned_for(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.append([make(seed=0), make(seed=1, reference_logprobs=[-9.0, -9.0]), make(seed=2)])
        counts = ([0, 2], [1, 4], [4, 4])
        store.annotate(
            ids,
            reference_logprobs=[np.array([-1.0, -2.0], dtype=np.float32), [-3, -4], None],
            mc_successes=[None, counts, None],
            reward=[None, 0.5, None],
        )
        with TrajectoryStore.open(tmp_path, "r") as reader:
            for seen in (store, reader):
                assert seen[ids[0]] == make(seed=0, reference_logprobs=[-1.0, -2.0])
                late = make(seed=1, reference_logprobs=[-3.0, -4.0], mc_successes=counts, reward=0.5)
                assert seen[ids[1]] == late
                columns = seen.read_many(ids, ["mc_successes", "reference_logprobs", "reward"])
                assert columns["mc_successes"][::2] == [None, None]
                assert [column.tolist() for column in columns["mc_successes"][1]] == [*counts]
                assert columns["mc_successes"][1][0].dtype == np.uint32
                assert columns["reward"] == [-1.0, 0.5, -1.0]
                assert seen.scan(has=["reference_logprobs"]) == ids[:2]
                assert seen.scan(has=["reference_logprobs"], lacks=["mc_successes"]) == ids[:1]
                assert seen.scan(lacks=["reference_logprobs"]) == ids[2:]
                assert seen.scan(reward=0.5) == ids[1:2]


def test_wrong_late_columns_are_named_and_nothing_is_annotated(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.append([make(), make(seed=1)])
        good = [-1.0, -2.0]
        with pytest.raises(ValueError, match=r"reference_logprobs has 1 items for 2 ids"):
            store.annotate(ids, reference_logprobs=[good])
        with pytest.raises(ValueError, match=rf"record {ids[1]}: reference_logprobs has 3 values for 2 response"):
            store.annotate(ids, reference_logprobs=[good, [*good, -3.0]])
        with pytest.raises(ValueError, match="triple of positions, successes and trials"):
            store.annotate(ids, reference_logprobs=[good, good], mc_successes=[([1], [2]), None])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="2 successes in 1 trials"):
            store.annotate(ids, mc_successes=[([1], [2], [1]), None])
        with pytest.raises(StoreError, match="no record 5"):
            store.annotate([5], reference_logprobs=[good])
        with pytest.raises(ValueError, match='"tokens"'):
            store.scan(has=["tokens"])
        with pytest.raises(ValueError, match="sequences of column names"):
            store.scan(has="reference_logprobs")
        assert store.scan(has=["reference_logprobs"]) == []
    with TrajectoryStore.open(tmp_path, "r") as reader, pytest.raises(StoreError, match="open for reading"):
        reader.annotate(ids, reference_logprobs=[good, good])


def test_deleted_records_are_gone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.append([make(seed=number) for number in range(3)])
        store.delete(ids[:1])
        assert store.scan() == ids[1:]
        with pytest.raises(StoreError, match=f"no record {ids[0]}"):
            store[ids[0]]
    with open_store(tmp_path) as store:
        assert (len(store), store.info()["records"]) == (2, 2)


def test_info_counts(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.append([make(), make(source="offline")])
        info = store.info()
    assert info["path"] == str(tmp_path)
    assert info["tokenizer"] == "tests"
    assert (info["records"], info["prompt_tokens"], info["response_tokens"]) == (2, 6, 4)
    assert info["sources"] == {"online": 1, "offline": 1}
    assert info["bytes"] == sum(file.stat().st_size for file in tmp_path.glob("segment-*"))


def test_wrong_uses_have_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="trajectory store"):
        TrajectoryStore.open(tmp_path / "none", "r")
    with pytest.raises(ValueError, match="tokenizer must be given"):
        TrajectoryStore.open(tmp_path / "none")
    with pytest.raises(ValueError, match="mode must be"):
        TrajectoryStore.open(tmp_path, "w")  # type: ignore[arg-type]
    for size in (0, 2**31):
        with pytest.raises(ValueError, match="segment_bytes"):
            open_store(tmp_path, segment_bytes=size)
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match="no record 99"):
        store[99]
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        len(store)
    with pytest.raises(StoreError, match='"other"'):
        TrajectoryStore.open(tmp_path, tokenizer="other")
    with TrajectoryStore.open(tmp_path, "r") as reader, pytest.raises(StoreError, match="open for reading"):
        reader.append([make()])


def test_a_store_in_an_unwritable_place_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        open_store(tmp_path / "file" / "store")


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = open_store(tmp_path, segment_bytes=3000)
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for turn in range(20):
                record = make(seed=thread * 1000 + turn)
                (record_id,) = store.append([record])
                store.commit()
                assert store[record_id] == record
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert sorted(record.seed for record in store.read_many(store.scan())) == sorted(
        thread * 1000 + turn for thread in range(4) for turn in range(20)
    )


def test_a_torn_tail_is_cut_off_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(tmp_path) as store:
        (kept,) = store.append([make()])
        store.append([make(seed=1)])
    (segment,) = tmp_path.glob("segment-*.live")
    os.truncate(segment, segment.stat().st_size - 5)
    with caplog.at_level(logging.WARNING), open_store(tmp_path) as store:
        assert store.scan() == [kept]
        assert [file for file, _, _ in store.torn_tails] == [str(segment)]
    assert "cut off an unfinished append" in caplog.text


def test_damage_is_refused_by_name_and_can_be_skipped(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.append([make()])
        store.append([make(seed=1)])
    (segment,) = tmp_path.glob("segment-*.live")
    data = bytearray(segment.read_bytes())
    data[data.index(b"wrong_answer")] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CorruptShardError, match=rf"{segment.name}: damaged at byte \d+"):
        open_store(tmp_path)
    with TrajectoryStore.open(tmp_path, "r", skip_damage=True) as store:
        assert [record.seed for record in store.read_many(store.scan())] == [1]
        assert store.info()["skipped"] == 1


def test_ctrl_c_ends_a_long_append_without_writing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    record = make(prompt_tokens=np.arange(400_000), response_tokens=np.arange(400_000))
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        store.append([record] * 3000)
    timer.join()
    assert len(store) == 0
