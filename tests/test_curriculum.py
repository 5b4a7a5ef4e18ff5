"""The curriculum: shares of problems by how often they are solved, in schedules and in whole runs, killed ones too."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_run, orchestrate

from spo.config import Config, CurriculumConfig, load_config
from spo.curriculum import HOPELESS, SOLVED, WEIGHT_0, Standing, load_function, shares_of
from spo.errors import ConfigError, RunFailed
from spo.jsonl import read_lineage
from spo.launch import start_orchestrator
from spo.orchestrator.curriculum import Curriculum
from spo.orchestrator.online import OnlineSource
from spo.orchestrator.schedule import ProblemSchedule, apportioned
from spo.problems import Problem, ProblemTest, infos_of
from spo.report import to_markdown
from spo.store import TrajectoryStore
from spo.values import ProblemCounts, ValueCounts, ValuesKey

PROBLEMS = [Problem(f"p{index}", "test", "Do.", (ProblemTest("", "1"),)) for index in range(4)]
INFOS = infos_of(PROBLEMS)
COUNTS = [ProblemCounts(successes, 10) for successes in (0, 2, 5, 10)]
NO_COUNTS = ProblemCounts()


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def standings(counts: list[ProblemCounts]) -> list[Standing]:
    return [Standing(info, one, NO_COUNTS, one) for info, one in zip(INFOS, counts, strict=True)]


def shares(config: CurriculumConfig, counts: list[ProblemCounts] = COUNTS) -> tuple[list[float], list[str]]:
    return shares_of(standings(counts), config, load_function(config))


@pytest.mark.parametrize(
    ("rule", "weights"),
    [("uniform", [1, 1, 1, 1]), ("variance", [11, 27, 36, 11]), ("success", [1, 3, 6, 11]), ("failure", [11, 9, 6, 1])],
)
def test_each_rule_weighs_problems_by_their_success_rate(rule: str, weights: list[int]) -> None:
    """Rates are (successes + 1) / (responses + 2), in twelfths here."""
    values, skipped = shares(CurriculumConfig(weights=rule))  # type: ignore[arg-type]
    assert values == pytest.approx([weight / sum(weights) for weight in weights])
    assert skipped == [""] * 4


def test_solved_and_hopeless_problems_are_skipped_by_their_thresholds() -> None:
    values, skipped = shares(CurriculumConfig(solved_above=0.9, hopeless_below=0.1))
    assert values == [0, 0.5, 0.5, 0]
    assert skipped == [HOPELESS, "", "", SOLVED]
    values, skipped = shares(CurriculumConfig(solved_above=0.5, hopeless_below=0.2))
    assert skipped == [HOPELESS, "", "", SOLVED]  # Those that lie on a threshold are not beyond it.


def test_explored_problems_keep_a_part_of_the_work_though_they_are_skipped() -> None:
    values, skipped = shares(CurriculumConfig(solved_above=0.9, hopeless_below=0.1, explore=0.2))
    assert values == pytest.approx([0.05, 0.45, 0.45, 0.05])
    assert skipped == [HOPELESS, "", "", SOLVED]


def test_a_problem_that_nothing_is_known_of_is_not_skipped() -> None:
    _, skipped = shares(CurriculumConfig(hopeless_below=0.5), [NO_COUNTS] * 4)
    assert skipped == [""] * 4


def test_where_nothing_is_left_the_thresholds_are_named() -> None:
    with pytest.raises(ConfigError, match=r"all 4 training problems are skipped \(2 solved, 2 hopeless, 0 weight 0\)"):
        shares(CurriculumConfig(solved_above=0.4, hopeless_below=0.4))


def twice_as_often_if_half_solved(standing: Standing) -> float:
    """A user's function."""
    if standing.info.id == "p0":
        return 0
    return 2.0 if standing.reference.successes * 2 == standing.reference.num_samples else 1.0


def no_weight(standing: Standing) -> float:
    """A user's function that is wrong."""
    return float("nan") if standing.info.id == "p2" else 1.0


def test_a_function_of_the_users_own_decides() -> None:
    values, skipped = shares(CurriculumConfig(function="test_curriculum:twice_as_often_if_half_solved"))
    assert values == [0, 0.25, 0.5, 0.25]
    assert skipped == [WEIGHT_0, "", "", ""]


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("test_curriculum:missing", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
        ("test_curriculum:TOKENIZER", "is no function"),
        ("test_curriculum:no_weight", "gave nan for problem p2"),
    ],
)
def test_a_function_that_is_none_or_gives_no_weight_is_named(function: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        shares(CurriculumConfig(function=function))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["solved_above=0.2", "hopeless_below=0.3"], r"hopeless_below \(0.3\) is above curriculum.solved_above"),
        (["solved_above=1.5"], "curriculum.solved_above: Expected `float` <= 1"),
        (["weights=best"], "choose from uniform, variance, success, failure"),
        (["function=f"], "'f' is no function; write MODULE:NAME"),
        (["function=a:f", "weights=variance"], "both say what problems weigh"),
    ],
)
def test_impossible_settings_are_refused_by_name(overrides: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, [f"curriculum.{override}" for override in overrides])


