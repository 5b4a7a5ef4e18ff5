"""One judged program: compiled once in its template, then run as `__main__` in a child of its own for each test.

Follows `python3 solution.py`: modules, streams, exit codes, threads, atexit, tracebacks. In call mode, the program is
a module whose function is called, and the value takes the place of the output. It knows nothing of expected outputs,
and nothing that it reports decides a verdict in the program's favour.
"""

import _thread
import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib.machinery
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
import warnings

FILE_NAME = "/solution.py"

_FLUSH_FAILED = 120  # CPython's own exit code for it.
_MOST_FRAMES = 1000  # Of a traceback, as CPython prints it.
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
_outputs: list[io.IOBase] = []
_compiler_warnings: list[tuple[object, ...]] = []
# Words of finalizers, suspended generators, files that were not closed.
_SEEN_AT_THE_END = b"__del__", b"yield", b"async", b"Wrapper", b"Buffered"
_MISSING = object()
# Nothing is to be done for them at the end, if there are none.
_at_exit, _num_threads, _at_end_of_threads = atexit._ncallbacks, _thread._count, threading._threading_atexits
# The program may replace what the modules hold.
_flush_streams_of_c = ctypes.PyDLL(None).fflush
_exit, _collect, _excepthook, _show_warning = os._exit, gc.collect, sys.excepthook, warnings.showwarning
_HAS_ANNOTATIONS = "__annotations__" in sys.modules["__main__"].__dict__  # Until CPython 3.14.
# Python's functions become faster when they have been called so often; after a fork that is forgotten.
_REHEARSALS = 20
# What a module has from the start.
_MODULES = {
    name: {
        "__file__": FILE_NAME,
        "__builtins__": builtins,
        "__cached__": None,
        "__loader__": importlib.machinery.SourceFileLoader(name, FILE_NAME),
    }
    for name in ("__main__", "solution")
}


def prepare_interpreter() -> None:
    """What `python3 solution.py` has and `python3 -I -S` lacks; done once, in the zygote."""
    site.setquit()
    site.setcopyright()
    site.sethelper()
    sys.argv = ["solution.py"]
    sys.path.insert(0, "/")
    sys.orig_argv = ["python3", "solution.py"]
    _make_streams()
    _streams.extend((sys.stdin, sys.stdout, sys.stderr))  # Freeing them would close their descriptors.
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = _streams[:3]
    warnings.showwarning = _keep_warning
    for _ in range(_REHEARSALS):
        Program(b"pass", "")
        for stream in _outputs:
            _flush(stream)


def _keep_warning(*warning: object) -> None:
    """Takes the place of `warnings.showwarning` until the program runs, which may have its own way to show them."""
    _compiler_warnings.append(warning)


