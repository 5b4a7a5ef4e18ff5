"""The engine protocol: what a worker asks of whatever samples its responses, and what goes in and comes out.

An `Engine` takes requests from any number of trio tasks and answers each call when its last response is complete. The
built-in ones are a `spo.rollout.threaded.ThreadedEngine` around a `Sampler`, which samples a batch one decode step
at a time. Only types live here; texts and problems are known to neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from spo.versions import Spans


@dataclass(frozen=True)
class Request:
    """One response to sample."""

    prompt_tokens: tuple[int, ...]
    temperature: float
    top_p: float
    seed: int
    """The same seed, weights and prompt give the same response (up to rounding), whatever shares the batch."""
    max_new_tokens: int
    policy: Literal["latest", "reference"] = "latest"

    def __post_init__(self) -> None:
        """Refuses what cannot be sampled, so that one request never fails the batch."""
        if not self.prompt_tokens:
            raise ValueError("prompt_tokens is empty; a response needs something to follow")
        if not (self.temperature > 0 and 0 < self.top_p <= 1):
            raise ValueError(f"temperature {self.temperature} must be above 0, top_p {self.top_p} in (0, 1]")
        if self.max_new_tokens < 1 or self.seed < 0:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} must be above 0, seed {self.seed} not below 0")


@dataclass(frozen=True)
class Response:
    """What was sampled for a request."""

    tokens: tuple[int, ...]
    """Up to and including the end token, if there is one."""
    is_truncated: bool
    """No end token came within `max_new_tokens`."""
    version_spans: Spans
    """Which version sampled how many tokens, in order; 0 is the reference."""
    engine_time_s: float = 0.0
    """Engine time, each step's shared equally among its requests."""
    behavior_logprobs: npt.NDArray[np.float32] | None = None
    """Of each token under the distribution that it was drawn from, after temperature and top-p."""

    @property
    def min_policy_version(self) -> int:
        """The version that sampled the first token."""
        return self.version_spans[0][0]

    @property
    def max_policy_version(self) -> int:
        """The version that sampled the last token."""
        return self.version_spans[-1][0]


@dataclass(frozen=True)
class Statistics:
    """What an engine has done so far."""

    num_steps: int
    num_tokens: int
    """Tokens of finished responses."""
    policy_version: int
    num_active: int
    num_waiting: int


class Snapshot(Protocol):
    """A policy version's weights, whole, as `spo.weights` delivers them."""

    @property
    def version(self) -> int:
        """The policy version."""

    @property
    def names(self) -> Sequence[str]:
        """The parameters' names."""

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A parameter in its full shape: float32, or bfloat16 as uint16."""


class Engine(Protocol):
    """What a worker needs of an engine."""

    @property
    def max_batch_size(self) -> int:
        """How many responses are sampled at once."""

    async def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Samples a response to each request; cancelling the call drops its requests.

        Raises:
            ValueError: A request cannot be sampled: it asks for more tokens than the model can attend to, say.
            EngineError: The engine has failed or is closed.
        """

    async def update_weights(self, snapshot: Snapshot) -> None:
        """Switches to a newer version between two decode steps, all tensors or none; returns when it is done.

        Raises:
            WeightsError: The snapshot does not fit the model, or could not be applied; the old version stays.
            EngineError: The engine has failed or is closed.
        """

    def statistics(self) -> Statistics:
        """What has been done so far."""

    async def close(self) -> None:
        """Ends the engine; whoever still waits gets an `EngineError`."""


class Sampler(Protocol):
    """Samples a batch, one decode step at a time. All calls but `check` and `stage` come from the engine's thread."""

    @property
    def max_batch_size(self) -> int:
        """How many requests may be in the batch."""

    @property
    def policy_version(self) -> int:
        """The version that `latest` requests are sampled with."""

    def check(self, request: Request) -> None:
        """Raises `ValueError` if the request cannot be sampled; on any thread."""

    def add(self, requests: Sequence[tuple[int, Request]]) -> None:
        """Takes requests into the batch, each under a key of the caller's; there is room for them."""

    def drop(self, keys: set[int]) -> None:
        """Takes requests out of the batch; unknown keys are ignored."""

    def step(self) -> list[tuple[int, Response]]:
        """Samples a token (or more) for each request; returns the finished ones, which have left the batch."""

    def stage(self, snapshot: Snapshot) -> Any:
        """Checks and prepares a version, on any thread, while sampling goes on.

        Raises:
            WeightsError: The snapshot does not fit the model.
        """

    def switch(self, staged: Any) -> None:
        """Makes a staged version the latest: quick, and all or nothing.

        Raises:
            WeightsError: It could not be applied; the version before it is in use still.
        """


def request_rng(seed: int) -> np.random.Generator:
    """The only source of randomness of a request: counter-based, so the draws depend on the seed alone."""
    return np.random.Generator(np.random.Philox(key=seed))
