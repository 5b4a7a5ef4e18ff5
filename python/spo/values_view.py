"""A response with what is known of the success along it, ready to be looked at: advantages, colours, pivotal tokens.

Success probabilities come from the counts that Pivotal Token Search annotated; the advantage of a token is the change
of the soft value across it (Eq. 5). Where a stretch of tokens lies between two counted positions, its advantage is
shared among them. How it is drawn is up to `values_draw.py`, and to rich.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
from rich.color import Color
from rich.style import Style
from rich.text import Text

from spo.orchestrator.bisection import PivotalToken, pivotal_tokens
from spo.reward import ACCEPTED_REWARD
from spo.store import Trajectory
from spo.values import ProblemCounts, soft_value

_CONTEXT = 8
"""Tokens that are decoded along with one, since what a token's text is may depend on those before it."""
_GAIN, _LOSS = (38, 166, 91), (214, 69, 65)
_FULL = 0.05
"""Advantages are at least this large where the colour is full, so that noise alone does not shine."""

Decode = Callable[[Sequence[int]], str]


class View(msgspec.Struct, frozen=True):
    """A response to be looked at."""

    title: str
    pieces: list[str]
    """Text of each token; empty where it is only part of a character."""
    advantages: list[float]
    """Of each token."""
    counts: dict[int, ProblemCounts]
    """By position: how many tokens come before."""
    pivotal: list[PivotalToken]

    def color(self, token: int) -> tuple[int, int, int] | None:
        """Red, green and blue behind a token; None where there is nothing to show."""
        advantage = self.advantages[token]
        full = max(_FULL, *(abs(value) for value in self.advantages))
        share = min(1.0, abs(advantage) / full) ** 0.5
        if share < 0.08:
            return None
        red, green, blue = (round(255 + (part - 255) * share) for part in (_GAIN if advantage > 0 else _LOSS))
        return red, green, blue

    def about(self, token: PivotalToken) -> str:
        """A pivotal token in a line."""
        piece = self.pieces[token.position]
        return (
            f"token {token.position} {piece!r}: success {token.before:.2f} → {token.after:.2f}, "
            f"advantage {self.advantages[token.position]:+.3f}"
        )


def make_view(id: int, trajectory: Trajectory, decode: Decode, beta: float, threshold: float) -> View:
    """Puts a trajectory together with its counts.

    Args:
        id: Of the trajectory in its store.
        trajectory: An annotated one.
        decode: From tokens to text.
        beta: The temperature of the soft values.
        threshold: Tokens that change success by so much are pivotal.

    Raises:
        ValueError: It has no counts, or was not accepted.
    """
    if trajectory.mc_successes is None:
        raise ValueError(f"trajectory {id} has no counts; search it by `spo values pivotal`")
    if trajectory.reward != ACCEPTED_REWARD:
        raise ValueError(f"trajectory {id} was not accepted: the success at its end is not what its counts lead to")
    positions, successes, trials = (column.tolist() for column in trajectory.mc_successes)
    counts = {
        position: ProblemCounts(accepted, total)
        for position, accepted, total in zip(positions, successes, trials, strict=True)
    }
    length = len(trajectory.response_tokens)
    return View(
        title=f"{trajectory.problem_id} · trajectory {id} · {trajectory.source}, {trajectory.verdict}, β = {beta:.4g}",
        pieces=token_texts(trajectory.response_tokens.tolist(), decode),
        advantages=_advantages(counts, length, beta),
        counts=counts,
        pivotal=pivotal_tokens(counts, length, threshold),
    )


def token_texts(tokens: Sequence[int], decode: Decode) -> list[str]:
    """The text of each token; all together they are the text of the response."""
    pieces = []
    start = 0
    for place in range(len(tokens)):
        low = max(0, start - _CONTEXT)
        before, text = decode(tokens[low:start]), decode(tokens[low : place + 1])
        if text.endswith("\ufffd") and place + 1 < len(tokens):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        start = place + 1
    return pieces


def as_text(view: View) -> Text:
    """The response for a terminal; pivotal tokens are bold and underlined."""
    pivotal = {token.position for token in view.pivotal}
    text = Text()
    for place, piece in enumerate(view.pieces):
        color = view.color(place)
        style = Style(
            bgcolor=Color.from_rgb(*color) if color else None,
            color="black" if color else None,
            bold=place in pivotal or None,
            underline=place in pivotal or None,
        )
        text.append(piece, style)
    return text


def _advantages(counts: dict[int, ProblemCounts], length: int, beta: float) -> list[float]:
    values = {position: soft_value(one.successes / one.num_samples, beta) for position, one in counts.items()}
    values[length] = 0.0
    advantages = [0.0] * length
    for low, high in pairwise(sorted(values)):
        for place in range(low, high):
            advantages[place] = (values[high] - values[low]) / (high - low)
    return advantages
