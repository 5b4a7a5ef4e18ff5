"""The monitor: counts what happens, writes the metrics, and sums both up for the display.

It only listens. Names of the metrics are described in `docs/metrics.md`; totals go on over resumes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trio

from spo.config import Config
from spo.jsonl import read_lines
from spo.metrics import MetricsWriter
from spo.orchestrator.dispatch import Result
from spo.orchestrator.mix import ONLINE
from spo.orchestrator.rank_rows import staleness
from spo.progress import Status
from spo.replay import Batch
from spo.reward import ACCEPTED_REWARD
from spo.rundir import METRICS_FILE, RunInfo
from spo.types import StepDone

LOSS = "loss/objective"
"""The trainer's metric that the display shows."""
_RATE_WINDOW = 64
"""Events that a rate is taken over."""
_TICK_S = 10.0
"""Where there are no steps, a line of metrics is written this often."""
_TOTAL = "total/"


class _Rate:
    """How fast a total grows, over its latest growths."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=_RATE_WINDOW)

    def at(self, total: float) -> None:
        """The total is this now."""
        self._points.append((trio.current_time(), total))

    def per_s(self) -> float:
        """Growth a second; 0 while unknown."""
        if len(self._points) < 2:
            return 0.0
        (first_time, first), (_, last) = self._points[0], self._points[-1]
        return (last - first) / max(trio.current_time() - first_time, 1e-9)


class _Interval:
    """What happened since the last line of metrics."""

    def __init__(self) -> None:
        self.started = trio.current_time()
        self.num_online = self.num_accepted = 0
        self.num_responses = self.num_truncated = self.num_excluded = 0
        self.num_tokens = 0
        self.sampling_s = self.judge_s = self.judge_cpu_s = 0.0

    def age_s(self) -> float:
        """How long ago it began."""
        return trio.current_time() - self.started

    def values(self) -> dict[str, float]:
        """Its metrics; what nothing happened for is left out."""
        values = {"rollout/responses": float(self.num_responses), "rollout/tokens": float(self.num_tokens)}
        judged = self.num_responses - self.num_excluded
        programs = judged - self.num_truncated
        if judged:
            values["rollout/response_tokens_mean"] = self.num_tokens / judged
            values["rollout/truncated_fraction"] = self.num_truncated / judged
            values["time/sampling_s"] = self.sampling_s
        if programs:
            values["judge/programs"] = float(programs)
            values["judge/time_s_mean"] = self.judge_s / programs
            values["judge/cpu_s_mean"] = self.judge_cpu_s / programs
        if self.num_excluded:
            values["judge/excluded"] = float(self.num_excluded)
        if self.num_online:
            values["reward/success_rate"] = self.num_accepted / self.num_online
            values["reward/online_mean"] = self.num_accepted / self.num_online - 1.0
        return values


class Monitor:
    """Listens to results, batches and steps.

    Args:
        config: The run's settings.
        run_dir: Where metrics go.
        info: When the run began.
        gauges: Called for the values that are measured when a line is written: buffer, versions, workers.
    """

    def __init__(self, config: Config, run_dir: Path, info: RunInfo, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._config = config
        self._info = info
        self._gauges = gauges
        self._writer = MetricsWriter(run_dir)
        self._totals = _last_totals(run_dir)
        self._interval = _Interval()
        self._batch: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._steps, self._tokens, self._programs, self._responses = _Rate(), _Rate(), _Rate(), _Rate()
        self._step_ended: float | None = None
        """When the last step of this session was reported."""
        self._pass_at: dict[str, list[float]] = {}
        self.last_progress = trio.current_time()
        """When anything last went forward."""
        self.phase = "starting"
        self.step = 0
        """Optimiser steps done."""

    def progress(self) -> None:
        """Something went forward."""
        self.last_progress = trio.current_time()

    def on_result(self, result: Result) -> None:
        """A work item is done."""
        done, now = result.done, self._interval
        tokens = sum(item.num_tokens - len(item.prompt_tokens) for item in result.trajectories)
        now.num_responses += len(result.work.seeds)
        now.num_truncated += done.num_truncated
        now.num_excluded += done.num_excluded
        now.num_tokens += tokens
        now.sampling_s += done.sampling_time_s
        now.judge_s += done.judge_time_s
        now.judge_cpu_s += done.judge_cpu_time_s
        if result.work.source == ONLINE:
            now.num_online += len(result.trajectories)
            now.num_accepted += sum(item.reward == ACCEPTED_REWARD for item in result.trajectories)
        programs = len(result.trajectories) - done.num_truncated
        self.count("tokens_sampled", tokens)
        self.count("trajectories", len(result.trajectories))
        self.count(f"trajectories_{result.work.source}", len(result.trajectories))
        self.count("programs_judged", programs)
        self.count("excluded", done.num_excluded)
        self.count("judge_cpu_s", done.judge_cpu_time_s)
        self.count("sampling_s", done.sampling_time_s)
        self._tokens.at(self._totals["tokens_sampled"])
        self._programs.at(self._totals["programs_judged"])
        self._responses.at(self._totals["trajectories"])
        self.progress()

    def on_batch(self, step: int, batch: Batch, waited_s: float) -> None:
        """A batch goes out."""
        ages = staleness(batch, step)
        online = np.array([source == ONLINE for source in batch.sources], dtype=bool)
        lengths = batch.prompt_lengths.astype(np.int64) + batch.response_lengths
        self._batch = {
            "time/batch_pending_s": waited_s,
            "replay/batch_tokens": float(lengths.sum()),
            "replay/batch_fill": float(lengths.sum() / batch.tokens.size),
        }
        if online.any():
            self._batch |= {
                "staleness/mean": float(ages.mean()),
                "staleness/max": float(ages.max()),
                "replay/uses_mean": float(batch.uses[online].mean()),
                "reward/batch_online": float(batch.rewards[online].mean()),
            }

    def on_step(self, message: StepDone) -> None:
        """A step is done: its line is written."""
        self.progress()
        self.step = message.step
        self._steps.at(message.step)
        self.count("tokens_trained", self._batch.get("replay/batch_tokens", 0.0))
        now = trio.current_time()
        # Before the first step of a session there was something else than training.
        between_s = message.metrics.get("time/step_s", 0.0) if self._step_ended is None else now - self._step_ended
        self._step_ended = now
        self._write({**self._batch, **message.metrics, "time/between_steps_s": between_s})

    def on_evaluation(self, line: Mapping[str, Any]) -> None:
        """An evaluation round is done."""
        values = {name: value for name, value in line.items() if isinstance(value, float)}
        self.remember_evaluation(line)
        self._write({f"evaluation/{name}": value for name, value in values.items()}, round=line["round"])

    def remember_evaluation(self, line: Mapping[str, Any]) -> None:
        """An evaluation round was done, maybe in an earlier session: for the display."""
        for k in self._config.evaluation.ks:
            if (value := line.get(f"pass_at_{k}")) is not None:
                self._pass_at.setdefault(f"pass@{k}", []).append(value)

    def write_totals(self) -> None:
        """Writes a line now, so that the totals on disk are up to date."""
        self._write({})

    def tick(self) -> None:
        """Writes a line if the last one is long ago: outside training there are no steps to write lines for."""
        if self._interval.age_s() > _TICK_S:
            self._write({})

    def mark_resumed(self, step: int) -> None:
        """The run goes on from `step`."""
        self.step = step
        self._writer.mark_resumed(step)

    def status(self, done: int, total: int, unit: str, num_workers: int, note: str) -> Status:
        """What the display shows; the counts are those of the phase."""
        rate = self._steps.per_s() if unit == "steps" else self._responses.per_s()
        return Status(
            phase=self.phase,
            done=done,
            total=total,
            unit=unit,
            eta_s=(total - done) / rate if rate > 0 and done < total else None,
            elapsed_s=self._info.wall_time_s(),
            loss=self._latest.get(LOSS),
            success_rate=self._latest.get("reward/success_rate"),
            staleness=self._latest.get("staleness/mean"),
            pass_at=self._pass_at,
            steps_per_s=self._steps.per_s() if unit == "steps" else 0.0,
            tokens_per_s=self._tokens.per_s(),
            programs_per_s=self._programs.per_s(),
            num_workers=num_workers,
            note=note,
        )

    def close(self) -> None:
        """Writes the last line and closes the files."""
        self._write({})
        self._writer.close()

    def count(self, name: str, amount: float = 1.0) -> None:
        """Adds to a total of the whole run."""
        self._totals[name] = self._totals.get(name, 0.0) + amount

    def _write(self, values: Mapping[str, float], **labels: str) -> None:
        line = {
            **self._interval.values(),
            **self._gauges(),
            **values,
            **{_TOTAL + name: value for name, value in self._totals.items()},
            "time/wall_s": self._info.wall_time_s(),
        }
        self._writer.write(self.step, line, phase=self.phase, **labels)
        self._latest |= line
        self._interval = _Interval()


def _last_totals(run_dir: Path) -> dict[str, float]:
    """The totals that the last line of an earlier session gives."""
    totals: dict[str, float] = {}
    for line in read_lines(run_dir / METRICS_FILE):
        totals |= {name.removeprefix(_TOTAL): value for name, value in line.items() if name.startswith(_TOTAL)}
    return totals
