"""Duplicates: problems of one collection that are, in other words or not, problems of another.

Training on a problem and then evaluating on it measures memory; data sets overlap, and TACO holds much of
CodeContests. A pair is found by its contest, its statement or the inputs of its tests, and the finding says which.
A statement in which many words were exchanged is found in two steps: a few phrases in common make it a candidate, and
then most of its words must come in the same order. Retold and translated statements are only found by their contest or
their tests. Both sides are read once, a problem at a time; of the second side digests and words are kept.
"""

import hashlib
import heapq
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from spo.errors import ConfigError
from spo.problems.schema import Problem

STATEMENT_THRESHOLD = 0.4
"""Of 70 different problems no two share more than a third of their n-grams; replacing every tenth word leaves more."""
WORDS_THRESHOLD = 0.65
"""Of 70 different problems no two have 60 % of their words in the same order; every fifth replaced leaves 80 %."""
TESTS_THRESHOLD = 0.5
_NGRAM_WORDS = 4
_MIN_NGRAMS = 12
"""Shorter statements are compared as a whole only: a few n-grams may well be a phrase that many problems use."""
_CANDIDATE_NGRAMS, _CANDIDATE_SHARE = 3, 0.08
"""Statements with so many n-grams in common, and this share, may be the same with other words."""
_MIN_WORDS = 20
"""Shorter statements have most of their words in common with many."""
_MAX_CANDIDATES = 20
_COMMON = 20
"""An n-gram of more problems than this is a phrase of the trade, and says nothing."""
_MIN_INPUT_CHARACTERS = 10
"""Tests with shorter inputs ("3") are shared by problems that have nothing to do with each other."""
_LONG_INPUT_CHARACTERS = 150
"""A longer input is no coincidence: it counts as much as three."""
_MIN_SHARED_TESTS = 3

_MARKUP = re.compile(r"\\[a-zA-Z]+|</?[a-zA-Z][^<>]*>")
"""LaTeX's commands, and HTML."""
_SAMPLES = re.compile(r"^\W*(?:sample input|sample|examples?)\b[\W\d]*$", re.I | re.M)
"""The heading of the samples, which one data set shows below a statement and another does not."""
_CODEFORCES = re.compile(r"codeforces\.com/(?:contest|problemset/problem|gym)/(\d+)/(?:problem/)?([A-Z]\d?)", re.I)


class Duplicate(msgspec.Struct, frozen=True):
    """A finding.

    Attributes:
        problem_id: The problem to leave out.
        duplicate_of: The problem that it duplicates.
        reason: `"id"`, `"contest"`, `"exact statement"`, `"statement"` (equal but for case, punctuation, layout and
            LaTeX), `"near statement"` (phrases in common), `"reworded statement"` (words in the same order) or
            `"tests"` (inputs).
        score: The share of what the smaller of the two has that the other has too, in (0, 1]; of words in the same
            order, their share of both.
    """

    problem_id: str
    duplicate_of: str
    reason: str
    score: float = 1.0


def read_duplicates(path: Path) -> list[Duplicate]:
    """The findings in a report, one JSON object a line.

    Raises:
        ConfigError: It is no such report.
    """
    try:
        return msgspec.json.Decoder(Duplicate).decode_lines(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path}: no report of duplicates ({error}); make it by spo problems dedup … --report {path}"
        ) from None


def find_duplicates(
    problems: Iterable[Problem],
    against: Iterable[Problem],
    statement_threshold: float = STATEMENT_THRESHOLD,
    tests_threshold: float = TESTS_THRESHOLD,
    words_threshold: float = WORDS_THRESHOLD,
) -> list[Duplicate]:
    """Find the problems that duplicate one of `against`; for each only the surest finding, in the problems' order.

    Args:
        problems: The problems to clean, as a rule those to train on.
        against: The problems that must not be among them.
        statement_threshold: Share of the smaller statement's n-grams from which statements are near.
        tests_threshold: Share of the smaller suite's test inputs from which suites are the same.
        words_threshold: Share of words in the same order from which statements are the same.
    """
    finder = DuplicateFinder(against, statement_threshold, tests_threshold, words_threshold)
    findings = (finder.find(problem) for problem in problems)
    return [finding for finding in findings if finding is not None]


