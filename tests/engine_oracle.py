"""What tests of samplers share: requests, versions made from models, and the plain model's word on what was drawn."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from spo.rollout.engine import Request, Response, Sampler

VOCABULARY = 50


def make_requests(num: int, seed: int = 0, **settings: object) -> list[Request]:
    rng = np.random.default_rng(seed)
    requests = []
    for index in range(num):
        fields: dict[str, object] = {
            "prompt_tokens": tuple(rng.integers(2, VOCABULARY, size=rng.integers(1, 12)).tolist()),
            "temperature": float(rng.uniform(0.5, 1.5)),
            "top_p": float(rng.choice([0.8, 0.95, 1.0])),
            "seed": 1000 + index,
            "max_new_tokens": int(rng.integers(5, 90)),
        }
        requests.append(Request(**(fields | settings)))  # type: ignore[arg-type]
    return requests


def run(sampler: Sampler, requests: list[Request]) -> list[Response]:
    """Samples all, taking new ones in as rows become free."""
    responses: dict[int, Response] = {}
    waiting = list(enumerate(requests))
    num_active = 0
    while len(responses) < len(requests):
        free = sampler.max_batch_size - num_active
        sampler.add(waiting[:free])
        num_active += len(waiting[:free])
        waiting = waiting[free:]
        finished = sampler.step()
        num_active -= len(finished)
        responses |= dict(finished)
    return [responses[index] for index in range(len(requests))]


class FakeSnapshot:
    """A version made from a model's parameters."""

    def __init__(self, version: int, model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
        self.version = version
        self.tensors = {name: p.detach().to(dtype) for name, p in model.named_parameters()}

    @property
    def names(self) -> list[str]:
        return list(self.tensors)

    def tensor(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@torch.no_grad()
def oracle_logprobs(model: PreTrainedModel, request: Request, response: Response) -> np.ndarray:
    """Each response token's logprob from one plain pass without a cache, tempered and cut as the definition says."""
    tokens = torch.tensor([request.prompt_tokens + response.tokens])
    logits = model(input_ids=tokens, use_cache=False).logits[0, len(request.prompt_tokens) - 1 : -1].double()
    probabilities = torch.softmax(logits / request.temperature, dim=-1)
    ordered, indices = probabilities.sort(dim=-1, descending=True)
    outside = (ordered.cumsum(-1) - ordered) >= request.top_p
    ordered[outside & torch.tensor(request.top_p < 1)] = 0
    kept = torch.zeros_like(probabilities).scatter(-1, indices, ordered)
    drawn = kept[torch.arange(len(response.tokens)), torch.tensor(response.tokens)] / kept.sum(-1)
    return drawn.log().numpy()
