"""CodeContests and TACO as published: files with the real columns, odd rows included."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from spo.call_values import decode
from spo.errors import ConfigError, ProblemError
from spo.judge import Judge, Verdict
from spo.problems import Problem, ProblemTest, Solution, load_problems
from spo.problems.judging import submission_for

TESTS = pyarrow.struct([("input", pyarrow.list_(pyarrow.string())), ("output", pyarrow.list_(pyarrow.string()))])
CODE = pyarrow.struct([("language", pyarrow.list_(pyarrow.int64())), ("solution", pyarrow.list_(pyarrow.string()))])
CODE_CONTESTS = pyarrow.schema(
    [
        ("name", pyarrow.string()),
        ("description", pyarrow.string()),
        ("public_tests", TESTS),
        ("private_tests", TESTS),
        ("generated_tests", TESTS),
        ("source", pyarrow.int64()),
        ("difficulty", pyarrow.int64()),
        ("solutions", CODE),
        ("incorrect_solutions", CODE),
        ("cf_contest_id", pyarrow.int64()),
        ("cf_index", pyarrow.string()),
        ("cf_points", pyarrow.float32()),
        ("cf_rating", pyarrow.int32()),
        ("cf_tags", pyarrow.list_(pyarrow.string())),
        ("is_description_translated", pyarrow.bool_()),
        ("untranslated_description", pyarrow.string()),
        ("time_limit", pyarrow.struct([("seconds", pyarrow.int64()), ("nanos", pyarrow.int64())])),
        ("memory_limit_bytes", pyarrow.int64()),
        ("input_file", pyarrow.string()),
        ("output_file", pyarrow.string()),
    ]
)
TACO_COLUMNS = [
    "question", "solutions", "starter_code", "input_output", "difficulty", "raw_tags", "name", "source", "tags",
    "skill_types", "url", "Expected Auxiliary Space", "time_limit", "date", "picture_num", "memory_limit",
    "Expected Time Complexity",
]  # fmt: skip
TACO = pyarrow.schema([(name, pyarrow.string()) for name in TACO_COLUMNS])


def contest_row(**changes: Any) -> dict[str, Any]:
    return {
        "name": "7_A. Twice",
        "description": "Print twice the number.",
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": ["5\n", "6\n"], "output": ["10\n", "12\n"]},
        "generated_tests": {"input": [], "output": []},
        "source": 2,
        "difficulty": 7,
        "solutions": {"language": [3, 2], "solution": ["print(2 * int(input()))", "int main() {}"]},
        "incorrect_solutions": {"language": [1], "solution": ["print input()"]},
        "cf_contest_id": 7,
        "cf_index": "A",
        "cf_rating": 800,
        "cf_tags": ["math", ""],
        "time_limit": {"seconds": 1, "nanos": 500_000_000},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
        **changes,
    }


def taco_row(input_output: Any, **changes: str | None) -> dict[str, Any]:
    encoded = input_output if isinstance(input_output, str) else json.dumps(input_output)
    return {"question": "Print twice the number.", "name": "Twice", "input_output": encoded, **changes}


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_rows(schema: pyarrow.Schema, *rows: dict[str, Any], name: str = "data.parquet") -> Path:
        table = pyarrow.Table.from_pylist(list(rows), schema=schema)
        path = tmp_path / name
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(table, path)
        else:
            open_writer = pyarrow.ipc.new_stream if "stream" in name else pyarrow.ipc.new_file
            with open_writer(path, schema) as writer:
                writer.write_table(table)
        return path

    return write_rows


def load_one(spec: str) -> Problem:
    [problem] = load_problems([spec])
    return problem


def test_a_code_contests_row_becomes_a_problem(write: Write) -> None:
    problem = load_one(f"code_contests:{write(CODE_CONTESTS, contest_row())}")
    assert problem == Problem(
        id="code_contests/7_A. Twice",
        dataset="code_contests",
        statement="Print twice the number.",
        tests=(
            ProblemTest("1\n", "2\n", "public", "public-1"),
            ProblemTest("5\n", "10\n", "hidden", "hidden-1"),
            ProblemTest("6\n", "12\n", "hidden", "hidden-2"),
        ),
        time_limit_s=4.5,
        memory_limit_bytes=256_000_000,
        checker="code_contests",
        difficulty="A",
        source="CODEFORCES",
        solutions=(
            Solution("python", "print(2 * int(input()))", True),
            Solution("cpp", "int main() {}", True),
            Solution("python2", "print input()", False),
        ),
        metadata={"cf_contest_id": "7", "cf_index": "A", "cf_rating": "800", "cf_tags": "math"},
    )


def test_missing_limits_become_the_defaults(write: Write) -> None:
    row = contest_row(time_limit=None, memory_limit_bytes=0, difficulty=99, source=None, solutions=None, cf_tags=None)
    problem = load_one(f"code_contests:{write(CODE_CONTESTS, row)}")
    assert (problem.time_limit_s, problem.memory_limit_bytes) == (2.0, 512 << 20)
    assert (problem.difficulty, problem.source) == ("99", "")
    assert [solution.correct for solution in problem.solutions] == [False]


def test_windows_line_ends_become_those_of_unix(write: Write) -> None:
    public = {"input": ["1\r\n2\r\n"], "output": ["3\r\n"]}
    code = {"language": [3], "solution": ["x = 1\r\nprint(x)\r\n"]}
    row = contest_row(description="Add.\r\nPrint.", public_tests=public, solutions=code)
    problem = load_one(f"code_contests:{write(CODE_CONTESTS, row)}")
    assert problem.statement == "Add.\nPrint."
    assert (problem.tests[0].input, problem.tests[0].output) == ("1\n2\n", "3\n")
    assert problem.solutions[0].code == "x = 1\nprint(x)\n"


def test_text_that_is_not_utf8_is_kept_as_far_as_it_can_be(write: Write) -> None:
    latin = CODE_CONTESTS.set(1, pyarrow.field("description", pyarrow.binary()))
    table = pyarrow.Table.from_pylist([contest_row(description="Größe".encode("latin-1"))], schema=latin)
    path = write(CODE_CONTESTS, contest_row())
    columns = [table.column(name) for name in table.column_names]
    columns[1] = pyarrow.chunked_array(
        [pyarrow.Array.from_buffers(pyarrow.string(), 1, table.column(1).chunk(0).buffers())]
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, schema=CODE_CONTESTS), path)
    assert load_one(f"code_contests:{path}").statement == "Gr\ufffd\ufffde"


def test_half_a_surrogate_pair_in_json_does_no_harm(write: Write) -> None:
    path = write(TACO, taco_row(r'{"inputs": ["\ud83d"], "outputs": ["2"]}'))
    problem = load_one(f"taco:{path}")
    assert problem.tests[0].input == "?"


def test_every_column_that_says_something_is_kept(write: Write) -> None:
    row = contest_row(
        cf_points=1500.0, is_description_translated=True, untranslated_description="Удвой.", difficulty=28, source=0
    )
    problem = load_one(f"code_contests:{write(CODE_CONTESTS, row)}")
    assert problem.metadata["cf_points"] == "1500.0"
    assert problem.metadata["untranslated_description"] == "Удвой."
    assert (problem.difficulty, problem.source) == ("V", "UNKNOWN")


def test_generated_tests_keep_their_split(write: Write) -> None:
    row = contest_row(generated_tests={"input": ["9\n"], "output": ["18\n"]})
    problem = load_one(f"code_contests:{write(CODE_CONTESTS, row)}")
    assert problem.tests_in("generated") == (ProblemTest("9\n", "18\n", "generated", "generated-1"),)


def test_problems_that_cannot_be_judged_are_left_out_and_counted(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = {"input": [], "output": []}
    path = write(
        CODE_CONTESTS,
        contest_row(),
        contest_row(name="file", input_file="in.txt"),
        contest_row(name="file too", output_file="out.txt"),
        contest_row(name="no tests", public_tests=nothing, private_tests=None),
        contest_row(name="no words", description=""),
        contest_row(name="uneven", private_tests={"input": ["1", "2"], "output": ["1"]}),
    )
    with caplog.at_level(logging.WARNING):
        assert load_one(f"code_contests:{path}").id == "code_contests/7_A. Twice"
    assert [record.getMessage().partition(": left out ")[2] for record in caplog.records] == [
        "2 problems: they read or write files instead of stdin and stdout",
        "1 problems: they have no tests",
        "1 problems: they have no statement",
        "1 problems: their inputs and outputs differ in number",
    ]


def test_a_folder_or_a_glob_gives_the_problems_of_its_files_in_order(write: Write, tmp_path: Path) -> None:
    for number in (2, 1):
        write(CODE_CONTESTS, contest_row(name=str(number)), name=f"valid-{number}.parquet")
    (tmp_path / "README.md").write_text("not data")
    for spec in (f"code_contests:{tmp_path}", f"code_contests:{tmp_path}/valid-*.parquet"):
        assert [problem.id for problem in load_problems([spec])] == ["code_contests/1", "code_contests/2"]


def test_names_that_repeat_are_told_apart_and_problems_that_do_are_left_out(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(CODE_CONTESTS, contest_row(), contest_row(description="Another."), contest_row())
    first, second = load_problems([f"code_contests:{path}"]).ids
    assert first == "code_contests/7_A. Twice"
    assert second.startswith(f"{first}-")
    assert "left out 1 problems: they repeat another problem" in caplog.text


def test_many_rows_are_read_in_order(write: Write) -> None:
    path = write(CODE_CONTESTS, *(contest_row(name=str(number)) for number in range(150)))
    problems = load_problems([f"code_contests:{path}"])
    assert [problem.id for problem in problems] == [f"code_contests/{number}" for number in range(150)]


@pytest.mark.parametrize("name", ["train.parquet", "train-file.arrow", "train-stream.arrow"])
def test_a_taco_row_becomes_a_problem_from_every_kind_of_file(write: Write, name: str) -> None:
    row = taco_row(
        {"inputs": ["1\n", ["2", "3"]], "outputs": ["2\n", [["4"], "6"]]},
        solutions=json.dumps(["print(2)"]),
        difficulty="EASY",
        source="codeforces",
        url="https://codeforces.com/problemset/problem/7/A",
        time_limit="1.5 seconds",
        memory_limit="256.0 megabytes",
        starter_code="",
    )
    problem = load_one(f"taco:{write(TACO, row, name=name)}")
    assert problem.id.startswith("taco/twice-")
    assert problem.tests == (
        ProblemTest("1\n", "2\n", "hidden", "test-1"),
        ProblemTest("2\n3\n", "4\n6\n", "hidden", "test-2"),
    )
    assert (problem.time_limit_s, problem.memory_limit_bytes) == (4.5, 256 << 20)
    assert (problem.difficulty, problem.source) == ("EASY", "codeforces")
    assert problem.solutions == (Solution("python", "print(2)", True),)
    assert problem.metadata["url"].endswith("7/A")


def test_taco_problems_without_a_name_are_named_by_their_address(write: Write) -> None:
    tests = {"inputs": ["1"], "outputs": ["2"]}
    path = write(
        TACO,
        taco_row(tests, name=None, url="https://example.org/problems/two-fold", time_limit="soon"),
        taco_row(tests, name=None, question="Another."),
    )
    named, nameless = load_problems([f"taco:{path}"])
    assert named.id.startswith("taco/two-fold-")
    assert nameless.id.startswith("taco/problem-")
    assert named.time_limit_s == 2.0


def test_taco_problems_that_call_a_function_are_judged_by_its_value(write: Write) -> None:
    tests = {"fn_name": "twice", "inputs": [[1], [[2, 3]]], "outputs": [[2], [[2, 3, 2, 3]]]}
    problem = load_one(f"taco:{write(TACO, taco_row(tests))}")
    assert (problem.fn_name, problem.tests[1].input) == ("twice", "[[2, 3]]")
    assert problem.statement.endswith("Write a function `twice`.")
    with Judge(num_workers=1) as judge:
        method = "class Solution:\n    def twice(self, x):\n        return x * 2\n"
        right, wrong = judge.judge_many(
            submission_for(problem, code) for code in (method, "def twice(x):\n    return x\n")
        )
    assert (right.verdict, wrong.verdict) == ("accepted", "wrong_answer")


def test_taco_problems_that_cannot_be_judged_are_left_out_and_counted(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"inputs": ["1"], "outputs": ["2"]}
    path = write(
        TACO,
        taco_row(good),
        taco_row(good),
        taco_row({"fn_name": "twice", "inputs": ["one"], "outputs": [2]}, question="a"),
        taco_row({"inputs": [], "outputs": []}, question="b"),
        taco_row("", question="c"),
        taco_row({"inputs": ["1", "2"], "outputs": ["2"]}, question="d"),
        taco_row(good, question=" "),
        taco_row('{"fn_name": "f", "inputs": [[1]], "outputs": [Infinity]}', question="g"),
        taco_row({"inputs": [{"a": "1"}], "outputs": ["2"]}, question="h"),
        taco_row({"inputs": "1", "outputs": "2"}, question="i"),
        taco_row('{"inputs": ["1"], "outputs": [' + "9" * 5000 + "]}", question="j"),
    )
    with caplog.at_level(logging.WARNING):
        load_one(f"taco:{path}")
    assert [record.getMessage().partition(": left out ")[2] for record in caplog.records] == [
        "1 problems: they repeat another problem",
        "1 problems: their function's arguments are neither lists nor JSON lines",
        "2 problems: they have no tests",
        "1 problems: their inputs and outputs differ in number",
        "1 problems: they have no statement",
        "1 problems: their values are infinite or no numbers",
        "1 problems: their tests are neither text nor lines",
        "1 problems: their inputs and outputs are not lists",
        "1 problems: their values have integers of more than 4300 digits",
    ]


def test_taco_arguments_may_be_json_lines_and_values_nested(write: Write) -> None:
    tests = {"fn_name": "f", "inputs": ['[1, 2]\n"a"'], "outputs": ["[[true, null]]"]}
    problem = load_one(f"taco:{write(TACO, taco_row(tests))}")
    assert problem.tests == (ProblemTest('[[1, 2], "a"]', "[[true, null]]", "hidden", "test-1"),)


def test_keys_that_were_integers_are_integers_again(write: Write) -> None:
    tests = {
        "fn_name": "f",
        "inputs": [[{"1": {"-3": 4}, "2": {"a": 0, "5": 1}}], [{"01": 1}]],
        "outputs": [{"7": [{"0": 1}]}, {}],
    }
    problem = load_one(f"taco:{write(TACO, taco_row(tests))}")
    first, second = (decode(test.input) for test in problem.tests)
    assert first == [{1: {-3: 4}, 2: {"a": 0, "5": 1}}]
    assert second == [{"01": 1}]
    assert decode(problem.tests[0].output) == {7: [{0: 1}]}
    right = "def f(x):\n    return {6 + i: [{0: 1}] for i in x if i == 1}"
    with Judge(num_workers=1) as judge:
        assert judge.judge_many([submission_for(problem, right)])[0].verdict is Verdict.ACCEPTED
        wrong = right.replace("6 + i", "str(6 + i)")
        assert judge.judge_many([submission_for(problem, wrong)])[0].verdict is Verdict.WRONG_ANSWER


def test_numbers_as_tests_of_standard_input_are_text(write: Write) -> None:
    problem = load_one(f"taco:{write(TACO, taco_row({'inputs': [5, [1, ['2', 3]]], 'outputs': [10, [2.5]]}))}")
    assert [(test.input, test.output) for test in problem.tests] == [("5", "10"), ("1\n2\n3\n", "2.5\n")]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (taco_row("{oops"), r"data.parquet, row 0: input_output: not JSON"),
        (taco_row("[1]"), r"data.parquet, row 0: input_output: expected a JSON object, got list"),
        (taco_row({"inputs": ["1"], "outputs": ["2"]}, solutions="print"), r"row 0: solutions: not JSON"),
    ],
)
def test_a_damaged_taco_row_is_named(write: Write, row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProblemError, match=complaint):
        load_problems([f"taco:{write(TACO, row)}"])


def test_a_file_of_another_data_set_is_refused_by_its_columns(write: Write) -> None:
    path = write(TACO, taco_row({"inputs": ["1"], "outputs": ["2"]}))
    with pytest.raises(ProblemError, match=r"data.parquet: lacks the columns description, public_tests"):
        load_problems([f"code_contests:{path}"])


@pytest.mark.parametrize("name", ["data.parquet", "data.arrow"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 no such thing PAR1")
    with pytest.raises(ProblemError, match=f"{name}: not readable"):
        load_problems([f"taco:{tmp_path}"])


def test_a_path_without_data_files_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "*.parquet", tmp_path / "missing.parquet"):
        with pytest.raises(ProblemError, match=r"no .parquet or .arrow file there"):
            load_problems([f"taco:{path}"])


def test_without_pyarrow_the_extra_to_install_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(CODE_CONTESTS, contest_row())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'spo-rl\[data\]'"):
        load_problems([f"code_contests:{path}"])
