"""What a command that samples without a run starts from: settings and model, of a run, a preset or a TOML file.

No torch, unless the `tiny` reference has to be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from spo.config import Config, load_config
from spo.errors import ConfigError
from spo.models import locate_model, resolve_model
from spo.problems import Problems
from spo.problems.manifest import load_training_problems
from spo.rundir import ModelInfo, default_run_dir, read_model, values_directory

CONFIG_FILE = "config.toml"


def read_settings(words: Sequence[str]) -> tuple[Config, Path | None]:
    """The settings that a command line names, and the run directory that they are of, if any.

    Args:
        words: A preset, a TOML file or a run directory; and `section.field=value` settings to change.

    Raises:
        ConfigError: The first is none of them, or a setting is wrong.
    """
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise ConfigError(f"give one preset, TOML file or run directory, such as tiny; got {len(names)}")
    path = Path(names[0]).expanduser().absolute()
    run_dir = path if (path / CONFIG_FILE).is_file() else None
    config = load_config(str(path / CONFIG_FILE) if run_dir else names[0], [word for word in words if "=" in word])
    where = run_dir or Path(config.run_dir or default_run_dir(config)).absolute()
    directory = str(values_directory(config, where))
    return msgspec.structs.replace(config, values=msgspec.structs.replace(config.values, directory=directory)), run_dir


def find_model(config: Config, run_dir: Path | None, scratch: Path) -> ModelInfo:
    """The reference: that of the run if there is one, else what the settings say; `tiny` is made in `scratch`.

    Raises:
        ConfigError: There is none.
    """
    if run_dir is not None:
        return read_model(run_dir)
    locate_model(config)
    return resolve_model(config, scratch)


def training_problems(config: Config) -> Problems:
    """The training problems, as a run would have them.

    Raises:
        ConfigError: No problems are named, or a spec is wrong.
        ProblemError: They cannot be loaded.
    """
    if not config.problems.train:
        raise ConfigError('problems.train: there are none; name some, such as problems.train=["builtin:easy"]')
    settings = config.problems
    return load_training_problems(settings.train, config.seed, settings.without, settings.manifest)[0]
