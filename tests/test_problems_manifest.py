"""Manifests: problems with planted faults, verified, interrupted, verified on, and trained on what is left."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spo.errors import ConfigError, ProblemError
from spo.judge import Judge, Submission
from spo.problems import Problem, Problems, ProblemTest, Solution, load_problems, suite_hash
from spo.problems.cli import register
from spo.problems.manifest import apply_manifest, read_manifest, verify_into
from spo.problems.verify import VerifySettings, verify

RIGHT = tuple(Solution("python", f"print(int(input()) * 2){' ' * note}\n", True) for note in range(3))
WRONG = Solution("python", "print(int(input()) ** 2)\n", False)
SLOW = Solution(
    "python",
    "import time\nn = int(input())\nwhile time.process_time() < 0.3:\n    pass\nprint(n * 2)\n",
    True,
)
TESTS = (ProblemTest("1\n", "2\n", "public", "one"), ProblemTest("7\n", "14\n"), ProblemTest("9\n", "18\n"))
BAD = ProblemTest("3\n", "7\n", name="bad")
CRASHING = ProblemTest("three\n", "6\n", name="crashing")
ANY_ORDER = tuple(
    Solution("python", f"print(*{order}(input().split()))\n", True) for order in ("sorted", "reversed", "list")
)


def a_problem(name: str, tests: tuple[ProblemTest, ...] = TESTS, *solutions: Solution, **more: Any) -> Problem:
    return Problem(f"a/{name}", "a", f"Double {name}.", tests, solutions=solutions or (*RIGHT, WRONG), **more)


PROBLEMS = [
    a_problem("good"),
    a_problem("bad test", (*TESTS[:2], BAD, TESTS[2])),
    a_problem("crashing test", (*TESTS, CRASHING)),
    a_problem("all bad", (BAD,)),
    a_problem("several answers", (ProblemTest("b c a\n", "a b c\n"), ProblemTest("x\n", "x\n")), *ANY_ORDER),
    a_problem("slow", TESTS, SLOW, time_limit_s=0.27),
    a_problem("too slow", TESTS, SLOW, time_limit_s=0.05),
    a_problem("package missing", TESTS, Solution("python", "import no_such_package\n", True)),
    a_problem("unknown", TESTS, Solution("cpp", "int main() {}", True)),
    a_problem("weak", (TESTS[0],), *RIGHT, Solution("python", "print(int(input()) + 1)\n", False)),
]
KEPT = ["a/good", "a/bad test", "a/crashing test", "a/slow", "a/unknown", "a/weak"]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(num_workers=2) as judge:
        yield judge


def write(path: Path, problems: list[Problem]) -> Problems:
    path.write_bytes(msgspec.json.Encoder().encode_lines(problems))
    return load_problems([f"jsonl:{path}"])


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory, judge: Judge) -> tuple[Problems, Path]:
    folder = tmp_path_factory.mktemp("verified")
    problems = write(folder / "p.jsonl", PROBLEMS)
    list(verify_into(folder / "manifest.json", problems, judge))
    return problems, folder / "manifest.json"


def test_every_planted_fault_is_in_the_manifest(verified: tuple[Problems, Path]) -> None:
    problems, path = verified
    manifest = read_manifest(path)
    assert [entry.report.problem_id for entry in manifest.problems] == problems.ids
    entries = {entry.report.problem_id.removeprefix("a/"): entry for entry in manifest.problems}
    assert {name: entry.left_out for name, entry in entries.items() if entry.left_out} == {
        "all bad": "all their tests are bad",
        "several answers": "they have several right answers",
        "too slow": "no right solution is accepted",
        "package missing": "no right solution is accepted",
    }
    reports = {name: entry.report for name, entry in entries.items()}
    assert {name: report.bad_tests for name, report in reports.items() if report.bad_tests} == {
        "bad test": ("bad",), "crashing test": ("crashing",), "all bad": ("bad",)
    }  # fmt: skip
    assert reports["several answers"].disputed_tests == ("1",)
    assert (reports["weak"].num_wrong, reports["weak"].wrong_refused) == (1, 0)
    assert 1.5 < reports["slow"].time_factor < 4.0
    assert (reports["slow"].right_accepted, reports["slow"].right_accepted_after) == (0, 1)
    assert reports["good"].time_factor == 1.0
    assert (reports["bad test"].right_accepted, reports["bad test"].right_accepted_after) == (0, 3)
    assert manifest.counts["kept"] == 6
    assert manifest.counts["bad tests"] == 2
    assert manifest.counts["kept without a known right solution"] == 1
    assert manifest.counts["left out: they have several right answers"] == 1
    assert not path.with_name("manifest.json.part").exists()


def test_training_leaves_out_what_is_bad_and_keeps_the_rest_without_bad_tests(
    verified: tuple[Problems, Path], caplog: pytest.LogCaptureFixture
) -> None:
    problems, path = verified
    kept, left_out = apply_manifest(problems, path)
    assert kept.ids == KEPT
    assert sum(left_out.values()) == 4
    assert "left out 1 of 10 problems: they have several right answers" in caplog.text
    by_id = {problem.id: problem for problem in kept}
    assert by_id["a/good"] == PROBLEMS[0]
    assert by_id["a/bad test"].tests == TESTS
    assert by_id["a/slow"].time_limit_s == pytest.approx(0.45, rel=0.5)
    # What is told without reading the tests is what reading them would tell.
    assert suite_hash(kept) == suite_hash(list(kept))
    assert [info.splits for info in kept.infos] == [
        {split: len(problem.tests_in(split)) for split in dict.fromkeys(test.split for test in problem.tests)}
        for problem in kept
    ]
    assert suite_hash(kept) != suite_hash(problems.where(lambda info: info.id in KEPT))


def test_what_is_kept_is_sound_and_stays_as_it_is(verified: tuple[Problems, Path], judge: Judge) -> None:
    kept, _ = apply_manifest(*verified)
    reports = {report.problem_id: report for report in verify(list(kept)[:4], judge)}
    assert all(report.right_accepted == report.num_right for report in reports.values())
    assert all(report.bad_tests == () and report.time_factor < 1.3 for report in reports.values())


class CountingJudge:
    """Counts the programs that it judges, and fails after some."""

    def __init__(self, judge: Judge, most: int = 10**6) -> None:
        self.judge, self.most, self.num = judge, most, 0

    def judge_many(self, submissions: Iterator[Submission]) -> Any:
        wanted = list(submissions)
        self.num += len(wanted)
        if self.num > self.most:
            raise KeyboardInterrupt
        return self.judge.judge_many(wanted)


def test_an_interrupted_verification_goes_on_where_it_was(tmp_path: Path, judge: Judge) -> None:
    many = [a_problem(str(number)) for number in range(20)]
    problems, path = write(tmp_path / "p.jsonl", many), tmp_path / "manifest.json"
    first: Any = CountingJudge(judge, most=50)
    with pytest.raises(KeyboardInterrupt):
        list(verify_into(path, problems, first))
    assert not path.exists()
    with pytest.raises(ConfigError, match="no such manifest"):
        apply_manifest(problems, path)
    with path.with_name("manifest.json.part").open("ab") as file:
        file.write(b'{"settings"')  # Cut off while it was written.
    second: Any = CountingJudge(judge)
    reports = list(verify_into(path, problems, second))
    assert sorted(report.problem_id for report in reports) == sorted(problems.ids)
    assert second.num == 20 * 4 - 8 * 4
    third: Any = CountingJudge(judge)
    write(tmp_path / "p.jsonl", [*many[:19], a_problem("changed")])
    list(verify_into(path, load_problems([f"jsonl:{tmp_path / 'p.jsonl'}"]), third))
    assert third.num == 4
    other: Any = CountingJudge(judge)
    list(verify_into(path, problems[:2], other, VerifySettings(max_solutions=1)))
    assert other.num == 2 * 2


def test_a_manifest_of_other_problems_is_refused(verified: tuple[Problems, Path], tmp_path: Path) -> None:
    _, path = verified
    changed = write(tmp_path / "p.jsonl", [PROBLEMS[0], a_problem("bad test", TESTS[:1]), a_problem("new")])
    with pytest.raises(
        ConfigError, match=r"does not know 2 of 3 problems as they are now \(a/bad test, a/new\).*verify"
    ):
        apply_manifest(changed, path)


def test_a_manifest_that_leaves_nothing_is_an_error(verified: tuple[Problems, Path]) -> None:
    problems, path = verified
    with pytest.raises(ProblemError, match=r"no problem is left \(\{'all their tests are bad': 1\}\)"):
        apply_manifest(problems.where(lambda info: info.id == "a/all bad"), path)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"manifest.json: no manifest of this version"):
        read_manifest(tmp_path / "manifest.json")


def test_the_command_writes_the_manifest_and_says_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "p.jsonl", PROBLEMS[:4])
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    words = ["problems", "verify", f"jsonl:{tmp_path / 'p.jsonl'}", "--manifest", str(tmp_path / "m.json")]
    arguments = parser.parse_args([*words, "--max-solutions", "3", "--workers", "2"])
    assert arguments.run(arguments) == 1
    out = capsys.readouterr().out
    assert "1 of 4 problems are sound" in out
    assert "left out: all their tests are bad: 1" in out
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert manifest["counts"]["kept"] == 3
    assert manifest["settings"]["max_solutions"] == 3
