"""The report of a run, made from its journals alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from run_peers import make_run

from spo.cli import main
from spo.jsonl import Journal
from spo.plots import draw_plots
from spo.report import build_report, write_report

PNG = b"\x89PNG\r\n\x1a\n"


def evaluation(name: str, step: int, one: float, ten: float) -> dict:
    return {
        "step": step,
        "round": name,
        "pass_at_1": one,
        "pass_at_1_interval": [one - 0.05, one + 0.05],
        "pass_at_10": ten,
        "pass_at_10_interval": [ten - 0.1, min(ten + 0.1, 1.0)],
        "num_problems": 3,
        "num_samples": 30,
        "mean_reward": one - 1,
        "distinct_accepted_programs": 9,
        "min_policy_version": step,
        "max_policy_version": step,
    }


def step_line(step: int, wall_s: float) -> dict:
    return {
        "step": step,
        "phase": "training",
        "loss/objective": 3 * math.exp(-step / 30) + 0.3 * math.sin(step),
        "loss/q_terminal_success": -0.4 * math.exp(-step / 40),
        "loss/q_terminal_failure": -0.5 - 0.4 * (1 - math.exp(-step / 40)),
        "reward/online_mean": -0.8 + step / 200,
        "reward/batch_online": -0.82 + step / 200,
        "staleness/mean": step % 10 + 1.5,
        "staleness/max": step % 10 + 3.0,
        "replay/batch_tokens": 1000.0,
        "time/between_steps_s": 0.5,
        "time/wall_s": wall_s,
        "total/tokens_sampled": 200.0 * step,
        "total/trajectories_online": 8.0 * step,
        "total/programs_judged": 7.0 * step,
    }


def write_journals(run_dir: Path, num_steps: int, resumed_at: int | None = None) -> None:
    metrics, evaluations = Journal(run_dir / "metrics.jsonl"), Journal(run_dir / "evaluations.jsonl")
    evaluations.append(evaluation("reference", 0, 0.2, 0.7))
    for step in range(1, num_steps + 1):
        metrics.append(step_line(step, 10.0 + step))
        if step % 40 == 0 and step < num_steps:
            evaluations.append(evaluation(f"step-{step}", step, 0.2 + step / 200, 0.75))
    if resumed_at is not None:
        metrics.mark_resumed(resumed_at)
        evaluations.mark_resumed(resumed_at)
        metrics.append(step_line(resumed_at + 1, 200.0))
    evaluations.append(evaluation("final", num_steps, 0.8, 0.9))
    metrics.close()
    evaluations.close()


def test_the_report_holds_both_evaluations_with_intervals_and_what_the_run_took(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    write_journals(run_dir, 100)
    report = build_report(run_dir, finished=True)
    assert report["reference"]["pass_at_1"] == 0.2
    assert report["final"]["pass_at_10_interval"] == [0.8, 1.0]
    assert report["wall_time_s"] == 110.0
    assert report["tokens"] == {"sampled": 20_000, "trained": 100_000}
    assert report["rates"]["steps_per_s"] == 2.0
    assert report["trajectories"]["online"] == 800
    assert [line["round"] for line in report["evaluations"]] == ["reference", "step-40", "step-80", "final"]


def test_what_a_resume_undid_is_not_counted_as_trained_but_as_sampled(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    write_journals(run_dir, 60, resumed_at=30)
    report = build_report(run_dir, finished=False)
    assert report["steps"] == 31
    assert report["tokens"]["trained"] == 31_000
    assert "step-40" not in [line["round"] for line in report["evaluations"]]


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path)
    assert main(["report", str(run_dir)]) == 0
    assert "(not finished)" in capsys.readouterr().out
    report = json.loads((run_dir / "report.json").read_text())
    assert (report["finished"], report["reference"], report["final"], report["steps"]) == (False, {}, {}, 0)


def test_the_report_for_people_shows_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path)
    write_journals(run_dir, 100)
    write_report(run_dir, finished=True)
    text = (run_dir / "report.md").read_text()
    assert "| pass@1 | 0.200 [0.150, 0.250] | 0.800 [0.750, 0.850] | 4.00× |" in text
    assert "![loss](plots/loss.png)" in text
    assert main(["report", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True


def test_plots_are_pictures_of_all_curves(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    write_journals(run_dir, 100)
    names = draw_plots(run_dir, run_dir / "plots")
    assert names == ["pass_at_k", "loss", "q_terminal", "reward", "staleness"]
    for name in names:
        content = (run_dir / "plots" / f"{name}.png").read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 10_000


def test_a_directory_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "config.toml" in capsys.readouterr().err
