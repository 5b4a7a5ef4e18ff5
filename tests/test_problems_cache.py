"""The cache of data sets: archives that are made once, opened at once, and made again when they are no longer right."""

import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from spo.errors import ProblemError
from spo.problems import ById, Problem, Problems, ProblemTest, Solution, cache, load_problems, suite_hash
from spo.problems.archive import Archive, ArchiveError, ArchiveWriter
from spo.problems.info import info_of

PROBLEMS = [
    Problem(
        f"a/{number}",
        "a",
        f"Print {number}.",
        (ProblemTest("", f"{number}\n", "public", "first"), ProblemTest("é" * number, f"{number}\n")),
        difficulty="easy",
        solutions=(Solution("python", f"print({number})", True), Solution("cpp", "", False, "empty")),
        metadata={"key": "value"},
    )
    for number in range(20)
]


@pytest.fixture(autouse=True)
def everything_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALL_BYTES", 0)


def write(path: Path, problems: list[Problem]) -> str:
    path.write_bytes(msgspec.json.Encoder().encode_lines(problems))
    return f"jsonl:{path}"


def archives() -> list[Path]:
    return sorted((cache.cache_folder() / "problems").glob("*"))


def opened(path: Path) -> Archive:
    return Archive(os.open(path, os.O_RDONLY))


def test_problems_come_back_from_the_cache_as_they_were(tmp_path: Path) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    first = load_problems([spec])
    [archive] = archives()
    made = archive.stat().st_mtime_ns
    second = load_problems([spec])
    assert archive.stat().st_mtime_ns == made
    for problems in (first, second):
        assert problems == PROBLEMS
        assert problems[3:5] == PROBLEMS[3:5]
        assert problems[-1] == PROBLEMS[-1]
        assert problems.infos == [info_of(problem) for problem in PROBLEMS]
        assert suite_hash(problems) == suite_hash(PROBLEMS)
        assert [head.statement for head in problems.heads()] == [problem.statement for problem in PROBLEMS]
        assert problems.head(7).tests == problems.head(7).solutions == ()
    assert first != PROBLEMS[1:]
    assert first != [*PROBLEMS[:-1], PROBLEMS[0]]


def test_tests_are_only_read_when_a_problem_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = load_problems([write(tmp_path / "p.jsonl", PROBLEMS)])
    read: list[int] = []
    original = Archive.read
    monkeypatch.setattr(Archive, "read", lambda self, index, *more: read.append(index) or original(self, index, *more))
    assert len(problems.ids) == len(list(problems.heads())) == 20
    assert problems.where(lambda info: info.num_tests == 2).ids == problems.ids
    suite_hash(problems)
    assert read == []
    assert problems[5] == PROBLEMS[5]
    assert read == [5]


def test_a_changed_file_is_read_again_and_what_is_out_of_date_removed(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    before = load_problems([write(path, PROBLEMS)])
    after = load_problems([write(path, PROBLEMS[:3])])
    assert after == PROBLEMS[:3]
    assert len(archives()) == 1
    assert before == PROBLEMS  # Who has it open goes on reading.


def test_a_new_version_of_the_loaders_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    load_problems([spec])
    [before] = archives()
    monkeypatch.setattr(cache, "LOADERS_VERSION", 999)
    load_problems([spec])
    [after] = archives()
    assert before != after


@pytest.mark.parametrize("damage", ["cut", "empty", "index", "magic", "longer"])
def test_a_damaged_archive_is_made_again_with_a_notice(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    load_problems([spec])
    [archive] = archives()
    content = bytearray(archive.read_bytes())
    if damage == "index":
        content[-60] ^= 1
    elif damage == "magic":
        content[3] ^= 1
    archive.write_bytes({"cut": content[:-10], "empty": b"", "longer": content + b"x"}.get(damage, content))
    with caplog.at_level(logging.WARNING):
        assert load_problems([spec]) == PROBLEMS
    assert f"{tmp_path / 'p.jsonl'} is read again" in caplog.text
    assert load_problems([spec]) == PROBLEMS
    assert len(caplog.records) == 1


def test_damage_that_only_reading_finds_is_repaired_while_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    problems = load_problems([spec])
    [archive] = archives()
    with archive.open("r+b") as file:
        file.seek(8)
        file.write(bytes(2000))
    with caplog.at_level(logging.WARNING):
        assert problems == PROBLEMS
    assert "is damaged at byte" in caplog.text
    assert load_problems([spec]) == PROBLEMS


def test_any_damage_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with path.open("wb") as file:
        writer = ArchiveWriter(file)
        for problem in PROBLEMS[:3]:
            writer.add(problem)
        writer.finish({"why": 2})
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 0x55
        path.write_bytes(changed)
        try:
            archive = opened(path)
            assert [archive.read(index) for index in range(3)] == PROBLEMS[:3]
        except ArchiveError:
            continue
        assert archive.left_out == {"why": 2}


def test_on_a_terminal_a_bar_shows_how_much_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    load_problems([spec])
    assert capsys.readouterr().err == ""
    (tmp_path / "p.jsonl").touch()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    load_problems([spec])
    size = (tmp_path / "p.jsonl").stat().st_size
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert f"reading {tmp_path / 'p.jsonl'}" in shown
    assert f"{size / 1000:.1f}/{size / 1000:.1f} kB" in shown


def test_rows_that_were_left_out_are_told_of_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": "Do.", "reward_model": {"ground_truth": {"inputs": ["1"], "outputs": ["2"]}}}
    empty = {"prompt": "Don't.", "reward_model": {"ground_truth": {"inputs": []}}}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (row, empty)))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_problems([f"verl:{tmp_path / 'rows.jsonl'}"])
        assert "left out 1 problems: they have no tests" in caplog.text


