"""The vLLM sampler against the plain model: what is drawn, and from which version, whatever joins, leaves or fails."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trio
from engine_oracle import VOCABULARY, FakeSnapshot, make_requests, oracle_logprobs, run
from transformers import LlamaConfig, LlamaForCausalLM

from spo.config import Config, VllmConfig, WorkersConfig
from spo.errors import ConfigError, EngineError, WeightsError
from spo.rollout import vllm_loading
from spo.rollout.engine import Request, Response
from spo.rollout.threaded import ThreadedEngine
from spo.rollout.vllm_loading import load_sampler

pytestmark = [
    pytest.mark.vllm,
    # vLLM's own, and its libraries'.
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in ("FutureWarning", "DeprecationWarning", "UserWarning", "ResourceWarning")
    ),
]

END = 1
LONGEST = 128


def make_model(seed: int = 0, *, tied: bool = False, heads: tuple[int, int] = (2, 1)) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    num_heads, num_kv_heads = heads
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32 * num_heads,
            num_hidden_layers=2,
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            intermediate_size=48,
            vocab_size=VOCABULARY,
            max_position_embeddings=LONGEST,
            initializer_range=0.25,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=0,
        )
    ).eval()


def make_config(**settings: object) -> Config:
    return Config(
        workers=WorkersConfig(engine="vllm", max_batch_size=8),
        vllm=VllmConfig(kv_cache_bytes=64 << 20, **settings),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def new_model(tied: bool) -> Callable[[int], LlamaForCausalLM]:
    return lambda seed: make_model(seed, tied=tied)


@pytest.fixture(scope="module")
def loaded(tied: bool, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("model")
    make_model(0, tied=tied).save_pretrained(folder)
    return load_sampler(make_config(), str(folder), [END])


@pytest.fixture
def sampler(loaded):
    """The engine with the reference as its latest version, and nothing under way."""
    loaded.drop(set(loaded._rows) | {key for key, _ in loaded._held_back})
    if loaded._loaded is not loaded._reference:
        loaded._load(loaded._reference)
    loaded._latest = loaded._reference
    return loaded


def check_drawn_from(model: LlamaForCausalLM, requests: list[Request], responses: list[Response]) -> None:
    """The responses' log-probabilities are the model's, which those of another model are not by far."""
    for request, response in zip(requests, responses, strict=True):
        assert response.behavior_logprobs is not None
        np.testing.assert_allclose(response.behavior_logprobs, oracle_logprobs(model, request, response), atol=2e-3)


def test_logprobs_equal_those_of_the_plain_model_while_rows_join_and_leave(sampler, new_model) -> None:
    requests = make_requests(30)
    check_drawn_from(new_model(0), requests, run(sampler, requests))


def test_responses_end_with_the_end_token_or_are_truncated_at_the_limit(sampler) -> None:
    requests = make_requests(40, seed=4)
    responses = run(sampler, requests)
    assert {response.is_truncated for response in responses} == {True, False}
    for request, response in zip(requests, responses, strict=True):
        assert END not in response.tokens[:-1]
        if response.is_truncated:
            assert len(response.tokens) == request.max_new_tokens
        else:
            assert response.tokens[-1] == END


def test_a_response_depends_on_its_seed_and_not_on_its_batch(sampler) -> None:
    requests = make_requests(16, seed=1)
    together = [response.tokens for response in run(sampler, requests)]
    assert together == [response.tokens for response in run(sampler, requests[::-1])[::-1]]
    assert together == [run(sampler, [request])[0].tokens for request in requests]
    same_prompt = [Request((5, 6, 7), 1.0, 1.0, seed, 20) for seed in (0, 1, 2, (1 << 64) - 1)]
    assert len({response.tokens for response in run(sampler, same_prompt)}) == 4


def test_new_weights_apply_between_two_steps_and_later_requests_are_wholly_of_the_new_version(
    sampler, new_model
) -> None:
    # Prompts longer than a block of the prefix cache, whose keys and values must not outlive their version.
    requests = make_requests(4, max_new_tokens=8, prompt_tokens=tuple(range(2, 50)) * 2)
    check_drawn_from(new_model(0), requests, run(sampler, requests))
    running = make_requests(1, max_new_tokens=60, seed=6, top_p=1.0)[0]
    sampler.add([(0, running)])
    assert [done for _ in range(4) for done in sampler.step()] == []
    sampler.switch(sampler.stage(FakeSnapshot(10, new_model(9))))
    assert sampler.policy_version == 10
    sampler.add([(1 + index, request) for index, request in enumerate(requests)])
    responses: dict[int, Response] = {}
    while len(responses) < 5:
        responses |= dict(sampler.step())
    num_tokens = len(responses[0].tokens)
    assert num_tokens > 4
    assert responses[0].version_spans == ((0, 4), (10, num_tokens - 4))
    later = [responses[index] for index in range(1, 5)]
    assert {(r.min_policy_version, r.max_policy_version) for r in later} == {(10, 10)}
    check_drawn_from(new_model(9), requests, later)


def test_twenty_versions_in_a_row_are_each_what_was_published(sampler, new_model) -> None:
    for version in range(1, 21):
        sampler.switch(sampler.stage(FakeSnapshot(version, new_model(version))))
        requests = make_requests(2, seed=version, max_new_tokens=6)
        check_drawn_from(new_model(version), requests, run(sampler, requests))


def test_bfloat16_weights_arrive_bit_for_bit(sampler, new_model) -> None:
    rounded = new_model(9)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).to(torch.float32)
    sampler.switch(sampler.stage(FakeSnapshot(3, new_model(9), dtype=torch.bfloat16)))
    requests = make_requests(5, seed=8)
    check_drawn_from(rounded, requests, run(sampler, requests))


def test_the_reference_stays_what_it_was_beside_newer_versions_and_nobody_starves(sampler, new_model) -> None:
    sampler.switch(sampler.stage(FakeSnapshot(3, new_model(9))))
    reference, latest = make_requests(12, seed=8, policy="reference"), make_requests(12, seed=9)
    requests = [request for pair in zip(reference, latest, strict=True) for request in pair]
    responses = run(sampler, requests)
    check_drawn_from(new_model(0), reference, responses[::2])
    check_drawn_from(new_model(9), latest, responses[1::2])
    assert {(r.min_policy_version, r.max_policy_version) for r in responses[::2]} == {(0, 0)}
    assert {(r.min_policy_version, r.max_policy_version) for r in responses[1::2]} == {(3, 3)}


def test_a_version_that_comes_while_the_reference_is_sampled_waits_for_it(sampler, new_model) -> None:
    reference = make_requests(3, seed=8, policy="reference", max_new_tokens=30)
    sampler.add(list(enumerate(reference)))
    sampler.step()
    sampler.switch(sampler.stage(FakeSnapshot(3, new_model(9))))
    latest = make_requests(3, seed=9)
    sampler.add([(10 + index, request) for index, request in enumerate(latest)])
    responses: dict[int, Response] = {}
    while len(responses) < 6:
        responses |= dict(sampler.step())
    check_drawn_from(new_model(0), reference, [responses[index] for index in range(3)])
    check_drawn_from(new_model(9), latest, [responses[10 + index] for index in range(3)])


def test_weights_of_another_model_are_refused_and_the_old_ones_stay(sampler, new_model) -> None:
    snapshot = FakeSnapshot(3, new_model(9))
    del snapshot.tensors["model.norm.weight"]
    with pytest.raises(WeightsError, match=r"model\.norm\.weight"):
        sampler.stage(snapshot)
    requests = make_requests(3)
    check_drawn_from(new_model(0), requests, run(sampler, requests))


class TornWeights:
    """A version whose tensors stop coming after some."""

    version = 4

    def __init__(self, model: LlamaForCausalLM, num_tensors: int) -> None:
        self.tensors = [(name, parameter.detach()) for name, parameter in model.named_parameters()][:num_tensors]

    def __iter__(self):
        yield from self.tensors
        raise OSError("the file is cut")


@pytest.mark.parametrize("num_tensors", [0, 1, 5, 14])
def test_a_version_that_fails_while_it_is_loaded_is_undone(sampler, new_model, num_tensors: int) -> None:
    sampler.switch(sampler.stage(FakeSnapshot(3, new_model(9))))
    with pytest.raises(WeightsError, match=r"version 4 could not be loaded, version 3 stays.*the file is cut"):
        sampler.switch(TornWeights(new_model(5), num_tensors))
    assert sampler.policy_version == 3
    requests = make_requests(4)
    check_drawn_from(new_model(9), requests, run(sampler, requests))
    sampler.switch(sampler.stage(FakeSnapshot(5, new_model(5))))
    check_drawn_from(new_model(5), requests, run(sampler, requests))


def slightly_changed(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """The same model with some other numbers in every parameter."""
    changed = copy.deepcopy(model)
    torch.manual_seed(seed)
    for parameter in changed.parameters():
        chosen = torch.rand(parameter.shape) < 0.05
        parameter.data = torch.where(chosen, parameter.data + 0.5 * torch.randn(parameter.shape), parameter.data)
    return changed


def test_a_version_that_follows_the_one_in_place_is_put_there_by_its_changes(sampler, new_model) -> None:
    model = new_model(9)
    sampler.switch(sampler.stage(FakeSnapshot(1, model)))
    for version in range(2, 8):
        model = slightly_changed(model, version)
        staged = sampler.stage(FakeSnapshot(version, model))
        assert len(staged.changes.entries) > 10
        assert sum(array.nbytes for array in staged.changes.arrays) < 0.25 * sum(p.nbytes for p in model.parameters())
        sampler.switch(staged)
        requests = make_requests(2, seed=version, max_new_tokens=8)
        check_drawn_from(model, requests, run(sampler, requests))


def test_changes_that_fail_half_way_are_undone(sampler, new_model, monkeypatch: pytest.MonkeyPatch) -> None:
    from spo.vllm_model import LiveModel

    old = new_model(9)
    new = slightly_changed(old, 1)
    sampler.switch(sampler.stage(FakeSnapshot(1, old)))
    scatter = LiveModel._scatter

    def fail(self: LiveModel, name: str, *arguments: object) -> None:
        if name == "model.layers.1.mlp.down_proj.weight":
            raise RuntimeError("no room")
        scatter(self, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LiveModel, "_scatter", fail)
        patch.setattr(LiveModel, "load", lambda *_: pytest.fail("undoing needs no loading"))
        with pytest.raises(WeightsError, match="version 2 could not be loaded, version 1 stays: RuntimeError: no room"):
            sampler.switch(sampler.stage(FakeSnapshot(2, new)))
    assert sampler.policy_version == 1
    requests = make_requests(4)
    check_drawn_from(old, requests, run(sampler, requests))
    sampler.switch(sampler.stage(FakeSnapshot(2, new)))
    check_drawn_from(new, requests, run(sampler, requests))


def test_changes_of_another_version_than_the_one_in_place_are_not_used(sampler, new_model) -> None:
    first, second = new_model(9), slightly_changed(new_model(9), 1)
    sampler.switch(sampler.stage(FakeSnapshot(1, first)))
    staged = sampler.stage(FakeSnapshot(2, second))
    requests = make_requests(3, seed=8, policy="reference")
    check_drawn_from(new_model(0), requests, run(sampler, requests))
    sampler.switch(staged)
    latest = make_requests(3)
    check_drawn_from(second, latest, run(sampler, latest))


def test_dropped_requests_leave_and_the_others_are_not_disturbed(sampler) -> None:
    requests = make_requests(6, seed=5, max_new_tokens=30)
    expected = run(sampler, requests)
    sampler.add(list(enumerate(requests)))
    sampler.step()
    sampler.drop({1, 3, 77})
    responses: dict[int, Response] = {}
    while len(responses) < 4:
        responses |= dict(sampler.step())
    assert {key: r.tokens for key, r in responses.items()} == {
        key: expected[key].tokens for key in range(6) if key not in (1, 3)
    }
    assert not sampler._engine.has_unfinished_requests()


def test_what_does_not_fit_is_refused_before_it_is_sampled(sampler) -> None:
    fits = Request((5,) * 100, 1.0, 1.0, 0, LONGEST - 100)
    sampler.check(fits)
    with pytest.raises(ValueError, match=r"a prompt of 100 tokens and 29 new ones exceed the 128"):
        sampler.check(Request((5,) * 100, 1.0, 1.0, 0, LONGEST - 99))


async def test_many_tasks_share_the_engine_and_cancelled_ones_leave_it(sampler, new_model) -> None:
    engine = await ThreadedEngine.start(lambda: sampler)
    requests = make_requests(24, seed=3, max_new_tokens=20)
    expected: dict[int, list[Response]] = {}

    async def caller(index: int) -> None:
        expected[index] = await engine.generate(requests[2 * index : 2 * index + 2])

    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            for index in range(12):
                nursery.start_soon(caller, index)
            with trio.move_on_after(0.01):
                await engine.generate(make_requests(8, max_new_tokens=100))
        await engine.update_weights(FakeSnapshot(2, new_model(4)))
        after = await engine.generate(requests[:4])
    check_drawn_from(new_model(0), requests, [response for index in range(12) for response in expected[index]])
    check_drawn_from(new_model(4), requests[:4], after)
    assert engine.statistics().policy_version == 2
    assert engine.statistics().num_active == 0
    await engine.close()


async def test_a_step_that_fails_reaches_every_waiter_as_an_engine_error(
    sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await ThreadedEngine.start(lambda: sampler)

    def fail() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sampler._engine, "step", fail)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for request in make_requests(3):
                nursery.start_soon(expect_failure, engine, request, "RuntimeError: out of memory")
    await engine.close()


async def expect_failure(engine: ThreadedEngine, request: Request, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        await engine.generate([request])


def test_a_model_spread_over_two_processes_is_sampled_and_updated_like_any_other(tmp_path: Path) -> None:
    def model(seed: int) -> LlamaForCausalLM:
        return make_model(seed, tied=True, heads=(4, 2))

    model(0).save_pretrained(tmp_path)
    sampler = load_sampler(make_config(tensor_parallel_size=2), str(tmp_path), [END])
    try:
        requests = make_requests(8, max_new_tokens=20)
        check_drawn_from(model(0), requests, run(sampler, requests))
        sampler.switch(sampler.stage(FakeSnapshot(3, model(9), dtype=torch.float32)))
        check_drawn_from(model(9), requests, run(sampler, requests))
        with pytest.raises(WeightsError, match=r"version 4 could not be loaded, version 3 stays"):
            sampler.switch(TornWeights(model(5), 5))
        check_drawn_from(model(9), requests, run(sampler, requests))
        changed = slightly_changed(model(9), 1)
        staged = sampler.stage(FakeSnapshot(5, changed))
        assert staged.changes is not None
        sampler.switch(staged)
        check_drawn_from(changed, requests, run(sampler, requests))
        staged = sampler.stage(FakeSnapshot(6, slightly_changed(changed, 2)))
        staged.changes.entries[-1] = ("unknown", staged.changes.entries[-1][1])
        with pytest.raises(WeightsError, match=r"version 6 could not be loaded, version 5 stays: KeyError: 'unknown'"):
            sampler.switch(staged)
        check_drawn_from(changed, requests, run(sampler, requests))
    finally:
        sampler._engine.engine_core.shutdown()


async def test_a_killed_process_of_a_spread_model_reaches_every_waiter_as_an_engine_error(tmp_path: Path) -> None:
    make_model(0, tied=True, heads=(4, 2)).save_pretrained(tmp_path)
    others = multiprocessing.active_children()
    engine = await ThreadedEngine.start(lambda: load_sampler(make_config(tensor_parallel_size=2), str(tmp_path), [END]))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for request in make_requests(3, max_new_tokens=100):
                nursery.start_soon(expect_failure, engine, request, "the engine failed")
            while engine.statistics().num_active == 0:
                await trio.sleep(0.01)
            next(process for process in multiprocessing.active_children() if process not in others).kill()
        await expect_failure(engine, make_requests(1)[0], "the engine failed")  # who asks later is told, too
    await engine.close()


def test_a_head_size_that_vllm_has_no_kernel_for_is_named_in_one_line(tmp_path: Path) -> None:
    model = make_model()
    model.config.hidden_size, model.config.head_dim = 80, 40
    LlamaForCausalLM(model.config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="attention heads have 40 dimensions; on a CPU vLLM takes 32, 64, 80"):
        load_sampler(make_config(), str(tmp_path), [END])


def test_the_installed_version_is_supported() -> None:
    vllm_loading.check_installed()
