"""The settings of a replay: a new run that trains on the very batches of an earlier one, and must come to the same.

`spo train --replay RUN` takes the settings of RUN, drops what samples (workers, problems, evaluation) and refuses to
change what the result depends on. Where the batches come from is `spo.orchestrator.replayed`'s business; whether losses
and weights came out the same, the report tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from spo.config import Config, load_config, read_resolved
from spo.consumption import ConsumptionLog
from spo.errors import ConfigError
from spo.models import REFERENCE_DIR
from spo.rundir import ModelInfo, read_model

MUST_AGREE = (
    "seed",
    "model.dtype",
    "model.gradient_checkpointing",
    "model.logprob_chunk_tokens",
    "objective",
    "optimizer",
    "batch.token_budget",
    "batch.rows_per_forward",
    "trainer.reference_update_interval",
    "trainer.torch_threads",
    "trainer.device",
)
"""What decides, with the batches and the number of ranks, what the weights become."""


def replayed_config(run_dir: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The settings of a replay.

    Args:
        run_dir: The run to be replayed; a replay stands for the run that it replays.
        overrides: Settings that may differ, such as `run_dir=…` or `trainer.total_steps=…` (fewer).

    Raises:
        ConfigError: There is no such run, it has trained no step, its model is gone, or an override changes what must
            agree.
    """
    path = Path(run_dir).expanduser().absolute()
    if not (path / "config.toml").is_file():
        raise ConfigError(f"replay: {path} holds no run (no config.toml); give the directory of an earlier run")
    original = read_resolved(path)
    if original.experience.replay:
        return replayed_config(original.experience.replay, overrides)
    last_step = ConsumptionLog(path).last_step
    if last_step == 0:
        raise ConfigError(f"replay: {path} has not trained a single step, so there is nothing to be replayed")
    config = load_config(
        str(path / "config.toml"),
        [
            "run_dir=",
            f"experience.replay={path}",
            "experience.stores=[]",
            f"model.path={_model_path(path, read_model(path))}",
            "problems.train=[]",
            "problems.evaluation=[]",
            "workers.num_workers=0",
            f"trainer.total_steps={min(last_step, original.trainer.total_steps)}",
            *overrides,
        ],
    )
    _check_agreement(config, original, path, last_step)
    return config


def check_reference(config: Config, now: ModelInfo) -> None:
    """Checks that the replayed run began with the same model.

    Raises:
        ConfigError: It did not.
    """
    then = read_model(Path(config.experience.replay))
    for field in ("reference_fingerprint", "tokenizer_fingerprint"):
        if getattr(now, field) != getattr(then, field):
            raise ConfigError(
                f"replay: {now.path} is not the model that {config.experience.replay} was trained from ({field} "
                f"{getattr(now, field)}, was {getattr(then, field)}); give that one by model.path=PATH"
            )


def _model_path(run_dir: Path, model: ModelInfo) -> str:
    """Where the model is now: a run that has been moved took its own reference along."""
    own = run_dir / REFERENCE_DIR
    return str(own) if own.is_dir() and not Path(model.path).is_dir() else model.path


def _check_agreement(config: Config, original: Config, run_dir: Path, last_step: int) -> None:
    for name in MUST_AGREE:
        ours, theirs = _setting(config, name), _setting(original, name)
        if ours != theirs:
            field, ours, theirs = _difference(name, ours, theirs)
            raise ConfigError(
                f"replay: {field} is {ours!r} here and was {theirs!r} in {run_dir}; a replay repeats a run bit for "
                f"bit, so these must agree: {', '.join(MUST_AGREE)}, and the number of ranks"
            )
    if config.trainer.total_steps > last_step:
        raise ConfigError(
            f"replay: trainer.total_steps is {config.trainer.total_steps}, but {run_dir} has the batches of "
            f"{last_step} steps"
        )


def _setting(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _difference(name: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    """The first field that differs, where the setting is a section."""
    if isinstance(ours, msgspec.Struct):
        for field in ours.__struct_fields__:
            if getattr(ours, field) != getattr(theirs, field):
                return f"{name}.{field}", getattr(ours, field), getattr(theirs, field)
    return name, ours, theirs
