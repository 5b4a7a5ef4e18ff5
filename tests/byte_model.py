"""A model for tests that reads and writes any text: bytes as tokens, and a Llama small enough to train in seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
_IGNORED = -100


def make_byte_model(folder: Path, examples: Sequence[tuple[str, str]], steps: int = 80) -> Path:
    """Saves a model that has been trained to answer prompts, after a fashion.

    Args:
        folder: Where to.
        examples: Prompts and responses.
        steps: Optimiser steps of 16 examples.
    """
    tokenizer = _make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.125,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    encoded = [(tokenizer(prompt)["input_ids"], tokenizer(f"{text}{END}")["input_ids"]) for prompt, text in examples]
    generator = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = generator.choices(encoded, k=16)
        length = max(len(prompt) + len(text) for prompt, text in batch)
        tokens_BT = torch.full((len(batch), length), tokenizer.eos_token_id)
        labels_BT = torch.full((len(batch), length), _IGNORED)
        for row, (prompt, text) in enumerate(batch):
            tokens_BT[row, : len(prompt) + len(text)] = torch.tensor(prompt + text)
            labels_BT[row, len(prompt) : len(prompt) + len(text)] = torch.tensor(text)
        logits_BTV = model(tokens_BT).logits[:, :-1]
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({END: 0} | {byte: index for index, byte in enumerate(alphabet, 1)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)
