"""What this host judges a second, and beside it what it could at most: the figures of `spo judge bench`.

The floor is a bare fork of a warm interpreter that compiles and executes the same program, without limits, isolation,
pipes or comparing. Peers are measured by `benches/peers/judge.py`.
"""

import resource
import subprocess
import sys
import time

from spo.judge import Judge, Submission, TestCase

_PROGRAM = "n = int(input())\nprint(sum(i * i for i in range(n)))\n"
_TESTS = [TestCase(input=f"{n}\n", output=f"{sum(i * i for i in range(n))}\n") for n in range(10)]
_NUM_LATENCIES = 50
# Run by a plain interpreter, given the program: prints CPU seconds a test of the floor, then of a new `python3 -I -S`.
_BARE = """
import collections, copy, dataclasses, datetime, decimal, fractions, functools, gc, heapq, itertools, json, math, os
import random, re, resource, statistics, string, sys, traceback, types, typing

program, num_runs = sys.argv[1], 100
given, null = os.memfd_create("stdin"), os.open(os.devnull, os.O_WRONLY)
os.write(given, b"5\\n")
gc.collect()
gc.freeze()

def cpu_s():
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)

def start(executed):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    os.dup2(null, 1)
    if executed:
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", program])
    sys.stdin = open(0, closefd=False)
    exec(compile(program, "solution.py", "exec"), types.ModuleType("__main__").__dict__)
    sys.stdout.flush()
    os._exit(0)

for executed in (False, True):
    before = cpu_s()
    for _ in range(num_runs):
        start(executed)
    print((cpu_s() - before) / num_runs, file=sys.stderr)
"""


def bare_cpu_s() -> tuple[float, float]:
    """CPU seconds a short test: of the floor, and of an interpreter that is started for it."""
    command = [sys.executable, "-I", "-S", "-c", _BARE, _PROGRAM]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
    floor, executed = (float(line) for line in answer.split())
    return floor, executed


def measure(judge: Judge, num_workers: int, seconds: float = 3.0) -> dict[str, str | int | float]:
    """Short tests judged a second, ten to a submission, and what they cost; `program_…` is the tests' own processes."""
    batch = [Submission(_PROGRAM, _TESTS)] * (4 * num_workers)
    judge.judge_many(batch)
    num_tests, program_cpu_s = 0, 0.0
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    while time.perf_counter() < started + seconds:
        for judgement in judge.judge_many(batch):
            num_tests += judgement.num_passed
            program_cpu_s += sum(test.cpu_time_s for test in judgement.tests)
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    caller_cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    floor_cpu_s, executed_cpu_s = bare_cpu_s()
    return {
        "isolation_tier": judge.isolation_tier,
        "num_workers": num_workers,
        "tests_per_s": round(num_tests / wall_s, 1),
        "program_cpu_ms_per_test": round(1e3 * program_cpu_s / num_tests, 3),
        "caller_cpu_ms_per_test": round(1e3 * caller_cpu_s / num_tests, 3),
        "floor_cpu_ms_per_test": round(1e3 * floor_cpu_s, 3),
        "new_interpreter_cpu_ms_per_test": round(1e3 * executed_cpu_s, 3),
        "latency_ms_p50": round(1e3 * _median_latency_s(judge), 2),
    }


def _median_latency_s(judge: Judge) -> float:
    latencies = []
    for _ in range(_NUM_LATENCIES):
        started = time.perf_counter()
        judge.judge(_PROGRAM, _TESTS[:1])
        latencies.append(time.perf_counter() - started)
    return sorted(latencies)[_NUM_LATENCIES // 2]
