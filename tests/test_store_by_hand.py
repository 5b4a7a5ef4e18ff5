"""Stores that hands have been at: files cut, zeroed, swapped, copied, lost, or of something else.

Whatever was done, opening the store says which file is wrong and what to do, `skip_damage` gives every record that is
whole, and `spo store verify` notices. Nothing hangs, and reading changes nothing.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spo.cli import main
from spo.errors import CorruptShardError, SpoError
from spo.store import Trajectory, TrajectoryStore
from spo.store_copy import read_each

SEGMENTS, IN_SEGMENT = 5, 8
"""Sealed segments of the store, and records in each; the live one has as many, in two appends."""
ALL = (SEGMENTS + 1) * IN_SEGMENT
SECOND, LAST, NEXT = "segment-00000002.spo", "segment-00000005.spo", "segment-00000007.spo"
LIVE = "segment-00000006.live"
REST, HALF = ALL - IN_SEGMENT, IN_SEGMENT // 2
FRAME = b"SPOf"

Damage = Callable[[Path], object]


def record(number: int) -> Trajectory:
    """A record of some 600 bytes."""
    rng = random.Random(number)
    tokens = [rng.randrange(3000) for _ in range(300)]
    return Trajectory(f"p{number}", tokens[:4], tokens[4:], -1.0, "wrong_answer", "online", seed=number)


def make(path: Path, tokenizer: str, first: int) -> None:
    """A store of `ALL` records."""
    sizes = [IN_SEGMENT] * SEGMENTS + [HALF, HALF]
    for count, segment_bytes in zip(sizes, [1] * (SEGMENTS + 1) + [None], strict=True):
        with TrajectoryStore.open(path, tokenizer=tokenizer, segment_bytes=segment_bytes) as store:
            store.append([record(first + at) for at in range(count)])
        first += count


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the store, another one, and one of another tokenizer."""
    directory = tmp_path_factory.mktemp("stores")
    for name, tokenizer, first in [("store", "tests", 0), ("other", "tests", 1000), ("foreign", "foreign", 2000)]:
        make(directory / name, tokenizer, first)
    return directory


def changed(name: str, change: Callable[[bytearray], object]) -> Damage:
    """A file with other bytes."""

    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        change(data)
        (path / name).write_bytes(data)

    return damage


def cut(name: str, end: int | float) -> Damage:
    """A file's first bytes: so many, a share of them, or all but so many."""
    return changed(
        name, lambda data: data.__delitem__(slice(int(end * len(data)) if isinstance(end, float) else end, None))
    )


def zeroed(name: str, start: int, count: int) -> Damage:
    """Zeros in a file; from its end where `start` is negative."""

    def change(data: bytearray) -> None:
        begin = start % len(data)
        data[begin : begin + count] = bytes(len(data[begin : begin + count]))

    return changed(name, change)


def flipped(name: str, share: float) -> Damage:
    """One bit of a file, at this share of its bytes."""
    return changed(name, lambda data: data.__setitem__(int(share * len(data)), data[int(share * len(data))] ^ 8))


def frames(data: bytearray) -> list[int]:
    """Where the frames of a file begin."""
    return [match.start() for match in re.finditer(FRAME, data)]


def without_a_frame(data: bytearray) -> None:
    """Cuts the third record out of a live segment."""
    at = frames(data)
    del data[at[3] : at[4]]


def with_frames_crossed(data: bytearray) -> None:
    """Two records in each other's place."""
    at = frames(data)
    data[at[2] : at[4]] = data[at[3] : at[4]] + data[at[2] : at[3]]


def swapped(path: Path) -> None:
    """Two segments with each other's names."""
    (path / SECOND).rename(path / "x")
    (path / LAST).rename(path / SECOND)
    (path / "x").rename(path / LAST)


def copied(source: str, name: str) -> Damage:
    """A file of this store, or of one beside it, under another name here."""
    return lambda path: shutil.copy(path / source, path / name)


def removed(*names: str) -> Damage:
    """Files that are gone."""
    return lambda path: [(path / name).unlink() for name in names]


def instead(name: str, put: Damage) -> Damage:
    """Something else in a file's place."""
    return lambda path: ((path / name).unlink(missing_ok=True), put(path / name))


def attached(then: Damage) -> Damage:
    """The other store attached, and then something done to it: `then` gets its path."""

    def damage(path: Path) -> None:
        other = path.parent / "attached"
        shutil.copytree(path.parent / "other", other)
        with TrajectoryStore.open(path) as store:
            store.attach(other)
        then(other)

    return damage


