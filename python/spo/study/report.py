"""The report of a study: `report.md` for people, `report.json` for programs, a plot a figure.

Made from the finished runs alone, so it can be made at any time, of a part of the study too; what is missing is said.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from spo.files import replace_file
from spo.report import FINAL_ROUND, PLOTS_DIR, REFERENCE_ROUND, markdown_table
from spo.rundir import REPORT_DATA_FILE, REPORT_FILE
from spo.study.claims import Judged, interval_over_seeds, judge_claim
from spo.study.definition import Figure, Study
from spo.study.plots import draw_figures
from spo.study.results import RunResult, read_results

_OUTCOMES = {
    "reproduced": "**reproduced**",
    "opposite": "**not reproduced: the opposite**",
    "undecided": "undecided",
    "not measured": "not measured",
}


def write_study_report(study: Study, folder: Path, failures: Sequence[str] = ()) -> str:
    """Writes all files of the report, and returns the text for people."""
    results = read_results(study, folder)
    judged = [judge_claim(claim, results) for claim in study.claims]
    plots = draw_figures(study, results, folder / PLOTS_DIR)
    text = _markdown(study, results, judged, plots, failures)
    data = {
        "seeds": list(study.seeds),
        "claims": [_as_data(entry) for entry in judged],
        "arms": {name: [_run_data(run) for run in runs] for name, runs in results.items()},
        "failures": list(failures),
    }
    replace_file(folder / REPORT_FILE, text.encode())
    replace_file(folder / REPORT_DATA_FILE, msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n")
    return text


def _markdown(
    study: Study,
    results: Mapping[str, Sequence[RunResult]],
    judged: Sequence[Judged],
    plots: Sequence[str],
    failures: Sequence[str],
) -> str:
    done = sum(map(len, results.values()))
    wanted = len(study.arms) * len(study.seeds)
    parts = [
        "# The paper's experiments, in miniature",
        f"Preset `{study.base}`; seeds {', '.join(map(str, study.seeds))}: each makes its own reference, problems and "
        f"held-out problems, which all arms share. {done} of {wanted} runs are done. Everywhere: the mean over seeds, "
        "and its 95% interval by a bootstrap over seeds and, within each, over problems"
        f"{'; with one seed, over problems only' if len(study.seeds) == 1 else ''}.",
        "## What the paper found, and what these runs show",
        markdown_table(
            ["the paper's finding", "here", "what was measured", "value [95% interval]", "by seed"],
            [_claim_row(entry) for entry in judged],
        ),
        "For ratios of time or memory the brackets hold the least and the greatest of the seeds'. Undecided: these "
        "runs show neither the finding nor its opposite.",
    ]
    for figure in study.figures:
        parts += [f"## {figure.title}", _figure_table(study, figure, results)]
        if figure.name in plots:
            parts.append(f"![{figure.title}]({PLOTS_DIR}/{figure.name}.png)")
    if failures:
        parts += ["## Runs that failed", "\n".join(f"- {failure}" for failure in failures)]
    return "\n\n".join(parts) + "\n"


def _claim_row(entry: Judged) -> list[str]:
    claim = entry.claim
    text = claim.text + (f" (paper: {claim.paper})" if claim.paper else "")
    if entry.outcome == "not measured":
        return [text, _OUTCOMES[entry.outcome], "", "", ""]
    if claim.kind in ("faster", "smaller"):
        value = f"{entry.value:.2f}× [{entry.low:.2f}, {entry.high:.2f}]"
        of_seeds = ", ".join(f"{ratio:.2f}×" for ratio in entry.of_seeds.values())
    else:
        value = f"{entry.value:+.3f} [{entry.low:+.3f}, {entry.high:+.3f}]"
        of_seeds = ", ".join(f"{difference:+.3f}" for difference in entry.of_seeds.values())
    return [text, _OUTCOMES[entry.outcome], entry.quantity, value, of_seeds]


def _figure_table(study: Study, figure: Figure, results: Mapping[str, Sequence[RunResult]]) -> str:
    ks = sorted({k for name in figure.arms for run in results[name] for k in run.rounds[0].pass_at})
    head = ["", "runs"]
    for k in ks:
        head += [f"pass@{k} before", f"pass@{k} after", f"mean pass@{k} over the steps"]
    head += ["distinct accepted programs", "entropy of a response", "sampled tokens", "training", "a step", "state"]
    return markdown_table(head, [_arm_row(study.arms[name].label, results[name], ks) for name in figure.arms])


def _arm_row(label: str, runs: Sequence[RunResult], ks: Sequence[int]) -> list[str]:
    if not runs:
        return [label, "0", *["-"] * (3 * len(ks) + 6)]
    row = [label, str(len(runs))]
    for k in ks:
        for name in (REFERENCE_ROUND, FINAL_ROUND):
            row.append(_mean([list(run.round(name).pass_at[k].values()) for run in runs]))
        row.append(_mean([list(run.area(k).values()) for run in runs]))
    last = [run.round(FINAL_ROUND).result for run in runs]
    entropies = [result.response_entropy for result in last if result.response_entropy is not None]
    return [
        *row,
        f"{statistics.fmean(result.distinct_accepted_programs for result in last):.0f}",
        f"{statistics.fmean(entropies):.2f} nats" if entropies else "-",
        f"{statistics.fmean(run.sampled_tokens for run in runs) / 1e3:.1f} k",
        f"{statistics.fmean(run.training_s for run in runs):.0f} s",
        f"{statistics.median(run.step_s for run in runs) * 1000:.0f} ms",
        f"{statistics.fmean(run.state_bytes for run in runs) / 1e6:.1f} MB",
    ]


def _mean(values: Sequence[Sequence[float]]) -> str:
    low, high = interval_over_seeds(values)
    mean = statistics.fmean(float(np.mean(of_one)) for of_one in values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _as_data(entry: Judged) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "claim": msgspec.to_builtins(entry.claim),
        "outcome": entry.outcome,
        "quantity": entry.quantity,
        "value": number(entry.value),
        "interval": [number(entry.low), number(entry.high)],
        "of_seeds": {str(seed): number(value) for seed, value in entry.of_seeds.items()},
    }


def _run_data(run: RunResult) -> dict[str, Any]:
    rounds = [{"round": round.name, "version": round.version, **round.result.as_report()} for round in run.rounds]
    return {
        "seed": run.seed,
        "training_s": run.training_s,
        "step_s": run.step_s,
        "state_bytes": run.state_bytes,
        "sampled_tokens": run.sampled_tokens,
        "rounds": rounds,
    }
