"""The final policy, in the Hugging Face format: what a run leaves behind for others to load."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from spo.errors import ConfigError
from spo.models import tokenizer_files
from spo.trainer.parallel import Ranks


def save_policy(model: PreTrainedModel, reference_path: str, directory: Path, ranks: Ranks) -> None:
    """Writes weights (float32), configuration and tokenizer to `directory`; all ranks call this, rank 0 writes.

    Args:
        model: The sharded model.
        reference_path: The folder that it was loaded from; its tokenizer's files are copied as they are.
        directory: Appears when everything in it is complete; one of that name is replaced.
        ranks: Who this is.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        # A collective, a tensor at a time, so that only rank 0 holds all of them, and in its host's memory.
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if ranks.is_first:
            weights[name] = full.detach().cpu()
    if ranks.is_first:
        _save(model, weights, reference_path, directory)


def export_checkpoint(checkpoint: Path, reference_path: str, directory: Path) -> None:
    """Writes the policy of a checkpoint to `directory`, as `save_policy` does; in any process.

    Raises:
        ConfigError: The checkpoint is damaged, or of another model.
    """
    model = AutoModelForCausalLM.from_pretrained(reference_path, dtype=torch.float32, local_files_only=True)
    weights: dict[str, Tensor] = model.state_dict()
    try:
        # The names under which `Checkpoints` keeps a `Policy`, alone or beside a value model.
        kept = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
        prefix = "policy." if any(name.startswith("policy.policy.") for name in kept) else ""
        wanted = {"policy": {f"{prefix}model.{name}": weight for name, weight in weights.items()}}
        with warnings.catch_warnings():
            # That there is no process group is just what is asked for.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            state_dict_loader.load(wanted, checkpoint_id=checkpoint, no_dist=True)
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{checkpoint}: no checkpoint of a policy like {reference_path}: {reason}") from error
    _save(model, weights, reference_path, directory)


def _save(model: PreTrainedModel, weights: dict[str, Tensor], reference_path: str, directory: Path) -> None:
    partial = directory.with_name(f"partial-{directory.name}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=weights)
    for file in tokenizer_files(Path(reference_path)):
        shutil.copy2(file, partial / file.name)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
