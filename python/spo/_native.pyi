"""Stub of the compiled core; checked against it by `mypy.stubtest`. One section a core module."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

__version__: str

# --- trajectory ---

# --- store ---

# --- replay ---

# --- judge ---

_TestRow: TypeAlias = tuple[str, int | None, int | None, float, float, int, int, bytes, bytes]
_JudgementRow: TypeAlias = tuple[str, int, str | None, str, list[_TestRow]]

@final
class Judge:
    def __new__(
        cls, *, num_workers: int | None, interpreter: str, isolation: str | None, allow_weak_isolation: bool
    ) -> Judge: ...
    @property
    def isolation_tier(self) -> str: ...
    def submit(
        self,
        source: bytes,
        tests: Sequence[tuple[bytes, bytes]],
        *,
        checker: str,
        cpu_time_s: float,
        wall_time_s: float | None,
        memory_bytes: int,
        output_bytes: int,
        stop_on_first_failure: bool,
        on_done: Callable[[], object] | None,
    ) -> JudgeTicket: ...
    def close(self) -> None: ...

@final
class JudgeTicket:
    def wait(self) -> _JudgementRow: ...
    def try_get(self) -> _JudgementRow | None: ...
    def cancel(self) -> None: ...

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
