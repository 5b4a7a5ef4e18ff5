"""Which settings exclude each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from spo.errors import ConfigError
from spo.objective_rules import check_objective, objective_terms

if TYPE_CHECKING:
    from spo.config import Config, CurriculumConfig


def check_together(config: Config) -> None:
    """Refuses settings that are possible each but not together.

    Raises:
        ConfigError: Names the settings and the fix.
    """
    check_objective(config)
    sampling = config.sampling
    if sampling.temperature_min > sampling.temperature_max:
        raise ConfigError(
            f"sampling.temperature_min ({sampling.temperature_min}) is above "
            f"sampling.temperature_max ({sampling.temperature_max}); swap them"
        )
    if sampling.max_new_tokens >= config.batch.token_budget:
        raise ConfigError(
            f"batch.token_budget ({config.batch.token_budget}) must exceed sampling.max_new_tokens "
            f"({sampling.max_new_tokens}) by the longest prompt; raise the one or lower the other"
        )
    if config.batch.online_fraction + config.batch.annotated_fraction > 1:
        raise ConfigError(
            f"batch.online_fraction ({config.batch.online_fraction}) and batch.annotated_fraction "
            f"({config.batch.annotated_fraction}) are more than the whole batch; lower one"
        )
    _check_groups(config)
    _check_online_values(config)
    _check_curriculum(config.curriculum)
    interval = config.weights.model_update_interval
    if config.replay.max_staleness < interval - 1:
        raise ConfigError(
            f"replay.max_staleness ({config.replay.max_staleness}) is below weights.model_update_interval - 1 "
            f"({interval - 1}): every sample would be too old before new weights come; raise replay.max_staleness"
        )
    if max(config.evaluation.ks, default=1) > config.evaluation.num_samples:
        raise ConfigError(
            f"evaluation.ks asks for pass@{max(config.evaluation.ks)}, but evaluation.num_samples is "
            f"{config.evaluation.num_samples}; raise evaluation.num_samples"
        )


def _check_online_values(config: Config) -> None:
    sampling = config.sampling
    if config.values.online and (sampling.temperature_min, sampling.temperature_max, sampling.top_p) != (1.0, 1.0, 1.0):
        raise ConfigError(
            "values.online needs samples of the policy as it is; set sampling.temperature_min, "
            "sampling.temperature_max and sampling.top_p to 1"
        )
    if config.trainer.reference_update_interval == 0:
        return
    if not config.values.online:
        raise ConfigError(
            "trainer.reference_update_interval: the values of another reference are others; set values.online=true"
        )
    if any(term.name == "mc_q" for _, term in objective_terms(config.objective)):
        raise ConfigError(
            "trainer.reference_update_interval: the targets of mc_q are of the first reference; take another objective"
        )


def _check_groups(config: Config) -> None:
    batch, size = config.batch, config.batch.group_size
    if size > 1 and batch.fractions_of == "tokens":
        raise ConfigError(
            f"batch.group_size is {size}, but groups are drawn only where batch.fractions_of is trajectories; "
            "set either back"
        )
    if batch.num_trajectories % size != 0:
        raise ConfigError(
            f"batch.num_trajectories ({batch.num_trajectories}) is no multiple of batch.group_size ({size}); change one"
        )
    if batch.online_fraction > 0 and config.sampling.samples_per_problem % size != 0:
        raise ConfigError(
            f"sampling.samples_per_problem ({config.sampling.samples_per_problem}) is no multiple of batch.group_size "
            f"({size}): some responses would wait until their problem is sampled again; change one"
        )


def _check_curriculum(curriculum: CurriculumConfig) -> None:
    if curriculum.hopeless_below > curriculum.solved_above:
        raise ConfigError(
            f"curriculum.hopeless_below ({curriculum.hopeless_below}) is above curriculum.solved_above "
            f"({curriculum.solved_above}): every problem would be skipped; swap them"
        )
    if curriculum.function and curriculum.weights != "uniform":
        raise ConfigError(
            f"curriculum.function and curriculum.weights={curriculum.weights} both say what problems weigh; set one"
        )
    if curriculum.function and not re.fullmatch(r"[\w.]+:\w+", curriculum.function):
        raise ConfigError(f"curriculum.function: {curriculum.function!r} is no function; write MODULE:NAME")
