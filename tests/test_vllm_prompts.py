"""More prompts at once than vLLM runs in a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_oracle import make_requests, run
from test_vllm import END, LONGEST, check_drawn_from, make_config, make_model
from test_vllm import pytestmark as pytestmark

from spo.rollout import vllm_loading


def test_prompts_that_do_not_fit_into_a_step_wait_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = vllm_loading._engine_arguments
    monkeypatch.setattr(
        vllm_loading, "_engine_arguments", lambda *given: {**arguments(*given), "max_num_batched_tokens": LONGEST}
    )
    make_model(0).save_pretrained(tmp_path)
    sampler = vllm_loading.load_sampler(make_config(), str(tmp_path), [END])
    requests = [
        make_requests(1, seed=seed, prompt_tokens=(2 + seed, *range(2, 50)), max_new_tokens=20)[0] for seed in range(16)
    ]
    assert sum(len(request.prompt_tokens) for request in requests[: sampler.max_batch_size]) > 2 * LONGEST
    check_drawn_from(make_model(0), requests, run(sampler, requests))
