"""The files of a data set: a local path, a glob, or the id of a data set on the Hugging Face hub."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spo.errors import ConfigError, ProblemError

TABLES = (".parquet", ".arrow")
LINES = (".jsonl",)
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")
"""OWNER/NAME, and the files that are meant, as a glob."""


class DataFiles(NamedTuple):
    """What a data set is read from."""

    named: str
    """As it was asked for."""
    files: Sequence[Path]
    """All of them, sorted."""


def find_files(named: str, suffixes: Sequence[str]) -> DataFiles:
    """The files that `named` means: one file, all below a folder, those that a glob matches, or a data set of the hub.

    Args:
        named: A path, a glob, `OWNER/NAME` or `OWNER/NAME/GLOB`.
        suffixes: Other files are no data.

    Raises:
        ConfigError: It is on the hub, which cannot be reached.
        ProblemError: There are none.
    """
    path = Path(named).expanduser()
    hub_id = _HUB_ID.fullmatch(named)
    if hub_id is None or path.exists() or Path(path.parts[0]).exists() or (not hub_id[2] and path.suffix in suffixes):
        matches = [path] if path.exists() else [Path(match) for match in glob.glob(str(path), recursive=True)]
        found = [file for match in matches for file in ([match] if match.is_file() else match.rglob("*"))]
    else:
        found = list(_download(named, hub_id[1], hub_id[2] or "**", suffixes).rglob("*"))
        found = [file for file in found if hub_id[2] is None or file.match(hub_id[2])]
    files = sorted(file for file in set(found) if file.suffix in suffixes and file.is_file())
    if not files:
        raise ProblemError(
            f"{named}: no such file, or no {' or '.join(suffixes)} file there; "
            "give a file, a folder, a glob or a hub id"
        )
    return DataFiles(named, files)


def _download(named: str, hub_id: str, pattern: str, suffixes: Sequence[str]) -> Path:
    wanted = [pattern] if pattern.endswith(tuple(suffixes)) else [f"{pattern}*{suffix}" for suffix in suffixes]
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(hub_id, repo_type="dataset", allow_patterns=wanted))
    except ImportError:
        raise ConfigError(
            f"problems: {named} is no local path; to get it from the hub, run pip install 'spo-rl[data]'"
        ) from None
    except (OSError, ValueError) as error:
        # The hub's errors are OSError (HTTP, no connection) or ValueError (no such name); their first line says it.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"problems: {named} is no local path, and cannot be had from the hub ({reason}); "
            "download the data set and give its folder"
        ) from error
