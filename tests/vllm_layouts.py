"""vLLM's models built as one rank of many would build them, without the others, which only running one would need."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel
from vllm import EngineArgs
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.utils.torch_utils import set_default_torch_dtype

from spo.vllm_model import LiveModel, Weights


def configure(model: PreTrainedModel, folder: Path, dtype: str) -> VllmConfig:
    model.save_pretrained(folder)
    arguments = EngineArgs(str(folder), dtype=dtype, enforce_eager=True, skip_tokenizer_init=True)
    return arguments.create_engine_config()


def _group(rank: int, size: int) -> SimpleNamespace:
    ends = {"is_first_rank": rank == 0, "is_last_rank": rank == size - 1}
    return SimpleNamespace(rank_in_group=rank, rank=rank, world_size=size, device_group=None, **ends)


def build(config: VllmConfig, rank: int, size: int, weights: Weights) -> Any:
    """A model with these weights, as a checkpoint's are loaded; not repacked yet."""
    config.compilation_config.static_forward_context.clear()
    before = parallel_state._TP, parallel_state._PP
    parallel_state._TP, parallel_state._PP = _group(rank, size), _group(0, 1)
    try:
        with set_default_torch_dtype(config.model_config.dtype), set_current_vllm_config(config):
            model = initialize_model(config)
            model.load_weights(weights)
    finally:
        parallel_state._TP, parallel_state._PP = before
    return model


def start(config: VllmConfig, rank: int, size: int, weights: Weights) -> tuple[Any, LiveModel]:
    """A model as an engine has it."""
    model = build(config, rank, size, weights)
    process_weights_after_loading(model, config.model_config, torch.device("cpu"))
    return model, LiveModel(model, config)
