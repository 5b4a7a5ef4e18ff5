"""Stores in places that the system makes hard: not permitted, in the way, linked in circles, oddly named."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spo.store import Trajectory, TrajectoryStore

SEALED, LIVE, NEXT = "segment-00000001.spo", "segment-00000002.live", "segment-00000003.spo"
NOBODY = 65534
AS_NOBODY = """
import os, sys
from spo.store import TrajectoryStore
if os.geteuid() == 0:
    os.setgid(int(sys.argv[3])), os.setuid(int(sys.argv[3]))
try:
    with TrajectoryStore.open(sys.argv[1], sys.argv[2]) as store:
        print(len(store.read_many(store.scan())))
except PermissionError as error:
    print(error)
"""


def record(number: int) -> Trajectory:
    return Trajectory(f"p{number}", [1, 2], range(50), -1.0, "wrong_answer", "online", seed=number)


def make(path: Path) -> Path:
    """A store with a sealed segment and a live one, a record in each."""
    for number in range(2):
        with TrajectoryStore.open(path, tokenizer="tests", segment_bytes=1) as store:
            store.append([record(number)])
    return path


def linked_in_circles(path: Path) -> Path:
    """A link that leads to itself."""
    path.symlink_to(path.name)
    return path


def written(path: Path) -> Path:
    """A file."""
    path.write_text("in the way")
    return path


def with_a_segment(put: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A store with something else where a segment could be."""

    def place(path: Path) -> Path:
        put(make(path) / NEXT)
        return path

    return place


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param(written, "a file or broken link is where a directory must be", id="a file"),
        pytest.param(linked_in_circles, "remove it|move it away", id="a link to itself"),
        pytest.param(with_a_segment(linked_in_circles), f"{NEXT} .a link leads to itself: remove it", id="a segment"),
    ],
)
def test_a_place_where_no_store_can_be_is_named_with_the_remedy(
    tmp_path: Path, place: Callable[[Path], Path], message: str, mode: str
) -> None:
    path = place(tmp_path / "place")
    with pytest.raises(OSError, match=message) as caught:
        TrajectoryStore.open(path, mode, tokenizer="tests")  # type: ignore[arg-type]
    assert str(path) in str(caught.value)


def test_an_empty_path_is_refused_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name a directory"):
        TrajectoryStore.open("", tokenizer="tests")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["with spaces", "quo'\"tes", "größe 漢字", "-dash", "per%cent\\n"])
def test_names_of_any_characters_are_places_for_a_store(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name)
    with TrajectoryStore.open(path) as store:
        assert [store[at] for at in store.scan()] == [record(0), record(1)]


@pytest.mark.parametrize(
    ("unreadable", "mode", "says"),
    [
        ("", "r", "2"),
        ("", "a", f"{LIVE} (let this user read the store, and write to it unless"),
        (SEALED, "r", f"{SEALED} (let this user read the store"),
        (".", "r", "(let this user read the store"),
    ],
)
def test_what_another_user_may_not_is_named_with_the_remedy(unreadable: str, mode: str, says: str) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to other users.
        Path(directory).chmod(0o755)
        path = make(Path(directory) / "store")
        for file in (*path.iterdir(), path):
            file.chmod(0o555 if file == path else 0o444)
        if unreadable:
            (path / unreadable).chmod(0)
        command = [sys.executable, "-c", AS_NOBODY, str(path), mode, str(NOBODY)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        path.chmod(0o755)
    assert says in printed


def test_a_segment_that_cannot_get_its_sealed_name_loses_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    in_the_way = path / LIVE.replace("live", "spo")
    with TrajectoryStore.open(path, segment_bytes=1) as store:
        in_the_way.mkdir()
        with pytest.raises(OSError, match=f"{in_the_way.name} .a directory is where a file must be: move it away"):
            store.append([record(2)])
        store.append([record(3)])
        store.commit()
    in_the_way.rmdir()
    with TrajectoryStore.open(path) as store:
        assert [store[at] for at in store.scan()] == [record(0), record(1), record(3)]
