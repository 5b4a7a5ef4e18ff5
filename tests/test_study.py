"""A study's definition, its runs, and the judgement of what they show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from spo.cli import main
from spo.errors import ConfigError
from spo.evaluate import EvaluationSample, evaluate
from spo.study import results as study_results
from spo.study import runner
from spo.study.claims import interval_over_seeds, judge_claim
from spo.study.definition import Claim, Study, load_study, parse_study, study_names
from spo.study.report import write_study_report
from spo.study.results import Round, RunResult
from spo.tiny.problems import load as load_tiny

TEXT = """
base = "tiny"
seeds = [0, 1]
settings = ["trainer.total_steps=2"]
quick = {seeds = [3], settings = ["trainer.total_steps=1"]}
arms.plain = {label = "plain"}
arms.squared = {label = "squared", settings = ["objective.loss=squared"]}
figures = [{name = "one", title = "One", arms = ["plain", "squared"]}]
claims = [{text = "squared is better", kind = "better", arm = "squared", than = "plain", k = 1}]
"""


def study() -> Study:
    return parse_study(TEXT, "test.toml")


def round_of(name: str, version: float, rates: dict[str, float]) -> Round:
    samples = [
        EvaluationSample(problem_id, 0.0 if index < rate * 10 else -1.0, f"{problem_id}{index}")
        for problem_id, rate in rates.items()
        for index in range(10)
    ]
    return Round(name, version, {1: rates}, evaluate(samples, [1]))


def run_of(seed: int, *curve: dict[str, float], training_s: float = 10.0, state_bytes: float = 1e6) -> RunResult:
    """A run with a round every ten versions; the first is the reference's, the last the final one."""
    names = ["reference", *(f"step-{10 * index}" for index in range(1, len(curve) - 1)), "final"]
    rounds = [round_of(name, 10.0 * index, rates) for index, (name, rates) in enumerate(zip(names, curve, strict=True))]
    return RunResult(seed, tuple(rounds), training_s, 0.1, state_bytes, 100)


PROBLEMS = [f"set/{index}" for index in range(20)]


def flat(rate: float) -> dict[str, float]:
    return dict.fromkeys(PROBLEMS, rate)


def test_the_studies_that_come_with_the_package_are_whole() -> None:
    assert "paper" in study_names()
    for name in study_names():
        for quick in (False, True):
            found = load_study(name, quick=quick)
            assert found.seeds
            assert found.claims
            assert {arm for figure in found.figures for arm in figure.arms} == set(found.arms)


def test_the_short_form_has_its_own_seeds_and_settings_before_the_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = load_study("paper", quick=True, seeds=[4, 7], arms=["ppo", "spo-online"])
    assert quick.seeds == (4, 7)
    assert list(quick.arms) == ["spo-online", "ppo"]
    settings = quick.settings_of("ppo")
    assert settings.index("trainer.total_steps=30") > settings.index("trainer.total_steps=80")
    assert settings.index("objective.name=ppo") > settings.index("trainer.total_steps=30")
    assert all({claim.arm, claim.than} <= {"ppo", "spo-online", ""} for claim in quick.claims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('than = "plain"', 'than = "none"'), "no arm 'none'; the arms are plain, squared"),
        (('arms = ["plain", "squared"]', 'arms = ["plan"]'), "figures 'one': no arm 'plan'"),
        (("objective.loss=squared", "objective.loss=cubic"), r"arms\.squared: .*objective\.loss"),
        (('kind = "better"', 'kind = "nicer"'), "Invalid enum value 'nicer'"),
        (('label = "plain"', 'labels = "plain"'), "labels"),
    ],
)
def test_a_wrong_study_is_refused_with_the_place(change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_study(TEXT.replace(*change), "test.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "the studies are paper"),
        (["paper", "--arms", "pp"], "no arm 'pp'"),
        (["paper", "--seeds", "1", "1"], "different numbers"),
        (["paper", "--report-only", "--directory", "nowhere"], "there is no such study yet"),
    ],
)
def test_wrong_arguments_end_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", *arguments]) == 2
    assert message in capsys.readouterr().err


