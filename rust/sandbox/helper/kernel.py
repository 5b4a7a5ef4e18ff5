"""Raw kernel calls that the standard library lacks, made through ctypes: prctl, seccomp, landlock, mounts, namespaces.

Used only before a judged program runs. Each function raises `OSError` naming the call that was refused.
"""

import ctypes
import os
import signal
import struct
import sys

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOSYMFOLLOW, MS_BIND, MS_REC, MS_PRIVATE = 256, 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_M_ARENA_MAX = -8
# CPython's allocator of small objects: one pool for each size.
_POOL_BYTES, _ALIGNMENT, _LARGEST_SMALL_OBJECT = 16 << 10, 16, 512
_BYTES_OVERHEAD = sys.getsizeof(b"")
_SMALLEST_BYTES = 48  # A `bytes` of less than that is not an object of its own.
_MOST_FRAGMENTS = 2_000
_CAPABILITY_VERSION_3 = 0x2008_0522

# The same numbers on every architecture.
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
# Called with the interpreter locked, as `os.fork` does.
_fork = ctypes.PyDLL(None).fork


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def fork() -> int:
    """As `os.fork` of a process with one thread, without the handlers that modules have registered.

    Those touch hundreds of pages, each of which is then copied; what they do is only needed by threads and `random`.
    """
    process: int = _fork()
    if process < 0:
        raise OSError("fork was refused")
    return process


def _prctl(option: int, argument: object, what: str) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, argument, zero, zero, zero), f"prctl {what}")


def die_with_parent(parent: int, by: int = signal.SIGKILL) -> None:
    """Has the kernel signal this process when `parent`, its parent, dies; a fork or a change of uid clears it."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(by), "PDEATHSIG")
    if os.getppid() != parent:  # It died before the call.
        os._exit(1)


def forbid_inspection() -> None:
    """Makes this process unreadable for others of the same uid (no ptrace, no /proc/PID/mem)."""
    _prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), "DUMPABLE")


def adopt_orphans() -> None:
    """Has orphaned descendants become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), "CHILD_SUBREAPER")


def forbid_new_privileges() -> None:
    """Set-uid files and file capabilities give nothing from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), "NO_NEW_PRIVS")


def use_up_fragments() -> list[object]:
    """Objects that fill the gaps which imports left in the interpreter's memory; to be kept.

    What a forked process allocates then lies side by side, in few pages that are to be copied.
    """
    kept: list[object] = []
    for size in range(_SMALLEST_BYTES, _LARGEST_SMALL_OBJECT + 1, _ALIGNMENT):
        in_a_row, last = 0, 0
        for _ in range(_MOST_FRAGMENTS):
            kept.append(bytes(size - _BYTES_OVERHEAD))
            in_a_row = in_a_row + 1 if id(kept[-1]) == last + size else 0
            last = id(kept[-1])
            if in_a_row * size > _POOL_BYTES // 2:
                break
    return kept


def share_one_heap() -> None:
    """Has all threads allocate from one heap: glibc reserves 64 MB of address space for each that it adds."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, 1)


class SystemCallFilter:
    """A seccomp program, held in memory so that installing it after a fork is one call."""

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    def __init__(self, instructions: bytes, pid_offset: int = -1) -> None:
        self._buffer = ctypes.create_string_buffer(instructions, len(instructions))
        self._pid_offset = pid_offset
        self._program = self._Program(len(instructions) // 8, ctypes.addressof(self._buffer))

    def install(self) -> None:
        """Locks this process in; there is no way back. The place for the own pid, if any, is filled in."""
        if self._pid_offset >= 0:
            struct.pack_into("=I", self._buffer, self._pid_offset, os.getpid())
        mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
        _checked(_libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(self._program), 0, 0), "prctl SECCOMP")


def unshare(flags: int) -> None:
    """Leaves the namespaces in `flags` for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mounts, binds or remounts, by the flags."""
    arguments = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = _libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3])
    _checked(result, f"mount {source or ''} on {target}")


def enter_root(path: str) -> None:
    """Makes `path`, a mount point, the root; the old root is gone for good."""
    os.chdir(path)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _checked(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Gives up every capability, and the means to get one back."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, bytes(24)), "capset")


# Landlock's file rights, by the ABI that brought them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE, _MAKE_FOLDER, _MAKE_FILE, _TRUNCATE = 1 << 4 | 1 << 5, 1 << 7, 1 << 8, 1 << 14
_RIGHTS_IN_FOLDER = _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE | _MAKE_FOLDER | _MAKE_FILE | _TRUNCATE
_RIGHTS_OF_ABI = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP_RIGHTS, _ALL_SCOPES = 3, 3


def landlock_abi() -> int:
    """The version of landlock that this kernel has, 0 when it has none."""
    version_flag = ctypes.c_uint(1)
    number = ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET)
    return max(0, _libc.syscall(number, None, ctypes.c_size_t(0), version_flag))


def landlock_read_only(readable: list[str], writable: list[str], folder: str | None = None) -> None:
    """Leaves reading beneath `readable`, reading and writing of the files `writable`, all but exec in `folder`."""
    abi = landlock_abi()
    rights = sum(bits for since, bits in _RIGHTS_OF_ABI.items() if abi >= since)
    attributes = struct.pack("=QQQ", rights, _TCP_RIGHTS if abi >= 4 else 0, _ALL_SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _checked(
        _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET), attributes, ctypes.c_size_t(size), ctypes.c_uint(0)),
        "landlock_create_ruleset",
    )
    for path in readable:
        _allow_beneath(ruleset, path, _EXECUTE | _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0))
    if folder is not None:
        _allow_beneath(ruleset, folder, rights & _RIGHTS_IN_FOLDER)
    for path in writable:
        _allow_beneath(ruleset, path, _READ_FILE | _WRITE_FILE)
    _checked(
        _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint(0)),
        "landlock_restrict_self",
    )
    os.close(ruleset)


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, place)
    number, beneath = ctypes.c_long(_SYS_LANDLOCK_ADD_RULE), ctypes.c_int(1)
    _checked(_libc.syscall(number, ctypes.c_int(ruleset), beneath, rule, ctypes.c_uint(0)), "landlock_add_rule")
    os.close(place)