def _make_streams() -> None:
    """The program's streams, for what will be its descriptors 0, 1 and 2: a file, and two pipes."""
    kept = [os.dup(descriptor) for descriptor in range(3)]
    places = [os.memfd_create("stdin"), *os.pipe()[::-1]]
    os.dup2(places[0], 0)
    os.dup2(places[1], 1)
    os.dup2(places[1], 2)
    _streams.extend((_stream(0, "<stdin>", "r"), _stream(1, "<stdout>", "w"), _stream(2, "<stderr>", "w")))
    _outputs.extend((_streams[1], _streams[1].buffer))
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
        self.code = compile(source, FILE_NAME, "exec", dont_inherit=True)
        self._name = "solution" if function else "__main__"
        self._names = _MODULES[self._name]
        linecache.cache[FILE_NAME] = (self._text,)  # Asked only when a line is to be shown.
        if function:
            exec(_PRELUDE, self._names)
        self._frees_objects = _shows_at_the_end(source)
        self.error: BaseException | None = None
        self._runs_random = b"random" in source
        self._calls_c = b"ctypes" in source

    def enter(self) -> None:
        """Makes this process's interpreter that of the program; descriptors 0, 1 and 2 are the program's."""
        # Made here and not in the template, so that collecting this process's garbage at the end reaches it.
        module = sys.modules[self._name] = types.ModuleType(self._name)
        self.namespace = module.__dict__
        self.namespace.update(self._names)
        if _HAS_ANNOTATIONS:
            self.namespace["__annotations__"] = {}
        if self._function:
            self._result = os.dup(1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.showwarning = _show_warning
        for warning in _compiler_warnings:
            _show_warning(*warning)
        if self._runs_random:
            random.seed()

    def call(self) -> None:
        """In call mode, calls the function (of the module or of its class `Solution`) and writes the value as JSON."""
        if not self._function:
            return
        text = sys.stdin.read()
        arguments = json.loads(text, object_pairs_hook=_with_integers) if "\\u0000" in text else _from_json(text)
        function = self.namespace.get(self._function)
        if function is None:
            function = getattr(self.namespace["Solution"](), self._function)
        text = _to_json(_checked(function(*arguments))).encode()
        while text:
            text = text[os.write(self._result, text) :]

    def _text(self) -> str:
        return self._source.decode("utf-8", "replace")

    def finish(self) -> None:
        """Ends the process as the interpreter would: streams flushed, threads joined, exit handlers run, objects freed.

        The attribute `error` is the exception that left the program, if any.
        """
        _flush(_standard("stdout"))
        error, self.error = self.error, None
        code = _exit_code_of(error) if error is not None else 0
        del error
        if self._frees_objects or _at_exit() or _num_threads() or _at_end_of_threads:
            for step in (threading._shutdown, atexit._run_exitfuncs):
                try:
                    step()
                except BaseException as late:
                    _exit_code_of(late)
        out, err = _standard("stdout"), _standard("stderr")
        is_written = _flush(out, tell=True) and _flush(err)
        if not is_written:
            code = _FLUSH_FAILED
        is_written = is_written and out is _outputs[0] and not self._frees_objects
        del out, err
        if self._frees_objects:
            self._free_objects()
        # The program may have put something else in their place.
        if not is_written:
            for stream in _outputs:
                _flush(stream)
        if self._calls_c:
            _flush_streams_of_c(None)
        _exit(code)

    def _free_objects(self) -> None:
        _collect()  # Gives the objects the order in which they are then freed.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.modules.pop(self._name, None)
        del self.namespace
        _collect()


def _shows_at_the_end(source: bytes) -> bool:
    """Whether the program may have what only shows when objects are freed at the end."""
    for word in _SEEN_AT_THE_END:
        if word in source:
            return True
    return source.count(b"open") > source.count(b"open(0")


_from_json, _to_json = json.loads, json.JSONEncoder(check_circular=False).encode


def _checked(value: object) -> object:
    """The value itself, if it consists of plain values of the exact types that JSON has; else it equals none."""
    kind = type(value)
    if kind is list or kind is tuple:
        return [_checked(item) for item in value]
    if kind is dict:
        return {_key(key): _checked(item) for key, item in value.items()}
    if value is None or kind in (bool, int, float, str):
        return value
    raise TypeError(f"the function returned a {kind.__name__}, which no expected value is")


def _key(key: object) -> str:
    """A key as the expected values have it: `python/spo/call_values.py` has the rule."""
    kind = type(key)
    if kind is str:
        return "\0" + key if key[:1] == "\0" else key
    if kind is int:
        return f"\0{key}"
    raise TypeError(f"the function returned a dict with a {kind.__name__} as key, which no expected value has")


def _with_integers(pairs: list[tuple[str, object]]) -> dict[str | int, object]:
    """The dictionary that was meant; see `_key`."""
    return {key if key[:1] != "\0" else key[1:] if key[1:2] == "\0" else int(key[1:]): value for key, value in pairs}


def _stream(descriptor: int, name: str, mode: str) -> io.TextIOWrapper:
    buffer = open(descriptor, mode + "b", closefd=False)  # noqa: SIM115 (it lives as long as the process)
    buffer.raw.name = name
    errors = "backslashreplace" if descriptor == 2 else "surrogateescape"
    stream = io.TextIOWrapper(buffer, "utf-8", errors, newline="\n", line_buffering=descriptor == 2)
    stream.mode = mode
    return stream


def _standard(name: str) -> io.TextIOWrapper | None:
    return getattr(sys, name, None)  # The program may have deleted it.


def _exit_code_of(error: BaseException) -> int:
    """The exit code for an exception that left the program, reported on stderr as CPython does."""
    if isinstance(error, SystemExit):
        return _exit_code(error.code)
    error = error.with_traceback(_without_first_frame(error.__traceback__))
    try:
        _report(error)
    except SystemExit as leave:
        return _exit_code(leave.code)
    except BaseException:  # What printing needs is broken; the interpreter's own printing needs less.
        with contextlib.suppress(BaseException):
            _excepthook(type(error), error, error.__traceback__)
    if type(error) is KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 1


def _report(error: BaseException) -> None:
    hook = getattr(sys, "excepthook", _MISSING)
    if hook is _excepthook:
        _print(error)
        return
    if hook is _MISSING:
        print("sys.excepthook is missing", file=sys.stderr)
        _print(error)
        return
    try:
        hook(type(error), error, error.__traceback__)
    except Exception as second:
        print("Error in sys.excepthook:", file=sys.stderr)
        second.__context__ = None
        _print(second.with_traceback(_without_first_frame(second.__traceback__)))
        print("\nOriginal exception was:", file=sys.stderr)
        _print(error)


def _print(error: BaseException) -> None:
    if _standard("stderr") is None:
        return
    # CPython keeps the innermost frames, the module `traceback` the outermost.
    limit = getattr(sys, "tracebacklimit", _MOST_FRAMES)
    traceback.print_exception(error, limit=-limit if isinstance(limit, int) and limit > 0 else None)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(2**63) <= code < 2**63 else 0xFF
    for text in (code, "\n"):
        with contextlib.suppress(BaseException):
            print(text, end="", file=sys.stderr)
    return 1


def _without_first_frame(trace: types.TracebackType | None) -> types.TracebackType | None:
    return trace.tb_next if trace is not None else None


def _flush(stream: io.IOBase | None, tell: bool = False) -> bool:
    try:
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()
    except BaseException as error:
        if tell:
            with contextlib.suppress(BaseException):
                print(f"Exception ignored in: {stream!r}", file=sys.stderr)
                _print(error.with_traceback(_without_first_frame(error.__traceback__)))
        return False
    return True
