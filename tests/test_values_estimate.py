"""`spo values estimate`: Q̂_0 without a run, shared with runs, resumable, and never mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trio
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_run, orchestrate

from spo.cli import main
from spo.config import Config, read_resolved
from spo.errors import ConfigError, RunFailed
from spo.orchestrator.estimate import Estimate, estimate_values
from spo.orchestrator.sampling import run_sampling
from spo.problems import Problems
from spo.progress import Status
from spo.rundir import ModelInfo, read_model
from spo.sampling_setup import training_problems
from spo.store import TrajectoryStore
from spo.types import Work
from spo.values import COUNTS_FILE, ValueCounts, success_interval


class Silent:
    """A display that nobody sees."""

    interval_s = 0.01

    def __init__(self) -> None:
        self.statuses: list[Status] = []

    def show(self, status: Status) -> None:
        self.statuses.append(status)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def prepared(folder: Path, *overrides: str) -> tuple[Config, ModelInfo, Problems]:
    """What a run in the folder would start from."""
    run_dir = folder / "run"
    if not run_dir.exists():
        make_run(folder, *overrides)
    config = read_resolved(run_dir)
    return config, read_model(run_dir), training_problems(config)


def with_values(config: Config, **settings: object) -> Config:
    return msgspec.structs.replace(config, values=msgspec.structs.replace(config.values, **settings))


def estimate(folder: Path, config: Config, model: ModelInfo, problems: Problems, worker: ScriptedWorker) -> Estimate:
    directory = folder / "session"
    worker.run_dir = directory

    async def main() -> Estimate:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run)
                result = await estimate_values(config, model, problems, Silent(), directory)
                nursery.cancel_scope.cancel()
        return result

    return run_sampling(main)


def test_a_run_with_the_same_settings_samples_nothing_any_more(tmp_path: Path) -> None:
    config, model, problems = prepared(tmp_path)
    first = estimate(tmp_path, config, model, problems, ScriptedWorker(tmp_path))
    assert (first.num_sampled, first.num_reused) == (6 * 12, 0)
    again = estimate(tmp_path, config, model, problems, ScriptedWorker(tmp_path))
    assert (again.num_sampled, again.num_reused) == (0, 6 * 12)
    assert again.counts.as_dict() == first.counts.as_dict()
    worker = ScriptedWorker(tmp_path / "run")
    orchestrate(tmp_path / "run", ScriptedTrainer(tmp_path / "run"), worker)
    assert [work for work in worker.done if work.source == "reference"] == []
    assert json.loads((tmp_path / "run" / "report.json").read_text())["finished"]


def test_every_sample_is_kept_and_counts_have_their_intervals(tmp_path: Path) -> None:
    config, model, problems = prepared(tmp_path)
    result = estimate(tmp_path, config, model, problems, ScriptedWorker(tmp_path))
    folder = Path(result.directory)
    with TrajectoryStore.open(folder / "store", "r", TOKENIZER) as store:
        for problem_id, one in result.counts.as_dict().items():
            rewards = store.read_many(store.scan(problem=problem_id), ["reward"])["reward"]
            assert (rewards.count(0.0), len(rewards)) == (one.successes, one.num_samples)
    written = json.loads((folder / COUNTS_FILE).read_text())
    for one in written["counts"].values():
        assert one["success_interval"] == pytest.approx(success_interval(one["successes"], one["num_samples"]))
    assert ValueCounts.load(folder / COUNTS_FILE).as_dict() == result.counts.as_dict()
    assert ValueCounts.load(folder / COUNTS_FILE).key.sampler["temperature"] == "1.0"


def test_an_interrupted_estimate_goes_on_where_it_was(tmp_path: Path) -> None:
    config, model, problems = prepared(tmp_path)
    given: list[int] = []

    def lose(work: Work) -> bool:
        given.extend(work.seeds)
        return len(given) > 30

    impatient = msgspec.structs.replace(config, network=msgspec.structs.replace(config.network, stall_timeout_s=1))
    with pytest.raises(RunFailed, match="no rollout worker is ready"):
        estimate(tmp_path, impatient, model, problems, ScriptedWorker(tmp_path, lose=lose))
    worker = ScriptedWorker(tmp_path)
    result = estimate(tmp_path, config, model, problems, worker)
    assert result.num_reused > 0
    assert result.num_sampled == sum(len(work.seeds) for work in worker.done) == 6 * 12 - result.num_reused


def test_problems_whose_interval_is_narrow_get_no_more_samples(tmp_path: Path) -> None:
    config, model, problems = prepared(tmp_path)
    adaptive = with_values(config, num_samples=320, interval_width=0.2)

    result = estimate(tmp_path, adaptive, model, problems, ScriptedWorker(tmp_path))
    for one in result.counts.as_dict().values():
        low, high = success_interval(one.successes, one.num_samples)
        assert high - low <= 0.2
        assert one.num_samples < 320
        before = one.num_samples - 32
        assert before == 0 or before % 32 == 0
    fixed = estimate(tmp_path, with_values(config, num_samples=32), model, problems, ScriptedWorker(tmp_path))
    assert fixed.num_sampled == 0


def test_values_of_another_key_are_refused_with_both_shown(tmp_path: Path) -> None:
    config, model, problems = prepared(tmp_path)
    result = estimate(tmp_path, config, model, problems, ScriptedWorker(tmp_path))
    ours = with_values(config, directory=result.directory)
    other = msgspec.structs.replace(model, reference_fingerprint="another-reference")
    with pytest.raises(ConfigError, match=r"found 'test-reference/.*this run has 'another-reference/") as refused:
        estimate(tmp_path, ours, other, problems, ScriptedWorker(tmp_path))
    assert result.counts.key.digest in str(refused.value)
    assert estimate(tmp_path, ours, model, problems, ScriptedWorker(tmp_path)).num_sampled == 0
    beside = estimate(tmp_path, config, other, problems, ScriptedWorker(tmp_path))
    assert beside.directory != result.directory


def test_values_are_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, model, problems = prepared(tmp_path)
    result = estimate(tmp_path, config, model, problems, ScriptedWorker(tmp_path))
    assert main(["values", "list", str(tmp_path / "values"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["num_problems"], listed["num_samples"]) == (6, 72)
    assert listed["digest"] == result.counts.key.digest
    assert main(["values", "show", str(tmp_path / "values"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["problems"]
    assert [row["problem"] for row in rows] == [f"train{index}" for index in range(6)]
    assert all(row["value_interval"][0] <= row["value"] <= row["value_interval"][1] for row in rows)
    assert main(["values", "show", str(tmp_path / "values")]) == 0
    assert "train5" in capsys.readouterr().out
    assert main(["values", "list", str(tmp_path / "nowhere")]) == 2
    assert "spo values estimate" in capsys.readouterr().err
