"""Versions put in place by their changes alone, in models laid out for 1 to 8 workers, against full loadings of vLLM's.

The layouts are simulated: a model is built as one rank of so many would build it, without the others, which only
running it would need.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from spo.weight_map import assemble, changes_between

pytestmark = [
    pytest.mark.vllm,
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning", "UserWarning")),
]

CHANGES = 0.01


def random_model(rng: np.random.Generator, tp_size: int) -> PreTrainedModel:
    """A Llama or Qwen2 that so many ranks can share: fewer heads for keys than ranks, too, and any vocabulary."""
    num_heads = tp_size * int(rng.integers(1, 3))
    divisors = [
        kv for kv in range(1, num_heads + 1) if num_heads % kv == 0 and (kv % tp_size == 0 or tp_size % kv == 0)
    ]
    is_qwen = bool(rng.integers(2))
    shape: dict[str, Any] = {
        "hidden_size": (32 if is_qwen else 8) * num_heads,
        "num_attention_heads": num_heads,
        "num_key_value_heads": int(rng.choice(divisors)),
        "intermediate_size": tp_size * int(rng.integers(3, 20)),
        "num_hidden_layers": int(rng.integers(1, 3)),
        # vLLM pads it to a multiple of 64, which the ranks must divide.
        "vocab_size": 64 * int(rng.choice([tp_size, 8 // tp_size if 8 % tp_size == 0 else tp_size]))
        - int(rng.integers(64)),
        "tie_word_embeddings": bool(rng.integers(2)),
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    torch.manual_seed(int(rng.integers(1 << 30)))
    if is_qwen:
        return AutoModelForCausalLM.from_config(Qwen2Config(**shape))
    return AutoModelForCausalLM.from_config(LlamaConfig(**shape, head_dim=32, attention_bias=bool(rng.integers(2))))


@pytest.fixture
def layouts() -> Any:
    """vLLM gives warnings when it is imported, which tests ignore and their collection does not."""
    import vllm_layouts

    return vllm_layouts


def named(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, array in arrays.items():
        yield name, to_torch(array)


def to_torch(array: np.ndarray) -> torch.Tensor:
    return (
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == np.uint16
        else torch.from_numpy(array)
    )


def published(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, np.ndarray]:
    tensors = {name: parameter.detach().to(dtype) for name, parameter in model.named_parameters()}
    return {name: t.view(torch.uint16).numpy() if dtype == torch.bfloat16 else t.numpy() for name, t in tensors.items()}


def changed(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Some elements of each tensor become others'; of some tensors none does, of others all."""
    new = {}
    for name, array in arrays.items():
        share = rng.choice([0, CHANGES, 1], p=[0.1, 0.8, 0.1])
        chosen = rng.random(array.shape) < share
        new[name] = np.where(chosen, rng.permutation(array.reshape(-1)).reshape(array.shape), array)
    return new


def apply(live: Any, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> None:
    assert live.whole_names is not None
    changes = changes_between(old, new, live.whole_names)
    live.change((name, None if p is None else torch.from_numpy(p), to_torch(v)) for name, p, v in changes)


def bits(model: Any) -> dict[str, torch.Tensor]:
    view = {2: torch.int16, 4: torch.int32}
    return {name: p.detach().clone().view(view[p.element_size()]) for name, p in model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("tp_size", range(1, 9))
def test_changes_through_the_map_make_what_a_full_loading_makes_in_every_layout(
    tp_size: int, layouts: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(tp_size)
    for case in range(2):
        dtype = torch.bfloat16 if rng.integers(4) else torch.float32
        model = random_model(rng, tp_size)
        config = layouts.configure(model, tmp_path / str(case), ("bfloat16", "float32")[int(rng.integers(2))])
        old = published(model, dtype)
        new = changed(old, rng)
        shapes = {name: (array.shape, dtype) for name, array in old.items()}
        held: dict[str, list[Any]] = {name: [] for name in old}
        for rank in range(tp_size):
            running, live = layouts.start(config, rank, tp_size, named(old))
            live.prepare(shapes, lambda old=old: named(old))
            assert live.whole_names == frozenset(), caplog.text
            before = bits(running)
            apply(live, old, new)
            after = bits(layouts.build(config, rank, tp_size, named(new)))
            assert same(bits(running), after)
            assert not same(before, after)
            assert live.undo()
            assert same(bits(running), before)
            live.load(named(new))
            assert same(bits(running), after)
            for name in old:
                held[name].append(live.read(name))
        for name, array in new.items():
            whole = assemble(held[name], array.shape)
            assert torch.equal(whole, to_torch(array).to(whole.dtype))
