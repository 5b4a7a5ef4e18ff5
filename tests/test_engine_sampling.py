"""Drawing tokens: the distribution drawn from is exactly softmax at a temperature, cut to the nucleus."""

import numpy as np
import pytest
import torch

from spo.rollout import sampling

NUM_DRAWS = 20_000
CHI_SQUARE_LIMITS = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9, 7: 29.9, 8: 31.8, 9: 33.7}
"""Degrees of freedom → the value exceeded with probability 1e-4."""


def exact_distribution(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The definition, in float64, one token at a time."""
    weights = np.exp((logits - logits.max()) / temperature)
    probabilities = weights / weights.sum()
    kept = np.zeros_like(probabilities)
    mass = 0.0
    for token in np.argsort(-probabilities):
        if mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += probabilities[token]
    return kept / kept.sum()


def draw(logits: np.ndarray, temperature: float, top_p: float, num: int = NUM_DRAWS, seed: int = 0):
    uniforms = np.random.default_rng(seed).random(num)
    return sampling.sample_tokens(
        torch.tensor(logits, dtype=torch.float32).expand(num, -1),
        torch.full((num,), temperature),
        torch.full((num,), top_p, dtype=torch.float64),
        torch.from_numpy(uniforms),
    )


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.7, 1.0), (1.0, 0.9), (0.4, 0.95), (1.0, 0.6), (2.0, 0.3)]
)
def test_frequencies_and_logprobs_follow_the_exact_distribution(temperature: float, top_p: float) -> None:
    logits = np.random.default_rng(7).normal(size=10) * 1.2
    expected = exact_distribution(logits, temperature, top_p)
    tokens, logprobs = draw(logits, temperature, top_p)
    counts = np.bincount(tokens.numpy(), minlength=10)
    assert counts[expected == 0].sum() == 0
    support = expected > 0
    chi_square = ((counts - NUM_DRAWS * expected)[support] ** 2 / (NUM_DRAWS * expected[support])).sum()
    assert chi_square < CHI_SQUARE_LIMITS[int(support.sum()) - 1]
    np.testing.assert_allclose(logprobs.numpy(), np.log(expected[tokens.numpy()]), atol=1e-5)


def test_a_tiny_nucleus_keeps_the_likeliest_token_only() -> None:
    tokens, logprobs = draw(np.array([0.0, 2.0, 1.0]), 1.0, 1e-6, num=100)
    assert tokens.unique().tolist() == [1]
    assert logprobs.abs().max() < 1e-6


def test_a_nucleus_wider_than_the_candidates_is_drawn_from_the_whole_vocabulary() -> None:
    logits = np.zeros(4 * sampling.NUM_CANDIDATES)
    logits[:5] = 1.0
    expected = exact_distribution(logits, 1.0, 0.999)
    tokens, logprobs = draw(logits, 1.0, 0.999)
    assert len(tokens.unique()) > 2 * sampling.NUM_CANDIDATES
    np.testing.assert_allclose(logprobs.numpy(), np.log(expected[tokens.numpy()]), atol=1e-5)


def test_rows_of_a_batch_keep_their_own_settings_and_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(3)
    num, vocabulary = 40, 5 * sampling.NUM_CANDIDATES
    logits = torch.tensor(rng.normal(size=(num, vocabulary)) * rng.uniform(0.1, 4, size=(num, 1)))
    temperatures = torch.tensor(rng.uniform(0.1, 2, num), dtype=torch.float32)
    top_ps = torch.tensor(rng.choice([0.3, 0.95, 0.999, 1.0], num))
    uniforms = torch.tensor(rng.random(num))
    together, _ = sampling.sample_tokens(logits, temperatures, top_ps, uniforms)
    for row in range(num):
        at = slice(row, row + 1)
        alone, _ = sampling.sample_tokens(logits[at], temperatures[at], top_ps[at], uniforms[at])
        assert alone.item() == together[row].item()


def test_the_extreme_uniform_numbers_give_tokens_of_positive_probability() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(4, -1)
    uniforms = torch.tensor([0.0, 1 - 2**-53, 0.0, 1 - 2**-53], dtype=torch.float64)
    top_ps = torch.tensor([1.0, 1.0, 0.9, 0.9], dtype=torch.float64)
    tokens, logprobs = sampling.sample_tokens(logits, torch.ones(4), top_ps, uniforms)
    assert set(tokens.tolist()) <= {1, 2}
    assert torch.isfinite(logprobs).all()
