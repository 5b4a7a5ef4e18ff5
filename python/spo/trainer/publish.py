"""A policy version on its way out: each rank hands its own shard of the weights to `spo.weights`, which serves them.

No collective is involved. Names are those of the Hugging Face model; weights that are tied are published once, under
the first of their names. Who fetches which version is not known here.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from spo.trainer.parallel import Ranks
from spo.weights import WeightShard


def weight_shards(model: nn.Module, dtype: Literal["float32", "bfloat16"], ranks: Ranks) -> list[WeightShard]:
    """This rank's part of every parameter of a sharded model, as `WeightPublisher.publish` takes it.

    Args:
        model: The Hugging Face model, sharded by `parallel.shard`.
        dtype: What the float32 masters are rounded to.
        ranks: Who this is.
    """
    return [_weight_shard(name, parameter, dtype, ranks) for name, parameter in model.named_parameters()]


def _weight_shard(name: str, parameter: Tensor, dtype: Literal["float32", "bfloat16"], ranks: Ranks) -> WeightShard:
    if not isinstance(parameter, DTensor):
        raise TypeError(f"{name} is not sharded")
    local = parameter.to_local().detach().reshape(-1)
    data = local.to(torch.bfloat16).view(torch.uint16) if dtype == "bfloat16" else local.to(torch.float32)
    # FSDP2 shards the first dimension as `torch.chunk` does: ranks in order, ⌈rows / ranks⌉ rows each, the last fewer.
    num_rows = parameter.shape[0]
    first_row = min(ranks.rank * math.ceil(num_rows / ranks.world_size), num_rows)
    return WeightShard(
        name=name,
        dtype=dtype,
        shape=tuple(parameter.shape),
        offset=first_row * math.prod(parameter.shape[1:]),
        data=data.cpu().numpy(),
    )
