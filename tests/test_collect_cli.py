"""`spo collect` and what a policy may be, with a real tokenizer, engine and judge."""

import json
from pathlib import Path

import msgspec
import pytest

from spo.cli import main
from spo.policies import find_policy, settings_of
from spo.store import TrajectoryStore
from spo.tiny.problems import load
from spo.tiny.reference import ReferenceSettings, make_reference

SETTINGS = ["sampling.max_new_tokens=24", "batch.token_budget=128", "workers.max_batch_size=16"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny reference that has learned next to nothing."""
    return make_reference(
        tmp_path_factory.mktemp("model") / "reference", seed=0, settings=ReferenceSettings(num_steps=2)
    )


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("problems") / "two.jsonl"
    path.write_bytes(msgspec.json.Encoder().encode_lines(load("train", 0)[:2]))
    return f"jsonl:{path}"


def summary_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    status = main(["collect", *words, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_a_policy_and_humans_and_another_store_are_collected_and_again_nothing_is(
    model: Path, problems: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path / "c"), problems, "--policy", str(model), *SETTINGS, "--human", "--samples", "3"]
    summary = summary_of(capsys, *command)
    num_solutions = sum(len({one.code for one in problem.solutions}) for problem in load("train", 0)[:2])
    human, collected = summary["collected"]["human"], summary["collected"]["collected"]
    assert (human["done"], collected["done"]) == (num_solutions, 6)
    assert human["accepted"] >= 2
    assert summary["trajectories"] == human["stored"] + collected["stored"] == sum(summary["sources"].values())
    assert summary["contradictions"] == summary["left_out"] == {}
    again = summary_of(capsys, *command)
    assert again["collected"]["collected"]["done"] == 0
    assert again["trajectories"] == summary["trajectories"]
    with TrajectoryStore.open(tmp_path / "c" / "store", "r") as store:
        humans = [store[id] for id in store.scan(source="human")]
    assert {item.metadata["known"] for item in humans} == {"right", "wrong"}
    assert all(item.reward == (0.0 if item.metadata["known"] == "right" else -1.0) for item in humans)

    taken = [str(tmp_path / "d"), "--from", str(tmp_path / "c"), "--accepted-only"]
    assert summary_of(capsys, *taken)["sources"]["human"] == human["accepted"]
    judged = [*taken, problems, "--policy", str(model), "--judge-again"]
    assert summary_of(capsys, *judged)["collected"]["human"]["duplicates"] == human["accepted"]
    assert main(["collect", *taken]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'd'}: {human['accepted']} trajectories ({human['accepted']} human)" in out
    assert "experience.stores=" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["new"], "there is nothing to collect: give --samples N, --human or --from STORE"),
        (["new", "builtin", "--human"], "--policy is missing"),
        (["new", "--human", "--policy", "tiny", "problems.train=[]"], "which problems? name some"),
        (["new", "--from", "nowhere"], "--from: there is no store in nowhere"),
        (["new", "builtin", "--human", "--judge-again", "--policy", "x"], "--judge-again concerns what --from"),
        (["new", "builtin", "--samples", "-1", "--policy", "x"], "--samples must be 1 or more"),
        (["new", "builtin", "--human", "--policy", "./x"], "x: no policy; give a model folder"),
        (["run", "builtin", "--human", "--policy", "x"], "run is a run; collect into a folder of its own"),
        (["new", "builtin", "--human", "--policy", "x", "sampling.top_p=2"], "sampling.top_p: Expected `float` <= 1"),
    ],
)
def test_what_cannot_be_collected_is_told_in_one_line_and_nothing_is_made(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    assert main(["collect", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_the_settings_of_a_policy_are_those_of_its_preset_else_the_defaults(model: Path, tmp_path: Path) -> None:
    assert settings_of("tiny").batch.num_trajectories == 64
    assert settings_of(str(model)).batch.num_trajectories == settings_of(None).batch.num_trajectories == 128
    policy = find_policy("tiny", ["tiny.steps=1"], tmp_path, tmp_path)
    assert policy.path == tmp_path / "reference"
    assert policy.config.model.path == str(policy.path)
