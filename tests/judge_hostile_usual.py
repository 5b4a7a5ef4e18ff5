"""What programs usually try that mean harm: the list in the judge's design. Each is (source, verdicts that fit)."""

from judge_hostile_calls import ACCEPTED, CALL, COMPILE, MEMORY, OUTPUT, RUNTIME, SECURITY, TIME, WRONG

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

USUAL = {
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
    "tracing its parent": (CALL + "call('ptrace', 16, os.getppid(), 0, 0)", {SECURITY}),
    "reading its parent's memory": (CALL + "call('process_vm_readv', os.getppid(), 0, 0, 0, 0, 0)", {SECURITY}),
    "limiting its parent": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        {RUNTIME},
    ),
    "raising its limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))\nwhile True: pass",
        {RUNTIME},
    ),
    "outliving its parent": (CALL + "print(call('prctl', 1, 0, 0, 0, 0))\nwhile True: pass", {TIME, WRONG}),
    "a socket": ("import socket\nsocket.socket()", {SECURITY}),
    "a connection": ("import socket\nsocket.create_connection(('127.0.0.1', 22))", {SECURITY}),
    "a datagram pair": ("import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)", {SECURITY}),
    "executing": ("import os\nos.execv('/bin/true', ['true'])", {SECURITY, RUNTIME}),
    "a subprocess": ("import subprocess, sys\nsubprocess.run([sys.executable, '-V'])", {SECURITY}),
    "a shell": ("import os\nos.system('true')", {SECURITY}),
    "a new namespace": (CALL + "call('unshare', 0x10000000)", {SECURITY}),
    "mounting": (CALL + "call('mount', b'none', b'/', b'tmpfs', 0, 0)", {SECURITY}),
    "io_uring": (CALL + "call('io_uring_setup', 8, 0)", {SECURITY}),
    "setting the clock": ("import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)", {SECURITY}),
    "an unknown call": (CALL + "assert call(9999) == -1 and ctypes.get_errno() == 38\nprint('xyzzy-4711')", {ACCEPTED}),
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
    "file bomb": (
        "import os\nfor x in range(10**5):\n  for folder in ('.', '/tmp', '/dev/shm'):\n"
        "    try: open(f'{folder}/left-behind-{x}', 'w'); print('made')\n    except OSError: pass\nprint('xyzzy-4711')",
        {ACCEPTED, TIME},
    ),
    "killing a sibling": ("import os\nfor x in range(1, 60): os.kill(os.getpid() + x, 9)", {SECURITY}),
    "stopping a sibling": ("import os, signal\nos.kill(os.getpid() - 1, signal.SIGSTOP)", {SECURITY}),
    "tracing a sibling": (CALL + "call('ptrace', 16, os.getpid() - 1, 0, 0)", {SECURITY}),
    "the way up": (
        "import os\nlibrary = os.path.dirname(os.__file__)\n"
        "for path in ('../../../../etc/passwd', '/lib/../etc/passwd', '/dev/../etc/shadow', './../proc/1/environ',\n"
        "             library + '/../../../../../etc/passwd', library + '/../../../../root'):\n"
        "  try: print(os.listdir(path) if os.path.isdir(path) else open(path).read())\n  except OSError: pass\n"
        "print('xyzzy-4711')",
        {ACCEPTED},
    ),
    "other submissions": (
        "import os\nfor top in ('/tmp', '/box', '/var/tmp', '/dev/shm', '/sys/fs/cgroup'):\n"
        "  try: found = [x for x in os.listdir(top) if x not in ('solution.py', 'pyvenv.cfg')]\n"
        "  except OSError: continue\n"
        "  for name in found:\n"
        "    try: print(os.listdir(os.path.join(top, name)))\n    except OSError: pass\n"
        "    try: print(open(os.path.join(top, name, 'solution.py')).read())\n    except OSError: pass\n"
        "print('xyzzy-4711')",
        {ACCEPTED},
    ),
}
