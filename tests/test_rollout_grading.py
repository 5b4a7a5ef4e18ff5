"""Grading: which responses the judge is asked about, how often, and what its failures lead to."""

from typing import Any

import pytest
import trio

from spo.errors import JudgeError
from spo.judge import Judge, Judgement, Limits, TestCase, TestResult, Verdict
from spo.problems import Problem, ProblemTest
from spo.rollout.grading import ATTEMPTS, Grader

PROBLEM = Problem(
    id="test/double",
    dataset="test",
    statement="Double the number.",
    tests=(ProblemTest("2\n", "4\n"), ProblemTest("5\n", "10\n")),
    time_limit_s=3.0,
    memory_limit_bytes=256 << 20,
    checker="exact",
)
RIGHT = "print(2 * int(input()))\n"
WRONG = "print(2 + int(input()))\n"


def judgement(verdict: Verdict) -> Judgement:
    test = TestResult(verdict, 0, None, 0.25, 0.5, 1 << 20, 2, "4\n", "")
    return Judgement(verdict, 0, "root", "", (test, test))


class ScriptedJudge:
    """Gives each program its next scripted verdict (or error); "accepted" beyond the script."""

    def __init__(self, **script: list[Verdict | Exception]) -> None:
        self.script = script
        self.asked: list[str] = []
        self.settings: list[dict[str, Any]] = []

    async def judge_async(self, source: str, tests: list[TestCase], **settings: Any) -> Judgement:
        await trio.lowlevel.checkpoint()
        self.asked.append(source)
        self.settings.append({"tests": tests, **settings})
        script = self.script.get(source, [])
        result = script.pop(0) if script else Verdict.ACCEPTED
        if isinstance(result, Exception):
            raise result
        return judgement(result)


async def test_verdicts_become_rewards_in_the_responses_order() -> None:
    judge = ScriptedJudge(a=[Verdict.WRONG_ANSWER], b=[Verdict.ACCEPTED], c=[Verdict.TIME_LIMIT])
    grading = await Grader(judge, 1000).grade(PROBLEM, ["a", "b", "c"])
    assert [(grade.verdict, grade.reward, grade.program) for grade in grading.grades] == [
        ("wrong_answer", -1.0, "a"),
        ("accepted", 0.0, "b"),
        ("time_limit", -1.0, "c"),
    ]
    assert (grading.wall_time_s, grading.cpu_time_s) == (3.0, 1.5)


async def test_the_judge_gets_the_problems_tests_checker_and_limits() -> None:
    judge = ScriptedJudge()
    await Grader(judge, 1000).grade(PROBLEM, ["a"])
    (settings,) = judge.settings
    assert settings == {
        "tests": [TestCase("2\n", "4\n"), TestCase("5\n", "10\n")],
        "checker": "exact",
        "fn_name": None,
        "limits": Limits(cpu_time_s=3.0, wall_time_s=None, memory_bytes=256 << 20, output_bytes=1000),
    }


async def test_truncated_responses_and_those_without_code_fail_unjudged() -> None:
    judge = ScriptedJudge()
    grading = await Grader(judge, 1000).grade(PROBLEM, [None, "  \n", "```text\nno program\n```"])
    assert [(grade.verdict, grade.reward) for grade in grading.grades] == [
        ("truncated", -1.0),
        ("no_code", -1.0),
        ("no_code", -1.0),
    ]
    assert judge.asked == []


async def test_equal_programs_are_judged_once() -> None:
    judge = ScriptedJudge(a=[Verdict.WRONG_ANSWER])
    grading = await Grader(judge, 1000).grade(PROBLEM, ["a", "b", "a", None, "a"])
    assert sorted(judge.asked) == ["a", "b"]
    assert [grade.reward for grade in grading.grades] == [-1.0, 0.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("failure", [Verdict.JUDGE_ERROR, JudgeError("its helper died")])
async def test_the_judge_is_asked_once_more_when_it_failed(failure: Verdict | Exception) -> None:
    judge = ScriptedJudge(a=[failure, Verdict.WRONG_ANSWER])
    grading = await Grader(judge, 1000).grade(PROBLEM, ["a"])
    assert judge.asked == ["a", "a"]
    assert grading.grades[0].reward == -1.0


@pytest.mark.parametrize("failure", [Verdict.JUDGE_ERROR, JudgeError("its helper died")])
async def test_a_program_on_which_the_judge_keeps_failing_has_no_reward(failure: Verdict | Exception) -> None:
    judge = ScriptedJudge(a=[failure] * 10)
    grading = await Grader(judge, 1000).grade(PROBLEM, ["a", "b"])
    assert judge.asked.count("a") == ATTEMPTS
    assert [(grade.verdict, grade.reward) for grade in grading.grades] == [("judge_error", None), ("accepted", 0.0)]


async def test_a_function_call_problem_is_judged_by_the_value() -> None:
    problem = Problem("test/f", "test", "Write f.", (ProblemTest("[[1, 2]]", "3"),), fn_name="f")
    with Judge(num_workers=1) as judge, trio.fail_after(60):
        grading = await Grader(judge, 1000).grade(problem, ["def f(x): return sum(x)", "def f(x): print(3)"])
    assert [grade.verdict for grade in grading.grades] == ["accepted", "wrong_answer"]


async def test_the_real_judge_tells_right_from_wrong() -> None:
    texts = [f"Here it is:\n```python\n{RIGHT}```\n", WRONG, "while True: pass", "print(", None]
    problem = Problem("test/double", "test", "Double it.", PROBLEM.tests, time_limit_s=0.3)
    with Judge(num_workers=2) as judge, trio.fail_after(60):
        grading = await Grader(judge, 1000).grade(problem, texts)
    verdicts = [grade.verdict for grade in grading.grades]
    assert verdicts == ["accepted", "wrong_answer", "time_limit", "compile_error", "truncated"]
    assert [grade.reward for grade in grading.grades] == [0.0, -1.0, -1.0, -1.0, -1.0]
    assert grading.wall_time_s > grading.cpu_time_s > 0
