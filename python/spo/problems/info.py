"""What is known of a problem without reading its tests: sizes, limits and digests, as the indices of archives keep it.

Data sets hold gigabytes of tests. What concerns all problems at once (ids, counts, the suite's hash) is answered from
here, so that a problem's tests are only read when something is judged by them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from spo.problems.schema import Problem, ProblemTest

_DIGEST_BYTES = 16


class ProblemInfo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A problem without its texts.

    Attributes:
        id: As in `Problem`, like the five that follow.
        dataset: Where it comes from.
        difficulty: In the data set's words.
        time_limit_s: CPU seconds a test may take.
        memory_limit_bytes: Memory a test may use.
        checker: How outputs are compared.
        fn_name: The function to call; None for a stdin/stdout problem.
        splits: Number of tests by split.
        test_characters: Of all inputs and outputs together.
        statement_characters: Of the statement.
        num_right: Known right solutions, in any language.
        num_wrong: Known wrong ones.
        tests_digest: Of inputs and outputs, in order: 16 bytes.
        content_digest: Of everything: 16 bytes.
    """

    id: str
    dataset: str
    difficulty: str
    time_limit_s: float
    memory_limit_bytes: int
    checker: str
    fn_name: str | None
    splits: dict[str, int]
    test_characters: int
    statement_characters: int
    num_right: int
    num_wrong: int
    tests_digest: bytes
    content_digest: bytes

    @property
    def num_tests(self) -> int:
        """Of all splits."""
        return sum(self.splits.values())

    @property
    def judged_digest(self) -> bytes:
        """Of all that decides verdicts: tests, limits and checker."""
        limits = (self.time_limit_s, self.memory_limit_bytes)
        return digest(msgspec.msgpack.encode((self.id, self.tests_digest, *limits, self.checker, self.fn_name)))


def info_of(problem: Problem) -> ProblemInfo:
    """Sum a problem up."""
    right = sum(solution.correct for solution in problem.solutions)
    return ProblemInfo(
        id=problem.id,
        dataset=problem.dataset,
        difficulty=problem.difficulty,
        time_limit_s=problem.time_limit_s,
        memory_limit_bytes=problem.memory_limit_bytes,
        checker=problem.checker,
        fn_name=problem.fn_name,
        splits=dict(Counter(test.split for test in problem.tests)),
        test_characters=sum(len(test.input) + len(test.output) for test in problem.tests),
        statement_characters=len(problem.statement),
        num_right=right,
        num_wrong=len(problem.solutions) - right,
        tests_digest=tests_digest(problem.tests),
        content_digest=digest(msgspec.msgpack.encode(problem, order="deterministic")),
    )


def tests_digest(tests: Iterable[ProblemTest]) -> bytes:
    """Hash of the inputs and outputs of `tests`, in their order."""
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for test in tests:
        hasher.update(msgspec.msgpack.encode((test.input, test.output)))
    return hasher.digest()


def digest(content: bytes) -> bytes:
    """16 bytes that tell contents apart."""
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def suite_hash_of(infos: Sequence[ProblemInfo]) -> str:
    """As `spo.problems.suite_hash`, without the problems."""
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for info in sorted(infos, key=lambda info: info.id):
        hasher.update(info.judged_digest)
    return hasher.hexdigest()
