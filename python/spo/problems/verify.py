"""Verification: what the judge says of the solutions that come with problems, and what follows for tests and limits.

Right solutions that are refused point at a bad test, at a problem with several right answers, or at a limit that is
too tight; wrong solutions that are accepted point at weak tests. Only Python solutions are run. Nothing is changed
here: reports say what is wrong, and `manifest.py` what training makes of it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from spo.judge import Judge, Judgement, TestResult, Verdict
from spo.problems.judging import submission_for
from spo.problems.schema import Problem, ProblemTest, Solution

_PROBLEMS_AT_ONCE = 8
_WRONG = (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR, Verdict.OUTPUT_LIMIT)


class VerifySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How thoroughly problems are verified, and how far limits may be moved.

    Attributes:
        max_solutions: So many right and so many wrong solutions of a problem are judged at most, the first ones.
        min_time_factor: A time limit is multiplied by this at least.
        max_time_factor: And by this at most; right solutions may take so long while they are judged.
        time_margin: A limit leaves the slowest right solution this many times the CPU time that it took.
    """

    max_solutions: int = 10
    min_time_factor: float = 1.0
    max_time_factor: float = 4.0
    time_margin: float = 1.5


USUAL = VerifySettings()


class ProblemReport(msgspec.Struct, frozen=True):
    """What came of one problem's solutions.

    Attributes:
        problem_id: Which problem.
        num_right: Right Python solutions that were judged.
        right_accepted: How many of them are accepted under the problem's own limits.
        right_accepted_after: How many without the bad tests and under the calibrated limit.
        num_wrong: Wrong Python solutions that were judged.
        wrong_refused: How many of them were refused, without the bad tests and under the calibrated limit.
        bad_tests: Tests that more than half of the right solutions fail by one answer, or by crashing; solutions that
            crash on all tests are not asked.
        disputed_tests: Other tests that right solutions fail by their answers.
        has_several_answers: Right solutions give two or more different answers to a test beside the expected one, or
            half of them give others: the problem seems to have several right answers, which its checker does not know.
        slowest_cpu_s: CPU seconds of the slowest test of a right solution that is accepted in the end; 0 without one.
        time_factor: What the time limit should be multiplied by.
        num_judge_errors: Solutions about which the judge could say nothing; they count nowhere else.
    """

    problem_id: str
    num_right: int
    right_accepted: int
    right_accepted_after: int
    num_wrong: int
    wrong_refused: int
    bad_tests: tuple[str, ...]
    disputed_tests: tuple[str, ...]
    has_several_answers: bool
    slowest_cpu_s: float
    time_factor: float
    num_judge_errors: int

    @property
    def sound(self) -> bool:
        """Whether all solutions were judged as they should be, and at least one was right."""
        return (
            0 < self.num_right == self.right_accepted
            and self.num_wrong == self.wrong_refused
            and not self.num_judge_errors
        )


def label_of(index: int, test: ProblemTest) -> str:
    """What reports call the test at `index`: its name, or its number from 1."""
    return test.name or str(index + 1)


def without_tests(problem: Problem, labels: Sequence[str]) -> Problem:
    """The problem without some of its tests."""
    unwanted = frozenset(labels)
    kept = tuple(test for index, test in enumerate(problem.tests) if label_of(index, test) not in unwanted)
    return msgspec.structs.replace(problem, tests=kept)


def verify(problems: Sequence[Problem], judge: Judge, settings: VerifySettings = USUAL) -> Iterator[ProblemReport]:
    """Judge the known Python solutions of each problem and yield a report, in the problems' order."""
    for start in range(0, len(problems), _PROBLEMS_AT_ONCE):
        yield from _verify_group(list(problems[start : start + _PROBLEMS_AT_ONCE]), judge, settings)


def _verify_group(problems: list[Problem], judge: Judge, settings: VerifySettings) -> Iterator[ProblemReport]:
    # All tests and whole outputs of right solutions are needed to tell what is wrong with a test.
    patient = [_scaled(problem, settings.max_time_factor) for problem in problems]
    right = _judge(judge, patient, _known(problems, True, settings), stop_on_first_failure=False)
    findings = [_Findings(problem, judged, settings) for problem, judged in zip(problems, right, strict=True)]
    mended = [finding.mended for finding in findings]
    wrong = _judge(judge, mended, _known(problems, False, settings), stop_on_first_failure=True)
    for finding, judged in zip(findings, wrong, strict=True):
        yield finding.report(judged)


