"""Log-probabilities of tokens from hidden states and the output head, without ever holding all logits in float32.

The head's logits are made a chunk of tokens at a time, in the forward pass and again in the backward pass, so that at
most `chunk_tokens` × V float32 values exist at once. They are the log-probabilities of the model as it is: no
temperature, no truncation. How rows are packed and which tokens count is not known here.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def token_logprobs(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, chunk_tokens: int) -> Tensor:
    """The log-probability of each target token, ln softmax(hidden · headᵀ)[target]: float32 [N].

    The head's product is computed in the dtype of `hidden_ND`, everything after it in float32 (float64 stays float64).

    Args:
        hidden_ND: The last hidden state before each target token.
        head_VD: The output head's weight, of the same dtype.
        target_N: int64 token ids.
        chunk_tokens: How many tokens' logits exist at once.
    """
    return _TokenLogprobs.apply(hidden_ND, head_VD, target_N, chunk_tokens)  # type: ignore[no-any-return, no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    """Saves one normaliser a token; the backward pass makes each chunk's logits again."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, chunk_tokens: int) -> Tensor:
        dtype = _accumulation_dtype(hidden_ND.dtype)
        logprob_N = hidden_ND.new_empty(len(target_N), dtype=dtype)
        normaliser_N = hidden_ND.new_empty(len(target_N), dtype=dtype)
        for start in range(0, len(target_N), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logprob_N[chunk], normaliser_N[chunk] = _score(hidden_ND[chunk], head_VD, target_N[chunk])
        ctx.save_for_backward(hidden_ND, head_VD, target_N, normaliser_N)
        ctx.chunk_tokens = chunk_tokens
        return logprob_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient_N,) = gradients
        hidden_ND, head_VD, target_N, normaliser_N = ctx.saved_tensors
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        hidden_gradient_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        head_gradient_VD = torch.zeros_like(head_VD, dtype=normaliser_N.dtype) if needs_head else None
        for start in range(0, len(target_N), ctx.chunk_tokens):
            chunk = slice(start, start + ctx.chunk_tokens)
            gradient_CV = _logit_gradient(
                hidden_ND[chunk], head_VD, target_N[chunk], normaliser_N[chunk], gradient_N[chunk]
            )
            if hidden_gradient_ND is not None:
                torch.mm(gradient_CV, head_VD, out=hidden_gradient_ND[chunk])
            if head_gradient_VD is not None:
                head_gradient_VD += gradient_CV.T @ hidden_ND[chunk]
            # Not kept while the next chunk's are made.
            del gradient_CV
        return hidden_gradient_ND, None if head_gradient_VD is None else head_gradient_VD.to(head_VD.dtype), None, None


def _score(hidden_CD: Tensor, head_VD: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
    """A chunk's log-probabilities and normalisers; its logits are gone when this returns."""
    logit_CV = _logits(hidden_CD, head_VD)
    target_logit_C = logit_CV.gather(1, target_C[:, None]).squeeze(1)
    # logsumexp in place of the logits: torch's own holds a second [C, V].
    largest_C = logit_CV.amax(dim=1)
    normaliser_C = largest_C + logit_CV.sub_(largest_C[:, None]).exp_().sum(dim=1).log_()
    return target_logit_C - normaliser_C, normaliser_C


def _logit_gradient(
    hidden_CD: Tensor, head_VD: Tensor, target_C: Tensor, normaliser_C: Tensor, gradient_C: Tensor
) -> Tensor:
    """The gradient by a chunk's logits, in the dtype that they are multiplied in."""
    logit_CV = _logits(hidden_CD, head_VD)
    # d logprob / d logit = onehot(target) − softmax, in place of the logits.
    gradient_CV = logit_CV.sub_(normaliser_C[:, None]).exp_().mul_(-gradient_C[:, None])
    gradient_CV.scatter_add_(1, target_C[:, None], gradient_C[:, None])
    return gradient_CV.to(hidden_CD.dtype)


def _logits(hidden_CD: Tensor, head_VD: Tensor) -> Tensor:
    """A chunk's logits, a fresh tensor in the dtype that is accumulated in."""
    return (hidden_CD @ head_VD.T).to(_accumulation_dtype(hidden_CD.dtype))


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
