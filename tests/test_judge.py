"""The judge as a Python program sees it: verdicts, facts, order, trio, cancellation."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from spo.judge import Judge, Limits, Submission, TestCase, Verdict

DOUBLE = "print(int(input()) * 2)"
TESTS = [TestCase(input=f"{number}\n", output=f"{2 * number}\n") for number in range(5)]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(num_workers=2, limits=Limits(cpu_time_s=1.0)) as judge:
        yield judge


def descendants(of: int) -> set[int]:
    """The live processes below a process, by /proc."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == of and fields[0] != "Z":
                found |= {int(entry.name)} | descendants(int(entry.name))
    return found


def wait_until(condition, seconds: float = 10.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_right_program_passes_every_test(judge: Judge) -> None:
    judgement = judge.judge(DOUBLE, TESTS)
    assert judgement.verdict is Verdict.ACCEPTED
    assert judgement.num_passed == len(judgement.tests) == 5
    assert judgement.isolation_tier == judge.isolation_tier
    facts = judgement.tests[1]
    assert (facts.exit_code, facts.signal, facts.stdout_head, facts.stdout_bytes) == (0, None, "2\n", 2)
    assert 0 < facts.cpu_time_s <= facts.wall_time_s + 0.01
    assert 4 << 20 < facts.memory_bytes < 64 << 20


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("print(int(input()) * 3)", Verdict.WRONG_ANSWER),
        ("", Verdict.WRONG_ANSWER),
        ("print(1 / 0)", Verdict.RUNTIME_ERROR),
        ("print(int(input()) * 2); exit(3)", Verdict.RUNTIME_ERROR),
        ("import os; os.abort()", Verdict.RUNTIME_ERROR),
        ("print(", Verdict.COMPILE_ERROR),
        ("while True: pass", Verdict.TIME_LIMIT),
        ("x = bytearray(10**9)", Verdict.MEMORY_LIMIT),
        ("x = bytearray(600 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1", Verdict.MEMORY_LIMIT),
        ("import socket; socket.socket()", Verdict.SECURITY_VIOLATION),
    ],
)
def test_a_failing_program_gets_the_verdict_that_fits(judge: Judge, source: str, verdict: Verdict) -> None:
    assert judge.judge(source, TESTS).verdict is verdict


def test_the_compilers_message_comes_every_time(judge: Judge) -> None:
    submissions = [Submission("x = 1\nx++\n", TESTS) for _ in range(100)]
    messages = {judgement.message for judgement in judge.judge_many(submissions)}
    assert messages == {"SyntaxError: invalid syntax (solution.py, line 2)"}


def test_sleeping_uses_up_the_wall_time(judge: Judge) -> None:
    judgement = judge.judge("import time; time.sleep(60)", TESTS, limits=Limits(wall_time_s=0.3))
    assert judgement.verdict is Verdict.TIME_LIMIT
    assert judgement.tests[0].cpu_time_s < 0.3 <= judgement.tests[0].wall_time_s


def test_too_much_output_is_its_own_verdict(judge: Judge) -> None:
    limits = Limits(cpu_time_s=1.0, output_bytes=100_000)
    for stream in ("stdout", "stderr"):
        source = f"import sys\nwhile True: sys.{stream}.write('0\\n' * 1000)"
        judgement = judge.judge(source, [TestCase(output="0\n" * 200_000)], limits=limits)
        assert judgement.verdict is Verdict.OUTPUT_LIMIT


def test_judging_ends_at_the_first_failure_only_if_asked_to(judge: Judge) -> None:
    source = "n = int(input())\nprint(2 * n if n != 1 else 'x')"
    assert len(judge.judge(source, TESTS).tests) == 2
    judgement = judge.judge(source, TESTS, stop_on_first_failure=False)
    assert (judgement.verdict, judgement.num_passed, len(judgement.tests)) == (Verdict.WRONG_ANSWER, 4, 5)


def test_the_gravest_verdict_of_the_tests_is_that_of_the_submission(judge: Judge) -> None:
    source = "n = int(input())\nprint(0 if n < 3 else 1 / 0)"
    judgement = judge.judge(source, TESTS, stop_on_first_failure=False)
    assert judgement.verdict is Verdict.RUNTIME_ERROR
    assert [test.verdict.value for test in judgement.tests[1:4]] == ["wrong_answer"] * 2 + ["runtime_error"]


def test_a_traceback_shows_the_source_line(judge: Judge) -> None:
    tail = judge.judge("def f():\n    return 1 / 0\nf()", TESTS).tests[0].stderr_tail
    assert tail.startswith("Traceback (most recent call last):\n  File")
    assert "return 1 / 0" in tail
    assert tail.endswith("ZeroDivisionError: division by zero\n")
    assert "helper" not in tail


def test_many_are_judged_in_order(judge: Judge) -> None:
    submissions = [
        Submission(f"print(int(input()) * {factor})", TESTS[1:], limits=Limits(cpu_time_s=1.0 + factor))
        for factor in (2, 3, 2, 1)
    ]
    verdicts = [judgement.verdict.value for judgement in judge.judge_many(submissions)]
    assert verdicts == ["accepted", "wrong_answer", "accepted", "wrong_answer"]


def test_as_they_finish_a_quick_one_overtakes_a_slow_one(judge: Judge) -> None:
    slow = Submission("import time; time.sleep(0.5); print(int(input()) * 2)", TESTS[:1])
    finished = [index for index, _ in judge.judge_as_completed([slow, Submission(DOUBLE, TESTS[:1])])]
    assert finished == [1, 0]


