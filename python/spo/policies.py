"""Policies as commands are given them: a model folder, a run, one of its checkpoints, a hub id, a preset or TOML file.

What is found is a model folder in the Hugging Face format, and the settings that go with it: those of the run, the
preset or the file, else the defaults. No torch at import; writing a checkpoint out and making the `tiny` reference need
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from spo.config import Config, load_config, preset_names
from spo.errors import ConfigError
from spo.models import is_hub_id, model_folder
from spo.rundir import POLICY_DIR, read_model

_CONFIG_FILE = "config.toml"
_MODEL_CONFIG = "config.json"


class Policy(NamedTuple):
    """A policy that was found."""

    config: Config
    """Settings, with `model.path` set to the folder."""
    path: Path
    """The model's folder."""


def settings_of(name: str | None, overrides: Sequence[str] = ()) -> Config:
    """The settings that go with a policy: of its run or preset, else (or without one) the defaults, with some changed.

    Raises:
        ConfigError: One of them is wrong.
    """
    run_dir = None if name is None else _run_of(_absolute(name))
    if run_dir is not None:
        return load_config(str(run_dir / _CONFIG_FILE), overrides)
    return load_config(name if name is not None and _is_settings(name) else None, overrides)


def find_policy(name: str, overrides: Sequence[str], directory: Path, scratch: Path) -> Policy:
    """Finds a policy.

    Args:
        name: As it was given.
        overrides: `section.field=value`.
        directory: Where the reference of `tiny` is made, or was.
        scratch: Where a checkpoint is written out.

    Raises:
        ConfigError: There is none, or one of the settings is wrong.
    """
    config, path = settings_of(name, overrides), _absolute(name)
    run_dir = _run_of(path)
    if _is_settings(name):
        folder = model_folder(config, directory)
    elif not path.exists() and is_hub_id(name):
        folder = model_folder(_with_model(config, name), directory)
    else:
        folder = _model_folder(path, run_dir, scratch)
    return Policy(_with_model(config, str(folder)), folder)


def _with_model(config: Config, path: str) -> Config:
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, path=path))


def _is_settings(name: str) -> bool:
    """Whether it is a preset or a TOML file, whose `model.path` is meant."""
    path = Path(name)
    return path.is_file() and path.suffix == ".toml" if path.exists() else name in preset_names()


def _absolute(name: str) -> Path:
    return Path(name).expanduser().absolute()


def _run_of(path: Path) -> Path | None:
    """The run that a policy is of, if it lies in one."""
    return next(
        (folder for folder in (path, path.parent, path.parent.parent) if (folder / _CONFIG_FILE).is_file()), None
    )


def _model_folder(path: Path, run_dir: Path | None, scratch: Path) -> Path:
    if (path / _MODEL_CONFIG).is_file():
        return path
    if path == run_dir:
        if (path / POLICY_DIR / _MODEL_CONFIG).is_file():
            return path / POLICY_DIR
        raise ConfigError(f"{path}: the run has no final policy yet; give one of its checkpoints/step-N")
    if run_dir is not None and (path / ".metadata").is_file():
        from spo.trainer.export import export_checkpoint

        export_checkpoint(path, read_model(run_dir).path, scratch / POLICY_DIR)
        return scratch / POLICY_DIR
    raise ConfigError(f"{path}: no policy; give a model folder, a run directory, or a run's checkpoints/step-N")