def written(content: bytes) -> Damage:
    """A file with this content."""
    return lambda file: file.write_bytes(content)


def newer(data: bytearray) -> None:
    """A format of the future."""
    data[6] += 1


CUT, CHECKSUM, TRAILER = "within its first bytes", "not match its checksum", "does not end in a trailer"
HEADER, MAGIC, VERSION = "header is not complete", "not those of a trajectory store", "use a newer one"
OTHER, PLACE, NO_FILE = "belongs to another store", "rename it to segment-0000000", "is no file"

DAMAGES: dict[str, tuple[Damage, str | None, int, int]] = {
    # What was done: how, what opening says (None: it opens), records that are readable, exit code of verify.
    "nothing": (lambda path: None, None, ALL, 0),
    **{f"a sealed file cut to {end}": (cut(SECOND, end), CUT, REST, 1) for end in (0, 1, 7)},
    **{f"a sealed file cut to {end}": (cut(SECOND, end), HEADER, REST, 1) for end in (8, 30)},
    "a sealed file cut behind its header": (cut(SECOND, 100), TRAILER, REST, 1),
    "a sealed file cut within its footer": (cut(SECOND, -60), TRAILER, ALL, 1),
    "a sealed file cut within its trailer": (cut(SECOND, -1), TRAILER, ALL, 1),
    "a sealed file without its trailer": (cut(SECOND, -20), TRAILER, ALL, 1),
    "the live file empty": (cut(LIVE, 0), CUT, REST, 1),
    "the live file cut in its header": (cut(LIVE, 40), HEADER, REST, 1),
    "the live file cut in its second append": (cut(LIVE, -1), None, ALL - 1, 0),
    "a sealed file's first sector zeroed": (zeroed(SECOND, 0, 512), MAGIC, REST + IN_SEGMENT - 1, 1),
    "a sealed file's last sector zeroed": (zeroed(SECOND, -512, 512), TRAILER, ALL - 1, 1),
    "a page of a sealed file zeroed": (zeroed(SECOND, 1000, 1000), None, ALL - 2, 1),
    "the live file's first sector zeroed": (zeroed(LIVE, 0, 512), MAGIC, ALL - 1, 1),
    "a page of the live file zeroed": (zeroed(LIVE, 1000, 300), CHECKSUM, ALL - 1, 1),
    "the live file followed by zeros": (changed(LIVE, lambda data: data.extend(bytes(1 << 20))), None, ALL, 0),
    "the live file followed by something": (changed(LIVE, lambda data: data.extend(b"x" * 99)), CHECKSUM, ALL, 1),
    "a sealed file followed by something": (changed(SECOND, lambda data: data.extend(b"x" * 99)), TRAILER, ALL, 1),
    "a bit of a sealed record": (flipped(SECOND, 0.4), None, ALL - 1, 1),
    "a bit of a live record": (flipped(LIVE, 0.4), CHECKSUM, ALL - 1, 1),
    "a frame cut out of the live file": (changed(LIVE, without_a_frame), "is missing", ALL - 1, 1),
    "frames of the live file crossed": (changed(LIVE, with_frames_crossed), "is missing", ALL - 1, 1),
    "store.spo zeroed": (zeroed("store.spo", 0, 512), MAGIC, ALL, 1),
    "store.spo empty": (cut("store.spo", 0), CUT, ALL, 1),
    "store.spo another file": (instead("store.spo", written(b"hello, world\n")), MAGIC, ALL, 1),
    "store.spo lost": (removed("store.spo"), "put it back", ALL, 1),
    "store.spo of another store": (copied("../other/store.spo", "store.spo"), OTHER, 0, 1),
    "a directory in store.spo's place": (instead("store.spo", Path.mkdir), NO_FILE, 0, 1),
    "a pipe in store.spo's place": (instead("store.spo", os.mkfifo), NO_FILE, 0, 1),
    "two segments swapped": (swapped, PLACE, ALL - 2 * IN_SEGMENT, 1),
    "a segment twice": (copied(SECOND, NEXT), PLACE, ALL, 1),
    "a sealed segment as a live one too": (copied(SECOND, NEXT.replace("spo", "live")), PLACE, ALL, 1),
    "a copy in the live one's place": (copied(SECOND, LIVE.replace("live", "spo")), PLACE, REST, 1),
    "a copy that a file manager named": (copied(SECOND, "segment-00000002 (copy).spo"), None, ALL, 0),
    "another store's segment": (copied(f"../other/{SECOND}", NEXT), OTHER, ALL, 1),
    "another store's live segment": (copied(f"../other/{LIVE}", NEXT.replace("spo", "live")), OTHER, ALL, 1),
    "another tokenizer's segment": (copied(f"../foreign/{SECOND}", NEXT), '"foreign"', ALL, 1),
    "a sealed segment lost": (removed(SECOND), None, REST, 1),
    "the first segments lost": (removed("segment-00000001.spo", SECOND), None, REST - IN_SEGMENT, 1),
    "the live segment lost": (removed(LIVE), None, REST, 0),
    "a sealed name on the live segment": (
        lambda path: (path / LIVE).rename(path / LIVE.replace("live", "spo")),
        TRAILER,
        ALL,
        1,
    ),
    "a live name on a sealed segment": (
        lambda path: (path / LAST).rename(path / LAST.replace("spo", "live")),
        None,
        ALL,
        0,
    ),
    "an empty sealed file": (instead(NEXT, written(b"")), CUT, ALL, 1),
    "noise in a sealed file's name": (instead(NEXT, written(random.Random(0).randbytes(5000))), MAGIC, ALL, 1),
    "a newer sealed file": (changed(SECOND, newer), VERSION, ALL, 1),
    "a newer live file": (changed(LIVE, newer), VERSION, ALL, 1),
    "a newer store.spo": (changed("store.spo", newer), VERSION, ALL, 1),
    "a directory with a segment's name": (instead(NEXT, Path.mkdir), NO_FILE, ALL, 1),
    "a pipe with a segment's name": (instead(NEXT, os.mkfifo), NO_FILE, ALL, 1),
    "a broken link with a segment's name": (
        instead(NEXT, lambda file: file.symlink_to("nowhere")),
        "broken link",
        ALL,
        1,
    ),
    "a segment that is a link": (
        lambda path: ((path / SECOND).rename(path.parent / "x"), (path / SECOND).symlink_to("../x")),
        None,
        ALL,
        0,
    ),
    "files of something else": (
        lambda path: ((path / "notes.txt").write_text("x"), (path / "sub").mkdir()),
        None,
        ALL,
        0,
    ),
    "a file left half made": (instead(".new-1-2-3", written(b"x")), None, ALL, 0),
    "an attached store": (attached(lambda other: None), None, 2 * ALL, 0),
    "an attached store moved": (attached(lambda other: other.rename(other.parent / "y")), "move it back", 0, 1),
    "an attached store replaced": (
        attached(lambda other: (shutil.rmtree(other), shutil.copytree(other.parent / "foreign", other))),
        "move it back",
        0,
        1,
    ),
    "an attached store damaged": (attached(cut(SECOND, 100)), TRAILER, ALL + REST, 1),
    "what tells of an attached store damaged": (
        attached(lambda other: flipped("attached-001.spo", 0.3)(other.parent / "store")),
        "damaged at",
        0,
        1,
    ),
}