def _known(problems: Sequence[Problem], correct: bool, settings: VerifySettings) -> list[list[Solution]]:
    return [
        [one for one in problem.solutions if one.language == "python" and one.correct == correct][
            : settings.max_solutions
        ]
        for problem in problems
    ]


def _judge(
    judge: Judge, problems: Sequence[Problem], solutions: Sequence[Sequence[Solution]], stop_on_first_failure: bool
) -> list[list[Judgement]]:
    """The judgements of each problem's solutions; none where it has no tests."""
    chosen = [known if problem.tests else () for problem, known in zip(problems, solutions, strict=True)]
    judgements = iter(
        judge.judge_many(
            submission_for(problem, solution.code, stop_on_first_failure)
            for problem, known in zip(problems, chosen, strict=True)
            for solution in known
        )
    )
    return [[next(judgements) for _ in known] for known in chosen]


class _Findings:
    """What the right solutions of a problem say of its tests and its time limit."""

    def __init__(self, problem: Problem, judged: Sequence[Judgement], settings: VerifySettings) -> None:
        self._problem = problem
        self._right = [judgement for judgement in judged if judgement.verdict != Verdict.JUDGE_ERROR]
        self._num_errors = len(judged) - len(self._right)
        self._bad: list[str] = []
        self._disputed: list[str] = []
        self._has_several_answers = False
        # A program that crashes on all tests lacks something here (a package, say), and says nothing about any.
        voters = [one for one in self._right if any(test.verdict != Verdict.RUNTIME_ERROR for test in one.tests)]
        for index, test in enumerate(problem.tests):
            self._look_at(label_of(index, test), [one.tests[index] for one in voters if index < len(one.tests)])
        without_bad = [self._results(judgement) for judgement in self._right]
        times = [max(one.cpu_time_s for one in results) for results in without_bad if _all_accepted(results)]
        self._slowest = max(times, default=0.0)
        wanted = self._slowest * settings.time_margin / problem.time_limit_s
        self._factor = round(min(max(wanted, settings.min_time_factor), settings.max_time_factor), 3)
        self.mended = _scaled(without_tests(problem, self._bad), self._factor)
        self._num_after = sum(time <= self.mended.time_limit_s for time in times)

    def report(self, wrong: Sequence[Judgement]) -> ProblemReport:
        """The report, given what became of the wrong solutions."""
        known = [judgement for judgement in wrong if judgement.verdict != Verdict.JUDGE_ERROR]
        limit_s = self._problem.time_limit_s
        return ProblemReport(
            problem_id=self._problem.id,
            num_right=len(self._right),
            right_accepted=sum(
                _all_accepted(one.tests) and max(test.cpu_time_s for test in one.tests) <= limit_s
                for one in self._right
            ),
            right_accepted_after=self._num_after,
            num_wrong=len(known),
            wrong_refused=sum(judgement.verdict != Verdict.ACCEPTED for judgement in known),
            bad_tests=tuple(self._bad),
            disputed_tests=tuple(self._disputed),
            has_several_answers=self._has_several_answers,
            slowest_cpu_s=self._slowest,
            time_factor=self._factor,
            num_judge_errors=self._num_errors + len(wrong) - len(known),
        )

    def _look_at(self, label: str, results: Sequence[TestResult]) -> None:
        """Finds out whether a test is bad or disputed."""
        # What takes too long or too much memory says something about limits, and nothing about the test.
        failed = [result for result in results if result.verdict in _WRONG]
        answers = Counter(
            " ".join(result.stdout_head.split()) for result in failed if result.verdict == Verdict.WRONG_ANSWER
        )
        num_answers, num_right = sum(answers.values()), len(results)
        agree = bool(answers) and max(answers.values()) * 2 > num_right
        if agree or (len(failed) * 2 > num_right and len(answers) <= 1):
            self._bad.append(label)
        elif answers:
            self._disputed.append(label)
            if len(answers) > 1 or num_answers * 2 >= num_right:
                self._has_several_answers = True

    def _results(self, judgement: Judgement) -> list[TestResult]:
        """What a solution made of the tests that are not bad."""
        bad = frozenset(self._bad)
        tests = zip(self._problem.tests, judgement.tests, strict=False)
        return [result for index, (test, result) in enumerate(tests) if label_of(index, test) not in bad]


def _all_accepted(results: Sequence[TestResult]) -> bool:
    return bool(results) and all(result.verdict == Verdict.ACCEPTED for result in results)


def _scaled(problem: Problem, factor: float) -> Problem:
    return msgspec.structs.replace(problem, time_limit_s=problem.time_limit_s * factor)
