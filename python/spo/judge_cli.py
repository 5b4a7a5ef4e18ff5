"""`spo judge PATH…`: judge source files against a problem, or measure what this host judges a second.

Only prints what the judge finds; `isolation_report` is also what `spo doctor` shows of the sandbox.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from spo import judge_bench
from spo.errors import JudgeError, ProblemError
from spo.judge import Judge, Judgement, Verdict
from spo.problems import Problem, load_problems
from spo.problems.judging import choose_problem, submission_for

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_TIERS = {
    "root": "own namespaces, read-only root, own uid, landlock, system call filter, resource limits",
    "user_namespace": "the same inside a user namespace, under the caller's uid",
    "landlock": "landlock (reads the standard library only), system call filter, resource limits",
    "seccomp": "weak: system call filter and resource limits; programs can read this user's files",
}
_CPP_SUFFIXES = {".cpp", ".cc", ".cxx"}
_BENCH = "bench"


@dataclass(frozen=True, slots=True)
class TierReport:
    """What one isolation tier is, and whether this host gives it."""

    tier: str
    meaning: str
    refusal: str | None
    """Why it cannot be had here; None if it can."""


def isolation_report() -> list[TierReport]:
    """Tries every tier, strongest first; takes about half a second for each."""
    reports = []
    for tier, meaning in _TIERS.items():
        try:
            Judge(num_workers=1, isolation=tier, allow_weak_isolation=True).close()
            refusal = None
        except JudgeError as error:
            refusal = str(error)
        reports.append(TierReport(tier, meaning, refusal))
    return reports


def register(subparsers: "Subparsers") -> None:
    """Adds the `judge` command, which sets `run`, a function from the parsed arguments to the exit status."""
    text = "judge programs against a problem's tests"
    parser = subparsers.add_parser("judge", help=text, description=f"{text.capitalize()}; exit status 1 if one fails.")
    parser.add_argument("paths", nargs="+", metavar="PATH", help=f'source files; or only "{_BENCH}": measure this host')
    parser.add_argument("--problem", metavar="SPEC", help="kattis:PATH, jsonl:PATH, builtin, …")
    parser.add_argument("--id", help="which problem, where SPEC gives several")
    parser.add_argument("--seed", type=int, default=0, help="of generated tests (default: 0)")
    parser.add_argument("--all-tests", action="store_true", help="go on after the first test that fails")
    parser.add_argument("--workers", type=int, help="programs judged at the same time (default: one a core)")
    parser.add_argument("--isolation", choices=list(_TIERS), help="exactly this tier (default: the strongest here)")
    parser.add_argument("--json", action="store_true", help="one JSON object a program, with the facts of every test")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.paths == [_BENCH] and not Path(_BENCH).exists():
        return _measure(arguments)
    if arguments.problem is None:
        raise ProblemError("--problem is missing: say what to judge by, as in --problem kattis:PATH")
    problem = choose_problem(load_problems([arguments.problem], arguments.seed), arguments.id)
    sources = [Path(path).read_bytes() for path in arguments.paths]
    with _judge(arguments) as judge:
        languages = ["cpp" if Path(path).suffix in _CPP_SUFFIXES else "python" for path in arguments.paths]
        judgements = judge.judge_many(
            submission_for(problem, source, not arguments.all_tests, language)
            for source, language in zip(sources, languages, strict=True)
        )
    show = _print_json if arguments.json else _print_table
    show(arguments.paths, problem, judgements)
    return 0 if all(judgement.verdict is Verdict.ACCEPTED for judgement in judgements) else 1


def _judge(arguments: argparse.Namespace) -> Judge:
    # Asking for the weak tier by name is consent.
    weak = arguments.isolation == "seccomp"
    return Judge(arguments.workers, isolation=arguments.isolation, allow_weak_isolation=weak)


def _print_json(paths: Sequence[str], problem: Problem, judgements: Sequence[Judgement]) -> None:
    for path, judgement in zip(paths, judgements, strict=True):
        print(json.dumps({"path": path, "problem": problem.id, **asdict(judgement)}))


def _print_table(paths: Sequence[str], problem: Problem, judgements: Sequence[Judgement]) -> None:
    table = Table("program", "verdict", "passed", "CPU max", "memory max", "note", box=None)
    for path, judgement in zip(paths, judgements, strict=True):
        tests = judgement.tests
        table.add_row(
            path,
            judgement.verdict.value,
            f"{judgement.num_passed}/{len(problem.tests)}",
            f"{max(test.cpu_time_s for test in tests):.3f} s" if tests else "",
            f"{max(test.memory_bytes for test in tests) / 2**20:.0f} MB" if tests else "",
            _note(judgement),
        )
    Console().print(table)


def _note(judgement: Judgement) -> str:
    if judgement.message:
        return judgement.message
    failed = [index for index, test in enumerate(judgement.tests) if test.verdict is not Verdict.ACCEPTED]
    if not failed:
        return ""
    last_words = judgement.tests[failed[0]].stderr_tail.strip().rpartition("\n")[2]
    return f"test {failed[0] + 1}" + (f": {last_words}" if last_words else "")


def _measure(arguments: argparse.Namespace) -> int:
    with _judge(arguments) as judge:
        findings = judge_bench.measure(judge, arguments.workers or len(os.sched_getaffinity(0)))
    if arguments.json:
        print(json.dumps(findings))
    else:
        table = Table(show_header=False, box=None)
        for name, value in findings.items():
            table.add_row(name, str(value))
        Console().print(table)
    return 0