weights = st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda values: sum(values) > 1e-6)


@given(weights, st.floats(0, 1, exclude_max=True))
def test_places_are_the_shares_rounded_up_or_down(values: list[float], offset: float) -> None:
    places = apportioned(values, offset)
    counts = Counter(places)
    assert len(places) == len(values)
    for index, value in enumerate(values):
        expected = value / sum(values) * len(values)
        assert abs(counts[index] - expected) < 1 + 1e-6
        assert value or not counts[index]


def test_over_many_epochs_problems_come_as_often_as_their_shares_say() -> None:
    wanted = [0.0, 0.07, 0.33, 0.6]
    schedule = ProblemSchedule(["a", "b", "c", "d"], seed=3, shares=lambda epoch: wanted)
    counts = Counter(schedule.problem_at(position) for position in range(4000))
    assert [counts[name] / 4000 for name in "abcd"] == pytest.approx(wanted, abs=0.01)


def test_equal_shares_are_the_schedule_without_any() -> None:
    ids = [f"p{index}" for index in range(37)]
    plain, equal = ProblemSchedule(ids, 5), ProblemSchedule(ids, 5, lambda epoch: [1 / 37] * 37)
    assert [plain.problem_at(n) for n in range(100)] == [equal.problem_at(n) for n in range(100)]


def test_an_epoch_of_a_checkpoint_goes_on_as_it_was_though_shares_have_changed() -> None:
    ids = ["a", "b", "c", "d"]
    before = ProblemSchedule(ids, 1, lambda epoch: [0.25] * 4)
    begun = [before.problem_at(position) for position in range(4)]
    after = ProblemSchedule(ids, 1, lambda epoch: [1.0, 0, 0, 0])
    after.problem_at(0)
    after.restore(before.state())
    assert [after.problem_at(position) for position in range(4)] == begun
    assert after.problem_at(4) == "a"
    others = ProblemSchedule(ids[:3], 1, lambda epoch: [1.0, 0, 0])
    others.restore(before.state())
    assert others.problem_at(0) == "a"


def test_work_of_an_earlier_epoch_that_was_lost_keeps_its_problem() -> None:
    ids = ["a", "b", "c", "d"]
    schedule = ProblemSchedule(ids, 1, lambda epoch: [1.0, 0, 0, 0])
    state = {"next": 9, "open": [(2, "d", [5, 6]), (3, "gone", [7])], "schedule": schedule.state()}
    online = OnlineSource(Config(), schedule, cast(Any, None), cast(Any, None))
    online.restore(state, [])
    assert [(number, problem_id) for number, problem_id, _ in online.state()["open"]] == [(2, "d"), (3, "a")]


def begun(tmp_path: Path, config: CurriculumConfig, history: list[tuple[str, float]] = []) -> Curriculum:  # noqa: B006
    curriculum = Curriculum(config, tmp_path)
    key = ValuesKey("reference", {}, "plain", "suite")
    curriculum.begin(INFOS, ValueCounts(key, dict(zip([info.id for info in INFOS], COUNTS, strict=True))), history)
    return curriculum


def test_online_rates_take_over_once_a_problem_has_a_window_of_them(tmp_path: Path) -> None:
    config = CurriculumConfig(rates="online", window=3, solved_above=0.9, hopeless_below=0.1)
    curriculum = begun(tmp_path, config, [("p2", 0.0), ("p2", 0.0)])
    assert curriculum.shares(0) == [0, 0.5, 0.5, 0]
    curriculum.count("p2", 0.0)
    assert curriculum.shares(1) == [0, 1, 0, 0]
    for reward in (-1.0, 0.0, -1.0):
        curriculum.count("p2", reward)  # The last three: one of them accepted.
    assert curriculum.shares(2) == [0, 0.5, 0.5, 0]
    assert curriculum.gauges() == {
        "curriculum/skipped_solved": 1, "curriculum/skipped_hopeless": 1, "curriculum/skipped_weight_0": 0,
        "curriculum/effective_problems": 2,
    }  # fmt: skip
    shown = json.loads((tmp_path / "curriculum.json").read_bytes())
    assert (shown["epoch"], shown["skipped"]) == (2, {"hopeless": 1, "solved": 1})
    assert shown["problems"]["p2"] == {"share": 0.5, "skipped": "", "reference": [5, 10], "online": [1, 3]}


