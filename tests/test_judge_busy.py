"""No false verdicts under load: more workers than cores, and honest programs that need half of what they may use."""

import os

from spo.judge import Judge, Limits, Submission, TestCase, Verdict

CPU_LIMIT_S = 0.4
HALF_OF_IT = f"""
import time
n = int(input())
while time.process_time() < {CPU_LIMIT_S / 2}: n += 0
print(2 * n)
"""
MORE_THAN_IT = "while True: pass"
LIMITS = Limits(cpu_time_s=CPU_LIMIT_S)


def test_at_four_workers_a_core_no_honest_program_is_timed_out() -> None:
    workers = 4 * (os.cpu_count() or 1)
    test = TestCase(input="21\n", output="42\n")
    honest = [Submission(HALF_OF_IT, [test], limits=LIMITS) for _ in range(2 * workers)]
    endless = [Submission(MORE_THAN_IT, [test], limits=LIMITS) for _ in range(workers // 4)]
    with Judge(num_workers=workers) as judge:
        judgements = judge.judge_many(honest + endless)
    for judgement in judgements[: len(honest)]:
        assert judgement.verdict is Verdict.ACCEPTED, judgement
        assert judgement.tests[0].cpu_time_s < CPU_LIMIT_S
    assert {judgement.verdict for judgement in judgements[len(honest) :]} == {Verdict.TIME_LIMIT}
