"""Trajectories as JSON Lines: one object a line, named as the fields of `Trajectory`; what `spo store export` writes.

Reading is strict: a line with an unknown, missing or ill-typed field is refused by file and line. Prints nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from spo.errors import CorruptShardError, StoreError
from spo.store import Trajectory, TrajectoryStore

READ_AT_ONCE = 256
"""Records decoded in one call."""


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trajectory as JSON has it; `id` says where it was stored, and is not imported."""

    problem_id: str
    prompt_tokens: list[int]
    response_tokens: list[int]
    reward: float
    verdict: str
    source: str
    behavior_logprobs: list[float] | None = None
    reference_logprobs: list[float] | None = None
    mc_successes: tuple[list[int], list[int], list[int]] | None = None
    min_policy_version: int = 0
    max_policy_version: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    metadata: dict[str, str] = {}
    id: int | None = None


def to_row(record_id: int, record: Trajectory) -> Row:
    """The trajectory with its id, as a row. Logprobs keep their float32 values exactly."""

    def column(name: str) -> list[float] | None:
        values = getattr(record, name)
        return None if values is None else values.tolist()

    counts = record.mc_successes
    return Row(
        id=record_id,
        problem_id=record.problem_id,
        prompt_tokens=record.prompt_tokens.tolist(),
        response_tokens=record.response_tokens.tolist(),
        reward=record.reward,
        verdict=record.verdict,
        source=record.source,
        behavior_logprobs=column("behavior_logprobs"),
        reference_logprobs=column("reference_logprobs"),
        mc_successes=None if counts is None else (counts[0].tolist(), counts[1].tolist(), counts[2].tolist()),
        min_policy_version=record.min_policy_version,
        max_policy_version=record.max_policy_version,
        temperature=record.temperature,
        top_p=record.top_p,
        seed=record.seed,
        metadata=record.metadata,
    )


def from_row(row: Row) -> Trajectory:
    """The trajectory of a row.

    Raises:
        ValueError: A field's value is wrong; the text names it.
    """
    return Trajectory(
        row.problem_id,
        row.prompt_tokens,
        row.response_tokens,
        row.reward,
        row.verdict,
        row.source,
        row.behavior_logprobs,
        row.reference_logprobs,
        row.min_policy_version,
        row.max_policy_version,
        row.temperature,
        row.top_p,
        row.seed,
        row.metadata,
        row.mc_successes,
    )


def read_each(store: TrajectoryStore, ids: Sequence[int]) -> Iterator[tuple[int, Trajectory | CorruptShardError]]:
    """Ids with their trajectories, or with what is wrong with them; `READ_AT_ONCE` are decoded in one call."""
    for start in range(0, len(ids), READ_AT_ONCE):
        part = ids[start : start + READ_AT_ONCE]
        try:
            yield from zip(part, store.read_many(part), strict=True)
        except CorruptShardError:
            yield from ((record_id, _read_one(store, record_id)) for record_id in part)


def read_whole(store: TrajectoryStore, ids: Sequence[int]) -> Iterator[tuple[int, Trajectory]]:
    """Ids with their trajectories.

    Raises:
        CorruptShardError: One is damaged.
    """
    for record_id, record in read_each(store, ids):
        if isinstance(record, CorruptShardError):
            raise record
        yield record_id, record


def write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    """Writes rows to a new file, or none on an error; returns how many.

    Raises:
        FileExistsError: There is something at `path`.
    """
    encoder = msgspec.json.Encoder()
    count = 0
    with path.open("xb") as file:
        try:
            for row in rows:
                file.write(encoder.encode(row) + b"\n")
                count += 1
        except BaseException:
            path.unlink()
            raise
    return count


def read_jsonl(path: Path) -> Iterator[Trajectory]:
    """Trajectories of a file, line by line; empty lines are left out.

    Raises:
        StoreError: A line is not a trajectory; the text names file, line and field.
    """
    decoder = msgspec.json.Decoder(Row)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield from_row(decoder.decode(line))
            except ValueError as error:  # msgspec's errors are ValueErrors too.
                raise StoreError(f"{path}:{number}: {error}") from error


def _read_one(store: TrajectoryStore, record_id: int) -> Trajectory | CorruptShardError:
    try:
        return store[record_id]
    except CorruptShardError as error:
        return error
