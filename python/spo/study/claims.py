"""Judging claims: does what the paper found show in these runs?

Differences are taken within each seed and problem, which are the same for all arms; their interval is a bootstrap over
seeds and, within each, over problems. A claim whose interval holds 0 is undecided: that is no evidence against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from spo.evaluate import NUM_RESAMPLES, resampled_means
from spo.report import FINAL_ROUND, REFERENCE_ROUND
from spo.study.definition import Claim
from spo.study.results import RunResult

Outcome = Literal["reproduced", "opposite", "undecided", "not measured"]
Results = Mapping[str, Sequence[RunResult]]


class Judged(msgspec.Struct, frozen=True):
    """A claim, and what these runs say of it.

    Attributes:
        claim: The claim.
        outcome: `reproduced`; `opposite`: the runs show that it does not hold here; `undecided`: they show neither.
        quantity: What was measured, in words.
        value: It: a difference of pass@k, or a ratio.
        low: Lower end of its 95% interval; for ratios the smallest of the seeds'.
        high: Upper end; for ratios the largest.
        of_seeds: It, by seed.
    """

    claim: Claim
    outcome: Outcome
    quantity: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    of_seeds: dict[int, float] = {}


def judge_claim(claim: Claim, results: Results) -> Judged:
    """Judges a claim by the seeds that both of its arms have finished."""
    ours = {run.seed: run for run in results[claim.arm]}
    others = {run.seed: run for run in results[claim.than]} if claim.than else ours
    seeds = sorted(ours.keys() & others.keys())
    if not seeds:
        return Judged(claim, "not measured")
    pairs = [(ours[seed], others[seed]) for seed in seeds]
    if claim.kind in ("faster", "smaller"):
        return _judge_ratio(claim, seeds, pairs)
    differences = [_differences(claim, ours, others) for ours, others in pairs]
    of_seeds = {seed: float(np.mean(values)) for seed, values in zip(seeds, differences, strict=True)}
    low, high = interval_over_seeds(differences)
    mean = float(np.mean(list(of_seeds.values())))
    return Judged(claim, _outcome(claim, low, high), _quantity(claim), mean, low, high, of_seeds)


def interval_over_seeds(values: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean over seeds of their means over problems, both resampled with replacement.

    Args:
        values: For each seed, one value a problem.
        seed: Of the resampling.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    means = np.empty(drawn.shape)
    for index, of_one in enumerate(values):
        is_drawn = drawn == index
        means[is_drawn] = resampled_means(np.asarray(of_one, dtype=np.float64), int(is_drawn.sum()), generator)
    low, high = np.quantile(means.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _differences(claim: Claim, ours: RunResult, others: RunResult) -> list[float]:
    """Of each problem: what is claimed to be larger, less what is claimed to be smaller; for `alike` in any order."""
    if claim.kind in ("rises", "falls"):
        before, after = (ours.round(name).pass_at[claim.k] for name in (REFERENCE_ROUND, FINAL_ROUND))
    elif claim.over == "curve":
        before, after = others.area(claim.k), ours.area(claim.k)
    else:
        before, after = (run.round(FINAL_ROUND).pass_at[claim.k] for run in (others, ours))
    return [after[problem_id] - before[problem_id] for problem_id in sorted(after)]


def _outcome(claim: Claim, low: float, high: float) -> Outcome:
    if claim.kind == "alike":
        if -claim.margin < low and high < claim.margin:
            return "reproduced"
        return "opposite" if low > claim.margin or high < -claim.margin else "undecided"
    if claim.kind == "falls":
        low, high = -high, -low
    if low > 0:
        return "reproduced"
    return "opposite" if high < 0 else "undecided"


def _quantity(claim: Claim) -> str:
    if claim.kind in ("rises", "falls"):
        return f"pass@{claim.k} after training less that of the reference"
    what = f"mean pass@{claim.k} over the steps" if claim.over == "curve" else f"final pass@{claim.k}"
    return f"difference in {what}"


def _judge_ratio(claim: Claim, seeds: Sequence[int], pairs: Sequence[tuple[RunResult, RunResult]]) -> Judged:
    def amount(run: RunResult) -> float:
        return run.training_s if claim.kind == "faster" else run.state_bytes

    ratios = {
        seed: amount(others) / amount(ours) if amount(ours) else math.nan
        for seed, (ours, others) in zip(seeds, pairs, strict=True)
    }
    low, high = min(ratios.values()), max(ratios.values())
    outcome: Outcome = "reproduced" if low > 1 else "opposite" if high < 1 else "undecided"
    quantity = "ratio of the times of training" if claim.kind == "faster" else "ratio of what the trainer holds"
    mean = math.exp(math.fsum(math.log(ratio) for ratio in ratios.values()) / len(ratios)) if low > 0 else math.nan
    return Judged(claim, outcome, quantity, mean, low, high, ratios)
