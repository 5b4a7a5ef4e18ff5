"""The trainer's ranks: the process group, each rank's device, and how a model is sharded over the ranks (FSDP2).

One path serves any number of ranks; a run without `torchrun` is a group of one. The few collectives outside FSDP's own
are here: a sum of small vectors, a text, a barrier. What is trained, and how, is not known here.
"""

from __future__ import annotations

import datetime
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from spo.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This rank's place among all, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes files and prints."""
        return self.rank == 0


def start_ranks(device: str, torch_threads: int, timeout_s: float) -> Ranks:
    """Joins the process group that `torchrun` describes in the environment, or makes one of a single rank.

    Args:
        device: `auto`, `cpu` or `cuda`; gloo serves CPU tensors, nccl those on CUDA.
        torch_threads: Threads of this rank.
        timeout_s: How long a rank waits for another one, in the start and in every collective.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    torch.set_num_threads(torch_threads)
    chosen = _choose_device(device)
    backend = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
    timeout = datetime.timedelta(seconds=timeout_s)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, timeout=timeout, store=store, rank=0, world_size=1)
    mesh = init_device_mesh(chosen.type, (dist.get_world_size(),))
    return Ranks(dist.get_rank(), dist.get_world_size(), chosen, mesh)


def stop_ranks() -> None:
    """Leaves the process group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _choose_device(device: str) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"trainer.device: {device!r} is asked for, but torch finds no CUDA device; set it to cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"trainer.device: local rank {index} has no CUDA device of its own ({torch.cuda.device_count()} found); "
            "start fewer ranks a node"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def shard(model: nn.Module, layers: Sequence[nn.Module], ranks: Ranks, compute_dtype: torch.dtype) -> None:
    """Shards a model's parameters over the ranks, in place: each of `layers` by itself, the rest with the root.

    Parameters keep their dtype; forward and backward see them in `compute_dtype`. Gradients are reduced in float32 and
    *summed* over ranks, so that a rank's loss must be its share of the global loss.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    # With one rank there is nothing to free between forward and backward; the root is needed again at once.
    for layer in layers:
        fully_shard(layer, mesh=ranks.mesh, mp_policy=precision, reshard_after_forward=ranks.world_size > 1)
    fully_shard(model, mesh=ranks.mesh, mp_policy=precision, reshard_after_forward=False)
    for module in (*layers, model):
        module.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        module.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum of a tensor over all ranks, in place."""
    dist.all_reduce(values)
    return values


def broadcast_text(text: str, ranks: Ranks) -> str:
    """Rank 0's `text`, on every rank."""
    data = text.encode()
    length = torch.tensor([len(data)], device=ranks.device)
    dist.broadcast(length, src=0)
    buffer = torch.zeros(int(length.item()), dtype=torch.uint8, device=ranks.device)
    if ranks.is_first:
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(buffer, src=0)
    return buffer.cpu().numpy().tobytes().decode()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: allocated by torch on a CUDA device, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def barrier() -> None:
    """Waits until every rank is here."""
    dist.barrier()
