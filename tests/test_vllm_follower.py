"""A worker's following of a trainer with the real vLLM: each version in the memory of the one before the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trio
from engine_oracle import make_requests
from test_vllm import END, check_drawn_from, make_config, make_model
from test_vllm import pytestmark as pytestmark
from transformers import LlamaForCausalLM

from spo.rollout.follower import Follower
from spo.rollout.threaded import ThreadedEngine
from spo.rollout.vllm_loading import load_sampler
from spo.types import NewVersion
from spo.weights import Snapshot, WeightPublisher, WeightShard, WeightSubscriber

TOKEN = b"the run's token"


class Watched:
    """A subscriber that remembers which memory its versions were received into."""

    def __init__(self, addresses: list[str], reused: list[bool]) -> None:
        self._subscriber = WeightSubscriber(addresses, token=TOKEN)
        self._reused = reused

    def fetch(self, version: int, *, base: Any = None, into: Any = None) -> Snapshot:
        memory = {} if into is None else dict(into)
        snapshot = self._subscriber.fetch(version, base=base, into=into)
        self._reused.append(bool(memory) and all(np.shares_memory(snapshot[name], memory[name]) for name in memory))
        return snapshot


def take_a_step(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Moves one weight in a hundred by a lot, and keeps all on bfloat16 numbers."""
    for parameter in model.parameters():
        moved = torch.rand(parameter.shape, generator=generator) < 0.01
        by = torch.randn(parameter.shape, generator=generator) * moved
        parameter.data = (parameter.data + by).to(torch.bfloat16).to(torch.float32)


def shards_of(model: LlamaForCausalLM) -> list[WeightShard]:
    """All of it, as a single rank publishes it."""
    rounded = {name: p.detach().to(torch.bfloat16).view(torch.uint16) for name, p in model.named_parameters()}
    return [WeightShard(name, "bfloat16", tuple(p.shape), 0, p.flatten().numpy()) for name, p in rounded.items()]


async def test_versions_in_used_memory_are_what_was_published(tmp_path: Path) -> None:
    make_model(0).save_pretrained(tmp_path)
    engine = await ThreadedEngine.start(lambda: load_sampler(make_config(), str(tmp_path), [END]))
    generator, model, reused = torch.Generator().manual_seed(0), make_model(0), []
    with trio.fail_after(300), WeightPublisher(token=TOKEN, keep=1) as publisher:
        follower = Follower(engine, lambda addresses: Watched(addresses, reused))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            for version in range(1, 31):
                take_a_step(model, generator)
                publisher.publish(version, shards_of(model))
                if version % 5 == 4:
                    continue  # nobody is told: the next follows the one before
                follower.offer(NewVersion(version=version, publishers=[publisher.address]))
                await follower.wait_for(version, timeout_s=60)
                requests = make_requests(2, seed=version, max_new_tokens=6)
                check_drawn_from(model, requests, await engine.generate(requests))
            nursery.cancel_scope.cancel()
    await engine.close()
    assert reused == [False] * 2 + [True] * 22
