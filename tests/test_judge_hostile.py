"""Programs that mean harm, each in every tier: the right verdict, and nothing left behind for the next program.

Nothing: no process, descriptor, file, shared memory or message queue, and no memory of the judge's own processes.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_hostile_programs import ACCEPTED, HONEST, LIMITS, PROGRAMS, TEST, limits_of

from spo.errors import JudgeError
from spo.judge import Judge

# The names and keys under which programs would leave something behind.
FOLDERS = ("/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")
NAME, KEY = "left-behind", str(0x4711)
MEMORY_GROWTH_KB = 4096


@pytest.fixture(scope="module", params=["root", "user_namespace", "landlock"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    try:
        judge = Judge(num_workers=1, limits=LIMITS, isolation=request.param)
    except JudgeError as refusal:
        pytest.skip(f"this host does not give the tier: {refusal}")
    with judge:
        for mode in ("warm", "exec"):
            judge.judge(HONEST, [TEST], mode=mode)
        assert helpers_stand_by(judge.isolation_tier)
        before = {pid: (memory_kb(pid), num_descriptors(pid)) for pid in processes_below(os.getpid())}
        yield judge
        assert helpers_stand_by(judge.isolation_tier)
        after = {pid: (memory_kb(pid), num_descriptors(pid)) for pid in processes_below(os.getpid())}
        assert before.keys() == after.keys(), "a helper was replaced"
        for pid, (memory, descriptors) in before.items():
            assert after[pid][0] <= memory + MEMORY_GROWTH_KB, "a helper has grown"
            assert after[pid][1] == descriptors, "a helper has more descriptors"


def processes_below(pid: int) -> set[int]:
    try:
        children = list(Path(f"/proc/{pid}/task").glob("*/children"))
        direct = {int(child) for file in children for child in file.read_text().split()}
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return set()
    return direct.union(*(processes_below(child) for child in direct))


def memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def num_descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:  # Helpers cannot be looked into, but by root.
        return -1


def helpers_stand_by(tier: str) -> bool:
    """Only the two workers' helpers are left, each a launcher and a zygote where there are namespaces or a folder."""
    return settled(3 if tier == "landlock" else 4)


def settled(count: int) -> bool:
    """Whether there are soon just so many processes below this one."""
    deadline = time.monotonic() + 10
    while len(processes_below(os.getpid())) != count:  # The last template ends a moment after its judgement.
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def at_rest() -> int:
    """How many processes there are below this one, once that has not changed for a while."""
    count, since = len(processes_below(os.getpid())), time.monotonic()
    while time.monotonic() - since < 0.1:
        time.sleep(0.01)
        if (now := len(processes_below(os.getpid()))) != count:
            count, since = now, time.monotonic()
    return count


def left_behind() -> list[str]:
    found = [f"{folder}/{name}" for folder in FOLDERS if os.path.isdir(folder) for name in os.listdir(folder)]
    kinds = [Path("/proc/sysvipc", kind) for kind in ("shm", "msg", "sem")]
    keys = [
        f"{kind} {KEY}"
        for kind in kinds
        if kind.exists()
        for line in kind.read_text().splitlines()[1:]
        if KEY in line.split()
    ]
    return [path for path in found if NAME in path] + keys


def check(judge: Judge, name: str, mode: str) -> None:
    source, fitting = PROGRAMS[name]
    descriptors = num_descriptors(os.getpid())
    judgement = judge.judge(source, [TEST], limits=limits_of(name), mode=mode)
    assert judgement.verdict in fitting, judgement
    assert judgement.isolation_tier == judge.isolation_tier
    assert judge.judge(HONEST, [TEST], mode=mode).verdict is ACCEPTED
    assert helpers_stand_by(judge.isolation_tier), "a process was left"
    assert num_descriptors(os.getpid()) == descriptors
    assert left_behind() == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_gets_its_verdict_and_leaves_nothing(judge: Judge, name: str) -> None:
    check(judge, name, "warm")


@pytest.mark.parametrize("name", list(PROGRAMS)[::6])
def test_a_hostile_program_that_is_executed_gets_its_verdict_and_leaves_nothing(judge: Judge, name: str) -> None:
    check(judge, name, "exec")


def test_this_host_gives_a_tier_that_needs_no_privileges() -> None:
    with Judge(num_workers=1, isolation="landlock") as judge:
        assert judge.judge(HONEST, [TEST]).isolation_tier == "landlock"


def test_nothing_passes_from_one_run_to_another(judge: Judge) -> None:
    leave = (
        "import builtins, math, os, random, sys\n"
        "assert input() == '21'\n"
        "places = (builtins, math, sys, os)\n"
        "assert not any(hasattr(place, 'left') for place in places) and 'left' not in os.environ\n"
        "assert sys.getrecursionlimit() == 1000 and 'left' not in sys.modules and random.random() != 0.5\n"
        "for place in places: place.left = 1\n"
        "os.environ['left'] = sys.modules['left'] = 'x'\n"
        "os.chdir('/lib'); os.umask(0); sys.setrecursionlimit(99999); random.random = lambda: 0.5\n"
        "print('xyzzy-4711')"
    )
    for _ in range(2):
        judgement = judge.judge(leave, [TEST] * 3)
        assert judgement.verdict is ACCEPTED, judgement


@pytest.mark.skipif(os.geteuid() != 0, reason="only root opens another process's output")
def test_an_end_is_told_though_another_holds_the_output_open(judge: Judge) -> None:
    """As a descriptor does that is within a socket on its way through itself, until the kernel looks for such."""
    held: list[int] = []

    def hold() -> None:
        while not held:
            for comm in Path("/proc").glob("[1-9]*/comm"):
                try:
                    if comm.read_text() == "held-4711\n":
                        held.append(os.open(comm.with_name("fd") / "1", os.O_WRONLY | os.O_NONBLOCK))
                except OSError:  # it has just ended
                    pass

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    source = "import ctypes, time\nctypes.CDLL(None).prctl(15, b'held-4711')\nprint('xyzzy-4711')\ntime.sleep(0.5)"
    began = time.monotonic()
    judgement = judge.judge(source, [TEST])
    took = time.monotonic() - began
    holder.join(timeout=10)
    assert held, "nobody held the output"
    os.close(held[0])
    assert judgement.verdict == ACCEPTED
    assert took < 15  # half of the time after which a helper counts as stuck
