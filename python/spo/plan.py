"""A run laid out on GPUs, and what each holds in memory: `spo train PRESET --dry-run`. Nothing is started or loaded.

Memory is counted, not measured: parameters, gradients, optimiser, what FSDP2 gathers, activations, logits, caches. What
the allocator, kernels and NCCL take besides, some gigabytes, is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spo.config import Config
from spo.errors import ConfigError
from spo.model_shapes import ModelShape, shape_of
from spo.objective_rules import needs_values, objective_terms

GIB = 1 << 30
_FLOAT32 = 4
_ADAM_MOMENTS = 2
_GATHERED_LAYERS = 2
"""Layers that are whole at once: the one that computes and the next one, prefetched."""


@dataclass(frozen=True)
class Plan:
    """How a run is laid out.

    Attributes:
        shape: The policy's.
        trainer_gpus: Ranks that the policy is sharded over.
        worker_gpus: GPUs of the rollout workers.
        gpus_per_worker: On how many of them each worker's model is spread.
        trainer_bytes: What a trainer GPU holds, by name.
        worker_bytes: What a worker's GPU holds, by name.
    """

    shape: ModelShape
    trainer_gpus: int
    worker_gpus: int
    gpus_per_worker: int
    trainer_bytes: dict[str, int]
    worker_bytes: dict[str, int]


def make_plan(config: Config, num_ranks: int | None = None) -> Plan:
    """Lays a run out, on `num_ranks` trainer ranks instead of those that the settings plan with, if given.

    Raises:
        ConfigError: The model's sizes are not known, or workers' GPUs are left over.
    """
    shape = shape_of(config.model.path)
    trainer_gpus = num_ranks or config.plan.trainer_gpus or 1
    gpus_per_worker = config.vllm.tensor_parallel_size if config.workers.engine == "vllm" else 1
    worker_gpus = config.plan.worker_gpus or config.workers.num_workers * gpus_per_worker
    if worker_gpus % gpus_per_worker:
        raise ConfigError(
            f"plan.worker_gpus ({worker_gpus}) is no multiple of vllm.tensor_parallel_size ({gpus_per_worker}); "
            "change one"
        )
    return Plan(
        shape=shape,
        trainer_gpus=trainer_gpus,
        worker_gpus=worker_gpus,
        gpus_per_worker=gpus_per_worker,
        trainer_bytes=_trainer_bytes(config, shape, trainer_gpus),
        worker_bytes=_worker_bytes(config, shape),
    )


def _trainer_bytes(config: Config, shape: ModelShape, num_gpus: int) -> dict[str, int]:
    width = _bytes_of(config.model.dtype)
    shard = math.ceil(shape.parameters / num_gpus)
    gathered = shape.root_parameters + _GATHERED_LAYERS * shape.layer_parameters
    # A unit's gradients exist whole, as computed and in float32, until they are reduced.
    largest_unit = max(shape.root_parameters, shape.layer_parameters)
    value_model = {}
    if needs_values(config.objective):
        # Of the policy's size, but for the output head; its activations are held together with the policy's.
        value_model = {
            "value model with gradients and moments, float32 shard": (2 + _ADAM_MOMENTS) * _FLOAT32 * shard,
            "value model, gathered": width * gathered,
            "value model's activations": _activation_bytes(config, shape, width),
        }
    return {
        "policy, float32 shard": _FLOAT32 * shard,
        "gradients, float32 shard": _FLOAT32 * shard,
        "AdamW moments, float32 shard": _ADAM_MOMENTS * _FLOAT32 * shard,
        f"reference, {config.model.dtype} shard": width * shard,
        "gathered parameters, policy and reference": width * (gathered + shape.root_parameters),
        "gradients before they are reduced": (width + _FLOAT32) * largest_unit,
        "activations": _activation_bytes(config, shape, width),
        "logits of a chunk": config.model.logprob_chunk_tokens
        * shape.vocabulary
        * (_FLOAT32 + (width if width < _FLOAT32 else 0)),
        **value_model,
    }


def _activation_bytes(config: Config, shape: ModelShape, width: int) -> int:
    tokens = config.batch.rows_per_forward * config.batch.token_budget
    # Inputs of norms and of both halves, queries, keys, values, attention's output, three of the MLP.
    heads = 2 * shape.num_heads + 2 * shape.num_kv_heads
    layer = tokens * (4 * shape.width + heads * shape.head_width + 3 * shape.mlp_width) * width
    if not config.model.gradient_checkpointing:
        return shape.num_layers * layer
    return shape.num_layers * tokens * shape.width * width + layer


def _worker_bytes(config: Config, shape: ModelShape) -> dict[str, int]:
    width = _bytes_of(config.workers.dtype)
    row = width * config.batch.token_budget * shape.kv_values_per_token
    if config.workers.engine == "vllm":
        return _vllm_bytes(config, width * shape.parameters, row)
    return {
        "latest policy": width * shape.parameters,
        "reference": width * shape.parameters,
        "next version, while it is put in place": width * shape.parameters,
        f"key-value cache of {config.workers.max_batch_size} full rows": config.workers.max_batch_size * row,
    }


def _vllm_bytes(config: Config, model: int, row: int) -> dict[str, int]:
    """One policy at a time; keys and values get what is left of vLLM's share, and a row at the least."""
    num_gpus = config.vllm.tensor_parallel_size
    weights, row = math.ceil(model / num_gpus), math.ceil(row / num_gpus)
    cache = config.vllm.kv_cache_bytes or max(row, int(_worker_limit_gib(config) * GIB) - weights)
    held = {"policy or reference": weights, f"key-value cache of {cache // row} full rows": cache}
    return {f"{name}, 1/{num_gpus} of it" if num_gpus > 1 else name: value for name, value in held.items()}


