"""What a study's runs came to: pass@k of every problem at every evaluation, times, memory. Read from the runs alone.

Workers do not wait for an evaluation, so the samples of a round come from its version and some later ones; a round is
placed at the mean version that its samples are of. The problems, and so what is averaged, are a seed's own.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spo.compare import stored_rounds
from spo.config import read_resolved
from spo.errors import ConfigError
from spo.evaluate import EvaluationResult, evaluate, group_by_problem, problem_pass_at_k, sample_of
from spo.jsonl import read_lineage
from spo.report import FINAL_ROUND, REFERENCE_ROUND
from spo.rundir import EVALUATIONS_FILE, METRICS_FILE
from spo.store import Trajectory
from spo.study.definition import Study
from spo.study.runner import runs_of

MEMORY, STEP_TIME, BETWEEN_STEPS = "memory/state_bytes", "time/step_s", "time/between_steps_s"


@dataclass(frozen=True)
class Round:
    """One evaluation of a run."""

    name: str
    version: float
    """Mean policy version that its samples are of."""
    pass_at: Mapping[int, Mapping[str, float]]
    """pass@k of each problem, by k."""
    result: EvaluationResult

    def mean(self, k: int) -> float:
        """pass@k, the mean over the problems."""
        return statistics.fmean(self.pass_at[k].values())


@dataclass(frozen=True)
class RunResult:
    """What one run came to."""

    seed: int
    rounds: tuple[Round, ...]
    """By version, the reference's first."""
    training_s: float
    """From the first to the last optimiser step, waiting included."""
    step_s: float
    """Median over steps of the trainer's forward, backward and update."""
    state_bytes: float
    """What the trainer holds for good: weights, gradients, moments, the reference, a value model."""
    sampled_tokens: float
    """Tokens of online responses."""

    def round(self, name: str) -> Round:
        """The round of that name.

        Raises:
            KeyError: There is none.
        """
        for round in self.rounds:
            if round.name == name:
                return round
        raise KeyError(f"the run has no evaluation round {name!r}")

    def area(self, k: int) -> dict[str, float]:
        """Mean of pass@k over the steps, for each problem: the area under the curve, divided by its length."""
        versions = np.array([round.version for round in self.rounds])
        length = versions[-1] - versions[0]
        return {
            problem_id: float(np.trapezoid([round.pass_at[k][problem_id] for round in self.rounds], versions) / length)
            for problem_id in self.rounds[0].pass_at[k]
        }


def read_results(study: Study, folder: Path) -> dict[str, list[RunResult]]:
    """The finished runs of each arm; arms without any are there too, with none.

    The reference's evaluation is the same for all runs of a seed, so one of them has it.

    Raises:
        ConfigError: None of a seed has it.
    """
    found = {run: read_run_result(run.directory, run.seed) for run in runs_of(study, folder) if run.is_finished}
    references = {
        result.seed: round for result in found.values() for round in result.rounds if round.name == REFERENCE_ROUND
    }
    results: dict[str, list[RunResult]] = {name: [] for name in study.arms}
    for run, result in found.items():
        if run.seed not in references:
            again = f"remove the folders of its runs ({folder}/*/seed-{run.seed}) and start the study again"
            raise ConfigError(f"{folder}: no finished run of seed {run.seed} has evaluated the reference; {again}")
        trained = (round for round in result.rounds if round.name != REFERENCE_ROUND)
        results[run.arm].append(dataclasses.replace(result, rounds=(references[run.seed], *trained)))
    return results


def read_run_result(run_dir: Path, seed: int) -> RunResult:
    """Reads one finished run."""
    config = read_resolved(run_dir)
    names = {line["round"] for line in read_lineage(run_dir / EVALUATIONS_FILE)}
    rounds = [
        _round(name, items, config.evaluation.ks, config.seed)
        for name, items in stored_rounds(run_dir).items()
        if name in names
    ]
    lines = [line for line in read_lineage(run_dir / METRICS_FILE) if STEP_TIME in line]
    return RunResult(
        seed=seed,
        rounds=tuple(sorted(rounds, key=lambda round: (round.version, round.name == FINAL_ROUND))),
        training_s=sum(line.get(BETWEEN_STEPS, 0.0) for line in lines),
        step_s=statistics.median(line[STEP_TIME] for line in lines),
        state_bytes=max(line.get(MEMORY, 0.0) for line in lines),
        sampled_tokens=sum(line.get("rollout/tokens", 0.0) for line in lines),
    )


def _round(name: str, items: list[Trajectory], ks: tuple[int, ...], seed: int) -> Round:
    samples = [sample_of(item) for item in items]
    by_problem = group_by_problem(samples)
    versions = [(item.min_policy_version + item.max_policy_version) / 2 for item in items]
    return Round(
        name=name,
        version=0.0 if name == REFERENCE_ROUND else statistics.fmean(versions),
        pass_at={k: {name: problem_pass_at_k(of_one, k) for name, of_one in by_problem.items()} for k in ks},
        result=evaluate(samples, ks, seed),
    )
