"""One optimiser step: forward policy and reference, objective, backward, clip, AdamW; and its metrics.

Works on a batch that is here already; where batches come from and where policies go is `loop`'s.

Shapes: N response tokens in a micro-batch, B trajectories, L response tokens of the longest.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from spo.config import Config, OptimizerConfig
from spo.errors import RunFailed
from spo.trainer.batches import MicroBatch, micro_batches
from spo.trainer.objectives import Metrics, make_objective
from spo.trainer.parallel import Ranks, local_shard, peak_memory_bytes, sum_over_ranks
from spo.trainer.policy import Policy, ValueModel
from spo.types import Batch


def make_optimizer(trained: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over float32 masters."""
    return torch.optim.AdamW(
        trained.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """The rate of optimiser step `step` (from 1): linear warm-up, then constant (Sec. 5)."""
    return config.learning_rate * min(1.0, step / max(config.warmup_steps, 1))


class Learner:
    """The policy in training, its frozen reference and its optimiser; with PPO a value model besides."""

    def __init__(
        self, policy: Policy, reference: Policy, config: Config, ranks: Ranks, value_model: ValueModel | None = None
    ) -> None:
        self.trained: nn.Module = policy
        """All that is trained: what a checkpoint holds."""
        if value_model is not None:
            self.trained = nn.ModuleDict({"policy": policy, "value": value_model})
        self.optimizer = make_optimizer(self.trained, config.optimizer)
        self._policy = policy
        self._value_model = value_model
        self.reference = reference
        """Frozen, but for `change_reference`."""
        self._objective = make_objective(config.objective)
        self._config = config
        self._ranks = ranks
        self._computed: list[tuple[list[int], Tensor]] = []
        """What the reference gave in the last step: trajectories, and [N], one after the other."""

    def step(self, batch: Batch) -> dict[str, float]:
        """Does one optimiser step on this rank's rows of `batch`; all ranks call this.

        Returns:
            Metrics over all ranks, by their names in `docs/metrics.md`.

        Raises:
            RunFailed: The gradient is not finite; the weights are left as they were.
        """
        started = time.monotonic()
        self._set_learning_rate(batch.step)
        self._computed.clear()
        sums: Metrics = {}
        num_tokens = 0
        for micro in micro_batches(batch, self._config.batch.rows_per_forward, self._ranks.device):
            for name, sum_and_count in self._accumulate(micro, batch.num_trajectories).items():
                sums[name] = sums[name] + sum_and_count if name in sums else sum_and_count
            num_tokens += micro.num_tokens
        metrics, square_sum, num_tokens = self._reduce(sums, num_tokens)
        metrics["loss/gradient_norm"] = self._clip(math.sqrt(square_sum), batch.step)
        self.optimizer.step()
        metrics |= self._memory()
        self.optimizer.zero_grad(set_to_none=True)
        metrics["loss/learning_rate"] = learning_rate(batch.step, self._config.optimizer)
        metrics["replay/reference_stored"] = float(bool(batch.reference_logprobs))
        metrics["time/step_s"] = time.monotonic() - started
        metrics["time/train_tokens_per_s"] = num_tokens / metrics["time/step_s"]
        return metrics

    def change_reference(self) -> None:
        """The policy as it is becomes the reference."""
        self.reference.copy_from(self._policy)

    def reference_logprobs(self) -> tuple[list[int], bytes]:
        """What the reference gave to this rank's trajectories in the last step, where it was computed.

        Returns:
            Indices in the batch, and float32 of their response tokens, one after the other.
        """
        trajectories = [index for indices, _ in self._computed for index in indices]
        if not trajectories:
            return [], b""
        return trajectories, torch.cat([logprobs_N for _, logprobs_N in self._computed]).float().cpu().numpy().tobytes()

    def _accumulate(self, micro: MicroBatch, num_trajectories: int) -> Metrics:
        """Adds the gradient of a micro-batch's share of the mean over the whole batch's trajectories."""
        inputs = (micro.tokens_RT, micro.position_ids_RT, micro.response_index_N)
        reference_logprobs_N = micro.reference_logprobs_N
        if reference_logprobs_N is None:
            with torch.no_grad():
                reference_logprobs_N = self.reference(*inputs)
            self._computed.append((micro.trajectory_B.tolist(), reference_logprobs_N))
        policy_logprobs_N = self._policy(*inputs)
        extras = micro.extras
        if self._value_model is not None:
            extras = {**extras, "value_BT": micro.by_trajectory(self._value_model(*inputs))}
        loss, metrics = self._objective(
            micro.by_trajectory(policy_logprobs_N),
            micro.by_trajectory(reference_logprobs_N),
            micro.mask_BL,
            micro.reward_B,
            micro.initial_value_B,
            sources=micro.sources,
            **extras,
        )
        # Rows without a trajectory go through backward too, so that the ranks' collectives match.
        share = len(micro.reward_B) / num_trajectories
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return metrics

    def _reduce(self, sums: Metrics, num_tokens: int) -> tuple[dict[str, float], float, int]:
        """Metrics, the gradient's sum of squares and tokens of all ranks: one collective, one wait for the device."""
        squares = [gradient.square().sum() for gradient in self._gradients()]
        extra = torch.stack([torch.stack(squares).sum(), squares[0].new_tensor(num_tokens)])
        *pairs, last = sum_over_ranks(torch.stack([*sums.values(), extra])).tolist()
        # A mean over nothing (no failure in the batch, say) is left out.
        means = {name: total / count for name, (total, count) in zip(sums, pairs, strict=True) if count > 0}
        return means, last[0], round(last[1])

    def _gradients(self) -> list[Tensor]:
        """This rank's shard of every gradient."""
        gradients = (parameter.grad for parameter in self.trained.parameters())
        return [local_shard(gradient) for gradient in gradients if gradient is not None]

    def _clip(self, norm: float, step: int) -> float:
        """Scales the gradient down to the configured norm; returns what the norm was."""
        if not math.isfinite(norm):
            raise RunFailed(
                f"the gradient of step {step} is not finite; lower optimizer.learning_rate or raise "
                "objective.clip_epsilon, and resume from the last checkpoint"
            )
        limit = self._config.optimizer.max_gradient_norm
        if 0 < limit < norm:
            for gradient in self._gradients():
                gradient.mul_(limit / norm)
        return norm

    def _memory(self) -> dict[str, float]:
        """What this rank holds, where gradients are there too, and the most that its process ever took."""
        moments = (value for of_one in self.optimizer.state.values() for value in of_one.values())
        held = [*self.trained.parameters(), *self._gradients(), *self.reference.parameters(), *moments]
        return {
            "memory/state_bytes": float(
                sum(local_shard(tensor).nbytes for tensor in held if isinstance(tensor, Tensor))
            ),
            "memory/peak_bytes": float(peak_memory_bytes(self._ranks.device)),
        }

    def _set_learning_rate(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self._config.optimizer)
