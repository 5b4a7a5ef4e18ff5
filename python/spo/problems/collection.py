"""Collections of problems that are read when they are asked for, one at a time.

To a caller a `Problems` is a sequence of `Problem`. Where they lie (in memory, in an archive) is a shelf's business;
what can be told without reading tests is in `infos`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, overload

import msgspec

from spo.problems.info import ProblemInfo, info_of, suite_hash_of
from spo.problems.schema import Problem

Edit = Callable[[Problem], Problem]


class Shelf(Protocol):
    """Where problems lie."""

    @property
    def infos(self) -> Sequence[ProblemInfo]:
        """What is known of each."""

    def head(self, index: int) -> Problem:
        """One of them without tests and solutions."""

    def read(self, index: int, with_solutions: bool = True) -> Problem:
        """One of them, or all but its solutions."""


class MemoryShelf:
    """Problems in memory."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self.infos: Sequence[ProblemInfo] = [info_of(problem) for problem in problems]

    def head(self, index: int) -> Problem:
        """See `Shelf.head`."""
        return msgspec.structs.replace(self._problems[index], tests=(), solutions=())

    def read(self, index: int, with_solutions: bool = True) -> Problem:
        """See `Shelf.read`."""
        problem = self._problems[index]
        return problem if with_solutions else msgspec.structs.replace(problem, solutions=())


class _Slot(msgspec.Struct, frozen=True, eq=False):
    """One problem of a collection."""

    shelf: Shelf
    index: int
    info: ProblemInfo
    edit: Edit | None = None


class Problems(Sequence[Problem]):
    """Problems in an order; each is read anew whenever it is asked for, and equal ones compare equal."""

    def __init__(self, slots: Iterable[_Slot] = ()) -> None:
        self._slots = tuple(slots)

    @classmethod
    def on(cls, shelf: Shelf) -> "Problems":
        """All problems of a shelf."""
        return cls(_Slot(shelf, index, info) for index, info in enumerate(shelf.infos))

    @classmethod
    def joined(cls, collections: Iterable["Problems"]) -> "Problems":
        """The problems of several collections, one after the other."""
        return cls(slot for collection in collections for slot in collection._slots)

    @property
    def infos(self) -> list[ProblemInfo]:
        """What is known of each problem without reading it."""
        return [slot.info for slot in self._slots]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [slot.info.id for slot in self._slots]

    def head(self, index: int) -> Problem:
        """A problem without tests and solutions."""
        slot = self._slots[index]
        return slot.shelf.head(slot.index)

    def heads(self) -> Iterator[Problem]:
        """All problems without tests and solutions, one at a time."""
        return (self.head(index) for index in range(len(self)))

    def read(self, index: int, with_solutions: bool = True) -> Problem:
        """A problem, or all but its solutions: of popular problems they are most of the data."""
        slot = self._slots[index]
        problem = slot.shelf.read(slot.index, with_solutions)
        return problem if slot.edit is None else slot.edit(problem)

    def where(self, keep: Callable[[ProblemInfo], bool]) -> "Problems":
        """Those whose info `keep` approves of."""
        return Problems(slot for slot in self._slots if keep(slot.info))

    def edited(self, edits: Mapping[str, tuple[ProblemInfo, Edit]]) -> "Problems":
        """The same problems, where `edits` says what becomes of some, by id: the info, and how the problem changes."""
        return Problems(
            _Slot(slot.shelf, slot.index, *edits[slot.info.id]) if slot.info.id in edits else slot
            for slot in self._slots
        )

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> "Problems": ...
    def __getitem__(self, index: int | slice) -> "Problem | Problems":
        if isinstance(index, slice):
            return Problems(self._slots[index])
        return self.read(index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Problems):
            return [info.content_digest for info in self.infos] == [info.content_digest for info in other.infos]
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} problems>"


class ById(Mapping[str, Problem]):
    """The problems of collections by id, read when they are asked for; the first of equal ids."""

    def __init__(self, *collections: Problems, with_solutions: bool = True) -> None:
        self._with_solutions = with_solutions
        self._places: dict[str, tuple[Problems, int]] = {}
        for problems in collections:
            for index, info in enumerate(problems.infos):
                self._places.setdefault(info.id, (problems, index))

    def __getitem__(self, problem_id: str) -> Problem:
        problems, index = self._places[problem_id]
        return problems.read(index, self._with_solutions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def infos_of(problems: Sequence[Problem]) -> list[ProblemInfo]:
    """What is known of problems, which are read only where there is no other way."""
    return problems.infos if isinstance(problems, Problems) else [info_of(problem) for problem in problems]


def suite_hash(problems: Sequence[Problem]) -> str:
    """Hash of everything that decides verdicts on `problems`: ids, tests, limits and checkers.

    The order of the problems does not count, that of a problem's tests does. Counts of successes are only
    comparable between runs where this hash is equal.
    """
    return suite_hash_of(infos_of(problems))
