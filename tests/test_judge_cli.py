"""`spo judge`: tables, JSON, exit status, and what it says to wrong arguments."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from spo import judge_bench
from spo.errors import ProblemError
from spo.judge import Judge
from spo.judge_cli import isolation_report, register

PROBLEM = {
    "id": "double",
    "statement": "Read a number and print its double.",
    "tests": [{"input": "1\n", "output": "2\n"}, {"input": "21\n", "output": "42\n"}],
}


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    options = parser.parse_args(["judge", "--workers", "1", *arguments])
    return int(options.run(options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    (tmp_path / "right.py").write_text("print(int(input()) * 2)\n")
    (tmp_path / "wrong.py").write_text("print(int(input()) + 1)\n")
    (tmp_path / "crash.py").write_text("raise SystemExit('no idea')\n")
    return tmp_path


def test_the_table_has_a_line_for_each_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(folder / name) for name in ("right.py", "wrong.py", "crash.py")]
    assert run(*paths, "--problem", f"jsonl:{folder / 'problems.jsonl'}") == 1
    text = "".join(capsys.readouterr().out.split())
    assert "accepted2/2" in text
    assert "wrong_answer1/2" in text
    assert "runtime_error0/2" in text


def test_json_holds_the_facts_of_every_test(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder / "right.py")
    assert run(path, "--problem", f"jsonl:{folder / 'problems.jsonl'}", "--json") == 0
    judged = json.loads(capsys.readouterr().out)
    assert (judged["path"], judged["verdict"], judged["num_passed"]) == (path, "accepted", 2)
    assert [test["stdout_head"] for test in judged["tests"]] == ["2\n", "42\n"]


def test_all_tests_are_run_if_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (str(folder / "crash.py"), "--problem", f"jsonl:{folder / 'problems.jsonl'}", "--json", "--all-tests")
    assert run(*arguments) == 1
    assert len(json.loads(capsys.readouterr().out)["tests"]) == 2


def test_a_missing_or_ambiguous_problem_is_named(folder: Path) -> None:
    with pytest.raises(ProblemError, match="--problem is missing"):
        run(str(folder / "right.py"))
    with pytest.raises(ProblemError, match="choose one by --id from double"):
        run(str(folder / "right.py"), "--problem", f"jsonl:{folder / 'problems.jsonl'}", "--id", "triple")


def test_every_tier_is_reported_with_a_reason_if_it_cannot_be_had() -> None:
    reports = isolation_report()
    assert [report.tier for report in reports] == ["root", "user_namespace", "landlock", "seccomp"]
    for report in reports:
        assert report.meaning
        assert report.refusal is None or f'"{report.tier}"' in report.refusal
    assert any(report.refusal is None for report in reports[:3])


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here")
def test_the_suffix_tells_the_language(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "right.cpp"
    path.write_text('#include <cstdio>\nint main() { int n; scanf("%d", &n); printf("%d", 2 * n); }')
    paths = (str(path), str(folder / "right.py"))
    assert run(*paths, "--problem", f"jsonl:{folder / 'problems.jsonl'}", "--json") == 0
    judged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [program["num_passed"] for program in judged] == [2, 2]
    assert judged[0]["isolation_layers"] == judged[1]["isolation_layers"]


def test_measuring_the_host_shows_the_floor_beside_the_judge() -> None:
    with Judge(num_workers=1) as judge:
        findings = judge_bench.measure(judge, 1, seconds=0.2)
        assert findings["isolation_tier"] == judge.isolation_tier
    assert all(isinstance(value, str) or value > 0 for value in findings.values())
    floor, executed = judge_bench.bare_cpu_s()
    assert 0 < floor < executed
