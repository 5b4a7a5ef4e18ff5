"""What the reference gives is computed once: told to the orchestrator, given back, and the same to the last bit."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_harness import FakeOrchestrator, make_batch, make_model, make_run, serving
from transformers import AutoModelForCausalLM

from spo.trainer.loop import train
from spo.trainer.parallel import Ranks, start_ranks, stop_ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    yield start_ranks("cpu", 1, 60.0)
    stop_ranks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "llama")


def run(run_dir: Path, model: Path, ranks: Ranks, *overrides: str, **options: object) -> tuple[FakeOrchestrator, bytes]:
    config = make_run(run_dir, model, *overrides)
    with serving(FakeOrchestrator(run_dir, keeps_reference=True, **options)) as orchestrator:  # type: ignore[arg-type]
        train(config, run_dir, ranks)
    return orchestrator, (run_dir / "policy" / "model.safetensors").read_bytes()


def test_kept_log_probabilities_give_the_same_losses_and_weights_bit_for_bit(
    tmp_path: Path, model: Path, ranks: Ranks
) -> None:
    computed, weights = run(tmp_path / "computed", model, ranks)
    assert {step: sorted(told) for step, told in computed.told.items()} == {
        step: list(range(9)) for step in range(1, 7)
    }
    kept, same_weights = run(tmp_path / "kept", model, ranks, stored=computed.told)
    assert kept.told == {}, "the reference was asked although nothing was lacking"
    assert kept.losses == computed.losses
    assert same_weights == weights
    check_values(computed.told[3], model)


def check_values(told: dict[int, np.ndarray], model: Path) -> None:
    """What was told of the batch of step 3 is what the model gives to each trajectory by itself."""
    batch = make_batch(3, 0, 1)
    shape = (batch.num_rows, batch.num_tokens)
    tokens, segments = (np.frombuffer(data, np.int32).reshape(shape) for data in (batch.tokens, batch.segment_ids))
    mask = np.frombuffer(batch.response_mask, np.uint8).reshape(shape) != 0
    reference = AutoModelForCausalLM.from_pretrained(model)
    for trajectory, values in told.items():
        mine = segments == trajectory
        with torch.no_grad():
            logits = reference(torch.from_numpy(tokens[mine].astype(np.int64))[None]).logits[0]
        logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.from_numpy(tokens[mine][1:, None].astype(np.int64)))
        np.testing.assert_allclose(values, logprobs[:, 0].numpy()[mask[mine][1:]], rtol=1e-4, atol=1e-5)


def test_a_reference_that_changes_is_the_policy_of_that_step_and_a_resumed_run_has_it(
    tmp_path: Path, model: Path, ranks: Ranks
) -> None:
    settings = ("trainer.reference_update_interval=2", "values.online=true", "sampling.temperature_min=1",
                "sampling.temperature_max=1", "sampling.top_p=1")  # fmt: skip
    whole, weights = run(tmp_path / "whole", model, ranks, *settings)
    log_ratios = [whole.metrics[step]["loss/log_ratio"] for step in range(1, 7)]
    assert [ratio == 0.0 for ratio in log_ratios] == [True, False, True, False, True, False]
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "step-00000003", tmp_path / "cut/checkpoints/step-00000003")
    resumed, same_weights = run(tmp_path / "cut", model, ranks, *settings)
    assert sorted(resumed.metrics) == [4, 5, 6]
    assert same_weights == weights
    fixed, other_weights = run(tmp_path / "fixed", model, ranks)
    assert fixed.metrics[3]["loss/log_ratio"] != 0.0
    assert other_weights != weights
