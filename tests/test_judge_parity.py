"""Parity: a program behaves in the judge as under plain `python3 solution.py`: output, exit code, last words."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spo.judge import Judge, Limits, TestCase

INPUT = "3\n1 2 3\nsecond line\r\nümläut ∑\nlast without end"

# Those that a text file would spoil.
PROGRAMS = {
    "latin source": "# -*- coding: latin-1 -*-\nprint('x')",
    "tabs and form feed": "if True:\n\tprint(1)\n\x0c\nprint(2)",
    "windows line ends": "x = 1\r\nif x:\r\n    print('crlf')\r\n",
    "byte order mark": "\ufeffprint('bom')",
    "no newline at the end": "print(1)",
    "empty program": "",
}
for entry in Path(__file__).with_name("judge_parity.txt").read_text(encoding="utf-8").split("### ")[1:]:
    name, _, program = entry.partition("\n")
    PROGRAMS[name] = program


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(num_workers=2, limits=Limits(cpu_time_s=5.0, wall_time_s=30.0)) as judge:
        yield judge


def plainly(source: bytes, folder: Path) -> tuple[int, bytes, str]:
    (folder / "solution.py").write_bytes(source)
    (folder / "input").write_bytes(INPUT.encode())
    command = [sys._base_executable, "solution.py"]  # type: ignore[attr-defined]
    with open(folder / "input", "rb") as stdin:
        done = subprocess.run(command, cwd=folder, env={}, stdin=stdin, capture_output=True, timeout=60)
    return done.returncode, done.stdout, last_words(done.stderr.decode("utf-8", "backslashreplace"))


def last_words(stderr: str) -> str:
    """The last line of a traceback, without the hints that differ between the ways in which CPython prints one."""
    return stderr.strip().rpartition("\n")[2].partition(". Did you mean")[0]


@pytest.mark.parametrize("mode", ["warm", "exec"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_behaves_as_under_plain_python(judge: Judge, name: str, mode: str, tmp_path: Path) -> None:
    source = PROGRAMS[name].encode("latin-1" if name == "latin source" else "utf-8")
    code, stdout, words = plainly(source, tmp_path)
    tests = [TestCase(input=INPUT, output=stdout)]
    result = judge.judge(source, tests, checker="exact", stop_on_first_failure=False, mode=mode).tests[0]
    assert result.exit_code == (code if code >= 0 else None)
    assert result.signal == (-code if code < 0 else None)
    assert (result.stdout_head, result.stdout_bytes) == (stdout.decode("utf-8", "backslashreplace")[:4096], len(stdout))
    assert last_words(result.stderr_tail).replace("/solution.py", "") == words.replace(f"{tmp_path}/solution.py", "")
    assert (result.verdict.value == "accepted") == (code == 0)
