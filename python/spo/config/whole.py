"""All settings of a run."""

from __future__ import annotations

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
from spo.config.base import Count, Section
from spo.config.learning import (
    BatchConfig,
    ExperienceConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ReplayConfig,
    TinyConfig,
    TrainerConfig,
)


class Config(Section, frozen=True):
    """All settings of a run."""

    run_dir: str = ""
    """The run's directory; must not exist yet, unless resumed. Empty: `runs/NAME-DATE`."""
    seed: Count = 0
    """Everything random in the run derives from it."""
    model: ModelConfig = ModelConfig()
    """The policy."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How."""
    batch: BatchConfig = BatchConfig()
    """What a step is made of."""
    replay: ReplayConfig = ReplayConfig()
    """The replay buffer."""
    experience: ExperienceConfig = ExperienceConfig()
    """Earlier runs."""
    sampling: SamplingConfig = SamplingConfig()
    """Online sampling."""
    problems: ProblemsConfig = ProblemsConfig()
    """The problems."""
    values: ValuesConfig = ValuesConfig()
    """Q̂_0."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """Which problems how often."""
    weights: WeightsConfig = WeightsConfig()
    """Policy versions."""
    workers: WorkersConfig = WorkersConfig()
    """Rollout workers."""
    vllm: VllmConfig = VllmConfig()
    """vLLM."""
    judge: JudgeConfig = JudgeConfig()
    """The judge."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    trainer: TrainerConfig = TrainerConfig()
    """Trainer ranks."""
    tiny: TinyConfig = TinyConfig()
    """The built-in reference."""
    plan: PlanConfig = PlanConfig()
    """Planned hardware."""
    network: NetworkConfig = NetworkConfig()
    """Addresses."""
