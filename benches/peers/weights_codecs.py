"""The ways in which others send changed weights, on flat arrays of bfloat16 bit patterns.

Written after what each project does, one function to encode and one to apply, with torch or numpy as they use it:

- `PairCodec`: int32 places and bfloat16 values, as vLLM's `sparse_nccl` engine and verl's `delta_sharded` send them.
- `XorCodec`: the xor of both states through zstd at level 1, as slime does.
- `GapCodec`: like PULSE: sorted places as differences, and values, each through zstd.
- `nan_loader`: how vLLM 0.32 applies pairs (`vllm/model_executor/model_loader/checkpoint_weight_patch.py`, reached
  from `SparseNCCLWeightTransferEngine.receive_weights`): a tensor of the full shape full of NaN, the new values put
  into it, and the model's `load_weights` with a `Tensor.copy_` that keeps the target where the source is NaN.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from spo.weights import apply_patch, chunk_hashes, encode_patch

Patterns = NDArray[np.uint16]
Encoded = tuple[Any, ...]


class Codec(Protocol):
    """One way to send changes."""

    name: str

    def encode(self, old: Patterns, new: Patterns) -> Encoded:
        """What is sent, in parts."""

    def apply(self, target: Patterns, encoded: Encoded) -> None:
        """Turns the old state into the new one."""


class SpoCodec:
    """Ours, with the chunk hashes that both sides keep."""

    name = "spo"

    def __init__(self, old: Patterns) -> None:
        self._hashes = chunk_hashes(old)

    def encode(self, old: Patterns, new: Patterns) -> Encoded:
        """See `Codec`."""
        return (encode_patch(old, new, self._hashes.copy()),)

    def apply(self, target: Patterns, encoded: Encoded) -> None:
        """See `Codec`."""
        apply_patch(target, encoded[0], self._hashes.copy())


class PairCodec:
    """vLLM, verl."""

    name = "int32 + bf16 (vLLM sparse_nccl, verl)"

    def encode(self, old: Patterns, new: Patterns) -> Encoded:
        """See `Codec`."""
        after = torch.from_numpy(new).view(torch.int16)
        places = torch.nonzero(torch.from_numpy(old).view(torch.int16) != after).flatten()
        return places.to(torch.int32), after[places]

    def apply(self, target: Patterns, encoded: Encoded) -> None:
        """See `Codec`."""
        places, values = encoded
        torch.from_numpy(target).view(torch.int16).index_copy_(0, places.long(), values)


class XorCodec:
    """slime."""

    name = "xor + zstd-1 (slime)"

    def encode(self, old: Patterns, new: Patterns) -> Encoded:
        """See `Codec`."""
        return (zstandard.ZstdCompressor(level=1).compress(old ^ new),)

    def apply(self, target: Patterns, encoded: Encoded) -> None:
        """See `Codec`."""
        target ^= np.frombuffer(zstandard.ZstdDecompressor().decompress(encoded[0]), np.uint16)


class GapCodec:
    """PULSE-like."""

    name = "gaps + values, zstd-1 (PULSE-like)"

    def encode(self, old: Patterns, new: Patterns) -> Encoded:
        """See `Codec`."""
        places = np.flatnonzero(old != new)
        gaps = np.diff(places, prepend=0).astype(np.uint32)
        compress = zstandard.ZstdCompressor(level=1).compress
        return compress(gaps), compress(new[places])

    def apply(self, target: Patterns, encoded: Encoded) -> None:
        """See `Codec`."""
        gaps, values = (zstandard.ZstdDecompressor().decompress(part) for part in encoded)
        target[np.cumsum(np.frombuffer(gaps, np.uint32), dtype=np.int64)] = np.frombuffer(values, np.uint16)


def num_bytes(encoded: Encoded) -> int:
    """What it takes on the wire."""
    return sum(part.nbytes if isinstance(part, torch.Tensor) else len(part) for part in encoded)


class FlatModel(torch.nn.Module):
    """Weights in one parameter, loaded as vLLM's models load theirs: by a copy into the parameter."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weights, requires_grad=False)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Copies what is given."""
        names = set()
        for name, tensor in weights:
            self.weight.data.copy_(tensor)
            names.add(name)
        return names


def nan_loader(vllm: Path | None) -> tuple[str, Callable[[FlatModel, torch.Tensor, torch.Tensor], None]]:
    """The loader of vLLM itself, from the package folder `vllm`, or the same steps written here."""
    if vllm is not None:
        source = vllm / "model_executor" / "model_loader" / "checkpoint_weight_patch.py"
        spec = importlib.util.spec_from_file_location("checkpoint_weight_patch", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def theirs(model: FlatModel, places: torch.Tensor, values: torch.Tensor) -> None:
            shape = tuple(model.weight.shape)
            patch = module.CheckpointWeightPatch("weight", shape, torch.bfloat16, values, places)
            module.load_checkpoint_weight_patches(model, [patch])

        return "NaN tensor (vLLM's own file)", theirs
    return "NaN tensor (as vLLM 0.32)", _load_by_nan


@torch.no_grad()
def _load_by_nan(model: FlatModel, places: torch.Tensor, values: torch.Tensor) -> None:
    checks = [torch.isnan(values).any(), torch.logical_or(places < 0, places >= model.weight.numel()).any()]
    in_order = torch.sort(places).values
    checks.append((in_order[1:] == in_order[:-1]).any())
    if torch.stack(checks).any().item():
        raise ValueError("Sparse checkpoint patches contain NaN values, out-of-range or duplicate indices")
    full = torch.full((model.weight.numel(),), float("nan"), dtype=torch.bfloat16)
    full.index_copy_(0, places.long(), values)
    original = torch.Tensor.copy_

    def copy_non_nan(destination: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        source = source.to(dtype=destination.dtype, device=destination.device)
        return torch.where(torch.isnan(source), destination, source, out=destination)

    torch.Tensor.copy_ = copy_non_nan  # type: ignore[method-assign, assignment]
    try:
        model.load_weights([("weight", full.view(model.weight.shape))])
    finally:
        torch.Tensor.copy_ = original  # type: ignore[method-assign]
