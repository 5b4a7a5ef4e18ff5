"""A problem's side of the judge: which submission a program is, and which of several problems is meant."""

from collections.abc import Sequence

from spo.call_values import decode
from spo.errors import ProblemError
from spo.judge import Limits, Submission, TestCase
from spo.problems.collection import infos_of
from spo.problems.schema import Problem

_IDS_SHOWN = 20


def cases_of(problem: Problem) -> list[TestCase]:
    """The tests of a problem as the judge takes them."""
    if problem.fn_name is None:
        return [TestCase(input=test.input, output=test.output) for test in problem.tests]
    return [TestCase(args=decode(test.input), output=decode(test.output)) for test in problem.tests]


def submission_for(
    problem: Problem, source: str | bytes, stop_on_first_failure: bool = True, language: str = "python"
) -> Submission:
    """A program as an answer to a problem, under the problem's limits."""
    return Submission(
        source,
        cases_of(problem),
        language=language,
        checker=problem.checker,
        fn_name=problem.fn_name,
        stop_on_first_failure=stop_on_first_failure,
        limits=Limits(cpu_time_s=problem.time_limit_s, memory_bytes=problem.memory_limit_bytes),
    )


def choose_problem(problems: Sequence[Problem], wanted: str | None) -> Problem:
    """The problem with the id `wanted`, or the only one there is.

    Raises:
        ProblemError: There is no such problem, or there are several and none is named; lists the ids.
    """
    known = [info.id for info in infos_of(problems)]
    found = [index for index, problem_id in enumerate(known) if wanted in (None, problem_id)]
    if len(found) == 1:
        return problems[found[0]]
    ids = ", ".join(known[:_IDS_SHOWN]) + (", …" if len(known) > _IDS_SHOWN else "")
    trouble = "there are several problems" if wanted is None else f"there is no problem {wanted!r}"
    raise ProblemError(f"{trouble}; choose one by --id from {ids}")
