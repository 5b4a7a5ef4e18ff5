"""pass@k against brute force, and the summary of an evaluation round."""

import math
import random
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo import evaluate as evaluate_module
from spo.evaluate import EvaluationSample, bootstrap_interval, evaluate, interval_of_means, pass_at_k, sample_of
from spo.store import Trajectory


def samples(problem_id: str, *rewards: float) -> list[EvaluationSample]:
    return [EvaluationSample(problem_id, reward, f"print({i})") for i, reward in enumerate(rewards)]


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(num_samples: int) -> None:
    for successes in range(num_samples + 1):
        outcomes = [True] * successes + [False] * (num_samples - successes)
        for k in range(1, num_samples + 1):
            hits = [any(subset) for subset in combinations(outcomes, k)]
            expected = Fraction(sum(hits), len(hits))
            assert pass_at_k(num_samples, successes, k) == pytest.approx(float(expected), abs=1e-15)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_pass_at_k_is_unbiased(k: int) -> None:
    n, rate = 6, 0.35
    mean = sum(math.comb(n, c) * rate**c * (1 - rate) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - rate) ** k, abs=1e-12)


@given(st.integers(1, 100_000), st.data())
def test_pass_at_k_stays_exact_where_binomials_would_overflow(num_samples: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, min(num_samples, 50)))
    k = data.draw(st.integers(1, num_samples))
    log_fail = sum(
        math.log(num_samples - k - i) - math.log(num_samples - i) for i in range(successes) if num_samples - k - i > 0
    )
    expected = 1.0 if num_samples - k < successes else 1 - math.exp(log_fail)
    assert pass_at_k(num_samples, successes, k) == pytest.approx(expected, abs=1e-10)


def test_a_rare_success_does_not_cancel_to_zero() -> None:
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-9)


@pytest.mark.parametrize("arguments", [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6), (0, 0, 1)])
def test_impossible_arguments_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="k = "):
        pass_at_k(*arguments)


def test_the_bootstrap_interval_is_seeded() -> None:
    values = np.random.default_rng(5).random(20).tolist()
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_the_bootstrap_interval_is_close_to_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(values.tolist(), num_resamples=20_000)
    half_width = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half_width, abs=0.004)
    assert high == pytest.approx(values.mean() + half_width, abs=0.004)


def test_the_interval_of_equal_values_is_that_value() -> None:
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_an_interval_needs_a_value() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_pass_at_k_is_averaged_over_problems_and_not_over_samples() -> None:
    result = evaluate([*samples("a", 0.0, 0.0), *samples("b", -1.0, -1.0, -1.0, -1.0)], ks=[2, 1])
    assert [entry.k for entry in result.pass_at] == [1, 2]
    assert result.at(1).value == 0.5
    assert result.at(2).value == 0.5
    assert result.mean_reward == pytest.approx(-4 / 6)
    assert (result.num_problems, result.num_samples) == (2, 6)


def test_the_interval_holds_the_mean_and_widens_with_disagreement() -> None:
    rewards = random.Random(0)
    mixed = [s for i in range(30) for s in samples(f"p{i}", *([0.0, -1.0][rewards.random() < 0.5] for _ in range(4)))]
    entry = evaluate(mixed, ks=[1]).at(1)
    assert entry.low < entry.value < entry.high
    unanimous = evaluate([s for i in range(30) for s in samples(f"p{i}", 0.0)], ks=[1]).at(1)
    assert (unanimous.low, unanimous.value, unanimous.high) == (1.0, 1.0, 1.0)


def test_the_order_of_samples_does_not_matter() -> None:
    given_samples = [*samples("a", 0.0, -1.0), *samples("b", -1.0, -1.0), *samples("c", 0.0, 0.0)]
    assert evaluate(given_samples, ks=[1, 2]) == evaluate(given_samples[::-1], ks=[1, 2])


def test_problems_with_fewer_than_k_samples_are_left_out_of_that_mean_and_counted() -> None:
    result = evaluate([*samples("a", 0.0, -1.0, -1.0), *samples("b", 0.0)], ks=[1, 3])
    assert (result.at(1).num_problems, result.at(3).num_problems) == (2, 1)
    assert result.at(3).value == 1.0


def test_distinct_accepted_programs_differ_in_more_than_white_space() -> None:
    programs = ["print(1)", "print(1)  \n\n", "print(2)", "print(3)"]
    given_samples = [EvaluationSample("a", 0.0, program) for program in programs[:3]]
    given_samples += [EvaluationSample("a", -1.0, programs[3]), EvaluationSample("b", 0.0, programs[0])]
    assert evaluate(given_samples, ks=[1]).distinct_accepted_programs == 3


