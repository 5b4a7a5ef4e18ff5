"""Log-probabilities of packed rows: each trajectory scored as if alone, whatever else is in its row or micro-batch."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_harness import NUM_ROWS, NUM_TOKENS, NUM_TRAJECTORIES, VOCABULARY, make_batch, make_model
from transformers import AutoModelForCausalLM

import spo.trainer.policy as policy_module
from spo.config import ModelConfig
from spo.errors import ConfigError, ConnectionLost
from spo.trainer.attention import attention_mask
from spo.trainer.batches import MicroBatch, micro_batches
from spo.trainer.parallel import Ranks, start_ranks, stop_ranks
from spo.trainer.policy import Policy, load_policy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    yield start_ranks("cpu", 1, 60.0)
    stop_ranks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "llama")


def load(model: Path, ranks: Ranks, *, trained: bool = True, **settings: object) -> Policy:
    return load_policy(str(model), ModelConfig(**settings), NUM_TOKENS, ranks, trained=trained)  # type: ignore[arg-type]


def whole_batch(step: int = 1) -> MicroBatch:
    (micro,) = micro_batches(make_batch(step, 0, 1), NUM_ROWS, CPU)
    return micro


def scores(policy: Policy, micro: MicroBatch) -> torch.Tensor:
    return policy(micro.tokens_RT, micro.position_ids_RT, micro.response_index_N)


def trajectories(step: int = 1) -> list[tuple[torch.Tensor, int]]:
    """Each trajectory's tokens and how many of them are the prompt's, straight from the arrays."""
    batch = make_batch(step, 0, 1)
    tokens = np.frombuffer(batch.tokens, np.int32)
    segments = np.frombuffer(batch.segment_ids, np.int32)
    response = np.frombuffer(batch.response_mask, np.uint8)
    return [
        (torch.from_numpy(tokens[segments == t].astype(np.int64)), int((response[segments == t] == 0).sum()))
        for t in range(NUM_TRAJECTORIES)
    ]


def test_packed_rows_score_as_one_trajectory_a_row_and_as_plain_transformers(model: Path, ranks: Ranks) -> None:
    policy = load(model, ranks)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    micro = whole_batch()
    packed_BL = micro.by_trajectory(scores(policy, micro))
    assert packed_BL.shape[0] == NUM_TRAJECTORIES
    for packed_L, mask_L, (tokens_T, num_prompt) in zip(packed_BL, micro.mask_BL, trajectories(), strict=True):
        alone = policy(tokens_T[None], torch.arange(len(tokens_T))[None], torch.arange(num_prompt, len(tokens_T)))
        logits_TV = plain(tokens_T[None]).logits[0]
        naive = torch.log_softmax(logits_TV[:-1], dim=1).gather(1, tokens_T[1:, None]).squeeze(1)[num_prompt - 1 :]
        torch.testing.assert_close(packed_L[mask_L], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed_L[mask_L], naive, rtol=1e-5, atol=1e-5)


def test_a_trajectory_does_not_see_its_neighbour_in_the_row(model: Path, ranks: Ranks) -> None:
    policy, micro = load(model, ranks), whole_batch()
    before_BL = micro.by_trajectory(scores(policy, micro))
    # Trajectory 0 is the first half of row 0, trajectory 1 the second.
    micro.tokens_RT[0, :16] = (micro.tokens_RT[0, :16] + 1) % VOCABULARY
    after_BL = micro.by_trajectory(scores(policy, micro))
    assert (before_BL[0] != after_BL[0]).any()
    assert torch.equal(before_BL[1:], after_BL[1:])


def test_gradients_of_packed_rows_equal_those_of_one_trajectory_a_row(model: Path, ranks: Ranks) -> None:
    packed, alone, micro = load(model, ranks), load(model, ranks), whole_batch()
    scores(packed, micro).square().mean().backward()
    total = len(micro.response_index_N)
    for tokens_T, num_prompt in trajectories():
        index_N = torch.arange(num_prompt, len(tokens_T))
        (alone(tokens_T[None], torch.arange(len(tokens_T))[None], index_N).square().sum() / total).backward()
    for (name, one), other in zip(packed.named_parameters(), alone.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.to_local(), other.grad.to_local(), rtol=1e-4, atol=1e-5, msg=name)


def test_attention_is_causal_and_within_a_trajectory() -> None:
    mask = attention_mask(torch.tensor([[0, 1, 2, 0, 1, 0]]))
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    )
    assert torch.equal(mask[0, 0], expected.bool())


@pytest.mark.parametrize("rows_per_forward", [1, 2, 4, 6, 100])
def test_micro_batches_hold_every_trajectory_once_with_its_reward_value_and_rate(
    model: Path, ranks: Ranks, rows_per_forward: int
) -> None:
    policy, batch = load(model, ranks), make_batch(2, 0, 1)
    whole_BL = whole_batch(2)
    expected = whole_BL.by_trajectory(scores(policy, whole_BL)).sum(dim=1)
    parts = list(micro_batches(batch, rows_per_forward, CPU))
    assert len(parts) == math.ceil(NUM_ROWS / rows_per_forward)
    actual = torch.cat([part.by_trajectory(scores(policy, part)).sum(dim=1) for part in parts])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    rewards = torch.cat([part.reward_B for part in parts]).numpy()
    values = torch.cat([part.initial_value_B for part in parts]).numpy()
    np.testing.assert_array_equal(rewards, np.frombuffer(batch.rewards, np.float32))
    np.testing.assert_array_equal(values, np.frombuffer(batch.initial_values, np.float32))
    rates = torch.cat([part.extras["group_success_rate_B"] for part in parts]).numpy()
    np.testing.assert_array_equal(rates, np.frombuffer(batch.group_success_rates, np.float32))
    assert sum(part.num_tokens for part in parts) == (np.frombuffer(batch.segment_ids, np.int32) >= 0).sum()


def test_a_row_without_a_trajectory_gives_zero_gradients(model: Path, ranks: Ranks) -> None:
    policy = load(model, ranks)
    *_, empty = micro_batches(make_batch(1, 0, 1), 1, CPU)
    assert empty.mask_BL.shape == (0, 1)
    empty.by_trajectory(scores(policy, empty)).sum(dim=1).mean().backward()
    assert all((parameter.grad.to_local() == 0).all() for parameter in policy.parameters())  # type: ignore[union-attr]


def test_a_batch_that_contradicts_its_shape_is_refused() -> None:
    batch = make_batch(1, 0, 1)
    broken = type(batch)(**{**{f: getattr(batch, f) for f in batch.__struct_fields__}, "num_rows": NUM_ROWS + 1})
    with pytest.raises(ConnectionLost, match="batch of step 1 does not fit"):
        list(micro_batches(broken, 1, CPU))


def test_a_response_without_a_prompt_is_refused() -> None:
    batch = make_batch(1, 0, 1)
    everything = {**{f: getattr(batch, f) for f in batch.__struct_fields__}}
    everything["response_mask"] = bytes([1]) * (NUM_ROWS * NUM_TOKENS)
    with pytest.raises(ConnectionLost, match="without a prompt"):
        list(micro_batches(type(batch)(**everything), 1, CPU))


def test_policy_and_reference_agree_to_the_bit_before_training_in_bfloat16(model: Path, ranks: Ranks) -> None:
    policy = load(model, ranks, dtype="bfloat16")
    reference = load(model, ranks, trained=False, dtype="bfloat16")
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in reference.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    micro = whole_batch()
    policy_N, reference_N = scores(policy, micro), scores(reference, micro)
    assert policy_N.dtype == torch.float32
    assert torch.equal(policy_N, reference_N)
    in_float32_N = scores(load(model, ranks), micro)
    assert 0 < (policy_N - in_float32_N).abs().max() < 0.2
    policy_N.sum().backward()
    assert {parameter.grad.dtype for parameter in policy.parameters()} == {torch.float32}  # type: ignore[union-attr]


def test_recomputed_layers_give_the_same_gradients_and_keep_less(model: Path, ranks: Ranks) -> None:
    micro, results = whole_batch(), []
    for recompute in (False, True):
        policy, saved = load(model, ranks, gradient_checkpointing=recompute), []

        def note(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logprobs_N = scores(policy, micro)
        logprobs_N.square().mean().backward()
        results.append((sum(saved), [p.grad.to_local() for p in policy.parameters()]))  # type: ignore[union-attr]
    assert results[1][0] < 0.5 * results[0][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_every_decoder_layer_is_sharded_by_itself(model: Path, ranks: Ranks) -> None:
    policy = load(model, ranks)
    assert [type(layer).__name__ for layer in policy.layers] == ["FSDPLlamaDecoderLayer"] * 2


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("final_logit_softcapping", 30.0, "scales its logits"),
        ("sliding_window", NUM_TOKENS - 1, r"batch\.token_budget.*at most 31"),
        ("layer_types", ["linear_attention", "full_attention"], "no attention"),
    ],
)
def test_models_that_would_be_scored_wrongly_are_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: object, message: str
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    monkeypatch.setattr(loaded.config, setting, value, raising=False)
    with pytest.raises(ConfigError, match=message):
        policy_module._check_supported(loaded, NUM_TOKENS)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: no causal language model"):
        load(tmp_path, ranks)
