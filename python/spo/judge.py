r"""The judge: runs Python programs that nobody trusts against tests, and says what they are worth.

Each program runs in a jailed copy of a warm interpreter, started by exec, so that nothing of the calling process (CUDA,
threads, memory) is forked. Verdicts rest on the kernel's exit status and counters and on the bytes that the program
wrote, never on what it claims. This module turns no verdict into a reward; that is `spo.reward`.

    with Judge(limits=Limits(cpu_time_s=2.0)) as judge:
        judgement = judge.judge("print(int(input()) * 2)", [TestCase(input="21\n", output="42\n")])
        assert judgement.verdict is Verdict.ACCEPTED
"""

import contextlib
import queue
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import trio

from spo import _native
from spo.call_values import encode

__all__ = ["Judge", "Judgement", "Limits", "Submission", "TestCase", "TestResult", "Verdict"]

_TestRow = tuple[str, int | None, int | None, float, float, int, int, bytes, bytes]
_JudgementRow = tuple[str, int, str | None, list[str], str, str, list[_TestRow]]


class Verdict(StrEnum):
    """What the judge says. Of several that hold, the gravest is given; they are listed gravest first."""

    COMPILE_ERROR = "compile_error"
    JUDGE_ERROR = "judge_error"
    """The judge itself failed, after retries; it says nothing about the program."""
    SECURITY_VIOLATION = "security_violation"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    TIME_LIMIT = "time_limit"
    RUNTIME_ERROR = "runtime_error"
    WRONG_ANSWER = "wrong_answer"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run, that is one test, may use."""

    cpu_time_s: float = 2.0
    """CPU seconds of all threads together."""
    wall_time_s: float | None = None
    """Seconds on the clock, those not counted that the program waited for a core; None is three times the CPU time."""
    memory_bytes: int = 512 << 20
    """Peak resident memory, the interpreter's 15 MB included."""
    output_bytes: int = 16 << 20
    """Bytes on stdout, and separately on stderr."""


@dataclass(frozen=True, slots=True)
class TestCase:
    """One test: what the program finds on stdin, and the output that is right for it (text is UTF-8).

    In call mode (`Submission.fn_name`): the arguments, and the value that is right for them, of what JSON can hold.
    """

    __test__ = False  # For pytest, which would collect it by its name.

    input: str | bytes = ""
    output: Any = ""
    args: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A program with its tests."""

    source: str | bytes
    tests: Sequence[TestCase]
    language: str = "python"
    """`python`, or `cpp` (C++17; it needs a g++ or clang++ on this host)."""
    checker: str = "tokens"
    """`tokens`, `lines`, `exact`, `unordered`, `floats [TOLERANCE]`, `kattis [FLAGS]`, `code_contests [exact_int]`.

    In call mode values are compared as Python does; `floats TOLERANCE` lets numbers differ.
    """
    fn_name: str | None = None
    """Call mode: the function, of the module or of its class `Solution`, that each test calls."""
    stop_on_first_failure: bool = True
    """End at the first test that is not accepted, and that test at its first wrong token."""
    limits: Limits | None = None
    """None stands for the judge's own."""
    mode: str | None = None
    """Python: `warm`, each test in a fork of a warm interpreter (the default), or `exec`, each in one of its own."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """What happened on one test: its verdict and the facts behind it."""

    __test__ = False

    verdict: Verdict
    exit_code: int | None
    """None when a signal ended it."""
    signal: int | None
    cpu_time_s: float
    wall_time_s: float
    memory_bytes: int
    """Peak resident bytes."""
    stdout_bytes: int
    stdout_head: str
    stderr_tail: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge says of a submission."""

    verdict: Verdict
    num_passed: int
    isolation_tier: str | None
    """`root`, `user_namespace`, `landlock` or, only where it was asked for, `seccomp`; None if no sandbox was made."""
    message: str
    """The compiler's message or the judge's own failure; else empty."""
    tests: tuple[TestResult, ...] = field(default=())
    """In the submission's order, and only those that were run."""
    isolation_layers: tuple[str, ...] = field(default=())
    """The parts of the tier that were in force: `namespaces`, `read_only_root`, `own_uid`, `landlock`,
    `system_call_filter`, `resource_limits`. Where the tier was not forced, a host may lack some of them."""
    memory_accounting: str = ""
    """What counted and limited memory: `cgroup_v1` or `cgroup_v2`, or `resource_limits (why there was no cgroup)`."""


