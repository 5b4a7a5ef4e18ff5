"""The key-value cache of a batch whose rows come and go: one slot a row, each as long as its own text.

A row's keys and values lie at its slot from column 0 on, so no row is padded on the left, and a token's column is its
position. A forward pass either fills slots with whole prompts (`prefill`) or appends one token to each of the first
rows (`append`); the caller masks what lies beyond a row's length. Slots are kept dense: where a row leaves, the last
one moves in.

Shapes: B rows, S slots, H key-value heads, T columns, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

MIN_COLUMNS = 64


class SlotCache(Cache):  # type: ignore[misc]
    """A `transformers` cache for models in which every layer attends to everything before.

    The base class is told of no layers, so it answers that nothing is cached: true in a prefill, and in `append` never
    used, since the caller gives mask and positions then.
    """

    def __init__(self, num_slots: int) -> None:
        """Makes an empty cache; memory is taken as layers and columns are used."""
        super().__init__(layers=[])
        self._num_slots = num_slots
        self._keys: list[Tensor] = []  # a layer: [S, H, T, D]
        self._values: list[Tensor] = []
        self._slots: Tensor
        self._sources: Tensor | None
        self._lengths: Tensor
        self._num_columns: int

    def prefill(self, slots: Tensor, sources: Tensor) -> None:
        """Lets the next forward pass fill slots from column 0 on: slot `slots[i]` gets row `sources[i]` of it."""
        self._slots, self._sources = slots, sources

    def append(self, lengths: Tensor, num_columns: int) -> None:
        """Lets the next forward pass append a token to each of the first B rows.

        Args:
            lengths: int64 [B]; how many tokens each row has already.
            num_columns: The longest row's length with its new token.
        """
        self._slots, self._sources = torch.arange(len(lengths), device=lengths.device), None
        self._lengths, self._num_columns = lengths, num_columns

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keeps a layer's new states, [B, H, new tokens, D]; returns those that the new tokens attend to."""
        num_columns = self._num_columns if self._sources is None else key_states.shape[2]
        for cached, states in ((self._keys, key_states), (self._values, value_states)):
            self._make_room(cached, states, layer_idx, num_columns)
            if self._sources is None:
                cached[layer_idx][self._slots, :, self._lengths] = states[:, :, 0]
            else:
                cached[layer_idx][self._slots, :, :num_columns] = states[self._sources]
        if self._sources is not None:
            return key_states, value_states
        num_rows = len(self._slots)
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        return keys[:num_rows, :, :num_columns], values[:num_rows, :, :num_columns]

    def move(self, source: int, target: int, length: int) -> None:
        """Moves a row of `length` tokens to another slot."""
        for cached in (*self._keys, *self._values):
            cached[target, :, :length] = cached[source, :, :length]

    def _make_room(self, cached: list[Tensor], states: Tensor, layer_idx: int, num_columns: int) -> None:
        # Zeros, not any memory: a masked column takes part in the weighted sum, where NaN × 0 is NaN.
        if len(cached) <= layer_idx:
            shape = (self._num_slots, states.shape[1], max(num_columns, MIN_COLUMNS), states.shape[3])
            cached.append(states.new_zeros(shape))
        old = cached[layer_idx]
        have = old.shape[2]
        if num_columns > have:
            new = old.new_zeros(*old.shape[:2], max(num_columns, 2 * have), old.shape[3])
            new[:, :, :have] = old
            cached[layer_idx] = new
