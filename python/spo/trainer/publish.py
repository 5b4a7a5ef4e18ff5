"""A policy version on its way out: each rank hands its own shard of the weights to `spo.weights`, which serves them.

No collective is involved. Names are those of the Hugging Face model; weights that are tied are published once, under
the first of their names. The trainer waits for a copy on its own device only: the way to the host and into the
publisher's memory is gone in a thread, beside the next steps. Who fetches which version is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from spo.trainer.parallel import Ranks
from spo.weights import WeightPublisher, WeightShard

Dtype = Literal["float32", "bfloat16"]


class VersionPublisher:
    """Publishes versions of a model in the background, one after the other."""

    def __init__(self, publisher: WeightPublisher, model: nn.Module, dtype: Dtype, ranks: Ranks) -> None:
        """Publishes nothing yet.

        Args:
            publisher: Serves the versions; stays the caller's to close, after this.
            model: The Hugging Face model, sharded by `parallel.shard`.
            dtype: What the float32 masters are rounded to.
            ranks: Who this is.
        """
        self._publisher = publisher
        self._model = model
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._dtype = dtype
        self._ranks = ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._last: Future[None] | None = None
        self._staging: dict[str, Tensor] = {}
        """Page-locked host memory for each parameter, which a device writes to at full speed; made once."""

    def publish(self, version: int, published: Callable[[int], None]) -> None:
        """Copies this rank's shards as they are now, and returns; when they are served a thread calls `published`.

        Waits for the version before this one, if it is not served yet.

        Raises:
            WeightsError: That one could not be published.
        """
        self.wait()
        local = {name: _rounded(name, p, self._dtype) for name, p in self._model.named_parameters()}
        ready = torch.cuda.Event() if self._ranks.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if ready is not None:
            ready.record()
        self._last = self._thread.submit(self._serve, version, local, ready, published)

    def wait(self) -> None:
        """Returns when the last version is served.

        Raises:
            WeightsError: It could not be published.
        """
        if self._last is not None:
            self._last.result()
            self._last = None

    def _serve(
        self, version: int, local: dict[str, Tensor], ready: torch.cuda.Event | None, published: Callable[[int], None]
    ) -> None:
        if ready is not None:
            local = self._to_host(local, ready)
        shards = [
            _weight_shard(name, self._shapes[name], data, self._dtype, self._ranks) for name, data in local.items()
        ]
        self._publisher.publish(version, shards)
        published(version)

    def _to_host(self, local: dict[str, Tensor], ready: torch.cuda.Event) -> dict[str, Tensor]:
        """Copies to page-locked memory on a stream of its own, so that the trainer's kernels go on meanwhile."""
        if not self._staging:
            self._staging = {
                name: torch.empty_like(data, device="cpu", pin_memory=True) for name, data in local.items()
            }
        stream = torch.cuda.Stream(self._ranks.device)  # type: ignore[no-untyped-call]
        stream.wait_event(ready)
        with torch.cuda.stream(stream):
            for name, data in local.items():
                self._staging[name].copy_(data, non_blocking=True)
        stream.synchronize()
        return self._staging

    def __enter__(self) -> VersionPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()


def weight_shards(model: nn.Module, dtype: Dtype, ranks: Ranks) -> list[WeightShard]:
    """This rank's part of every parameter of a sharded model, as `WeightPublisher.publish` takes it.

    Args:
        model: The Hugging Face model, sharded by `parallel.shard`.
        dtype: What the float32 masters are rounded to.
        ranks: Who this is.
    """
    return [
        _weight_shard(name, parameter.shape, _rounded(name, parameter, dtype).cpu(), dtype, ranks)
        for name, parameter in model.named_parameters()
    ]


def _rounded(name: str, parameter: Tensor, dtype: Dtype) -> Tensor:
    """A copy of this rank's shard, flat, on its device; bfloat16 as uint16 bit patterns."""
    if not isinstance(parameter, DTensor):
        raise TypeError(f"{name} is not sharded")
    local = parameter.to_local().detach().reshape(-1)
    if dtype == "bfloat16":
        return local.to(torch.bfloat16, copy=True).view(torch.uint16)
    return local.to(torch.float32, copy=True)


def _weight_shard(name: str, shape: torch.Size, data: Tensor, dtype: Dtype, ranks: Ranks) -> WeightShard:
    # FSDP2 shards the first dimension as `torch.chunk` does: ranks in order, ⌈rows / ranks⌉ rows each, the last fewer.
    num_rows = shape[0]
    first_row = min(ranks.rank * math.ceil(num_rows / ranks.world_size), num_rows)
    return WeightShard(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        offset=first_row * math.prod(shape[1:]),
        data=data.numpy(),
    )
