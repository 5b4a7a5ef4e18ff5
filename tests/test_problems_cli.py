"""`spo problems …`, called through its own parser."""

import argparse
from pathlib import Path

import pytest

from spo.errors import ProblemError
from spo.problems import load_problems, suite_hash
from spo.problems.cli import register
from spo.store import Trajectory, TrajectoryStore


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["problems", *words])
    result: int = arguments.run(arguments)
    return result


def test_list_prints_one_line_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "builtin:hard") == 0
    rows = capsys.readouterr().out.splitlines()
    hard = load_problems(["builtin:hard"])
    assert [row.split()[0] for row in rows[1:]] == [problem.id for problem in hard]
    assert "1 right, 3 wrong" in rows[1]


def test_show_prints_the_statement_and_on_request_tests_and_solutions(capsys: pytest.CaptureFixture[str]) -> None:
    [clock] = load_problems(["builtin:clock"])
    assert call("show", "builtin:clock") == 0
    brief = capsys.readouterr().out
    assert clock.statement in brief
    assert clock.solutions[0].code not in brief
    assert call("show", "builtin", "--id", "builtin/clock", "--tests", "--solutions") == 0
    full = capsys.readouterr().out
    assert "test hidden-3 (hidden): input" in full
    assert clock.solutions[0].code in full
    assert f"wrong: {clock.solutions[1].note}" in full


def test_show_cuts_long_tests(capsys: pytest.CaptureFixture[str]) -> None:
    call("show", "builtin:range_count", "--tests")
    shown = capsys.readouterr().out
    assert "characters)" in shown
    assert len(shown) < 50_000


def test_show_prints_markup_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    call("show", "builtin:brackets")
    assert "f(a[0], {1})" in capsys.readouterr().out


def test_show_tells_what_became_of_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trajectory(version: int, verdict: str, source: str = "online", problem: str = "builtin/clock") -> Trajectory:
        reward = 0.0 if verdict == "accepted" else -1.0
        return Trajectory(
            problem, [1], [version, len(source)], reward, verdict, source,
            min_policy_version=version, max_policy_version=version,
        )  # fmt: skip

    with TrajectoryStore.open(tmp_path / "store", "a", tokenizer="test") as store:
        store.append([trajectory(0, "wrong_answer", "reference"), trajectory(0, "accepted", problem="builtin/maze")])
        store.append([trajectory(version, "accepted" if version > 7 else "time_limit") for version in range(16)])
    for path in (tmp_path, tmp_path / "store"):
        call("show", "builtin:clock", "--store", str(path))
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["online", "0-1", "2", "0%", "time_limit", "2"] in rows
        assert ["online", "14-15", "2", "100%", "accepted", "2"] in rows
        assert ["reference", "0-0", "1", "0%", "wrong_answer", "1"] in rows
    with pytest.raises(ProblemError, match="no trajectory store there"):
        call("show", "builtin:clock", "--store", str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["builtin:easy"], "there are several problems; choose one by --id from builtin/"),
        (["builtin:easy", "--id", "x"], "there is no problem 'x'; choose one by --id"),
    ],
)
def test_show_needs_one_problem(words: list[str], complaint: str) -> None:
    with pytest.raises(ProblemError, match=complaint):
        call("show", *words)


def test_stats_count_by_data_set_and_difficulty(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stats", "builtin", "--seed", "3") == 0
    out = capsys.readouterr().out
    problems = load_problems(["builtin"], seed=3)
    cells = [line.split() for line in out.splitlines()]
    rows = {(row[0], row[1]): row[2] for row in cells if len(row) > 2}
    for difficulty in ("easy", "medium", "hard"):
        count = sum(problem.difficulty == difficulty for problem in problems)
        assert rows["builtin", difficulty] == str(count)
    assert f"suite hash: {suite_hash(problems)}" in out
    assert "problems without public tests: 0" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["verify", "builtin", "--workers", "0"], "argument --workers: must be at least 1, got 0"),
        (["verify", "builtin", "--workers", "two"], "argument --workers: invalid"),
        (
            ["dedup", "builtin", "--against", "tiny:train", "--output", "x", "--tests", "1.5"],
            "argument --tests: must be",
        ),
        (["dedup", "builtin", "--output", "x"], "required: --against"),
    ],
)
def test_impossible_arguments_are_refused_by_name(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(*words)
    assert complaint in capsys.readouterr().err
