"""A model that runs in vLLM and takes new weights: whole, or by their changes alone, in place.

Which elements of a checkpoint are where in the model's parameters is recorded from vLLM's own loading, once
(`spo.weight_map`), and proved: random weights are loaded by vLLM, others are put over them through the map, and every
parameter, buffer and derived tensor must then be, bit for bit, what vLLM makes of those others. Layers for which it is
not so, and those that vLLM repacks, get their tensors whole, by vLLM's own loading (the dense way); where it is not
known which tensors those are, the whole model does.

On a CPU vLLM multiplies by repacked copies of its weights. They are given up, where the model is not compiled: torch's
multiplication takes the weights as they are.

Written for vLLM 0.32, whose internals it uses. Left out: where weights come from, and between which steps they change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from vllm.config import CompilationMode, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import (
    _get_original_loader,
    _place_kernel_tensors,
    get_layerwise_info,
)
from vllm.model_executor.model_loader.reload.meta import materialize_meta_tensor, restore_layer_on_meta
from vllm.model_executor.model_loader.reload.utils import get_layer_params_buffers, get_layer_tensors

from spo.weight_map import Copy, CopyRecorder

Weights = Iterable[tuple[str, Tensor]]
"""Checkpoint tensors by name, in their full shapes."""
Changes = Iterable[tuple[str, Tensor | None, Tensor]]
"""As `spo.weight_map.Change`, as tensors."""
Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]

_PLAIN_METHODS = (type(None), UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
"""What layers whose weights are used as they are have as their `quant_method`."""
_NOT_WEIGHTS = ("kv_cache",)

_log = logging.getLogger(__name__)


def load_checkpoint(model: Any, vllm_config: VllmConfig, weights: Weights) -> None:
    """Loads weights into a model that runs, by vLLM's own rules: of all layers, or of some whole ones.

    Raises:
        Exception: Whatever went wrong. Some weights may be new then: load others, whole.
    """
    # It warns of layers that have no weights, such as rotary embeddings, each time.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    with set_current_vllm_config(vllm_config), torch.no_grad():
        initialize_layerwise_reload(model)
        try:
            model.load_weights(weights)
        finally:
            # Whatever came, layers that wait for more must not do so in the next loading.
            finalize_layerwise_reload(model, vllm_config.model_config)
        _repack_tied_heads(model)


def _repack_tied_heads(model: Any) -> None:
    """Has heads that share the embedding's weights notice that those are new: on a CPU they keep a packed copy."""
    embeddings = {
        layer.weight.data_ptr()
        for layer in model.modules()
        if isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead)
    }
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and layer.weight.data_ptr() in embeddings:
            layer.quant_method.process_weights_after_loading(layer)
        if isinstance(layer, ParallelLMHead) and getattr(layer, "_cpu_skip_gemm_dispatch", False):
            layer.cpu_linear = torch.nn.functional.linear