def test_too_few_samples_for_a_k_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"pass@5 needs 5 samples a problem, there are at most 2"):
        evaluate(samples("a", 0.0, 0.0), ks=[1, 5])


def test_an_evaluation_needs_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        evaluate([])


def test_a_k_that_was_not_evaluated_is_named() -> None:
    with pytest.raises(KeyError, match="pass@3"):
        evaluate(samples("a", 0.0), ks=[1]).at(3)


def test_the_report_has_each_pass_at_k_with_its_interval_beside_it() -> None:
    report = evaluate(samples("a", 0.0, -1.0), ks=[1, 2]).as_report()
    assert report["pass_at_1"] == 0.5
    assert report["pass_at_1_interval"] == [0.5, 0.5]
    assert report["pass_at_2"] == 1.0
    assert report["num_samples"] == 2


def test_pass_at_k_is_the_mean_of_the_sets_means_however_many_problems_each_has() -> None:
    given_samples = [*samples("a/1", 0.0), *samples("a/2", 0.0), *samples("a/3", -1.0), *samples("b/1", -1.0)]
    entry = evaluate(given_samples, ks=[1]).at(1)
    assert entry.sets == {"a": pytest.approx(2 / 3), "b": 0.0}
    assert entry.value == pytest.approx(1 / 3)
    assert entry.num_problems == 4
    assert evaluate(given_samples[:3], ks=[1]).at(1).sets == {}
    report = evaluate(given_samples, ks=[1]).as_report()
    assert report["sets"] == {"pass_at_1": entry.sets}


def test_the_interval_resamples_problems_within_their_sets() -> None:
    # A set whose problems agree adds no width; resampled across sets, their difference would.
    agreeing = [
        s for name in ("a", "b") for i in range(20) for s in samples(f"{name}/{i}", 0.0 if name == "a" else -1.0)
    ]
    entry = evaluate(agreeing, ks=[1]).at(1)
    assert (entry.low, entry.value, entry.high) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(0)
    first, second = rng.random(50).tolist(), (0.2 * rng.random(30)).tolist()
    low, high = interval_of_means([first, second], num_resamples=20_000)
    half_width = 1.96 * math.sqrt(np.var(first) / 50 + np.var(second) / 30) / 2
    assert high - low == pytest.approx(2 * half_width, rel=0.05)


def test_the_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(0.5, 1.5, (300, 40))
    covered = 0
    for values in rates:
        low, high = bootstrap_interval(values.tolist(), num_resamples=300)
        covered += low <= 0.25 <= high
    assert 0.90 <= covered / len(rates) <= 0.98


def test_response_entropy_estimates_the_entropy_of_what_was_sampled_from() -> None:
    probabilities = np.array([0.5, 0.3, 0.2])
    drawn = np.random.default_rng(2).choice(3, 20_000, p=probabilities)
    given_samples = [EvaluationSample("a", -1.0, logprob=math.log(probabilities[index])) for index in drawn]
    entropy = evaluate(given_samples, ks=[1]).response_entropy
    assert entropy == pytest.approx(-(probabilities * np.log(probabilities)).sum(), abs=0.01)


def test_response_entropy_is_averaged_over_problems_and_unknown_where_any_logprob_is() -> None:
    given_samples = [EvaluationSample("a", 0.0, logprob=-1.0)] * 3 + [EvaluationSample("b", 0.0, logprob=-3.0)]
    result = evaluate(given_samples, ks=[1])
    assert result.response_entropy == 2.0
    assert result.as_report()["response_entropy"] == 2.0
    result = evaluate([*given_samples, EvaluationSample("b", 0.0)], ks=[1])
    assert result.response_entropy is None
    assert "response_entropy" not in result.as_report()


def test_a_stored_response_is_evaluated_with_its_program_and_the_sum_of_its_logprobs() -> None:
    trajectory = Trajectory(
        "a/1", [1], [5, 6], 0.0, "accepted", "evaluation", [-0.5, -0.25], metadata={"program": "print(1)"}
    )
    assert sample_of(trajectory) == EvaluationSample("a/1", 0.0, "print(1)", -0.75)
    assert sample_of(Trajectory("a", [1], [5], -1.0, "no_code", "evaluation")) == EvaluationSample("a", -1.0)


@pytest.mark.parametrize("block_values", [1, 10, 64])
def test_resamples_are_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, block_values: int) -> None:
    values = np.arange(5.0)
    at_once = evaluate_module.resampled_means(values, 13, np.random.default_rng(3))
    monkeypatch.setattr(evaluate_module, "_BLOCK_VALUES", block_values)
    in_blocks = evaluate_module.resampled_means(values, 13, np.random.default_rng(3))
    assert len(set(at_once)) > 5
    np.testing.assert_array_equal(in_blocks, at_once)
