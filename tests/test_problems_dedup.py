"""Finding duplicates that were planted on purpose, and nothing else."""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo.problems import Problem, ProblemTest, load_problems
from spo.problems.cli import register
from spo.problems.dedup import Duplicate, _common_in_order, find_duplicates

PROBLEMS = load_problems(["builtin"])
OTHER_TESTS = load_problems(["builtin"], seed=99)


def changed(problem: Problem, **changes: object) -> Problem:
    return msgspec.structs.replace(problem, id=f"copy/{problem.id}", **changes)


def with_noise(problem: Problem) -> Problem:
    """Other tests, no samples, other layout, and one word in thirty replaced."""
    noise = random.Random(problem.id)
    words = problem.statement.partition("## Sample Input")[0].upper().split()
    words = ["whatever" if noise.random() < 1 / 30 else word for word in words]
    return changed(problem, statement=" \n".join(words), tests=(ProblemTest("1", "1"),))


def retold(problem: Problem) -> Problem:
    """The same tests below a story that shares no words."""
    tests = tuple(ProblemTest(test.input.replace("\n", "\r\n"), test.output + "\n") for test in problem.tests[1:])
    return changed(problem, statement="Ignoranta saga " * 50, tests=tests)


def test_different_problems_are_no_duplicates_of_each_other() -> None:
    for start in range(5):
        group = PROBLEMS[start::5]
        rest = [problem for problem in PROBLEMS if problem not in group]
        assert find_duplicates(group, rest) == []


def test_the_same_id_is_a_duplicate() -> None:
    other = msgspec.structs.replace(PROBLEMS[1], id=PROBLEMS[0].id)
    assert find_duplicates([other], [PROBLEMS[0]]) == [Duplicate(PROBLEMS[0].id, PROBLEMS[0].id, "id")]


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda problem: changed(problem, statement=problem.statement), "exact statement"),
        (lambda problem: changed(problem, statement=problem.statement.replace(" ", "  ").upper()), "statement"),
        (lambda problem: changed(problem, statement=f"<p>{problem.statement}</p>\\le <image>"), "statement"),
        (with_noise, "near statement"),
    ],
)
def test_planted_statements_are_all_found(plant: Callable[[Problem], Problem], reason: str) -> None:
    planted = [plant(problem) for problem in OTHER_TESTS]
    found = find_duplicates(planted, PROBLEMS)
    assert [(one.problem_id, one.duplicate_of, one.reason) for one in found] == [
        (f"copy/{problem.id}", problem.id, reason) for problem in PROBLEMS
    ]


def reworded(problem: Problem, share: float) -> Problem:
    """Other tests, and every word replaced with the probability `share`."""
    noise = random.Random(f"{problem.id} {share}")
    words = problem.statement.partition("## Sample Input")[0].split()
    words = [f"x{noise.randrange(10**6)}" if noise.random() < share else word for word in words]
    return changed(problem, statement=" ".join(words), tests=(ProblemTest("1", "1"),))


@pytest.mark.parametrize(("share", "least_recall"), [(0.03, 1.0), (0.1, 1.0), (0.2, 0.96), (0.3, 0.7)])
def test_of_reworded_duplicates_among_others_most_are_found_and_nothing_else(share: float, least_recall: float) -> None:
    """Half of the problems are planted in other words, half are strangers; no stranger may be found."""
    against, strangers = PROBLEMS[::2], OTHER_TESTS[1::2]
    planted = [reworded(problem, share) for problem in OTHER_TESTS[::2]]
    found = find_duplicates([*planted, *strangers], against)
    right = [one for one in found if one.problem_id == f"copy/{one.duplicate_of}"]
    assert len(right) == len(found)
    assert len(right) >= least_recall * len(planted)


def edited(problem: Problem, share: float) -> Problem:
    """Other tests; words replaced, left out, or with others put between them."""
    noise = random.Random(f"{problem.id} edited {share}")
    words: list[str] = []
    for word in problem.statement.partition("## Sample Input")[0].split():
        other = f"x{noise.randrange(10**6)}"
        choice = noise.randrange(3) if noise.random() < share else 3
        words += [[other], [], [word, other], [word]][choice]
    return changed(problem, statement=" ".join(words), tests=(ProblemTest("1", "1"),))


