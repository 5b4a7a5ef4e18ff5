"""The store on disks that are full or fail: a small one in memory, and one whose backing has less room than it says.

Mounting takes root and, for the second, a loop device; where the system refuses, the tests are skipped and say so.
`tests/store.rs` has the same with syncs that fail on purpose, `test_store_processes.py` with a limit on file sizes;
they need nothing of the system.
"""

import errno
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from spo.store import StoreError, Trajectory, TrajectoryStore


def run(*command: str | Path) -> None:
    """Runs a command of the system's; skips the test where it is missing or refused."""
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]} here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{command[0]} is refused here: {error.stderr.decode().strip()}")


@contextmanager
def mounted(place: Path, *arguments: str | Path) -> Iterator[Path]:
    """Something mounted in a new directory."""
    place.mkdir()
    run("mount", *arguments, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, timeout=60)


def record(number: int) -> Trajectory:
    """About two kilobytes that do not compress."""
    rng = np.random.default_rng(number)
    return Trajectory("p", [1, 2], rng.integers(0, 2**30, 500).astype(np.int32), -1.0, "", "online", seed=number)


def test_on_a_full_disk_nothing_is_damaged_and_the_store_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(300_000))
        store = TrajectoryStore.open(disk / "store", tokenizer="tests", segment_bytes=100_000)
        written: list[int] = []

        def fill() -> None:
            while True:
                written.extend(store.append([record(len(written)), record(len(written) + 1)]))
                store.commit()

        def until_full(attempt: Callable[[], object]) -> None:
            for _ in range(100):
                attempt()

        def fails(attempt: Callable[[], object]) -> None:
            with pytest.raises(OSError, match=r"append to|create|compact|replace|seal") as full:
                attempt()
            assert full.value.errno == errno.ENOSPC

        def check(opened: TrajectoryStore) -> None:
            assert opened.scan() == written
            assert [one.seed for one in opened.read_many(written)] == [*range(len(written))]

        def refused() -> None:
            before = sorted(file.name for file in (disk / "store").iterdir())
            late = [np.full(500, -0.1, np.float32)]
            fails(lambda: until_full(lambda: store.annotate(written[:1], reference_logprobs=late)))
            fails(lambda: until_full(store.compact))
            fails(lambda: TrajectoryStore.open(disk / "another", tokenizer="tests"))
            # Trying again and again leaves nothing behind, but for one new segment that waits to be used.
            assert len({file.name for file in (disk / "store").iterdir()} - set(before)) <= 1
            check(store)
            with TrajectoryStore.open(disk / "store", "r") as reader:
                check(reader)

        fails(fill)
        assert len(written) > 100
        refused()
        ballast.unlink()
        written.extend(store.append([record(len(written))]))
        store.commit()
        check(store)
        assert store.compact()["bytes_after"] > 0
        store.close()
        with TrajectoryStore.open(disk / "store") as again:
            assert again.torn_tails == []
            check(again)


def test_a_sync_that_the_disk_fails_is_told_and_what_was_committed_before_is_there(tmp_path: Path) -> None:
    with mounted(tmp_path / "backing", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as backing:
        image = backing / "image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        run("mkfs.ext4", "-q", "-F", image)
        with mounted(tmp_path / "disk", "-o", "loop", image) as disk:
            store = TrajectoryStore.open(disk / "store", tokenizer="tests")
            committed = store.append([record(0), record(1)])
            store.commit()
            # More than there is room for behind the file system, which does not know.
            for start in range(2, 3000, 100):
                store.append([record(number) for number in range(start, start + 100)])
            with pytest.raises(OSError, match="make durable") as failed:
                store.commit()
            assert failed.value.errno in (errno.EIO, errno.ENOSPC)
            for refused in (store.commit, lambda: store.append([record(0)]), lambda: store.delete(committed)):
                with pytest.raises(StoreError, match="refuses to go on"):
                    refused()
            assert [one.seed for one in store.read_many(committed)] == [0, 1]
