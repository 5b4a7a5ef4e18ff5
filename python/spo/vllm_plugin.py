"""spo's weight streaming as a weight transfer backend of vLLM: for any trainer and any vLLM, without the rest of spo.

vLLM finds the backend by itself where `spo-rl` is installed (entry point `vllm.general_plugins`). Its side is chosen
with `weight_transfer_config=WeightTransferConfig(backend="spo")`, the trainer's with `SpoTrainerInit`. Each worker
fetches the version over TCP, as changes to the one that it has, verified, and then makes those changes in its
parameters (`spo.vllm_model`). What cannot be fetched or applied whole leaves the version before in place. The engine
stands still for both. A worker keeps the version that it has, as it was published, in host memory: changes are told
and decoded from it.

Besides, `worker_extension_cls="spo.vllm_plugin.WorkerExtension"` gives each worker a method `spo_update_weights`, for
programs that publish with `spo.weights` alone. Written for vLLM 0.32; `docs/examples/vllm_weights.py` uses it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from spo.vllm_versions import find_unsupported

if (_unsupported := find_unsupported()) is not None:
    raise ImportError(f"spo.vllm_plugin: {_unsupported}")

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Module
from vllm.config import VllmConfig
from vllm.distributed.weight_transfer import base
from vllm.model_executor.model_loader import get_model_loader

from spo.vllm_model import LiveModel, load_checkpoint
from spo.weight_map import Copy, changes_between
from spo.weights import Snapshot, WeightPublisher, WeightShard, WeightSubscriber

BACKEND = "spo"

_log = logging.getLogger(__name__)


def register() -> None:
    """Makes both sides known to vLLM; called by it in each of its processes, and when this module is imported."""
    from vllm.distributed.weight_transfer import factory

    with contextlib.suppress(ValueError):
        factory.WeightTransferEngineFactory.register_engine(BACKEND, SpoEngine)
    with contextlib.suppress(ValueError):
        factory.WeightTransferTrainerFactory.register_engine(BACKEND, SpoTrainerEngine)


# --- vLLM's side ---


class Receiver:
    """Brings versions from publishers into one worker's model, each of them whole."""

    def __init__(self, model: Module, vllm_config: VllmConfig) -> None:
        """Knows no publishers yet.

        Args:
            model: The worker's part of the model.
            vllm_config: Its settings.
        """
        self._model = model
        self._vllm_config = vllm_config
        self._live = LiveModel(model, vllm_config)
        self._subscriber: WeightSubscriber | None = None
        self._held: Snapshot | None = None

    def connect(self, publishers: list[str], token: str, timeout_s: float) -> None:
        """Takes these publishers from now on. The version in place stays; it is the base of changes where they know it.

        Args:
            publishers: `host:port` of each trainer rank's `WeightPublisher`.
            token: Their token, in hexadecimal digits.
            timeout_s: Longest duration of a fetch.
        """
        self._subscriber = WeightSubscriber(publishers, token=bytes.fromhex(token), timeout_s=timeout_s)

    def disconnect(self) -> None:
        """Forgets the publishers."""
        self._subscriber = None

    def read(self, name: str) -> list[tuple[Copy, Tensor]]:
        """What this worker's parameters hold of a tensor; `spo.weight_map.assemble` puts workers' parts together."""
        return self._live.read(name)

    def update(self, version: int) -> None:
        """Fetches a version and applies what it changes; the first is loaded whole, and the model mapped then.

        Raises:
            WeightsError: It could not be fetched; nothing has changed.
            Exception: It could not be applied; the version before is back in place.
        """
        if self._subscriber is None:
            raise RuntimeError("init_weight_transfer_engine comes first")
        snapshot = self._subscriber.fetch(version, base=self._held)
        try:
            self._apply(snapshot)
        except Exception:
            _log.exception("version %d could not be applied; the one before is put back", version)
            if not self._live.undo():
                load_checkpoint(self._model, self._vllm_config, self._weights_before())
            raise
        self._held = snapshot

    def _apply(self, snapshot: Snapshot) -> None:
        held, whole = self._held, self._live.whole_names
        if held is None:
            shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in _tensors(snapshot)}
            self._live.prepare(shapes, lambda: _tensors(snapshot))
        elif whole is None or _kinds(held) != _kinds(snapshot):
            self._live.load(_tensors(snapshot))
        else:
            self._live.change(
                (name, None if positions is None else torch.from_numpy(positions), _to_torch(values))
                for name, positions, values in changes_between(held, snapshot, whole)
            )

    def _weights_before(self) -> Iterable[tuple[str, Tensor]]:
        if self._held is not None:
            return _tensors(self._held)
        loader = get_model_loader(self._vllm_config.load_config)
        weights: Iterable[tuple[str, Tensor]] = loader.get_all_weights(self._vllm_config.model_config, self._model)
        return weights


@dataclass
class SpoInit(base.WeightTransferInitInfo):  # type: ignore[misc]
    """What workers are told once; see `Receiver`."""

    publishers: list[str]
    token: str = ""
    timeout_s: float = 120.0


@dataclass
class SpoUpdate(base.WeightTransferUpdateInfo):  # type: ignore[misc]
    """What workers are told of each version."""

    version: int


