"""`spo problems verify | dedup`: what is wrong with problems, and which are to be left out of training.

Prints and writes what `verify.py`, `manifest.py` and `dedup.py` find out, and changes no problem.
"""

import argparse
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from spo.files import replace_file, replacing
from spo.judge import Judge
from spo.problems.dedup import STATEMENT_THRESHOLD, TESTS_THRESHOLD, WORDS_THRESHOLD, Duplicate, DuplicateFinder
from spo.problems.manifest import read_manifest, verify_into
from spo.problems.specs import load_problems
from spo.problems.tables import print_table
from spo.problems.verify import USUAL, ProblemReport, VerifySettings, verify

_MANY = 100
"""Of more problems than these, only those that are not sound are listed."""

Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def register_checks(add: Add) -> None:
    """Add both commands; `add` makes one, given its name, what it runs and what it is for."""
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
    dedup.add_argument("--report", type=Path, help="write the pairs to this file, for problems.without")
    dedup.add_argument("--output", type=Path, help="write the problems that are left to this file, for jsonl:FILE")
    dedup.add_argument(
        "--statements",
        type=_share,
        default=STATEMENT_THRESHOLD,
        help="share of a near statement (default: %(default)s)",
    )
    dedup.add_argument(
        "--words",
        type=_share,
        default=WORDS_THRESHOLD,
        help="share of a reworded statement's words in the same order (default: %(default)s)",
    )
    dedup.add_argument(
        "--tests", type=_share, default=TESTS_THRESHOLD, help="share of equal test inputs (default: %(default)s)"
    )


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
    console = print_table(_report_table(reports))
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
    console = Console(stderr=True)
    finder = DuplicateFinder(
        track(against, "reading what to keep out", len(against), console=console, transient=True),
        arguments.statements,
        arguments.tests,
        arguments.words,
    )
    duplicates: list[Duplicate] = []
    encoder = msgspec.json.Encoder()
    with replacing(arguments.output) if arguments.output else contextlib.nullcontext() as file:
        for problem in track(problems, "comparing", len(problems), console=console, transient=True):
            duplicate = finder.find(problem)
            if duplicate is not None:
                duplicates.append(duplicate)
            elif file is not None:
                file.write(encoder.encode(problem) + b"\n")
    table = Table("left out", "duplicates", "by", "share", box=None)
    for duplicate in duplicates:
        table.add_row(duplicate.problem_id, duplicate.duplicate_of, duplicate.reason, f"{duplicate.score:.0%}")
    if arguments.report:
        replace_file(arguments.report, encoder.encode_lines(duplicates))
    out = print_table(table)
    reasons = Counter(duplicate.reason for duplicate in duplicates)
    found = ", ".join(f"{count} by {reason}" for reason, count in reasons.most_common()) or "none"
    num_kept = len(problems) - len(duplicates)
    where = f" in {arguments.output}" if arguments.output else ""
    out.print(f"\n{num_kept} of {len(problems)} problems kept{where}; duplicates: {found}")
    return 0


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


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown}, … ({len(names)})" if len(names) > 3 else shown
