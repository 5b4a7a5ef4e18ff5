"""Problem specs, the schema and the JSON Lines loader."""

import codecs
import json
from pathlib import Path

import msgspec
import pytest

from spo.errors import ConfigError, ProblemError
from spo.judge import Judge, TestCase
from spo.problems import Problem, ProblemTest, Solution, load_problems, suite_hash
from spo.problems.schema import CHECKERS, check_problem
from spo.problems.specs import SOURCES

DOUBLE = {
    "id": "arithmetic/double",
    "statement": "Print twice the integer.",
    "tests": [{"input": "1\n", "output": "2\n", "split": "public"}, {"input": "4\n", "output": "8\n"}],
}
HINTS = {
    "name": "1_A. Hints ",
    "source": "CODEFORCES",
    "difficulty": "A",
    "description": "Count the hints.",
    "tests": [{"input": "3\n", "output": "3\n"}, {"input": "5\n", "output": "5\n"}],
}


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def a_problem(**changes: object) -> Problem:
    fields = {"id": "a/b", "dataset": "a", "statement": "Do.", "tests": (ProblemTest("1", "2"),), **changes}
    return Problem(**fields)  # type: ignore[arg-type]


def test_a_problem_survives_the_wire() -> None:
    problem = a_problem(solutions=(Solution("python", "print(1)", True),), metadata={"a": "b"}, fn_name="f")
    encoded = msgspec.msgpack.encode(problem)
    assert msgspec.msgpack.decode(encoded, type=Problem) == problem


def test_problems_are_frozen() -> None:
    with pytest.raises(AttributeError):
        a_problem().id = "other"  # type: ignore[misc]


def test_tests_can_be_taken_by_split() -> None:
    shown, hidden = ProblemTest("1", "1", "public"), ProblemTest("2", "2")
    problem = a_problem(tests=(hidden, shown))
    assert problem.tests_in("public") == (shown,)
    assert problem.tests_in("hidden") == (hidden,)


def test_the_suite_hash_ignores_the_order_of_problems() -> None:
    first, second = a_problem(), a_problem(id="a/c")
    assert suite_hash([first, second]) == suite_hash([second, first])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "a/other"},
        {"tests": (ProblemTest("1", "3"),)},
        {"tests": (ProblemTest("1 ", "2"),)},
        {"tests": (ProblemTest("1", "2"), ProblemTest("1", "2"))},
        {"time_limit_s": 3.0},
        {"memory_limit_bytes": 1},
        {"checker": "exact"},
        {"fn_name": "solve"},
    ],
)
def test_the_suite_hash_changes_with_whatever_decides_a_verdict(changes: dict[str, object]) -> None:
    assert suite_hash([a_problem()]) != suite_hash([a_problem(**changes)])


def test_the_suite_hash_ignores_what_no_verdict_depends_on() -> None:
    assert suite_hash([a_problem()]) == suite_hash([a_problem(statement="Other words.", difficulty="hard")])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": " "}, "id"),
        ({"statement": "\n"}, "statement"),
        ({"tests": ()}, "tests"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"memory_limit_bytes": 0}, "memory_limit_bytes"),
        ({"time_limit_s": float("inf")}, "time_limit_s"),
        ({"memory_limit_bytes": 2**63}, "memory_limit_bytes"),
        ({"checker": ""}, "checker"),
        ({"checker": "fuzzy 1"}, "checker"),
        ({"fn_name": "not a name"}, "fn_name"),
    ],
)
def test_a_problem_with_a_hole_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ProblemError, match=f"^here: {field} "):
        check_problem(a_problem(**changes), "here")


def a_call(*tests: ProblemTest, **changes: object) -> Problem:
    return a_problem(fn_name="add", tests=tests or (ProblemTest("[1, [2]]", "3"),), **changes)


def test_a_function_call_problem_is_accepted() -> None:
    problem = a_call(ProblemTest("[]", "null"), ProblemTest('[{"a": 1}, 2.5]', '"text"'), checker="floats 0.1")
    assert check_problem(problem, "here") is problem


@pytest.mark.parametrize(
    ("problem", "complaint"),
    [
        (a_call(ProblemTest("1, 2", "3")), r"tests\[0\].input is not JSON"),
        (a_call(ProblemTest("[1]", "1"), ProblemTest("1", "3")), r"tests\[1\].input must be the JSON list"),
        (a_call(ProblemTest("[1]", "three")), r"tests\[0\].output is not JSON"),
        (a_call(ProblemTest("[1]", "NaN")), r"tests\[0\].output is not JSON \(NaN"),
        (a_call(ProblemTest("[" * 100_000, "1")), r"tests\[0\].input is not JSON"),
        (a_call(checker="exact"), r"checker 'exact' compares texts"),
    ],
)
def test_a_function_call_problem_needs_values(problem: Problem, complaint: str) -> None:
    with pytest.raises(ProblemError, match=complaint):
        check_problem(problem, "here")


