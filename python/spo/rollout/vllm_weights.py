"""From a policy version to vLLM's parameters: staged where its workers can read it, then put in place by each of them.

Of a version that follows the one in place only the changes are staged. One worker in this process reads the arrays as
they are. Several, in processes of their own, read one file on the file system of the temporary directory (`TMPDIR`);
it is gone when the version is. What the workers do with them is in `spo.vllm_model`.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor
from vllm.config import VllmConfig

from spo.errors import WeightsError
from spo.rollout.engine import Snapshot
from spo.rollout.staging import to_torch
from spo.vllm_model import LiveModel, load_checkpoint
from spo.weight_map import Change


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


class SharedArrays:
    """Arrays in a nameless file of the process that made the object; copies of that, in other processes, map it."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        """Writes the file.

        Raises:
            WeightsError: The file system of temporary files has no room for it.
        """
        self._places: list[tuple[str, tuple[int, ...], int]] = []
        """Type, shape and offset in the file of each."""
        self._file = tempfile.TemporaryFile(prefix="spo-version-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        try:
            for array in arrays:
                self._file.write(bytes(-self._file.tell() % 8))
                self._places.append((array.dtype.str, array.shape, self._file.tell()))
                self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise WeightsError(
                f"weights cannot be written to {tempfile.gettempdir()}: {error}; set TMPDIR to a folder with room"
            ) from error

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for dtype, shape, offset in self._places:
            # "c": torch wants writable memory; what is written there stays private.
            yield np.memmap(self._path, dtype, "c", offset, shape) if np.prod(shape) else np.empty(shape, dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"_places": self._places, "_path": self._path}


Arrays = Sequence[npt.NDArray[Any]] | SharedArrays


def share(arrays: Sequence[npt.NDArray[Any]], num_workers: int) -> Arrays:
    """Puts arrays where as many vLLM workers can read them.

    Raises:
        WeightsError: There is no room for them.
    """
    return arrays if num_workers == 1 else SharedArrays(arrays)


@dataclass(frozen=True)
class WholeWeights:
    """All tensors of a version."""

    names: Sequence[str]
    arrays: Arrays

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, array in zip(self.names, self.arrays, strict=True):
            yield name, to_torch(array)

    @classmethod
    def of(cls, snapshot: Snapshot, num_workers: int) -> WholeWeights:
        """Stages a version; see `share`."""
        return cls(list(snapshot.names), share([snapshot.tensor(name) for name in snapshot.names], num_workers))


@dataclass(frozen=True)
class ChangedWeights:
    """What a version changes of another."""

    entries: Sequence[tuple[str, bool]]
    """Names, and whether positions come before the values."""
    arrays: Arrays

    def __iter__(self) -> Iterator[tuple[str, Tensor | None, Tensor]]:
        arrays = iter(self.arrays)
        for name, has_positions in self.entries:
            positions = torch.from_numpy(next(arrays)) if has_positions else None
            yield name, positions, to_torch(next(arrays))

    @classmethod
    def of(cls, changes: Sequence[Change], num_workers: int) -> ChangedWeights:
        """Stages changes; see `share`."""
        arrays = [array for _, *pair in changes for array in pair if array is not None]
        return cls([(name, positions is not None) for name, positions, _ in changes], share(arrays, num_workers))


class WeightLoader:
    """What each vLLM worker can do besides, as its `worker_extension_cls`.

    The methods return what went wrong, if anything. It is not raised, since of several workers' errors vLLM takes one
    for the answer to the next call.
    """

    model_runner: Any
    vllm_config: VllmConfig
    _spo_model: LiveModel

    def spo_prepare(self, shapes: dict[str, tuple[int, ...]], weights: FolderWeights) -> list[str] | None:
        """Maps the model, which then has these weights again.

        Returns:
            Names of tensors that must always be given whole; None if versions must.
        """
        self._spo_model = LiveModel(self.model_runner.get_model(), self.vllm_config)
        # The model's own type: of each tensor of another vLLM warns.
        dtype = self.vllm_config.model_config.dtype
        self._spo_model.prepare({name: (shape, dtype) for name, shape in shapes.items()}, lambda: weights)
        names = self._spo_model.whole_names
        return None if names is None else sorted(names)

    def spo_load_weights(self, weights: FolderWeights | WholeWeights) -> str | None:
        """Replaces all weights; if that fails, some may be new, and others must be loaded."""
        try:
            if isinstance(weights, FolderWeights):
                load_checkpoint(self.model_runner.get_model(), self.vllm_config, weights)
            else:
                self._spo_model.load(weights)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def spo_change_weights(self, changes: ChangedWeights) -> str | None:
        """Changes weights in place; if that fails, some may be new, and `spo_undo_change` must follow."""
        try:
            self._spo_model.change(changes)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def spo_undo_change(self) -> str | None:
        """Takes the last change back, whether or not it failed here; if that fails, others must be loaded."""
        try:
            return None if self._spo_model.undo() else "some tensors were loaded whole"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
