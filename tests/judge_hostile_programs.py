"""Programs that mean harm, as data: for the tests of the judge, and for its soak.

Each is (source, verdicts that fit). The right answer to their one test is `xyzzy-4711`; what they leave behind where
they can is called `left-behind`, or has the key 0x4711.
"""

from spo.judge import Limits, TestCase, Verdict

ACCEPTED, WRONG, RUNTIME = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR
TIME, MEMORY, OUTPUT = Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT, Verdict.OUTPUT_LIMIT
COMPILE, SECURITY = Verdict.COMPILE_ERROR, Verdict.SECURITY_VIOLATION

SECRET = "xyzzy-4711"
TEST = TestCase(input="21\n", output=f"{SECRET}\n")
HONEST = "assert input() == '21'\nprint('xyzzy-' + str(4711))"
LIMITS = Limits(cpu_time_s=0.3, wall_time_s=8.0, memory_bytes=128 << 20, output_bytes=1 << 20)
WAITING_LIMITS = Limits(cpu_time_s=0.3, wall_time_s=0.4)
SPINNING_LIMITS = Limits(cpu_time_s=0.1, wall_time_s=8.0)
HUNGRY_LIMITS = Limits(cpu_time_s=5.0, wall_time_s=30.0, memory_bytes=128 << 20, output_bytes=1 << 20)

CALL = "import ctypes, os\ncall = ctypes.CDLL(None, use_errno=True).syscall\n"
TRY_TO_WRITE = """
import os
for folder in ("/", "/tmp", "/dev/shm", "/var/tmp", ".", os.path.expanduser("~"), "/proc/self"):
    for act in (
        lambda path: open(path, "w"), os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/passwd", path),
        lambda path: os.link("/dev/null", path), lambda path: os.open(path, os.O_CREAT | os.O_RDWR),
    ):
        try:
            act(os.path.join(folder, "left-behind"))
            print("made something with", act, "in", folder)
        except OSError:
            pass
print("xyzzy-" + str(4711))
"""
SEARCH_MEMORY = """
import gc, sys
def texts(thing, depth):
    if isinstance(thing, (str, bytes)):
        yield thing if isinstance(thing, str) else thing.decode("latin-1")
    elif depth and isinstance(thing, dict):
        for pair in list(thing.items()):
            for part in pair: yield from texts(part, depth - 1)
    elif depth and isinstance(thing, (list, tuple, set)):
        for part in list(thing): yield from texts(part, depth - 1)
frames, frame = [], sys._getframe()
while frame:
    frames += [frame.f_globals, frame.f_locals]
    frame = frame.f_back
wanted = "xyzzy" + "-47"
for thing in frames + gc.get_objects():
    for text in texts(thing, 3):
        if wanted in text and "wanted" not in text:
            print("xyzzy-" + str(4711))
"""

