"""`spo problems list | show | stats | verify | dedup`: problems as people want to see them, in the terminal.

Only prints what other modules find out, and changes no problem.
"""

import argparse
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from spo.files import replace_file
from spo.judge import Judge
from spo.problems.collection import suite_hash
from spo.problems.dedup import find_duplicates
from spo.problems.info import ProblemInfo
from spo.problems.judging import choose_problem
from spo.problems.manifest import read_manifest, verify_into
from spo.problems.schema import HIDDEN, PUBLIC
from spo.problems.specs import load_problems
from spo.problems.verify import USUAL, ProblemReport, VerifySettings, verify

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_UNWATCHED_WIDTH = 1000
"""Columns of a table in a file or pipe: wide enough that no cell is wrapped."""
_MANY = 100
"""Of more problems than these, only those that are not sound are listed."""
_SHOWN_CHARACTERS = 2000
"""Longer tests are cut when they are shown."""


def register(subparsers: "Subparsers") -> None:
    """Add the `problems` command; each of its parts sets `run`, a function from the arguments to the exit code."""
    problems = subparsers.add_parser("problems", help="list, show, measure, verify and deduplicate problems")
    parts = problems.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        part = parts.add_parser(name, help=text, description=f"{text.capitalize()}.")
        part.add_argument("specs", nargs="+", metavar="SPEC", help="builtin, builtin:easy, kattis:PATH, jsonl:PATH, …")
        part.add_argument("--seed", type=int, default=0, help="of generated tests (default: 0)")
        part.set_defaults(run=run)
        return part

    add("list", _list, "one line a problem")
    show = add("show", _show, "statement, tests and solutions of one problem")
    show.add_argument("--id", help="which problem, where the specs give several")
    show.add_argument("--tests", action="store_true", help="print the hidden tests too")
    show.add_argument("--solutions", action="store_true", help="print the known solutions")
    add("stats", _stats, "counts and sizes by data set and difficulty")
    check = add("verify", _verify, "judge the known Python solutions; exit code 1 if one is not judged as it should be")
    check.add_argument("--workers", type=_count, help="programs judged at the same time (default: one a core)")
    check.add_argument("--output", type=Path, help="also write the reports to this file, one JSON object a line")
    check.add_argument(
        "--manifest", type=Path, help="write what training heeds by problems.manifest=FILE; goes on there"
    )
    check.add_argument(
        "--max-solutions", type=_count, default=USUAL.max_solutions, help="right ones, and wrong ones, judged a problem"
    )
    check.add_argument(
        "--min-time-factor", type=_factor, default=USUAL.min_time_factor, help="least factor of a calibrated time limit"
    )
    check.add_argument(
        "--max-time-factor", type=_factor, default=USUAL.max_time_factor, help="largest factor of a time limit"
    )
    check.add_argument(
        "--time-margin", type=_factor, default=USUAL.time_margin, help="a limit's part of the slowest right solution"
    )
    dedup = add("dedup", _dedup, "write the problems that are not among others: train without what is evaluated on")
    dedup.add_argument("--against", nargs="+", required=True, metavar="SPEC", help="the problems to keep out")
    dedup.add_argument("--output", type=Path, required=True, help="the file to write, for jsonl:FILE")
    dedup.add_argument("--statements", type=_share, default=0.5, help="share of a near statement (default: 0.5)")
    dedup.add_argument("--tests", type=_share, default=0.5, help="share of equal tests (default: 0.5)")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _factor(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def _list(arguments: argparse.Namespace) -> int:
    table = Table(Column("id", no_wrap=True), "difficulty", "tests", "checker", "time limit", "solutions", box=None)
    for info in load_problems(arguments.specs, arguments.seed).infos:
        num_public = info.splits.get(PUBLIC, 0)
        table.add_row(
            info.id,
            info.difficulty,
            f"{num_public} public + {info.num_tests - num_public}",
            info.checker,
            f"{info.time_limit_s:g} s",
            f"{info.num_right} right, {info.num_wrong} wrong",
        )
    _print_table(table)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    problem = choose_problem(load_problems(arguments.specs, arguments.seed), arguments.id)
    console = Console(highlight=False, markup=False)
    console.rule(problem.id, align="left")
    console.print(
        f"{problem.difficulty or 'no difficulty'}, {len(problem.tests)} tests, checker {problem.checker}, "
        f"{problem.time_limit_s:g} s, {problem.memory_limit_bytes >> 20} MiB",
        style="dim",
    )
    console.print(f"\n{problem.statement}\n", soft_wrap=True)
    for test in problem.tests if arguments.tests else ():
        console.rule(f"test {test.name} ({test.split}): input", align="left")
        console.print(_cut(test.input), soft_wrap=True)
        console.rule("output", align="left")
        console.print(_cut(test.output), soft_wrap=True)
    for solution in problem.solutions if arguments.solutions else ():
        kind = "right" if solution.correct else f"wrong: {solution.note}"
        console.rule(f"{solution.language}, {kind}", align="left")
        console.print(solution.code, soft_wrap=True)
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    problems = load_problems(arguments.specs, arguments.seed)
    table = Table("data set", "difficulty", "problems", "tests", "tests a problem", "test data", "statement", box=None)
    groups: defaultdict[tuple[str, str], list[ProblemInfo]] = defaultdict(list)
    for info in problems.infos:
        groups[info.dataset, info.difficulty].append(info)
    for (dataset, difficulty), group in sorted(groups.items()):
        table.add_row(dataset, difficulty or "-", *_measures(group))
    table.add_section()
    table.add_row("all", "", *_measures(problems.infos))
    console = _print_table(table)
    splits: Counter[str] = Counter()
    for info in problems.infos:
        splits.update(info.splits)
    console.print("\ntests by split: " + ", ".join(f"{split} {count}" for split, count in splits.most_common()))
    without_public = sum(PUBLIC not in info.splits for info in problems.infos)
    without_hidden = sum(HIDDEN not in info.splits for info in problems.infos)
    console.print(f"problems without public tests: {without_public}, without hidden tests: {without_hidden}")
    console.print(f"suite hash: {suite_hash(problems)}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    problems = load_problems(arguments.specs, arguments.seed)
    settings = VerifySettings(
        max_solutions=arguments.max_solutions,
        min_time_factor=arguments.min_time_factor,
        max_time_factor=max(arguments.min_time_factor, arguments.max_time_factor),
        time_margin=arguments.time_margin,
    )
    with Judge(num_workers=arguments.workers) as judge:
        found = (
            verify_into(arguments.manifest, problems, judge, settings)
            if arguments.manifest
            else verify(problems, judge, settings)
        )
        reports = list(track(found, "judging", len(problems), console=Console(stderr=True), transient=True))
    console = _print_table(_report_table(reports))
    sound = sum(report.sound for report in reports)
    errors = sum(report.num_judge_errors for report in reports)
    console.print(f"\n{sound} of {len(reports)} problems are sound; failures of the judge itself: {errors}")
    if arguments.manifest:
        for what, count in read_manifest(arguments.manifest).counts.items():
            console.print(f"{what}: {count}")
    if arguments.output:
        replace_file(arguments.output, msgspec.json.Encoder().encode_lines(reports))
    return 0 if sound == len(reports) else 1


def _report_table(reports: Sequence[ProblemReport]) -> Table:
    """The reports, the sound ones of many excepted."""
    many = len(reports) > _MANY
    table = Table(
        "id",
        "right accepted",
        "calibrated",
        "wrong refused",
        "slowest",
        "limit",
        "bad tests",
        "disputed tests",
        box=None,
    )
    for report in reports:
        if not many or not report.sound:
            table.add_row(
                report.problem_id,
                f"{report.right_accepted} of {report.num_right}",
                f"{report.right_accepted_after} of {report.num_right}",
                f"{report.wrong_refused} of {report.num_wrong}",
                f"{report.slowest_cpu_s:.2f} s",
                f"× {report.time_factor:g}",
                _some(report.bad_tests),
                _some(report.disputed_tests) + (" (several answers)" if report.has_several_answers else ""),
                style="" if report.sound else "red",
            )
    return table


def _dedup(arguments: argparse.Namespace) -> int:
    problems = load_problems(arguments.specs, arguments.seed)
    against = load_problems(arguments.against, arguments.seed)
    duplicates = find_duplicates(problems, against, arguments.statements, arguments.tests)
    table = Table("left out", "duplicates", "by", "share", box=None)
    for duplicate in duplicates:
        table.add_row(duplicate.problem_id, duplicate.duplicate_of, duplicate.reason, f"{duplicate.score:.0%}")
    left_out = {duplicate.problem_id for duplicate in duplicates}
    kept = [problem for problem in problems if problem.id not in left_out]
    replace_file(arguments.output, msgspec.json.Encoder().encode_lines(kept))
    console = _print_table(table)
    reasons = Counter(duplicate.reason for duplicate in duplicates)
    found = ", ".join(f"{count} by {reason}" for reason, count in reasons.most_common()) or "none"
    console.print(f"\n{len(kept)} of {len(problems)} problems kept in {arguments.output}; duplicates: {found}")
    return 0


def _print_table(table: Table) -> Console:
    """Print a table and return the console; where nobody watches, lines are as long as they need to be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNWATCHED_WIDTH)
    console.print(table)
    return console


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown}, … ({len(names)})" if len(names) > 3 else shown


def _measures(infos: Sequence[ProblemInfo]) -> tuple[str, ...]:
    counts = [info.num_tests for info in infos]
    size = sum(info.test_characters for info in infos)
    length = statistics.median(info.statement_characters for info in infos)
    return (
        str(len(infos)),
        str(sum(counts)),
        f"{min(counts)}-{max(counts)}, median {statistics.median(counts):g}",
        f"{size / 1000:,.0f} kB",
        f"{length:,.0f} characters",
    )


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text.rstrip("\n")
    return f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
