"""Stub of the compiled core; checked against it by `mypy.stubtest`. One section a core module."""

from typing import final

import numpy as np
import numpy.typing as npt

__version__: str

# --- trajectory ---

# --- store ---

# --- replay ---

# --- judge ---

# --- weights ---

_WeightArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.float32]

@final
class WeightPublisher:
    def __new__(cls, bind: str, token: bytes, rank: int, world_size: int, keep: int) -> WeightPublisher: ...
    @property
    def address(self) -> str: ...
    @property
    def versions(self) -> list[int]: ...
    def publish(self, version: int, shards: list[tuple[str, str, list[int], int, _WeightArray]]) -> None: ...
    def close(self) -> None: ...

@final
class WeightSubscriber:
    def __new__(cls, addresses: list[str], token: bytes, timeout_s: float) -> WeightSubscriber: ...
    def fetch(self, version: int, timeout_s: float | None = None) -> list[tuple[str, list[int], _WeightArray]]: ...
