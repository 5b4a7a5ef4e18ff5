"""Earlier runs whose experience a run uses: where their stores and values lie, and whether they had the same reference.

`experience.stores` names run directories or stores. What is taken from them, and how, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from spo.config import Config, read_resolved
from spo.errors import ConfigError
from spo.rundir import ModelInfo, read_model
from spo.store import TrajectoryStore

_STORE_FILE = "store.spo"


class EarlierStore(msgspec.Struct, frozen=True):
    """One of `experience.stores`."""

    store: Path
    """Its store."""
    run_dir: Path | None
    """The run that it is of, where that is known."""


def locate_stores(names: Sequence[str], setting: str = "experience.stores") -> list[EarlierStore]:
    """Finds stores, or the stores of runs.

    Args:
        names: Paths of run directories or stores.
        setting: Where the names come from, for errors.

    Raises:
        ConfigError: One is neither a run directory nor a store.
    """
    found = []
    for name in names:
        path = Path(name).expanduser().absolute()
        run_dir = next((folder for folder in (path, path.parent) if (folder / "config.toml").is_file()), None)
        store = find_store(path)
        if store is None:
            raise ConfigError(
                f"{setting}: {name} is neither a run directory nor a trajectory store (no {_STORE_FILE} in "
                "it); name the directory of an earlier run"
            )
        found.append(EarlierStore(store, run_dir))
    return found


def find_store(path: Path) -> Path | None:
    """The store that a path means: itself, or that of the run or collection in it; None where there is none."""
    return next((folder for folder in (path, path / "store") if (folder / _STORE_FILE).is_file()), None)


def values_directories(config: Config) -> list[Path]:
    """Where values of this run's problems may lie: its own directory of values, then those of the earlier runs."""
    runs = [earlier.run_dir for earlier in locate_stores(config.experience.stores)]
    directories = [config, *(read_resolved(run_dir) for run_dir in runs if run_dir is not None)]
    return list(dict.fromkeys(Path(each.values.directory) for each in directories if each.values.directory))


def _has_reference_logprobs(store: Path) -> bool:
    """Whether a store of no known run holds log-probabilities of some reference; those collected have none."""
    with TrajectoryStore.open(store, "r") as opened:
        return bool(opened.scan(has=["reference_logprobs"]))


def same_reference(config: Config, model: ModelInfo) -> bool:
    """Whether all earlier stores hold the log-probabilities of this run's reference, computed as it would be here."""
    for earlier in locate_stores(config.experience.stores):
        if earlier.run_dir is None:
            if _has_reference_logprobs(earlier.store):
                return False
            continue
        theirs = read_resolved(earlier.run_dir)
        if (
            read_model(earlier.run_dir).reference_fingerprint != model.reference_fingerprint
            or theirs.model.dtype != config.model.dtype
            or not same_reference(theirs, model)
        ):
            return False
    return True
