"""Parity: a program behaves in the judge as under plain `python3 solution.py`: output, exit code or signal, stderr.

The programs are in `judge_parity/*.txt`, each behind a line `### NAME` or `### NAME <<< INPUT` (a Python expression).
"""

import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from spo.errors import JudgeError
from spo.judge import Judge, Judgement, Limits, TestCase

INPUT = "3\n1 2 3\nsecond line\r\nümläut ∑\nlast without end"

# Those that a text file would spoil.
PROGRAMS: dict[str, tuple[bytes, bytes]] = {
    name: (source.encode("latin-1" if name == "latin source" else "utf-8"), INPUT.encode())
    for name, source in {
        "latin source": "# -*- coding: latin-1 -*-\nprint('ä')",
        "tabs and form feed": "if True:\n\tprint(1)\n\x0c\nprint(2)",
        "windows line ends": "x = 1\r\nif x:\r\n    print('crlf')\r\n",
        "old line ends": "x = 1\rprint(x)\r",
        "byte order mark": "\ufeffprint('bom')",
        "no newline at the end": "print(1)",
        "empty program": "",
        "only blanks": "\n  \n\t\n",
        "carriage return in a text": "print(repr('''a\r\nb'''))",
        "a line of 100,000 letters": "x = '" + "a" * 100_000 + "'\nprint(len(x))",
        "10,000 lines": "x = 0\n" + "x += 1\n" * 10_000 + "print(x)",
        "hash bang": "#!/usr/bin/env python3\nprint('run')",
    }.items()
}
for file in sorted(Path(__file__).with_name("judge_parity").glob("*.txt")):
    for entry in file.read_text(encoding="utf-8").split("### ")[1:]:
        title, _, program = entry.partition("\n")
        name, _, given = title.partition(" <<< ")
        text = eval(given, {}) if given else INPUT
        assert name not in PROGRAMS, f"{file.name}: {name} is there twice"
        PROGRAMS[name] = (program.encode(), text if isinstance(text, bytes) else text.encode())

# Every known difference, with its reason. What the jail forbids fails, with these last words.
JAILED = {
    "its own file is not there": ("print(open(__file__).read())", "FileNotFoundError"),
    "it cannot be imported": ("import solution", "ModuleNotFoundError"),
    "no file can be made": ("open('out.txt', 'w')", "OSError|PermissionError"),
    "there is no folder for temporary files": ("import tempfile\ntempfile.gettempdir()", "FileNotFoundError"),
    "folders cannot be listed": ("import os\nos.listdir('.')", "PermissionError"),
    "stdin is a file that cannot be written": ("import os\nos.write(0, b'x')", "OSError|PermissionError"),
    "stdout cannot be cut": ("import sys\nsys.stdout.truncate(0)", "PermissionError"),
    "site-packages are not there": ("import numpy", "ModuleNotFoundError"),
    "C cannot call Python: that needs code made in memory": (
        "import ctypes\nctypes.CFUNCTYPE(None)(lambda: 0)",
        "MemoryError",
    ),
}
# An executed program can see its folder.
WARM_ONLY = {"its own file is not there", "it cannot be imported", "folders cannot be listed"}
# The interpreter's own printing (errors in threads, finalizers and exit handlers, and where a program asks for it)
# opens the program's file, which is not there, so that it shows no source lines.
PRINTED_BY_THE_INTERPRETER = re.compile("Exception (in|ignored)")
ASK_FOR_THAT = {"exception hook that prints as usual", "builtins deleted"}
# The judge's own frame is below the program's, so recursion ends one level earlier; `Did you mean` is known only
# to the interpreter's own printing before CPython 3.12.
# The program's folder and objects' addresses are others.
DETAILS = re.compile(r"(?<=line repeated )\d+|\. Did you mean: .*|[^\s\"']*/(?=solution\.py)|(?<=0x)[0-9a-f]+")

Behaviour = tuple[int, bytes, str]


class Way(NamedTuple):
    """A way to judge, and how many of the programs are judged that way: all, or each n-th."""

    mode: str
    isolation: str | None = None
    every: int = 1


