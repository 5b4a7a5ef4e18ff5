"""Files of trajectories: JSON Lines, plain or compressed with zstandard, and Parquet; told apart by their names.

Writing makes a new file, whole or not at all. Reading names file and line (or row) of what is wrong. Parquet needs
pyarrow, which only its users install.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from spo._native import ZstdReader, ZstdWriter
from spo.errors import ConfigError, StoreError
from spo.store import Trajectory
from spo.store_rows import FOREIGN, reader, writer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ROWS_AT_ONCE = 256
_CHUNK_BYTES = 1 << 20


def read_file(path: Path, form: str = "spo") -> Iterator[Trajectory]:
    """Trajectories of a file, one after another; empty lines are left out.

    Args:
        path: A `.jsonl`, `.jsonl.zst` or `.parquet` file.
        form: What a row looks like, one of `store_rows.FORMS`.

    Raises:
        StoreError: A line is no trajectory, or the file is damaged; the text names file, line and field.
        ConfigError: pyarrow is needed and not installed.
    """
    to_trajectory = reader(form)
    rows = _parquet_rows(path) if _kind(path) == "parquet" else _json_rows(path)
    for where, row in rows:
        try:
            yield to_trajectory(row)
        except (ValueError, TypeError) as error:  # msgspec's errors are ValueErrors too.
            raise StoreError(f"{where}: {error}") from error


def write_file(path: Path, records: Iterable[tuple[int, Trajectory]], form: str = "spo") -> int:
    """Writes trajectories with their ids to a new file, or none on an error; returns how many.

    Args:
        path: A `.jsonl`, `.jsonl.zst` or `.parquet` file; it must not exist.
        records: What to write.
        form: What a row looks like, one of `store_rows.FORMS`.

    Raises:
        FileExistsError: There is something at `path`.
        ConfigError: pyarrow is needed and not installed.
    """
    to_row = writer(form)
    rows = (to_row(record_id, record) for record_id, record in records)
    kind = _kind(path)
    if kind == "parquet":
        _pyarrow()
    path.open("xb").close()
    try:
        if kind == "parquet":
            return _write_parquet(path, rows, form)
        path.unlink()  # ZstdWriter makes its file itself.
        return _write_json(path, rows, compressed=kind == "zst")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _kind(path: Path) -> str:
    for suffix, kind in ((".jsonl", "jsonl"), (".jsonl.zst", "zst"), (".parquet", "parquet")):
        if path.name.endswith(suffix):
            return kind
    raise StoreError(f"{path}: the name must end in .jsonl, .jsonl.zst or .parquet")


def _write_json(path: Path, rows: Iterable[dict[str, Any]], *, compressed: bool) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    if compressed:
        stream = ZstdWriter(path)
        for count, row in enumerate(rows, start=1):  # noqa: B007
            stream.write(encoder.encode(row) + b"\n")
        stream.finish()
        return count
    with path.open("xb") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(encoder.encode(row) + b"\n")
    return count


class _Decompressed(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._stream = ZstdReader(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    compressed = _kind(path) == "zst"
    source = io.BufferedReader(_Decompressed(path), _CHUNK_BYTES) if compressed else path.open("rb")
    with source:
        number = 0
        try:
            for number, line in enumerate(source, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = decoder.decode(line)
                except ValueError as error:
                    raise StoreError(f"{where}: {error}") from error
                yield where, row
        except OSError as error:
            raise StoreError(f"{path}: damaged or cut behind line {number}: {error}") from error


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet files need pyarrow; run pip install 'spo-rl[data]', or use .jsonl.zst") from None
    return pyarrow


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    pa = _pyarrow()
    number = 0
    try:
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", _from_arrow(row)
                    number += 1
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise StoreError(f"{path}: not readable as Parquet behind row {number}: {error}") from error


def _from_arrow(row: dict[str, Any]) -> dict[str, Any]:
    if isinstance(row.get("metadata"), list):
        row["metadata"] = dict(row["metadata"])
    if isinstance(row.get("mc_successes"), dict):
        row["mc_successes"] = tuple(row["mc_successes"].values())
    return row


def _to_arrow(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("mc_successes") is not None:
        row["mc_successes"] = dict(zip(("positions", "successes", "trials"), row["mc_successes"], strict=True))
    if "metadata" in row:
        row["metadata"] = list(row["metadata"].items())
    return row


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]], form: str) -> int:
    pa = _pyarrow()
    schema = _schema(pa, form)
    count = 0
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as file:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(_to_arrow(row))
            if len(group) == ROWS_AT_ONCE:
                file.write_table(pa.Table.from_pylist(group, schema))
                count += len(group)
                group.clear()
        if group:
            file.write_table(pa.Table.from_pylist(group, schema))
            count += len(group)
    return count


def _schema(pa: Any, form: str) -> Any:
    tokens, logprobs = pa.list_(pa.int32()), pa.list_(pa.float32())
    if form in FOREIGN:
        names = FOREIGN[form]
        fields = {
            names.prompt: tokens,
            names.response: tokens,
            names.masks[0]: pa.list_(pa.int8()),
            names.logprobs: logprobs,
            names.rewards[0]: pa.float64(),
            "uid": pa.string(),
        }
        return pa.schema(fields)
    counts = pa.struct([(name, pa.list_(pa.uint32())) for name in ("positions", "successes", "trials")])
    return pa.schema(
        {
            "problem_id": pa.string(),
            "prompt_tokens": tokens,
            "response_tokens": tokens,
            "reward": pa.float64(),
            "verdict": pa.string(),
            "source": pa.string(),
            "behavior_logprobs": logprobs,
            "reference_logprobs": logprobs,
            "mc_successes": counts,
            "min_policy_version": pa.uint64(),
            "max_policy_version": pa.uint64(),
            "temperature": pa.float64(),
            "top_p": pa.float64(),
            "seed": pa.uint64(),
            "metadata": pa.map_(pa.string(), pa.string()),
            "id": pa.int64(),
        }
    )
