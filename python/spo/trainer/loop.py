"""The training loop of a rank, top to bottom: next batch, step, report, publish, checkpoint; at the end, the policy.

All ranks run this in step with each other. How a step is computed is `learner`'s; what a batch consists of, the
orchestrator's.
"""

from __future__ import annotations

import time
from pathlib import Path

from spo.config import Config
from spo.objective_rules import needs_values
from spo.rundir import POLICY_DIR, read_model
from spo.trainer.checkpoint import Checkpoints
from spo.trainer.client import OrchestratorClient
from spo.trainer.export import save_policy
from spo.trainer.learner import Learner
from spo.trainer.parallel import Ranks
from spo.trainer.policy import Policy, load_policy, load_value_model
from spo.trainer.publish import VersionPublisher
from spo.weights import WeightPublisher
from spo.wire import read_token

CHECKPOINTS_DIR = "checkpoints"


def train(config: Config, run_dir: Path, ranks: Ranks) -> None:
    """Trains from the newest checkpoint (or the reference) to the last step, and returns when the run is over.

    Raises:
        ConfigError: The model cannot be trained.
        ConnectionLost: The orchestrator is gone.
        RunFailed: The orchestrator ended the run, or the gradient is not finite.
    """
    path = read_model(run_dir).path
    policy = load_policy(path, config.model, config.batch.token_budget, ranks, trained=True)
    reference = load_policy(path, config.model, config.batch.token_budget, ranks, trained=False)
    value_model = None
    if needs_values(config.objective):
        value_model = load_value_model(path, config.model, config.batch.token_budget, ranks)
    learner = Learner(policy, reference, config, ranks, value_model)

    changing_reference = reference if config.trainer.reference_update_interval else None
    checkpoints = Checkpoints(run_dir / CHECKPOINTS_DIR, config.trainer.keep_checkpoints, ranks)
    first, state = 0, b""
    if saved := checkpoints.steps():
        first = saved[-1]
        state = checkpoints.load(first, learner.trained, learner.optimizer, changing_reference)

    with (
        _publisher(config, run_dir, ranks) as publisher,
        OrchestratorClient(run_dir) as orchestrator,
        VersionPublisher(publisher, policy.model, config.weights.dtype, ranks) as versions,
    ):
        versions.publish(first, lambda _: None)
        versions.wait()
        orchestrator.hello(ranks.rank, ranks.world_size, publisher.address, first, state if ranks.is_first else b"")
        last = config.trainer.total_steps
        timings: dict[str, float] = {}
        for step in range(first + 1, last + 1):
            with _Timed(timings, "time/batch_wait_s"):
                batch = orchestrator.next_batch(step)
            metrics = learner.step(batch)
            if batch.keep_reference_logprobs:
                orchestrator.reference_computed(step, *learner.reference_logprobs())
            if config.trainer.reference_update_interval and step % config.trainer.reference_update_interval == 0:
                learner.change_reference()
            if ranks.is_first:
                orchestrator.step_done(step, metrics | timings)
            timings.clear()
            if step % config.weights.model_update_interval == 0 or step == last:
                with _Timed(timings, "time/publish_s"):
                    versions.publish(step, orchestrator.version_published)
            if step % config.trainer.checkpoint_interval == 0 or step == last:
                with _Timed(timings, "time/checkpoint_s"):
                    _checkpoint(step, checkpoints, learner, changing_reference, orchestrator, ranks)
        versions.wait()
        save_policy(policy.model, path, run_dir / POLICY_DIR, ranks)
        orchestrator.training_done(max(first, last))


def _publisher(config: Config, run_dir: Path, ranks: Ranks) -> WeightPublisher:
    return WeightPublisher(
        f"{config.network.host}:0", token=read_token(run_dir), rank=ranks.rank, world_size=ranks.world_size
    )


def _checkpoint(
    step: int,
    checkpoints: Checkpoints,
    learner: Learner,
    changing_reference: Policy | None,
    orchestrator: OrchestratorClient,
    ranks: Ranks,
) -> None:
    state = orchestrator.saved_state(step) if ranks.is_first else b""
    checkpoints.save(step, learner.trained, learner.optimizer, state, changing_reference)
    if ranks.is_first:
        orchestrator.checkpoint_saved(step)


class _Timed:
    """Notes how long a block took; reported with the next finished step."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings = timings
        self._name = name

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = time.monotonic() - self._started
