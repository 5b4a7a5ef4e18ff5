"""From a policy version to vLLM's parameters: staged where its workers can read it, then loaded by each of them.

A version is loaded as a checkpoint is, by vLLM's own rules for fusing, splitting and repacking, so any model that vLLM
loads can be updated. One worker in this process reads the received arrays as they are. Several, in processes of their
own, read one file on the file system of the temporary directory (`TMPDIR`); it is gone when the version is.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

from spo.errors import WeightsError
from spo.rollout.engine import Snapshot
from spo.rollout.staging import to_torch


@dataclass(frozen=True)
class FolderWeights:
    """Weights in the `*.safetensors` of a model folder."""

    version: int
    folder: str

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for path in sorted(Path(self.folder).glob("*.safetensors")):
            yield from _read(str(path))


class ArrayWeights:
    """Weights in this process's memory."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self._tensors = {name: to_torch(snapshot.tensor(name)) for name in snapshot.names}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._tensors.items()


class FileWeights:
    """Weights in a nameless file of the process that made the object; copies of that, in other processes, read it."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Writes the file.

        Raises:
            WeightsError: The file system of temporary files has no room for it.
        """
        self.version = snapshot.version
        self._file = tempfile.TemporaryFile(prefix="spo-version-")  # noqa: SIM115
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        try:
            save_file({name: to_torch(snapshot.tensor(name)) for name in snapshot.names}, self._path)
        except Exception as error:
            raise WeightsError(
                f"version {self.version} cannot be written to {tempfile.gettempdir()}: {error}; set TMPDIR to a folder "
                "with room"
            ) from error

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from _read(self._path)

    def __getstate__(self) -> dict[str, Any]:
        return {"version": self.version, "_path": self._path}


StagedWeights = ArrayWeights | FileWeights


def stage_weights(snapshot: Snapshot, num_workers: int) -> StagedWeights:
    """Puts a version where as many vLLM workers can read it.

    Raises:
        WeightsError: There is no room for it.
    """
    return ArrayWeights(snapshot) if num_workers == 1 else FileWeights(snapshot)


class WeightLoader:
    """What each vLLM worker can do besides, as its `worker_extension_cls`."""

    model_runner: Any

    def spo_load_weights(self, weights: FolderWeights | StagedWeights) -> None:
        """Loads a version in place of the one before.

        Raises:
            Exception: What went wrong; some weights may be of the new version then, and another must be loaded.
        """
        # It warns of layers that have no weights, such as rotary embeddings, at each version.
        logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
        try:
            self.model_runner.reload_weights(weights_iterator=iter(weights))
        except BaseException:
            # Layers that wait for the rest of their weights must not do so in the next loading.
            finalize_layerwise_reload(self.model_runner.get_model(), self.model_runner.model_config)
            raise
        _repack_tied_heads(self.model_runner.get_model())


def _repack_tied_heads(model: Module) -> None:
    """Has heads that share the embedding's weights notice that those are new: on a CPU they keep a packed copy."""
    embeddings = {
        layer.weight.data_ptr()
        for layer in model.modules()
        if isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead)
    }
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and layer.weight.data_ptr() in embeddings:
            layer.quant_method.process_weights_after_loading(layer)


def _read(path: str) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)
