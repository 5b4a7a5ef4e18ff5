"""The judge for a long time: honest, wrong and hostile programs mixed, on more workers than cores. Run by hand.

    python tests/soak_judge.py --runs 100000 --seed 0 --tier root --workers 8 --mode warm

Each run is one test of one program, in a warm interpreter or executed (`--mode exec`). Checked are the verdict of each
program, and that nothing is left at the end: processes, descriptors, temporary files, shared memory, control groups,
and memory of the judge's own processes. Exits with 1 and says why if a verdict was false or something was left.
"""

import argparse
import collections
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from judge_hostile_programs import HONEST, HUNGRY, LIMITS, PROGRAMS, TEST, WAITING, limits_of

from spo.judge import Judge, Judgement, Limits, Submission, TestCase, Verdict

GIVES = {Verdict.ACCEPTED}
# (source, input, output, verdicts that fit, weight)
ORDINARY: tuple[tuple[str, str, str, set[Verdict], int], ...] = (
    ("print(int(input()) * 2)", "21\n", "42\n", GIVES, 30),
    ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "1 2 3\n" * 500, "3000\n", GIVES, 10),
    ("import sys\nfor line in sys.stdin: sys.stdout.write(line)", "abc\n" * 2000, "abc\n" * 2000, GIVES, 5),
    ("print(sum(i * i % 7 for i in range(60_000)))", "", f"{sum(i * i % 7 for i in range(60_000))}\n", GIVES, 4),
    ("import threading\nt = threading.Thread(target=print, args=(5,))\nt.start()\nt.join()", "", "5\n", GIVES, 3),
    ("import asyncio\nasync def f(): print(7)\nasyncio.run(f())", "", "7\n", GIVES, 1),
    ("x = bytearray(40 << 20)\nx[::4096] = bytes([1]) * 10240\nprint(len(x))", "", f"{40 << 20}\n", GIVES, 1),
    ("def f(n): return n and 1 + f(n - 1)\nprint(f(900))", "", "900\n", GIVES, 3),
    ("print('a' * 200_000)", "", "a" * 200_000, GIVES, 2),
    ("print(int(input()) * 3)", "21\n", "42\n", {Verdict.WRONG_ANSWER}, 12),
    ("", "", "1\n", {Verdict.WRONG_ANSWER}, 3),
    ("print(41, end='')", "", "42", {Verdict.WRONG_ANSWER}, 3),
    ("print(1 / 0)", "", "1\n", {Verdict.RUNTIME_ERROR}, 8),
    ("exit(3)", "", "", {Verdict.RUNTIME_ERROR}, 3),
    ("import os\nos.abort()", "", "", {Verdict.RUNTIME_ERROR}, 2),
    ("print(", "", "", {Verdict.COMPILE_ERROR}, 8),
    ("x = 1\n  y = 2", "", "", {Verdict.COMPILE_ERROR}, 4),
)
# What is also right of those that are executed: addresses that are only reserved take no memory.
EXECUTED = {name: {Verdict.WRONG_ANSWER} for name in ("huge stacks of threads", "memory that is not reserved")}
# How often a hostile program is drawn, and one that costs much wall or CPU time.
HOSTILE_SHARE, EXPENSIVE_SHARE = 0.12, 0.02
BATCH = 500
MEMORY_GROWTH_KB = 8192


@dataclass(frozen=True)
class Drawn:
    """A submission, and the verdicts that fit."""

    name: str
    submission: Submission
    fitting: set[Verdict]


def draw(generator: random.Random) -> Drawn:
    """One of the mix."""
    names = list(PROGRAMS)
    if generator.random() < HOSTILE_SHARE:
        name = generator.choice(names)
        costly = Verdict.TIME_LIMIT in PROGRAMS[name][1] or name in WAITING | HUNGRY
        if not costly or generator.random() < EXPENSIVE_SHARE / HOSTILE_SHARE:
            source, fitting = PROGRAMS[name]
            return Drawn(name, Submission(source, [TEST], limits=limits_of(name)), fitting)
    if generator.random() < 0.05:
        return Drawn("honest", Submission(HONEST, [TEST], limits=LIMITS), GIVES)
    source, given, output, fitting, _ = generator.choices(ORDINARY, [weight for *_, weight in ORDINARY])[0]
    # Another program each time, so that nothing is the same but by its meaning.
    source = f"{source}\n# {generator.random()}" if Verdict.COMPILE_ERROR not in fitting else source
    return Drawn(source[:40], Submission(source, [TestCase(given, output)], limits=Limits(cpu_time_s=2.0)), fitting)


