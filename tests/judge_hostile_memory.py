"""Programs that use too much memory or time. Each is (source, verdicts that fit)."""

from judge_hostile_calls import ACCEPTED, MEMORY, REFUSED, RIGHT, RUNTIME, TIME, WRONG

MEMORY_USES = {
    "all addresses": ("import mmap\nmmap.mmap(-1, 1 << 46)", {RUNTIME, MEMORY}),
    "memory that is not reserved": (
        "import mmap\nx = [mmap.mmap(-1, 1 << 32, flags=mmap.MAP_PRIVATE | 0x4000) for _ in range(99)]",
        {RUNTIME, MEMORY},
    ),
    "memory that is not used": ("x = bytearray(90 << 20)" + RIGHT, {ACCEPTED}),
    "memory that is not used without end": ("x = []\nwhile True: x.append(bytearray(1 << 26))", {MEMORY}),
    "shared memory of its own": (
        "import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(4)]\nfor y in x: y.write(b'x' * len(y))",
        {MEMORY},
    ),
    "memory made ready by the kernel": (
        "import mmap\nx = [mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | 0x8000) for _ in range(9)]\nprint(1)",
        {MEMORY},
    ),
    "memory by advice": (
        "import mmap\nx = [mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE) for _ in range(4)]\n"
        "for y in x: y.madvise(14); y.madvise(23)",
        {MEMORY, WRONG, RUNTIME},
    ),
    "locked memory": (
        REFUSED + "refused('mlockall', 3)\nrefused('mlock', 0, 4096)\nrefused('mlock2', 0, 4096, 0)" + RIGHT,
        {ACCEPTED},
    ),
    "huge stacks of threads": (
        "import threading, time\nthreading.stack_size(1 << 30)\n"
        "for _ in range(99): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        {RUNTIME, MEMORY},
    ),
    "a huge power": ("x = 7 ** (10 ** 9)", {TIME, MEMORY}),
    "a huge number as text": ("import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(1 << (1 << 25))))", {TIME}),
    "a huge width": ("x = '%1000000000d' % 1", {MEMORY}),
    "a huge set": ("x = set(range(10 ** 9))", {MEMORY, TIME}),
    "an endless zip": ("import itertools\nx = list(zip(itertools.count(), itertools.count()))", {MEMORY, TIME}),
    "an endless sum": ("import itertools\nsum(itertools.repeat(1))", {TIME}),
    "a bomb that unpacks": (
        "import zlib\nx = zlib.compress(bytes(1 << 24), 9)\nfor _ in range(9): y = zlib.decompress(x) * 99",
        {MEMORY, TIME},
    ),
    "backtracking": ("import re\nre.match('(a*)*b', 'a' * 60)", {TIME}),
    "recursion in repr": ("class A:\n  def __repr__(self): return repr(self)\nrepr(A())", {RUNTIME}),
    "a list in itself": ("x = []\nfor _ in range(99999): x = [x]\ny = x == x[0]", {RUNTIME}),
    "randomness without end": ("import os\nwhile True: os.urandom(1 << 20)", {TIME}),
    "threads that work in C": (
        "import hashlib, threading\ndef work():\n  while True: hashlib.sha256(bytes(1 << 20))\n"
        "for _ in range(8): threading.Thread(target=work).start()",
        {TIME},
    ),
    "sleeping in C": ("import ctypes\nctypes.CDLL(None).sleep(99)", {TIME}),
    "a thread that never ends": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
        {TIME},
    ),
    "a finalizer that never ends": ("class A:\n  def __del__(self):\n    while True: pass\na = A()" + RIGHT, {TIME}),
}
