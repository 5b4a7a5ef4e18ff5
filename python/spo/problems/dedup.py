"""Duplicates: problems of one collection that are, in other words or not, problems of another.

Training on a problem and then evaluating on it measures memory; data sets overlap, and TACO holds much of
CodeContests. A pair is found by its contest, its statement or its tests, and the finding says which. Rewritten and
translated statements are only found by their contest or their tests.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from spo.problems.schema import Problem

_NGRAM_WORDS = 6
_MIN_NGRAMS = 12
"""Shorter statements are compared as a whole only: a few n-grams may well be a phrase that many problems use."""
_COMMON = 20
"""An n-gram of more problems than this is a phrase of the trade, and says nothing."""
_MIN_INPUT_CHARACTERS = 10
"""Tests with shorter inputs ("3") are shared by problems that have nothing to do with each other."""
_MIN_SHARED_TESTS = 3

_CODEFORCES = re.compile(r"codeforces\.com/(?:contest|problemset/problem|gym)/(\d+)/(?:problem/)?([A-Z]\d?)", re.I)


class Duplicate(msgspec.Struct, frozen=True):
    """A finding.

    Attributes:
        problem_id: The problem to leave out.
        duplicate_of: The problem that it duplicates.
        reason: `"id"`, `"contest"`, `"statement"` (equal words), `"near statement"` or `"tests"`.
        score: The share of what the smaller of the two has that the other has too, in (0, 1].
    """

    problem_id: str
    duplicate_of: str
    reason: str
    score: float = 1.0


def find_duplicates(
    problems: Sequence[Problem],
    against: Sequence[Problem],
    statement_threshold: float = 0.5,
    tests_threshold: float = 0.5,
) -> list[Duplicate]:
    """Find the problems that duplicate one of `against`; for each only the surest finding, in the problems' order.

    Args:
        problems: The problems to clean, as a rule those to train on.
        against: The problems that must not be among them.
        statement_threshold: Share of the smaller statement's n-grams from which statements are near.
        tests_threshold: Share of the smaller suite's tests from which suites are the same.
    """
    finder = _Finder(against, statement_threshold, tests_threshold)
    findings = (finder.find(problem) for problem in problems)
    return [finding for finding in findings if finding is not None]


class _Finder:
    """The problems that must not be duplicated, by everything they can be recognised by."""

    def __init__(self, against: Sequence[Problem], statement_threshold: float, tests_threshold: float):
        self._ids: set[str] = set()
        self._contests: dict[str, str] = {}
        self._statements: dict[bytes, str] = {}
        self._ngrams = _Overlap(_MIN_NGRAMS)
        self._tests = _Overlap(_MIN_SHARED_TESTS)
        self._thresholds = statement_threshold, tests_threshold
        for problem in against:  # Once: each is read from disk.
            self._ids.add(problem.id)
            if contest := _contest(problem):
                self._contests[contest] = problem.id
            self._statements[_statement(problem)] = problem.id
            self._ngrams.add(problem.id, _ngrams(problem))
            self._tests.add(problem.id, _tests(problem))

    def find(self, problem: Problem) -> Duplicate | None:
        if problem.id in self._ids:
            return Duplicate(problem.id, problem.id, "id")
        if match := self._contests.get(_contest(problem)):
            return Duplicate(problem.id, match, "contest")
        if match := self._statements.get(_statement(problem)):
            return Duplicate(problem.id, match, "statement")
        match, score = self._ngrams.best(_ngrams(problem))
        if match and score >= self._thresholds[0]:
            return Duplicate(problem.id, match, "near statement", score)
        match, score = self._tests.best(_tests(problem))
        if match and score >= self._thresholds[1]:
            return Duplicate(problem.id, match, "tests", score)
        return None


class _Overlap:
    """Sets of features by problem, and which of them shares most with another set."""

    def __init__(self, min_shared: int):
        self._sizes: dict[str, int] = {}
        self._min_shared = min_shared
        self._owners: defaultdict[bytes, list[str]] = defaultdict(list)

    def add(self, problem_id: str, features: frozenset[bytes]) -> None:
        """Takes in the features of one more problem."""
        self._sizes[problem_id] = len(features)
        for feature in features:
            self._owners[feature].append(problem_id)

    def best(self, features: frozenset[bytes]) -> tuple[str, float]:
        """The problem that contains most of `features`, or is contained most, and that share; ("", 0) if none does."""
        shared: Counter[str] = Counter()
        for feature in features:
            owners = self._owners.get(feature, ())
            if len(owners) <= _COMMON:
                shared.update(owners)
        scores = {
            problem_id: count / min(len(features), self._sizes[problem_id])
            for problem_id, count in shared.items()
            if count >= self._min_shared
        }
        return max(scores.items(), key=lambda item: item[1], default=("", 0.0))


def _contest(problem: Problem) -> str:
    """The contest and letter of a Codeforces problem; empty if unknown."""
    if problem.metadata.get("cf_contest_id") and problem.metadata.get("cf_index"):
        return f"{problem.metadata['cf_contest_id']}{problem.metadata['cf_index']}".upper()
    match = _CODEFORCES.search(problem.metadata.get("url", ""))
    return f"{match[1]}{match[2]}".upper() if match else ""


def _words(problem: Problem) -> list[str]:
    return re.findall(r"[^\W_]+", problem.statement.lower())


def _statement(problem: Problem) -> bytes:
    return _digest(" ".join(_words(problem)))


def _ngrams(problem: Problem) -> frozenset[bytes]:
    words = _words(problem)
    return frozenset(
        _digest(" ".join(words[start : start + _NGRAM_WORDS])) for start in range(len(words) - _NGRAM_WORDS + 1)
    )


def _tests(problem: Problem) -> frozenset[bytes]:
    """The tests with their white space evened out."""
    pairs = ((" ".join(test.input.split()), " ".join(test.output.split())) for test in problem.tests)
    return frozenset(_digest("\0".join(pair)) for pair in pairs if len(pair[0]) >= _MIN_INPUT_CHARACTERS)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
