"""Memory: counted and limited by a cgroup of the worker where the host gives one, in both versions; and said where not.

Here the kernel gives one version; what reads the other's files is tested on a folder by `rust/sandbox/cgroup.rs`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spo.errors import JudgeError
from spo.judge import Judge, Limits, TestCase, Verdict

MEMORY, ACCEPTED = Verdict.MEMORY_LIMIT, Verdict.ACCEPTED
LIMITS = Limits(cpu_time_s=5.0, wall_time_s=30.0, memory_bytes=96 << 20)
TEST = TestCase(input="21\n", output="42\n")
HONEST = "print(int(input()) * 2)"
RESERVING = "import mmap\nx = [mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE) for _ in range(8)]\n" + HONEST
PIPES = """
import fcntl, os
for _ in range(110):
    r, w = os.pipe()
    try: fcntl.fcntl(w, 1031, 1 << 20)
    except OSError: pass
    os.set_blocking(w, False)
    try:
        while os.write(w, bytes(1 << 16)): pass
    except BlockingIOError: pass
print(int(input()) * 2)
"""


def cgroups(judge: int) -> set[str]:
    """Those of the judges of a process, wherever they are."""
    command = ["find", "/sys/fs/cgroup", "-type", "d", "-name", f"spo-judge-{judge}-*"]
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


@pytest.fixture(scope="module", params=["root", "user_namespace", "landlock"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    try:
        judge = Judge(num_workers=1, limits=LIMITS, isolation=request.param)
    except JudgeError as refusal:
        pytest.skip(f"this host does not give the tier: {refusal}")
    with judge:
        yield judge


def has_cgroup(judge: Judge) -> bool:
    accounting = judge.judge(HONEST, [TEST]).memory_accounting
    assert accounting.startswith(("cgroup_v1", "cgroup_v2", "resource_limits (")), accounting
    return accounting.startswith("cgroup")


@pytest.mark.parametrize("mode", ["warm", "exec"])
def test_what_is_touched_counts_and_what_is_not_does_not(judge: Judge, mode: str) -> None:
    touching = "x = b'x' * (64 << 20)\n" + HONEST
    result = judge.judge(touching, [TEST], mode=mode).tests[0]
    assert result.verdict is ACCEPTED
    assert 64 << 20 <= result.memory_bytes <= 96 << 20
    small = judge.judge(HONEST, [TEST], mode=mode).tests[0]
    assert small.memory_bytes < 24 << 20, "memory of the program before is counted"
    too_much = judge.judge("x = b'x' * (100 << 20)\n" + HONEST, [TEST], mode=mode)
    assert too_much.verdict is MEMORY


def test_with_a_cgroup_a_program_that_is_executed_may_reserve_what_it_does_not_touch(judge: Judge) -> None:
    expected = ACCEPTED if has_cgroup(judge) else MEMORY
    assert judge.judge(RESERVING, [TEST], mode="exec").verdict in (expected, Verdict.RUNTIME_ERROR)
    if expected is ACCEPTED:
        assert judge.judge(RESERVING, [TEST], mode="exec").verdict is ACCEPTED


def test_with_a_cgroup_a_program_is_ended_at_the_limit_and_not_later(judge: Judge) -> None:
    if not has_cgroup(judge):
        pytest.skip("this host gives no cgroup")
    result = judge.judge("x = []\nwhile True: x.append(b'x' * (1 << 20))", [TEST], mode="exec").tests[0]
    assert (result.verdict, result.signal) == (MEMORY, 9)
    assert result.memory_bytes < (96 << 20) + (24 << 20)


@pytest.mark.parametrize("mode", ["warm", "exec"])
def test_memory_of_the_kernel_is_limited_too_and_the_next_program_is_judged(judge: Judge, mode: str) -> None:
    limits = Limits(cpu_time_s=5.0, wall_time_s=30.0, memory_bytes=32 << 20)
    tests = [TEST, TEST]
    for _ in range(2):
        judgement = judge.judge(PIPES, tests, mode=mode, limits=limits, stop_on_first_failure=False)
        assert judgement.verdict in ((MEMORY,) if has_cgroup(judge) else (MEMORY, ACCEPTED)), judgement
        assert judge.judge(HONEST, tests, mode=mode).num_passed == 2


def test_cgroups_are_removed_when_the_judge_is_closed() -> None:
    before = cgroups(os.getpid())
    with Judge(num_workers=2, limits=LIMITS) as judge:
        given = has_cgroup(judge)
        assert bool(cgroups(os.getpid()) - before) is given
    assert cgroups(os.getpid()) == before


KILLED = """
import os, signal
from spo.judge import Judge, TestCase
judge = Judge(num_workers=2)
judge.judge("print()", [TestCase()])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_cgroups_of_a_judge_that_was_killed_are_removed_by_the_next() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED]) as killed:
        assert killed.wait(60) == -9
    deadline = time.monotonic() + 10
    while cgroups(killed.pid):  # Its helpers may still be ending, and then hold them.
        assert time.monotonic() < deadline, cgroups(killed.pid)
        with Judge(num_workers=1) as judge:
            judge.judge(HONEST, [TEST])


WITHOUT_CGROUPS = """
import json
from spo.judge import Judge, TestCase
with Judge(num_workers=1) as judge:
    judgements = [judge.judge(source, [TestCase(output="2")]) for source in ("print(2)", "print(")]
    big = judge.judge("x = bytearray(9 << 30)", [TestCase(output="2")])
print(json.dumps([[j.verdict, j.memory_accounting] for j in [*judgements, big]]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the cgroups away from a process")
def test_without_a_cgroup_it_is_said_in_each_judgement_and_by_the_doctor(tmp_path: Path) -> None:
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh"]
    done = subprocess.run([*hide, sys.executable, "-c", WITHOUT_CGROUPS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    judgements = json.loads(done.stdout)
    assert [verdict for verdict, _ in judgements] == ["accepted", "compile_error", "memory_limit"]
    assert all(accounting.startswith("resource_limits (") and len(accounting) > 20 for _, accounting in judgements)
    doctor = subprocess.run(
        [*hide, sys.executable, "-m", "spo.cli", "doctor"], capture_output=True, text=True, timeout=120
    )
    assert "resource limits" in doctor.stdout, doctor.stdout
    assert "no cgroup" in " ".join(doctor.stdout.split())
