"""Time with many more processes than cores: waiting for a core is nobody's fault, sleeping is the program's."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from spo.judge import Judge, Limits, Submission, TestCase, Verdict

CORES = len(os.sched_getaffinity(0))
LIMITS = Limits(cpu_time_s=0.1)  # 0.3 s on the clock.
HALF = "import time\nwhile time.process_time() < 0.05: pass\nprint('done')"
THREADS = (
    "import threading\nt = threading.Thread(target=lambda: sum(range(400_000)))\nt.start()\nt.join()\nprint('done')"
)
TALKING = "for _ in range(40): print('done ' * 5_000, flush=True)"
SLEEPING = "import time\ntime.sleep(99)"
SPINNING = "while True: pass"
WAKING = "import time\nwhile True: time.sleep(0.001)"


@pytest.fixture
def load() -> Iterator[None]:
    """Busy loops on every core, as many as make the programs wait longer than their time on the clock."""
    loops = [subprocess.Popen([sys.executable, "-c", SPINNING]) for _ in range(8 * CORES)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.parametrize("mode", ["warm", "exec"])
@pytest.mark.usefixtures("load")
def test_at_four_times_more_workers_than_cores_half_the_limit_is_never_too_much(mode: str) -> None:
    done = [TestCase(output="done")]
    honest = [Submission(source, done, mode=mode) for source in (HALF, THREADS)] * (4 * CORES)
    honest.append(Submission(TALKING, [TestCase(output="done " * 200_000)], mode=mode))
    with Judge(num_workers=4 * CORES, limits=LIMITS) as judge:
        judgements = judge.judge_many(honest)
    assert [j.verdict for j in judgements] == [Verdict.ACCEPTED] * len(honest), judgements
    waits = [j.tests[0].wall_time_s for j in judgements]
    assert max(waits) > 0.3, "the machine was not busy enough for this test to show anything"


@pytest.mark.usefixtures("load")
def test_what_sleeps_or_spins_is_ended_on_a_busy_machine_too() -> None:
    sources = [SLEEPING, WAKING, SPINNING]
    with Judge(num_workers=4 * CORES, limits=LIMITS) as judge:
        judgements = judge.judge_many(Submission(source, [TestCase(output="done")]) for source in sources)
    assert [j.verdict for j in judgements] == [Verdict.TIME_LIMIT] * 3
    assert judgements[0].tests[0].wall_time_s < 60, "sleeping was taken for waiting"
