"""A few optimiser steps under each objective on the harness's batches, without any loop around them.

`test_trainer_ranks` calls `all_steps` on its own rank, and runs this file under torchrun for the same on two.
"""

import json
import os
import sys
from pathlib import Path

import torch
from trainer_harness import make_batch, make_run

from spo.trainer.learner import Learner
from spo.trainer.parallel import Ranks, local_shard, start_ranks, stop_ranks, sum_over_ranks
from spo.trainer.policy import ValueModel, load_policy, load_value_model

CASES = (
    *((name, loss) for name in ("terminal_q", "reverse_q", "mc_q") for loss in ("squared", "cross_entropy")),
    ("advantage", "cross_entropy"),
    *((name, "cross_entropy") for name in ("policy_gradient", "grpo", "oapl", "ppo")),
)
"""Objective and loss; for those that are no regressions the loss is the setting's default."""
BATCHES = (1, 2, 1)
"""The first batch comes twice: a second epoch of it, with the sampler's log-probabilities of before."""
ON_POLICY = ("sampling.temperature_min=1", "sampling.temperature_max=1", "sampling.top_p=1", "batch.online_fraction=1")


def make_learner(run_dir: Path, model: Path, ranks: Ranks, name: str, loss: str, *overrides: str) -> Learner:
    """A learner at its first step; a value model has a head that is not zero."""
    settings = (f"objective.name={name}", f"objective.loss={loss}", "optimizer.warmup_steps=0", *ON_POLICY)
    config = make_run(run_dir, model, *settings, *overrides)
    arguments = (str(model), config.model, config.batch.token_budget, ranks)
    policy, reference = (load_policy(*arguments, trained=trained) for trained in (True, False))
    value_model = None
    if name == "ppo":
        value_model = load_value_model(*arguments)
        set_head(value_model)
    return Learner(policy, reference, config, ranks, value_model)


def head_weight(width: int) -> torch.Tensor:
    """The head's: [1, width]."""
    return 0.1 * torch.randn(1, width, generator=torch.Generator().manual_seed(3))


def set_head(value_model: ValueModel) -> None:
    weight = value_model.head.weight
    with torch.no_grad():
        local = local_shard(weight)
        local.copy_(head_weight(weight.shape[1])[: len(local)])


def all_steps(folder: Path, model: Path, ranks: Ranks) -> dict[str, list[dict[str, float]]]:
    """By objective and loss: the metrics of each step, and the norm of the weights after it."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, loss in CASES:
        learner = make_learner(folder / f"{name}-{loss}-{ranks.rank}", model, ranks, name, loss)
        steps = found[f"{name} {loss}"] = []
        for batch in BATCHES:
            metrics = learner.step(make_batch(batch, ranks.rank, ranks.world_size))
            squares = [local_shard(weight).square().sum() for weight in learner.trained.parameters()]
            norm = sum_over_ranks(torch.stack(squares).sum()).sqrt().item()
            steps.append({key: value for key, value in metrics.items() if key.startswith("loss/")} | {"weights": norm})
    return found


if __name__ == "__main__":
    started = start_ranks("cpu", 1, 60.0)
    steps = all_steps(Path(sys.argv[1]), Path(sys.argv[2]), started)
    if started.is_first:
        (Path(sys.argv[1]) / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    stop_ranks()
    # As `spo.train` ends: gloo's threads may still hold tensors, and letting go of them late aborts the interpreter.
    os._exit(0)
