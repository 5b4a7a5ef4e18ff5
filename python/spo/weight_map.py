"""Where a checkpoint's elements are in an engine's parameters: recorded from its own loading, to change few of them.

An engine fuses, splits, pads and repeats a checkpoint's tensors as it loads them, each model in its own way. A
`CopyRecorder` watches one such loading and notes every `copy_` out of a checkpoint tensor into a parameter. torch
itself says from which elements to which: both sides are views, with an offset and strides into storages that are
known. So narrowing, reshaping or transposing on the way needs no interpretation, and a loading can be recorded on the
meta device, where nothing is read or written. Whatever reaches a parameter in another way (through a tensor that was
computed, say) makes it opaque.

Left out: engines. Whether the recorded copies are all that loading does is for the engine's adapter to prove.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Copy:
    """A box of elements that a checkpoint tensor and a parameter have in common.

    Attributes:
        target: The parameter's name.
        sizes: The box's extent in each dimension; source strides fall, so that a flat position has one place in it.
        source_strides: Elements between neighbours, in the flattened tensor.
        source_offset: Flat position of the box's first element there.
        target_strides: As `source_strides`, in the flattened parameter.
        target_offset: As `source_offset`, there.
    """

    target: str
    sizes: tuple[int, ...]
    source_strides: tuple[int, ...]
    source_offset: int
    target_strides: tuple[int, ...]
    target_offset: int

    def source_view(self, flat: Tensor) -> Tensor:
        """The box in a flattened checkpoint tensor."""
        return flat.as_strided(self.sizes, self.source_strides, flat.storage_offset() + self.source_offset)

    def target_view(self, flat: Tensor) -> Tensor:
        """The box in a flattened parameter."""
        return flat.as_strided(self.sizes, self.target_strides, flat.storage_offset() + self.target_offset)

    def locate(self, positions: Tensor) -> tuple[slice | Tensor, Tensor]:
        """Finds which of some flat positions in the checkpoint tensor are in the box, in time proportional to theirs.

        Args:
            positions: int64, ascending.

        Returns:
            What selects those in the box, and their flat positions in the parameter.
        """
        extent = sum((size - 1) * stride for size, stride in zip(self.sizes, self.source_strides, strict=True))
        bounds = torch.tensor([self.source_offset, self.source_offset + extent + 1], device=positions.device)
        start, end = torch.searchsorted(positions, bounds).tolist()
        rest = positions[start:end] - self.source_offset
        target = torch.full_like(rest, self.target_offset)
        inside: Tensor | None = None
        for size, source, step in zip(self.sizes, self.source_strides, self.target_strides, strict=True):
            if source == 1:
                place, rest = rest, torch.zeros_like(rest)
            else:
                place = rest // source
                rest = rest - place * source
            target += place * step
            if len(self.sizes) > 1:
                fits = place < size
                inside = fits if inside is None else inside & fits
        if self.source_strides[-1] > 1:
            inside = rest == 0 if inside is None else inside & (rest == 0)
        if inside is None:
            return slice(start, end), target
        kept = inside.nonzero().squeeze(1)
        return kept + start, target[kept]


def assemble(parts: Iterable[Iterable[tuple[Copy, Tensor]]], shape: tuple[int, ...]) -> Tensor:
    """A checkpoint tensor from what each worker's parameters hold of it.

    Raises:
        ValueError: Some elements are in none, or not the same in all of those that have them.
    """
    full: Tensor | None = None
    known = torch.zeros(shape, dtype=torch.bool)
    for copy, values in (part for worker in parts for part in worker):
        full = torch.zeros(shape, dtype=values.dtype) if full is None else full
        view, seen = copy.source_view(full), copy.source_view(known)
        if not torch.equal(view[seen], values.cpu()[seen]):
            raise ValueError("the workers differ in what they hold")
        view.copy_(values)
        seen.fill_(True)
    if full is None or not known.all():
        raise ValueError("some elements are not in any worker's parameters")
    return full


def _box(target: str, source: Tensor, destination: Tensor) -> Copy | None:
    """The copy from one view to another; None where a source position would have several places in it."""
    dims = [
        (source_stride, target_stride, size)
        for size, source_stride, target_stride in zip(
            destination.shape, source.stride(), destination.stride(), strict=True
        )
        if size > 1
    ]
    dims.sort(key=lambda dim: -dim[0])
    joined: list[tuple[int, int, int]] = []
    for source_stride, target_stride, size in dims:
        if joined and joined[-1][:2] == (source_stride * size, target_stride * size):
            size *= joined.pop()[2]
        joined.append((source_stride, target_stride, size))
    extent = 1
    for source_stride, _, size in reversed(joined):
        if source_stride < extent:
            return None
        extent = source_stride * size
    joined = joined or [(1, 1, 1)]
    return Copy(
        target,
        tuple(size for _, _, size in joined),
        tuple(stride for stride, _, _ in joined),
        int(source.storage_offset()),
        tuple(stride for _, stride, _ in joined),
        int(destination.storage_offset()),
    )


class CopyRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is copied from sources to targets while it is entered; writes to targets are noted instead of made.

    Attributes:
        copies: Of each source, what went where.
        opaque: Targets that something else was written to than constants and copies of sources.
    """

    def __init__(self, targets: Mapping[str, Tensor]) -> None:
        """Watches these parameters; one that is not contiguous, or a part of another, becomes opaque when copied to."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: dict[str, list[Copy]] = {}
        self.opaque: set[str] = set()
        self._targets: dict[int, str] = {}
        self._parts: set[str] = set()
        self._sources: dict[int, str] = {}
        self._alive: list[Tensor] = []
        """Storages are known by their addresses, so none may be freed."""
        for name, target in targets.items():
            self._alive.append(target)
            other = self._targets.setdefault(_storage(target), name)
            if other != name or not _is_whole(target):
                self._parts |= {name, other}

    def sources(self, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of these shapes and types, to be loaded while this is entered."""
        for name, (shape, dtype) in tensors.items():
            # Loaders read a single number instead of copying it: that works with a real one only.
            device = "cpu" if shape.count(1) == len(shape) else "meta"
            source = torch.zeros(shape, dtype=dtype, device=device)
            self._alive.append(source)
            self._sources[_storage(source)] = name
            self.copies[name] = []
            yield name, source

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written = [
            args[index] if index < len(args) else kwargs.get(argument.name)
            for index, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        names = [self._targets.get(_storage(tensor)) for tensor in written if isinstance(tensor, Tensor)]
        if not any(names):
            return func(*args, **kwargs)
        if func is torch.ops.aten.copy_.default:
            self._note(names[0], args[0], args[1])
        elif func not in (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default):
            self.opaque |= {name for name in names if name is not None}
        return args[0]

    def _note(self, target: str | None, destination: Tensor, source: Tensor) -> None:
        assert target is not None
        if destination.numel() == 0:
            return
        name = self._sources.get(_storage(source))
        box = None if name is None else _box(target, source.expand(destination.shape), destination)
        if name is None or box is None or target in self._parts:
            self.opaque.add(target)
        else:
            self.copies[name].append(box)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


# --- what changes ---

Arrays = Mapping[str, npt.NDArray[Any]]
Change = tuple[str, npt.NDArray[np.int64] | None, npt.NDArray[Any]]
"""A checkpoint tensor's name, the flat positions that change (None: all), the new values (if all, in full shape)."""

DENSE_SHARE = 1 / 8
"""From this share of changed elements on, a tensor is copied whole: that is quicker then."""


def changes_between(old: Arrays, new: Arrays, whole: Collection[str]) -> list[Change]:
    """What must be done to make the version `new` of `old`; equal are numbers whose bits are.

    Args:
        old: The version before.
        new: Another, with the same names, shapes and types (uint16 or float32).
        whole: Names of tensors that go together: if one of them changes, all are given, and in full.
    """
    changes: list[Change] = []
    bundle = False
    for name, array in new.items():
        positions = np.flatnonzero(_bits(old[name]) != _bits(array))
        if name in whole:
            bundle |= positions.size > 0
        elif positions.size > DENSE_SHARE * array.size:
            changes.append((name, None, array))
        elif positions.size:
            changes.append((name, positions, array.reshape(-1)[positions]))
    return changes + [(name, None, new[name]) for name in new if bundle and name in whole]


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.reshape(-1).view(f"u{array.itemsize}")
