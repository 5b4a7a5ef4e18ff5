"""Checkpoints: the policy's float32 masters, optimiser and orchestrator's state of one step, whole or not at all.

A checkpoint is a folder `checkpoints/step-N`. It is written under another name and renamed when every rank's part is on
disk, so a folder of that name is always whole. The sharded parts are torch's distributed checkpoint, which any number
of ranks may load. The final policy, in the format that others load, is `export`'s.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from spo.trainer.parallel import Ranks, barrier

STATE_FILE = "orchestrator.state"
_REFERENCE = "reference"
_NAME = re.compile(r"step-(\d{8})")


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, directory: Path, keep: int, ranks: Ranks) -> None:
        """Looks after `directory`; the newest `keep` checkpoints are kept."""
        self._directory = directory
        self._keep = keep
        self._ranks = ranks

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, oldest first."""
        if not self._directory.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(
        self,
        step: int,
        trained: nn.Module,
        optimizer: Optimizer,
        orchestrator_state: bytes,
        reference: nn.Module | None = None,
    ) -> None:
        """Writes the checkpoint of `step`; all ranks call this, rank 0 with the orchestrator's state.

        A reference is given where it changes.

        When it returns on rank 0, the checkpoint is whole and durable.

        Raises:
            OSError: It cannot be written; earlier checkpoints are untouched.
        """
        partial = self._directory / f"partial-{step:08d}"
        if self._ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier()
        model_state, optimizer_state = get_state_dict(trained, optimizer)
        # Returns when every rank's part is written and synchronised.
        state = {"policy": model_state, "optimizer": optimizer_state}
        if reference is not None:
            state[_REFERENCE] = get_model_state_dict(reference)
        state_dict_saver.save(state, checkpoint_id=partial)
        if self._ranks.is_first:
            _write_durably(partial / STATE_FILE, orchestrator_state)
            _sync_directory(partial)
            final = self._path(step)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync_directory(self._directory)
            self._remove_old()

    def load(self, step: int, trained: nn.Module, optimizer: Optimizer, reference: nn.Module | None = None) -> bytes:
        """Puts what is trained and its optimiser back to what they were at `step`; all ranks call this.

        So it does a reference that changes; one that did not until then stays as it is.

        Returns:
            The orchestrator's state of that step.
        """
        path = self._path(step)
        model_state, optimizer_state = get_state_dict(trained, optimizer)
        state_dict_loader.load({"policy": model_state, "optimizer": optimizer_state}, checkpoint_id=path)
        set_state_dict(trained, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
        if reference is not None and _has_reference(path):
            reference_state = get_model_state_dict(reference)
            state_dict_loader.load({_REFERENCE: reference_state}, checkpoint_id=path)
            set_model_state_dict(reference, reference_state)
        return (path / STATE_FILE).read_bytes()

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:08d}"

    def _remove_old(self) -> None:
        for step in self.steps()[: -self._keep]:
            shutil.rmtree(self._path(step), ignore_errors=True)
        for leftover in self._directory.glob("partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_reference(checkpoint: Path) -> bool:
    names = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return any(name.startswith(f"{_REFERENCE}.") for name in names)
