"""The store through Python: records, errors, threads, processes, and what a killed writer leaves."""

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spo.store import (
    CorruptShardError,
    StoreError,
    Trajectory,
    TrajectoryStore,
    decode_trajectories,
    encode_trajectories,
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
    with open_store(path) as store:
        ids = store.append(records)
    with TrajectoryStore.open(path, "r") as store:
        assert store.read_many(ids) == records
        assert store.scan() == ids


def test_damaged_messages_are_refused() -> None:
    message = encode_trajectories([make()])
    for damaged in (b"", message[:-1], message + b"\0", bytes([message[0] ^ 1]) + message[1:]):
        with pytest.raises(CorruptShardError):
            decode_trajectories(damaged)


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


WRITER = """
import sys
from spo.store import Trajectory, TrajectoryStore

path, writer = sys.argv[1], int(sys.argv[2])
store = TrajectoryStore.open(path, tokenizer="tests", segment_bytes=20_000)
number = 0
while True:
    batch = [
        Trajectory("p", range(n % 50), range(n % 90), -1.0, "wrong_answer", f"writer-{writer}", seed=n)
        for n in range(number, number + 3)
    ]
    number += 3
    store.append(batch)
    store.commit()
    print(number, flush=True)
"""


def start_writer(path: Path, writer: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(writer)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    with process.stdout as lines:
        return max((int(line) for line in lines if line.endswith("\n")), default=0)


def test_writers_killed_at_random_moments_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    rng = np.random.default_rng(20)
    for turn in range(6):
        processes = [start_writer(tmp_path, 2 * turn + side) for side in range(2)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        counts = [acknowledged(process) for process in processes]
        assert all(process.wait(60) == -signal.SIGKILL for process in processes)
        with TrajectoryStore.open(tmp_path, "r") as store:
            for side, count in enumerate(counts):
                ids = store.scan(source=f"writer-{2 * turn + side}")
                seeds = [record.seed for record in store.read_many(ids)]
                assert seeds == list(range(len(seeds))), "each once, in order"
                assert len(seeds) >= max(count, 3)
                assert len(seeds) % 3 == 0, "appends are whole"
    # A writer killed between creating a segment and sealing the one before leaves two.
    assert len(list(tmp_path.glob("*.live"))) <= 6, "twelve writers go on in what dead ones left"


def test_a_reader_sees_what_other_processes_append(tmp_path: Path) -> None:
    process = start_writer(tmp_path, 0)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with TrajectoryStore.open(tmp_path, "r") as store:
            for _ in range(5):
                written = int(process.stdout.readline())
                assert len(store) >= written
                assert [record.seed for record in store.read_many(store.scan())][:written] == [*range(written)]
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()  # type: ignore[union-attr]


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


FULL_DISK = """
import resource, sys
from spo.store import Trajectory, TrajectoryStore

store = TrajectoryStore.open(sys.argv[1], tokenizer="tests")
record = Trajectory("p", range(1000), range(1000), -1.0, "wrong_answer", "online")
(first,) = store.append([record])
size = store.info()["bytes"]
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
try:
    store.append([record])
except OSError as error:
    assert "append to" in str(error), error
else:
    raise SystemExit("the write beyond the limit did not fail")
assert store.scan() == [first] and store.info()["bytes"] == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
(second,) = store.append([record])
store.commit()
assert store.read_many([first, second]) == [record, record]
"""


def test_a_write_that_the_system_refuses_is_taken_back_and_can_be_tried_again(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with TrajectoryStore.open(tmp_path, "r") as store:
        assert len(store) == 2


def test_ctrl_c_ends_a_long_append_without_writing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    record = make(prompt_tokens=np.arange(400_000), response_tokens=np.arange(400_000))
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        store.append([record] * 3000)
    timer.join()
    assert len(store) == 0