# name: (program, verdicts that fit)
PROGRAMS = {
    "fork bomb": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", {SECURITY}),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        {RUNTIME, TIME, MEMORY},
    ),
    "thread bomb that goes on": (
        "import threading, time\nwhile True:\n  try: threading.Thread(target=time.sleep, args=(99,)).start()\n"
        "  except RuntimeError: pass",
        {TIME, MEMORY},
    ),
    "memory bomb": ("x = []\nwhile True: x.append(bytearray(1 << 20) * 2)", {MEMORY}),
    "memory bomb that goes on": (
        "x = []\nwhile True:\n  try: x.append(b'x' * (1 << 20))\n  except MemoryError: pass",
        {MEMORY, TIME},
    ),
    "memory map bomb": ("import mmap\nx = [mmap.mmap(-1, 1 << 30) for _ in range(99)]", {RUNTIME, MEMORY}),
    "output bomb": ("while True: print('xyzzy-4711 ' * 1000)", {WRONG, OUTPUT}),
    "stderr bomb": ("import sys\nwhile True: sys.stderr.write('x' * 9999)", {OUTPUT}),
    "descriptor bomb": ("import os\nx = [os.pipe() for _ in range(10**6)]", {RUNTIME}),
    "sleeping for ever": ("import time\nwhile True: time.sleep(1)", {TIME}),
    "waiting for a lock": ("import threading\nx = threading.Lock()\nx.acquire()\nx.acquire()", {TIME}),
    "ignoring signals": (
        "import signal\nfor x in range(1, 65):\n  try: signal.signal(x, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\n"
        "while True: pass",
        {TIME},
    ),
    "stopping itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {TIME}),
    "killing itself": ("import os\nos.kill(os.getpid(), 9)", {RUNTIME}),
    "killing its parent": ("import os\nos.kill(os.getppid(), 9)", {SECURITY}),
    "stopping its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)", {SECURITY}),
    "killing everything": ("import os\nos.kill(-1, 9)", {SECURITY}),
    "killing its group": ("import os\nos.killpg(0, 9)", {SECURITY}),
    "signals by way of a pipe's owner": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\n"
        "fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\nos.write(w, b'x')",
        {RUNTIME},
    ),
    "tracing its parent": (CALL + "call(101, 16, os.getppid(), 0, 0)", {SECURITY}),
    "reading its parent's memory": (CALL + "call(310, os.getppid(), 0, 0, 0, 0, 0)", {SECURITY}),
    "limiting its parent": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        {RUNTIME},
    ),
    "raising its limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))\nwhile True: pass",
        {RUNTIME},
    ),
    "outliving its parent": (CALL + "print(call(157, 1, 0, 0, 0, 0))\nwhile True: pass", {TIME, WRONG}),
    "a socket": ("import socket\nsocket.socket()", {SECURITY}),
    "a connection": ("import socket\nsocket.create_connection(('127.0.0.1', 22))", {SECURITY}),
    "a datagram pair": ("import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)", {SECURITY}),
    "executing": ("import os\nos.execv('/bin/true', ['true'])", {SECURITY, RUNTIME}),
    "a subprocess": ("import subprocess, sys\nsubprocess.run([sys.executable, '-V'])", {SECURITY}),
    "a shell": ("import os\nos.system('true')", {SECURITY}),
    "a new namespace": (CALL + "call(272, 0x10000000)", {SECURITY}),
    "mounting": (CALL + "call(165, b'none', b'/', b'tmpfs', 0, 0)", {SECURITY}),
    "io_uring": (CALL + "call(425, 8, 0)", {SECURITY}),
    "setting the clock": ("import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)", {SECURITY}),
    "an unknown call": (CALL + "assert call(9999) == -1 and ctypes.get_errno() == 38\nprint('xyzzy-4711')", {ACCEPTED}),
    "the other word size": (
        CALL + "print(call(0x40000000 + 39))",
        {SECURITY},
    ),
    "affinity": ("import os\nos.sched_setaffinity(0, {0})", {RUNTIME}),
    "priority": ("import os\nos.nice(-5)", {RUNTIME}),
    "own code in memory": (
        "import mmap\nmmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
        {RUNTIME},
    ),
    "memory made executable": (
        "import ctypes, mmap\nx = mmap.mmap(-1, 4096)\nplace = ctypes.addressof(ctypes.c_char.from_buffer(x))\n"
        "if ctypes.CDLL(None).mprotect(ctypes.c_void_p(place), ctypes.c_size_t(4096), 5) == 0: print('xyzzy-4711')",
        {WRONG},
    ),
    "reading what is not its own": (
        "import os\n"
        "for path in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/proc/self/environ', '/proc/1/cmdline',\n"
        "             '/proc/self/mem', '/proc/self/fd', '/sys', '/proc', '/var', '/opt', '/boot'):\n"
        "  try: print(path, os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(9))\n"
        "  except OSError: pass\n"
        "print('xyzzy-4711')",
        {ACCEPTED},
    ),
    "the environment": (
        "import os\nassert set(os.environ) <= {'LC_CTYPE'}, os.environ\nprint('xyzzy-4711')",
        {ACCEPTED},
    ),
    "leaving files": (TRY_TO_WRITE, {ACCEPTED}),
    "shared memory": (
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory('x', create=True, size=9)",
        {RUNTIME},
    ),
    "writing its input": (
        "import os\nfor act in (lambda: os.write(0, b'x'), lambda: os.truncate(0, 0), lambda: os.ftruncate(0, 999)):\n"
        "  try: act(); print('wrote')\n  except OSError: pass\nassert input() == '21'\nprint('xyzzy-4711')",
        {ACCEPTED},
    ),
    "leaving early": ("import os\nprint('xyzzy-4711')\nos._exit(0)", {WRONG}),
    "leaving with success": ("import sys\nsys.exit(0)", {WRONG}),
    "closing its output": ("import os\nos.close(1)", {WRONG, RUNTIME}),
    "right, then hanging": ("print('xyzzy-4711', flush=True)\nwhile True: pass", {TIME}),
    "right, then hanging at exit": (
        "import atexit, time\natexit.register(time.sleep, 99)\nprint('xyzzy-4711', flush=True)",
        {TIME},
    ),
    "right, then crashing": ("import os\nprint('xyzzy-4711', flush=True)\nos.abort()", {RUNTIME}),
    "right on stderr": ("import sys\nprint('xyzzy-4711', file=sys.stderr)", {WRONG}),
    "faking messages of the judge": (
        "import os, struct\nfake = b'D' + struct.pack('=BiddQ', 0, 0, 0.0, 0.0, 1)\nfor place in range(3, 300):\n"
        "  try: os.write(place, fake); print('wrote', place)\n  except OSError: pass\nprint('xyzzy-4711')",
        {ACCEPTED},
    ),
    "searching for the answer": (SEARCH_MEMORY, {WRONG}),
    "replacing the helper's functions": (
        "import os, sys\nos._exit = lambda code: None\nsys.excepthook = None\nprint(1 / 0)",
        {RUNTIME},
    ),
    "endless recursion": ("def f(): f()\nf()", {RUNTIME}),
    "deep recursion in C": (
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        {RUNTIME, MEMORY, TIME},
    ),
    "a crash of the interpreter": ("import ctypes\nctypes.string_at(0)", {RUNTIME}),
    "NUL bytes": ("print(1)\0", {COMPILE}),
    "a lone surrogate": ("print('\ud800')", {COMPILE}),
    "a nest for the parser": ("(" * 100_000, {COMPILE}),
    "a deep tree for the compiler": ("x = " + "-" * 90_000 + "1", {COMPILE}),
    "a chain for the compiler": ("x = 1" + " + 1" * 30_000, {COMPILE, WRONG}),
    "a huge source": ("x = 1\n" * 20_000, {WRONG}),
    "a huge constant": ("x = 1 << (1 << 62)", {COMPILE, RUNTIME, MEMORY}),
}

