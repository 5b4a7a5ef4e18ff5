"""Every regression objective a second time: float64 numpy, written from the paper's formulas, gradients by hand.

Shares nothing with `spo.trainer.objectives`. A case is a dict of arrays; `objective` gives the mean loss and its
derivative by each token's ln πθ.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BETA = 1 / math.log(100_000)

REGRESSIONS = ("terminal_q", "reverse_q", "advantage", "mc_q")
COMBINATIONS = [
    ("terminal_q", "squared", "none"),
    ("terminal_q", "cross_entropy", "none"),
    ("terminal_q", "cross_entropy", "sigmoid"),
    ("terminal_q", "squared", "sigmoid"),
    ("terminal_q", "squared", "tanh"),
    ("terminal_q", "squared", "arctan"),
    ("terminal_q", "squared", "asinh"),
    ("reverse_q", "squared", "none"),
    ("reverse_q", "cross_entropy", "none"),
    ("reverse_q", "squared", "asinh"),
    ("advantage", "cross_entropy", "sigmoid"),
    ("advantage", "squared", "none"),
    ("advantage", "squared", "sigmoid"),
    ("mc_q", "cross_entropy", "none"),
    ("mc_q", "squared", "none"),
]
"""Objective, loss and warp: all objectives under both losses, and every warp."""


def random_case(seed: int, num_trajectories: int = 5, num_tokens: int = 7) -> dict[str, NDArray]:
    """Trajectories of different lengths, some tokens with Monte-Carlo counts; predictions on both sides of the clip."""
    generator = np.random.default_rng(seed)
    shape = (num_trajectories, num_tokens)
    rollouts = generator.integers(0, 2, shape) * 10
    return {
        "policy": generator.normal(-1.5, 1.0, shape),
        "reference": generator.normal(-1.5, 1.0, shape),
        "mask": np.arange(num_tokens)[None] < generator.integers(1, num_tokens + 1, num_trajectories)[:, None],
        "reward": -generator.integers(0, 2, num_trajectories).astype(float),
        "value": BETA * generator.uniform(-3.0, 0.0, num_trajectories),
        "mc_successes": generator.integers(0, rollouts + 1),
        "mc_rollouts": rollouts,
    }


def objective(
    case: dict[str, NDArray],
    name: str,
    loss: str,
    warp: str,
    *,
    beta: float = BETA,
    epsilon: float = 0.3,
    mc_weight: float = 1.0,
) -> tuple[float, Floats]:
    """Mean loss, and gradient [B, T] by the policy's log-probabilities."""
    gradient_BT = np.zeros(case["policy"].shape)
    total = 0.0
    for b in range(len(gradient_BT)):
        tokens = np.flatnonzero(case["mask"][b])
        ratio = case["policy"][b, tokens].astype(float) - case["reference"][b, tokens].astype(float)
        reward, value = float(case["reward"][b]), float(case["value"][b])
        q = value + beta * np.cumsum(ratio)
        gradient = np.zeros(len(tokens))
        if name == "advantage":
            losses, slope = loss_and_slope(q[-1:] - value, np.array([reward - value]), beta, loss, warp, epsilon)
            gradient += slope[0]
        if name in ("terminal_q", "mc_q"):
            losses, slope = loss_and_slope(q[-1:], np.array([reward]), beta, loss, warp, epsilon)
            gradient += slope[0]
        if name == "reverse_q":
            later = np.array([beta * ratio[t + 1 :].sum() for t in range(len(q))]) if len(q) < 100 else q[-1] - q
            losses, slope = loss_and_slope(q, reward - later, beta, loss, warp, epsilon)
            gradient += slope[::-1].cumsum()[::-1]
        total += losses.sum()
        if name == "mc_q":
            counted = case["mc_rollouts"][b, tokens] > 0
            rate = case["mc_successes"][b, tokens][counted] / case["mc_rollouts"][b, tokens][counted]
            target = beta * np.log(rate + (1 - rate) * math.exp(-1 / beta))
            losses, slope = loss_and_slope(q[counted], target, beta, loss, warp, epsilon)
            total += mc_weight * losses.sum()
            slopes = np.zeros(len(tokens))
            slopes[counted] = mc_weight * slope
            gradient += slopes[::-1].cumsum()[::-1]
        gradient_BT[b, tokens] = beta * gradient
    return total / len(gradient_BT), gradient_BT / len(gradient_BT)


def loss_and_slope(
    prediction: Floats, target: Floats, beta: float, loss: str, warp: str, epsilon: float
) -> tuple[Floats, Floats]:
    """Element-wise loss and its derivative by the prediction, straight through the clip."""
    if loss == "squared" and warp == "none":
        return (prediction - target) ** 2, 2 * (prediction - target)
    y_hat, y = prediction / beta, target / beta
    if loss == "squared":
        image, derivative = _warp(warp, y_hat)
        error = image - _warp(warp, y)[0]
        return error**2, 2 * error * derivative / beta
    if warp == "sigmoid":
        label, probability = _warp("sigmoid", y)[0], _warp("sigmoid", y_hat)[0]
        negative_log = np.logaddexp(0.0, -y_hat)
        return label * negative_log + (1 - label) * (negative_log + y_hat), (probability - label) / beta
    x, clipped = np.exp(np.minimum(y, 0.0)), np.minimum(y_hat, -epsilon)
    losses = x * np.maximum(-y_hat, 0.0) - (1 - x) * np.log1p(-np.exp(clipped))
    slope = np.where(y_hat < 0, -x, 0.0) + (1 - x) * np.exp(clipped) / -np.expm1(clipped)
    return losses, slope / beta


def _warp(name: str, v: Floats) -> tuple[Floats, Floats]:
    """σ(v) and σ'(v)."""
    if name == "sigmoid":
        image = np.where(v > 0, 1 / (1 + np.exp(-np.abs(v))), np.exp(-np.abs(v)) / (1 + np.exp(-np.abs(v))))
        return image, image * (1 - image)
    if name == "tanh":
        return np.tanh(v), 1 - np.tanh(v) ** 2
    if name == "arctan":
        return np.arctan(v), 1 / (1 + v**2)
    assert name == "asinh"
    return np.arcsinh(v), 1 / np.sqrt(1 + v**2)
