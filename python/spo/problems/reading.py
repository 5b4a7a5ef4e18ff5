"""Reading a data set: what its loader keeps account of, and the texts that it meets.

A data set of thousands should not fail for a few rows that nobody can mend: they are left out and counted. A damaged
row is an error all the same.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from spo.problems.schema import Problem

_log = logging.getLogger("spo.problems")


class Reading:
    """The account of one reading.

    Args:
        advance: Told how many more bytes of the files are done.
    """

    def __init__(self, advance: Callable[[float], None] = lambda amount: None) -> None:
        self.advance = advance
        self.left_out: Counter[str] = Counter()
        """Rows that are not among the problems, by reason."""

    def leave_out(self, reason: str) -> None:
        """Count a row that cannot be trained on."""
        self.left_out[reason] += 1


class UniqueIds:
    """Ids for problems whose names may repeat: a second problem of a name has a digest of its statement behind it."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def take(self, problem_id: str, statement: str) -> str | None:
        """The id of the next problem; None if there was one of this name and statement before."""
        digest = hashlib.blake2b(statement.encode(errors="replace"), digest_size=4).hexdigest()
        if (whole := f"{problem_id}-{digest}") in self._seen:
            return None
        self._seen.add(whole)
        if problem_id in self._seen:
            return whole
        self._seen.add(problem_id)
        return problem_id


def log_omissions(what: str, reasons: Mapping[str, int]) -> None:
    """Warn of the rows of `what` that were left out, one line a reason."""
    for reason, count in reasons.items():
        _log.warning("%s: left out %d problems: %s", what, count, reason)


def unix_lines(text: str | None) -> str:
    """A text with Windows line ends made into those of Unix; none is empty."""
    return (text or "").replace("\r\n", "\n")


def in_unicode(problem: Problem) -> Problem:
    """The problem with halves of surrogate pairs replaced by "?": JSON may hold them, UTF-8 and the judge cannot."""
    try:
        msgspec.msgpack.encode(problem)
    except UnicodeEncodeError:
        clean: Problem = msgspec.convert(_replaced(msgspec.to_builtins(problem)), Problem)
        return clean
    return problem


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value