def test_where_all_become_solved_in_training_all_go_on(tmp_path: Path) -> None:
    curriculum = begun(tmp_path, CurriculumConfig(rates="online", window=1, solved_above=0.9))
    for info in INFOS:
        curriculum.count(info.id, 0.0)
    assert curriculum.shares(0) == [0.25] * 4


def online_work(run_dir: Path) -> dict[int, set[str]]:
    """The problems of each number of online work."""
    problems: defaultdict[int, set[str]] = defaultdict(set)
    seeds: defaultdict[int, list[int]] = defaultdict(list)
    with TrajectoryStore.open(run_dir / "store", mode="r", tokenizer=TOKENIZER) as store:
        for item in store.read_many(store.scan(source="online")):
            problems[int(item.metadata["work"])].add(item.problem_id)
            seeds[int(item.metadata["work"])].append(item.seed)
    assert all(len(found) == 2 == len(set(found)) for found in seeds.values())
    assert sorted(problems) == list(range(len(problems)))
    return dict(problems)


def reference_rates(run_dir: Path) -> dict[str, float]:
    (folder,) = (run_dir.parent / "values").iterdir()
    counts = json.loads((folder / "counts.json").read_text())["counts"]
    return {name: count["successes"] / count["num_samples"] for name, count in counts.items()}


def test_a_run_skips_what_the_reference_solves_and_weighs_the_rest_and_reports_it(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "curriculum.weights=variance", "curriculum.solved_above=0.49")
    orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))
    rates = reference_rates(run_dir)
    solved = {name for name, rate in rates.items() if rate > 0.49}
    assert 0 < len(solved) < 6
    counts = Counter(name for names in online_work(run_dir).values() for name in names)
    assert set(counts) == set(rates) - solved
    assert counts[max(set(counts), key=lambda name: rates[name] * (1 - rates[name]))] >= min(counts.values())
    report = json.loads((run_dir / "report.json").read_text())
    assert report["curriculum"]["skipped_solved"] == len(solved)
    assert f"skipped: {len(solved)} solved |" in to_markdown(report)
    [*_, line] = read_lineage(run_dir / "metrics.jsonl")
    assert line["curriculum/skipped_solved"] == len(solved)


def test_thresholds_that_leave_no_problem_end_the_run_with_what_to_change(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "curriculum.solved_above=0.0", "curriculum.hopeless_below=0.0")
    with pytest.raises(RunFailed, match=r"all 6 training problems are skipped \(6 solved"):
        orchestrate(run_dir, ScriptedTrainer(run_dir), ScriptedWorker(run_dir))


@pytest.mark.parametrize("rates", ["reference", "online"])
def test_a_run_that_is_killed_goes_on_with_the_curriculum_that_it_had(tmp_path: Path, rates: str) -> None:
    settings = (f"curriculum.rates={rates}", "curriculum.weights=failure", "curriculum.window=4")
    settings = (*settings, "curriculum.hopeless_below=0.3", "curriculum.explore=0.1", "trainer.total_steps=20")
    run_dir = make_run(tmp_path, *settings)
    trainer = ScriptedTrainer(run_dir, total_steps=20, step_s=0.01)
    generator = random.Random(rates)
    for attempt in range(10):
        if attempt:
            make_run(tmp_path, *settings, resume=True)
        if session(run_dir, trainer, generator.uniform(0.6, 1.2) if attempt < 3 else None) == 0:
            break
    assert trainer.finished
    killed = online_work(run_dir)
    assert all(len(problems) == 1 for problems in killed.values())
    if rates == "reference":  # What comes when follows from seed and counts alone: as in a run that goes through.
        whole = make_run(tmp_path, *settings, name="whole")
        orchestrate(whole, ScriptedTrainer(whole, total_steps=20), ScriptedWorker(whole))
        other = online_work(whole)
        common = killed.keys() & other.keys()
        assert len(common) > 30
        assert {number: killed[number] for number in common} == {number: other[number] for number in common}


def session(run_dir: Path, trainer: ScriptedTrainer, kill_after_s: float | None) -> int:
    """Runs the orchestrator as a process of its own beside scripted peers; returns its exit status."""
    orchestrator = start_orchestrator(run_dir)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ScriptedWorker(run_dir, delay_s=0.004).run)
            nursery.start_soon(trainer.run)
            with trio.move_on_after(60 if kill_after_s is None else kill_after_s):
                while orchestrator.poll() is None:
                    await trio.sleep(0.01)
            if orchestrator.poll() is None:
                orchestrator.kill()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return orchestrator.wait(30)
