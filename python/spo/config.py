"""The settings of a run: frozen, typed structs, read from a preset or TOML file plus `section.field=value` overrides.

Unknown or ill-typed settings are errors that name the field. The resolved settings are written into the run directory
(`config.toml`), and every process of the run reads them from there. This module only knows what a setting is and
whether its value is possible; whether a path exists is found out by the one that opens it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from spo.errors import ConfigError
from spo.objective_rules import LossName, ObjectiveName, WarpName, check_objective

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
PositiveShare = Annotated[float, Meta(gt=0, le=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections: frozen, unknown fields refused."""


class ModelConfig(Section, frozen=True):
    """The policy; the frozen reference is the same model before training (Sec. 2.1)."""

    path: str = ""
    """A local folder or hub id that `transformers` loads, or `tiny`: the small Llama that is made on the spot."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What forward and backward compute in; parameters and optimiser state are float32 always."""
    gradient_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass."""
    logprob_chunk_tokens: Positive = 1024
    """How many tokens' logits exist at once, in float32."""


class ObjectiveTerm(Section, frozen=True):
    """One objective in a sum; the fields are those of `ObjectiveConfig`."""

    name: ObjectiveName
    """The objective."""
    loss: LossName = "cross_entropy"
    """How a prediction is compared with its target."""
    warp: WarpName = "default"
    """Injective map that both go through first."""
    weight: PositiveFloat = 1.0
    """Its weight."""
    sources: tuple[str, ...] = ()
    """Whose trajectories it is of; empty: all."""


class ObjectiveConfig(Section, frozen=True):
    """What is minimised (Sec. 3.1)."""

    name: ObjectiveName = "terminal_q"
    """The objective; `docs/objectives.md` has them all."""
    loss: LossName = "cross_entropy"
    """How a prediction is compared with its target."""
    warp: WarpName = "default"
    """Injective map that both go through first. `default`: the sigmoid for `advantage` by cross-entropy, else none."""
    weight: PositiveFloat = 1.0
    """Its weight in the sum with `terms`."""
    sources: tuple[str, ...] = ()
    """Sources of the trajectories that it is of, such as `["online"]`; empty: all."""
    terms: tuple[ObjectiveTerm, ...] = ()
    """Further objectives, added to this one: `terms=[{name="reverse_q", loss="squared", sources=["offline"]}]`."""
    beta: PositiveFloat = 1 / math.log(100_000)
    """The temperature β of the soft objective (Eq. 1)."""
    clip_epsilon: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    """Predicted log-probabilities are clipped at minus this; a failure's gradient is at most about its inverse."""
    mc_weight: PositiveFloat = 1.0
    """Weight of `mc_q`'s Monte-Carlo terms beside its terminal one."""
    truncated: Literal["failed", "left_out"] = "failed"
    """Online responses without an end token: trained on as failures, or kept in the store only. Q̂_0 counts them as
    failures either way, so that the optimum on complete responses is the same."""
    ratio_clip: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """How far a token's probability may be from the sampler's, as a ratio, before a policy gradient leaves it alone."""
    gae_lambda: Share = 0.95
    """PPO: λ of the generalised advantage estimates."""
    value_weight: PositiveFloat = 0.5
    """PPO: weight of the value model's loss."""


class OptimizerConfig(Section, frozen=True):
    """AdamW with linear warm-up, then a constant rate (Sec. 5)."""

    learning_rate: PositiveFloat = 6e-8
    """The rate after warm-up."""
    warmup_steps: Count = 200
    """Steps over which the rate grows linearly from 0."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.95
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_gradient_norm: Annotated[float, Meta(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""


class BatchConfig(Section, frozen=True):
    """What one optimiser step is made of."""

    num_trajectories: Positive = 128
    """Trajectories a step, over all ranks."""
    online_fraction: Share = 1.0
    """Share of them that is drawn from fresh samples; the rest is drawn from `offline` (Sec. 3.2)."""
    token_budget: Positive = 4096
    """Tokens in a row; trajectories are packed into rows, and none is split. Longer ones cannot be trained on."""
    rows_per_forward: Positive = 1
    """Rows that go through the model at once; gradients are accumulated over the rest."""


class ReplayConfig(Section, frozen=True):
    """The replay buffer of online trajectories."""

    capacity: Positive = 65_536
    """Online trajectories kept; the oldest leave first."""
    max_uses: Positive = 1
    """How often an online trajectory may be trained on."""
    max_staleness: Count = 64
    """How many optimiser steps the weights that sampled a trajectory may be behind when it is trained on."""
    memory_bytes: Positive = 4 << 30
    """About the most bytes of decoded trajectories kept in memory; others are read from the store in their turn."""
    keep_reference_logprobs: bool = True
    """Store what the reference gives to each trajectory that is trained on, and do not ask it again for a batch whose
    trajectories all have it. About 4 bytes a response token on disk."""


class ExperienceConfig(Section, frozen=True):
    """Experience of earlier runs."""

    stores: tuple[str, ...] = ()
    """Earlier runs' directories, or stores: their trajectories of this run's training problems, each content once, are
    offline trajectories of this run. They are read where they lie, not copied."""
    accepted_only: bool = False
    """Take only their accepted trajectories."""
    replay: str = ""
    """A run directory: every batch is what it was in that run, from its store and its log. `spo train --replay` sets it
    and all that must agree."""


class SamplingConfig(Section, frozen=True):
    """How workers sample online (Sec. 5: temperature drawn per request from [0.1, 0.8], top-p 0.95)."""

    temperature_min: PositiveFloat = 0.1
    """Lower end of the range that a request's temperature is drawn from."""
    temperature_max: PositiveFloat = 0.8
    """Upper end of the range."""
    top_p: PositiveShare = 0.95
    """Nucleus that tokens are sampled from."""
    max_new_tokens: Positive = 2048
    """A response without an end token by then is cut there, and counts as failed."""
    samples_per_problem: Positive = 4
    """Responses sampled whenever a problem's turn comes."""