class LiveModel:
    """One worker's part of a model, whose weights are replaced while it is not running."""

    def __init__(self, model: Module, vllm_config: VllmConfig) -> None:
        """Takes the model as it is; see `prepare`."""
        self._model = model
        self._vllm_config = vllm_config
        self._copies: dict[str, list[Copy]] = {}
        self._flats: dict[str, Tensor] = {}
        """Parameters that are changed in place, flattened."""
        self._undo: list[tuple[Tensor, Tensor | slice, Tensor]] = []
        self._is_torn = False
        self.whole_names: frozenset[str] | None = None
        """Tensors of which a change must bring all elements of all of them; None: the model is not mapped."""

    def prepare(self, shapes: Shapes, weights: Callable[[], Weights]) -> None:
        """Maps the model, at the price of four loadings; whether or not that works, it then has `weights`.

        Args:
            shapes: Shape and type of each checkpoint tensor that versions have.
            weights: Yields all of them.
        """
        self._undo, self._is_torn = [], True
        try:
            _unpack(self._model, self._vllm_config)
            self._map(shapes)
            self._prove(shapes)
        except Exception as error:
            _log.warning("new versions are loaded whole: %s: %s", type(error).__name__, error)
            self._copies, self.whole_names = {}, None
        load_checkpoint(self._model, self._vllm_config, weights())
        self._is_torn = False

    def load(self, weights: Weights) -> None:
        """Replaces all weights.

        Raises:
            Exception: Whatever went wrong. Some weights may be new then: load others, whole.
        """
        self._undo, self._is_torn = [], True
        if self.whole_names is None:
            load_checkpoint(self._model, self._vllm_config, weights)
        else:
            self._apply((name, None, tensor) for name, tensor in weights)
        self._is_torn = False

    def change(self, changes: Changes) -> None:
        """Changes weights of a mapped model in place; what they were is kept for `undo` until the next change.

        Raises:
            Exception: Whatever went wrong; some weights may be new then.
        """
        self._undo, self._is_torn = [], False
        self._apply(changes, keep=True)

    def undo(self) -> bool:
        """Takes back what the last `change` did, as far as it got; False if others must be loaded to that end."""
        while self._undo:
            flat, places, old = self._undo.pop()
            flat[places] = old
        return not self._is_torn

    def read(self, name: str) -> list[tuple[Copy, Tensor]]:
        """What this worker holds of a mapped checkpoint tensor: boxes of it and their elements, copied."""
        return [(copy, copy.target_view(self._flats[copy.target]).clone()) for copy in self._copies[name]]

    # --- mapping ---------------------------------------------------------------------------------------------------

    def _map(self, shapes: Shapes) -> None:
        """Records the loading of these tensors, on the meta device: the weights stay as they are."""
        self.whole_names = None
        layers = dict(self._model.named_modules())
        for layer in layers.values():
            info = get_layerwise_info(layer)
            info.kernel_tensors = get_layer_params_buffers(layer)
            info.kernel_non_persistent_buffers = set(layer._non_persistent_buffers_set)
            restore_layer_on_meta(layer, info)
            for tensor in get_layer_tensors(layer).values():
                if hasattr(tensor, "weight_loader"):  # earlier loadings have left theirs, which would defer copying
                    tensor.weight_loader = _get_original_loader(tensor)
        try:
            stored = {key: tensor for key, tensor in _tensors(layers) if not key.endswith(_NOT_WEIGHTS)}
            recorder = CopyRecorder(stored)
            with set_current_vllm_config(self._vllm_config), torch.no_grad(), recorder:
                self._model.load_weights(recorder.sources(shapes))  # type: ignore[operator]
        finally:
            for layer in layers.values():
                info = get_layerwise_info(layer)
                _place_kernel_tensors(layer, info)
                info.reset()
        if recorder.opaque:
            raise NotImplementedError(f"what vLLM computes {min(recorder.opaque)} from is not known")
        self._copies = recorder.copies
        targets = {copy.target for copies in self._copies.values() for copy in copies}
        live = {key: tensor for key, tensor in _tensors(layers) if key in targets}
        plain = {
            key for key, tensor in live.items() if tensor.shape == stored[key].shape and _is_plain(layers[_layer(key)])
        }
        self._flats = {key: live[key].data.view(-1) for key in plain if live[key].is_contiguous()}
        self._load_whole({_layer(key) for key in targets - self._flats.keys()})

    def _load_whole(self, layers: set[str]) -> None:
        """Has these layers loaded whole, and those that have tensors in common with them."""
        names: set[str] = set()
        while True:
            names = {name for name, copies in self._copies.items() if any(_layer(c.target) in layers for c in copies)}
            touched = {_layer(copy.target) for name in names for copy in self._copies[name]}
            if touched <= layers:
                break
            layers |= touched
        self.whole_names = (self.whole_names or frozenset()) | names

    def _prove(self, shapes: Shapes) -> None:
        """Compares the map with loading; see the head of this file."""
        load_checkpoint(self._model, self._vllm_config, _random_weights(shapes, 1, self._device))
        self.load(_random_weights(shapes, 2, self._device))
        mapped = self._fingerprints()
        load_checkpoint(self._model, self._vllm_config, _random_weights(shapes, 2, self._device))
        loaded = self._fingerprints()
        wrong = {key for key in mapped.keys() | loaded.keys() if mapped.get(key) != loaded.get(key)}
        live = dict(_tensors(dict(self._model.named_modules())))
        memory = {flat.data_ptr(): key for key, flat in self._flats.items()}
        targets = {key: memory.get(live[key].data_ptr()) if key in live else None for key in wrong}
        unknown = sorted(key for key, target in targets.items() if target is None)
        if unknown:
            raise NotImplementedError(f"vLLM computes {unknown[0]} from the weights")
        if wrong:
            _log.warning("loading does more than copying to %s, and others: loaded whole", min(wrong))
            self._load_whole({_layer(target) for target in targets.values() if target is not None})

    def _fingerprints(self) -> dict[str, tuple[int, ...]]:
        layers = dict(self._model.named_modules())
        derived = {
            f"{name}.{key}": value
            for name, layer in layers.items()
            for key, value in vars(layer).items()
            if isinstance(value, Tensor) and key not in _NOT_WEIGHTS
        }
        stored = {key: tensor for key, tensor in _tensors(layers) if not key.endswith(_NOT_WEIGHTS)}
        return {key: _fingerprint(tensor) for key, tensor in (derived | stored).items() if not tensor.is_meta}

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    # --- applying --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _apply(self, changes: Changes, *, keep: bool = False) -> None:
        whole: list[tuple[str, Tensor]] = []
        assert self.whole_names is not None
        for name, positions, values in changes:
            if name in self.whole_names:
                whole.append((name, values))
            elif positions is None:
                self._copy(name, values, keep)
            else:
                self._scatter(name, positions, values, keep)
        if whole:
            self._is_torn = True
            load_checkpoint(self._model, self._vllm_config, whole)

    def _copy(self, name: str, values: Tensor, keep: bool) -> None:
        values = values.contiguous()
        for copy in self._copies[name]:
            view = copy.target_view(self._flats[copy.target])
            if keep:
                self._undo.append((view, slice(None), view.clone()))
            view.copy_(copy.source_view(values))

    def _scatter(self, name: str, positions: Tensor, values: Tensor, keep: bool) -> None:
        positions = positions.to(self._device)
        values = values.to(self._device)
        for copy in self._copies[name]:
            chosen, places = copy.locate(positions)
            flat = self._flats[copy.target]
            if keep:
                self._undo.append((flat, places, flat[places]))
            flat[places] = values[chosen].to(flat.dtype)


