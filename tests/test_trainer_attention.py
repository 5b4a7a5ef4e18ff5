"""Packed attention: by mask, one by one and by flash attention alike, through the layers of several models."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from spo.trainer.attention import ATTENTION, Packing, attention_mask, find_packing, packed_attention
from spo.trainer.policy import Policy

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def positions(lengths: list[list[int]], num_tokens: int) -> torch.Tensor:
    """Position ids of rows with trajectories of these lengths, padded with 0."""
    rows = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    return torch.stack([torch.nn.functional.pad(row, (0, num_tokens - len(row))) for row in rows])


ROWS = positions([[5, 20, 7], [2, 2, 2], [40], [39]], 40)


def attend(packing: Packing, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """Output and gradients of one attention over `ROWS`, at the positions that are no padding."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 8, 40, 16), (4, 2, 40, 16), (4, 2, 40, 16)]
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    mixed_RTHD, _ = packed_attention(torch.nn.Identity(), *inputs, None, 0.3, packing=packing)
    used_RT = attention_mask(ROWS).sum(dim=(1, 3)) > 0
    used_RT &= (ROWS > 0) | (torch.nn.functional.pad(ROWS[:, 1:], (0, 1)) == 1)
    weight = torch.randn(mixed_RTHD.shape, generator=generator).to(device, dtype) * used_RT.to(device)[:, :, None, None]
    (mixed_RTHD * weight).sum().backward()
    gradients = [x.grad for x in inputs if x.grad is not None]
    return [x.detach().cpu().float() for x in (mixed_RTHD[used_RT.to(device)], *gradients)]


def test_segments_are_the_trajectories_and_each_run_of_padding() -> None:
    packing = find_packing(ROWS, torch.float32, 16)
    assert packing.bounds == [0, 5, 25, 32, 40, 42, 44, 46, 80, 120, 159, 160]
    assert packing.bounds_S.tolist() == packing.bounds
    assert packing.max_length == 40


def test_many_short_trajectories_go_by_mask_and_few_long_ones_one_by_one() -> None:
    assert find_packing(positions([[20] * 20], 400), torch.float32, 16).mask is not None
    assert find_packing(positions([[200, 190]], 400), torch.float32, 16).mask is None
    assert find_packing(positions([[200, 120]], 400), torch.float32, 16).mask is None, "padding is one segment"


def test_one_by_one_gives_what_the_mask_gives() -> None:
    by_mask = find_packing(ROWS, torch.float64, 16)
    assert by_mask.mask is not None
    one_by_one = Packing(by_mask.bounds, by_mask.bounds_S, None)
    for one, other in zip(attend(by_mask, torch.float64), attend(one_by_one, torch.float64), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
def test_flash_attention_gives_what_the_mask_gives() -> None:
    flash = find_packing(ROWS.cuda(), torch.bfloat16, 16)
    by_mask = Packing(flash.bounds, flash.bounds_S, attention_mask(ROWS.cuda()))
    assert flash.takes_flash
    assert not find_packing(ROWS.cuda(), torch.bfloat16, 6).takes_flash
    for one, other in zip(attend(flash, torch.bfloat16, "cuda"), attend(by_mask, torch.bfloat16, "cuda"), strict=True):
        assert (one - other).norm() / other.norm() < 1e-2


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("lengths", [[30, 9, 21], [200, 300]])
def test_models_score_a_packed_row_as_its_trajectories_alone(kind: type[PreTrainedConfig], lengths: list[int]) -> None:
    torch.manual_seed(0)
    settings = dict(SMALL, sliding_window=None) if kind is MistralConfig else SMALL
    model = AutoModelForCausalLM.from_config(kind(**settings), attn_implementation=ATTENTION)
    policy = Policy(model, torch.float32, 64)
    tokens = [torch.randint(2, 64, (length,)) for length in lengths]
    position_ids = positions([lengths], sum(lengths))
    packed = policy(torch.cat(tokens)[None], position_ids, position_ids[0].nonzero()[:, 0])
    plain = AutoModelForCausalLM.from_config(kind(**settings), attn_implementation="eager")
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = [
            torch.log_softmax(plain.eval()(tokens_T[None]).logits[0, :-1], dim=1).gather(1, tokens_T[1:, None])[:, 0]
            for tokens_T in tokens
        ]
    torch.testing.assert_close(packed.detach(), torch.cat(expected), rtol=1e-4, atol=1e-4)
