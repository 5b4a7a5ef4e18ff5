"""Failures of the judge itself: judged again, then reported as such; never a wrong answer.

The judge's interpreter is a script here, which misbehaves for the first programs it is given, and then is Python.
"""

import sys
from pathlib import Path

import pytest

from spo.judge import Judge, Limits, TestCase, Verdict

MAX_ATTEMPTS = 3
DOUBLE, TESTS = "print(int(input()) * 2)", [TestCase(input="21\n", output="42\n")]
HELPER = """#!{python} -IS
import os, socket, struct, sys
if sys.argv[-1].startswith("import sys; print("):
    print({path!r}, True, sep="\\n")
    sys.exit()
with open({count!r}, "a+b") as file:
    file.write(b"x")
    start = file.tell()
# The first helper is started before anything is judged.
if start > {num_failures}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
control = socket.socket(fileno=0)
control.recv(1 << 17), control.recv(1 << 17)
control.send(b"R3.11.0\\nlayer\\n")
control.recv(1 << 12)
{misbehave}
"""
END = 'control.send(b"D" + struct.pack("=BBiddQ", {}) + {})\ncontrol.recv(1)'
MISBEHAVIOURS = {
    "dies": "os._exit(0)",
    "is killed": "os.kill(os.getpid(), 9)",
    "says nonsense": "control.send(bytes(range(256)) * 9)\ncontrol.recv(1)",
    "says nothing in a message": "control.send(b'')",
    "says that it failed": "control.send(b'E there is no memory')\ncontrol.recv(1)",
    "breaks off": "control.send(b'D' + bytes(20))\ncontrol.recv(1)",
    "says more than fits": "control.send(b'N' + bytes(60_000))\ncontrol.recv(1)",
    "tells a time that is no number": END.format("0, 2, 0, float('nan'), 0.1, 1", "b''"),
    "tells a time before the start": END.format("0, 2, 0, -1.0, 0.1, 1", "b''"),
    "tells an end that is none": END.format("0, 2, 0x137f, 0.1, 0.1, 1", "b''"),
    "tells an end by nobody": END.format("9, 2, 0, 0.1, 0.1, 1", "b''"),
    "tells more than an end": END.format("0, 2, 0, 0.1, 0.1, 1", "b'more'"),
    "tells an end that nobody asked for": END.format("3, 2, 9, 0.1, 0.1, 1", "b''"),
    "asks for time without a process": "control.send(b'W')\ncontrol.recv(1)",
}


def judge_with(folder: Path, misbehave: str, num_failures: int) -> Judge:
    path, count = folder / "python", folder / "count"
    python = sys._base_executable  # type: ignore[attr-defined]
    settings = {"python": python, "path": str(path), "count": str(count), "num_failures": num_failures}
    path.write_text(HELPER.format(misbehave=misbehave, **settings))
    path.chmod(0o755)
    return Judge(num_workers=1, isolation="landlock", interpreter=str(path), limits=Limits(wall_time_s=10.0))


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_a_failure_of_the_judge_is_made_good_by_judging_again(tmp_path: Path, misbehaviour: str) -> None:
    with judge_with(tmp_path, MISBEHAVIOURS[misbehaviour], MAX_ATTEMPTS - 1) as judge:
        judgement = judge.judge(DOUBLE, TESTS)
        assert (judgement.verdict, judgement.num_passed) == (Verdict.ACCEPTED, 1), judgement
        assert judge.judge(DOUBLE.replace("2", "3"), TESTS).verdict is Verdict.WRONG_ANSWER


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_one_that_goes_on_is_reported_as_such_and_never_as_the_programs(tmp_path: Path, misbehaviour: str) -> None:
    with judge_with(tmp_path, MISBEHAVIOURS[misbehaviour], MAX_ATTEMPTS) as judge:
        judgement = judge.judge(DOUBLE, TESTS * 3)
        assert (judgement.verdict, judgement.num_passed, judgement.tests) == (Verdict.JUDGE_ERROR, 0, ()), judgement
        assert judgement.message
        # And the judge goes on.
        assert judge.judge(DOUBLE, TESTS).verdict is Verdict.ACCEPTED
