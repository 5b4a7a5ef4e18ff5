"""Known submissions judged many times over: does a verdict ever change, or differ from what it should be? Run by hand.

    python tests/flips_judge.py kattis:FOLDER builtin --rounds 20 --workers 2

Takes the solutions that come with the problems (of Kattis packages, their `submissions`), right and wrong ones. Exits
with 1 if the verdict or the number of tests passed of one of them changes, or if one that is right is not accepted, or
one that is wrong is.
"""

import argparse
import collections
import random
import sys
import time
from dataclasses import replace

from spo.judge import Judge, Submission, Verdict
from spo.problems import load_problems
from spo.problems.judging import submission_for

Found = tuple[Verdict, int]
"""A verdict, and how many tests passed."""


def main() -> int:
    """Judges and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--tier", default=None)
    parser.add_argument("--cpu-time", type=float, default=10.0, help="seconds each test may take")
    parser.add_argument("--seed", type=int, default=0, help="of the order, another in each round")
    options = parser.parse_args()
    problems = load_problems(options.specs)
    asked = [
        (f"{problem.id}, {solution.note or number} ({solution.language})", solution.correct, submission)
        for problem in problems
        for number, solution in enumerate(problem.solutions)
        if solution.language in ("python", "cpp")
        for submission in [within(submission_for(problem, solution.code, language=solution.language), options.cpu_time)]
    ]
    found: dict[str, collections.Counter[Found]] = collections.defaultdict(collections.Counter)
    generator, started = random.Random(options.seed), time.monotonic()
    with Judge(options.workers, isolation=options.tier) as judge:
        for _ in range(options.rounds):
            generator.shuffle(asked)
            judgements = judge.judge_many(submission for *_, submission in asked)
            for (name, _, _), judgement in zip(asked, judgements, strict=True):
                found[name][judgement.verdict, judgement.num_passed] += 1
    flips = [name for name, counts in found.items() if len(counts) > 1]
    false = [
        name for name, correct, _ in asked for verdict, _ in found[name] if (verdict is Verdict.ACCEPTED) != correct
    ]
    for name in flips + false:
        shown = [f"{verdict} ({passed} passed) {n} times" for (verdict, passed), n in found[name].items()]
        print(f"{name}: {', '.join(shown)}")
    verdicts = collections.Counter(str(verdict) for counts in found.values() for verdict, _ in counts)
    num_passed = sum(passed * n for counts in found.values() for (_, passed), n in counts.items())
    seconds = time.monotonic() - started
    print(f"{len(asked)} submissions of {len(problems)} problems, {options.rounds} times over, in {seconds:.0f} s:")
    print(f"{len(flips)} flip, {len(false)} false; {num_passed} tests passed; {dict(verdicts)}")
    return 1 if flips or false else 0


def within(submission: Submission, cpu_time_s: float) -> Submission:
    """With another limit of CPU time."""
    assert submission.limits is not None
    return replace(submission, limits=replace(submission.limits, cpu_time_s=cpu_time_s))


if __name__ == "__main__":
    sys.exit(main())
