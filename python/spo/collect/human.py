"""Trajectories of human solutions: each as a model would have answered with it, and judged.

The prompt is the model's own; the response is the program in a fenced block and the end token. Which solutions are
right is the judge's to say; where it contradicts the data set, that is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from spo.collect.at_once import for_each
from spo.collect.collection import Collection
from spo.problems import Problem, Problems, Solution, extract_code, fenced
from spo.problems.info import digest
from spo.reward import ACCEPTED_REWARD
from spo.store import Trajectory

if TYPE_CHECKING:
    from spo.rollout.grading import Grade, Grader
    from spo.rollout.prompts import Codec

HUMAN = "human"
LABEL_KEY = "known"
"""Metadata of a human trajectory: `right` or `wrong`, as the data set has it."""
_AT_ONCE = 64
"""Solutions of a problem that are judged as one piece of work."""
_PROBLEMS_AT_ONCE = 4
"""Each holds its tests in memory."""


async def collect_human(
    collection: Collection,
    problems: Problems,
    codec: Codec,
    grader: Grader,
    token_budget: int,
    max_solutions: int,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Collect the Python solutions that problems come with.

    Args:
        collection: Where to.
        problems: With their solutions.
        codec: The policy's tokenizer and prompts.
        grader: Judges.
        token_budget: Longer trajectories are left out: no batch has room for them.
        max_solutions: So many right and so many wrong solutions of a problem are taken at most, the first ones.
        advance: Called after each problem.
    """

    async def collect_one(index: int) -> None:
        await _Solutions(collection, problems.read(index), codec, grader, token_budget, max_solutions).collect()
        advance()

    await for_each(range(len(problems)), _PROBLEMS_AT_ONCE, collect_one)


class _Solutions:
    """The solutions of one problem."""

    def __init__(
        self,
        collection: Collection,
        problem: Problem,
        codec: Codec,
        grader: Grader,
        token_budget: int,
        max_solutions: int,
    ) -> None:
        self._collection = collection
        self._problem = problem
        self._codec = codec
        self._grader = grader
        self._token_budget = token_budget
        self._solutions = _chosen(problem, max_solutions)
        self._prompt = codec.encode_prompt(problem)

    async def collect(self) -> None:
        """Collect those that are not done."""
        problem, codec = self._problem, self._codec
        solutions = digest(repr([(one.code, one.correct) for one in self._solutions]).encode()).hex()
        task = f"{HUMAN} {codec.tokenizer_fingerprint} {codec.prompt_template} {solutions} {problem.id}"
        for items in self._collection.missing(task, len(self._solutions), _AT_ONCE):
            written = [(one, self._written(one)) for one in self._solutions[items.start : items.stop]]
            usable = [(one, tokens) for one, tokens in written if tokens]
            texts = [codec.decode_response(tokens) for _, tokens in usable]
            grading = await self._grader.grade(problem, texts)
            found = [
                self._trajectory(one, tokens, grade, grade.reward)
                for (one, tokens), grade in zip(usable, grading.grades, strict=True)
                if grade.reward is not None
            ]
            self._collection.tallies[HUMAN].judge_failed += len(usable) - len(found)
            self._collection.add(task, items, found)
            await trio.to_thread.run_sync(self._collection.commit)

    def _written(self, solution: Solution) -> tuple[int, ...]:
        """The response's tokens; none where it cannot be one. Where the tokenizer knows no fences: the bare program."""
        left_out = self._collection.left_out
        for text in (fenced(solution.code), solution.code):
            tokens = self._codec.encode_response(text)
            if extract_code(self._codec.decode_response(tokens)) == extract_code(text):
                if len(self._prompt) + len(tokens) <= self._token_budget:
                    return tokens
                left_out["solutions that exceed batch.token_budget with their prompt"] += 1
                return ()
        left_out["solutions that the tokenizer cannot write"] += 1
        return ()

    def _trajectory(self, solution: Solution, tokens: Sequence[int], grade: Grade, reward: float) -> Trajectory:
        accepted = reward == ACCEPTED_REWARD
        if accepted != solution.correct:
            kind = "right solutions that were refused" if solution.correct else "wrong solutions that were accepted"
            self._collection.contradictions[kind] += 1
        return Trajectory(
            problem_id=self._problem.id,
            prompt_tokens=list(self._prompt),
            response_tokens=list(tokens),
            reward=reward,
            verdict=grade.verdict,
            source=HUMAN,
            metadata={LABEL_KEY: "right" if solution.correct else "wrong"},
        )


def _chosen(problem: Problem, max_solutions: int) -> list[Solution]:
    """The Python programs, the right ones first, each once."""
    python = {one.code: one for one in reversed(problem.solutions) if one.language == "python" and one.code.strip()}
    in_order = list(reversed(python.values()))
    right, wrong = ([one for one in in_order if one.correct == correct] for correct in (True, False))
    return [*right[:max_solutions], *wrong[:max_solutions]]
