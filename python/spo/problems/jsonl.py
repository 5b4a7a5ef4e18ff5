"""JSON Lines: one problem a line, in our own schema or in the cut-down CodeContests one.

A line with a `description` is read as CodeContests (`name, source, difficulty, description, tests`); any
other line must have the fields of `Problem`. Parquet files of the full data sets are read elsewhere.
"""

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from spo.errors import ProblemError
from spo.problems.data_files import DataFiles
from spo.problems.reading import Reading
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    Problem,
    ProblemTest,
    Solution,
    check_problem,
)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line in our schema: the fields of `Problem`, of which all but three may be left out."""

    id: str
    statement: str
    tests: tuple[ProblemTest, ...]
    dataset: str = "jsonl"
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES
    checker: str = "tokens"
    fn_name: str | None = None
    starter_code: str = ""
    difficulty: str = ""
    source: str = ""
    solutions: tuple[Solution, ...] = ()
    metadata: dict[str, str] = {}

    def to_problem(self) -> Problem:
        return Problem(**{field: getattr(self, field) for field in self.__struct_fields__})


class _CodeContestsTest(msgspec.Struct):
    input: str
    output: str


class _CodeContestsLine(msgspec.Struct):
    """A line of the cut-down CodeContests schema."""

    name: str
    description: str
    tests: tuple[_CodeContestsTest, ...]
    source: str = ""
    difficulty: str = ""

    def to_problem(self) -> Problem:
        return Problem(
            id=f"code_contests/{self.name.strip()}",
            dataset="code_contests",
            statement=self.description,
            tests=tuple(
                ProblemTest(test.input, test.output, name=f"test-{number}")
                for number, test in enumerate(self.tests, start=1)
            ),
            checker="code_contests",
            difficulty=self.difficulty,
            source=self.source,
        )


def read_jsonl(data: DataFiles, reading: Reading) -> Iterator[Problem]:
    """Read the problems of JSON Lines files, a line at a time; blank lines are skipped.

    Raises:
        ProblemError: A line is not JSON or has a hole; names file, line and field.
    """
    for file in data.files:
        for where, line in numbered_lines(file, reading.advance):
            yield _parse_line(line, where)


def numbered_lines(path: Path, advance: Callable[[float], None]) -> Iterator[tuple[str, bytes]]:
    """Yield `(where, line)` for each line that is not blank; `where` names file and line.

    Args:
        path: The file.
        advance: Told the bytes of each line once it is done.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line.removeprefix(codecs.BOM_UTF8)
            advance(len(line))


def _parse_line(line: bytes, where: str) -> Problem:
    try:
        keys = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).keys()
        schema: type[_Line | _CodeContestsLine] = _CodeContestsLine if "description" in keys else _Line
        return check_problem(msgspec.json.decode(line, type=schema).to_problem(), where)
    except msgspec.ValidationError as error:
        raise ProblemError(f"{where}: {_describe(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(f"{where}: not a JSON object in UTF-8 ({error}); write one problem a line") from None


def _describe(error: msgspec.ValidationError) -> str:
    """Turn msgspec's text into `field: what is wrong`."""
    text, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    return f"{field}: {text}" if field else text