class ProblemsConfig(Section, frozen=True):
    """Which problems; see `spo.problems.load_problems` for what a spec may be."""

    train: tuple[str, ...] = ()
    """Specs of the training problems."""
    evaluation: tuple[str, ...] = ()
    """Specs of the held-out problems."""
    without: tuple[str, ...] = ()
    """Reports of `spo problems dedup`: the training problems that they name are left out."""
    manifest: str = ""
    """What `spo problems verify --manifest` wrote: bad training problems are left out, time limits calibrated."""
    instruction: str = ""
    """Said after each statement: what kind of answer is wanted. Empty where the policy knows."""


class ValuesConfig(Section, frozen=True):
    """The estimate of Q̂_0 from reference samples, before training (Sec. 3.1.3)."""

    num_samples: Positive = 800
    """Responses sampled from the reference for each training problem (temperature 1, no truncation)."""
    directory: str = ""
    """Where counts and samples are kept for later runs; empty: `values/` beside the run directory."""


class WeightsConfig(Section, frozen=True):
    """How policy versions reach the workers."""

    model_update_interval: Positive = 10
    """Optimiser steps between two published versions."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What the weights are streamed as."""


class WorkersConfig(Section, frozen=True):
    """The rollout workers that the orchestrator starts on its own machine."""

    num_workers: Count = 1
    """How many; 0 where all join from elsewhere by `spo worker`."""
    engine: Literal["transformers", "fake"] = "transformers"
    """What samples."""
    max_batch_size: Positive = 64
    """Responses that one engine samples at once."""
    torch_threads: Positive = 1
    """Torch threads of each worker; more threads than cores, over all processes, are many times slower."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the engine computes in."""
    device: str = "auto"
    """`auto` (a CUDA device where there is one), `cpu`, `cuda`, `cuda:1`, …"""
    max_restarts: Count = 5
    """How often workers may die in a run before it is given up."""


class JudgeConfig(Section, frozen=True):
    """The judge in each worker."""

    num_workers: Positive = 1
    """Programs judged at once in each rollout worker."""
    output_bytes: Positive = 16 << 20
    """Output a test may write. CPU time and memory are limited by each problem."""
    allow_weak_isolation: bool = False
    """Judge even where the host gives less than landlock, seccomp and rlimits."""


class EvaluationConfig(Section, frozen=True):
    """Held-out evaluation (Sec. 5)."""

    interval: Count = 100
    """Optimiser steps between two evaluations during training; 0: only before and after."""
    num_samples: Positive = 20
    """Responses a problem."""
    temperature: PositiveFloat = 0.4
    """Their temperature."""
    top_p: PositiveShare = 0.95
    """Their nucleus."""
    ks: tuple[Positive, ...] = (1, 10)
    """The k of pass@k."""


class TrainerConfig(Section, frozen=True):
    """The trainer ranks."""

    total_steps: Positive = 100_000
    """Optimiser steps of the run."""
    checkpoint_interval: Positive = 100
    """Optimiser steps between two checkpoints."""
    keep_checkpoints: Positive = 2
    """How many checkpoints are kept; the newest whole one is resumed from."""
    torch_threads: Positive = 1
    """Torch threads of each rank."""
    device: str = "auto"
    """`auto` (CUDA and nccl where there is one), `cpu` (gloo) or `cuda`."""


class TinyConfig(Section, frozen=True):
    """How the `tiny` reference is made, where `model.path` is `tiny`."""

    steps: Positive = 250
    """Supervised steps."""
    torch_threads: Positive = 1
    """Torch threads while it is made; more gain little on so small a model, and lose much on a busy machine."""