def test_threads_may_share_a_judge(judge: Judge) -> None:
    verdicts: list[Verdict] = []
    threads = [threading.Thread(target=lambda: verdicts.append(judge.judge(DOUBLE, TESTS).verdict)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [Verdict.ACCEPTED] * 20


async def test_trio_tasks_judge_at_the_same_time(judge: Judge) -> None:
    verdicts: list[Verdict] = []

    async def one() -> None:
        verdicts.append((await judge.judge_async(DOUBLE, TESTS)).verdict)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
    assert verdicts == [Verdict.ACCEPTED] * 20


async def test_cancelling_frees_the_workers_at_once() -> None:
    endless = "while True: pass"
    with Judge(num_workers=1, limits=Limits(cpu_time_s=60.0)) as judge:
        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(judge.judge_async, endless, TESTS)
        with trio.fail_after(10):
            assert (await judge.judge_async(DOUBLE, TESTS)).verdict is Verdict.ACCEPTED


def test_leaving_the_loop_over_finished_ones_cancels_the_rest() -> None:
    with Judge(num_workers=1, limits=Limits(cpu_time_s=60.0)) as judge:
        submissions = [Submission(DOUBLE, TESTS), Submission("while True: pass", TESTS)]
        for index, judgement in judge.judge_as_completed(submissions):
            assert (index, judgement.verdict) == (0, Verdict.ACCEPTED)
            break
        assert judge.judge(DOUBLE, TESTS).verdict is Verdict.ACCEPTED


def test_closing_while_a_program_runs_leaves_no_process() -> None:
    before = descendants(os.getpid())
    judge = Judge(num_workers=2, limits=Limits(cpu_time_s=60.0))
    errors: list[BaseException] = []

    def wait_for_it() -> None:
        try:
            judge.judge("while True: pass", TESTS)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert wait_until(lambda: len(descendants(os.getpid()) - before) >= 3)
    judge.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [str(error) for error in errors] == ["judging was cancelled"]
    assert wait_until(lambda: not descendants(os.getpid()) - before)
    with pytest.raises(ValueError, match="closed"):
        judge.judge(DOUBLE, TESTS)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_caller(how: signal.Signals) -> None:
    code = (
        "from spo.judge import *\n"
        "judge = Judge(num_workers=2, limits=Limits(cpu_time_s=60.0))\n"
        "print('ready', flush=True)\n"
        "judge.judge_many([Submission('while True: pass', [TestCase()])] * 2)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        assert wait_until(lambda: len(descendants(caller.pid)) >= 6)
        helpers = descendants(caller.pid)
        caller.send_signal(how)
        caller.wait(10)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers)), helpers


def test_a_killed_helper_costs_a_retry_and_no_verdict() -> None:
    with Judge(num_workers=1) as judge:
        source = "import time; time.sleep(1); print(int(input()) * 2)"
        killer = threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGKILL) for pid in descendants(os.getpid())])
        killer.start()
        assert judge.judge(source, TESTS[:1]).verdict is Verdict.ACCEPTED


def test_an_idle_judge_uses_no_cpu_time() -> None:
    with Judge(num_workers=2) as judge:
        judge.judge(DOUBLE, TESTS)
        processes = [os.getpid(), *descendants(os.getpid())]

        def ticks() -> list[list[str]]:
            return [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] for pid in processes]

        def a_quiet_half_second() -> bool:
            before = ticks()
            time.sleep(0.5)
            return ticks() == before

        # What the judgement left to do may take a moment more; a judge that polls never has such a half second.
        assert any(a_quiet_half_second() for _ in range(10))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"tests": []}, "without tests"),
        ({"checker": "tokenz"}, 'checker "tokenz" is unknown'),
        ({"checker": "floats -1"}, "no tolerance"),
        ({"checker": "kattis loud"}, "no Kattis flag"),
        ({"limits": Limits(cpu_time_s=0.0)}, "limits.cpu_time_s is 0"),
        ({"limits": Limits(wall_time_s=float("nan"))}, "limits.wall_time_s is NaN"),
        ({"limits": Limits(memory_bytes=1)}, "limits.memory_bytes is 1"),
        ({"limits": Limits(output_bytes=0)}, "limits.output_bytes is 0"),
        ({"language": "cobol"}, 'language is "cobol"'),
    ],
)
def test_a_wrong_argument_is_named(judge: Judge, arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        judge.judge(DOUBLE, **{"tests": TESTS, **arguments})  # type: ignore[arg-type]


def test_a_wrong_setup_is_named() -> None:
    with pytest.raises(ValueError, match="num_workers is 0"):
        Judge(num_workers=0)
    with pytest.raises(ValueError, match='isolation is "steel"'):
        Judge(isolation="steel")
    with pytest.raises(OSError, match="/no/such/python"):
        Judge(interpreter="/no/such/python")
    with pytest.raises(ValueError, match="/bin/true is no CPython"):
        Judge(interpreter="/bin/true")


def test_long_inputs_and_outputs_arrive_whole(judge: Judge) -> None:
    text = b"".join(b"%d\n" % number for number in range(2_000_000))
    limits = Limits(cpu_time_s=10.0, output_bytes=64 << 20)
    source = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    result = judge.judge(source, [TestCase(text, text)], checker="exact", limits=limits).tests[0]
    assert (result.verdict, result.stdout_bytes) == (Verdict.ACCEPTED, len(text))
    shorter = judge.judge(source, [TestCase(text, text[:-2])], checker="tokens", limits=limits)
    assert shorter.verdict is Verdict.WRONG_ANSWER


def test_a_submission_may_have_many_tests(judge: Judge) -> None:
    tests = [TestCase(f"{number}\n", f"{number}\n") for number in range(300)]
    assert judge.judge("print(input())", tests).num_passed == 300
