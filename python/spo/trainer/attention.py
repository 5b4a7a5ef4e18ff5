"""Attention within each trajectory of packed rows, registered with `transformers` under the name `ATTENTION`.

Three ways give the same result. A mask is cheapest for many short trajectories but takes R·T² memory; one causal call a
trajectory takes none; flash attention takes all of them in one call (on CUDA, in half precision, heads of up to 256 in
eights, torch 2.10 or newer). Which one is used depends on packing, device, dtype and head size alone, so it is the same
for policy and reference.

Shapes: R rows, T tokens in a row, H heads (K of keys and values), D a head's size, S segments.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

try:
    varlen_attn: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

ATTENTION = "spo_packed"
MIN_MEAN_LENGTH = 128
"""Segments shorter than this on average are cheaper under a mask than one by one."""


@dataclass(frozen=True)
class Packing:
    """Where the trajectories of packed rows begin and end."""

    bounds: list[int]
    """Flat positions (row · T + column) of the S segments' starts, and R · T. Padding is a segment of its own."""
    bounds_S: Tensor
    """The same, int32 on the rows' device."""
    mask: Tensor | None
    """bool [R, 1, T, T], where attention goes by mask."""
    takes_flash: bool = False
    """Whether attention goes by flash attention; if neither, segment by segment."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest segment."""
        return max(end - start for start, end in zip(self.bounds, self.bounds[1:], strict=False))


def find_packing(position_ids_RT: Tensor, dtype: torch.dtype, head_size: int) -> Packing:
    """Finds the trajectories: each starts at position 0, and has at least two tokens.

    Args:
        position_ids_RT: int64 positions in each trajectory; 0 on padding.
        dtype: What attention is computed in.
        head_size: D.
    """
    num_rows, num_tokens = position_ids_RT.shape
    zero_RT = position_ids_RT == 0
    starts_RT = torch.zeros_like(zero_RT)
    # Of a run of padding only the first position starts a segment.
    starts_RT[:, :-1] = zero_RT[:, :-1] & (position_ids_RT[:, 1:] == 1)
    starts_RT[:, 1:] |= zero_RT[:, 1:] & ~zero_RT[:, :-1]
    starts_RT[:, 0] = True
    bounds = [*starts_RT.flatten().nonzero().flatten().tolist(), num_rows * num_tokens]
    bounds_S = torch.tensor(bounds, dtype=torch.int32, device=position_ids_RT.device)
    one_by_one = num_rows * num_tokens >= MIN_MEAN_LENGTH * (len(bounds) - 1)
    takes_flash = (
        varlen_attn is not None
        and position_ids_RT.is_cuda
        and dtype in (torch.bfloat16, torch.float16)
        and head_size % 8 == 0
        and head_size <= 256
    )
    mask = None if takes_flash or one_by_one else attention_mask(position_ids_RT)
    return Packing(bounds, bounds_S, mask, takes_flash)


def attention_mask(position_ids_RT: Tensor) -> Tensor:
    """Who attends to whom: bool [R, 1, T, T], causal, and within a trajectory only (each starts at position 0)."""
    segment_RT = (position_ids_RT == 0).cumsum(dim=1)
    same_RTT = segment_RT[:, :, None] == segment_RT[:, None, :]
    return same_RTT.tril().unsqueeze(1)


def packed_attention(
    module: nn.Module,
    query_RHTD: Tensor,
    key_RKTD: Tensor,
    value_RKTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    packing: Packing,
    **_: Any,
) -> tuple[Tensor, None]:
    """What `transformers` calls for each layer; returns [R, T, H, D]."""
    num_rows, num_heads, num_tokens, head_size = query_RHTD.shape
    if packing.mask is not None:
        key, value = (_repeated(x, num_heads) for x in (key_RKTD, value_RKTD))
        mixed = functional.scaled_dot_product_attention(query_RHTD, key, value, packing.mask, scale=scaling)
        return mixed.transpose(1, 2).contiguous(), None
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query_RHTD, key_RKTD, value_RKTD))
    if packing.takes_flash:
        mixed = _flash(query, key, value, packing, scaling)
    else:
        mixed = _one_by_one(query, key, value, packing, scaling)
    return mixed.view(num_rows, num_tokens, num_heads, head_size), None


def _flash(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None) -> Tensor:
    """All segments in one call; [R · T, H, D]."""
    settings: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _FLASH_SETTINGS else {"is_causal": True}
    if "scale" in _FLASH_SETTINGS:
        settings["scale"] = scaling
    elif scaling is not None:
        query = query * (scaling * query.shape[-1] ** 0.5)
    if "enable_gqa" in _FLASH_SETTINGS:
        settings["enable_gqa"] = True
    else:
        key, value = (_repeated(x, query.shape[1]) for x in (key, value))
    length = packing.max_length
    mixed: Tensor = varlen_attn(query, key, value, packing.bounds_S, packing.bounds_S, length, length, **settings)
    return mixed


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None) -> Tensor:
    """A call a segment; [R · T, H, D]."""
    key, value = (_repeated(x, query.shape[1]) for x in (key, value))
    parts = []
    for start, end in zip(packing.bounds, packing.bounds[1:], strict=False):
        q, k, v = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        parts.append(mixed[0].transpose(0, 1))
    return torch.cat(parts)


def _repeated(x: Tensor, num_heads: int) -> Tensor:
    """Heads (dimension 1) of keys or values, as often as query heads share them."""
    return x if x.shape[1] == num_heads else x.repeat_interleave(num_heads // x.shape[1], dim=1)


_FLASH_SETTINGS = frozenset(inspect.signature(varlen_attn).parameters) if varlen_attn is not None else frozenset()
"""They differ from one torch to the next."""

AttentionInterface.register(ATTENTION, packed_attention)
