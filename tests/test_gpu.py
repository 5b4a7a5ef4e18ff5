"""What a CUDA device must not change: steps, log-probabilities, samples and published weights are those of the CPU.

Run with `python -m pytest -m gpu` where there is a device; `make test` leaves these out.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_oracle import FakeSnapshot, make_requests, oracle_logprobs, run
from test_engine_transformers import make_model as make_sampled_model
from torch.distributed.tensor import DTensor
from trainer_harness import NUM_TOKENS, make_batch, make_model, make_run

from spo.config import Config
from spo.rollout.transformers import TransformersSampler
from spo.trainer.learner import Learner
from spo.trainer.logprobs import token_logprobs
from spo.trainer.parallel import Ranks, start_ranks, stop_ranks
from spo.trainer.policy import load_policy
from spo.trainer.publish import weight_shards
from spo.weights import WeightPublisher, WeightSubscriber

pytestmark = pytest.mark.gpu
CUDA = "cuda"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "llama")


def on_device(device: str, work: Callable[[Ranks], object]) -> object:
    """Runs `work` in a process group of one rank on `device` (gloo or nccl)."""
    ranks = start_ranks(device, 1, 60.0)
    try:
        return work(ranks)
    finally:
        stop_ranks()


def three_steps(config: Config, model: Path) -> Callable[[Ranks], tuple[list[dict[str, float]], list[torch.Tensor]]]:
    """Three optimiser steps from the reference; their metrics and the weights after them."""

    def work(ranks: Ranks) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
        policy, reference = (load_policy(str(model), config.model, NUM_TOKENS, ranks, trained=t) for t in (True, False))
        learner = Learner(policy, reference, config, ranks)
        metrics = [learner.step(make_batch(step, 0, 1)) for step in (1, 2, 3)]
        weights = [p.to_local().detach().cpu() for p in policy.parameters() if isinstance(p, DTensor)]
        return metrics, weights

    return work


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_steps_under_nccl_are_those_under_gloo(model: Path, tmp_path: Path, loss: str) -> None:
    config = make_run(tmp_path / "run", model, f"objective.loss={loss}")
    (cpu_metrics, cpu), (gpu_metrics, gpu) = (on_device(d, three_steps(config, model)) for d in ("cpu", CUDA))  # type: ignore[misc]
    for one, other in zip(cpu_metrics, gpu_metrics, strict=True):
        for name in ("loss/objective", "loss/q_terminal", "loss/gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    for one, other in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


def test_a_bfloat16_forward_keeps_float32_masters_and_starts_without_advantage(model: Path, tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", model, "model.dtype=bfloat16")
    metrics, weights = on_device(CUDA, three_steps(config, model))  # type: ignore[misc]
    assert all(weight.dtype == torch.float32 for weight in weights)
    assert metrics[0]["loss/log_ratio"] == 0.0
    assert all(np.isfinite(m["loss/objective"]) for m in metrics)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_of_a_large_vocabulary_never_hold_all_logits(dtype: torch.dtype) -> None:
    num_tokens, vocabulary, hidden_size, chunk = 8192, 128_256, 256, 512
    generator = torch.Generator(CUDA).manual_seed(0)
    hidden = torch.randn(num_tokens, hidden_size, generator=generator, device=CUDA, dtype=dtype).requires_grad_()
    head = (torch.randn(vocabulary, hidden_size, generator=generator, device=CUDA) / 16).to(dtype).requires_grad_()
    target = torch.randint(vocabulary, (num_tokens,), generator=generator, device=CUDA)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs = token_logprobs(hidden, head, target, chunk)
    logprobs.sum().backward()
    peak = torch.cuda.max_memory_allocated() - before
    # A chunk's logits in the compute dtype and float32, and the head's gradient in float32 and its own dtype.
    assert peak < 4 * chunk * vocabulary * 4 + 2 * head.numel() * 4 + 4 * hidden.numel() * 4
    assert peak < num_tokens * vocabulary * 4 / 2
    some = slice(0, 256)
    with torch.no_grad():
        naive = torch.log_softmax((hidden[some] @ head.T).float(), dim=1).gather(1, target[some, None]).squeeze(1)
    torch.testing.assert_close(logprobs[some].detach(), naive, rtol=1e-5, atol=1e-5)


def test_samples_have_the_logprobs_that_the_plain_model_gives_on_the_cpu() -> None:
    model = make_sampled_model()
    requests = make_requests(16, max_new_tokens=40)
    sampler = TransformersSampler(make_sampled_model().to(CUDA), [1], max_batch_size=8)
    for request, response in zip(requests, run(sampler, requests), strict=True):
        assert response.behavior_logprobs is not None
        np.testing.assert_allclose(response.behavior_logprobs, oracle_logprobs(model, request, response), atol=2e-3)


def test_an_applied_version_changes_what_is_sampled_and_nothing_else() -> None:
    requests = make_requests(8, max_new_tokens=30, top_p=1.0)
    sampler = TransformersSampler(make_sampled_model(0).to(CUDA), [1], max_batch_size=8)
    before = run(sampler, requests)
    sampler.switch(sampler.stage(FakeSnapshot(5, make_sampled_model(1))))
    after = run(sampler, requests)
    fresh = run(TransformersSampler(make_sampled_model(1).to(CUDA), [1], max_batch_size=8), requests)
    assert [r.tokens for r in after] == [r.tokens for r in fresh] != [r.tokens for r in before]
    assert {r.min_policy_version for r in after} == {5}


def test_weights_published_from_the_device_arrive_as_their_bfloat16_cast(model: Path, tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", model)

    def work(ranks: Ranks) -> None:
        policy = load_policy(str(model), config.model, NUM_TOKENS, ranks, trained=True)
        with WeightPublisher(token=b"t") as publisher:
            publisher.publish(1, weight_shards(policy.model, "bfloat16", ranks))
            snapshot = WeightSubscriber([publisher.address], token=b"t").fetch(1)
        for name, parameter in policy.model.named_parameters():
            assert isinstance(parameter, DTensor)
            expected = parameter.to_local().detach().cpu().to(torch.bfloat16).view(torch.uint16).numpy()
            np.testing.assert_array_equal(snapshot.tensor(name), expected, err_msg=name)

    on_device(CUDA, work)