class PlanConfig(Section, frozen=True):
    """The hardware that a run is laid out for: what `spo train --dry-run` computes with. It starts nothing."""

    trainer_gpus: Count = 0
    """Trainer ranks, a GPU each, over all nodes; 0: one."""
    worker_gpus: Count = 0
    """Rollout workers, a GPU each, over all nodes; 0: as many as `workers.num_workers`."""
    gpus_per_node: Positive = 8
    """GPUs of a node."""
    gpu_memory_gib: PositiveFloat = 79.0
    """Memory of a GPU; an H100 has about as much as this."""


class NetworkConfig(Section, frozen=True):
    """Where the orchestrator and the weight publishers listen."""

    host: str = "127.0.0.1"
    """Address to bind; beyond loopback the run's token guards every connection."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of the orchestrator; 0 takes a free one."""
    stall_timeout_s: PositiveFloat = 600.0
    """A run that makes no progress of any kind for this long is ended, with the reason."""


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
    weights: WeightsConfig = WeightsConfig()
    """Policy versions."""
    workers: WorkersConfig = WorkersConfig()
    """Rollout workers."""
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


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = resources.files("spo.presets")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load_config(preset_or_path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a preset (by name) or a TOML file, applies `section.field=value` overrides and checks the whole.

    None instead of a preset stands for the defaults.

    Raises:
        ConfigError: An unknown preset, a missing file, wrong TOML, an unknown or ill-typed field, values that exclude
            each other. The text names the field and the fix.
    """
    data = {} if preset_or_path is None else _read_toml(preset_or_path)
    for override in overrides:
        _apply_override(data, override)
    return _checked(data, preset_or_path or "settings")


def parse_config(text: str, origin: str) -> Config:
    """Reads settings from TOML text; `origin` says in errors where it came from.

    Raises:
        ConfigError: As for `load_config`.
    """
    return _checked(_parse_toml(text, origin), origin)


def read_resolved(run_dir: str | Path) -> Config:
    """Reads the settings that a run was started with (`RUN_DIR/config.toml`)."""
    return load_config(str(Path(run_dir) / "config.toml"))


def write_resolved(config: Config, run_dir: str | Path) -> None:
    """Writes the settings to `RUN_DIR/config.toml`, every field spelt out."""
    (Path(run_dir) / "config.toml").write_text(to_toml(config), encoding="utf-8")


def to_toml(config: Config) -> str:
    """The settings as TOML text that `load_config` reads back to an equal `Config`."""
    data = msgspec.to_builtins(config)
    lines = [f"{key} = {_toml_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for name, section in data.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _read_toml(preset_or_path: str) -> dict[str, Any]:
    if preset_or_path in preset_names():
        text = (resources.files("spo.presets") / f"{preset_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(preset_or_path).read_text(encoding="utf-8")
        except FileNotFoundError:
            names = ", ".join(preset_names())
            raise ConfigError(f"{preset_or_path}: no such preset or TOML file; the presets are {names}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{preset_or_path}: cannot be read: {error}") from None
    return _parse_toml(text, preset_or_path)


def _parse_toml(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: write section.field=value, such as trainer.total_steps=500")
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {override!r}: {key!r} is not a section")
    data[keys[-1]] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value; what is none (a bare word or path) is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(data: dict[str, Any], origin: str) -> Config:
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`")
        raise ConfigError(f"{origin}: {field + ': ' if field else ''}{what}{_suggestion(what, field)}") from None
    _check_together(config)
    return config


def _suggestion(what: str, field: str) -> str:
    """What would have been right, for what msgspec found wrong at `field`."""
    if "unknown field" in what:
        return f"; the fields are {', '.join(_type_at(field).__struct_fields__)}"
    if "Invalid enum value" in what:
        return f"; choose from {', '.join(map(str, get_args(_type_at(field))))}"
    return ""


def _type_at(field: str) -> Any:
    """The type of the setting called `section.field` or `section.field[index].field`."""
    found: Any = Config
    for name in field.split(".") if field else ():
        found = get_type_hints(found)[name.partition("[")[0]]
        if "[" in name:
            found = get_args(found)[0]
    return found


def _check_together(config: Config) -> None:
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
    if config.replay.max_staleness < config.weights.model_update_interval:
        raise ConfigError(
            f"replay.max_staleness ({config.replay.max_staleness}) is below weights.model_update_interval "
            f"({config.weights.model_update_interval}): every sample would be too old; raise replay.max_staleness"
        )
    if max(config.evaluation.ks, default=1) > config.evaluation.num_samples:
        raise ConfigError(
            f"evaluation.ks asks for pass@{max(config.evaluation.ks)}, but evaluation.num_samples is "
            f"{config.evaluation.num_samples}; raise evaluation.num_samples"
        )


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items()) + "}"
    return repr(value)
