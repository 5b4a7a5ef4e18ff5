"""The transformers sampler against the plain model: same logits, same draws, whatever shares the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_oracle import VOCABULARY, FakeSnapshot, make_requests, oracle_logprobs, run
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from spo.config import Config, WorkersConfig
from spo.errors import ConfigError, WeightsError
from spo.rollout.engine import Request, Response
from spo.rollout.transformers import TransformersSampler, load_sampler

END = 1


def make_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            vocab_size=VOCABULARY,
            max_position_embeddings=256,
            initializer_range=0.3,
            eos_token_id=END,
            pad_token_id=0,
        )
    ).eval()


def make_sampler(model: LlamaForCausalLM | None = None, max_batch_size: int = 8) -> TransformersSampler:
    return TransformersSampler(model or make_model(), [END], max_batch_size=max_batch_size)


def test_logprobs_equal_those_of_the_plain_model_while_rows_join_and_leave() -> None:
    model = make_model()
    requests = make_requests(30)
    for request, response in zip(requests, run(make_sampler(model), requests), strict=True):
        assert response.behavior_logprobs is not None
        np.testing.assert_allclose(response.behavior_logprobs, oracle_logprobs(model, request, response), atol=2e-4)


def test_a_bfloat16_model_is_sampled_as_precisely_as_bfloat16_allows() -> None:
    model = make_model().to(torch.bfloat16)
    requests = make_requests(6, max_new_tokens=20, top_p=1.0)
    for request, response in zip(requests, run(make_sampler(model), requests), strict=True):
        assert response.behavior_logprobs is not None
        np.testing.assert_allclose(response.behavior_logprobs, oracle_logprobs(model, request, response), atol=0.3)


def test_a_response_depends_on_its_seed_and_not_on_its_batch() -> None:
    requests = make_requests(24, seed=1)
    together = run(make_sampler(max_batch_size=5), requests)
    reversed_order = run(make_sampler(max_batch_size=24), requests[::-1])[::-1]
    alone = [run(make_sampler(), [request])[0] for request in requests]
    tokens = [response.tokens for response in together]
    assert tokens == [response.tokens for response in reversed_order]
    assert tokens == [response.tokens for response in alone]


def test_different_seeds_give_different_responses_to_one_prompt() -> None:
    requests = [
        Request(prompt_tokens=(5, 6, 7), temperature=1.0, top_p=1.0, seed=seed, max_new_tokens=20) for seed in range(8)
    ]
    assert len({response.tokens for response in run(make_sampler(), requests)}) == 8


def test_at_a_tiny_temperature_responses_are_the_greedy_ones_of_generate() -> None:
    model = make_model()
    for request in make_requests(6, seed=2, temperature=1e-4, max_new_tokens=40):
        (response,) = run(make_sampler(model), [request])
        greedy = model.generate(
            input_ids=torch.tensor([request.prompt_tokens]),
            attention_mask=torch.ones(1, len(request.prompt_tokens), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
        )
        assert list(response.tokens) == greedy[0, len(request.prompt_tokens) :].tolist()


def test_responses_end_with_the_end_token_or_are_truncated_at_the_limit() -> None:
    requests = make_requests(40, seed=4)
    responses = run(make_sampler(), requests)
    assert {response.is_truncated for response in responses} == {True, False}
    for request, response in zip(requests, responses, strict=True):
        assert END not in response.tokens[:-1]
        if response.is_truncated:
            assert len(response.tokens) == request.max_new_tokens
        else:
            assert response.tokens[-1] == END


def test_new_weights_apply_between_two_steps_and_both_versions_are_recorded() -> None:
    old, new = make_model(0), make_model(9)
    sampler = make_sampler(old)
    request = make_requests(1, max_new_tokens=12, seed=6)[0]
    sampler.add([(0, request)])
    finished = [done for _ in range(4) for done in sampler.step()]
    assert finished == []
    sampler.switch(sampler.stage(FakeSnapshot(10, new)))
    sampler.add([(1, make_requests(1, max_new_tokens=3, seed=7)[0])])
    responses: dict[int, Response] = {}
    while len(responses) < 2:
        responses |= dict(sampler.step())
    assert responses[0].version_spans == ((0, 4), (10, 8))
    assert (responses[0].min_policy_version, responses[0].max_policy_version) == (0, 10)
    assert (responses[1].min_policy_version, responses[1].max_policy_version) == (10, 10)


def test_a_request_added_after_a_switch_is_sampled_by_the_new_model() -> None:
    sampler = make_sampler(make_model(0))
    sampler.switch(sampler.stage(FakeSnapshot(3, make_model(9))))
    requests = make_requests(5, seed=8)
    expected = [response.tokens for response in run(make_sampler(make_model(9)), requests)]
    assert [response.tokens for response in run(sampler, requests)] == expected


def test_the_reference_stays_what_it_was_beside_newer_versions() -> None:
    requests = make_requests(5, seed=8, policy="reference")
    expected = [response.tokens for response in run(make_sampler(make_model(0)), requests)]
    sampler = make_sampler(make_model(0))
    sampler.switch(sampler.stage(FakeSnapshot(3, make_model(9))))
    latest = make_requests(3, seed=8)
    responses = run(sampler, requests + latest)
    assert [response.tokens for response in responses[:5]] == expected
    assert {response.max_policy_version for response in responses[:5]} == {0}
    assert {response.max_policy_version for response in responses[5:]} == {3}


def test_bfloat16_weights_arrive_bit_for_bit() -> None:
    new = make_model(9)
    rounded = make_model(9).to(torch.bfloat16).to(torch.float32)
    sampler = make_sampler(make_model(0))
    sampler.switch(sampler.stage(FakeSnapshot(3, new, dtype=torch.bfloat16)))
    requests = make_requests(5, seed=8)
    expected = [response.tokens for response in run(make_sampler(rounded), requests)]
    assert [response.tokens for response in run(sampler, requests)] == expected


def test_weights_of_another_model_are_refused_and_the_old_ones_stay() -> None:
    sampler = make_sampler(make_model(0))
    snapshot = FakeSnapshot(3, make_model(9))
    del snapshot.tensors["model.norm.weight"]
    with pytest.raises(WeightsError, match=r"model\.norm\.weight"):
        sampler.stage(snapshot)
    snapshot.tensors["model.norm.weight"] = torch.ones(7)
    with pytest.raises(WeightsError, match=r"model\.norm\.weight is \(7,\)"):
        sampler.stage(snapshot)
    requests = make_requests(3)
    assert [r.tokens for r in run(sampler, requests)] == [r.tokens for r in run(make_sampler(), requests)]


def test_dropped_requests_leave_and_the_others_are_not_disturbed() -> None:
    requests = make_requests(6, seed=5, max_new_tokens=30)
    expected = run(make_sampler(), requests)
    sampler = make_sampler()
    sampler.add(list(enumerate(requests)))
    responses = dict(sampler.step())
    sampler.drop({0, 3})
    for _ in range(30):
        responses |= dict(sampler.step())
    assert responses.keys() == {1, 2, 4, 5}
    assert all(response.tokens == expected[key].tokens for key, response in responses.items())


def test_a_request_beyond_the_models_positions_is_refused_with_the_fix() -> None:
    request = Request(prompt_tokens=(3,) * 200, temperature=1.0, top_p=1.0, seed=0, max_new_tokens=57)
    with pytest.raises(ValueError, match=r"256 positions; lower sampling\.max_new_tokens"):
        make_sampler().check(request)


def test_a_model_with_sliding_window_attention_is_refused() -> None:
    config = MistralConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    config.vocab_size, config.intermediate_size, config.sliding_window = 10, 8, 64
    with pytest.raises(ConfigError, match="sliding-window"):
        TransformersSampler(MistralForCausalLM(config), [END], max_batch_size=2)


def test_a_saved_model_is_loaded_as_the_settings_say(tmp_path: Path) -> None:
    make_model(3).save_pretrained(tmp_path)
    config = Config(workers=WorkersConfig(max_batch_size=5, device="cpu"))
    sampler = load_sampler(config, str(tmp_path), [END])
    assert sampler.max_batch_size == 5
    requests = make_requests(5)
    expected = [response.tokens for response in run(make_sampler(make_model(3)), requests)]
    assert [response.tokens for response in run(sampler, requests)] == expected


def test_a_folder_without_a_model_and_an_unknown_device_are_refused_by_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: .*no model"):
        load_sampler(Config(), str(tmp_path), [END])
    with pytest.raises(ConfigError, match=r"workers\.device: abacus"):
        load_sampler(Config(workers=WorkersConfig(device="abacus")), str(tmp_path), [END])