def _unpack(model: Module, vllm_config: VllmConfig) -> None:
    """Has layers on a CPU multiply by their weights as they are; those are empty until weights are loaded."""
    if vllm_config.compilation_config.mode != CompilationMode.NONE:
        return
    layer: Any
    for layer in model.modules():
        method = type(getattr(layer, "quant_method", None))
        if not hasattr(layer, "cpu_linear") or method not in _PLAIN_METHODS:
            continue
        if layer.weight.numel() == 0:
            layer.weight = materialize_meta_tensor(get_layerwise_info(layer).restore_metadata[0]["weight"])
        if getattr(layer, "bias", None) is not None:
            layer.bias.data = layer.bias.data.to(layer.weight.dtype)
        layer._cpu_skip_gemm_dispatch = True
        layer.cpu_linear = torch.nn.functional.linear


def _is_plain(layer: Module) -> bool:
    is_packed = getattr(layer, "cpu_linear", torch.nn.functional.linear) is not torch.nn.functional.linear
    return type(getattr(layer, "quant_method", None)) in _PLAIN_METHODS and not is_packed


def _tensors(layers: Mapping[str, Module]) -> Iterator[tuple[str, Tensor]]:
    for name, layer in layers.items():
        parameters, buffers = get_layer_params_buffers(layer)
        for key, tensor in (parameters | buffers).items():
            yield f"{name}.{key}", tensor


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _random_weights(shapes: Shapes, seed: int, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Random signs, fractions and sixteen powers of two: numbers that no type of weights rounds to zero or infinity."""
    for index, (name, (shape, dtype)) in enumerate(shapes.items()):
        generator = torch.Generator(device).manual_seed(index << 8 | seed)
        bits = torch.empty(shape, dtype=torch.int32, device=device).random_(-(1 << 31), None, generator=generator)
        # float32's sign, the lower half of its exponent below a fixed upper half, and its fraction.
        yield name, ((bits & -0x78000001) | 0x38000000).view(torch.float32).to(dtype)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 1 << 22


def _fingerprint(tensor: Tensor) -> tuple[int, ...]:
    """A hash of a tensor's shape and bits, which depends on their places; computed where the tensor is."""
    if tensor.numel() == 0 or tensor.element_size() not in _INTEGERS:
        return tuple(tensor.shape)
    bits = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
    total = 0
    for start in range(0, bits.numel(), _PIECE):
        piece = bits[start : start + _PIECE].to(torch.int64)
        mixed = piece + torch.arange(start, start + piece.numel(), device=piece.device) * -0x61C8864680B583EB
        for factor in (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):
            mixed = (mixed ^ (mixed >> 31)) * factor
        total += int((mixed ^ (mixed >> 32)).sum())
    return (*tensor.shape, total)
