"""One judged program: compiled once in its template, then run as `__main__` in a child of its own for each test.

Follows `python3 solution.py`: modules, streams, exit codes, threads, atexit, tracebacks. In call mode, the program is
a module whose function is called, and the value takes the place of the output. It knows nothing of expected outputs,
and nothing that it reports decides a verdict in the program's favour.
"""

import atexit
import builtins
import contextlib
import io
import json
import linecache
import os
import random
import signal
import site
import sys
import threading
import traceback
import types

FILE_NAME = "/solution.py"

_FLUSH_FAILED = 120  # CPython's own exit code for it.
# What answers to function-call problems take for granted, as their graders provide it.
_PRELUDE = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import ceil, comb, factorial, floor, gcd, inf, isqrt, lcm, log2, sqrt
from typing import *
"""
_streams: list[io.TextIOWrapper] = []
_exit = os._exit  # The program may replace what the module `os` holds.


def prepare_interpreter() -> None:
    """What `python3 solution.py` has and `python3 -I -S` lacks; done once, in the zygote."""
    site.setquit()
    site.setcopyright()
    site.sethelper()
    sys.argv = ["solution.py"]
    sys.path.insert(0, "/")
    sys.orig_argv = ["python3", "solution.py"]
    _make_streams()
    # Replaced in every child, where freeing them would cost more than keeping them.
    _streams.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stderr = None


def _make_streams() -> None:
    """The program's streams, for what will be its descriptors 0, 1 and 2: a file, and two pipes."""
    kept = [os.dup(descriptor) for descriptor in range(3)]
    places = [os.memfd_create("stdin"), *os.pipe()[::-1]]
    os.dup2(places[0], 0)
    os.dup2(places[1], 1)
    os.dup2(places[1], 2)
    _streams.extend((_stream(0, "<stdin>", "r"), _stream(1, "<stdout>", "w"), _stream(2, "<stderr>", "w")))
    for place, descriptor in enumerate(kept):
        os.dup2(descriptor, place)
    for descriptor in kept + places:
        os.close(descriptor)


class Program:
    """The compiled program, and the module that it runs as."""

    def __init__(self, source: bytes, function: str) -> None:
        """Compiles; raises whatever the compiler raises. Call mode if there is a function's name."""
        self._source = source
        self._function = function
        self.code = compile(source, FILE_NAME, "exec", dont_inherit=True)  # What it warns of goes nowhere.
        self._module = types.ModuleType("solution" if function else "__main__")
        self.namespace = self._module.__dict__
        self.namespace.update(__file__=FILE_NAME, __builtins__=builtins, __cached__=None)
        if "__annotations__" in sys.modules["__main__"].__dict__:  # Until CPython 3.14.
            self.namespace["__annotations__"] = {}
        linecache.cache[FILE_NAME] = (self._text,)  # Asked only when a line is to be shown.
        if function:
            exec(_PRELUDE, self.namespace)
        self._runs_finalizers = b"__del__" in source
        self._runs_random = b"random" in source

    def enter(self) -> None:
        """Makes this process's interpreter that of the program; descriptors 0, 1 and 2 are the program's."""
        sys.modules[self._module.__name__] = self._module
        if self._function:
            self._result = os.dup(1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = _streams[:3]
        if self._runs_random:
            random.seed()

    def call(self) -> None:
        """In call mode, calls the function (of the module or of its class `Solution`) and writes the value as JSON."""
        if not self._function:
            return
        arguments = _from_json(sys.stdin.read())
        function = self.namespace.get(self._function)
        if function is None:
            function = getattr(self.namespace["Solution"](), self._function)
        text = _to_json(_checked(function(*arguments))).encode()
        while text:
            text = text[os.write(self._result, text) :]

    def failed(self, error: BaseException) -> int:
        """The exit code for an exception that left the program, reported on stderr as CPython does."""
        if isinstance(error, SystemExit):
            return _exit_code(error.code)
        error = error.with_traceback(_without_first_frame(error.__traceback__))
        with contextlib.suppress(BaseException):
            _report(error)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1

    def _text(self) -> str:
        return self._source.decode("utf-8", "replace")

    def finish(self, code: int) -> None:
        """Ends the process as the interpreter would: threads joined, exit handlers run, streams flushed."""
        for step in (threading._shutdown, atexit._run_exitfuncs):
            try:
                step()
            except BaseException as error:
                self.failed(error)
        if self._runs_finalizers:
            self.namespace.clear()
        if not _flush(sys.stdout) or not _flush(sys.stderr):
            code = _FLUSH_FAILED
        _exit(code)


_from_json, _to_json = json.loads, json.JSONEncoder(check_circular=False).encode


def _checked(value: object) -> object:
    """The value itself, if it consists of plain values of the exact types that JSON has; else it equals none."""
    kind = type(value)
    if kind is list or kind is tuple:
        return [_checked(item) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _checked(item) for key, item in value.items()}
    if value is None or kind in (bool, int, float, str):
        return value
    raise TypeError(f"the function returned a {kind.__name__}, which no expected value is")


def _stream(descriptor: int, name: str, mode: str) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, mode, closefd=False)
    raw.name = name
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    errors = "backslashreplace" if descriptor == 2 else "surrogateescape"
    stream = io.TextIOWrapper(buffer, "utf-8", errors, newline="\n", line_buffering=descriptor == 2)
    stream.mode = mode
    return stream


def _report(error: BaseException) -> None:
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(error)
        return
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except Exception as second:
        print("Error in sys.excepthook:", file=sys.stderr)
        second.__context__ = None
        traceback.print_exception(second.with_traceback(_without_first_frame(second.__traceback__)))
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(error)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(2**31) <= code < 2**31 else 0xFF
    with contextlib.suppress(BaseException):
        print(code, file=sys.stderr)
    return 1


def _without_first_frame(trace: types.TracebackType | None) -> types.TracebackType | None:
    return trace.tb_next if trace is not None else None


def _flush(stream: io.TextIOWrapper | None) -> bool:
    try:
        if stream is not None and not stream.closed:
            stream.flush()
    except BaseException:
        return False
    return True
