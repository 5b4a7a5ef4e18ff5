"""Settings of what is learnt, and from what: model, objective, optimiser, batches, the replay buffer, trainers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from spo.config.base import Count, Positive, PositiveFloat, Section, Share
from spo.objective_rules import LossName, ObjectiveName, WarpName


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
    """Responses without an end token, online or of earlier stores: trained on as failures, or left in the store. Q̂_0
    counts them as failures either way, so that the optimum on complete responses is the same."""
    ratio_clip: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """How far a token's probability may be from the sampler's, as a ratio, before a policy gradient leaves it alone."""
    value_beta: Annotated[float, Meta(ge=0)] = 0.0
    """OAPL: temperature of the estimate of a group's value; 0: `beta`. Where `beta` is small, about 1 is steadier."""
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
    annotated_fraction: Share = 0.0
    """Share of them that is drawn from what Pivotal Token Search left in `experience.stores` (Sec. 5), and not from
    `offline` then: the source `annotated`."""
    fractions_of: Literal["trajectories", "tokens"] = "trajectories"
    """What the fractions are counted in: the trajectories of each batch, or the tokens of all batches so far, to within
    a trajectory of each source. A batch has `num_trajectories` either way."""
    group_size: Positive = 1
    """So many responses to one problem, of one source, come together in a batch; problems that have fewer wait."""
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
    """How many optimiser steps the weights that sampled a trajectory may be behind when it is trained on; at least
    `weights.model_update_interval` less one. 0: on-policy, sampling and training take turns."""
    order: Literal["oldest", "uniform", "recent"] = "oldest"
    """Which go first. `oldest`: the least used, among them those of the oldest weights, so that none grows too old
    before it was trained on; `uniform`: the least used, among them any; `recent`: any, with a chance that halves with
    every `half_life` steps of age. Under the latter two some may grow too old unused (`replay/expired_unused`)."""
    half_life: PositiveFloat = 10.0
    """Of `recent`, in optimiser steps."""
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
    annotated: Literal["targets", "rollouts"] = "targets"
    """What the source `annotated` is: the searched trajectories, with their counts for `mc_q`; or, to tell what the
    counts are good for, the search's own rollouts instead."""
    replay: str = ""
    """A run directory: every batch is what it was in that run, from its store and its log. `spo train --replay` sets it
    and all that must agree."""


class TrainerConfig(Section, frozen=True):
    """The trainer ranks."""

    total_steps: Positive = 100_000
    """Optimiser steps of the run."""
    checkpoint_interval: Positive = 100
    """Optimiser steps between two checkpoints."""
    keep_checkpoints: Positive = 2
    """How many checkpoints are kept; the newest whole one is resumed from."""
    reference_update_interval: Count = 0
    """Optimiser steps after which the policy becomes the reference, again and again; 0: never. Needs `values.online`,
    since the values are then others."""
    torch_threads: Positive = 1
    """Torch threads of each rank."""
    device: str = "auto"
    """`auto` (CUDA and nccl where there is one), `cpu` (gloo) or `cuda`."""


class TinyConfig(Section, frozen=True):
    """How the `tiny` reference is made, where `model.path` is `tiny`."""

    steps: Positive = 250
    """Supervised steps."""
    num_heads: Literal[0, 2, 4, 5] = 0
    """Attention heads, of 160 / `num_heads` dimensions. 0: 4, but 5 where `workers.engine` is `vllm`, whose kernels for
    CPUs take no heads of 40."""
    torch_threads: Positive = 1
    """Torch threads while it is made; more gain little on so small a model, and lose much on a busy machine."""