def _worker_limit_gib(config: Config) -> float:
    share = config.vllm.gpu_memory_utilization if config.workers.engine == "vllm" else 1.0
    return share * config.plan.gpu_memory_gib


def render(config: Config, plan: Plan) -> str:
    """The plan for people."""
    names = " + ".join(f"{term.weight:g} {term.name}" for _, term in objective_terms(config.objective))
    online, annotated = config.batch.online_fraction, config.batch.annotated_fraction
    mix = f"{online:.0%} online" + (f", {annotated:.0%} annotated" if annotated else "")
    lines = [
        f"Model       {config.model.path}, {plan.shape.parameters:,} parameters",
        f"Objective   {names}, β {config.objective.beta:.4g}",
        f"Batch       {config.batch.num_trajectories} trajectories ({mix}), rows of "
        f"{config.batch.token_budget} tokens, {config.trainer.total_steps:,} steps",
        f"Optimiser   AdamW, {config.optimizer.warmup_steps} warm-up steps, then {config.optimizer.learning_rate:g}",
        f"Sampling    temperature {config.sampling.temperature_min:g} to {config.sampling.temperature_max:g}, top-p "
        f"{config.sampling.top_p:g}, new weights every {config.weights.model_update_interval} steps",
        f"Evaluation  {config.evaluation.num_samples} samples, temperature {config.evaluation.temperature:g}, top-p "
        f"{config.evaluation.top_p:g}, pass@{', '.join(map(str, config.evaluation.ks))}",
        "",
        f"Trainers    {_gpus(plan.trainer_gpus, config)}: policy and reference sharded over all of them (FSDP2), "
        "batches shared out by rows",
        *_memory(plan.trainer_bytes, config.plan.gpu_memory_gib),
        "",
        f"Workers     {_gpus(plan.worker_gpus, config)}: {_layout(config, plan)}",
        *_memory(plan.worker_bytes, _worker_limit_gib(config)),
    ]
    return "\n".join(lines)


def _layout(config: Config, plan: Plan) -> str:
    engine = f" ({config.workers.engine})"
    if plan.gpus_per_worker == 1:
        return f"a whole model each{engine}"
    count = plan.worker_gpus // plan.gpus_per_worker
    return f"{count} model{'s' if count != 1 else ''} spread over {plan.gpus_per_worker} each{engine}"


def _memory(bytes_of: dict[str, int], limit: float) -> list[str]:
    total = sum(bytes_of.values())
    lines = [f"  {value / GIB:8.2f} GiB  {name}" for name, value in bytes_of.items()]
    verdict = "fits" if total <= limit * GIB else "DOES NOT FIT"
    return [*lines, f"  {total / GIB:8.2f} GiB  a GPU in all; {verdict} into {limit:g} GiB"]


def _gpus(count: int, config: Config) -> str:
    nodes = math.ceil(count / config.plan.gpus_per_node)
    return f"{count} GPU{'s' if count != 1 else ''} on {nodes} node{'s' if nodes != 1 else ''}"


def _bytes_of(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else _FLOAT32
