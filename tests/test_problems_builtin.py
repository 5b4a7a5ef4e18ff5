"""The built-in problems: complete, seeded, and told apart from wrong solutions by the judge."""

import random

import pytest

from spo.errors import ConfigError
from spo.judge import Judge, Judgement, Verdict
from spo.problems import HIDDEN, PUBLIC, Problem, load_problems
from spo.problems.builtin import definitions
from spo.problems.builtin.definition import Definition, Edit
from spo.problems.judging import submission_for

PROBLEMS = load_problems(["builtin"])
JUDGED_SEED = 11


def a_definition(**changes: object) -> Definition:
    def cases(generator: random.Random) -> list[tuple[str, str]]:
        return [("1\n", "2\n"), ("7\n", "14\n"), (f"{generator.randint(8, 10**9)}\n", "?\n")]

    fields = {
        "name": "twice",
        "difficulty": "easy",
        "task": "\n        Double it.\n          Twice.\n    ",
        "reads": "n",
        "prints": "2n",
        "examples": (("1\n", "2\n"),),
        "cases": cases,
        "right": "\n    n = int(input())\n    print(n * 2)\n",
        "wrong": {"squares": Edit("n * 2", "n ** 2"), "prints nothing": "pass"},
        **changes,
    }
    return Definition(**fields)  # type: ignore[arg-type]


def test_there_are_at_least_forty_problems_of_every_difficulty() -> None:
    assert len(PROBLEMS) >= 40
    assert {problem.difficulty for problem in PROBLEMS} == {"easy", "medium", "hard"}
    assert sum(problem.difficulty == "easy" for problem in PROBLEMS) >= 10


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_each_problem_is_complete(problem: Problem) -> None:
    public, hidden = problem.tests_in(PUBLIC), problem.tests_in(HIDDEN)
    assert len(public) + len(hidden) == len(problem.tests)
    assert len(hidden) >= 5
    assert len({test.input for test in problem.tests}) == len(problem.tests)
    for section in ("## Input\n", "## Output\n", "## Sample Input 1\n", "## Sample Output 1\n"):
        assert section in problem.statement
    for test in public:
        assert f"\n{test.input.rstrip()}\n" in problem.statement
    codes = [solution.code for solution in problem.solutions]
    assert len(set(codes)) == len(codes)
    assert [solution.correct for solution in problem.solutions] == [True] + [False] * (len(codes) - 1)
    assert len(codes) >= 4
    assert all(solution.note for solution in problem.solutions if not solution.correct)


@pytest.fixture(scope="module")
def judgements() -> dict[str, list[Judgement]]:
    """What the judge says of all programs of all problems, with tests of a seed of their own."""
    problems = load_problems(["builtin"], seed=JUDGED_SEED)
    submissions = [submission_for(problem, solution.code) for problem in problems for solution in problem.solutions]
    with Judge() as judge:
        verdicts = iter(judge.judge_many(submissions))
    return {problem.id: [next(verdicts) for _ in problem.solutions] for problem in problems}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_the_judge_accepts_the_right_program_and_refuses_each_wrong_one(
    problem: Problem, judgements: dict[str, list[Judgement]]
) -> None:
    accepted, *refused = judgements[problem.id]
    assert accepted.verdict == Verdict.ACCEPTED, accepted
    about_the_program = {Verdict.WRONG_ANSWER, Verdict.TIME_LIMIT, Verdict.RUNTIME_ERROR}
    for solution, judgement in zip(problem.solutions[1:], refused, strict=True):
        assert judgement.verdict in about_the_program, (solution.note, judgement)


def test_some_programs_are_refused_only_because_they_are_slow(judgements: dict[str, list[Judgement]]) -> None:
    verdicts = [judgement.verdict for group in judgements.values() for judgement in group]
    assert verdicts.count(Verdict.TIME_LIMIT) >= 5


def test_the_same_seed_draws_the_same_tests_and_another_one_others() -> None:
    assert load_problems(["builtin"], seed=0) == PROBLEMS
    others = load_problems(["builtin"], seed=1)
    same = [problem.id for problem, other in zip(PROBLEMS, others, strict=True) if problem.tests == other.tests]
    assert same == []
    assert [other.statement for other in others] == [problem.statement for problem in PROBLEMS]


def test_problems_are_chosen_by_difficulty_or_name() -> None:
    easy = load_problems(["builtin:easy"])
    assert easy == [problem for problem in PROBLEMS if problem.difficulty == "easy"]
    assert [problem.id for problem in load_problems(["builtin:clock", "builtin:maze"])] == [
        "builtin/clock",
        "builtin/maze",
    ]


def test_names_are_unique() -> None:
    names = [definition.name for definition in definitions()]
    assert len(set(names)) == len(names)


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r'"builtin:clocks" names no built-in problem.*builtin:easy'):
        load_problems(["builtin:clocks"])


def test_a_definition_becomes_a_problem() -> None:
    problem = a_definition().build(seed=3)
    assert problem.id == "builtin/twice"
    assert problem.statement.startswith(
        "Double it.\n  Twice.\n\n## Input\n\nn\n\n## Output\n\n2n\n\n## Sample Input 1\n1"
    )
    assert [test.split for test in problem.tests] == [PUBLIC, HIDDEN, HIDDEN]
    assert [solution.code for solution in problem.solutions] == [
        "n = int(input())\nprint(n * 2)\n",
        "n = int(input())\nprint(n ** 2)\n",
        "pass\n",
    ]


@pytest.mark.parametrize("old", ["n + 2", "n"])
def test_an_edit_must_say_exactly_one_place(old: str) -> None:
    with pytest.raises(ValueError, match="must occur once"):
        a_definition(wrong={"edited": Edit(old, "0")}).build(seed=0)
