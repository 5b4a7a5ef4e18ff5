"""The reference policy of the `tiny` family: a small Llama trained on right and wrong programs.

The programs that it learns from confuse each operator with its partner in a fixed share of the cases, so that the
model is wrong more often than right, and systematically: it stays wrong at low temperature, where it answers
its mode. Compositions held out for evaluation are held out here too. No reinforcement happens here.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spo.errors import ConfigError
from spo.tiny.problems import pairs
from spo.tiny.programs import CONSTANTS, OPERATORS, STYLES, VARIABLES, Step, confuse, render, statement
from spo.tiny.tokenizer import END, MAX_LENGTH, PROBLEM, PROGRAM, make_tokenizer

# Shapes: B programs, T tokens.

RECIPE_FILE: Final = "recipe.json"
"""Beside the model: what it was made from."""

IGNORED: Final = -100
"""Label of a token that is not learned: the prompt and padding."""

CONFUSED_SHARES: Final = (0.42, 0.46, 0.48, 0.50, 0.52, 0.54, 0.56, 0.58, 0.60, 0.64)
"""How often an operator is written as its partner; the seed deals one share to each operator."""


@dataclass(frozen=True)
class ReferenceSettings:
    """How the reference is built and trained; the defaults are those of the `tiny` preset.

    Attributes:
        hidden_size: Width of the model.
        num_layers: Decoder layers.
        num_heads: Attention heads.
        num_steps: Optimiser steps.
        batch_size: Programs a step.
        learning_rate: Peak of the schedule: linear warm-up, then linear decay to zero.
        warmup_steps: Steps of the warm-up.
    """

    hidden_size: int = 160
    num_layers: int = 2
    num_heads: int = 4
    num_steps: int = 250
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 30


Progress = Callable[[int, int, float], None]
"""Called after each step with the steps done, the steps in all and the loss in nats a token."""


def deal_shares(seed: int) -> dict[str, float]:
    """Deals `CONFUSED_SHARES` to the operators: the share of programs in which each one is confused."""
    shares = list(CONFUSED_SHARES)
    random.Random(f"shares {seed}").shuffle(shares)
    return dict(zip(OPERATORS, shares, strict=True))


def programs(seed: int) -> Iterator[tuple[str, str]]:
    """Yields statements with right and wrong programs of training compositions, without end."""
    rng = random.Random(f"programs {seed}")
    shares = deal_shares(seed)
    names = pairs("train")
    while True:
        composition = tuple(Step(name, rng.choice(CONSTANTS)) for name in rng.choice(names))
        written = confuse(composition, shares, rng)
        yield statement(composition), render(written, rng.randrange(len(STYLES)), rng.choice(VARIABLES))


def make_model(tokenizer: PreTrainedTokenizerFast, settings: ReferenceSettings, seed: int) -> LlamaForCausalLM:
    """Builds the untrained model, its parameters drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=3 * settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        # The default (0.02) is meant for wide models: at this width it costs 150 steps until constants are copied.
        initializer_range=settings.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes statements and programs as they are sampled, padded on the right.

    Returns:
        Token ids and labels, both int64 [B, T]; the labels of prompts and padding are `IGNORED`.
    """
    prompts = tokenizer([f"{PROBLEM}{words}{PROGRAM}" for words, _ in examples])["input_ids"]
    responses = tokenizer([f"{code}{END}" for _, code in examples])["input_ids"]
    length = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    tokens_BT = torch.full((len(examples), length), tokenizer.pad_token_id)
    labels_BT = torch.full((len(examples), length), IGNORED)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        tokens_BT[row, :end] = torch.tensor(prompt + response)
        labels_BT[row, len(prompt) : end] = torch.tensor(response)
    return tokens_BT, labels_BT


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: ReferenceSettings,
    seed: int,
    progress: Progress | None = None,
) -> list[float]:
    """Trains the model in place on the programs of `seed`.

    Returns:
        The loss of each step, in nats a token.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98))
    examples = programs(seed)
    losses: list[float] = []
    model.train()
    for step in range(settings.num_steps):
        tokens_BT, labels_BT = encode_batch(tokenizer, list(islice(examples, settings.batch_size)))
        logits_BTV = model(tokens_BT).logits[:, :-1]
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, settings.num_steps, losses[-1])
    model.eval()
    return losses


def learning_rate(step: int, settings: ReferenceSettings) -> float:
    """Returns the rate of a step, counted from 0: linear warm-up to the peak, then linear decay towards zero."""
    warmup = (step + 1) / (settings.warmup_steps + 1)
    decay = (settings.num_steps - step) / max(1, settings.num_steps - settings.warmup_steps)
    return settings.learning_rate * min(warmup, decay, 1.0)


def make_reference(
    directory: str | os.PathLike[str],
    seed: int,
    num_threads: int = 1,
    progress: Progress | None = None,
    settings: ReferenceSettings | None = None,
) -> Path:
    """Makes the reference model with its tokenizer, or finds the one made before.

    The directory appears when everything in it is complete, so an interrupted call leaves nothing to resume from
    and a finished one is never repeated.

    Args:
        directory: Where `from_pretrained` is to find it.
        seed: Decides the parameters' start, the programs and the shares of confusion.
        num_threads: Torch threads while it trains; the setting of the process is restored afterwards.
        progress: Called after each step.
        settings: How it is built and trained; the defaults where None.

    Returns:
        The directory.

    Raises:
        ConfigError: The directory is in use, by another seed or settings or by something else.
    """
    directory = Path(directory)
    settings = settings or ReferenceSettings()
    recipe = {"seed": seed, **asdict(settings)}
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        _check_recipe(directory, recipe)
        return directory
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, settings, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        losses = train(model, tokenizer, settings, seed, progress)
    finally:
        torch.set_num_threads(threads)
    _save(directory, model, tokenizer, recipe | {"loss": losses[-1]})
    return directory


def _check_recipe(directory: Path, recipe: dict[str, float]) -> None:
    """Raises `ConfigError` unless the directory holds a reference made by `recipe`."""
    try:
        found = json.loads((directory / RECIPE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"{directory}: in use, and not by a reference model of the tiny family; give an empty directory"
        ) from None
    for name, value in recipe.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{directory}: holds a reference made with {name} = {found.get(name)}, not {value}; "
                "give another directory or delete this one"
            )


def _save(
    directory: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: dict[str, float]
) -> None:
    """Writes everything into a sibling, then renames it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    sibling = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(sibling)
        tokenizer.save_pretrained(sibling)
        (sibling / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        sibling.replace(directory)
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