def test_edited_statements_are_found_and_strangers_are_not() -> None:
    against, strangers = PROBLEMS[::2], OTHER_TESTS[1::2]
    found = find_duplicates([*(edited(problem, 0.25) for problem in OTHER_TESTS[::2]), *strangers], against)
    assert all(one.problem_id == f"copy/{one.duplicate_of}" for one in found)
    assert len(found) >= 0.95 * len(against)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_common_words_in_order_are_counted_as_by_the_definition(first: list[str], second: list[str]) -> None:
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            longest = max(lengths[i][j + 1], lengths[i + 1][j])
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if one == other else longest
    assert _common_in_order(first, second) == lengths[-1][-1]


def test_the_same_inputs_tell_where_outputs_are_written_otherwise() -> None:
    inputs = ["5\n1 2 3 4 5\n", "3\n10 20 30\n", "4\n19 9 9 9\n"]
    ours = Problem("a/x", "a", "Sum.", tuple(ProblemTest(text, "Yes\n") for text in inputs))
    theirs = Problem("b/y", "b", "Total.", tuple(ProblemTest(text.replace("\n", " "), "YES") for text in inputs))
    assert find_duplicates([ours], [theirs]) == [Duplicate("a/x", "b/y", "tests")]
    assert find_duplicates([msgspec.structs.replace(ours, tests=ours.tests[:2])], [theirs]) == []


def test_one_long_input_is_no_coincidence() -> None:
    long = ProblemTest(" ".join(map(str, range(100))), "4950")
    ours, theirs = Problem("a/x", "a", "Sum.", (long,)), Problem("b/y", "b", "Total.", (long,))
    assert find_duplicates([ours], [theirs]) == [Duplicate("a/x", "b/y", "tests")]


def test_planted_tests_are_found_where_inputs_say_enough() -> None:
    telling = [problem for problem in PROBLEMS if sum(len(test.input.strip()) >= 12 for test in problem.tests[1:]) >= 3]
    assert len(telling) > 30
    found = find_duplicates([retold(problem) for problem in telling], PROBLEMS)
    assert [(one.duplicate_of, one.reason) for one in found] == [(problem.id, "tests") for problem in telling]
    assert all(one.score == 1.0 for one in found)


def test_tests_with_tiny_inputs_prove_nothing() -> None:
    tests = tuple(ProblemTest(f"{number}\n", "yes\n") for number in range(20))
    first = Problem("a/odd", "a", "Odd?", tests)
    assert find_duplicates([first], [Problem("b/prime", "b", "Prime?", tests)]) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://codeforces.com/problemset/problem/1575/A",
        "https://codeforces.com/contest/1575/problem/a",
        "http://codeforces.com/gym/1575/problem/A",
    ],
)
def test_problems_of_one_contest_are_found_across_data_sets(url: str) -> None:
    ours = changed(PROBLEMS[0], metadata={"cf_contest_id": "1575", "cf_index": "A"})
    theirs = Problem("taco/x", "taco", "Other words.", (ProblemTest("1", "2"),), metadata={"url": url})
    assert find_duplicates([ours], [theirs]) == [Duplicate(ours.id, "taco/x", "contest")]
    other = msgspec.structs.replace(theirs, metadata={"url": url.replace("1575", "15751")})
    assert find_duplicates([ours], [other]) == []


def test_thresholds_decide_what_is_near() -> None:
    original = PROBLEMS[0]
    half = changed(original, statement=original.statement[: len(original.statement) // 2] + " other" * 300, tests=())
    assert find_duplicates([half], [original], statement_threshold=0.9) == []
    [found] = find_duplicates([half], [original], statement_threshold=0.3)
    assert found.reason == "near statement"
    assert 0.3 <= found.score < 0.9


def test_the_command_writes_what_is_left_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = with_noise(OTHER_TESTS[7])
    train = tmp_path / "train.jsonl"
    train.write_bytes(msgspec.json.Encoder().encode_lines([planted, Problem("x/new", "x", "New.", planted.tests)]))
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    words = ["problems", "dedup", f"jsonl:{train}", "--against", "builtin", "--output", str(tmp_path / "kept.jsonl")]
    arguments = parser.parse_args([*words, "--report", str(tmp_path / "pairs.jsonl")])
    assert arguments.run(arguments) == 0
    out = capsys.readouterr().out
    assert "1 of 2 problems kept" in out
    assert "1 by near statement" in out
    assert [problem.id for problem in load_problems([f"jsonl:{tmp_path / 'kept.jsonl'}"])] == ["x/new"]
    [pair] = msgspec.json.Decoder(Duplicate).decode_lines((tmp_path / "pairs.jsonl").read_bytes())
    assert (pair.problem_id, pair.duplicate_of) == (planted.id, PROBLEMS[7].id)