class FakeSpo:
    """Stands for the `spo` command: finishes the runs it is told to begin, but for those that shall fail."""

    def __init__(self, fails: Callable[[list[str]], bool] = lambda _: False) -> None:
        self.commands: list[list[str]] = []
        self.fails = fails

    def __call__(self, arguments: list[str], log: Path) -> int:
        self.commands.append(arguments)
        if arguments[0] != "train":
            log.write_text("spo: error: no luck\n")
            return int(self.fails(arguments))
        text = arguments[2] if arguments[1] == "--resume" else next(a for a in arguments if a.startswith("run_dir="))
        run_dir = Path(text.removeprefix("run_dir="))
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "run.json").write_text("{}")
        if self.fails(arguments):
            log.write_text("spo: error: no luck\n")
            return 1
        (run_dir / "report.json").write_text('{"finished": true}')
        (run_dir / "report.md").write_text("")
        return 0


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where references were asked for; none is made."""
    asked: list[Path] = []

    def make(_config: object, shared: Path) -> None:
        asked.append(shared)
        shared.mkdir(parents=True, exist_ok=True)
        (shared / "model.json").write_text("{}")

    monkeypatch.setattr(runner, "resolve_model", make)
    return asked


def test_what_is_finished_is_not_done_again_and_what_is_not_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: list[Path]
) -> None:
    fails = FakeSpo(lambda arguments: "seed=1" in arguments and "objective.loss=squared" in arguments)
    monkeypatch.setattr(runner, "spo", fails)
    shown: list[str] = []
    failures = runner.run_study(study(), tmp_path, shown.append)
    assert failures == [f"squared, seed 1: no luck (see {tmp_path}/squared/seed-1.log)"]
    assert [line.partition(",")[0] for line in shown[:2]] == ["run 1 of 4: plain", "run 2 of 4: squared"]
    assert references == [tmp_path / "seed-0", tmp_path / "seed-1"]
    assert f"model.path={tmp_path}/seed-0/reference" in fails.commands[0]
    # Each seed's first run evaluates the reference for all.
    assert ["evaluation.reference=false" in command for command in fails.commands] == [False, True, False, True]

    again = FakeSpo()
    monkeypatch.setattr(runner, "spo", again)
    assert runner.run_study(study(), tmp_path, shown.append) == []
    assert again.commands == [["train", "--resume", f"{tmp_path}/squared/seed-1"]]


def test_arms_that_need_the_search_have_it_done_once_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: list[Path]
) -> None:
    text = TEXT.replace('label = "plain"', 'label = "plain", searched = true').replace("[0, 1]", "[4]")
    text = text.replace("seeds = [4]", 'search = ["--budget", "60"]\nseeds = [4]').replace(
        'label = "squared"', 'label = "squared", searched = true'
    )
    commands = FakeSpo()
    monkeypatch.setattr(runner, "spo", commands)
    key = tmp_path / "seed-4" / "values" / ("0" * 32)
    key.mkdir(parents=True)
    (key / "key.json").write_text("{}")
    assert runner.run_study(parse_study(text, "test.toml"), tmp_path, lambda _: None) == []
    assert [command[:2] for command in commands.commands] == [
        ["values", "estimate"],
        ["collect", f"{tmp_path}/seed-4/search"],
        ["values", "pivotal"],
        ["train", "tiny"],
        ["train", "tiny"],
    ]
    assert commands.commands[2][-2:] == ["--budget", "60"]
    for command in commands.commands[3:]:
        assert f'experience.stores=["{tmp_path}/seed-4/search"]' in command


def test_a_search_that_fails_fails_the_runs_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: list[Path]
) -> None:
    text = TEXT.replace('label = "plain"', 'label = "plain", searched = true').replace("[0, 1]", "[4]")
    monkeypatch.setattr(runner, "spo", FakeSpo(lambda arguments: arguments[0] == "values"))
    (failure,) = runner.run_study(parse_study(text, "test.toml"), tmp_path, lambda _: None)
    assert failure == f"plain, seed 4: spo values estimate: no luck (see {tmp_path}/seed-4/estimate.log)"
    assert (tmp_path / "squared" / "seed-4" / "report.json").exists()


def test_a_folder_with_other_settings_is_refused(tmp_path: Path) -> None:
    runner.open_folder(study(), tmp_path)
    runner.open_folder(msgspec.structs.replace(study(), seeds=(0, 1, 2)), tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        runner.open_folder(msgspec.structs.replace(study(), settings=("trainer.total_steps=3",)), tmp_path)
    other = parse_study(TEXT.replace("objective.loss=squared", "objective.name=reverse_q"), "test.toml")
    with pytest.raises(ConfigError, match="arm 'squared' with other settings"):
        runner.open_folder(other, tmp_path)


def test_the_reference_of_a_seed_is_that_of_the_run_which_has_evaluated_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squared = run_of(0, flat(0.4), flat(0.7))
    of_runs = {
        "plain/seed-0": run_of(0, flat(0.1), flat(0.8)),
        "squared/seed-0": dataclasses.replace(squared, rounds=squared.rounds[1:]),
    }
    monkeypatch.setattr(study_results, "read_run_result", lambda path, seed: of_runs[str(path.relative_to(tmp_path))])
    FakeSpo()(["train", "tiny", f"run_dir={tmp_path}/squared/seed-0"], tmp_path)
    with pytest.raises(ConfigError, match=r"no finished run of seed 0 has evaluated the reference; remove .*/seed-0"):
        study_results.read_results(study(), tmp_path)
    FakeSpo()(["train", "tiny", f"run_dir={tmp_path}/plain/seed-0"], tmp_path)
    found = study_results.read_results(study(), tmp_path)
    assert found["plain"] == [of_runs["plain/seed-0"]]
    (of_squared,) = found["squared"]
    assert [(round.name, round.mean(1)) for round in of_squared.rounds] == [
        ("reference", pytest.approx(0.1)),
        ("final", pytest.approx(0.7)),
    ]


def test_better_is_judged_by_the_difference_within_problems() -> None:
    claim = Claim(text="", kind="better", arm="a", than="b", k=1)
    results = {"a": [run_of(0, flat(0.1), flat(0.8))], "b": [run_of(0, flat(0.1), flat(0.3))]}
    judged = judge_claim(claim, results)
    assert judged.outcome == "reproduced"
    assert judged.value == pytest.approx(0.5)
    assert judged.of_seeds == {0: pytest.approx(0.5)}
    assert judge_claim(msgspec.structs.replace(claim, arm="b", than="a"), results).outcome == "opposite"


def test_seeds_that_disagree_leave_a_claim_undecided() -> None:
    claim = Claim(text="", kind="better", arm="a", than="b", k=1)
    results = {
        "a": [run_of(0, flat(0.1), flat(0.8)), run_of(1, flat(0.1), flat(0.2)), run_of(2, flat(0.1), flat(0.9))],
        "b": [run_of(0, flat(0.1), flat(0.5)), run_of(1, flat(0.1), flat(0.6)), run_of(3, flat(0.1), flat(0.0))],
    }
    judged = judge_claim(claim, results)
    assert judged.outcome == "undecided"
    assert set(judged.of_seeds) == {0, 1}
    assert judged.low < 0 < judged.high


def test_a_curve_is_judged_by_its_area() -> None:
    slow, fast = run_of(0, flat(0.0), flat(0.0), flat(1.0)), run_of(0, flat(0.0), flat(1.0), flat(1.0))
    assert slow.area(1) == pytest.approx(flat(0.25))
    assert fast.area(1) == pytest.approx(flat(0.75))
    claim = Claim(text="", kind="better", arm="fast", than="slow", k=1)
    results = {"fast": [fast], "slow": [slow]}
    assert judge_claim(claim, results).outcome == "undecided"
    assert judge_claim(msgspec.structs.replace(claim, over="curve"), results).outcome == "reproduced"


@pytest.mark.parametrize(
    ("kind", "after", "outcome"),
    [
        ("rises", 0.6, "reproduced"),
        ("rises", 0.2, "opposite"),
        ("rises", 0.4, "undecided"),
        ("falls", 0.2, "reproduced"),
        ("falls", 0.6, "opposite"),
    ],
)
def test_rising_and_falling_are_against_the_reference(kind: str, after: float, outcome: str) -> None:
    claim = msgspec.convert({"text": "", "kind": kind, "arm": "a", "k": 1}, Claim)
    assert judge_claim(claim, {"a": [run_of(0, flat(0.4), flat(after))]}).outcome == outcome


@pytest.mark.parametrize(
    ("mean", "spread", "outcome"),
    [(0.52, 0.0, "reproduced"), (0.9, 0.0, "opposite"), (0.1, 0.0, "opposite"), (0.5, 0.4, "undecided")],
)
def test_alike_means_closer_than_the_margin(mean: float, spread: float, outcome: str) -> None:
    claim = Claim(text="", kind="alike", arm="a", than="b", k=1, margin=0.05)
    other = {name: mean + (spread if index % 2 else -spread) for index, name in enumerate(PROBLEMS)}
    results = {"a": [run_of(0, flat(0.0), flat(0.5))], "b": [run_of(0, flat(0.0), other)]}
    assert judge_claim(claim, results).outcome == outcome


def test_ratios_of_time_and_memory_are_of_each_seed() -> None:
    results = {
        "a": [run_of(seed, flat(0), flat(1), training_s=10, state_bytes=2e6) for seed in (0, 1)],
        "b": [run_of(seed, flat(0), flat(1), training_s=20 + 60 * seed, state_bytes=1e6) for seed in (0, 1)],
    }
    faster = judge_claim(Claim(text="", kind="faster", arm="a", than="b"), results)
    assert (faster.outcome, faster.of_seeds) == ("reproduced", {0: 2.0, 1: 8.0})
    assert faster.value == pytest.approx(4.0)
    smaller = judge_claim(Claim(text="", kind="smaller", arm="a", than="b"), results)
    assert (smaller.outcome, smaller.value) == ("opposite", pytest.approx(0.5))


def test_a_claim_without_runs_is_not_measured() -> None:
    judged = judge_claim(Claim(text="", kind="better", arm="a", than="b"), {"a": [], "b": []})
    assert judged.outcome == "not measured"
    assert math.isnan(judged.value)


def test_the_interval_holds_the_spread_of_the_seeds() -> None:
    low, high = interval_over_seeds([[0.0] * 50, [1.0] * 50, [1.0] * 50])
    assert (low, high) == (0.0, 1.0)
    low, high = interval_over_seeds([[0.0, 1.0] * 50])
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65


@pytest.mark.slow
def test_a_study_is_run_by_one_command_and_its_report_agrees_with_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "evaluation"):
        lines = [msgspec.json.encode(problem) for problem in load_tiny(split, 0)[:3]]
        (tmp_path / f"{split}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    small = [
        "trainer.total_steps=2",
        "tiny.steps=2",
        "batch.online_fraction=1",
        "values.num_samples=2",
        "batch.num_trajectories=4",
        "evaluation.num_samples=10",
        f'problems.train=["jsonl:{tmp_path}/train.jsonl"]',
        f'problems.evaluation=["jsonl:{tmp_path}/evaluation.jsonl"]',
    ]
    settings = ", ".join(f"'''{setting}'''" for setting in small)
    text = TEXT.replace('settings = ["trainer.total_steps=2"]', f"settings = [{settings}]").replace("[0, 1]", "[5]")
    monkeypatch.setattr("spo.study.cli.load_study", lambda *_, **__: parse_study(text, "test.toml"))
    assert main(["study", "paper", "--directory", str(tmp_path / "study")]) == 0
    folder = tmp_path / "study"
    report = (folder / "report.md").read_text()
    assert report in capsys.readouterr().out
    assert "2 of 2 runs are done" in report
    data = msgspec.json.decode((folder / "report.json").read_bytes())
    reports = {arm: (folder / arm / "seed-5" / "report.json").read_bytes() for arm in ("plain", "squared")}
    first = msgspec.json.decode(reports["plain"])
    for arm, content in reports.items():
        own = msgspec.json.decode(content)
        rounds = {entry["round"]: entry for entry in data["arms"][arm][0]["rounds"]}
        assert rounds["final"]["pass_at_1"] == pytest.approx(own["final"]["pass_at_1"])
        assert rounds["reference"]["pass_at_10"] == pytest.approx(first["reference"]["pass_at_10"])
        assert bool(own["reference"]) == (arm == "plain")
        assert data["arms"][arm][0]["state_bytes"] > 0
        assert f"| {data['arms'][arm][0]['sampled_tokens'] / 1e3:.1f} k |" in report
    assert (folder / "plots" / "one.png").stat().st_size > 1000
    assert write_study_report(parse_study(text, "test.toml"), folder) == report
