"""From a policy version to vLLM's parameters: staged where its workers can read it, then loaded by each of them.

A version is loaded as a checkpoint is, by vLLM's own rules for fusing, splitting and repacking, so any model that vLLM
loads can be updated. One worker in this process reads the received arrays as they are. Several, in processes of their
own, read one file on the file system of the temporary directory (`TMPDIR`); it is gone when the version is.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor
from vllm.config import VllmConfig

from spo.errors import WeightsError
from spo.rollout.engine import Snapshot
from spo.rollout.staging import to_torch
from spo.vllm_plugin import load_checkpoint


@dataclass(frozen=True)
class FolderWeights:
    """Weights in the `*.safetensors` of a model folder."""

    version: int
    folder: str

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for path in sorted(Path(self.folder).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)


class ArrayWeights:
    """Weights in this process's memory."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self._tensors = {name: to_torch(snapshot.tensor(name)) for name in snapshot.names}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._tensors.items()


class FileWeights:
    """Weights in a nameless file of the process that made the object; copies of that, in other processes, map it."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Writes the file.

        Raises:
            WeightsError: The file system of temporary files has no room for it.
        """
        self.version = snapshot.version
        self._arrays: list[tuple[str, str, tuple[int, ...], int]] = []
        """Name, dtype, shape and offset in the file of each."""
        self._file = tempfile.TemporaryFile(prefix="spo-version-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        try:
            for name in snapshot.names:
                array = np.ascontiguousarray(snapshot.tensor(name))
                self._arrays.append((name, array.dtype.str, array.shape, self._file.tell()))
                self._file.write(array.data)
            self._file.flush()
        except OSError as error:
            raise WeightsError(
                f"version {self.version} cannot be written to {tempfile.gettempdir()}: {error}; set TMPDIR to a folder "
                "with room"
            ) from error

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, dtype, shape, offset in self._arrays:
            # "c": torch wants writable memory; what is written there stays private.
            yield name, to_torch(np.memmap(self._path, dtype, "c", offset, shape))

    def __getstate__(self) -> dict[str, Any]:
        return {"version": self.version, "_arrays": self._arrays, "_path": self._path}


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
    vllm_config: VllmConfig

    def spo_load_weights(self, weights: FolderWeights | StagedWeights) -> str | None:
        """Loads a version in place of the one before.

        Returns:
            What went wrong, if anything; some weights may be of the new version then, and another must be loaded. It is
            not raised, since of several workers' errors vLLM takes one for the answer to the next call.
        """
        try:
            load_checkpoint(self.model_runner.get_model(), self.vllm_config, weights)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None
