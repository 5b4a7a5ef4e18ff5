"""Verification: what the judge says of the solutions that come with problems.

Right solutions that are refused point at a bad test, at a problem with several right answers, or at a limit that is
too tight; wrong solutions that are accepted point at weak tests. Only Python solutions are run. Nothing is changed:
the reports say what to leave out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from spo.judge import Judge, Judgement, Verdict
from spo.problems.judging import submission_for
from spo.problems.schema import Problem, Solution

_PROBLEMS_AT_ONCE = 8


class ProblemReport(msgspec.Struct, frozen=True):
    """What came of one problem's solutions.

    Attributes:
        problem_id: Which problem.
        num_right: Right Python solutions that were judged.
        right_accepted: How many of them were accepted.
        num_wrong: Wrong Python solutions that were judged.
        wrong_refused: How many of them were refused.
        bad_tests: Tests that more than half of the right solutions fail by the same answer.
        disputed_tests: Other tests that right solutions fail by their answers. Many of them mean that the problem has
            several right answers, which its checker does not know.
        slowest_cpu_s: CPU seconds of the slowest test of an accepted right solution; 0 if there is none.
        num_judge_errors: Solutions about which the judge could say nothing; they count nowhere else.
    """

    problem_id: str
    num_right: int
    right_accepted: int
    num_wrong: int
    wrong_refused: int
    bad_tests: tuple[str, ...]
    disputed_tests: tuple[str, ...]
    slowest_cpu_s: float
    num_judge_errors: int

    @property
    def sound(self) -> bool:
        """Whether all solutions were judged as they should be, and at least one was right."""
        return (
            0 < self.num_right == self.right_accepted
            and self.num_wrong == self.wrong_refused
            and not self.num_judge_errors
        )


def verify(problems: Sequence[Problem], judge: Judge) -> Iterator[ProblemReport]:
    """Judge the known Python solutions of each problem and yield a report, in the problems' order."""
    for start in range(0, len(problems), _PROBLEMS_AT_ONCE):
        group = list(problems[start : start + _PROBLEMS_AT_ONCE])
        solutions = [[one for one in problem.solutions if one.language == "python"] for problem in group]
        judgements = iter(
            judge.judge_many(
                # All tests and whole outputs of right solutions are needed to tell what is wrong with a test.
                submission_for(problem, solution.code, stop_on_first_failure=not solution.correct)
                for problem, known in zip(group, solutions, strict=True)
                for solution in known
            )
        )
        for problem, known in zip(group, solutions, strict=True):
            yield _report(problem, [(solution, next(judgements)) for solution in known])


def _report(problem: Problem, judged: Sequence[tuple[Solution, Judgement]]) -> ProblemReport:
    known = [(solution, judgement) for solution, judgement in judged if judgement.verdict != Verdict.JUDGE_ERROR]
    right = [judgement for solution, judgement in known if solution.correct]
    wrong = [judgement for solution, judgement in known if not solution.correct]
    accepted = [judgement for judgement in right if judgement.verdict == Verdict.ACCEPTED]
    bad_tests, disputed_tests = _suspects(problem, right)
    return ProblemReport(
        problem_id=problem.id,
        num_right=len(right),
        right_accepted=len(accepted),
        num_wrong=len(wrong),
        wrong_refused=sum(judgement.verdict != Verdict.ACCEPTED for judgement in wrong),
        bad_tests=bad_tests,
        disputed_tests=disputed_tests,
        slowest_cpu_s=max((test.cpu_time_s for judgement in accepted for test in judgement.tests), default=0.0),
        num_judge_errors=len(judged) - len(known),
    )


def _suspects(problem: Problem, right: Sequence[Judgement]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the bad and of the disputed tests."""
    bad: list[str] = []
    disputed: list[str] = []
    for index, test in enumerate(problem.tests):
        results = [judgement.tests[index] for judgement in right if index < len(judgement.tests)]
        answers = Counter(
            " ".join(result.stdout_head.split()) for result in results if result.verdict == Verdict.WRONG_ANSWER
        )
        if answers:
            agreed = answers.most_common(1)[0][1] * 2 > len(right)
            (bad if agreed else disputed).append(test.name or str(index + 1))
    return tuple(bad), tuple(disputed)
