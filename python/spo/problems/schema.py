"""The problem: a statement, its tests and its limits, in the one schema that every loader produces.

The structs are frozen, compare by content and travel over the wire as MessagePack. Nothing here reads files
(see the loaders beside this module), renders prompts (`spo.rollout`) or runs programs (`spo.judge`).
"""

import json

import msgspec

from spo.errors import ProblemError

DEFAULT_TIME_LIMIT_S = 2.0
DEFAULT_MEMORY_LIMIT_BYTES = 512 << 20

PYTHON_TIME_FACTOR = 3.0
"""Time limits of data sets that were set for C++ are multiplied by this for Python."""

MAX_TIME_LIMIT_S = 24 * 3600.0
MAX_MEMORY_LIMIT_BYTES = 1 << 40

CHECKERS = ("tokens", "lines", "exact", "unordered", "floats", "kattis", "code_contests")
"""The first words that a checker may have: those the judge knows."""
CALL_CHECKERS = ("tokens", "floats")
"""Those for the values of functions: equal as Python compares them, or with numbers that may differ."""

PUBLIC = "public"
HIDDEN = "hidden"


class ProblemTest(msgspec.Struct, frozen=True):
    """One test of a problem.

    For a stdin/stdout problem `input` is what the program reads and `output` what it must print. For a
    function-call problem (`Problem.fn_name` set) `input` is the JSON list of arguments and `output` the JSON
    of the value that the function must return; `spo.call_values` says how integers are written as keys.

    Attributes:
        input: Standard input, or the arguments as a JSON list.
        output: Expected standard output, or the expected value as JSON.
        split: `"public"` (shown in the statement), `"hidden"`, or what the data set calls it.
        name: Where the test comes from, unique within the problem where the source names tests.
    """

    input: str
    output: str
    split: str = HIDDEN
    name: str = ""


class Solution(msgspec.Struct, frozen=True):
    """A program that somebody wrote for the problem, known to be right or wrong.

    Attributes:
        language: `"python"`, `"cpp"`, …
        code: The whole source text.
        correct: Whether it solves the problem.
        note: Why it is wrong, or what it does, in a few words.
    """

    language: str
    code: str
    correct: bool
    note: str = ""


class Problem(msgspec.Struct, frozen=True):
    """A programming problem.

    Attributes:
        id: Unique over all data sets of a run, `dataset/name`.
        dataset: Where it comes from: `"builtin"`, `"kattis"`, `"code_contests"`, …
        statement: Plain text or Markdown, with input format, output format and examples.
        tests: At least one, in judging order.
        time_limit_s: CPU seconds a test may take.
        memory_limit_bytes: Memory a test may use.
        checker: How outputs are compared: a checker of the judge by name, options after it separated by
            spaces (`"kattis float_tolerance 1e-6"`).
        fn_name: The function to call; None for a stdin/stdout problem.
        starter_code: Text that the response should start from (function-call problems).
        difficulty: `"easy"`, `"medium"`, `"hard"`, or the data set's own word.
        source: Contest or author.
        solutions: Known solutions, right and wrong.
        metadata: Anything else worth keeping, as text.
    """

    id: str
    dataset: str
    statement: str
    tests: tuple[ProblemTest, ...]
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES
    checker: str = "tokens"
    fn_name: str | None = None
    starter_code: str = ""
    difficulty: str = ""
    source: str = ""
    solutions: tuple[Solution, ...] = ()
    metadata: dict[str, str] = {}

    def tests_in(self, split: str) -> tuple[ProblemTest, ...]:
        """The tests of one split, in order."""
        return tuple(test for test in self.tests if test.split == split)


def check_problem(problem: Problem, where: str) -> Problem:
    """Return `problem` if it can be trained on.

    Args:
        problem: What a loader made.
        where: The file (and line) it came from, for the error text.

    Raises:
        ProblemError: It has no id, statement or tests, a limit out of range or an unknown checker, or its tests
            do not fit the function that they call.
    """
    holes = [
        (not problem.id.strip(), "id", "is empty; name the problem"),
        (not problem.statement.strip(), "statement", "is empty; write what the program should do"),
        (not problem.tests, "tests", "is empty; give at least one test with its expected output"),
        (
            not 0 < problem.time_limit_s <= MAX_TIME_LIMIT_S,
            "time_limit_s",
            f"is {problem.time_limit_s}; it must be above 0 and at most {MAX_TIME_LIMIT_S:g} seconds",
        ),
        (
            not 0 < problem.memory_limit_bytes <= MAX_MEMORY_LIMIT_BYTES,
            "memory_limit_bytes",
            f"is {problem.memory_limit_bytes}; it must be above 0 and at most {MAX_MEMORY_LIMIT_BYTES}",
        ),
        (
            problem.checker.partition(" ")[0] not in CHECKERS,
            "checker",
            f"{problem.checker!r} is unknown; it must start with one of {', '.join(CHECKERS)}",
        ),
    ]
    for is_hole, field, text in holes:
        if is_hole:
            raise ProblemError(f"{where}: {field} {text}")
    if problem.fn_name is not None:
        _check_calls(problem, where)
    return problem


def _check_calls(problem: Problem, where: str) -> None:
    """What only function-call problems must fulfil: a name, values that JSON can hold, a checker of values."""
    if not problem.fn_name or not problem.fn_name.isidentifier():
        raise ProblemError(f"{where}: fn_name is {problem.fn_name!r}; it must be the name of a function")
    if problem.checker.partition(" ")[0] not in CALL_CHECKERS:
        raise ProblemError(
            f"{where}: checker {problem.checker!r} compares texts; with fn_name it must be one of "
            f"{', '.join(CALL_CHECKERS)}"
        )
    for index, test in enumerate(problem.tests):
        if not isinstance(_value(test.input, f"{where}: tests[{index}].input"), list):
            raise ProblemError(f"{where}: tests[{index}].input must be the JSON list of the arguments")
        _value(test.output, f"{where}: tests[{index}].output")


def _value(text: str, where: str) -> object:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        value: object = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{where} is not JSON ({error}); with fn_name, tests hold JSON values") from None
    return value
