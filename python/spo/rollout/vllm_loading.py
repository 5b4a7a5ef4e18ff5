"""Whether there is a vLLM that we know, and the engine that the run's settings ask of it. No vLLM at import.

vLLM's settings are read from the environment when it is imported, so they are made here first. It is stepped in the
worker's own process (one GPU, or the CPU) or has one process for each GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spo.config import Config
from spo.errors import ConfigError
from spo.vllm_versions import find_unsupported

if TYPE_CHECKING:
    from spo.rollout.vllm import VllmSampler

CPU_CACHE_BYTES = 1 << 30
"""For keys and values on a CPU, where nothing else is asked for."""

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}


def check_installed() -> None:
    """Makes sure that a vLLM of the supported series is installed.

    Raises:
        ConfigError: There is none, or another; the text says what to install.
    """
    reason = find_unsupported()
    if reason is not None:
        raise ConfigError(f"workers.engine: {reason}")


def load_sampler(config: Config, model_path: str, end_tokens: Sequence[int]) -> VllmSampler:
    """Loads the reference model into a vLLM engine, as `config.workers` and `config.vllm` say; on the engine's thread.

    Raises:
        ConfigError: vLLM cannot load the model, or not with these settings.
    """
    _set_environment(config)
    try:
        import torch
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        from spo.rollout.vllm import VllmSampler
        from spo.rollout.vllm_weights import FolderWeights
    except ImportError as error:
        raise ConfigError(f"workers.engine: the installed vLLM cannot be imported: {error}") from error

    torch.set_num_threads(config.workers.torch_threads)
    on_cpu = bool(current_platform.is_cpu())
    if on_cpu:
        _check_head_size(model_path)
    try:
        shapes = _parameter_shapes(model_path)
        engine = LLMEngine.from_engine_args(EngineArgs(**_engine_arguments(config, model_path, on_cpu)))
    except (ValueError, RuntimeError, OSError, NotImplementedError, AssertionError) as error:
        raise ConfigError(f"workers.engine: vLLM cannot sample {model_path}: {_reason(error)}") from error
    return VllmSampler(
        engine,
        end_tokens,
        reference=FolderWeights(0, model_path),
        shapes=shapes,
        max_batch_size=config.workers.max_batch_size,
    )


def _set_environment(config: Config) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", str(config.workers.torch_threads))
    kind, _, index = config.workers.device.partition(":")
    if kind == "cuda" and index:
        os.environ["CUDA_VISIBLE_DEVICES"] = index


def _engine_arguments(config: Config, model_path: str, on_cpu: bool) -> dict[str, Any]:
    settings = config.vllm
    return {
        "model": model_path,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": config.workers.dtype,
        "max_num_seqs": config.workers.max_batch_size,
        "max_model_len": settings.max_model_len or -1,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "distributed_executor_backend": "mp" if settings.tensor_parallel_size > 1 else "uni",
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "kv_cache_memory_bytes": settings.kv_cache_bytes or (CPU_CACHE_BYTES if on_cpu else None),
        "enable_prefix_caching": True,
        # After a part of a prompt vLLM winds the request's generator back, which generators on a CPU cannot do.
        "enable_chunked_prefill": False if on_cpu else None,
        # Compiling for a CPU takes minutes.
        "enforce_eager": settings.enforce_eager or on_cpu,
        "logprobs_mode": "processed_logprobs",
        # A step that is already under way would be of the version before a switch.
        "async_scheduling": False,
        "worker_extension_cls": "spo.rollout.vllm_weights.WeightLoader",
        "disable_log_stats": True,
    }


def _check_head_size(model_path: str) -> None:
    """Refuses what vLLM would find out at the first prompt."""
    from transformers import AutoConfig
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    model = AutoConfig.from_pretrained(model_path, local_files_only=True)
    size = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    supported = CPUAttentionBackend.get_supported_head_sizes()
    if size not in supported:
        raise ConfigError(
            f"workers.engine: the model's attention heads have {size} dimensions; on a CPU vLLM takes "
            f"{', '.join(map(str, supported))} (for model.path=tiny, set tiny.num_heads=5)"
        )


def _parameter_shapes(model_path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of what trainers publish: the parameters of the Hugging Face model, tied ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path, local_files_only=True))
    model.tie_weights()
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _reason(error: BaseException) -> str:
    """The message at the root of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
