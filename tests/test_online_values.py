"""Q̂_0 while training goes on: the running average itself, in runs, and with a reference that changes."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_run, orchestrate

from spo.config import load_config, read_resolved
from spo.consumption import ConsumptionLog
from spo.errors import ConfigError
from spo.orchestrator.online_values import OnlineValues
from spo.store import TrajectoryStore
from spo.values import ProblemCounts, ValueCounts, ValuesKey, initial_value, soft_value

BETA = 0.3
KEY = ValuesKey(reference="r", sampler={}, prompt_template="t", test_suite="s")
ONLINE = ("sampling.temperature_min=1", "sampling.temperature_max=1", "sampling.top_p=1", "values.online=true")


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def averages(successes: int = 3, num_samples: int = 10, interval: int = 0, window: int = 10**6) -> OnlineValues:
    counts = ValueCounts(KEY, {"p": ProblemCounts(successes, num_samples), "q": ProblemCounts(0, 4)})
    return OnlineValues(counts, BETA, window, interval)


class Enumerated:
    """All responses of three tokens out of four, with a reference, a sampler and rewards."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.responses = list(itertools.product(range(4), repeat=3))
        self.reference, self.sampler = (self._distribution(draw) for _ in range(2))
        self.rewards = {a: 0.0 if draw.random() < 0.2 else -1.0 for a in self.responses}

    def _distribution(self, draw: random.Random) -> dict[tuple[int, ...], float]:
        weights = {a: draw.uniform(0.5, 2.0) for a in self.responses}
        return {a: weight / sum(weights.values()) for a, weight in weights.items()}

    @property
    def value(self) -> float:
        return BETA * math.log(sum(p * math.exp(self.rewards[a] / BETA) for a, p in self.reference.items()))


def test_it_starts_at_the_counts() -> None:
    values = averages().at_step(1)
    assert values["p"] == pytest.approx(initial_value(3, 10, BETA))
    assert values["q"] == pytest.approx(-1.0)


def test_a_sample_of_the_reference_itself_counts_as_one_more_of_the_first() -> None:
    online = averages(successes=3, num_samples=10)
    for successes, num_samples, reward in ((4, 11, 0.0), (4, 12, -1.0), (5, 13, 0.0)):
        online.count(1, "p", 0.0, reward)
        assert online.at_step(1)["p"] == pytest.approx(initial_value(successes, num_samples, BETA))


@pytest.mark.parametrize("seed", range(4))
def test_samples_of_any_policy_bring_it_to_the_value_under_the_reference(seed: int) -> None:
    problem, draw = Enumerated(seed), random.Random(seed)
    online = averages(successes=9)
    plain = 0.0
    drawn = draw.choices(problem.responses, [problem.sampler[a] for a in problem.responses], k=20_000)
    for a in drawn:
        online.count(1, "p", math.log(problem.reference[a] / problem.sampler[a]), problem.rewards[a])
        plain += math.exp(problem.rewards[a] / BETA) / len(drawn)
    error = abs(online.at_step(1)["p"] - problem.value)
    assert error < 0.01
    assert online.at_step(1)["q"] == pytest.approx(-1.0), "other problems are left alone"
    assert abs(BETA * math.log(plain) - problem.value) > 2 * error, "without weights it would be the sampler's value"


def test_under_the_optimal_policy_every_sample_says_the_same() -> None:
    problem = Enumerated(1)
    online = averages(successes=9, window=1)
    for a in problem.responses:
        log_optimal = math.log(problem.reference[a]) + (problem.rewards[a] - problem.value) / BETA
        online.count(1, "p", math.log(problem.reference[a]) - log_optimal, problem.rewards[a])
        before = online.at_step(1)["p"]
        online.count(1, "p", math.log(problem.reference[a]) - log_optimal, problem.rewards[a])
        assert online.at_step(1)["p"] == pytest.approx((before + problem.value) / 2, abs=0.2)
    for _ in range(40):
        online.count(1, "p", (problem.value - problem.rewards[a]) / BETA, problem.rewards[a])
    assert online.at_step(1)["p"] == pytest.approx(problem.value, abs=1e-6)