WAYS = {
    "warm": Way("warm"),
    "exec": Way("exec", every=2),
    "warm in a user namespace": Way("warm", "user_namespace", 12),
    "exec in a user namespace": Way("exec", "user_namespace", 30),
    "warm under landlock": Way("warm", "landlock", 12),
    "exec under landlock": Way("exec", "landlock", 30),
}
CASES = [(way, name) for way in WAYS for name in list(PROGRAMS)[:: WAYS[way].every]]
JAILED_CASES = [(way, name) for way in WAYS for name in JAILED if WAYS[way].mode == "warm" or name not in WARM_ONLY]


@pytest.fixture(scope="module")
def judges() -> Iterator[dict[str | None, Judge | str]]:
    """A judge for each tier, or the reason why there is none."""
    found: dict[str | None, Judge | str] = {}
    for tier in {way.isolation for way in WAYS.values()}:
        try:
            found[tier] = Judge(1, Limits(cpu_time_s=5.0, wall_time_s=30.0), isolation=tier)
        except JudgeError as refusal:
            found[tier] = str(refusal)
    yield found
    for judge in found.values():
        if isinstance(judge, Judge):
            judge.close()


def behaviour(judges: dict[str | None, Judge | str], way: str, source: bytes, test: TestCase) -> Judgement:
    mode, isolation, _ = WAYS[way]
    judge = judges[isolation]
    if isinstance(judge, str):
        pytest.skip(judge)
    return judge.judge(source, [test], checker="exact", stop_on_first_failure=False, mode=mode)


@functools.cache
def plainly(name: str) -> Behaviour:
    """What the program does under `python3 solution.py`; its folder is called `/`."""
    source, stdin = PROGRAMS[name]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "solution.py").write_bytes(source)
        Path(folder, "input").write_bytes(stdin)
        command = [sys._base_executable, "solution.py"]  # type: ignore[attr-defined]
        with open(Path(folder, "input"), "rb") as file:
            done = subprocess.run(command, cwd=folder, env={}, stdin=file, capture_output=True, timeout=60)
    place = folder.encode()
    stderr = done.stderr.replace(place, b"")[-4096:]
    return done.returncode, done.stdout.replace(place, b""), stderr.decode("utf-8", "backslashreplace")


def in_common(stderr: str, name: str) -> list[str]:
    """The lines that both ways have in common."""
    shows_source = PRINTED_BY_THE_INTERPRETER.search(stderr) is None and name not in ASK_FOR_THAT
    lines = DETAILS.sub("", stderr).splitlines()
    # The first line may be cut.
    return [line for line in lines if shows_source or not line.startswith("    ")][-100:]


@pytest.mark.parametrize(("way", "name"), CASES)
def test_a_program_behaves_as_under_plain_python(judges: dict[str | None, Judge | str], way: str, name: str) -> None:
    source, stdin = PROGRAMS[name]
    code, stdout, stderr = plainly(name)
    judgement = behaviour(judges, way, source, TestCase(stdin, stdout))
    if not judgement.tests:
        assert judgement.verdict.value == "compile_error"
        assert judgement.message.startswith(stderr.strip().rpartition("\n")[2])
        assert (code, stdout) == (1, b"")
        return
    result = judgement.tests[0]
    assert (result.exit_code, result.signal) == ((code, None) if code >= 0 else (None, -code))
    assert (result.stdout_head, result.stdout_bytes) == (stdout.decode("utf-8", "backslashreplace")[:4096], len(stdout))
    assert in_common(result.stderr_tail, name) == in_common(stderr, name)
    # The bytes that are not in the head are compared by the judge itself.
    assert (result.verdict.value == "accepted") == (code == 0)


@pytest.mark.parametrize(("way", "name"), JAILED_CASES)
def test_what_the_jail_forbids_fails(judges: dict[str | None, Judge | str], way: str, name: str) -> None:
    source, error = JAILED[name]
    result = behaviour(judges, way, source.encode(), TestCase(output="?")).tests[0]
    assert result.exit_code == 1
    assert re.match(error, result.stderr_tail.strip().rpartition("\n")[2])
