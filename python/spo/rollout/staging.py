"""What every engine does with a policy version that arrives: is it of this model, and how does torch see its arrays?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spo.errors import WeightsError
from spo.rollout.engine import Snapshot


def check_fits(snapshot: Snapshot, shapes: Mapping[str, Sequence[int]]) -> None:
    """Compares a version with the model that it is for.

    Args:
        snapshot: The version.
        shapes: The shape of each of the model's parameters, by name; tied ones once.

    Raises:
        WeightsError: Names or shapes differ.
    """
    names = set(snapshot.names)
    if names != shapes.keys():
        missing, extra = shapes.keys() - names, names - shapes.keys()
        raise WeightsError(
            f"version {snapshot.version} is of another model: {len(missing)} parameters are missing "
            f"({min(missing, default='none')}), {len(extra)} unknown ({min(extra, default='none')})"
        )
    for name, shape in shapes.items():
        found = snapshot.tensor(name).shape
        if found != tuple(shape):
            raise WeightsError(f"version {snapshot.version}: {name} is {found}, in the model {tuple(shape)}")


def to_torch(array: npt.NDArray[Any]) -> Tensor:
    """A tensor in the array's memory; uint16 holds bfloat16's bits."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
