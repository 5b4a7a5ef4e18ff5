"""Programs against the helper that runs them, and its compiler. Each is (source, verdicts that fit)."""

from judge_hostile_calls import ACCEPTED, COMPILE, MEMORY, OUTPUT, RUNTIME, TIME, WRONG

WALK_UP = """
import gc, os, sys
frame = sys._getframe()
while frame.f_back: frame = frame.f_back
outer = frame.f_globals
"""
HELPER = {
    "wiping the helper's names": (WALK_UP + "outer.clear()", {WRONG, RUNTIME}),
    "a false end": (
        WALK_UP + "for thing in list(outer.values()):\n  for name in ('finish', 'call', 'enter', 'failed'):\n"
        "    try: setattr(thing, name, lambda *_: os._exit(0))\n    except Exception: pass",
        {WRONG, RUNTIME},
    ),
    "every object with an end": (
        "import gc\nfor thing in gc.get_objects():\n  for name in ('send', 'sendall', 'finish', 'write'):\n"
        "    try: getattr(thing, name)(b'D' + bytes(40))\n    except BaseException: pass",
        {WRONG, RUNTIME, OUTPUT, TIME},
    ),
    "other built-in functions": (
        "import builtins\nfor name in list(vars(builtins)):\n"
        "  if name[0] != '_': setattr(builtins, name, lambda *a, **k: 0)",
        {WRONG, RUNTIME},
    ),
    "no modules": ("import sys\nsys.modules.clear()", {WRONG, RUNTIME}),
    "other exits": (
        "import atexit, gc, os, threading\n"
        "atexit._run_exitfuncs = threading._shutdown = gc.collect = lambda *_: os._exit(0)\n"
        "os._exit = print",
        {WRONG, RUNTIME},
    ),
    "following every call": (
        "import os, sys, threading\nsys.settrace(lambda *_: os._exit(0))\nthreading.settrace(lambda *_: os._exit(0))\n"
        "sys.setprofile(lambda *_: os._exit(0))\nprint('xyzzy')",
        {WRONG},
    ),
    "streams that agree": (
        "import sys\nclass Liar:\n  def __eq__(self, _): return True\n"
        "  def __getattr__(self, _): return lambda *a: self\n"
        "sys.stdout = sys.stderr = sys.__stdout__ = sys.exit = Liar()",
        {WRONG, RUNTIME},
    ),
    "a name that it looks for": (
        "import os\nfor top in ('/', '/box', '/lib', os.path.dirname(os.__file__)):\n"
        "  for path, _, names in os.walk(top):\n"
        "    if len(path) > 60: break\n    for name in names:\n"
        "      if name.endswith(('.ans', '.out', '.in')): print(open(os.path.join(path, name)).read())",
        {WRONG, TIME},
    ),
    "an early dump": (
        "import faulthandler, time\nfaulthandler.dump_traceback_later(0.05, exit=True)\ntime.sleep(99)",
        {RUNTIME},
    ),
    "an end in a thread": (
        "import os, threading, time\nprint('xyzzy-4711', flush=True)\n"
        "threading.Thread(target=lambda: os._exit(0)).start()\ntime.sleep(99)",
        {ACCEPTED},
    ),
}
COMPILERS = {
    "an unknown coding": ("# coding: klingon\n", {COMPILE}),
    "a coding that is none of text": ("# coding: zlib\nprint(1)", {COMPILE}),
    "a nest of lambdas": ("x = " + "lambda: " * 50_000 + "1", {COMPILE}),
    "a nest of blocks": ("".join(" " * i + "if 1:\n" for i in range(150)) + " " * 150 + "pass", {COMPILE}),
    "a nest of comprehensions": ("x = " + "[" * 150 + "1" + " for _ in [1]]" * 150, {COMPILE, WRONG, MEMORY}),
    "constants that grow": ("x = " + "(" * 40 + "1" + ",) * 9" * 40, {COMPILE, WRONG, MEMORY, TIME}),
    "a long text": ("x = '" + "a" * 5_000_000 + "'", {WRONG, COMPILE}),
    "many names": ("".join(f"x{i} = {i}\n" for i in range(40_000)), {WRONG, TIME}),
    "a nest of formats": ("x = " + "f'{" * 60 + "1" + "}'" * 60, {COMPILE, WRONG}),
    "patterns": ("match 1:\n case " + "(" * 5000 + "1" + ")" * 5000 + ": pass", {COMPILE}),
}
