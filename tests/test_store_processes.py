"""The store between processes: killed writers, readers that follow, a system that refuses."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from spo.store import TrajectoryStore

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


TIMED_WRITER = """
import json, sys, time
from spo.store import StoreError, Trajectory, TrajectoryStore

path, writer = sys.argv[1], int(sys.argv[2])
store = TrajectoryStore.open(path, tokenizer="tests", segment_bytes=8_000)
committed = {}
for number in range(0, 120, 2):
    batch = [
        Trajectory("p", range(n % 50), range(n % 90), -1.0, "wrong_answer", f"writer-{writer}", seed=n)
        for n in (number, number + 1)
    ]
    ids = store.append(batch)
    store.annotate(ids[:1], reward=[number / 2])
    store.commit()
    committed.update(dict.fromkeys(ids, time.monotonic()))
    if number == 60 * writer:
        try:
            store.compact()
        except StoreError as error:
            assert "another process" in str(error), error
print(json.dumps(committed))
"""

TIMED_READER = """
import json, select, sys, time
from spo.store import TrajectoryStore

store = TrajectoryStore.open(sys.argv[1], "r")
seen, looks = {}, []
print("ready", flush=True)
while True:
    last = bool(select.select([sys.stdin], [], [], 0)[0])
    began = time.monotonic()
    new = [one for one in store.scan() if one not in seen]
    looks.append(began)
    for one, record in zip(new, store.read_many(new)):
        assert len(record.prompt_tokens) == record.seed % 50 and len(record.response_tokens) == record.seed % 90
        seen[one] = began
    if last:
        break
rewards = [store[one].reward for one in seen]
print(json.dumps({"seen": seen, "looks": looks, "revised": sum(reward >= 0 for reward in rewards)}))
"""


def test_two_readers_see_at_their_next_look_what_three_writers_have_committed(tmp_path: Path) -> None:
    """And a look takes far less than a second, so that readers are never a second behind."""
    TrajectoryStore.open(tmp_path, tokenizer="tests").close()

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tmp_path), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    readers = [start(TIMED_READER) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    writers = [start(TIMED_WRITER, writer) for writer in range(3)]
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    committed = {record_id: at for output in outputs for record_id, at in json.loads(output).items()}
    assert len(committed) == 3 * 120
    for reader in readers:
        told = json.loads(reader.communicate("end", timeout=120)[0])
        assert told["seen"].keys() == committed.keys()
        assert told["revised"] == 3 * 60
        for record_id, at in committed.items():
            next_look = min(look for look in told["looks"] if look >= at)
            assert told["seen"][record_id] <= next_look, "committed before this look, seen only later"


FULL_DISK = """
import resource, sys
from spo.store import Trajectory, TrajectoryStore

def full(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

store = TrajectoryStore.open(sys.argv[1], tokenizer="tests")
record = Trajectory("p", range(1000), range(1000), -1.0, "wrong_answer", "online")
(first,) = store.append([record])
size = store.info()["bytes"]
late = {"reference_logprobs": [[-1 / n for n in range(1, 1001)]]}
for write in (lambda: store.append([record]), lambda: store.annotate([first], **late), lambda: store.delete([first])):
    full(size + 20)
    try:
        write()
    except OSError as error:
        assert "append to" in str(error), error
    else:
        raise SystemExit("the write beyond the limit did not fail")
    assert store.scan() == [first] and store.info()["bytes"] == size
    full(resource.RLIM_INFINITY)
(second,) = store.append([record])
store.annotate([first], **late)
store.commit()
assert store[second] == record and len(store[first].reference_logprobs) == 1000
store.compact()
store.delete([second])
full(3000)
try:
    store.compact()
except OSError as error:
    assert "compact" in str(error) or "replace" in str(error), error
else:
    raise SystemExit("the compaction beyond the limit did not fail")
full(resource.RLIM_INFINITY)
assert store.scan() == [first] and store.compact()["records"] == 1
(second,) = store.append([record])
store.commit()
"""


def test_a_write_that_the_system_refuses_is_taken_back_and_can_be_tried_again(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with TrajectoryStore.open(tmp_path, "r") as store:
        assert len(store) == 2


def test_writers_and_readers_of_many_kinds_are_killed_and_nothing_is_lost() -> None:
    """The short form of `tests/crash_store.py`; run that with more kills and another seed."""
    command = [sys.executable, str(Path(__file__).parent / "crash_store.py"), "--kills", "60", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "nothing lost, nothing twice" in done.stdout
