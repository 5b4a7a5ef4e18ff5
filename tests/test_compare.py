"""Two runs against each other: paired by problem, in functions and as a command."""

import json
from pathlib import Path

import numpy as np
import pytest
from run_peers import ScriptedTrainer, ScriptedWorker, make_run, orchestrate

from spo.cli import main
from spo.compare import compare, stored_samples
from spo.errors import ConfigError
from spo.evaluate import EvaluationSample, evaluate


def samples(rates: dict[str, float], num_samples: int, seed: int) -> list[EvaluationSample]:
    generator = np.random.default_rng(seed)
    return [
        EvaluationSample(problem_id, 0.0 if generator.random() < rate else -1.0, f"print({index})")
        for problem_id, rate in rates.items()
        for index in range(num_samples)
    ]


def test_differences_are_taken_within_problems() -> None:
    first = [EvaluationSample("p", 0.0), EvaluationSample("p", -1.0), EvaluationSample("q", -1.0)]
    second = [EvaluationSample("q", 0.0), EvaluationSample("p", 0.0), EvaluationSample("elsewhere", -1.0)]
    (entry,) = compare(first, second, ks=[1])
    assert (entry.first, entry.second, entry.difference) == (0.25, 1.0, 0.75)
    assert (entry.num_problems, entry.num_better, entry.num_worse) == (2, 2, 0)
    assert 0.5 <= entry.low <= entry.difference <= entry.high <= 1.0
    (back,) = compare(second, first, ks=[1])
    assert (back.difference, back.num_better, back.num_worse) == (-0.75, 0, 2)


def test_the_interval_resamples_problems_within_their_sets() -> None:
    # In each set all problems differ alike, so that nothing is left to chance.
    first = [EvaluationSample(id, -1.0) for id in ("a/p", "b/p", "b/q", "b/r")]
    second = [EvaluationSample("a/p", 0.0), *first[1:]]
    (entry,) = compare(first, second, ks=[1])
    assert (entry.low, entry.difference, entry.high) == (0.5, 0.5, 0.5)


def test_pairing_finds_a_difference_that_separate_intervals_hide() -> None:
    # Problems differ much in how hard they are, and the second policy is a little better on each.
    rates = {f"p{i}": rate for i, rate in enumerate(np.linspace(0.0, 0.9, 40))}
    first = samples(rates, 60, seed=0)
    second = samples({problem_id: rate + 0.08 for problem_id, rate in rates.items()}, 60, seed=1)
    (entry,) = compare(first, second, ks=[1])
    assert entry.low > 0
    apart = [evaluate(given, ks=[1]).at(1) for given in (first, second)]
    assert apart[0].high > apart[1].low


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rates = {f"p{i}": rate for i, rate in enumerate(np.linspace(0.1, 0.9, 30))}
    covered = 0
    for seed in range(60):
        (entry,) = compare(samples(rates, 8, seed=2 * seed), samples(rates, 8, seed=2 * seed + 1), ks=[1])
        covered += entry.low <= 0.0 <= entry.high
    assert covered >= 52


def test_sets_count_alike_whatever_their_size() -> None:
    first = [EvaluationSample("a/1", -1.0), EvaluationSample("a/2", -1.0), EvaluationSample("b/1", -1.0)]
    second = [EvaluationSample("a/1", 0.0), EvaluationSample("a/2", 0.0), EvaluationSample("b/1", -1.0)]
    (entry,) = compare(first, second, ks=[1])
    assert entry.difference == 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="no problem in common"):
        compare([EvaluationSample("p", 0.0)], [EvaluationSample("q", 0.0)])
    with pytest.raises(ValueError, match=r"pass@2: no problem has 2 samples of both; lower k"):
        compare([EvaluationSample("p", 0.0)] * 2, [EvaluationSample("p", 0.0)], ks=[2])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("compared"))
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    return run_dir


def test_the_samples_of_a_round_are_those_that_the_run_was_evaluated_on(run_dir: Path) -> None:
    report = json.loads((run_dir / "report.json").read_text())
    for name in ("reference", "final"):
        result = evaluate(stored_samples(run_dir, name), ks=[1])
        assert result.at(1).value == report[name]["pass_at_1"]
        assert result.response_entropy == pytest.approx(report[name]["response_entropy"])
    with pytest.raises(ConfigError, match="no evaluation round 'step-7'; there are final, reference, step-4, step-8"):
        stored_samples(run_dir, "step-7")


def test_the_command_prints_a_table_or_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run_dir), str(run_dir), "--round", "reference"]) == 0
    assert "difference +0.000 [+0.000, +0.000]  B better on 0, worse on 0 of 3 problems" in capsys.readouterr().out
    assert main(["compare", str(run_dir), str(run_dir), "--json", "--k", "1", "5"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["k"] for entry in entries] == [1, 5]


def test_the_command_refuses_what_is_no_run(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run_dir), str(tmp_path)]) == 2
    assert f"{tmp_path}: no run directory, it has no config.toml" in capsys.readouterr().err
    assert main(["compare", str(run_dir), str(run_dir), "--k", "50"]) == 2
    assert "pass@50: no problem has 50 samples of both; lower k" in capsys.readouterr().err
