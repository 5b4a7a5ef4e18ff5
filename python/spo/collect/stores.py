"""Trajectories of other stores and runs: taken over with their sources, each content once, judged anew if wanted.

Evaluations are passed over: nothing may be trained on them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from spo.collect.collection import STORE_DIR, Collection
from spo.errors import StoreError
from spo.orchestrator.evaluation import EVALUATION
from spo.orchestrator.records import changed, relabelled
from spo.problems import ById, Problems
from spo.problems.info import digest
from spo.store import Trajectory, TrajectoryStore
from spo.store_copy import read_whole

if TYPE_CHECKING:
    from spo.rollout.grading import Grader
    from spo.rollout.prompts import Codec

STORE_KEY = "from_store"
"""Metadata of a trajectory that was taken over: the id of the store that it is from."""
_AT_ONCE = 512


class Regrader:
    """Judges stored responses by the tests that problems have now.

    Args:
        problems: All that may be asked about.
        codec: Whose tokens the responses are.
        grader: Judges.
    """

    def __init__(self, problems: Problems, codec: Codec, grader: Grader) -> None:
        self._problems = ById(problems, with_solutions=False)
        self._codec = codec
        self._grader = grader

    async def judged(self, items: Sequence[Trajectory], collection: Collection) -> list[Trajectory]:
        """The same trajectories with new verdicts; those that the judge itself fails on are counted and left out."""
        of_problem: defaultdict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            of_problem[item.problem_id].append(index)
        found: dict[int, Trajectory] = {}
        for problem_id, indices in of_problem.items():
            grading = await self._grader.grade(self._problems[problem_id], [self._text(items[i]) for i in indices])
            for index, grade in zip(indices, grading.grades, strict=True):
                item = items[index]
                if grade.reward is None:
                    collection.tallies[item.source].judge_failed += 1
                    continue
                collection.contradictions["verdicts that are others now"] += grade.verdict != item.verdict
                found[index] = changed(item, reward=grade.reward, verdict=grade.verdict)
        return [found[index] for index in sorted(found)]

    def _text(self, item: Trajectory) -> str | None:
        """What was answered; None where the answer has no end."""
        tokens = item.response_tokens.tolist()
        ended = bool(tokens) and tokens[-1] in self._codec.end_tokens
        return self._codec.decode_response(tokens) if ended else None


async def collect_store(
    collection: Collection,
    path: Path,
    problems: Problems | None = None,
    regrader: Regrader | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Take over the trajectories of a store.

    Args:
        collection: Where to.
        path: The store.
        problems: Only trajectories of these problems are wanted; None: of any.
        regrader: Judges them anew, by these problems; None: they keep their verdicts.
        advance: Told how many of how many records are done.

    Raises:
        StoreError: It is the collection's own store, or of another tokenizer.
        CorruptShardError: One of its records is damaged.
    """
    if path.resolve() == (collection.directory / STORE_DIR).resolve():
        raise StoreError(f"{path} is the collection's own store; name another one")
    with TrajectoryStore.open(path, "r") as store:
        if store.tokenizer != collection.store.tokenizer:
            raise StoreError(
                f"{path} is of the tokenizer {store.tokenizer}, {collection.directory} of "
                f"{collection.store.tokenizer}: their tokens mean different things; collect into another folder"
            )
        ids = store.scan()
        store_id = str(store.info()["store_id"])
        task = f"store {store_id} {_filter_of(problems, judged_anew=regrader is not None)}"
        known = None if problems is None else frozenset(problems.ids)
        for items in collection.missing(task, len(ids), _AT_ONCE):
            records = await trio.to_thread.run_sync(_read, store, ids[items.start : items.stop])
            wanted = _wanted(collection, records, known)
            judged = await regrader.judged(wanted, collection) if regrader else wanted
            collection.add(task, items, [relabelled(item, **{STORE_KEY: store_id}) for item in judged])
            await trio.to_thread.run_sync(collection.commit)
            advance(items.stop, len(ids))


def _read(store: TrajectoryStore, ids: Sequence[int]) -> list[Trajectory]:
    return [item for _, item in read_whole(store, ids)]


def _wanted(collection: Collection, records: Sequence[Trajectory], known: frozenset[str] | None) -> list[Trajectory]:
    trainable = [item for item in records if item.source != EVALUATION]
    wanted = [item for item in trainable if known is None or item.problem_id in known]
    collection.left_out["evaluations"] += len(records) - len(trainable)
    collection.left_out["trajectories of other problems"] += len(trainable) - len(wanted)
    return wanted


def _filter_of(problems: Problems | None, judged_anew: bool) -> str:
    """Names the problems whose trajectories are taken, and, where they are judged anew, by which tests."""
    if problems is None:
        return "all"
    infos = sorted(problems.infos, key=lambda info: info.id)
    parts = [info.judged_digest if judged_anew else info.id.encode() for info in infos]
    return f"{'judged' if judged_anew else 'of'} {digest(b''.join(digest(part) for part in parts)).hex()}"
