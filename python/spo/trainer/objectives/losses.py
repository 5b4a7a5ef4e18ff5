"""How a prediction is compared with its target: losses, warps and their stable forms (Sec. 3.1.1).

Everything is element-wise and of any shape. What is predicted, and over what is summed, is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

CLIP_EPSILON = 0.3
"""The cross-entropy's clip unless told otherwise; see `cross_entropy_loss`."""

WARPS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda value: value,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "arctan": torch.arctan,
    "asinh": torch.asinh,
}
"""Injective maps σ: σ(ŷ) = σ(y) only where ŷ = y, so that a warped equation has the same solution (Sec. 3.1.1)."""


def compare(prediction: Tensor, target: Tensor, *, beta: float, loss: str, warp: str, clip_epsilon: float) -> Tensor:
    """The loss of predictions of soft values.

    Args:
        prediction: ŷ, in units of the reward.
        target: y, of the same shape and unit; no gradient flows into it.
        beta: The temperature β.
        loss: `squared`: (ŷ − y)², or (σ(ŷ/β) − σ(y/β))² under a warp σ. `cross_entropy`: of the log-probabilities ŷ/β
            and y/β; under the sigmoid, of the probabilities sigmoid(ŷ/β) and sigmoid(y/β).
        warp: σ, one of `WARPS`.
        clip_epsilon: The cross-entropy's clip, for log-probabilities.
    """
    if loss == "squared" and warp == "none":
        return (prediction - target.detach()).square()
    scaled, scaled_target = prediction / beta, target.detach() / beta
    if loss == "squared":
        return (WARPS[warp](scaled) - WARPS[warp](scaled_target)).square()
    if warp == "sigmoid":
        return functional.binary_cross_entropy_with_logits(scaled, torch.sigmoid(scaled_target), reduction="none")
    return cross_entropy_loss(scaled, scaled_target, clip_epsilon)


def cross_entropy_loss(prediction: Tensor, target: Tensor, clip_epsilon: float) -> Tensor:
    """The binary cross-entropy −x ŷ − (1 − x) ln(1 − exp ŷ), x = exp y, of log-probabilities ŷ and y (Sec. 3.1).

    Estimates of log-probabilities can exceed 0. y is clipped to at most 0. In the second term ŷ is clipped to at most
    −ε, the gradient passing straight through, which bounds a failure's gradient by 1 / (exp ε − 1). The first term is
    x · relu(−ŷ) of the unclipped ŷ, so that nothing rewards pushing ŷ above 0.

    Args:
        prediction: ŷ, of any shape.
        target: y, of the same shape; no gradient flows into it.
        clip_epsilon: ε.
    """
    success = target.detach().clamp(max=0.0).exp()
    clipped = _clip_straight_through(prediction, -clip_epsilon)
    return success * functional.relu(-prediction) - (1.0 - success) * log1mexp(clipped)


def log1mexp(log_probability: Tensor) -> Tensor:
    """ln(1 − exp v) for v < 0, accurate and with a finite gradient both near 0 and far below."""
    near_zero = log_probability > -math.log(2)
    # Each branch only sees values that it is accurate for: the other's infinities would turn into NaN gradients.
    near = torch.where(near_zero, log_probability, -1.0)
    far = torch.where(near_zero, -1.0, log_probability)
    return torch.where(near_zero, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


def _clip_straight_through(value: Tensor, maximum: float) -> Tensor:
    """min(value, maximum), with the gradient of `value`."""
    # `value - value.detach()` is exactly 0, whatever the rounding of `value`; `clamped + value − clamped` is not.
    return value.detach().clamp(max=maximum) + (value - value.detach())
