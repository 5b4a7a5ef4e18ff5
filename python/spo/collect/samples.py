"""Trajectories of a policy: sampled and judged by the workers of a sampling session, any number of them.

Sample i of a problem has a seed and a temperature that follow from the policy, the settings, the problem and i alone.
So a collection that was interrupted goes on with the samples that are missing, and a larger one begins with those of a
smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import trio

from spo.collect.at_once import for_each
from spo.collect.collection import Collection
from spo.orchestrator.records import relabelled
from spo.orchestrator.schedule import derive_seed, draw_temperature
from spo.orchestrator.session import SamplingSession
from spo.problems import Problems
from spo.problems.info import digest
from spo.store import Trajectory

COLLECTED = "collected"
POLICY_KEY = "policy"
"""Metadata of a collected trajectory: fingerprint of the weights that sampled it."""
_AT_ONCE = 16
"""Samples of a problem that are asked for together."""
_PIECES_ON_WAY = 256
"""So many of these are on their way at most: enough to fill dozens of workers."""
_MEASURED_AT_ONCE = 64
_COMMIT_INTERVAL_S = 1.0


class _Piece(NamedTuple):
    """Some samples of a problem."""

    task: str
    problem_id: str
    items: range


async def collect_samples(
    collection: Collection,
    session: SamplingSession,
    problems: Problems,
    num_samples: int,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Sample and judge responses, and store them.

    Args:
        collection: Where to.
        session: Who samples; its settings say how (`sampling`).
        problems: The problems; those whose prompt and longest response exceed `batch.token_budget` are left out.
        num_samples: Responses a problem, with those of earlier sessions.
        advance: Told how many more samples are done or there already.
    """
    fitting = await _fitting(collection, session, problems)
    advance((len(problems) - len(fitting)) * num_samples)
    key = sampling_key(session)

    def pieces() -> Iterator[_Piece]:
        for problem_id in fitting:
            task = f"{COLLECTED} {key} {problem_id}"
            missing = list(collection.missing(task, num_samples, _AT_ONCE))
            advance(num_samples - sum(map(len, missing)))
            yield from (_Piece(task, problem_id, items) for items in missing)

    async def collect_one(piece: _Piece) -> None:
        answers = await _sampled(session, piece)
        found = [answer for answer in answers if answer is not None]
        collection.tallies[COLLECTED].judge_failed += len(answers) - len(found)
        collection.add(piece.task, piece.items, found)
        advance(len(piece.items))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_commit_regularly, collection)
        await for_each(pieces(), _PIECES_ON_WAY, collect_one)
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(collection.commit)


def sampling_key(session: SamplingSession) -> str:
    """Names all that a sample depends on beside its problem and number."""
    config = session.config
    settings = msgspec.structs.replace(config.sampling, samples_per_problem=1)
    parts = (
        session.model.reference_fingerprint,
        session.model.tokenizer_fingerprint,
        session.prompt_template,
        msgspec.to_builtins(settings),
        (config.workers.engine, config.workers.dtype, config.seed),
    )
    return digest(msgspec.json.encode(parts, order="deterministic")).hex()


async def _sampled(session: SamplingSession, piece: _Piece) -> list[Trajectory | None]:
    sampling = session.config.sampling
    seeds = [derive_seed(piece.task, index) for index in piece.items]
    answers = await session.sample(
        piece.problem_id,
        seeds=seeds,
        temperatures=[draw_temperature(seed, sampling.temperature_min, sampling.temperature_max) for seed in seeds],
        top_p=sampling.top_p,
        source=COLLECTED,
    )
    labels = {POLICY_KEY: session.model.reference_fingerprint}
    return [answer and relabelled(answer, **labels) for answer in answers]


async def _fitting(collection: Collection, session: SamplingSession, problems: Problems) -> Sequence[str]:
    """Ids of the problems that have room for a response."""
    config = session.config
    most = config.batch.token_budget - config.sampling.max_new_tokens
    fitting: list[str] = []
    for start in range(0, len(problems), _MEASURED_AT_ONCE):
        group = problems[start : start + _MEASURED_AT_ONCE]
        lengths = await session.prompt_lengths(list(group.heads()))
        fitting += [problem_id for problem_id, length in zip(group.ids, lengths, strict=True) if length <= most]
    if len(fitting) < len(problems):
        reason = "problems whose prompt and sampling.max_new_tokens exceed batch.token_budget"
        collection.left_out[reason] += len(problems) - len(fitting)
    return fitting


async def _commit_regularly(collection: Collection) -> None:
    while True:
        await trio.sleep(_COMMIT_INTERVAL_S)
        await trio.to_thread.run_sync(collection.commit)
