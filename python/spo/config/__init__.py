"""The settings of a run: frozen, typed structs, read from a preset or TOML file plus `section.field=value` overrides.

Unknown or ill-typed settings are errors that name the field. The resolved settings are written into the run directory
(`config.toml`), and every process of the run reads them from there. This package only knows what a setting is and
whether its value is possible; whether a path exists is found out by the one that opens it. Sections are declared in
`learning` and `acting`, put together in `whole`, checked against each other in `together`.
"""

from spo.config.acting import (
    CurriculumConfig,
    EvaluationConfig,
    JudgeConfig,
    NetworkConfig,
    PlanConfig,
    ProblemsConfig,
    SamplingConfig,
    ValuesConfig,
    VllmConfig,
    WeightsConfig,
    WorkersConfig,
)
from spo.config.base import Section
from spo.config.learning import (
    BatchConfig,
    ExperienceConfig,
    ModelConfig,
    ObjectiveConfig,
    ObjectiveTerm,
    OptimizerConfig,
    ReplayConfig,
    TinyConfig,
    TrainerConfig,
)
from spo.config.reading import load_config, parse_config, preset_names, read_resolved, to_toml, write_resolved
from spo.config.whole import Config

__all__ = [
    "BatchConfig",
    "Config",
    "CurriculumConfig",
    "EvaluationConfig",
    "ExperienceConfig",
    "JudgeConfig",
    "ModelConfig",
    "NetworkConfig",
    "ObjectiveConfig",
    "ObjectiveTerm",
    "OptimizerConfig",
    "PlanConfig",
    "ProblemsConfig",
    "ReplayConfig",
    "SamplingConfig",
    "Section",
    "TinyConfig",
    "TrainerConfig",
    "ValuesConfig",
    "VllmConfig",
    "WeightsConfig",
    "WorkersConfig",
    "load_config",
    "parse_config",
    "preset_names",
    "read_resolved",
    "to_toml",
    "write_resolved",
]
