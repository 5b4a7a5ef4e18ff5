"""The report of a run: `report.json` for programs, `report.md` for people, plots where matplotlib is installed.

Made from the run directory alone (settings, `run.json`, the journals), so it can be made again at any time, also of a
run that is still going on or has failed. Pictures are drawn by `spo.plots`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from spo.config import Config, read_resolved
from spo.files import replace_file
from spo.jsonl import read_lineage, read_lines
from spo.models import weights_fingerprint
from spo.rundir import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    POLICY_DIR,
    PROBLEMS_FILE,
    REPORT_DATA_FILE,
    REPORT_FILE,
    RunInfo,
    finished_report,
    read_model,
    read_run,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

REFERENCE_ROUND = "reference"
FINAL_ROUND = "final"
PLOTS_DIR = "plots"
LOSS = "loss/objective"
_HEAD_FIELDS = ("step", "round")


def register(subparsers: Subparsers) -> None:
    """Adds the `report` command."""
    parser = subparsers.add_parser("report", help="show a run's report", description="Makes a run's report anew.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--json", action="store_true", help="print report.json instead of report.md")
    parser.set_defaults(run=_run_command)


def _run_command(options: argparse.Namespace) -> int:
    write_report(options.run_dir.expanduser().absolute())
    name = REPORT_DATA_FILE if options.json else REPORT_FILE
    print((options.run_dir.expanduser() / name).read_text(encoding="utf-8"), end="")
    return 0


def write_report(run_dir: Path, finished: bool = False) -> dict[str, Any]:
    """Writes all files of the report.

    Args:
        run_dir: The run's directory.
        finished: Whether the run is known to be finished; it stays so once it was.

    Returns:
        What `report.json` holds.

    Raises:
        ConfigError: This is no run directory.
    """
    from spo.plots import draw_plots

    report = build_report(run_dir, finished or finished_report(run_dir) is not None)
    plots = draw_plots(run_dir, run_dir / PLOTS_DIR)
    content = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    replace_file(run_dir / REPORT_FILE, to_markdown(report, plots).encode())
    replace_file(run_dir / REPORT_DATA_FILE, content)
    return report


def build_report(run_dir: Path, finished: bool) -> dict[str, Any]:
    """What `report.json` holds; the keys are described in `docs/metrics.md`."""
    config, info = read_resolved(run_dir), read_run(run_dir)
    evaluations = read_lineage(run_dir / EVALUATIONS_FILE)
    metrics = read_lineage(run_dir / METRICS_FILE)
    rounds = {line["round"]: line for line in evaluations}
    steps = max((line["step"] for line in metrics), default=0)
    totals = _totals(run_dir)
    wall_time_s = max((line.get("time/wall_s", 0.0) for line in read_lines(run_dir / METRICS_FILE)), default=0.0)
    return {
        "finished": finished,
        "reference": _round(rounds.get(REFERENCE_ROUND)),
        "final": _round(rounds.get(FINAL_ROUND)),
        "wall_time_s": round(wall_time_s, 3),
        "steps": steps,
        "tokens": {"sampled": totals.get("tokens_sampled", 0), "trained": _trained_tokens(metrics)},
        "trajectories": {
            source: totals.get(f"trajectories_{source}", 0) for source in ("reference", "evaluation", "online")
        },
        "problems": _problems(run_dir),
        "curriculum": _curriculum(metrics),
        "programs_judged": totals.get("programs_judged", 0),
        "responses_excluded": totals.get("excluded", 0),
        "judge_cpu_s": round(totals.get("judge_cpu_s", 0.0), 3),
        "rates": _rates(metrics, totals, wall_time_s),
        "staleness": _staleness(metrics),
        "restarts": {
            "run": info.num_sessions - 1,
            "workers": totals.get("worker_deaths", 0),
            "work_redispatched": totals.get("work_redispatched", 0),
        },
        "evaluations": evaluations,
        "run": _run(run_dir, config, info),
        **({"replay": _replay(run_dir, Path(config.experience.replay), metrics)} if config.experience.replay else {}),
    }


def to_markdown(report: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """The report for people."""
    run = report["run"]
    state = "" if report["finished"] else " (not finished)"
    parts = [
        f"# Run {run['name']}{state}",
        f"{run['model']}, {report['steps']} of {run['total_steps']} steps, seed {run['seed']}, "
        f"started {run['started_at']}, commit {run['commit']}.",
        "## Held-out evaluation",
        _evaluation_table(report),
        "## What it took",
        markdown_table(["", ""], _effort_rows(report)),
    ]
    if "replay" in report:
        parts += ["## Replay", _replay_text(report["replay"])]
    if len(report["evaluations"]) > 2:
        parts += ["## All evaluations", _all_evaluations(report["evaluations"])]
    if plots:
        parts += ["## Plots", *(f"![{name}]({PLOTS_DIR}/{name}.png)" for name in plots)]
    return "\n\n".join(parts) + "\n"


def _problems(run_dir: Path) -> dict[str, Any]:
    """Which problems the run has; empty while they have not been looked at."""
    try:
        content: dict[str, Any] = msgspec.json.decode((run_dir / PROBLEMS_FILE).read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    return content


def _curriculum(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the curriculum made of the problems in the end; empty where all have the same share."""
    lines = [line for line in metrics if "curriculum/effective_problems" in line]
    prefix = "curriculum/"
    return (
        {name.removeprefix(prefix): lines[-1][name] for name in lines[-1] if name.startswith(prefix)} if lines else {}
    )


