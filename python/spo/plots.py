"""Plots of a run, as PNG files, from its journals; without matplotlib there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spo.jsonl import read_lineage
from spo.rundir import EVALUATIONS_FILE, METRICS_FILE

Lines = Sequence[Mapping[str, Any]]

_SIZE = (6.4, 4.0)
_DPI = 130
_SMOOTHING = 20
"""Steps that the running mean of a noisy curve goes over."""


def draw_plots(run_dir: Path, directory: Path) -> list[str]:
    """Draws what there are data for.

    Returns:
        Names of the plots, which are the files' without `.png`; none without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    steps = [line for line in read_lineage(run_dir / METRICS_FILE) if "loss/objective" in line]
    evaluations = read_lineage(run_dir / EVALUATIONS_FILE)
    drawn = []
    for name, draw in _PLOTS.items():
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        if draw(axes, steps, evaluations):
            axes.set_xlabel("optimiser step")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            directory.mkdir(exist_ok=True)
            figure.savefig(directory / f"{name}.png")
            drawn.append(name)
    return drawn


def _pass_at_k(axes: Any, steps: Lines, evaluations: Lines) -> bool:
    names = [
        name
        for name in (evaluations[0] if evaluations else ())
        if name.startswith("pass_at_") and "interval" not in name
    ]
    for name in names:
        lines = sorted((line for line in evaluations if name in line), key=lambda line: line["step"])
        x, y = [line["step"] for line in lines], [line[name] for line in lines]
        below = [line[name] - line[f"{name}_interval"][0] for line in lines]
        above = [line[f"{name}_interval"][1] - line[name] for line in lines]
        axes.errorbar(x, y, yerr=[below, above], marker="o", capsize=3, label=name.replace("pass_at_", "pass@"))
    axes.set(title="Held-out evaluation, 95% intervals", ylabel="pass@k", ylim=(0, 1.02))
    if names:
        axes.legend()
    return bool(names)


def _curves(
    title: str, label: str, curves: Mapping[str, str], smooth: bool = True
) -> Callable[[Any, Lines, Lines], bool]:
    """A plot of some metrics over the steps, by metric and legend; the raw values lie faintly behind a running mean."""

    def draw(axes: Any, steps: Lines, evaluations: Lines) -> bool:
        any_drawn = False
        for index, (name, legend) in enumerate(curves.items()):
            points = [(line["step"], line[name]) for line in steps if line.get(name) is not None]
            if not points:
                continue
            x, y = [point[0] for point in points], [point[1] for point in points]
            color = f"C{index}"
            if smooth and len(y) > _SMOOTHING:
                axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
                y = _running_mean(y)
            axes.plot(x, y, color=color, label=legend)
            any_drawn = True
        axes.set(title=title, ylabel=label)
        if any_drawn and len(curves) > 1:
            axes.legend()
        return any_drawn

    return draw


def _running_mean(values: Sequence[float]) -> list[float]:
    """Means over the last `_SMOOTHING` values."""
    means = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - _SMOOTHING) : end]
        means.append(sum(window) / len(window))
    return means


_PLOTS: dict[str, Callable[[Any, Lines, Lines], bool]] = {
    "pass_at_k": _pass_at_k,
    "loss": _curves("Objective", "loss", {"loss/objective": "loss"}),
    "q_terminal": _curves(
        "Predicted terminal value by reward class",
        "Q_T",
        {"loss/q_terminal_success": "accepted (target 0)", "loss/q_terminal_failure": "failed (target −1)"},
    ),
    "reward": _curves(
        "Mean reward",
        "reward",
        {"reward/online_mean": "as sampled", "reward/batch_online": "online part of the batch"},
    ),
    "staleness": _curves(
        "Staleness of the online part of the batch",
        "optimiser steps",
        {"staleness/mean": "mean", "staleness/max": "maximum"},
        smooth=False,
    ),
}
