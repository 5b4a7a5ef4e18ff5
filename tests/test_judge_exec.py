"""Programs that are executed: a fresh `python3 solution.py` for each test, in every tier, under the same rules."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_hostile_calls import CALL

from spo.errors import JudgeError
from spo.judge import Judge, Limits, TestCase, Verdict

LIMITS = Limits(cpu_time_s=1.0, wall_time_s=10.0, memory_bytes=128 << 20, output_bytes=1 << 20)
DOUBLE = "print(int(input()) * 2)"
TESTS = [TestCase(input="21\n", output="42\n"), TestCase(input="4\n", output="8\n")]


@pytest.fixture(scope="module", params=["root", "user_namespace", "landlock"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    try:
        judge = Judge(num_workers=1, limits=LIMITS, isolation=request.param)
    except JudgeError as refusal:
        pytest.skip(f"this host does not give the tier: {refusal}")
    with judge:
        yield judge


def test_each_test_has_an_interpreter_of_its_own(judge: Judge) -> None:
    judgement = judge.judge(DOUBLE, TESTS, mode="exec")
    assert (judgement.verdict, judgement.num_passed) == (Verdict.ACCEPTED, 2)
    assert judgement.isolation_tier == judge.isolation_tier
    seeds = "print(hash('a word'))"
    tests = judge.judge(seeds, TESTS, mode="exec", stop_on_first_failure=False).tests
    assert tests[0].stdout_head != tests[1].stdout_head


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("print(int(input()) * 3)", Verdict.WRONG_ANSWER),
        ("print(1 / 0)", Verdict.RUNTIME_ERROR),
        ("print(", Verdict.COMPILE_ERROR),
        ("while True: pass", Verdict.TIME_LIMIT),
        ("import time\ntime.sleep(99)", Verdict.TIME_LIMIT),
        ("x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1", Verdict.MEMORY_LIMIT),
        ("print('42 ' * (1 << 20))", Verdict.OUTPUT_LIMIT),
        ("import os\nos.fork()", Verdict.SECURITY_VIOLATION),
        ("import subprocess\nsubprocess.run(['true'])", Verdict.SECURITY_VIOLATION),
        ("import os, sys\nos.execv(sys.executable, sys.orig_argv)", Verdict.SECURITY_VIOLATION),
        (CALL + "call('execveat', -100, b'/bin/true', 0, 0, 0)", Verdict.SECURITY_VIOLATION),
        ("import os\nos.kill(os.getppid(), 9)", Verdict.SECURITY_VIOLATION),
        ("import socket\nsocket.socket()", Verdict.SECURITY_VIOLATION),
    ],
)
def test_verdicts_are_those_of_the_warm_mode(judge: Judge, source: str, verdict: Verdict) -> None:
    limits = Limits(cpu_time_s=0.3, wall_time_s=1.0, memory_bytes=128 << 20, output_bytes=1 << 20)
    stops = verdict is not Verdict.OUTPUT_LIMIT
    assert judge.judge(source, TESTS, mode="exec", limits=limits, stop_on_first_failure=stops).verdict is verdict
    assert judge.judge(DOUBLE, TESTS[:1], mode="exec").verdict is Verdict.ACCEPTED


def test_the_descriptor_that_may_be_executed_can_never_be_had_again(judge: Judge) -> None:
    source = CALL + (
        "def fails(act):\n"
        "    try: act()\n"
        "    except OSError: return True\n"
        "assert call('execveat', 300, b'', 0, 0, 0x1000) == -1 and ctypes.get_errno() == 9\n"
        "assert fails(lambda: os.dup2(0, 300)) and fails(lambda: os.dup2(0, 300, inheritable=False))\n"
        "import fcntl, resource\n"
        "assert fails(lambda: fcntl.fcntl(0, fcntl.F_DUPFD, 300))\n"
        "try: resource.setrlimit(resource.RLIMIT_NOFILE, (999, 999))\n"
        "except ValueError: pass\n"
        "def until_the_limit():\n"
        "    while True: last.append(os.dup(0))\n"
        "last = []\n"
        "assert fails(until_the_limit) and max(last) < 300\n"
        "print(int(open(0).read()) * 2)"
    )
    judgement = judge.judge(source, TESTS[:1], mode="exec")
    assert judgement.verdict is Verdict.ACCEPTED, judgement


def test_the_program_sees_its_folder_and_cannot_write_there(judge: Judge) -> None:
    source = (
        "import os, sys\nassert open(__file__).read().endswith('* 2)')\n"
        "assert sorted(os.listdir()) == ['pyvenv.cfg', 'solution.py'], os.listdir()\n"
        "for act in (lambda: open('left', 'w'), lambda: os.unlink('solution.py'), lambda: open('solution.py', 'a'),\n"
        "            lambda: os.rename('solution.py', 'x'), lambda: os.mkdir('left'), lambda: os.chmod('.', 0o777)):\n"
        "    try: act(); print('wrote')\n"
        "    except OSError: pass\n"
        "assert sys.argv == ['solution.py'] and sys.path[0] == os.getcwd()\n" + DOUBLE
    )
    judgement = judge.judge(source, TESTS, mode="exec")
    assert judgement.verdict is Verdict.ACCEPTED, judgement


def test_nothing_is_open_in_the_program_but_its_streams(judge: Judge) -> None:
    source = "import os\nfor x in range(3, 1000):\n  try: os.fstat(x); print(x)\n  except OSError: pass\n" + DOUBLE
    assert judge.judge(source, TESTS, mode="exec").verdict is Verdict.ACCEPTED


def test_signals_are_handled_as_in_a_program_that_a_shell_starts(judge: Judge) -> None:
    source = (
        "import signal\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert all(signal.getsignal(x) is signal.SIG_DFL for x in (signal.SIGCHLD, signal.SIGTERM))\n"
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())\n" + DOUBLE
    )
    assert judge.judge(source, TESTS, mode="exec").verdict is Verdict.ACCEPTED


def test_packages_of_this_machine_cannot_be_imported(judge: Judge) -> None:
    source = "try: import pip\nexcept ImportError: pass\nelse: print('found')\nexit, quit, help\n" + DOUBLE
    assert judge.judge(source, TESTS, mode="exec").verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("mode", ["warm", "exec"])
def test_many_threads_fit(judge: Judge, mode: str) -> None:
    source = (
        "import threading\n"
        "barrier = threading.Barrier(21)\nx = [threading.Thread(target=barrier.wait) for _ in range(20)]\n"
        "for t in x: t.start()\nbarrier.wait()\nfor t in x: t.join()\n" + DOUBLE
    )
    assert judge.judge(source, TESTS, mode=mode).verdict is Verdict.ACCEPTED


def test_a_mode_that_does_not_fit_is_named(judge: Judge) -> None:
    with pytest.raises(ValueError, match='mode is "cold"'):
        judge.judge(DOUBLE, TESTS, mode="cold")
    with pytest.raises(ValueError, match="fn_name is for warm Python"):
        judge.judge("def add(x): return x", [TestCase(args=[1], output=1)], mode="exec", fn_name="add")


CALLER = """
import sys
from spo.judge import *
judge = Judge(num_workers=2, isolation="landlock", limits=Limits(cpu_time_s=60.0))
judge.judge("print()", [TestCase()], mode="exec")
print("ready", flush=True)
if sys.argv[1] == "closing": judge.close()
else: judge.judge_many([Submission("while True: pass", [TestCase()], mode="exec")] * 2)
"""


@pytest.mark.parametrize("end", ["closing", "SIGKILL", "SIGTERM", "SIGINT"])
def test_a_folder_on_disk_is_removed_however_the_caller_ends(end: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER, end]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        if end != "closing":
            assert list(tmp_path.iterdir()), "no folder was made"
            caller.send_signal(signal.Signals[end])
        caller.wait(20)
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.01)


def test_a_folder_that_was_abandoned_is_removed_by_the_next_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "spo-judge-0123456789abcdef").mkdir()
    (tmp_path / "spo-judge-0123456789abcdef" / "solution.py").touch()
    (tmp_path / "of-somebody-else").mkdir()
    with (
        Judge(num_workers=1, isolation="landlock") as first,
        Judge(num_workers=1, isolation="landlock") as second,
    ):
        for judge in (first, second, first):
            assert judge.judge(DOUBLE, TESTS, mode="exec").verdict is Verdict.ACCEPTED
        names = {path.name for path in tmp_path.iterdir()}
        assert len(names) == 3
        assert "spo-judge-0123456789abcdef" not in names
    assert {path.name for path in tmp_path.iterdir()} == {"of-somebody-else"}