def _round(line: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if line is None else {name: value for name, value in line.items() if name not in _HEAD_FIELDS}


def _totals(run_dir: Path) -> dict[str, float]:
    """Totals of all sessions: what was sampled counts, also where a resume undid the steps that it was for."""
    totals: dict[str, float] = {}
    for line in read_lines(run_dir / METRICS_FILE):
        totals |= {name.removeprefix("total/"): value for name, value in line.items() if name.startswith("total/")}
    return {name: int(value) if float(value).is_integer() else value for name, value in totals.items()}


def _trained_tokens(metrics: Sequence[Mapping[str, Any]]) -> int:
    return int(sum(line.get("replay/batch_tokens", 0.0) for line in metrics))


def _rates(metrics: Sequence[Mapping[str, Any]], totals: Mapping[str, float], wall_time_s: float) -> dict[str, float]:
    """Averages over the training phase (steps, tokens trained) and over the whole run (the rest)."""
    step_lines = [line for line in metrics if "replay/batch_tokens" in line]
    training_s = sum(line.get("time/between_steps_s", 0.0) for line in step_lines)
    rates = {
        "steps_per_s": (len(step_lines), training_s),
        "tokens_trained_per_s": (_trained_tokens(metrics), training_s),
        "tokens_sampled_per_s": (totals.get("tokens_sampled", 0.0), wall_time_s),
        "programs_judged_per_s": (totals.get("programs_judged", 0.0), wall_time_s),
    }
    return {name: round(amount / time_s, 4) if time_s > 0 else 0.0 for name, (amount, time_s) in rates.items()}


def _staleness(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    means = [line["staleness/mean"] for line in metrics if "staleness/mean" in line]
    largest = [line["staleness/max"] for line in metrics if "staleness/max" in line]
    return {"mean": round(sum(means) / len(means), 3) if means else 0.0, "max": max(largest, default=0.0)}


def _run(run_dir: Path, config: Config, info: RunInfo) -> dict[str, Any]:
    return {
        "name": run_dir.name,
        "seed": config.seed,
        "total_steps": config.trainer.total_steps,
        "model": config.model.path,
        "reference_fingerprint": read_model(run_dir).reference_fingerprint,
        "started_at": info.started_at,
        "commit": info.commit,
        "versions": info.versions,
    }


def _replay(run_dir: Path, original: Path, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of the promise that a replay comes to the same, bit for bit."""
    theirs = {line["step"]: _losses(line) for line in read_lineage(original / METRICS_FILE) if LOSS in line}
    ours = {line["step"]: _losses(line) for line in metrics if LOSS in line}
    compared = sorted(ours.keys() & theirs.keys())
    policies = [weights_fingerprint(folder / POLICY_DIR) for folder in (run_dir, original)]
    return {
        "of": str(original),
        "steps_compared": len(compared),
        "first_step_with_other_losses": next((step for step in compared if ours[step] != theirs[step]), None),
        # After fewer steps it has to be another one.
        "same_policy": policies[0] == policies[1] if all(policies) and ours.keys() == theirs.keys() else None,
    }


def _losses(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name.startswith("loss/")}


def _replay_text(replay: Mapping[str, Any]) -> str:
    differs, same_policy = replay["first_step_with_other_losses"], replay["same_policy"]
    losses = "are the same, bit for bit" if differs is None else f"are others from step {differs} on"
    weights = {True: "the same, bit for bit", False: "another", None: "not there to be compared"}[same_policy]
    return (
        f"The batches are those of {replay['of']}. Losses of {replay['steps_compared']} steps were compared: they "
        f"{losses}. The final policy is {weights}."
    )


def _evaluation_table(report: Mapping[str, Any]) -> str:
    reference, final = report["reference"], report["final"]
    names = [name for name in (reference or final) if name.startswith("pass_at_") and not name.endswith("_interval")]
    if not names:
        return "None was done."
    rows = []
    for name in names:
        before, after = reference.get(name), final.get(name)
        change = f"{after / before:.2f}×" if before and after is not None else ""
        label = name.replace("pass_at_", "pass@")
        rows.append([label, _with_interval(reference, name), _with_interval(final, name), change])
    one = reference or final
    note = f"\n\n{one['num_problems']} problems, {one['num_samples']} samples; 95% bootstrap intervals over problems."
    return markdown_table(["", "reference", "final", "ratio"], rows) + note


def _all_evaluations(lines: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in lines[0] if name.startswith("pass_at_") and not name.endswith("_interval")]
    head = ["round", "versions", *(name.replace("pass_at_", "pass@") for name in names), "distinct accepted programs"]
    rows = [
        [
            str(line["round"]),
            f"{line['min_policy_version']}-{line['max_policy_version']}",
            *(_with_interval(line, name) for name in names),
            str(line["distinct_accepted_programs"]),
        ]
        for line in lines
    ]
    return markdown_table(head, rows)


def _effort_rows(report: Mapping[str, Any]) -> list[list[str]]:
    trajectories, rates, restarts = report["trajectories"], report["rates"], report["restarts"]
    return [
        ["wall time", f"{report['wall_time_s']:.0f} s"],
        ["tokens sampled", f"{report['tokens']['sampled']:,} ({rates['tokens_sampled_per_s']:.0f}/s over the run)"],
        ["tokens trained", f"{report['tokens']['trained']:,} ({rates['tokens_trained_per_s']:.0f}/s in training)"],
        ["optimiser steps", f"{report['steps']:,} ({rates['steps_per_s']:.2f}/s)"],
        ["trajectories", ", ".join(f"{count:,} {source}" for source, count in trajectories.items())],
        *_problem_rows(report["problems"]),
        *_curriculum_rows(report["curriculum"]),
        ["programs judged", f"{report['programs_judged']:,} ({report['judge_cpu_s']:.0f} s CPU)"],
        ["staleness", f"mean {report['staleness']['mean']:.1f}, at most {report['staleness']['max']:.0f} steps"],
        ["restarts", f"{restarts['run']} of the run, {restarts['workers']} of workers"],
    ]


def _problem_rows(problems: Mapping[str, Any]) -> list[list[str]]:
    if not problems:
        return []
    left_out = {**problems["left_out"], "their prompts are too long": len(problems["too_long"])}
    reasons = "".join(f"; {count:,} left out: {reason}" for reason, count in left_out.items() if count)
    return [["problems", f"{problems['train']:,} to train on, {problems['evaluation']:,} held out{reasons}"]]


def _curriculum_rows(curriculum: Mapping[str, float]) -> list[list[str]]:
    if not curriculum:
        return []
    skipped = {
        name.removeprefix("skipped_"): count for name, count in curriculum.items() if name.startswith("skipped_")
    }
    counts = ", ".join(f"{count:,.0f} {reason.replace('_', ' ')}" for reason, count in skipped.items() if count)
    even = f"in the end as even as {curriculum['effective_problems']:,.1f} problems"
    return [["curriculum", f"{even}; skipped: {counts or 'none'}"]]


def _with_interval(line: Mapping[str, Any], name: str) -> str:
    if name not in line:
        return "-"
    low, high = line[f"{name}_interval"]
    return f"{line[name]:.3f} [{low:.3f}, {high:.3f}]"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
