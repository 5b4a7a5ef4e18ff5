"""The judge under a load of many submissions, tests and bytes: nothing is lost, mixed up or left."""

import threading

import trio

from spo.judge import Judge, Limits, Submission, TestCase, Verdict

NUM_SUBMISSIONS = 1_000


def submission(number: int) -> Submission:
    """Its output is its own, and every tenth is wrong."""
    answer = number if number % 10 else -1
    return Submission(f"print({number})", [TestCase(output=f"{answer}\n")])


def fits(number: int, verdict: Verdict) -> bool:
    return verdict is (Verdict.ACCEPTED if number % 10 else Verdict.WRONG_ANSWER)


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


def test_an_input_and_an_output_of_64_megabytes_arrive_whole() -> None:
    text = b"0123456789abcde\n" * (4 << 20)
    source = "import sys\nwhile part := sys.stdin.buffer.read(1 << 20): sys.stdout.buffer.write(part)"
    limits = Limits(cpu_time_s=20.0, output_bytes=64 << 20)
    with Judge(num_workers=1, limits=limits) as judge:
        for mode in ("warm", "exec"):
            result = judge.judge(source, [TestCase(text, text)], checker="exact", mode=mode).tests[0]
            assert (result.verdict, result.stdout_bytes) == (Verdict.ACCEPTED, 64 << 20)
        more = judge.judge(source + "\nprint()", [TestCase(text, text + b"\n")], checker="exact")
        assert more.verdict is Verdict.OUTPUT_LIMIT