def processes_below(pid: int) -> set[int]:
    """Its descendants that live."""
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/children"))
        direct = {int(child) for file in files for child in file.read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return direct.union(*(processes_below(child) for child in direct))


def memory_kb(pid: int) -> int:
    """Its resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def leavings() -> dict[str, int]:
    """What a run could leave outside of the judge's processes, counted by kind."""
    folders = [folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.path.isdir(folder)]
    names = [name for folder in folders for name in os.listdir(folder) if name.startswith("left-behind")]
    kinds = [Path("/proc/sysvipc", kind) for kind in ("shm", "msg", "sem")]
    groups = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if f"spo-judge-{os.getpid()}-" in folder]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": len(names) + len(os.listdir(tempfile.gettempdir())),
        "shared memory": sum(
            line.split()[0] == str(0x4711) for kind in kinds for line in kind.read_text().splitlines()[1:]
        ),
        "control groups": len(groups),
    }


def settled(judge_processes: int) -> set[int]:
    """The judge's processes once the last runs' are gone; more if they do not go."""
    deadline = time.monotonic() + 20
    while len(found := processes_below(os.getpid())) > judge_processes and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def batches(runs: int, seed: int, mode: str) -> Iterator[list[Drawn]]:
    """The mix, in batches."""
    generator = random.Random(seed)
    for start in range(0, runs, BATCH):
        drawn = [draw(generator) for _ in range(min(BATCH, runs - start))]
        yield [replace(one, submission=replace(one.submission, mode=mode)) for one in drawn]


def complaint(drawn: Drawn, judgement: Judgement) -> str | None:
    """What is false about a judgement, if anything is."""
    also = EXECUTED.get(drawn.name, set()) if drawn.submission.mode == "exec" else set()
    if judgement.verdict in drawn.fitting | also:
        return None
    facts = judgement.tests[-1] if judgement.tests else judgement.message
    return f"{drawn.name!r}: {judgement.verdict}, not {'/'.join(sorted(drawn.fitting))}: {facts}"


def main() -> int:
    """Runs the mix and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tier", default=None)
    parser.add_argument("--mode", choices=("warm", "exec"), default="warm")
    parser.add_argument("--workers", type=int, default=4 * (os.cpu_count() or 1))
    parser.add_argument("--until", type=float, default=float("inf"), help="stop after so many seconds")
    options = parser.parse_args()
    # Where the judge puts what it makes; others of this machine have their own.
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="soak-")
    outside = leavings()
    started, verdicts, complaints, runs = time.monotonic(), collections.Counter[str](), [], 0
    with Judge(options.workers, isolation=options.tier) as judge:
        # Each worker has started, and grown to its size, when as many slow programs have run as there are workers.
        warm_up = Submission("import time\ntime.sleep(0.5)", [TestCase()], mode=options.mode)
        judge.judge_many([warm_up] * (4 * options.workers))
        # A zygote a worker, and its launcher where there are namespaces or a box.
        has_launcher = judge.isolation_tier != "landlock" or options.mode == "exec"
        helpers = len(settled(options.workers * (2 if has_launcher else 1)))
        memory = sum(memory_kb(pid) for pid in settled(helpers))
        descriptors = leavings()["descriptors"]
        for batch in batches(options.runs, options.seed, options.mode):
            for drawn, judgement in zip(batch, judge.judge_many([one.submission for one in batch]), strict=True):
                runs += 1
                verdicts[judgement.verdict] += 1
                said = complaint(drawn, judgement)
                if said is not None:
                    complaints.append(said)
                    print(said, flush=True)
            if time.monotonic() - started > options.until:
                break
        left = settled(helpers)
        if len(left) > helpers:
            complaints.append(f"{len(left)} processes, not {helpers}")
        grown = sum(memory_kb(pid) for pid in left) - memory
        if grown > MEMORY_GROWTH_KB * options.workers:
            complaints.append(f"the judge's processes have grown by {grown} kB")
        if leavings()["descriptors"] > descriptors:
            complaints.append(f"{leavings()['descriptors']} descriptors, not {descriptors}")
        tier = judge.isolation_tier
    if settled(0):
        complaints.append(f"processes after the end: {settled(0)}")
    complaints += [
        f"{kind}: {count}, not {outside[kind]}" for kind, count in leavings().items() if count > outside[kind]
    ]
    os.rmdir(tempfile.gettempdir())
    seconds = time.monotonic() - started
    counts = {str(verdict): count for verdict, count in verdicts.most_common()}
    where = f"{options.mode}, tier {tier}, {options.workers} workers"
    print(f"{runs} runs ({where}) in {seconds:.0f} s; memory {grown:+} kB; {counts}")
    print("\n".join(complaints[-10:]) or "every verdict fits, nothing is left")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