class Judge:
    """A pool of sandboxed workers; use it as a context manager. Its methods may be called from any thread.

    Args:
        num_workers: Programs judged at the same time; None is one a core.
        limits: For submissions that bring none.
        isolation: Exactly this tier, or `JudgeError`; None is the strongest that this host gives.
        allow_weak_isolation: Accept the tier `seccomp` (files of this user can be read) where there is no better.
        interpreter: The CPython (3.11 or later) that programs run in; None is the caller's.

    Raises:
        JudgeError: No sandbox could be made here; the text gives the reasons, tier by tier.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        limits: Limits | None = None,
        *,
        isolation: str | None = None,
        allow_weak_isolation: bool = False,
        interpreter: str | None = None,
    ) -> None:
        self.limits = limits if limits is not None else Limits()
        self._native = _native.Judge(
            num_workers=num_workers,
            interpreter=interpreter or sys.executable,
            isolation=isolation,
            allow_weak_isolation=allow_weak_isolation,
        )

    @property
    def isolation_tier(self) -> str:
        """The isolation in force; see `Judgement.isolation_tier`."""
        return self._native.isolation_tier

    def judge(
        self,
        source: str | bytes,
        tests: Sequence[TestCase],
        *,
        language: str = "python",
        checker: str = "tokens",
        fn_name: str | None = None,
        stop_on_first_failure: bool = True,
        limits: Limits | None = None,
        mode: str | None = None,
    ) -> Judgement:
        """Judges one program and waits for it; Ctrl-C cancels.

        Raises:
            ValueError: There are no tests, they do not fit the mode, or a setting is unknown or out of range.
        """
        submission = Submission(source, tests, language, checker, fn_name, stop_on_first_failure, limits, mode)
        return self.judge_many([submission])[0]

    def judge_many(self, submissions: Iterable[Submission]) -> list[Judgement]:
        """Judges in parallel and returns the judgements in the submissions' order."""
        tickets: list[_native.JudgeTicket] = []
        try:
            tickets.extend(self._submit(submission) for submission in submissions)
            return [_judgement(ticket.wait()) for ticket in tickets]
        finally:
            _cancel(tickets)

    def judge_as_completed(self, submissions: Iterable[Submission]) -> Iterator[tuple[int, Judgement]]:
        """Judges in parallel and yields (index, judgement) as they finish; leaving the loop cancels the rest."""
        finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        tickets: list[_native.JudgeTicket] = []
        try:
            for index, submission in enumerate(submissions):
                tickets.append(self._submit(submission, lambda index=index: finished.put(index)))  # type: ignore[misc]
            for _ in range(len(tickets)):
                index = finished.get()
                yield index, _judgement(tickets[index].wait())
        finally:
            _cancel(tickets)

    async def judge_async(
        self,
        source: str | bytes,
        tests: Sequence[TestCase],
        *,
        language: str = "python",
        checker: str = "tokens",
        fn_name: str | None = None,
        stop_on_first_failure: bool = True,
        limits: Limits | None = None,
        mode: str | None = None,
    ) -> Judgement:
        """Judges one program from a trio task; cancelling the task kills the program and frees its worker at once."""
        submission = Submission(source, tests, language, checker, fn_name, stop_on_first_failure, limits, mode)
        await trio.lowlevel.checkpoint_if_cancelled()
        token, task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
        asleep = True

        def wake() -> None:
            if asleep:
                trio.lowlevel.reschedule(task)

        def on_done() -> None:  # On a thread of the judge.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(wake)

        def abort(_: Callable[[], object]) -> trio.lowlevel.Abort:
            nonlocal asleep
            asleep = False
            ticket.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        ticket = self._submit(submission, on_done)
        await trio.lowlevel.wait_task_rescheduled(abort)
        return _judgement(ticket.wait())

    def close(self) -> None:
        """Cancels what is being judged and returns when no process of the judge is left."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, submission: Submission, on_done: Callable[[], object] | None = None) -> _native.JudgeTicket:
        limits = submission.limits if submission.limits is not None else self.limits
        return self._native.submit(
            _to_bytes(submission.source),
            [_test_bytes(index, test, submission.fn_name) for index, test in enumerate(submission.tests)],
            runtime=submission.language if submission.mode is None else f"{submission.language} {submission.mode}",
            function=submission.fn_name,
            checker=submission.checker if submission.fn_name is None else _call_checker(submission.checker),
            cpu_time_s=limits.cpu_time_s,
            wall_time_s=limits.wall_time_s,
            memory_bytes=limits.memory_bytes,
            output_bytes=limits.output_bytes,
            stop_on_first_failure=submission.stop_on_first_failure,
            on_done=on_done,
        )


def _to_bytes(text: str | bytes) -> bytes:
    # What models write may hold lone surrogates, which have no UTF-8; the compiler then rejects the source.
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _test_bytes(index: int, test: TestCase, fn_name: str | None) -> tuple[bytes, bytes]:
    """Input and expected output as the core takes them."""
    if fn_name is not None:
        if test.args is None:
            raise ValueError(f"tests[{index}] has no args, which calling {fn_name}() needs")
        try:
            return encode(list(test.args), allow_nan=True).encode(), encode(test.output).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"tests[{index}]: args and output must be what JSON can hold, or have integers as keys: {error}"
            ) from error
    if test.args is not None:
        raise ValueError(f"tests[{index}] has args, but there is no fn_name to call with them")
    if not isinstance(test.output, str | bytes):
        raise ValueError(f"tests[{index}].output is {type(test.output).__name__}: give str or bytes")
    return _to_bytes(test.input), _to_bytes(test.output)


def _call_checker(checker: str) -> str:
    name, _, options = checker.partition(" ")
    if name not in ("tokens", "floats"):
        raise ValueError(f"checker is {checker!r}: with fn_name, give tokens (equal values) or floats TOLERANCE")
    return "call" if name == "tokens" else f"call {options or 1e-6}"


def _cancel(tickets: Iterable[_native.JudgeTicket]) -> None:
    for ticket in tickets:
        ticket.cancel()


def _judgement(row: _JudgementRow) -> Judgement:
    verdict, num_passed, tier, layers, memory_accounting, message, tests = row
    results = tuple(_test_result(test) for test in tests)
    return Judgement(Verdict(verdict), num_passed, tier, message, results, tuple(layers), memory_accounting)


def _test_result(row: _TestRow) -> TestResult:
    verdict, exit_code, signal, cpu_time_s, wall_time_s, memory_bytes, stdout_bytes, head, tail = row
    return TestResult(
        verdict=Verdict(verdict),
        exit_code=exit_code,
        signal=signal,
        cpu_time_s=cpu_time_s,
        wall_time_s=wall_time_s,
        memory_bytes=memory_bytes,
        stdout_bytes=stdout_bytes,
        stdout_head=head.decode("utf-8", "backslashreplace"),
        stderr_tail=tail.decode("utf-8", "backslashreplace"),
    )
