"""Stub of the compiled core; checked against it by `mypy.stubtest`. One section a core module."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BatchColumns",
    "Judge",
    "JudgeTicket",
    "NativeReplayBuffer",
    "NativeStore",
    "Trajectory",
    "WeightPublisher",
    "WeightSubscriber",
    "ZstdReader",
    "ZstdWriter",
    "__version__",
    "apply_patch",
    "chunk_hashes",
    "decode_trajectories",
    "encode_patch",
    "encode_trajectories",
    "pack_batch",
]

__version__: str

# --- trajectory ---

_Counts: TypeAlias = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]

@final
class Trajectory:
    """The record of one rollout; immutable, compared by content. Array attributes are fresh copies.

    Raises:
        ValueError: a field is wrong; the text names it.
    """

    def __new__(
        cls,
        problem_id: str,
        prompt_tokens: npt.NDArray[np.int32] | npt.NDArray[np.int64] | Sequence[int],
        response_tokens: npt.NDArray[np.int32] | npt.NDArray[np.int64] | Sequence[int],
        reward: float,
        verdict: str,
        source: str,
        behavior_logprobs: npt.NDArray[np.float32] | Sequence[float] | None = None,
        reference_logprobs: npt.NDArray[np.float32] | Sequence[float] | None = None,
        min_policy_version: int = 0,
        max_policy_version: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        metadata: Mapping[str, str] | None = None,
        mc_successes: tuple[Sequence[int], Sequence[int], Sequence[int]] | _Counts | None = None,
    ) -> Trajectory: ...
    @property
    def problem_id(self) -> str: ...
    @property
    def prompt_tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def response_tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def reward(self) -> float: ...
    @property
    def verdict(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def behavior_logprobs(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def reference_logprobs(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def mc_successes(self) -> _Counts | None:
        """Positions, successes and trials."""
    @property
    def min_policy_version(self) -> int: ...
    @property
    def max_policy_version(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def content_hash(self) -> bytes: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

def encode_trajectories(trajectories: Sequence[Trajectory]) -> bytes: ...
def decode_trajectories(data: bytes) -> list[Trajectory]: ...

# --- store ---

@final
class NativeStore:
    """An open trajectory store; see `spo.store.TrajectoryStore`."""

    def __new__(
        cls,
        path: str | PathLike[str],
        mode: str,
        tokenizer: str | None,
        skip_damage: bool,
        segment_bytes: int | None,
        logprobs: str,
    ) -> NativeStore: ...
    def append(self, trajectories: Sequence[Trajectory]) -> list[int]: ...
    def annotate(
        self,
        ids: Sequence[int],
        reference_logprobs: Sequence[npt.NDArray[np.float32] | Sequence[float] | None] | None,
        mc_successes: Sequence[tuple[Any, Any, Any] | None] | None,
        reward: Sequence[float | None] | None,
    ) -> None: ...
    def delete(self, ids: Sequence[int]) -> None: ...
    def attach(self, path: str | PathLike[str]) -> None: ...
    def compact(self, progress: Callable[[int, int], object] | None) -> dict[str, int]: ...
    def commit(self) -> None: ...
    def refresh(self) -> None: ...
    def read(self, id: int) -> Trajectory: ...
    def read_many(
        self, ids: Sequence[int], prompt: bool, response: bool, behavior: bool, reference: bool, monte_carlo: bool
    ) -> list[Trajectory]: ...
    def read_tokens(self, ids: Sequence[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]: ...
    def scan(
        self,
        source: str | None,
        problem: str | None,
        reward: float | None,
        since_us: int | None,
        has: Sequence[str],
        lacks: Sequence[str],
    ) -> list[int]: ...
    def info(self) -> dict[str, Any]: ...
    def own_ids(self, ids: Sequence[int]) -> list[int]: ...
    def damaged_late_columns(self) -> int: ...
    def __len__(self) -> int: ...
    @property
    def tokenizer(self) -> str: ...
    @property
    def writable(self) -> bool: ...
    @property
    def torn_tails(self) -> list[tuple[Path, int, int]]: ...

# --- replay ---

@final
class BatchColumns:
    """The columns of a batch with one value a trajectory; see `spo.replay.Batch`."""

    @property
    def rows(self) -> npt.NDArray[np.uint32]: ...
    @property
    def starts(self) -> npt.NDArray[np.uint32]: ...
    @property
    def prompt_lengths(self) -> npt.NDArray[np.uint32]: ...
    @property
    def response_lengths(self) -> npt.NDArray[np.uint32]: ...
    @property
    def rewards(self) -> npt.NDArray[np.float32]: ...
    @property
    def temperatures(self) -> npt.NDArray[np.float32]: ...
    @property
    def min_policy_versions(self) -> npt.NDArray[np.uint64]: ...
    @property
    def max_policy_versions(self) -> npt.NDArray[np.uint64]: ...
    @property
    def ids(self) -> npt.NDArray[np.uint64]: ...
    @property
    def uses(self) -> npt.NDArray[np.uint32]: ...
    @property
    def has_reference_logprobs(self) -> npt.NDArray[np.bool_]: ...
    @property
    def sources(self) -> list[str]: ...
    @property
    def problem_ids(self) -> list[str]: ...

_BatchParts: TypeAlias = tuple[
    npt.NDArray[np.int32],
    npt.NDArray[np.int32],
    npt.NDArray[np.int32],
    npt.NDArray[np.bool_],
    npt.NDArray[np.float32] | None,
    npt.NDArray[np.float32] | None,
    BatchColumns,
]

@final
class NativeReplayBuffer:
    """The replay buffer; see `spo.replay.ReplayBuffer`."""

    def __new__(
        cls,
        capacity: int,
        max_uses: int,
        max_staleness: int,
        seed: int,
        *,
        order: str,
        half_life: float,
        priority_exponent: float,
        pool_order: str,
        store: NativeStore | None,
        memory_bytes: int | None,
    ) -> NativeReplayBuffer: ...
    def close(self) -> None: ...
    def add(self, trajectories: Sequence[Trajectory], ids: Sequence[int], pool: str | None) -> None: ...
    def add_stored(self, ids: Sequence[int], pool: str) -> None: ...
    def sample(
        self,
        num_trajectories: int,
        policy_version: int,
        mix: Mapping[str, float],
        unit: str,
        group_size: int,
        token_budget: int,
        row_multiple: int,
    ) -> _BatchParts: ...
    def set_reference_logprobs(self, ids: Sequence[int], logprobs: Sequence[npt.NDArray[np.float32]]) -> None: ...
    def set_priorities(self, priorities: Mapping[int, float]) -> None: ...
    def memory_bytes(self) -> int: ...
    def available(self, policy_version: int) -> dict[str, int]: ...
    def counters(self) -> dict[str, int]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any], store: NativeStore) -> None: ...
    def __len__(self) -> int: ...

def pack_batch(
    trajectories: Sequence[Trajectory], ids: Sequence[int], uses: Sequence[int], token_budget: int, row_multiple: int
) -> _BatchParts: ...

# --- judge ---

_TestRow: TypeAlias = tuple[str, int | None, int | None, float, float, int, int, bytes, bytes]
_JudgementRow: TypeAlias = tuple[str, int, str | None, list[str], str, str, list[_TestRow]]

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
        runtime: str,
        function: str | None,
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
    def __new__(cls, addresses: list[str], token: bytes, timeout_s: float, local: bool) -> WeightSubscriber: ...
    def fetch(
        self,
        version: int,
        timeout_s: float | None = None,
        base: tuple[int, list[tuple[str, _WeightArray]]] | None = None,
        spare: list[tuple[str, _WeightArray]] = ...,
    ) -> list[tuple[str, list[int], _WeightArray | None]]: ...

def chunk_hashes(data: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint64]: ...
def encode_patch(
    old: npt.NDArray[np.uint16], new: npt.NDArray[np.uint16], hashes: npt.NDArray[np.uint64] | None = None
) -> bytes: ...
def apply_patch(target: npt.NDArray[np.uint16], patch: bytes, hashes: npt.NDArray[np.uint64] | None = None) -> int: ...

# --- zstd_file ---

@final
class ZstdReader:
    """A zstandard file being read from its beginning.

    Raises:
        OSError: there is none, or it is cut or damaged.
    """

    def __new__(cls, path: str | PathLike[str]) -> ZstdReader: ...
    def read(self, limit: int) -> bytes: ...

@final
class ZstdWriter:
    """A zstandard file being written; it must not exist yet.

    Raises:
        OSError: the system refuses.
    """

    def __new__(cls, path: str | PathLike[str]) -> ZstdWriter: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
