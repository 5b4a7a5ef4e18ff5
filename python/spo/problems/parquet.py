"""Rows of Parquet and Arrow files, a batch at a time: the form in which data sets are published.

Knows files and columns, not what they mean. Needs pyarrow, which only users of such files install.
"""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spo.errors import ConfigError, ProblemError

_ROWS_AT_ONCE = 64
"""A row of CodeContests may hold 10 MB of tests: few at a time bound the memory."""
_SUFFIXES = (".parquet", ".arrow")


def data_files(path: str) -> list[Path]:
    """The Parquet and Arrow files that `path` names: one file, those of a folder, or those a glob matches.

    Raises:
        ProblemError: There are none.
    """
    named = Path(path).expanduser()
    found = [named / name for name in named.iterdir()] if named.is_dir() else map(Path, glob.glob(str(named)))
    files = sorted(file for file in found if file.suffix in _SUFFIXES)
    if not files:
        raise ProblemError(f"{path}: no .parquet or .arrow file there; give a file, a folder or a glob")
    return files


def read_rows(files: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield `(where, row)` for each row of `files`; `where` names file and row, a row maps columns to values.

    Args:
        files: As `data_files` gives them.
        columns: Columns that every file must have.
        optional: Columns that are read where they are present, and None elsewhere.

    Raises:
        ConfigError: pyarrow is not installed.
        ProblemError: A file is damaged or lacks a column.
    """
    try:
        import pyarrow
    except ImportError:
        raise ConfigError("problems: Parquet and Arrow files need pyarrow; run pip install 'spo-rl[data]'") from None
    for file in files:
        try:
            number = 0
            for batch in _batches(file, columns, optional):
                for row in batch.to_pylist():
                    yield f"{file}, row {number}", dict.fromkeys(optional) | row
                    number += 1
        except (pyarrow.ArrowInvalid, pyarrow.ArrowIOError) as error:
            raise ProblemError(f"{file}: not readable ({error}); download it again") from None


def _batches(file: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(file) as parquet:
            wanted = _present(file, parquet.schema_arrow.names, columns, optional)
            yield from parquet.iter_batches(_ROWS_AT_ONCE, columns=wanted)
        return
    with pyarrow.memory_map(str(file)) as source:
        try:
            reader = pyarrow.ipc.open_stream(source)  # What the `datasets` library writes.
        except pyarrow.ArrowInvalid:
            source.seek(0)
            opened = pyarrow.ipc.open_file(source)
            reader = (opened.get_batch(index) for index in range(opened.num_record_batches))
            names = opened.schema.names
        else:
            names = reader.schema.names
        wanted = _present(file, names, columns, optional)
        for batch in reader:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield batch.select(wanted).slice(start, _ROWS_AT_ONCE)


def _present(file: Path, names: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    missing = [column for column in columns if column not in names]
    if missing:
        raise ProblemError(f"{file}: lacks the columns {', '.join(missing)}; is it a file of another data set?")
    return [*columns, *(column for column in optional if column in names)]
