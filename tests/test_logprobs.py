"""Chunked log-probabilities: equal to the naive computation in value and gradient, without its memory."""

from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spo.trainer.logprobs import token_logprobs

N, D, V = 53, 16, 97


def tensors(dtype: torch.dtype = torch.float32, num_tokens: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(num_tokens, D, generator=generator).to(dtype).requires_grad_()
    head_VD = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    target_N = torch.randint(V, (num_tokens,), generator=generator)
    return hidden_ND, head_VD, target_N


def naive(hidden_ND: torch.Tensor, head_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    logits_NV = (hidden_ND @ head_VD.T).float() if hidden_ND.dtype != torch.float64 else hidden_ND @ head_VD.T
    return torch.log_softmax(logits_NV, dim=1).gather(1, target_N[:, None]).squeeze(1)


@pytest.mark.parametrize("chunk_tokens", [1, 10, N, 1000])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_values_and_gradients_equal_the_naive_computation(
    chunk_tokens: int, dtype: torch.dtype, tolerance: float
) -> None:
    weight_N = torch.linspace(-1, 1, N)
    results = []
    for compute in (naive, lambda *arguments: token_logprobs(*arguments, chunk_tokens)):
        hidden_ND, head_VD, target_N = tensors(dtype)
        logprob_N = compute(hidden_ND, head_VD, target_N)
        (logprob_N * weight_N).sum().backward()
        results.append((logprob_N.detach(), hidden_ND.grad, head_VD.grad))
    assert results[1][0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Log-probabilities are computed in float32 whatever the model computes in.
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    for expected, actual in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(expected, actual, rtol=tolerance, atol=tolerance)


def test_gradients_equal_finite_differences() -> None:
    hidden_ND, head_VD, target_N = tensors(torch.float64, num_tokens=4)
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, target_N, 3), (hidden_ND, head_VD))


def test_extreme_logits_stay_finite() -> None:
    hidden_ND, head_VD, target_N = tensors()
    logprob_N = token_logprobs(hidden_ND * 1e4, head_VD, target_N, 8)
    logprob_N.sum().backward()
    assert torch.isfinite(logprob_N).all()
    assert hidden_ND.grad is not None
    assert torch.isfinite(hidden_ND.grad).all()


def test_no_tokens_give_no_logprobs_and_zero_gradients() -> None:
    hidden_ND, head_VD, target_N = tensors(num_tokens=0)
    logprob_N = token_logprobs(hidden_ND, head_VD, target_N, 8)
    logprob_N.sum().backward()
    assert logprob_N.shape == (0,)
    assert head_VD.grad is not None
    assert (head_VD.grad == 0).all()


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.num_elements = max([self.num_elements, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return result


def test_logits_never_exist_for_more_than_a_chunk_forward_or_backward() -> None:
    num_tokens, chunk_tokens = 1024, 32
    hidden_ND, head_VD, target_N = tensors(num_tokens=num_tokens)
    with LargestTensor() as largest:
        token_logprobs(hidden_ND, head_VD, target_N, chunk_tokens).sum().backward()
    assert largest.num_elements == max(chunk_tokens * V, num_tokens * D)
    with LargestTensor() as largest:
        naive(hidden_ND, head_VD, target_N).sum().backward()
    assert largest.num_elements == num_tokens * V


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that was allocated at once above what was there before, temporaries of every kernel included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    level = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


@pytest.mark.parametrize(("dtype", "chunks_of_logits"), [(torch.float32, 1.0), (torch.bfloat16, 1.5)])
def test_memory_stays_at_one_chunk_of_float32_logits_forward_and_backward(
    dtype: torch.dtype, chunks_of_logits: float
) -> None:
    num_tokens, chunk_tokens, vocabulary, width = 512, 32, 8000, 4
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(num_tokens, width, generator=generator).to(dtype).requires_grad_()
    head_VD = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    target_N = torch.randint(vocabulary, (num_tokens,), generator=generator)
    # The logits of a chunk exist in float32 once; in bfloat16 they come, and in the backward pass go, in that as well.
    chunk = 4 * chunk_tokens * vocabulary * chunks_of_logits
    head_gradients = 3 * 4 * head_VD.numel()
    logprobs: list[torch.Tensor] = []
    peak_bytes(lambda: None)
    forward = peak_bytes(lambda: logprobs.append(token_logprobs(hidden_ND, head_VD, target_N, chunk_tokens)))
    backward = peak_bytes(lambda: logprobs[0].sum().backward())
    assert forward < 1.05 * chunk
    assert backward < 1.05 * chunk + head_gradients
    assert peak_bytes(lambda: naive(hidden_ND, head_VD, target_N)) > 10 * chunk
