"""Drawing tokens: from a batch of logits to one token a row, at each row's own temperature and nucleus.

Tokens are drawn by inverting the distribution function at a uniform number that the caller gives for each row. Which
token comes out depends on the row's logits and number alone, up to rounding: rows do not share random state.

Shapes: B rows, V vocabulary, K candidates kept of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_CANDIDATES = 64
"""So many of the likeliest tokens are sorted first; the whole vocabulary only where they do not cover the nucleus."""


def sample_tokens(logits: Tensor, temperatures: Tensor, top_ps: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws a token for each row from softmax(logits / temperature), cut to its nucleus and renormalised.

    The nucleus is the smallest set of likeliest tokens whose probabilities sum to at least top-p; 1 cuts nothing.

    Args:
        logits: [B, V], any floating dtype.
        temperatures: [B] float32, above 0.
        top_ps: [B] float64, in (0, 1].
        uniforms: [B] float64, in [0, 1).

    Returns:
        The tokens, int64 [B], and their log-probabilities under the distribution drawn from, float32 [B].
    """
    probabilities = torch.softmax(logits.float() / temperatures[:, None], dim=-1)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    is_whole = top_ps >= 1
    # One test of a row's own top-p decides how it is drawn: neighbours must not change the order of candidates.
    for rows, draw in ((is_whole.nonzero()[:, 0], _draw_whole), ((~is_whole).nonzero()[:, 0], _draw_nucleus)):
        if len(rows):
            tokens[rows], logprobs[rows] = draw(probabilities[rows], top_ps[rows], uniforms[rows])
    return tokens, logprobs


def _draw_whole(probabilities: Tensor, top_ps: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    index, probability = _invert(probabilities, uniforms)
    return index, probability.log()


def _draw_nucleus(probabilities: Tensor, top_ps: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    num_candidates = min(NUM_CANDIDATES, probabilities.shape[-1])
    sorted_BK, tokens_BK = probabilities.topk(num_candidates, dim=-1)
    tokens, logprobs = _draw_sorted(sorted_BK, tokens_BK, top_ps, uniforms)
    wide = (sorted_BK.double().sum(dim=-1) < top_ps).nonzero()[:, 0]
    if len(wide) and num_candidates < probabilities.shape[-1]:
        sorted_BV, tokens_BV = probabilities[wide].sort(dim=-1, descending=True)
        tokens[wide], logprobs[wide] = _draw_sorted(sorted_BV, tokens_BV, top_ps[wide], uniforms[wide])
    return tokens, logprobs


def _draw_sorted(sorted_BK: Tensor, tokens_BK: Tensor, top_ps: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws from descending probabilities; `tokens_BK` names the token of each."""
    mass_before = sorted_BK.double().cumsum(dim=-1) - sorted_BK
    kept = sorted_BK * (mass_before < top_ps[:, None])
    index, probability = _invert(kept, uniforms)
    return tokens_BK.gather(-1, index[:, None])[:, 0], probability.log()


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The first index at which the cumulative weight exceeds uniform × total, and its share of the total, float32."""
    cumulative = weights.double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Strictly below the total, so that the index found always has a positive weight.
    targets = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, targets, right=True)
    probability = weights.gather(-1, index).double() / total
    return index[:, 0], probability[:, 0].float()