def test_values_stay_within_what_is_possible_whatever_the_ratios() -> None:
    online = averages()
    for log_ratio in (1e4, -1e4, 700.0, 0.0):
        for reward in (0.0, -1.0):
            online.count(1, "p", log_ratio, reward)
            assert -1.0 <= online.at_step(1)["p"] <= 0.0


def test_a_new_reference_begins_at_the_online_successes_and_late_samples_of_the_old_one_are_passed_over() -> None:
    online = averages(interval=10)
    for step in range(1, 11):
        for reward in 50 * (0.0, 0.0, 0.0, -1.0):
            online.count(step, "p", -2.0, reward)
    before = online.at_step(10)["p"]
    after = online.at_step(11)
    assert after["p"] > before
    assert after["p"] == pytest.approx(soft_value(0.75, BETA), abs=0.05)
    assert after["q"] == pytest.approx(-1.0)
    online.count(10, "p", 5.0, 0.0)
    assert online.at_step(11) == after


def test_what_a_checkpoint_keeps_brings_it_back() -> None:
    online, other = averages(interval=3), averages(interval=3)
    for step in range(1, 8):
        online.at_step(step)
        online.count(step, "p", -0.5, -1.0 if step % 2 else 0.0)
    other.restore(online.state())
    assert other.state() == online.state()
    assert other.at_step(10) == online.at_step(10)


@pytest.mark.parametrize(("interval", "is_slow"), [(0, False), (4, False), (4, True)])
def test_the_batches_of_a_run_have_the_values_that_its_samples_lead_to(
    tmp_path: Path, interval: int, is_slow: bool
) -> None:
    """A slow worker's samples are trained on more than once, and told of each time, but count once."""
    settings = ("values.online_window=16", f"trainer.reference_update_interval={interval}", "replay.order=uniform")
    run_dir = make_run(tmp_path, *ONLINE, *settings)
    trainer = ScriptedTrainer(run_dir)
    orchestrate(run_dir, trainer, ScriptedWorker(run_dir, delay_s=0.1 if is_slow else 0.0))
    (folder,) = (tmp_path / "values").iterdir()
    counts = ValueCounts.load(folder / "counts.json")
    expected = OnlineValues(counts, read_resolved(run_dir).objective.beta, 16, interval)
    log, seen, num_again = ConsumptionLog(run_dir), set[float](), 0
    with TrajectoryStore.open(run_dir / "store", "r", TOKENIZER) as store:
        for step in range(1, 13):
            drawn, values = log[step], expected.at_step(step)
            items = store.read_many(drawn.ids)
            assert drawn.initial_values == pytest.approx([values[item.problem_id] for item in items])
            given = np.frombuffer(trainer.batches[step].initial_values, "<f4")
            np.testing.assert_allclose(given, drawn.initial_values, rtol=1e-6)
            seen.update(drawn.initial_values)
            for item, uses in zip(items, drawn.uses, strict=True):
                if item.source == "online" and uses == 1:
                    # What the scripted trainer says of the reference is the same for every token.
                    log_ratio = len(item.response_tokens) * (-1.0 - step / 1024) - item.behavior_logprobs.sum()
                    expected.count(step, item.problem_id, float(log_ratio), item.reward)
                num_again += item.source == "online" and uses > 1
        kept = len(store.scan(has=["reference_logprobs"]))
    assert len(seen) > 12, "they move"
    assert num_again > 0 or not is_slow
    assert (kept > 0) == (interval == 0), "what is of a reference that changes is not kept"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("values.online=true",), "sampling.temperature_min"),
        (("trainer.reference_update_interval=5",), "values.online=true"),
        ((*ONLINE, "trainer.reference_update_interval=5", "objective.name=mc_q"), "mc_q"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config("tiny", settings)
    assert load_config("tiny", ONLINE).values.online