def test_without_a_cache_that_can_be_written_problems_are_read_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPO_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert load_problems([write(tmp_path / "p.jsonl", PROBLEMS)]) == PROBLEMS
    assert "cannot be written (Not a directory): going on without it; set SPO_CACHE" in caplog.text


def test_without_any_room_the_folder_to_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(ProblemError, match=r"no room for the problems.*set SPO_CACHE to a folder with room"):
        load_problems([write(tmp_path / "p.jsonl", PROBLEMS)])


def test_a_hole_in_the_files_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    with (tmp_path / "p.jsonl").open("ab") as file:
        file.write(b"{oops\n")
    with pytest.raises(ProblemError, match=r"p.jsonl:21: not a JSON object"):
        load_problems([spec])
    assert archives() == []


def test_what_a_killed_process_left_half_written_is_removed_after_a_day(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    load_problems([write(path, PROBLEMS)])
    [archive] = archives()
    old, new = (archive.with_name(f".{archive.name}.{name}.tmp") for name in ("old", "new"))
    for file, age_s in ((old, 90_000), (new, 60)):
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    load_problems([write(path, PROBLEMS[:2])])
    assert (old.exists(), new.exists()) == (False, True)


def test_processes_that_start_together_read_the_same(tmp_path: Path) -> None:
    spec = write(tmp_path / "p.jsonl", PROBLEMS)
    code = (
        "from spo.problems import cache, load_problems, suite_hash; cache.SMALL_BYTES = 0\n"
        f"print(suite_hash(list(load_problems(['{spec}']))))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert said == [suite_hash(PROBLEMS)] * 3
    assert len(archives()) == 1


def test_an_archive_is_smaller_than_its_tests(tmp_path: Path) -> None:
    tests = tuple(ProblemTest(f"{number} " * 1000, "yes\n") for number in range(100))
    load_problems([write(tmp_path / "p.jsonl", [Problem("a/b", "a", "Do.", tests)])])
    [archive] = archives()
    assert archive.stat().st_size < sum(len(test.input) for test in tests) / 10


def test_problems_are_had_by_id_and_without_their_solutions(tmp_path: Path) -> None:
    problems = load_problems([write(tmp_path / "p.jsonl", PROBLEMS)])
    whole, judged = ById(problems), ById(problems, with_solutions=False)
    assert list(whole) == problems.ids
    assert whole["a/3"] == PROBLEMS[3]
    assert judged["a/3"] == msgspec.structs.replace(PROBLEMS[3], solutions=())
    with pytest.raises(KeyError):
        whole["a/99"]


MEASURE = """
import resource, sys, zlib
import pyarrow, pyarrow.parquet
from spo.problems import cache, load_problems
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = load_problems([sys.argv[1]])
assert len(archives := list((cache.cache_folder() / "problems").iterdir())) == 1, archives
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(problems), sum(info.test_characters for info in problems.infos), grown // 1024)
"""


@pytest.mark.parametrize(
    ("source", "num_rows", "row_bytes", "most_mib"),
    [("code_contests", 160, 1 << 20, 130), ("code_contests", 1, 50_000_000, 500), ("verl", 2, 50_000_000, 500)],
)
def test_data_sets_larger_than_memory_allows_are_read_row_by_row(
    tmp_path: Path, source: str, num_rows: int, row_bytes: int, most_mib: int
) -> None:
    """160 MiB in one row group, and tests of 50 MB: what memory it takes depends on a row, not on the file."""
    noise = random.Random(0).randbytes(row_bytes // 10).hex()  # So that the file is not compressed to nothing.
    if source == "verl":
        path = tmp_path / "rows.jsonl"
        with path.open("w") as lines:
            for index in range(num_rows):
                truth = {"inputs": [noise * 5], "outputs": ["1"]}
                row = {"prompt": "Do.", "reward_model": {"ground_truth": truth}, "extra_info": {"index": index}}
                lines.write(json.dumps(row) + "\n")
    else:
        path = tmp_path / "rows.parquet"
        empty = {"input": [], "output": []}
        row = {"description": "Do.", "public_tests": empty, "private_tests": empty}
        rows = [{**row, "name": str(n), "generated_tests": {"input": [f"{n}{noise * 5}"], "output": ["1"]}}
                for n in range(num_rows)]  # fmt: skip
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, use_dictionary=False)
    done = subprocess.run([sys.executable, "-c", MEASURE, f"{source}:{path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    num, characters, grown_mib = map(int, done.stdout.split())
    assert (num, characters >= num_rows * row_bytes * 0.99) == (num_rows, True)
    assert grown_mib < most_mib


def test_collections_can_be_filtered_joined_and_edited(tmp_path: Path) -> None:
    problems = load_problems([write(tmp_path / "p.jsonl", PROBLEMS)])
    first = problems.where(lambda info: info.id in ("a/1", "a/4"))
    joined = Problems.joined([first, problems[:1]])
    assert joined.ids == ["a/1", "a/4", "a/0"]
    assert joined == [PROBLEMS[1], PROBLEMS[4], PROBLEMS[0]]
    assert not Problems()