REFUSED = (
    CALL
    + """
def refused(number, *arguments):
    result = call(number, *arguments)
    assert result == -1, (number, result)
"""
)
RIGHT = "\nprint('xyzzy-4711')\n"

PROCESSES = {
    "fork in C": ("import ctypes\nctypes.CDLL(None).fork()", {SECURITY}),
    "vfork": (CALL + "call(58)", {SECURITY}),
    "clone": (CALL + "call(56, 17, 0, 0, 0, 0)", {SECURITY}),
    "clone that shares memory": (CALL + "call(56, 0x4111, 0, 0, 0, 0)", {SECURITY}),
    "clone of a thread in a namespace": (REFUSED + "refused(56, 0x10010000, 0, 0, 0, 0)" + RIGHT, {ACCEPTED}),
    "clone3": (REFUSED + "refused(435, ctypes.create_string_buffer(88), 88)" + RIGHT, {ACCEPTED}),
    "becoming a daemon": (
        "import os\ntry: os.setsid()\nexcept OSError: pass\nif os.fork() == 0:\n  if os.fork() == 0: os.setsid()",
        {SECURITY},
    ),
    "multiprocessing": ("import multiprocessing\nmultiprocessing.Process(target=print).start()", {SECURITY}),
    "posix_spawn": ("import os\nos.posix_spawn('/bin/true', ['true'], {})", {SECURITY}),
    "a terminal of its own": ("import pty\npty.fork()", {SECURITY, RUNTIME}),
    "asyncio's subprocess": (
        "import asyncio\nasyncio.run(asyncio.create_subprocess_exec('/bin/true'))",
        {SECURITY, RUNTIME},
    ),
    "a browser": ("import antigravity", {SECURITY, RUNTIME, WRONG}),
    "forking at exit": ("import atexit, os\natexit.register(os.fork)\nprint('xyzzy-4711', flush=True)", {SECURITY}),
    "forking in a thread": ("import os, threading\nthreading.Thread(target=os.fork).start()", {SECURITY}),
    "forking in a finalizer": ("import os\nclass A:\n  def __del__(self): os.fork()\na = A()", {SECURITY}),
    "a group of its own": ("import os\nos.setpgid(0, 0)", {RUNTIME}),
    "waiting for children": ("import os\nos.wait()", {RUNTIME}),
    "executing by descriptor": (CALL + "call(322, 0, b'', 0, 0, 0x1000)", {SECURITY}),
    "executing from memory": ("import os\nos.memfd_create('x')", {RUNTIME}),
    "a namespace that it enters": (CALL + "call(308, 0, 0)", {SECURITY}),
}
SIGNALS = {
    "stopping itself by way of a thread": (
        "import os, threading\nfrom ctypes import CDLL\nCDLL(None).tgkill(os.getpid(), threading.get_native_id(), 19)",
        {TIME},
    ),
    "killing its parent's thread": (CALL + "call(234, os.getppid(), os.getppid(), 9)", {SECURITY}),
    "killing any thread": (REFUSED + "refused(200, os.getppid(), 9)" + RIGHT, {ACCEPTED}),
    "queueing signals": (
        REFUSED + "refused(129, os.getppid(), 9, b'x' * 128)\nrefused(297, os.getppid(), 1, 9, b'x' * 128)" + RIGHT,
        {ACCEPTED},
    ),
    "signals by way of a process's descriptor": (CALL + "call(424, 0, 9, 0, 0)", {SECURITY}),
    "a storm of alarms": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\n"
        "while True: pass",
        {TIME},
    ),
    "an alarm that starts over": (
        "import signal, time\ndef again(*_): signal.alarm(1); time.sleep(99)\nsignal.signal(signal.SIGALRM, again)\n"
        "again()",
        {TIME},
    ),
    "timers without end": (
        CALL + "place, n = ctypes.c_int(), 0\nwhile call(222, 1, 0, ctypes.byref(place)) == 0 and n < 50_000: n += 1\n"
        "assert n < 5_000, n" + RIGHT,
        {ACCEPTED},
    ),
    "a filter against its own end": (
        CALL + "import struct\nplace = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x50000))\n"
        "program = struct.pack('=HxxxxxxQ', 1, ctypes.addressof(place))\n"
        "assert call(157, 22, 2, program, 0, 0) == 0\nos._exit(0)",
        {TIME, RUNTIME},
    ),
    "no filter": (REFUSED + "refused(157, 22, 0, 0, 0, 0)\nrefused(317, 0, 0, 0)" + RIGHT, {ACCEPTED}),
}
DESCRIPTORS = {
    "closing every descriptor": ("import os\nos.closerange(0, 4096)\nprint('xyzzy-4711')", {WRONG, RUNTIME}),
    "reading every descriptor": (
        "import os\nfor x in range(3, 1024):\n  try: print(os.read(x, 99), os.fstat(x))\n  except OSError: pass"
        + RIGHT,
        {ACCEPTED},
    ),
    "reading its output": ("import os\ntry: os.read(1, 9); print('read')\nexcept OSError: pass" + RIGHT, {ACCEPTED}),
    "its input as output": ("import os\nos.dup2(0, 1)\nprint('xyzzy-4711', flush=True)", {RUNTIME, WRONG}),
    "errors as output": ("import os\nos.dup2(2, 1)\nprint('xyzzy-4711')", {WRONG}),
    "descriptors in flight": (
        "import socket\nwhile True:\n  a, b = socket.socketpair()\n"
        "  socket.send_fds(a, [b'x'], [a.fileno(), b.fileno()])\n"
        "  a.detach(), b.detach()",
        {RUNTIME},
    ),
    "a full pipe": ("import os\nr, w = os.pipe()\nwhile True: os.write(w, b'x' * 9999)", {TIME}),
    "typing into a terminal": ("import fcntl\nfcntl.ioctl(0, 0x5412, b'x')", {RUNTIME}),
    "splicing": (
        REFUSED + "for number in (40, 275, 276, 278, 326): refused(number, 0, 1, 0, 9, 0, 0)" + RIGHT,
        {ACCEPTED},
    ),
    "watching files": (REFUSED + "for number in (253, 294, 300): refused(number, 0, 0)" + RIGHT, {ACCEPTED}),
    "a file's handle": (REFUSED + "x = bytes(99)\nrefused(303, -100, b'/', x, x, 0)" + RIGHT, {ACCEPTED}),
    "a file by its handle": (CALL + "call(304, -100, bytes(99), 0)", {SECURITY}),
}
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
    "locked memory": (REFUSED + "refused(151, 3)\nrefused(149, 0, 4096)\nrefused(325, 0, 4096, 0)" + RIGHT, {ACCEPTED}),
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
PRIVILEGES = {
    "another personality": (CALL + "call(135, 0x40000)", {SECURITY}),
    "page faults of its own": (CALL + "call(323, 0)", {SECURITY}),
    "a program for the kernel": (CALL + "call(321, 0, bytes(99), 99)", {SECURITY}),
    "counters of the processor": (CALL + "call(298, bytes(99), 0, -1, -1, 0)", {SECURITY}),
    "keys": (CALL + "call(250, 0, -3, 0, 0, 0)", {SECURITY}),
    "a key that it adds": (CALL + "call(248, b'user', b'x', b'y', 1, -3)", {SECURITY}),
    "another root": (CALL + "call(155, b'.', b'.')", {SECURITY}),
    "a root of its own": ("import os\nos.chroot('/')", {SECURITY}),
    "unmounting": (CALL + "call(166, b'/', 2)", {SECURITY}),
    "a file system by descriptor": (CALL + "call(430, b'tmpfs', 0)", {SECURITY}),
    "a kernel module": (CALL + "call(175, bytes(99), 99, b'')", {SECURITY}),
    "another kernel": (CALL + "call(246, 0, 0, 0, 0)", {SECURITY}),
    "a restart of the machine": (CALL + "call(169, 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0)", {SECURITY}),
    "swapping": (CALL + "call(167, b'/dev/null', 0)", {SECURITY}),
    "the machine's name": ("import socket\nsocket.sethostname('x')", {SECURITY}),
    "the time of day": (CALL + "call(164, bytes(16), 0)", {SECURITY}),
    "the clock's speed": (
        REFUSED + "refused(159, b'\\x01' * 208)\nrefused(305, 0, b'\\x01' * 208)" + RIGHT,
        {ACCEPTED},
    ),
    "ports of the machine": (CALL + "call(172, 3)", {SECURITY}),
    "real time": ("import os\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", {RUNTIME}),
    "real time by attributes": (REFUSED + "refused(314, 0, bytes(48), 0)\nrefused(251, 1, 0, 0)" + RIGHT, {ACCEPTED}),
    "a lower priority": ("import os\nos.nice(5)", {RUNTIME}),
    "another user": ("import os\nos.setuid(0)\nos.setresuid(0, 0, 0)", {RUNTIME}),
    "capabilities": (REFUSED + "refused(126, b'\\x22\\x05\\x08\\x20' + bytes(4), b'\\xff' * 24)" + RIGHT, {ACCEPTED}),
    "being looked into": (
        CALL + "call(157, 4, 1, 0, 0)\ntry: open('/proc/self/mem')\nexcept OSError: pass" + RIGHT,
        {ACCEPTED},
    ),
    "the memory of another": (CALL + "call(311, os.getppid(), 0, 0, 0, 0, 0)", {SECURITY}),
    "the descriptors of another": (CALL + "call(438, 0, 0, 0)", {SECURITY}),
    "comparing with another": (REFUSED + "refused(312, os.getpid(), os.getppid(), 0, 0, 0)" + RIGHT, {ACCEPTED}),
    "rings that are entered": (CALL + "call(426, 0, 0, 0, 0, 0, 0)", {SECURITY}),
    "old calls of 32 bits": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nplace = ctypes.cast(libc.qsort, ctypes.c_void_p).value\n"
        "found = ctypes.string_at(place, 300_000).index(b'\\xcd\\x80')\n"
        "ctypes.CFUNCTYPE(ctypes.c_long)(place + found)()",
        {SECURITY, RUNTIME},
    ),
}
MESSAGES = {
    "shared memory with a key": (REFUSED + "refused(29, 0x4711, 4096, 0o1666)" + RIGHT, {ACCEPTED}),
    "messages with a key": (REFUSED + "refused(68, 0x4711, 0o1666)" + RIGHT, {ACCEPTED}),
    "semaphores with a key": (REFUSED + "refused(64, 0x4711, 1, 0o1666)" + RIGHT, {ACCEPTED}),
    "a message queue": (REFUSED + "refused(240, b'left-behind', 0o102, 0o666, 0)" + RIGHT, {ACCEPTED}),
    "a named semaphore": ("import multiprocessing\nmultiprocessing.Semaphore()", {RUNTIME}),
    "a local socket": ("import socket\nsocket.socket(socket.AF_UNIX)", {RUNTIME}),
    "an abstract name for a socket": ("import socket\nsocket.socketpair()[0].bind('\\0left-behind')", {SECURITY}),
    "a pair that connects": ("import socket\nsocket.socketpair()[0].connect('\\0x')", {SECURITY}),
    "a pair that listens": ("import socket\nsocket.socketpair()[0].listen()", {SECURITY}),
    "a raw socket": ("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)", {SECURITY}),
    "a name's address": ("import socket\nsocket.gethostbyname('example.org')", {SECURITY, RUNTIME}),
    "a page": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')", {SECURITY, RUNTIME}),
    "the system's log": ("import syslog\nsyslog.syslog('left-behind')" + RIGHT, {ACCEPTED}),
    "a file without a name": (
        "import os\nfor folder in ('/', '/tmp', '/dev/shm', '/box', '.'):\n"
        "  try: os.open(folder, os.O_TMPFILE | os.O_RDWR); print(folder)\n  except OSError: pass" + RIGHT,
        {ACCEPTED},
    ),
}
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
PROGRAMS |= PROCESSES | SIGNALS | DESCRIPTORS | MEMORY_USES | PRIVILEGES | MESSAGES | HELPER | COMPILERS

# They use little CPU time, so the wall time is what they cost.
WAITING = {
    "sleeping for ever",
    "waiting for a lock",
    "stopping itself",
    "right, then hanging at exit",
    "thread bomb",
    "thread bomb that goes on",
    "stopping itself by way of a thread",
    "an alarm that starts over",
    "a full pipe",
    "sleeping in C",
    "a thread that never ends",
}
# They may need more CPU time to reach the memory limit on a busy machine.
HUNGRY = {name for name, (_, fitting) in PROGRAMS.items() if MEMORY in fitting and TIME not in fitting}


# They do nothing else than use up their CPU time.
SPINNING = {name for name, (_, fitting) in PROGRAMS.items() if fitting == {TIME}} - WAITING


def limits_of(name: str) -> Limits:
    """The limits under which a program is judged."""
    if name in WAITING:
        return WAITING_LIMITS
    if name in SPINNING:
        return SPINNING_LIMITS
    return HUNGRY_LIMITS if name in HUNGRY else LIMITS
