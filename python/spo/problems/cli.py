"""`spo problems list | show | stats`: problems as people want to see them, in the terminal.

Only prints what other modules find out. `verify` and `dedup` are in `checks_cli.py`.
"""

import argparse
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from spo.problems.checks_cli import register_checks
from spo.problems.collection import suite_hash
from spo.problems.history import history_table
from spo.problems.info import ProblemInfo
from spo.problems.judging import choose_problem
from spo.problems.schema import HIDDEN, PUBLIC
from spo.problems.specs import load_problems
from spo.problems.tables import print_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

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
    show.add_argument("--store", type=Path, help="a trajectory store or a run: what became of responses to the problem")
    add("stats", _stats, "counts and sizes by data set and difficulty")
    register_checks(add)


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
    print_table(table)
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
    if arguments.store:
        console.rule(f"responses in {arguments.store}", align="left")
        print_table(history_table(arguments.store, problem.id))
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
    console = print_table(table)
    splits: Counter[str] = Counter()
    for info in problems.infos:
        splits.update(info.splits)
    console.print("\ntests by split: " + ", ".join(f"{split} {count}" for split, count in splits.most_common()))
    without_public = sum(PUBLIC not in info.splits for info in problems.infos)
    without_hidden = sum(HIDDEN not in info.splits for info in problems.infos)
    console.print(f"problems without public tests: {without_public}, without hidden tests: {without_hidden}")
    console.print(f"suite hash: {suite_hash(problems)}")
    return 0


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
