"""Settings of what acts: problems, sampling, rollout workers, judge, evaluation; addresses and hardware."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from spo.config.base import Count, Positive, PositiveFloat, PositiveShare, Section, Share


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
    interval_width: Share = 0.0
    """A problem gets no more once the 95% interval of its success rate is no wider than this; 0: it gets all."""
    directory: str = ""
    """Where counts and samples are kept for later runs; empty: `values/` beside the run directory."""
    online: bool = False
    """Go on estimating while training goes on: a running average of online samples, weighted by π0/π."""
    online_window: Positive = 256
    """What the average was before weighs like at most so many samples against the next one."""


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


class CurriculumConfig(Section, frozen=True):
    """Which training problems are sampled online how often, by how often they are solved; see `docs/problems.md`."""

    weights: Literal["uniform", "variance", "success", "failure"] = "uniform"
    """A problem's weight where a share p of its responses is accepted: 1, p(1 - p), p, or 1 - p."""
    function: str = ""
    """`MODULE:NAME` of a function from `spo.curriculum.Standing` to a weight, in place of `weights`."""
    solved_above: Share = 1.0
    """Problems of which a larger share is accepted are skipped."""
    hopeless_below: Share = 0.0
    """Problems of which a smaller share is accepted are skipped."""
    rates: Literal["reference", "online"] = "reference"
    """Whose responses count: the reference's for Q̂_0; or the last `window` online ones of each problem, as soon as it
    has so many."""
    window: Positive = 32
    """See `rates`."""
    explore: Share = 0.0
    """This share of the work goes to all problems alike, skipped ones too."""


class WorkersConfig(Section, frozen=True):
    """The rollout workers that the orchestrator starts on its own machine."""

    num_workers: Count = 1
    """How many; 0 where all join from elsewhere by `spo worker`."""
    engine: Literal["transformers", "vllm", "fake"] = "transformers"
    """What samples; section `vllm` has the settings of vLLM alone."""
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


class VllmConfig(Section, frozen=True):
    """vLLM, where `workers.engine` is `vllm`."""

    tensor_parallel_size: Positive = 1
    """GPUs (or processes, on a CPU) that each worker's model is spread over."""
    gpu_memory_utilization: PositiveShare = 0.9
    """Share of each GPU's memory that vLLM takes."""
    kv_cache_bytes: Count = 0
    """Memory for keys and values; 0: what that share leaves, and 1 GiB on a CPU."""
    max_model_len: Count = 0
    """Most tokens of a prompt and its response; 0: as many as the model has positions."""
    enforce_eager: bool = False
    """Run the model without compiling it: starts sooner, samples slower. On a CPU always."""


class JudgeConfig(Section, frozen=True):
    """The judge in each worker."""

    num_workers: Positive = 4
    """Programs judged at once in each rollout worker. With one, each waits for a core in turn while sampler and trainer
    have them; waiting for a core counts as no program's time."""
    output_bytes: Positive = 16 << 20
    """Output a test may write. CPU time and memory are limited by each problem."""
    allow_weak_isolation: bool = False
    """Judge even where the host gives less than landlock, seccomp and rlimits."""


class EvaluationConfig(Section, frozen=True):
    """Held-out evaluation (Sec. 5)."""

    interval: Count = 100
    """Optimiser steps between two evaluations during training; 0: only before and after."""
    reference: bool = True
    """Whether the reference is evaluated, before training; without it a report compares with nothing."""
    num_samples: Positive = 20
    """Responses a problem."""
    temperature: PositiveFloat = 0.4
    """Their temperature."""
    top_p: PositiveShare = 0.95
    """Their nucleus."""
    ks: tuple[Positive, ...] = (1, 10)
    """The k of pass@k."""


class WeightsConfig(Section, frozen=True):
    """How policy versions reach the workers."""

    model_update_interval: Positive = 10
    """Optimiser steps between two published versions."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What the weights are streamed as."""


class NetworkConfig(Section, frozen=True):
    """Where the orchestrator and the weight publishers listen."""

    host: str = "127.0.0.1"
    """Address to bind; beyond loopback the run's token guards every connection."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of the orchestrator; 0 takes a free one."""
    stall_timeout_s: PositiveFloat = 600.0
    """A run that makes no progress of any kind for this long is ended, with the reason."""


class PlanConfig(Section, frozen=True):
    """The hardware that a run is laid out for: what `spo train --dry-run` computes with. It starts nothing."""

    trainer_gpus: Count = 0
    """Trainer ranks, a GPU each, over all nodes; 0: one."""
    worker_gpus: Count = 0
    """GPUs of the rollout workers, over all nodes; 0: as many as `workers.num_workers` take."""
    gpus_per_node: Positive = 8
    """GPUs of a node."""
    gpu_memory_gib: PositiveFloat = 79.0
    """Memory of a GPU; an H100 has about as much as this."""
