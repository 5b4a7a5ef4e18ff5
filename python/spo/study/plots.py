"""A study's plots: pass@k of a figure's arms over the steps, mean and range of the seeds; none without matplotlib."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spo.study.definition import Study
from spo.study.results import RunResult

_WIDTH, _HEIGHT, _DPI = 5.2, 3.9, 130


def draw_figures(study: Study, results: Mapping[str, Sequence[RunResult]], directory: Path) -> list[str]:
    """Draws the figures that there are runs for, a panel for each k.

    Returns:
        Their names, which are the files' without `.png`.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return []
    drawn = []
    for figure in study.figures:
        runs = {study.arms[name].label: results[name] for name in figure.arms if results[name]}
        if not runs:
            continue
        ks = sorted({k for of_arm in runs.values() for run in of_arm for k in run.rounds[0].pass_at})
        canvas = Canvas(figsize=(_WIDTH * len(ks), _HEIGHT), dpi=_DPI, layout="constrained")
        panels = canvas.subplots(1, len(ks), squeeze=False)[0]
        for k, axes in zip(ks, panels, strict=True):
            for color, (label, of_arm) in enumerate(runs.items()):
                _draw_arm(axes, label, of_arm, k, f"C{color}")
            axes.set(title=f"pass@{k}", xlabel="optimiser step of the policy", ylim=(0, 1.02))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].legend(fontsize="small")
        canvas.suptitle(figure.title)
        directory.mkdir(parents=True, exist_ok=True)
        canvas.savefig(directory / f"{figure.name}.png")
        drawn.append(figure.name)
    return drawn


def _draw_arm(axes: Any, label: str, runs: Sequence[RunResult], k: int, color: str) -> None:
    """The mean of the seeds, round by round, over a band from the lowest to the highest of them."""
    points: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        for round in run.rounds:
            points[round.name].append((round.version, round.mean(k)))
    curve = sorted(
        (statistics.fmean(x for x, _ in of_one), [y for _, y in of_one])
        for of_one in points.values()
        if len(of_one) == len(runs)
    )
    x = [version for version, _ in curve]
    axes.plot(x, [statistics.fmean(values) for _, values in curve], marker="o", markersize=3, color=color, label=label)
    if len(runs) > 1:
        low, high = [min(values) for _, values in curve], [max(values) for _, values in curve]
        axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
