"""The judge under a load of many submissions, tests and bytes: nothing is lost, mixed up or left."""

import itertools
import json
import threading
import time

import pytest
import trio
import trio.testing

from spo.judge import Judge, Limits, Submission, TestCase, Verdict

NUM_SUBMISSIONS = 1_000
NUM_TESTS = 10_000
NUM_CALLERS, NUM_EACH = 64, 4


def submission(number: int) -> Submission:
    """Its output is its own, and every tenth is wrong."""
    answer = number if number % 10 else -1
    return Submission(f"print({number})", [TestCase(output=f"{answer}\n")])


def fits(number: int, verdict: Verdict) -> bool:
    return verdict is (Verdict.ACCEPTED if number % 10 else Verdict.WRONG_ANSWER)


def resident_bytes() -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def test_a_thousand_submissions_from_threads_and_tasks_get_their_own_judgements() -> None:
    found: dict[int, Verdict] = {}
    with Judge(num_workers=2, limits=Limits(wall_time_s=60.0)) as judge:

        def from_a_thread(numbers: range) -> None:
            judgements = judge.judge_many(submission(number) for number in numbers)
            found.update({n: judgement.verdict for n, judgement in zip(numbers, judgements, strict=True)})

        async def from_a_task(number: int) -> None:
            asked = submission(number)
            found[number] = (await judge.judge_async(asked.source, asked.tests)).verdict

        async def tasks() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(NUM_SUBMISSIONS // 2, NUM_SUBMISSIONS):
                    nursery.start_soon(from_a_task, number)

        numbers = [range(start, NUM_SUBMISSIONS // 2, 10) for start in range(10)]
        threads = [threading.Thread(target=from_a_thread, args=(part,)) for part in numbers]
        for thread in threads:
            thread.start()
        trio.run(tasks)
        for thread in threads:
            thread.join()
    assert sorted(found) == list(range(NUM_SUBMISSIONS))
    assert all(fits(number, verdict) for number, verdict in found.items())


@pytest.mark.slow
def test_ten_thousand_tests_of_one_submission_are_all_counted() -> None:
    # Every hundredth is wrong.
    tests = [TestCase(f"{n}\n", f"{2 * n if n % 100 else -1}\n") for n in range(1, NUM_TESTS + 1)]
    with Judge(num_workers=1, limits=Limits(wall_time_s=60.0)) as judge:
        judge.judge("print(int(input()) * 2)", tests[:10])
        before = resident_bytes()
        judgement = judge.judge("print(int(input()) * 2)", tests, stop_on_first_failure=False)
        assert (judgement.verdict, judgement.num_passed) == (Verdict.WRONG_ANSWER, NUM_TESTS - NUM_TESTS // 100)
        wrong = [index for index, test in enumerate(judgement.tests) if test.verdict is not Verdict.ACCEPTED]
        assert wrong == list(range(99, NUM_TESTS, 100))
        assert len(judgement.tests) == NUM_TESTS
        assert resident_bytes() - before < 64 << 20
        stopped = judge.judge("print(int(input()) * 2)", tests)
        assert (stopped.verdict, stopped.num_passed, len(stopped.tests)) == (Verdict.WRONG_ANSWER, 99, 100)


def test_ten_thousand_calls_are_queued_and_stop_at_the_first_that_fails() -> None:
    tests = [TestCase(args=[n], output=2 * n if n != 300 else -1) for n in range(NUM_TESTS)]
    with Judge(num_workers=1, limits=Limits(wall_time_s=60.0)) as judge:
        stopped = judge.judge("def double(n): return 2 * n", tests, fn_name="double")
        assert (stopped.verdict, stopped.num_passed, len(stopped.tests)) == (Verdict.WRONG_ANSWER, 300, 301)
        all_run = judge.judge("def double(n): return 2 * n", tests[:600], fn_name="double", stop_on_first_failure=False)
        assert (all_run.verdict, all_run.num_passed, len(all_run.tests)) == (Verdict.WRONG_ANSWER, 599, 600)


def test_64_callers_are_served_in_turn() -> None:
    """Nobody waits for much more than the others' turns: the ideal of a queue that everybody joins anew when served.

    Turns are counted, not seconds, so that what else this machine does makes no difference.
    """
    served: list[int] = []
    with Judge(num_workers=1, limits=Limits(wall_time_s=60.0)) as judge:

        def call(caller: int) -> None:
            for _ in range(NUM_EACH):
                assert judge.judge("print(1)", [TestCase(output="1")]).verdict is Verdict.ACCEPTED
                served.append(caller)

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(NUM_CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    turns = [[turn for turn, served_one in enumerate(served) if served_one == caller] for caller in range(NUM_CALLERS)]
    waits = sorted(later - sooner for own in turns for sooner, later in itertools.pairwise(own))
    assert len(waits) == NUM_CALLERS * (NUM_EACH - 1)
    assert waits[int(0.99 * len(waits))] <= 3 * NUM_CALLERS


@pytest.mark.parametrize("checker", ["exact", "tokens", "lines", "unordered", "floats", "kattis", "code_contests"])
def test_an_input_and_an_output_of_64_megabytes_arrive_whole(checker: str) -> None:
    text = b"0123456789abcde\n" * (4 << 20)
    source = "import sys\nwhile part := sys.stdin.buffer.read(1 << 20): sys.stdout.buffer.write(part)"
    limits = Limits(cpu_time_s=20.0, wall_time_s=120.0, output_bytes=64 << 20)
    with Judge(num_workers=1, limits=limits) as judge:
        for mode in ("warm", "exec") if checker == "exact" else ("warm",):
            result = judge.judge(source, [TestCase(text, text)], checker=checker, mode=mode).tests[0]
            assert (result.verdict, result.stdout_bytes) == (Verdict.ACCEPTED, 64 << 20)
        wrong = judge.judge(source, [TestCase(text, text[:-2] + b"f\n")], checker=checker)
        assert wrong.verdict is Verdict.WRONG_ANSWER
        if checker == "exact":
            more = judge.judge(source + "\nprint()", [TestCase(text, text + b"\n")], checker="exact")
            assert more.verdict is Verdict.OUTPUT_LIMIT


def test_a_call_may_take_and_return_64_megabytes() -> None:
    text = "é" + "0123456789abcdef" * (4 << 20)
    limits = Limits(cpu_time_s=20.0, wall_time_s=120.0, output_bytes=65 << 20, memory_bytes=1 << 30)
    with Judge(num_workers=1, limits=limits) as judge:
        tests = [TestCase(args=[text], output=text)]
        judgement = judge.judge("def same(text): return text", tests, fn_name="same")
        assert (judgement.verdict, judgement.tests[0].stdout_bytes) == (Verdict.ACCEPTED, len(json.dumps(text)))
        wrong = judge.judge("def same(text): return text[:-1] + 'x'", tests, fn_name="same")
        assert wrong.verdict is Verdict.WRONG_ANSWER


async def test_a_cancelled_task_frees_its_place_at_once() -> None:
    with Judge(num_workers=1, limits=Limits(cpu_time_s=60.0)) as judge:
        await judge.judge_async("print(1)", [TestCase(output="1")])
        with trio.move_on_after(0.2):
            await judge.judge_async("import time\ntime.sleep(100)", [TestCase()])
        cancelled = time.monotonic()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(judge.judge_async, "import time\ntime.sleep(100)", [TestCase()])
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (await judge.judge_async("print(1)", [TestCase(output="1")])).verdict is Verdict.ACCEPTED
        assert time.monotonic() - cancelled < 5
