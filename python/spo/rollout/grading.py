"""Grading: from a response to its verdict and reward, by way of the program in it and the judge.

A truncated response and one without a program fail unjudged. Where the judge itself fails it is asked once more; then
the response has no reward and is to be left out. Equal programs in answer to one work item are judged once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from spo.errors import JudgeError
from spo.judge import Judge, Judgement, Limits, TestCase
from spo.problems import Problem, extract_code
from spo.problems.judging import cases_of
from spo.reward import NO_CODE, TRUNCATED, reward_of

ATTEMPTS = 2
"""How often the judge is asked about a program before its own failure is taken as final."""
JUDGE_ERROR = "judge_error"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grade:
    """What came of a response."""

    verdict: str
    reward: float | None
    """None where the judge itself failed."""
    program: str = ""
    """Empty where there is none, or nobody looked."""


@dataclass
class Grading:
    """What came of the responses to a work item, in order, and what the judge's programs took, summed over tests."""

    grades: list[Grade] = field(default_factory=list)
    wall_time_s: float = 0.0
    cpu_time_s: float = 0.0


class Grader:
    """Grades responses with a judge, under the limits of their problems."""

    def __init__(self, judge: Judge, output_bytes: int) -> None:
        """Takes the judge, which stays the caller's to close.

        Args:
            judge: Runs the programs.
            output_bytes: What a test may write; problems set no limit of their own.
        """
        self._judge = judge
        self._output_bytes = output_bytes

    async def grade(self, problem: Problem, texts: Sequence[str | None]) -> Grading:
        """Grades the responses to a problem; None stands for a truncated one.

        Raises:
            ValueError: The judge knows no checker, or takes no limit, like the problem's.
        """
        programs = [None if text is None else extract_code(text) for text in texts]
        grading = Grading()
        verdicts: dict[str, str] = {}
        tests = cases_of(problem)
        async with trio.open_nursery() as nursery:
            for unique in dict.fromkeys(program for program in programs if program is not None):
                nursery.start_soon(self._judge_one, problem, tests, unique, verdicts, grading)
        for text, program in zip(texts, programs, strict=True):
            verdict = TRUNCATED if text is None else NO_CODE if program is None else verdicts[program]
            grading.grades.append(Grade(verdict, reward_of(verdict), program or ""))
        return grading

    async def _judge_one(
        self, problem: Problem, tests: list[TestCase], program: str, verdicts: dict[str, str], grading: Grading
    ) -> None:
        for _ in range(ATTEMPTS):
            verdicts[program] = JUDGE_ERROR
            try:
                judgement = await self._ask(problem, tests, program)
            except JudgeError as error:
                _log.warning("problem %s: the judge failed: %s", problem.id, error)
                continue
            verdicts[program] = judgement.verdict.value
            grading.wall_time_s += sum(test.wall_time_s for test in judgement.tests)
            grading.cpu_time_s += sum(test.cpu_time_s for test in judgement.tests)
            if verdicts[program] != JUDGE_ERROR:
                return
            _log.warning("problem %s: the judge failed: %s", problem.id, judgement.message)

    async def _ask(self, problem: Problem, tests: list[TestCase], program: str) -> Judgement:
        limits = Limits(
            cpu_time_s=problem.time_limit_s,
            memory_bytes=problem.memory_limit_bytes,
            output_bytes=self._output_bytes,
        )
        return await self._judge.judge_async(
            program, tests, checker=problem.checker, fn_name=problem.fn_name, limits=limits
        )