class DuplicateFinder:
    """The problems that must not be duplicated, by everything they can be recognised by; see `find_duplicates`."""

    def __init__(
        self,
        against: Iterable[Problem],
        statement_threshold: float = STATEMENT_THRESHOLD,
        tests_threshold: float = TESTS_THRESHOLD,
        words_threshold: float = WORDS_THRESHOLD,
    ) -> None:
        self._ids: set[str] = set()
        self._exact: dict[bytes, str] = {}
        self._contests: dict[str, str] = {}
        self._statements: dict[bytes, str] = {}
        self._ngrams = _Overlap(_MIN_NGRAMS)
        self._tests = _Overlap(_MIN_SHARED_TESTS)
        self._words: dict[str, list[str]] = {}
        self._thresholds = statement_threshold, tests_threshold, words_threshold
        for problem in against:  # Once: each is read from disk.
            self._ids.add(problem.id)
            if contest := _contest(problem):
                self._contests[contest] = problem.id
            words = _words(problem)
            self._exact[_digest(problem.statement)] = problem.id
            self._statements[_digest(" ".join(words))] = problem.id
            self._ngrams.add(problem.id, _ngrams(words))
            self._words[problem.id] = [sys.intern(word) for word in _told(problem)]
            self._tests.add(problem.id, _tests(problem))

    def find(self, problem: Problem) -> Duplicate | None:
        """The surest finding about a problem, if there is any."""
        if problem.id in self._ids:
            return Duplicate(problem.id, problem.id, "id")
        if match := self._contests.get(_contest(problem)):
            return Duplicate(problem.id, match, "contest")
        if match := self._exact.get(_digest(problem.statement)):
            return Duplicate(problem.id, match, "exact statement")
        words = _words(problem)
        if match := self._statements.get(_digest(" ".join(words))):
            return Duplicate(problem.id, match, "statement")
        ngrams = _ngrams(words)
        match, score = self._ngrams.best(ngrams)
        if match and score >= self._thresholds[0]:
            return Duplicate(problem.id, match, "near statement", score)
        match, score = self._reworded(_told(problem), ngrams)
        if match and score >= self._thresholds[2]:
            return Duplicate(problem.id, match, "reworded statement", score)
        match, score = self._tests.best(_tests(problem))
        if match and score >= self._thresholds[1]:
            return Duplicate(problem.id, match, "tests", score)
        return None

    def _reworded(self, words: list[str], ngrams: frozenset[bytes]) -> tuple[str, float]:
        """The problem with most of the same words in the same order, and their share of both statements."""
        if len(words) < _MIN_WORDS:
            return "", 0.0
        shares = self._ngrams.shares(ngrams, _CANDIDATE_NGRAMS)
        candidates = [(share, problem_id) for problem_id, share in shares.items() if share >= _CANDIDATE_SHARE]
        scores = {
            problem_id: 2
            * _common_in_order(words, self._words[problem_id])
            / (len(words) + len(self._words[problem_id]))
            for _, problem_id in heapq.nlargest(_MAX_CANDIDATES, candidates)
            if len(self._words[problem_id]) >= _MIN_WORDS
        }
        return max(scores.items(), key=lambda item: item[1], default=("", 0.0))


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
        return max(self.shares(features, self._min_shared).items(), key=lambda item: item[1], default=("", 0.0))

    def shares(self, features: frozenset[bytes], min_shared: int) -> dict[str, float]:
        """How much of the smaller set each problem has in common, of those that have at least so many features."""
        shared: Counter[str] = Counter()
        for feature in features:
            owners = self._owners.get(feature, ())
            if len(owners) <= _COMMON:
                shared.update(owners)
        return {
            problem_id: count / min(len(features), self._sizes[problem_id])
            for problem_id, count in shared.items()
            if count >= min_shared
        }


def _contest(problem: Problem) -> str:
    """The contest and letter of a Codeforces problem; empty if unknown."""
    if problem.metadata.get("cf_contest_id") and problem.metadata.get("cf_index"):
        return f"{problem.metadata['cf_contest_id']}{problem.metadata['cf_index']}".upper()
    match = _CODEFORCES.search(problem.metadata.get("url", ""))
    return f"{match[1]}{match[2]}".upper() if match else ""


def _words(problem: Problem) -> list[str]:
    """The words of the statement, whatever way formulas and pictures are written."""
    return _words_in(problem.statement)


def _told(problem: Problem) -> list[str]:
    """The words above the samples."""
    return _words_in(_SAMPLES.split(problem.statement, maxsplit=1)[0])


def _words_in(statement: str) -> list[str]:
    text = _MARKUP.sub(" ", unicodedata.normalize("NFKC", statement))
    return re.findall(r"[^\W_]+", text.lower())


def _common_in_order(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, with a bit of one integer for each word (Crochemore et al. 2001)."""
    places: defaultdict[str, int] = defaultdict(int)
    for index, word in enumerate(first):
        places[word] |= 1 << index
    every = (1 << len(first)) - 1
    rest = every
    for word in second:
        matches = rest & places.get(word, 0)
        rest = ((rest + matches) | (rest - matches)) & every
    return len(first) - rest.bit_count()


def _ngrams(words: Sequence[str]) -> frozenset[bytes]:
    return frozenset(
        _digest(" ".join(words[start : start + _NGRAM_WORDS])) for start in range(len(words) - _NGRAM_WORDS + 1)
    )


def _tests(problem: Problem) -> frozenset[bytes]:
    """The inputs with their white space evened out: outputs are often written in another way."""
    return frozenset(_digest(feature) for test in problem.tests for feature in _input_features(test.input))


def _input_features(text: str) -> Iterator[str]:
    even = " ".join(text.split())
    if len(even) >= _MIN_INPUT_CHARACTERS:
        yield even
    if len(even) >= _LONG_INPUT_CHARACTERS:
        yield from (f"{number}\0{even}" for number in range(1, _MIN_SHARED_TESTS))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
