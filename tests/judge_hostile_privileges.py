"""Programs that ask for privileges, or leave messages for others. Each is (source, verdicts that fit)."""

from judge_hostile_calls import ACCEPTED, CALL, REFUSED, RIGHT, RUNTIME, SECURITY

PRIVILEGES = {
    "another personality": (CALL + "call('personality', 0x40000)", {SECURITY}),
    "page faults of its own": (CALL + "call('userfaultfd', 0)", {SECURITY}),
    "a program for the kernel": (CALL + "call('bpf', 0, bytes(99), 99)", {SECURITY}),
    "counters of the processor": (CALL + "call('perf_event_open', bytes(99), 0, -1, -1, 0)", {SECURITY}),
    "keys": (CALL + "call('keyctl', 0, -3, 0, 0, 0)", {SECURITY}),
    "a key that it adds": (CALL + "call('add_key', b'user', b'x', b'y', 1, -3)", {SECURITY}),
    "another root": (CALL + "call('pivot_root', b'.', b'.')", {SECURITY}),
    "a root of its own": ("import os\nos.chroot('/')", {SECURITY}),
    "unmounting": (CALL + "call('umount2', b'/', 2)", {SECURITY}),
    "a file system by descriptor": (CALL + "call('fsopen', b'tmpfs', 0)", {SECURITY}),
    "a kernel module": (CALL + "call('init_module', bytes(99), 99, b'')", {SECURITY}),
    "another kernel": (CALL + "call('kexec_load', 0, 0, 0, 0)", {SECURITY}),
    "a restart of the machine": (CALL + "call('reboot', 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0)", {SECURITY}),
    "swapping": (CALL + "call('swapon', b'/dev/null', 0)", {SECURITY}),
    "the machine's name": ("import socket\nsocket.sethostname('x')", {SECURITY}),
    "the time of day": (CALL + "call('settimeofday', bytes(16), 0)", {SECURITY}),
    "the clock's speed": (
        REFUSED + "refused('adjtimex', b'\\x01' * 208)\nrefused('clock_adjtime', 0, b'\\x01' * 208)" + RIGHT,
        {ACCEPTED},
    ),
    "real time": ("import os\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", {RUNTIME}),
    "real time by attributes": (
        REFUSED + "refused('sched_setattr', 0, bytes(48), 0)\nrefused('ioprio_set', 1, 0, 0)" + RIGHT,
        {ACCEPTED},
    ),
    "a lower priority": ("import os\nos.nice(5)", {RUNTIME}),
    "another user": ("import os\nos.setuid(0)\nos.setresuid(0, 0, 0)", {RUNTIME}),
    "capabilities": (
        REFUSED + "refused('capset', b'\\x22\\x05\\x08\\x20' + bytes(4), b'\\xff' * 24)" + RIGHT,
        {ACCEPTED},
    ),
    "being looked into": (
        CALL + "call('prctl', 4, 1, 0, 0)\ntry: open('/proc/self/mem')\nexcept OSError: pass" + RIGHT,
        {ACCEPTED},
    ),
    "the memory of another": (CALL + "call('process_vm_writev', os.getppid(), 0, 0, 0, 0, 0)", {SECURITY}),
    "the descriptors of another": (CALL + "call('pidfd_getfd', 0, 0, 0)", {SECURITY}),
    "comparing with another": (REFUSED + "refused('kcmp', os.getpid(), os.getppid(), 0, 0, 0)" + RIGHT, {ACCEPTED}),
    "rings that are entered": (CALL + "call('io_uring_enter', 0, 0, 0, 0, 0, 0)", {SECURITY}),
}
MESSAGES = {
    "shared memory with a key": (REFUSED + "refused('shmget', 0x4711, 4096, 0o1666)" + RIGHT, {ACCEPTED}),
    "messages with a key": (REFUSED + "refused('msgget', 0x4711, 0o1666)" + RIGHT, {ACCEPTED}),
    "semaphores with a key": (REFUSED + "refused('semget', 0x4711, 1, 0o1666)" + RIGHT, {ACCEPTED}),
    "a message queue": (REFUSED + "refused('mq_open', b'left-behind', 0o102, 0o666, 0)" + RIGHT, {ACCEPTED}),
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
# Calls and instructions that other machines do not have.
ONLY_ON_X86_64 = {
    "the other word size": (
        CALL + "print(call(0x40000000 + 39))",
        {SECURITY},
    ),
    "vfork": (CALL + "call('vfork')", {SECURITY}),
    "ports of the machine": (CALL + "call('iopl', 3)", {SECURITY}),
    "old calls of 32 bits": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nplace = ctypes.cast(libc.qsort, ctypes.c_void_p).value\n"
        "found = ctypes.string_at(place, 300_000).index(b'\\xcd\\x80')\n"
        "ctypes.CFUNCTYPE(ctypes.c_long)(place + found)()",
        {SECURITY, RUNTIME},
    ),
}