def test_json_lines_in_our_schema_are_loaded(tmp_path: Path) -> None:
    [problem] = load_problems([f"jsonl:{write_lines(tmp_path / 'p.jsonl', DOUBLE)}"])
    assert problem.id == "arithmetic/double"
    assert problem.dataset == "jsonl"
    assert problem.tests == (ProblemTest("1\n", "2\n", "public"), ProblemTest("4\n", "8\n", "hidden"))


def test_json_lines_in_the_code_contests_schema_are_loaded(tmp_path: Path) -> None:
    [problem] = load_problems([f"jsonl:{write_lines(tmp_path / 'p.jsonl', HINTS)}"])
    assert problem.id == "code_contests/1_A. Hints"
    assert problem.checker == "code_contests"
    assert problem.source == "CODEFORCES"
    assert [test.output for test in problem.tests] == ["3\n", "5\n"]


def test_every_field_of_a_problem_can_be_given_in_json_lines(tmp_path: Path) -> None:
    problem = a_problem(solutions=(Solution("python", "x", False, "why"),), metadata={"k": "v"}, source="s")
    path = tmp_path / "p.jsonl"
    path.write_bytes(msgspec.json.encode(problem))
    assert load_problems([f"jsonl:{path}"]) == [problem]


def test_blank_lines_are_skipped_and_lines_keep_their_order(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", DOUBLE, "\n", HINTS, "  \n")
    assert [problem.dataset for problem in load_problems([f"jsonl:{path}"])] == ["jsonl", "code_contests"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops}\n", "p.jsonl:2: not a JSON object"),
        ('{"a": ' + "[" * 100_000, "p.jsonl:2: not a JSON object"),
        ("[1]\n", "p.jsonl:2: Expected `object`"),
        ({"id": "x", "statement": "s"}, "p.jsonl:2: .*`tests`"),
        ({**DOUBLE, "tests": []}, "p.jsonl:2: tests is empty"),
        ({**DOUBLE, "tests": [{"input": 5, "output": ""}]}, r"p.jsonl:2: tests\[0\].input: Expected `str`"),
        ({**DOUBLE, "tets": 1}, "p.jsonl:2: .*`tets`"),
        ({**DOUBLE, "time_limit_s": "2"}, "p.jsonl:2: time_limit_s: Expected `float`"),
        ({**HINTS, "name": 3}, "p.jsonl:2: name: Expected `str`"),
        ({**HINTS, "tests": [{"input": "1"}]}, r"p.jsonl:2: tests\[0\]: .*`output`"),
        ({**HINTS, "description": ""}, "p.jsonl:2: statement is empty"),
    ],
)
def test_a_hole_in_json_lines_is_named_by_file_line_and_field(tmp_path: Path, line: object, complaint: str) -> None:
    path = write_lines(tmp_path / "p.jsonl", {**DOUBLE, "id": "other"}, line)
    with pytest.raises(ProblemError, match=complaint):
        load_problems([f"jsonl:{path}"])


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps(DOUBLE).encode())
    assert load_problems([f"jsonl:{path}"])[0].id == "arithmetic/double"


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_judge_knows_every_checker(checker: str) -> None:
    with Judge(num_workers=1) as judge:
        assert judge.judge("print(input())", [TestCase(input="1\n", output="1\n")], checker=checker).num_passed == 1


def test_the_guide_names_every_source_and_checker() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "problems.md").read_text()
    for source in SOURCES:
        assert f"`{source}" in guide
    for checker in CHECKERS:
        assert f"| `{checker}" in guide


def test_json_lines_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps(DOUBLE).encode().replace(b"twice", b"tw\xffce"))
    with pytest.raises(ProblemError, match=r"p.jsonl:1: "):
        load_problems([f"jsonl:{path}"])


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("nothing", "no known source.*builtin, code_contests, humaneval, jsonl, kattis, taco, tiny, verl"),
        ("", "no known source"),
        ("jsonl", "write jsonl:PATH"),
        ("kattis:", "write kattis:PATH"),
        ("code_contests", "write code_contests:PATH"),
        ("taco:", "write taco:PATH"),
        ("tiny:other", "tiny:train or tiny:evaluation"),
    ],
)
def test_a_spec_that_cannot_be_read_is_refused_with_what_to_write(spec: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_problems([spec])


@pytest.mark.parametrize("specs", [[], "builtin"])
def test_specs_must_be_a_list_that_is_not_empty(specs: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected a list"):
        load_problems(specs)


def test_a_spec_without_problems_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "empty.jsonl")
    with pytest.raises(ProblemError, match=r"empty.jsonl: no problems found"):
        load_problems([f"jsonl:{path}"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"missing.jsonl: no such file"):
        load_problems([f"jsonl:{tmp_path / 'missing.jsonl'}"])


def test_an_id_that_two_specs_give_is_refused_with_both_named(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "first.jsonl", DOUBLE)
    second = write_lines(tmp_path / "second.jsonl", DOUBLE)
    with pytest.raises(ProblemError, match=r"second.jsonl.*'arithmetic/double'.*first.jsonl"):
        load_problems([f"jsonl:{first}", f"jsonl:{second}"])
