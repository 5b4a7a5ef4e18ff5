"""Weights on their way from trainer ranks to rollout workers: whole, verified policy versions, or nothing.

Every trainer rank runs a `WeightPublisher` that copies the rank's own shards and serves them over TCP, and over UNIX
sockets to those on its host, from background threads; a `WeightSubscriber` fetches one version from all ranks at once
and returns it as a `Snapshot`. Every chunk is checked where it landed in memory (state hash),
and the shards must cover every element of every tensor exactly once. The work is done in Rust (`rust/weights/`)
without the GIL; Ctrl-C is answered. No collective and no torch is involved: bfloat16 elements are handled as their
16-bit patterns.

Left out: which version to fetch and when (the orchestrator says), and encryption. The token keeps strangers
out (a mutual HMAC handshake); it does not hide the stream from someone who owns the network.

    with WeightPublisher(token=b"secret") as publisher:
        weight = np.zeros(6, np.float32)
        publisher.publish(1, [WeightShard("w", "float32", (2, 3), 0, weight)])
        snapshot = WeightSubscriber([publisher.address], token=b"secret").fetch(1)
        snapshot.tensor("w")  # float32 array of shape (2, 3)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spo import _native
from spo.errors import VersionGone, WeightsError

__all__ = [
    "Snapshot",
    "VersionGone",
    "WeightPublisher",
    "WeightShard",
    "WeightSubscriber",
    "WeightsError",
    "apply_patch",
    "chunk_hashes",
    "encode_patch",
]


class TorchTensor(Protocol):
    """A torch tensor; torch itself is not imported."""

    dtype: Any
    device: Any

    def detach(self) -> Any: ...


Patterns = npt.NDArray[np.uint16] | TorchTensor
"""A flat state: bfloat16 bit patterns in a numpy array of uint16, or a torch tensor on the CPU (bfloat16 or uint16)."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightShard:
    """One rank's contiguous part of a tensor, as FSDP2's `Shard(0)` leaves it; may be empty.

    Attributes:
        name: The tensor's name, the same on every rank.
        dtype: "float32" or "bfloat16".
        shape: Shape of the full tensor.
        offset: First element of this part, counted in the flattened full tensor.
        data: The part's elements: contiguous, 1-D, of uint16 (bfloat16 patterns), float32, or uint8 (raw
            bytes of either).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    data: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.float32]


class WeightPublisher:
    """Serves one rank's shards of the newest policy versions to any number of subscribers.

    A slow, dead or hostile subscriber delays neither `publish` nor the others. Use it as a context manager,
    or call
    `close`.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        token: bytes = b"",
        rank: int = 0,
        world_size: int = 1,
        keep: int = 2,
    ) -> None:
        """Listens and starts serving.

        Args:
            bind: "host:port" to listen on, by a name or address that subscribers reach; port 0 lets the system
                choose. Beyond loopback a token is needed. On loopback, with a token, a UNIX socket without a file is
                listened on too. Or "unix:/path" for a UNIX socket in a folder that subscribers reach.
            token: The run's secret, the same for publishers and subscribers.
            rank: This trainer's rank.
            world_size: Number of trainer ranks, each with a publisher of its own.
            keep: Number of newest versions that can be fetched. Memory is up to `keep` + 4 copies of the
                rank's shards while slow subscribers still read old versions, `keep` + 1 otherwise.

        Raises:
            ValueError: The arguments do not fit together, or `bind` is reachable from outside and there is no
                token.
            OSError: The address cannot be listened on.
        """
        self._native = _native.WeightPublisher(bind, token, rank, world_size, keep)

    @property
    def address(self) -> str:
        """The "host:port" or "unix:/path" that subscribers connect to."""
        return self._native.address

    @property
    def versions(self) -> list[int]:
        """Versions that can be fetched, oldest first."""
        return self._native.versions

    def publish(self, version: int, shards: Sequence[WeightShard]) -> None:
        """Copies this rank's shards and serves them as `version`; the oldest version beyond `keep` goes.

        Returns as soon as the copy is made: the caller may then change its arrays. After an error, the
        versions kept are what they were.

        Args:
            version: Greater than every version published before.
            shards: All that this rank holds; together with the other ranks', every element of every tensor
                exactly once.

        Raises:
            ValueError: A shard's dtype, shape, offset and data do not fit together, or the version does not
                grow.
            WeightsError: There is no memory for the copy, or the publisher is closed.
        """
        rows = [(shard.name, shard.dtype, list(shard.shape), shard.offset, shard.data) for shard in shards]
        self._native.publish(version, rows)

    def close(self) -> None:
        """Stops listening and ends every connection. Closing twice is harmless."""
        self._native.close()

    def __enter__(self) -> WeightPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Snapshot(Mapping[str, npt.NDArray[Any]]):
    """One whole, verified policy version: a mapping from tensor names to arrays of the full shape.

    Arrays are float32, or uint16 bit patterns for bfloat16 (`torch.from_numpy(array).view(torch.bfloat16)`).
    They own the memory that the version was received into; nothing is copied.

    Attributes:
        version: The policy version.
    """

    def __init__(self, version: int, tensors: dict[str, npt.NDArray[Any]]) -> None:
        self.version = version
        self._tensors = tensors

    @property
    def names(self) -> list[str]:
        """The tensors' names, in the order in which the ranks published them."""
        return list(self._tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """The full tensor of this name; KeyError if there is none."""
        return self._tensors[name]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Snapshot(version={self.version}, tensors={len(self)}, num_bytes={self.num_bytes})"


class WeightSubscriber:
    """Fetches whole policy versions from the publishers of all trainer ranks.

    It keeps no connection between fetches, so publishers may come and go. One subscriber may be used from
    several threads.
    """

    def __init__(
        self, addresses: Sequence[str], *, token: bytes = b"", timeout_s: float = 60.0, local: bool = True
    ) -> None:
        """Sets the subscriber up; nothing is connected yet.

        Args:
            addresses: "host:port" or "unix:/path" of each rank's publisher, in any order.
            token: The run's secret.
            timeout_s: Longest duration of a fetch, in seconds.
            local: Whether publishers on loopback are reached by the UNIX socket beside their port, where there is one.
                It carries more than TCP.

        Raises:
            ValueError: An address is of another form, there is none, or the timeout is not positive.
        """
        self._native = _native.WeightSubscriber(list(addresses), token, timeout_s, local)

    def fetch(
        self,
        version: int,
        timeout_s: float | None = None,
        base: Snapshot | None = None,
        into: Snapshot | None = None,
    ) -> Snapshot:
        """Fetches every rank's shards of just this version, verified; blocks until they are here.

        Lost connections are made anew and go on after the last good chunk or patch; a version that is not published yet
        is waited for; if a publisher is restarted in between, the fetch starts over.

        Args:
            version: The policy version.
            timeout_s: Longest duration of this fetch; the subscriber's own if None.
            base: A version that the caller holds. Publishers that still keep it, or the patches that lead on from it,
                send only what has changed since; the others, or all if `base` is not what was published, send the
                whole. It is not changed.
            into: A version that the caller needs no longer. It is empty from now on, and its arrays, where one may be
                written to and has the name, type and size of a tensor, become those of the version that is returned:
                memory that is there takes a third less time than memory that the system has to make. They are written
                to meanwhile, also when the fetch fails, so nobody else may use them.

        Raises:
            ValueError: `into` shares memory with `base`.
            VersionGone: A publisher no longer keeps the version; `newest` is one that it has.
            WeightsError: The token is refused, the data are damaged again and again, or the shards are not whole.
            TimeoutError: The deadline passed; the text names the address and what went wrong there last.
        """
        if into is not None and base is not None:
            for name in into.keys() & base.keys():
                if np.may_share_memory(into[name], base[name]):
                    raise ValueError(f"into shares memory with base: {name!r}; changes are made from that")
        held = None if base is None else (base.version, [(name, base[name].reshape(-1)) for name in base])
        spare = {}
        if into is not None:
            spare = {name: array.reshape(-1) for name, array in into.items() if _takes_tensors(array)}
            into._tensors = {}
        rows = self._native.fetch(version, timeout_s, held, list(spare.items()))
        flat = ((name, shape, spare[name] if array is None else array) for name, shape, array in rows)
        return Snapshot(version, {name: array.reshape(shape) for name, shape, array in flat})


def chunk_hashes(data: Patterns) -> npt.NDArray[np.uint64]:
    """The state hash of each chunk of 262,144 elements of a flat shard, for `encode_patch` and `apply_patch` to keep.

    Args:
        data: bfloat16 bit patterns, 1-D and contiguous.

    Raises:
        TypeError: The data are of another type or shape.
        ValueError: They are not contiguous.
    """
    return _native.chunk_hashes(_patterns(data, "data"))


def encode_patch(old: Patterns, new: Patterns, hashes: npt.NDArray[np.uint64] | None = None) -> bytes:
    """Encodes what turns `old` into `new`, without loss; about 13 bits a change after an AdamW step at 6e-8.

    Each chunk is coded as the smallest of nothing, gaps and steps in the order of bfloat16 numbers, a bitmap, the
    compressed xor of both states, and the new state as it is.

    Args:
        old: bfloat16 bit patterns, 1-D and contiguous.
        new: As many patterns.
        hashes: The `chunk_hashes` of `old`, if the caller keeps them: they are not computed then, and become those of
            `new`. They are trusted.

    Raises:
        TypeError: An array is of another type or shape.
        ValueError: The lengths differ, or an array is not contiguous.
    """
    return _native.encode_patch(_patterns(old, "old"), _patterns(new, "new"), hashes)


def apply_patch(target: Patterns, patch: bytes, hashes: npt.NDArray[np.uint64] | None = None) -> int:
    """Applies a patch in place, wholly or not at all, and returns the number of changed elements.

    Args:
        target: The state that the patch was made from: bfloat16 bit patterns, 1-D and contiguous. Others should not
            read it meanwhile.
        patch: What `encode_patch` returned.
        hashes: The `chunk_hashes` of `target`, if the caller keeps them: the work is then in proportion to the changes,
            and they become those of the new state. They are trusted.

    Raises:
        WeightsError: The patch is damaged, or was made from another state. `target` and `hashes` are as they were.
        TypeError: The target is of another type or shape.
        ValueError: An array is not contiguous or may not be written to, or there is not one hash for every chunk.
    """
    patterns = _patterns(target, "target")
    if not patterns.flags.writeable:
        raise ValueError("target may not be written to")
    return _native.apply_patch(patterns, patch, hashes)


def _takes_tensors(array: npt.NDArray[Any]) -> bool:
    """Whether a tensor may be received into an array."""
    return array.flags.writeable and array.dtype in (np.uint16, np.float32)


def _patterns(data: Patterns, name: str) -> npt.NDArray[np.uint16]:
    """The data as numpy sees them, without a copy."""
    array: npt.NDArray[Any] = data if isinstance(data, np.ndarray) else _from_torch(data, name)
    if array.dtype != np.uint16 or array.ndim != 1:
        raise TypeError(f"{name} is {array.ndim}-D of {array.dtype}; need 1-D bfloat16 bit patterns (uint16)")
    return array


def _from_torch(data: Any, name: str) -> npt.NDArray[Any]:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(data, torch.Tensor):
        raise TypeError(f"{name} is a {type(data).__name__}; need a numpy array or a torch tensor")
    if data.device.type != "cpu":
        raise TypeError(f"{name} is on {data.device}; need a tensor on the CPU")
    data = data.detach()
    array: npt.NDArray[Any] = (data.view(torch.uint16) if data.dtype == torch.bfloat16 else data).numpy()
    return array
