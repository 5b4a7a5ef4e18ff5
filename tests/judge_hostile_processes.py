"""Programs that make processes, send signals and misuse descriptors. Each is (source, verdicts that fit)."""

from judge_hostile_calls import ACCEPTED, CALL, REFUSED, RIGHT, RUNTIME, SECURITY, TIME, WRONG

PROCESSES = {
    "fork in C": ("import ctypes\nctypes.CDLL(None).fork()", {SECURITY}),
    "clone": (CALL + "call('clone', 17, 0, 0, 0, 0)", {SECURITY}),
    "clone that shares memory": (CALL + "call('clone', 0x4111, 0, 0, 0, 0)", {SECURITY}),
    "clone of a thread in a namespace": (REFUSED + "refused('clone', 0x10010000, 0, 0, 0, 0)" + RIGHT, {ACCEPTED}),
    "clone3": (REFUSED + "refused('clone3', ctypes.create_string_buffer(88), 88)" + RIGHT, {ACCEPTED}),
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
    "executing by descriptor": (CALL + "call('execveat', 0, b'', 0, 0, 0x1000)", {SECURITY}),
    "executing from memory": ("import os\nos.memfd_create('x')", {RUNTIME}),
    "a namespace that it enters": (CALL + "call('setns', 0, 0)", {SECURITY}),
}
SIGNALS = {
    "stopping itself by way of a thread": (
        "import os, threading\nfrom ctypes import CDLL\nCDLL(None).tgkill(os.getpid(), threading.get_native_id(), 19)",
        {TIME},
    ),
    "killing its parent's thread": (CALL + "call('tgkill', os.getppid(), os.getppid(), 9)", {SECURITY}),
    "killing any thread": (REFUSED + "refused('tkill', os.getppid(), 9)" + RIGHT, {ACCEPTED}),
    "queueing signals": (
        REFUSED + "refused('rt_sigqueueinfo', os.getppid(), 9, b'x' * 128)\n"
        "refused('rt_tgsigqueueinfo', os.getppid(), 1, 9, b'x' * 128)" + RIGHT,
        {ACCEPTED},
    ),
    "signals by way of a process's descriptor": (CALL + "call('pidfd_send_signal', 0, 9, 0, 0)", {SECURITY}),
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
        CALL + "place, n = ctypes.c_int(), 0\n"
        "while call('timer_create', 1, 0, ctypes.byref(place)) == 0 and n < 50_000: n += 1\n"
        "assert n < 5_000, n" + RIGHT,
        {ACCEPTED},
    ),
    "a filter against its own end": (
        CALL + "import struct\nplace = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x50000))\n"
        "program = struct.pack('=HxxxxxxQ', 1, ctypes.addressof(place))\n"
        "assert call('prctl', 22, 2, program, 0, 0) == 0\nos._exit(0)",
        {TIME, RUNTIME},
    ),
    "no filter": (REFUSED + "refused('prctl', 22, 0, 0, 0, 0)\nrefused('seccomp', 0, 0, 0)" + RIGHT, {ACCEPTED}),
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
        REFUSED
        + "for name in ('sendfile', 'splice', 'tee', 'vmsplice', 'copy_file_range'): refused(name, 0, 1, 0, 9, 0, 0)"
        + RIGHT,
        {ACCEPTED},
    ),
    "watching files": (
        REFUSED + "for name in ('inotify_init1', 'fanotify_init'): refused(name, 0, 0)" + RIGHT,
        {ACCEPTED},
    ),
    "a file's handle": (
        REFUSED + "x = bytes(99)\nrefused('name_to_handle_at', -100, b'/', x, x, 0)" + RIGHT,
        {ACCEPTED},
    ),
    "a file by its handle": (CALL + "call('open_by_handle_at', -100, bytes(99), 0)", {SECURITY}),
}