def spo_store(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    code = main(["store", *map(str, words)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_by_hand_is_named_and_read_around(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, message, whole, verified = DAMAGES[name]
    for beside in ("store", "other", "foreign"):
        shutil.copytree(stores / beside, tmp_path / beside)
    path = tmp_path / "store"
    damage(path)
    if message is None:
        TrajectoryStore.open(path, "r").close()
    else:
        with pytest.raises(SpoError, match=message) as caught:
            TrajectoryStore.open(path, "r")
        assert str(tmp_path) in str(caught.value)
        assert ("--skip-damage" in str(caught.value)) == isinstance(caught.value, CorruptShardError)
        with pytest.raises(SpoError, match=message):
            TrajectoryStore.open(path, "a", tokenizer="tests")
    for command in (["info"], ["cat", "--limit", "1"], ["ls"]):
        code, _, errors = spo_store(capsys, command[0], path, *command[1:])
        listed = command == ["ls"] and not (path / "store.spo").exists()
        assert code == (message is not None and not listed), (command, errors)
        assert errors.count("\n") == code, "one line for an error"
    code, output, errors = spo_store(capsys, "verify", path, "--json")
    assert code == verified, (output, errors)
    if output:
        found = json.loads(output)
        assert found["records"] - len(found["damaged"]) == whole
        with TrajectoryStore.open(path, "r", skip_damage=True) as store:
            reads = [read for _, read in read_each(store, store.scan())]
        seeds = [read.seed for read in reads if isinstance(read, Trajectory)]
        assert len(seeds) == len(set(seeds)) == whole
        assert all(read == record(read.seed) for read in reads if isinstance(read, Trajectory))
    else:
        assert (whole, errors.count("\n")) == (0, 1)
