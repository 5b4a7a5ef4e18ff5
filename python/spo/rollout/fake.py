"""The fake engine: answers with a problem's known solutions, without torch, to try out everything around a policy.

It goes through the same engine thread, worker and judge as a real one. Texts are bytes, a token each. Which solution
comes is decided by the request's seed; the share of right ones grows with the policy version, so that a run with it
looks like learning. It computes nothing and takes no notice of weights, temperature or top-p.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from spo.problems import Problem
from spo.rollout.engine import Request, Response, Snapshot, request_rng
from spo.rollout.prompts import prompt_text
from spo.versions import spans_of

END_TOKEN = 256
FIRST_SHARE = 0.25
"""Share of right answers at version 0."""
HALVING_VERSIONS = 50
"""Versions after which half of the wrong answers are gone."""
TOKENS_PER_STEP = 32
"""Bytes that a response grows by in a step."""


def share_of_right_answers(version: int) -> float:
    """How likely the fake policy is right, at a policy version."""
    return float(1 - (1 - FIRST_SHARE) * 0.5 ** (version / HALVING_VERSIONS))


class FakeCodec:
    """Bytes as tokens; remembers which prompt is whose, since that is how the fake sampler knows the answer."""

    tokenizer_fingerprint = "bytes"
    prompt_template = "statement"
    end_tokens = (END_TOKEN,)

    def __init__(self) -> None:
        self.problems: dict[tuple[int, ...], Problem] = {}

    def encode_prompt(self, problem: Problem) -> tuple[int, ...]:
        """See `Codec.encode_prompt`."""
        tokens = tuple(prompt_text(problem).encode())
        self.problems[tokens] = problem
        return tokens

    def split(self, tokens: tuple[int, ...]) -> tuple[Problem, tuple[int, ...]]:
        """Whose prompt the tokens begin with, and the beginning of a response that follows it.

        Raises:
            ValueError: They begin with nobody's.
        """
        if tokens in self.problems:
            return self.problems[tokens], ()
        prompts = [prompt for prompt in self.problems if tokens[: len(prompt)] == prompt]
        if not prompts:
            raise ValueError("the fake engine only answers prompts of problems")
        longest = max(prompts, key=len)
        return self.problems[longest], tokens[len(longest) :]

    def decode_response(self, tokens: Sequence[int]) -> str:
        """See `Codec.decode_response`."""
        return bytes(token for token in tokens if token != END_TOKEN).decode(errors="replace")

    def encode_response(self, text: str) -> tuple[int, ...]:
        """See `Codec.encode_response`."""
        return (*text.encode(errors="replace"), END_TOKEN)


@dataclass
class _Row:
    request: Request
    answer: tuple[int, ...]
    versions: list[int] = field(default_factory=list)
    """Of what answered each token."""


class FakeSampler:
    """A `Sampler` that knows the answers; see `spo.rollout.engine.Sampler` for the calls."""

    def __init__(self, codec: FakeCodec, max_batch_size: int, step_time_s: float = 0.001) -> None:
        """Makes the sampler.

        Args:
            codec: What prompts are encoded with.
            max_batch_size: As for any sampler.
            step_time_s: How long a step takes.
        """
        self.max_batch_size = max_batch_size
        self.policy_version = 0
        self._codec = codec
        self._step_time_s = step_time_s
        self._rows: dict[int, _Row] = {}

    def check(self, request: Request) -> None:
        """Any prompt will do that the codec has encoded, with or without a response's beginning after it."""
        self._codec.split(request.prompt_tokens)

    def add(self, requests: Sequence[tuple[int, Request]]) -> None:
        """Takes requests in, each with its answer."""
        for key, request in requests:
            self._rows[key] = _Row(request, self._answer(request, self._version(request)))

    def drop(self, keys: set[int]) -> None:
        """Takes requests out."""
        for key in keys:
            self._rows.pop(key, None)

    def step(self) -> list[tuple[int, Response]]:
        """Lets every response grow."""
        time.sleep(self._step_time_s)
        finished = []
        for key, row in list(self._rows.items()):
            limit = min(len(row.answer), row.request.max_new_tokens)
            row.versions += [self._version(row.request)] * min(TOKENS_PER_STEP, limit - len(row.versions))
            if len(row.versions) == limit:
                del self._rows[key]
                finished.append((key, self._response(row)))
        return finished

    def stage(self, snapshot: Snapshot) -> int:
        """Nothing of a version counts but its number."""
        return snapshot.version

    def switch(self, staged: int) -> None:
        """From now on, answers are those of this version."""
        self.policy_version = staged

    def _answer(self, request: Request, version: int) -> tuple[int, ...]:
        """A known solution: where a beginning is given, the rest of one that begins so, of the wanted kind if any."""
        rng = request_rng(request.seed)
        is_right = rng.random() < share_of_right_answers(version)
        problem, prefix = self._codec.split(request.prompt_tokens)
        answers = [(solution.correct, _answer_tokens(solution.code)) for solution in problem.solutions]
        fitting = [(correct, tokens) for correct, tokens in answers if tokens[: len(prefix)] == prefix]
        wanted = [tokens for correct, tokens in fitting if correct == is_right]
        candidates = wanted or [tokens for _, tokens in fitting if prefix] or [_answer_tokens("print()")]
        return candidates[rng.integers(len(candidates))][len(prefix) :] or (END_TOKEN,)

    def _response(self, row: _Row) -> Response:
        tokens = row.answer[: len(row.versions)]
        return Response(tokens, tokens[-1] != END_TOKEN, spans_of(row.versions))

    def _version(self, request: Request) -> int:
        return self.policy_version if request.policy == "latest" else 0


def _answer_tokens(code: str) -> tuple[int, ...]:
    return (*f"```python\n{code.rstrip()}\n```\n".encode(), END_TOKEN)
