"""`spo evaluate`: real engine and judge on policies of every kind, and what it refuses."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from trainer_harness import FakeOrchestrator, make_run, serving
from transformers import AutoModelForCausalLM

from spo.cli import main
from spo.errors import ConfigError
from spo.tiny.problems import load
from spo.tiny.reference import ReferenceSettings, make_reference
from spo.trainer.export import export_checkpoint
from spo.trainer.loop import train
from spo.trainer.parallel import start_ranks, stop_ranks

SETTINGS = [
    "sampling.max_new_tokens=24",
    "evaluation.num_samples=4",
    "evaluation.ks=[1, 4]",
    "evaluation.temperature=1.0",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny reference that has learned next to nothing."""
    return make_reference(
        tmp_path_factory.mktemp("model") / "reference", seed=0, settings=ReferenceSettings(num_steps=2)
    )


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("problems") / "three.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode(problem) for problem in load("evaluation", 0)[:3]) + b"\n")
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def run_dir(model: Path, problems: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run: two checkpoints and a final policy."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    config = make_run(run_dir, model, *SETTINGS, f'problems.evaluation=["{problems}"]', "optimizer.learning_rate=1e-2")
    ranks = start_ranks("cpu", 1, 60.0)
    with serving(FakeOrchestrator(run_dir)):
        train(config, run_dir, ranks)
    stop_ranks()
    return run_dir


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    status = main(["evaluate", *arguments, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_a_model_folder_is_sampled_judged_and_repeatable(
    model: Path, problems: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluated(capsys, str(model), problems, *SETTINGS)
    assert (report["num_problems"], report["num_samples"], report["num_excluded"]) == (3, 12, 0)
    assert 0.0 <= report["pass_at_1"] <= report["pass_at_4"] <= 1.0
    assert report["response_entropy"] > 0
    again, other = (evaluated(capsys, str(model), problems, *SETTINGS, f"seed={seed}") for seed in (0, 1))
    # The same up to rounding, which depends on what shares a batch.
    assert again["response_entropy"] == pytest.approx(report["response_entropy"], rel=1e-5)
    assert other["response_entropy"] != pytest.approx(report["response_entropy"], rel=1e-5)


def test_a_run_is_evaluated_by_its_final_policy_on_its_problems_with_its_settings(
    run_dir: Path, problems: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluated(capsys, str(run_dir))
    assert report["num_samples"] == 12
    again = evaluated(capsys, str(run_dir / "policy"), problems)
    assert again["response_entropy"] == pytest.approx(report["response_entropy"], rel=1e-5)


def test_the_last_checkpoint_is_the_final_policy_and_an_earlier_one_is_not(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {}
    for step in (3, 6):
        export_checkpoint(run_dir / f"checkpoints/step-{step:08d}", str(run_dir / "policy"), tmp_path / f"{step}")
        weights[step] = AutoModelForCausalLM.from_pretrained(tmp_path / f"{step}", dtype=torch.float32).state_dict()
    final = AutoModelForCausalLM.from_pretrained(run_dir / "policy", dtype=torch.float32).state_dict()
    assert all(torch.equal(weight, final[name]) for name, weight in weights[6].items())
    assert not all(torch.equal(weight, final[name]) for name, weight in weights[3].items())
    report = evaluated(capsys, str(run_dir / "checkpoints" / "step-00000006"))
    final_report = evaluated(capsys, str(run_dir))
    assert report["response_entropy"] == pytest.approx(final_report["response_entropy"], rel=1e-5)


def test_people_get_a_table(model: Path, problems: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model), problems, *SETTINGS]) == 0
    out = capsys.readouterr().out
    assert "3 problems, 12 samples at temperature 1, top-p 0.95; 95% bootstrap intervals over problems" in out
    assert "pass@1 " in out
    assert "distinct accepted programs, response entropy" in out


def test_what_cannot_be_evaluated_is_refused_with_the_fix(
    model: Path, problems: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run_dir / "config.toml", unfinished)
    damaged = tmp_path / "damaged" / "checkpoints" / "step-00000003"
    shutil.copytree(run_dir / "checkpoints" / "step-00000003", damaged)
    for name in ("config.toml", "model.json"):
        shutil.copy(run_dir / name, damaged.parent.parent)
    (next(damaged.glob("*.distcp"))).write_bytes(b"")
    for arguments, complaint in (
        ([str(model)], "which problems? name some"),
        ([str(tmp_path / "nowhere"), problems], "nowhere: no policy; give a model folder, a run directory, or"),
        ([str(unfinished)], "unfinished: the run has no final policy yet; give one of its checkpoints/step-N"),
        ([str(damaged)], "step-00000003: no checkpoint of a policy like"),
        ([str(model), problems, "evaluation.num_samples=2"], "evaluation.ks asks for pass@10"),
        ([str(model), "jsonl:/nowhere.jsonl"], "/nowhere.jsonl"),
    ):
        assert main(["evaluate", *arguments]) == 2, complaint
        assert complaint in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused(run_dir: Path, tmp_path: Path) -> None:
    other = make_reference(tmp_path / "other", seed=0, settings=ReferenceSettings(num_steps=1, hidden_size=32))
    with pytest.raises(ConfigError, match="no checkpoint of a policy like"):
        export_checkpoint(run_dir / "checkpoints" / "step-00000006", str(other), tmp_path / "out")
