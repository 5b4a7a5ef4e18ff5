"""States of weights before and after an optimiser step, to measure patches with: bfloat16 casts of float32 masters.

`real` takes some AdamW steps of a causal language model in the Hugging Face format on given text and keeps the last two
states in a folder, since making them takes minutes. `synthetic` makes up normal weights and updates of a size.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Patterns = NDArray[np.uint16]


class States(NamedTuple):
    """Two states of the same flat weights."""

    name: str
    old: Patterns
    new: Patterns
    step_s: float
    """What the step took, forward and backward included; 0 if there was none."""


def real(model: Path, learning_rate: float, cache: Path, steps: int = 5, tokens: int = 192) -> States:
    """The last of some AdamW steps (β 0.9 and 0.95, no decay, gradients clipped at 1) on the text of these benches."""
    kept = cache / f"{model.resolve().name}-{learning_rate:g}-{steps}x{tokens}.npz"
    if not kept.exists():
        old, new, step_s = _train(model, learning_rate, steps, tokens)
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".tmp.npz")
        np.savez(partial, old=old, new=new, step_s=step_s)
        partial.rename(kept)
    with np.load(kept) as states:
        return States(
            f"{model.resolve().name} at {learning_rate:g}", states["old"], states["new"], float(states["step_s"])
        )


def _train(model: Path, learning_rate: float, steps: int, tokens: int) -> tuple[Patterns, Patterns, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    text = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
    ids = torch.tensor(AutoTokenizer.from_pretrained(model)(text)["input_ids"])
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)

    def state() -> Patterns:
        rounded = [p.detach().to(torch.bfloat16).reshape(-1).view(torch.uint16) for p in policy.parameters()]
        return np.concatenate([part.numpy() for part in rounded])

    step_s, old = 0.0, np.empty(0, np.uint16)
    for step in range(steps):
        if step == steps - 1:
            old = state()
        started = time.monotonic()
        batch = ids[step * tokens : (step + 1) * tokens][None]
        policy(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step_s = time.monotonic() - started
    return old, state(), step_s


def synthetic(elements: int, changed: float, seed: int = 0) -> States:
    """Normal weights of deviation 0.05, of which about this share changes by one AdamW-like step."""
    generator = np.random.default_rng(seed)
    old, new = np.empty(elements, np.uint16), np.empty(elements, np.uint16)
    # Steps of this deviation change 0.07 % of such weights; for small steps the share is in proportion.
    rate = np.float32(3e-8 * changed / 7e-4)
    block = 1 << 22
    for start in range(0, elements, block):
        masters = generator.standard_normal(min(block, elements - start), np.float32) * np.float32(0.05)
        old[start : start + block] = rounded(masters)
        masters -= rate * generator.standard_normal(len(masters), np.float32)
        new[start : start + block] = rounded(masters)
    return States(f"{elements / 1e6:.0f} M normal weights", old, new, 0.0)


def rounded(masters: NDArray[np.float32]) -> Patterns:
    """The nearest bfloat16 numbers, ties to even, as bit patterns."""
    bits = masters.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
