"""Rows of Parquet and Arrow files, in bounded memory: the form in which data sets are published.

Knows files and columns, not what they mean. Needs pyarrow, which only users of such files install.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spo.errors import ConfigError, ProblemError

_BATCH_BYTES = 16 << 20
"""Decoded at once, unless a single row has more: a row of CodeContests may hold 100 MB of tests."""
_BATCH_ROWS = 256


def read_rows(
    files: Sequence[Path],
    columns: Sequence[str],
    optional: Sequence[str] = (),
    advance: Callable[[float], None] = lambda amount: None,
) -> Iterator[tuple[str, Any]]:
    """Yield `(where, row)` for each row of `files`; `where` names file and row, a row maps columns to values.

    Text that is not UTF-8 has its wrong bytes replaced by U+FFFD.

    Args:
        files: Parquet files, and Arrow files of either kind.
        columns: Columns that every file must have.
        optional: Columns that are read where they are present, and None elsewhere.
        advance: Told how many more bytes of the files are done, about.

    Raises:
        ConfigError: pyarrow is not installed.
        ProblemError: A file is damaged or lacks a column.
    """
    try:
        import pyarrow
    except ImportError:
        raise ConfigError("problems: Parquet and Arrow files need pyarrow; run pip install 'spo-rl[data]'") from None
    for file in files:
        number = 0
        size = file.stat().st_size
        try:
            for batch, share in _batches(file, columns, optional):
                for row in _rows(batch):
                    yield f"{file}, row {number}", dict.fromkeys(optional) | row
                    number += 1
                advance(size * share)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowIOError) as error:
            raise ProblemError(f"{file}: not readable ({error}); download it again") from None


def _batches(file: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[Any, float]]:
    """Batches of few rows, and which share of the file each is."""
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        # Buffered, or the whole column of a row group would be in memory at once.
        with pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as parquet:
            wanted = _present(file, parquet.schema_arrow.names, columns, optional)
            yield from _parquet_batches(parquet, wanted)
        return
    with pyarrow.memory_map(str(file)) as source:
        try:
            stream = pyarrow.ipc.open_stream(source)  # What the `datasets` library writes.
        except pyarrow.ArrowInvalid:
            source.seek(0)
            opened = pyarrow.ipc.open_file(source)
            batches = (opened.get_batch(index) for index in range(opened.num_record_batches))
            names = opened.schema.names
        else:
            batches, names = iter(stream), stream.schema.names
        wanted = _present(file, names, columns, optional)
        before = 0
        for batch in batches:
            yield batch.select(wanted), (source.tell() - before) / max(source.size(), 1)
            before = source.tell()


def _parquet_batches(parquet: Any, wanted: list[str]) -> Iterator[tuple[Any, float]]:
    metadata = parquet.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))
        for batch in parquet.iter_batches(rows, row_groups=[number], columns=wanted, use_threads=False):
            yield batch, batch.num_rows / max(1, metadata.num_rows)


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch, made one at a time: as Python values they take several times the memory."""
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError:
            yield _decoded(row.cast(_as_bytes(row.schema)).to_pylist()[0])


def _as_bytes(schema: Any) -> Any:
    """The schema with binary fields in place of text."""
    import pyarrow

    def changed(kind: Any) -> Any:
        if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
            return pyarrow.large_binary() if pyarrow.types.is_large_string(kind) else pyarrow.binary()
        if pyarrow.types.is_struct(kind):
            return pyarrow.struct([(field.name, changed(field.type)) for field in kind])
        if pyarrow.types.is_list(kind):
            return pyarrow.list_(changed(kind.value_type))
        if pyarrow.types.is_large_list(kind):
            return pyarrow.large_list(changed(kind.value_type))
        return kind

    return pyarrow.schema([(field.name, changed(field.type)) for field in schema])


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value


def _present(file: Path, names: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    missing = [column for column in columns if column not in names]
    if missing:
        raise ProblemError(f"{file}: lacks the columns {', '.join(missing)}; is it a file of another data set?")
    return [*columns, *(column for column in optional if column in names)]
