"""Odd programs, as contest judges meet them. Each is (source, verdicts that fit)."""

from judge_hostile_calls import ACCEPTED, CALL, COMPILE, MEMORY, OUTPUT, RIGHT, RUNTIME, SECURITY, TIME, WRONG

# A read-only file that belongs to the user whom programs run as, in the tier that has no user of its own.
_LIBRARY_FILE = "import fcntl, os\nfile = os.open(os.__file__, os.O_RDONLY)\n"

ODD = {
    "flags of a file": (
        _LIBRARY_FILE + "for number in (0x40086602, 0x401C5820, 0x40046604, 0x40049409, 0xC0185879, 0x660B):\n"
        "  try: fcntl.ioctl(file, number, b'\\x40' + bytes(63)); print('done', hex(number))\n"
        "  except OSError: pass" + RIGHT,
        {ACCEPTED},
    ),
    "a lease of a file": (
        _LIBRARY_FILE + "for command, value in ((1024, 0), (1026, 1), (1036, 0), (1038, 0)):\n"
        "  try: fcntl.fcntl(file, command, value); print('done', command)\n"
        "  except OSError: pass" + RIGHT,
        {ACCEPTED},
    ),
    "cores for itself": (
        CALL + "for what in range(4):\n  if call('prctl', 62, what, 0, 0, 0) != -1: print('done', what)\n"
        "  assert ctypes.get_errno() == 1, ctypes.get_errno()" + RIGHT,
        {ACCEPTED},
    ),
    "its output on its way to itself": (
        "import array, os, socket\nprint('xyzzy-4711', flush=True)\na, b = socket.socketpair()\n"
        "for sock in (a, b) * 3:\n"
        "  all = array.array('i', [1, 2, a.fileno(), b.fileno()])\n"
        # The kernel counts descriptors on their way by user, so a neighbour's may be too many already.
        "  try: sock.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, all)])\n"
        "  except OSError: pass\n"
        "os._exit(0)",
        {ACCEPTED},
    ),
    "sockets full of descriptors": (
        "import array, socket\nfor _ in range(200):\n  a, b = socket.socketpair()\n"
        "  try: a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1] * 250))])\n"
        "  except OSError: pass\n  a.detach(); b.detach()",
        {RUNTIME},
    ),
    "a pipe of packets": (
        "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT)\nfcntl.fcntl(1, 1031, 1 << 20)\n"
        "for letter in b'xyzzy-4711\\n': os.write(1, bytes([letter]))",
        {ACCEPTED},
    ),
    "output that does not wait": (
        "import os\nos.set_blocking(1, False)\nn = 0\nwhile n < 1000:\n"
        "  try: os.write(1, b'x' * 4096)\n  except BlockingIOError: n += 1",
        {WRONG, OUTPUT},
    ),
    "a name like a state": (
        CALL
        + "call('prctl', 15, b'x) R 1 (\\n', 0, 0, 0)\nimport time\nprint('xyzzy-4711', flush=True)\ntime.sleep(99)",
        {TIME},
    ),
    "a timer that rings all the time": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\nwhile True: pass",
        {TIME},
    ),
    "CPU time that it is told of": (
        "import signal\nfor name in ('SIGXCPU', 'SIGPROF', 'SIGVTALRM', 'SIGTERM'):\n"
        "  signal.signal(getattr(signal, name), lambda *_: print('xyzzy-4711', flush=True))\nwhile True: pass",
        {TIME},
    ),
    "a lower limit of CPU time": (
        "import resource, signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass",
        {RUNTIME, TIME},
    ),
    "no descriptors": (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))" + RIGHT,
        {ACCEPTED},
    ),
    "no address space": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1, 1))\nx = bytes(1 << 24)",
        {MEMORY},
    ),
    "no stack": (
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 12, 1 << 12))" + RIGHT,
        {ACCEPTED, RUNTIME},
    ),
    "a filter of its own that fails every call": (
        CALL + "import struct\ncode = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x50001))\n"
        "class Program(ctypes.Structure): _fields_ = (('n', ctypes.c_ushort), ('p', ctypes.c_void_p))\n"
        "program = Program(1, ctypes.addressof(code))\nprint('xyzzy-4711', flush=True)\n"
        "call('prctl', 22, 2, ctypes.byref(program), 0, 0)",
        {RUNTIME, TIME},
    ),
    "a filter of its own that lets everything pass": (
        CALL + "import struct\ncode = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000))\n"
        "class Program(ctypes.Structure): _fields_ = (('n', ctypes.c_ushort), ('p', ctypes.c_void_p))\n"
        "program = Program(1, ctypes.addressof(code))\ncall('prctl', 22, 2, ctypes.byref(program), 0, 0)\nos.fork()",
        {SECURITY},
    ),
    "a fork in a thread": (
        "import os, threading\nt = threading.Thread(target=os.fork)\nt.start()\nt.join()\nprint('xyzzy-4711')",
        {SECURITY},
    ),
    "a fork when nobody looks": (
        "import atexit, os\natexit.register(os.fork)\nprint('xyzzy-4711', flush=True)",
        {SECURITY},
    ),
    "a pool of processes": ("import multiprocessing\nmultiprocessing.Pool(2).map(abs, [1])", {SECURITY, RUNTIME}),
    "a program in memory, executed": (
        CALL + "import sys\nfile = os.memfd_create('x')\nos.write(file, open('/bin/true', 'rb').read())\n"
        "os.execv(f'/proc/self/fd/{file}', ['x'])",
        {SECURITY, RUNTIME},
    ),
    "a descriptor executed": (
        CALL + "file = os.open(os.__file__, os.O_RDONLY)\ncall('execveat', file, b'', 0, 0, 0x1000)",
        {SECURITY},
    ),
    "its own code changed": (
        "import ctypes\nplace = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value\n"
        "ctypes.memset(place, 0x90, 16)" + RIGHT,
        {RUNTIME},
    ),
    "a jump to nowhere": ("import ctypes\nctypes.CFUNCTYPE(None)(4711)()", {RUNTIME}),
    "an end in C": ("import ctypes\nprint('xyzzy-4711', flush=True)\nctypes.CDLL(None)._exit(0)", {ACCEPTED}),
    "a thread's end in C": (
        "import ctypes, sys\nprint('xyzzy-4711', flush=True)\nctypes.CDLL(None).pthread_exit(0)",
        {ACCEPTED, RUNTIME, TIME},
    ),
    "the main thread's end": (
        CALL + "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n"
        "print('xyzzy-4711', flush=True)\ncall(60 if os.uname().machine == 'x86_64' else 93, 0)",
        {TIME},
    ),
    "all signals at once": (
        "import os, signal\nall = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}\n"
        "for number in all: signal.signal(number, lambda *_: None)\nfor number in all: os.kill(os.getpid(), number)"
        + RIGHT,
        {ACCEPTED},
    ),
    "a group's signal": ("import os\nos.kill(0, 9)", {SECURITY}),
    "flushing all disks": (CALL + "print(call(162 if os.uname().machine == 'x86_64' else 81))", {WRONG}),
    "the kernel's messages": (
        CALL + "text = ctypes.create_string_buffer(999)\n"
        "if call(103 if os.uname().machine == 'x86_64' else 116, 3, text, 999) > 0: print(text.value)" + RIGHT,
        {ACCEPTED},
    ),
    "a source of NUL bytes": ("\0" * 100, {COMPILE}),
    "a source of one long name": ("x" * 1_000_000, {COMPILE, RUNTIME}),
    "a source of five million blanks": (" " * 5_000_000 + "\nprint('xyzzy-4711')", {ACCEPTED}),
    "a nest of calls": ("print" + "(print" * 3000 + ")" * 3000, {COMPILE}),
    "a nest of subscripts": ("x" + "[0]" * 20_000, {COMPILE, RUNTIME}),
    "a nest of attributes": ("x" + ".x" * 100_000, {COMPILE, RUNTIME}),
    "a nest of functions": ("".join(" " * i + "def f():\n" for i in range(99)) + " " * 99 + "pass", {COMPILE, WRONG}),
    "a chain of elifs": ("x = 1\nif x == 0: pass\n" + "elif x == 2: pass\n" * 3000, {COMPILE, WRONG}),
    "a text without an end": ('x = """' + "a" * 100_000, {COMPILE}),
    "a number without an end": ("x = " + "9" * 100_000, {COMPILE}),
    "a cookie for a coding that reads files": ("# coding: rot13\ncevag(1)", {COMPILE}),
    "a line that goes on for ever": ("x = 1 \\\n" * 50_000, {COMPILE}),
    "an output without a line": (
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        {WRONG, OUTPUT},
    ),
    "blanks without end": ("import os\nwhile True: os.write(1, b' ' * 65536)", {OUTPUT}),
    "right, then blanks without end": (
        "import os\nprint('xyzzy-4711', flush=True)\nwhile True: os.write(1, b'\\n' * 65536)",
        {OUTPUT},
    ),
    "right and NUL": ("print('xyzzy-4711\\0')", {WRONG}),
    "right twice": ("print('xyzzy-4711')\nprint('xyzzy-4711')", {WRONG}),
    "right by C at the end": ("import ctypes\nctypes.CDLL(None).puts(b'xyzzy-4711')", {ACCEPTED}),
    "an interrupt of its own kind": ("class Mine(KeyboardInterrupt): pass\nraise Mine", {RUNTIME}),
}
