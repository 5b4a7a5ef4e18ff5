"""Judging the solutions that come with problems."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from spo.judge import Judge
from spo.problems import Problem, ProblemTest, Solution, load_problems
from spo.problems.cli import register
from spo.problems.verify import ProblemReport, verify

TWICE = Solution("python", "print(int(input()) * 2)\n", True)
SQUARE = Solution("python", "print(int(input()) ** 2)\n", False)
SORTED = Solution("python", "print(*sorted(input().split()))\n", True)
REVERSED = Solution("python", "print(*sorted(input().split(), reverse=True))\n", True)
SHUFFLED = Solution("python", "print(*input().split())\n", True)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(num_workers=2) as judge:
        yield judge


def a_problem(*solutions: Solution, tests: tuple[ProblemTest, ...] | None = None) -> Problem:
    usual = (ProblemTest("1\n", "2\n", name="one"), ProblemTest("7\n", "14\n", name="seven"))
    return Problem("a/twice", "a", "Double it.", tests or usual, solutions=solutions)


def report_on(judge: Judge, problem: Problem) -> ProblemReport:
    [report] = verify([problem], judge)
    return report


def test_a_problem_whose_solutions_are_judged_as_they_should_be_is_sound(judge: Judge) -> None:
    report = report_on(judge, a_problem(TWICE, SQUARE, Solution("cpp", "int main() {}", True)))
    assert report.sound
    assert (report.num_right, report.right_accepted, report.num_wrong, report.wrong_refused) == (1, 1, 1, 1)
    assert (report.bad_tests, report.disputed_tests) == ((), ())
    assert 0 < report.slowest_cpu_s < 1


def test_a_test_that_right_solutions_fail_alike_is_bad(judge: Judge) -> None:
    tests = (ProblemTest("1\n", "2\n", name="one"), ProblemTest("7\n", "15\n", name="seven"))
    report = report_on(
        judge, a_problem(TWICE, Solution("python", "n = int(input())\nprint(n + n)\n", True), tests=tests)
    )
    assert not report.sound
    assert (report.right_accepted, report.bad_tests, report.disputed_tests) == (0, ("seven",), ())


def test_tests_that_right_solutions_answer_differently_are_disputed(judge: Judge) -> None:
    tests = (ProblemTest("b a c\n", "a b c\n"), ProblemTest("x\n", "x\n"))
    report = report_on(judge, a_problem(SORTED, REVERSED, SHUFFLED, tests=tests))
    assert (report.right_accepted, report.bad_tests, report.disputed_tests) == (1, (), ("1",))
    assert not report.sound


def test_a_wrong_solution_that_is_accepted_shows_weak_tests(judge: Judge) -> None:
    tests = (ProblemTest("2\n", "4\n"),)
    report = report_on(judge, a_problem(TWICE, SQUARE, tests=tests))
    assert (report.wrong_refused, report.sound) == (0, False)


def test_a_right_solution_that_is_too_slow_is_no_sign_of_a_bad_test(judge: Judge) -> None:
    slow = Solution("python", "n = int(input())\nfor i in range(10**9):\n    pass\nprint(n * 2)\n", True)
    problem = msgspec.structs.replace(a_problem(slow), time_limit_s=0.2)
    report = report_on(judge, problem)
    assert (report.right_accepted, report.bad_tests, report.disputed_tests) == (0, (), ())


def test_a_problem_without_right_solutions_is_not_sound(judge: Judge) -> None:
    assert not report_on(judge, a_problem(SQUARE)).sound


def test_reports_come_in_the_order_of_the_problems(judge: Judge) -> None:
    problems = [msgspec.structs.replace(a_problem(TWICE), id=f"a/{number}") for number in range(20)]
    assert [report.problem_id for report in verify(problems, judge)] == [problem.id for problem in problems]


def test_the_command_prints_and_writes_the_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(msgspec.json.encode(a_problem(TWICE, SQUARE)) + b"\n")
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    words = ["problems", "verify", f"jsonl:{path}", "--output", str(tmp_path / "reports.jsonl")]
    arguments = parser.parse_args(words)
    assert arguments.run(arguments) == 0
    assert "1 of 1 problems are sound" in capsys.readouterr().out
    [report] = msgspec.json.Decoder(ProblemReport).decode_lines((tmp_path / "reports.jsonl").read_bytes())
    assert report.problem_id == "a/twice"


def test_the_command_fails_where_a_problem_is_not_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(msgspec.json.encode(a_problem(SQUARE)) + b"\n")
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    arguments = parser.parse_args(["problems", "verify", f"jsonl:{path}"])
    assert arguments.run(arguments) == 1
    assert "0 of 1 problems are sound" in capsys.readouterr().out


def test_built_in_problems_are_sound(judge: Judge) -> None:
    assert all(report.sound for report in verify(load_problems(["builtin:clock", "builtin:maze"]), judge))
