"""The final policy, in the Hugging Face format: what a run leaves behind for others to load."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

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
    if not ranks.is_first:
        return
    partial = directory.with_name(f"partial-{directory.name}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=weights)
    for file in tokenizer_files(Path(reference_path)):
        shutil.copy2(file, partial / file.name)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
