"""`spo compare`: two runs' evaluations against each other, problem by problem.

Both must have sampled the same held-out problems. Differences are taken within each problem, so that how hard the
problems are cancels out; the interval is a bootstrap over problems, within their sets. Samples come from the runs'
stores, nothing is sampled here.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from spo.config import read_resolved
from spo.errors import ConfigError
from spo.evaluate import EvaluationSample, group_by_problem, interval_of_means, problem_pass_at_k, sample_of
from spo.report import FINAL_ROUND
from spo.rundir import read_model
from spo.store import Trajectory, TrajectoryStore

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


class Comparison(msgspec.Struct, frozen=True):
    """pass@k of two policies on the problems that both were evaluated on.

    Attributes:
        k: Number of tries.
        first: pass@k of the first policy; where there are several sets, the mean over them.
        second: The same of the second.
        difference: `second` less `first`.
        low: Lower end of the difference's 95% bootstrap interval over problems.
        high: Upper end.
        num_problems: Problems with at least k samples of both.
        num_better: Of these, how many the second solves more often.
        num_worse: How many it solves less often.
    """

    k: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    num_problems: int
    num_better: int
    num_worse: int


def compare(
    first: Iterable[EvaluationSample], second: Iterable[EvaluationSample], ks: Sequence[int] = (1, 10), seed: int = 0
) -> list[Comparison]:
    """Compares the samples of two policies, paired by problem.

    Args:
        first: Judged samples of one policy.
        second: Those of the other.
        ks: The k of each pass@k.
        seed: Of the bootstrap.

    Raises:
        ValueError: No problem has as many samples of both as some k.
    """
    of_first, of_second = group_by_problem(first), group_by_problem(second)
    pairs = [(samples, of_second[problem_id]) for problem_id, samples in of_first.items() if problem_id in of_second]
    if not pairs:
        raise ValueError("the two have no problem in common")
    return [_compare(pairs, k, seed) for k in sorted(set(ks))]


def _compare(
    problems: Sequence[tuple[list[EvaluationSample], list[EvaluationSample]]], k: int, seed: int
) -> Comparison:
    pairs_of: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for first, second in problems:
        if min(len(first), len(second)) >= k:
            pairs_of[first[0].problem_set].append((problem_pass_at_k(first, k), problem_pass_at_k(second, k)))
    if not pairs_of:
        raise ValueError(f"pass@{k}: no problem has {k} samples of both; lower k")
    differences = [[b - a for a, b in pairs] for pairs in pairs_of.values()]
    of_first, of_second = (
        math.fsum(math.fsum(pair[side] for pair in pairs) / len(pairs) for pairs in pairs_of.values()) / len(pairs_of)
        for side in (0, 1)
    )
    low, high = interval_of_means(differences, seed)
    every = [difference for of_set in differences for difference in of_set]
    return Comparison(
        k=k,
        first=of_first,
        second=of_second,
        difference=of_second - of_first,
        low=low,
        high=high,
        num_problems=len(every),
        num_better=sum(difference > 0 for difference in every),
        num_worse=sum(difference < 0 for difference in every),
    )


def stored_rounds(run_dir: Path) -> dict[str, list[Trajectory]]:
    """The judged responses of a run's evaluation rounds, by name of the round.

    Raises:
        ConfigError: This is no run directory.
    """
    model = read_model(run_dir)
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=model.tokenizer_fingerprint) as store:
        found = store.read_many(store.scan(source="evaluation"))
    rounds: defaultdict[str, list[Trajectory]] = defaultdict(list)
    for item in found:
        rounds[item.metadata.get("round", "")].append(item)
    return dict(rounds)


def stored_samples(run_dir: Path, round_name: str) -> list[EvaluationSample]:
    """The judged samples of one evaluation round of a run.

    Raises:
        ConfigError: This is no run directory, or the run has no such round.
    """
    rounds = stored_rounds(run_dir)
    if round_name not in rounds:
        there = ", ".join(sorted(rounds)) or "none"
        raise ConfigError(f"{run_dir}: no evaluation round {round_name!r}; there are {there}")
    return [sample_of(item) for item in rounds[round_name]]


def register(subparsers: Subparsers) -> None:
    """Adds the `compare` command."""
    parser = subparsers.add_parser(
        "compare",
        help="compare the evaluations of two runs",
        description="Compares two runs on the problems that both were evaluated on, problem by problem.",
    )
    parser.add_argument("first", type=Path, metavar="RUN_A")
    parser.add_argument("second", type=Path, metavar="RUN_B")
    parser.add_argument("--round", default=FINAL_ROUND, help=f"reference, step-N or final (default: {FINAL_ROUND})")
    parser.add_argument("--k", type=int, nargs="+", help="the k of pass@k (default: those of RUN_A's settings)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_command)


def _run_command(options: argparse.Namespace) -> int:
    run_dirs = [path.expanduser().absolute() for path in (options.first, options.second)]
    for run_dir in run_dirs:
        if not (run_dir / "config.toml").is_file():
            raise ConfigError(f"{run_dir}: no run directory, it has no config.toml")
    first, second = (stored_samples(run_dir, options.round) for run_dir in run_dirs)
    ks = options.k or read_resolved(run_dirs[0]).evaluation.ks
    try:
        comparisons = compare(first, second, ks)
    except ValueError as error:
        raise ConfigError(f"{options.first}, {options.second}: {error}") from None
    if options.json:
        print(msgspec.json.encode(comparisons).decode())
    else:
        print(_table(comparisons, [str(options.first), str(options.second)]))
    return 0


def _table(comparisons: Sequence[Comparison], names: Sequence[str]) -> str:
    lines = [f"A: {names[0]}, B: {names[1]}; B − A with its 95% interval, over problems, paired"]
    for entry in comparisons:
        lines.append(
            f"pass@{entry.k:<3} A {entry.first:.3f}  B {entry.second:.3f}  "
            f"difference {entry.difference:+.3f} [{entry.low:+.3f}, {entry.high:+.3f}]  "
            f"B better on {entry.num_better}, worse on {entry.num_worse} of {entry.num_problems} problems"
        )
    return "\n".join(lines)
