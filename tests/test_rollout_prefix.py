"""Work that says how its responses begin."""

from __future__ import annotations

import dataclasses

import numpy as np
from worker_peer import PROBLEM, RIGHT, parts_maker, program, running, work

from spo.rollout.engine import Response
from spo.rollout.fake import FakeCodec, FakeSampler
from spo.store import Trajectory, decode_trajectories
from spo.types import PREFIX_KEY, ProblemData, Work

PREFIX = list(FakeCodec().encode_response(f"```python\n{RIGHT}")[:12])


class TellingSampler(FakeSampler):
    """Says with which probability it drew each token."""

    def step(self) -> list[tuple[int, Response]]:
        return [
            (key, dataclasses.replace(response, behavior_logprobs=np.full(len(response.tokens), -0.5, np.float32)))
            for key, response in super().step()
        ]


async def responses_to(item: Work) -> list[Trajectory]:
    async with running(parts_maker(sampler_class=TellingSampler)) as orchestrator:
        await orchestrator.send(ProblemData(problem=PROBLEM), item)
        results = await orchestrator.results(1)
    return decode_trajectories(results[item.work_id].trajectories)


async def test_a_given_beginning_is_part_of_the_response_and_has_no_logprobs() -> None:
    for trajectory in await responses_to(work(1, prefix_tokens=PREFIX)):
        assert trajectory.response_tokens[: len(PREFIX)].tolist() == PREFIX
        assert program(trajectory) is not None
        assert trajectory.metadata[PREFIX_KEY] == str(len(PREFIX))
        assert trajectory.behavior_logprobs is None


async def test_without_one_every_token_has_its_logprob() -> None:
    for trajectory in await responses_to(work(1)):
        assert PREFIX_KEY not in trajectory.metadata
        assert trajectory.behavior_logprobs is not None
        np.testing.assert_array_equal(trajectory.behavior_logprobs, np.full(len(trajectory.response_tokens), -0.5))


async def test_the_beginning_counts_to_the_limit_of_new_tokens() -> None:
    for trajectory in await responses_to(work(1, prefix_tokens=PREFIX, max_new_tokens=len(PREFIX) + 3)):
        assert len(trajectory.response_tokens) == len(PREFIX) + 3
        assert trajectory.verdict == "truncated"
