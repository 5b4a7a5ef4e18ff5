"""Counts of the reference's successes, and the values that follow from them."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo.errors import ConfigError
from spo.values import (
    ProblemCounts,
    ValueCounts,
    ValuesKey,
    initial_value,
    initial_value_interval,
    soft_value,
    success_interval,
)

PAPER_BETA = 1 / math.log(100_000)
KEY = ValuesKey(
    reference="abc", sampler={"temperature": "1.0", "top_p": "1.0"}, prompt_template="chat", test_suite="123"
)
counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
betas = st.floats(0.001, 100.0)


@given(counts, st.floats(0.05, 10.0))
def test_the_value_is_the_soft_mean_of_the_sampled_rewards(sample: tuple[int, int], beta: float) -> None:
    successes, num_samples = sample
    rewards = [0.0] * successes + [-1.0] * (num_samples - successes)
    expected = beta * math.log(math.fsum(math.exp(reward / beta) for reward in rewards) / num_samples)
    assert initial_value(successes, num_samples, beta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(1, 5000), betas)
def test_the_value_is_exact_where_all_or_none_succeed(num_samples: int, beta: float) -> None:
    assert initial_value(0, num_samples, beta) == -1.0
    assert initial_value(num_samples, num_samples, beta) == 0.0


def test_the_papers_beta_puts_a_lone_success_near_its_log_rate() -> None:
    assert initial_value(1, 800, PAPER_BETA) == pytest.approx(PAPER_BETA * math.log(1 / 800 + 799 / 800 * 1e-5))


@given(counts.filter(lambda sample: sample[0] < sample[1]), betas)
def test_another_success_never_lowers_the_value(sample: tuple[int, int], beta: float) -> None:
    successes, num_samples = sample
    assert initial_value(successes, num_samples, beta) <= initial_value(successes + 1, num_samples, beta) <= 0


def test_a_tiny_beta_neither_overflows_nor_gives_nan() -> None:
    assert soft_value(1e-300, 1e-4) == pytest.approx(1e-4 * math.log(1e-300))
    assert soft_value(0.5, 1e-300) == pytest.approx(0.0, abs=1e-299)


@pytest.mark.parametrize("sample", [(0, 0), (1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(sample: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="successes"):
        initial_value(*sample, PAPER_BETA)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_beta_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        initial_value(1, 2, beta)


def test_the_interval_is_wilsons() -> None:
    # Agresti and Coull (1998): 0 of 10 gives (0, 0.2775); 8 of 10 gives (0.4902, 0.9433).
    assert success_interval(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert success_interval(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_without_samples_the_interval_says_nothing() -> None:
    assert success_interval(0, 0) == (0.0, 1.0)


@given(counts)
def test_the_interval_holds_the_rate_and_mirrors(sample: tuple[int, int]) -> None:
    successes, num_samples = sample
    low, high = success_interval(successes, num_samples)
    assert 0 <= low <= successes / num_samples <= high <= 1
    mirrored = success_interval(num_samples - successes, num_samples)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    n, rate = 40, 0.3
    covered = sum(
        math.comb(n, c) * rate**c * (1 - rate) ** (n - c)
        for c in range(n + 1)
        if success_interval(c, n)[0] <= rate <= success_interval(c, n)[1]
    )
    assert 0.93 < covered < 0.97


@given(counts, betas)
def test_the_values_interval_holds_the_value(sample: tuple[int, int], beta: float) -> None:
    low, high = initial_value_interval(*sample, beta)
    assert low <= initial_value(*sample, beta) <= high


def test_counts_add_up() -> None:
    table = ValueCounts(KEY)
    for success in (True, False, True):
        table.add("a", success)
    assert table["a"] == ProblemCounts(2, 3)
    assert table["never sampled"] == ProblemCounts(0, 0)


def test_missing_samples_are_told_for_each_problem() -> None:
    table = ValueCounts(KEY, {"a": ProblemCounts(1, 3), "full": ProblemCounts(0, 8)})
    assert table.missing(["a", "full", "new"], 8) == {"a": 5, "new": 8}


def test_initial_values_need_samples_of_every_problem() -> None:
    table = ValueCounts(KEY, {"a": ProblemCounts(2, 4)})
    assert table.initial_values(["a"], 0.5) == {"a": initial_value(2, 4, 0.5)}
    with pytest.raises(ValueError, match="'b' has no samples"):
        table.initial_values(["a", "b"], 0.5)


def test_impossible_problem_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="successes"):
        ProblemCounts(3, 2)


def test_saved_counts_are_loaded_again(tmp_path: Path) -> None:
    table = ValueCounts(KEY, {"b": ProblemCounts(2, 4), "a": ProblemCounts(0, 9)})
    table.save(tmp_path / "deep" / "counts.json")
    assert ValueCounts.load(tmp_path / "deep" / "counts.json", KEY).as_dict() == table.as_dict()
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["counts.json"]


def test_there_are_no_counts_where_there_is_no_file(tmp_path: Path) -> None:
    assert len(ValueCounts.load(tmp_path / "counts.json", KEY)) == 0


@pytest.mark.parametrize(
    ("other", "fields"),
    [
        (ValuesKey("xyz", KEY.sampler, "chat", "123"), ["reference"]),
        (ValuesKey("abc", {"temperature": "0.7", "top_p": "1.0"}, "chat", "123"), ["sampler"]),
        (ValuesKey("abc", KEY.sampler, "plain", "456"), ["prompt_template", "test_suite"]),
    ],
)
def test_counts_of_another_key_are_refused_with_both_keys_shown(
    tmp_path: Path, other: ValuesKey, fields: list[str]
) -> None:
    path = tmp_path / "counts.json"
    ValueCounts(other, {"a": ProblemCounts(1, 2)}).save(path)
    with pytest.raises(ConfigError) as caught:
        ValueCounts.load(path, KEY)
    text = str(caught.value)
    assert text.startswith(str(path))
    for field in fields:
        assert repr(getattr(other, field)) in text
        assert repr(getattr(KEY, field)) in text
    assert other.digest != KEY.digest


def test_the_digest_does_not_depend_on_the_order_of_settings() -> None:
    reordered = ValuesKey("abc", dict(reversed(KEY.sampler.items())), "chat", "123")
    assert reordered.digest == KEY.digest
    assert len(KEY.digest) == 32


@pytest.mark.parametrize("content", ["", "{", "[]", '{"counts": {}}', '{"key": 1, "counts": {}, "version": 1}', "\xff"])
def test_a_damaged_counts_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "counts.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"counts.json: not a counts file"):
        ValueCounts.load(path, KEY)


def test_impossible_counts_in_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    ValueCounts(KEY, {"a": ProblemCounts(1, 2)}).save(path)
    path.write_text(path.read_text().replace('"successes": 1', '"successes": 7'))
    with pytest.raises(ConfigError, match="successes must be in"):
        ValueCounts.load(path, KEY)


def test_a_failed_save_keeps_the_old_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counts.json"
    ValueCounts(KEY, {"a": ProblemCounts(1, 2)}).save(path)

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        ValueCounts(KEY, {"a": ProblemCounts(2, 4)}).save(path)
    assert ValueCounts.load(path, KEY)["a"] == ProblemCounts(1, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["counts.json"]