class SpoEngine(base.WeightTransferEngine[SpoInit, SpoUpdate]):  # type: ignore[misc]
    """The worker's side of the backend. All is done in `update_weights`, so that it is done wholly or not at all."""

    init_info_cls = SpoInit
    update_info_cls = SpoUpdate
    supports_draft_weight_update = False
    _receiver: Receiver | None = None

    def init_transfer_engine(self, init_info: SpoInit) -> None:
        """Takes the publishers' addresses; may be called again when they change."""
        self._receiver = self._receiver or Receiver(self.model, self.vllm_config)
        self._receiver.connect(init_info.publishers, init_info.token, init_info.timeout_s)

    def start_weight_update(self) -> None:
        """Nothing."""

    def receive_weights(self, update_info: SpoUpdate) -> None:
        """Fetches and applies a version; see `Receiver.update` for what it raises."""
        if self._receiver is None:
            raise RuntimeError("init_weight_transfer_engine comes first")
        self._receiver.update(update_info.version)

    def finish_weight_update(self) -> None:
        """Nothing."""

    def shutdown(self) -> None:
        """Forgets the publishers; the version in place stays known."""
        if self._receiver is not None:
            self._receiver.disconnect()


class WorkerExtension:
    """For `worker_extension_cls`: a worker that takes versions from `spo.weights` publishers when told to."""

    model_runner: Any
    vllm_config: VllmConfig
    _spo_receiver: Receiver | None = None

    def spo_update_weights(self, publishers: list[str], token: str, version: int, timeout_s: float = 120.0) -> None:
        """Fetches and applies a version; `collective_rpc("spo_update_weights", args=(…))` calls it in every worker.

        The arguments are those of `Receiver.connect`, what is raised is what `Receiver.update` raises.
        """
        if self._spo_receiver is None:
            self._spo_receiver = Receiver(self.model_runner.get_model(), self.vllm_config)
        self._spo_receiver.connect(publishers, token, timeout_s)
        self._spo_receiver.update(version)

    def spo_read_weights(self, name: str) -> list[tuple[Copy, Tensor]]:
        """See `Receiver.read`; of `collective_rpc`'s answers `spo.weight_map.assemble` makes the tensor."""
        receiver = self._spo_receiver or getattr(getattr(self, "weight_transfer_engine", None), "_receiver", None)
        if receiver is None:
            raise RuntimeError("no version has come yet")
        return receiver.read(name)


# --- the trainer's side ---


@dataclass
class SpoTrainerInit(base.TrainerInitInfo):  # type: ignore[misc]
    """Where rank 0 of the trainers publishes."""

    backend: ClassVar[str] = BACKEND
    bind: str = "127.0.0.1:0"
    """`host:port` to listen on; beyond loopback, `token` is needed."""
    token: str = ""
    """The secret of publisher and workers, in hexadecimal digits."""
    keep: int = 2
    """Versions that can be fetched, or be the base of changes."""


class SpoTrainerEngine(base.TrainerWeightTransferEngine[SpoTrainerInit]):  # type: ignore[misc]
    """The trainer's side: rank 0 publishes what its `WeightSource` yields, and has the workers fetch it."""

    init_info_cls = SpoTrainerInit
    _publisher: WeightPublisher | None = None
    _version = 0

    @classmethod
    def trainer_init(
        cls,
        init_info: SpoTrainerInit,
        *,
        client: base.VLLMWeightSyncClient,
        source: base.WeightSource | None = None,
    ) -> Self:
        """Starts publishing and tells the workers where; called on every rank."""
        if source is None:
            raise ValueError("the backend spo needs a source, such as ModuleSource(model)")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            token = bytes.fromhex(init_info.token)
            engine._publisher = WeightPublisher(init_info.bind, token=token, keep=init_info.keep)
            client.init_weight_transfer_engine({"publishers": [engine._publisher.address], "token": init_info.token})
        return engine

    def send_weights(self) -> None:
        """Publishes the weights as they are now, and returns when all workers have them; called on every rank."""
        assert self.source is not None
        self._version += 1
        # Iterating gathers sharded parameters: a collective, which all ranks take part in.
        shards = [_shard(name, tensor) for name, tensor in self.source]
        if self._publisher is not None:
            self._publisher.publish(self._version, shards)
            self.client.start_weight_update()
            self.client.update_weights({"version": self._version})
            self.client.finish_weight_update(str(self._version))

    def shutdown(self) -> None:
        """Stops publishing."""
        if self._publisher is not None:
            self._publisher.close()


def _shard(name: str, tensor: Tensor) -> WeightShard:
    flat = tensor.detach().reshape(-1).cpu()
    if flat.dtype == torch.bfloat16:
        return WeightShard(name, "bfloat16", tuple(tensor.shape), 0, flat.view(torch.uint16).numpy())
    return WeightShard(name, "float32", tuple(tensor.shape), 0, flat.to(torch.float32).numpy())


def _tensors(snapshot: Snapshot) -> Iterator[tuple[str, Tensor]]:
    return ((name, _to_torch(array)) for name, array in snapshot.items())


def _to_torch(array: npt.NDArray[Any]) -> Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _kinds(snapshot: Snapshot) -> dict[str, tuple[tuple[int, ...], Any]]:
    return {name: (array.shape, array.dtype) for name, array in snapshot.items()}


register()  # in a trainer's process vLLM may never look for plug-ins
