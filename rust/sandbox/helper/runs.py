"""One test in a child: forked, locked in for good, watched to its end, which a limit may bring about, and reported.

Used by the zygote, whose child compiles the program first, and by the template, whose child need not. What the child
then runs is not this module's business.
"""

import _signal
import _socket
import contextlib
import mmap
import os
import select
import struct
import time

import jail
import kernel

NOT_COMPILED, COMPILED = 1, 2  # 0 while it is being compiled.
COMPILE_CPU_S, _COMPILE_WALL_S = 5, 50
_BY_PROGRAM, _BY_CPU_TIME, _BY_WALL_TIME, _BY_REQUEST = range(4)
_RAN, _RAN_FIELDS = b"D", struct.Struct("=BBiddQ")
_TIME_IS_UP, _MORE_TIME, _END_FOR_TIME = b"W", b"M", b"T"
_PARSER_ERROR_BYTES = 3072
_MIN_POLL_S = 0.001


class Begun:
    """The start of a child whose program was compiled before: to be made when it has been forked."""

    def __init__(self) -> None:
        self._clock_s = time.monotonic()

    def begin(self) -> tuple[int, float, float]:
        """Whether it has compiled; the child's CPU time, and the clock, from which its limits count."""
        return COMPILED, 0.0, self._clock_s

    def reason(self) -> bytes:
        """Why it did not compile; else empty."""
        return b""


class Report:
    """What a child says of its compilation, through memory that it gives up before the program runs."""

    _FIELDS = struct.Struct("=BddI")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        """For the next child."""
        self._FIELDS.pack_into(self._memory, 0, 0, 0.0, 0.0, 0)

    def begin(self) -> tuple[int, float, float]:
        """As that of `Begun`: what the child has said so far."""
        compiled, cpu_time_s, clock_s, _ = self._FIELDS.unpack_from(self._memory)
        return compiled, cpu_time_s, clock_s

    def reason(self) -> bytes:
        """Why it did not compile; else empty."""
        length = self._FIELDS.unpack_from(self._memory)[3]
        return self._memory[self._FIELDS.size :][:length]

    def refuse(self, reason: bytes) -> None:
        """In the child: it does not compile."""
        reason, start = reason[:_PARSER_ERROR_BYTES], self._FIELDS.size
        self._memory[start : start + len(reason)] = reason
        self._FIELDS.pack_into(self._memory, 0, NOT_COMPILED, 0.0, 0.0, len(reason))

    def accept(self) -> None:
        """In the child: it compiled."""
        self._FIELDS.pack_into(self._memory, 0, COMPILED, time.process_time(), time.monotonic(), 0)
        self.close()

    def close(self) -> None:
        """Unmaps it: out of reach of all that this process does from here on."""
        self._memory.close()


def finish(
    child: int,
    control: _socket.socket,
    cpu_limit: float,
    wall_limit: float,
    begun: Begun | Report,
    descriptors: tuple[int, ...],
) -> None:
    """Waits for the end of a child's run, and tells its facts, from where its limits began to count.

    Nobody has its `descriptors` any more then, so whoever hears of its end has the end of its output as well.
    """
    ended_by = _watch(child, control, cpu_limit, wall_limit, begun)
    _, status, usage = os.wait4(child, 0)
    for descriptor in descriptors:
        os.close(descriptor)
    compiled, cpu_before, clock_before = begun.begin()
    cpu = usage.ru_utime + usage.ru_stime - cpu_before
    wall = time.monotonic() - clock_before
    facts = _RAN_FIELDS.pack(ended_by, compiled, status, max(cpu, 0.0), wall, usage.ru_maxrss * 1024)
    try:
        control.send(_RAN + facts + begun.reason())
    except BrokenPipeError:  # The caller is gone.
        os._exit(0)


def _watch(child: int, control: _socket.socket, cpu_limit: float, wall_limit: float, begun: Begun | Report) -> int:
    """Waits for the child's end, which a limit or a message may bring about; says which of them.

    When the wall time is up, the other end is asked: it sees what of that the child has spent waiting for a core.
    """
    forked = time.monotonic()
    handle = os.pidfd_open(child)
    events = select.poll()
    events.register(handle, select.POLLIN)
    events.register(control, select.POLLIN)
    wait, ended_by, asked = min(cpu_limit, wall_limit), _BY_PROGRAM, False
    while True:
        ready = [descriptor for descriptor, _ in events.poll(max(wait, _MIN_POLL_S) * 1000)]
        if handle in ready:
            break
        more_time = _answer(control) if ready else None
        if more_time:
            wall_limit, asked = wall_limit + more_time, False
        compiled, cpu_before, clock_before = begun.begin()
        if compiled:
            cpu_left = cpu_limit - (_cpu_time(child) - cpu_before)
            wall_left = wall_limit - (time.monotonic() - clock_before)
        else:
            cpu_left = COMPILE_CPU_S - _cpu_time(child)
            wall_left = _COMPILE_WALL_S - (time.monotonic() - forked)
        if ready and not more_time:
            ended_by = _BY_REQUEST if more_time is None else _BY_WALL_TIME
        elif cpu_left <= 0:
            ended_by = _BY_CPU_TIME
        elif wall_left <= 0 and not compiled:
            ended_by = _BY_WALL_TIME
        else:
            if wall_left <= 0 and not asked:
                _ask(control, handle)
                asked = True
            wait = cpu_left if asked else min(cpu_left, wall_left)
            continue
        os.kill(child, _signal.SIGKILL)
        break
    os.close(handle)
    return ended_by


def _ask(control: _socket.socket, handle: int) -> None:
    """Says that a child's wall time is up."""
    with contextlib.suppress(BrokenPipeError):  # The caller is gone, which the next wait tells.
        control.sendmsg([_TIME_IS_UP], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", handle))])


def _answer(control: _socket.socket) -> float | None:
    """The seconds that the answer gives, 0 for none; None for anything else that may have come, which is left there."""
    kind = control.recv(1, _socket.MSG_PEEK)
    if kind not in (_MORE_TIME, _END_FOR_TIME):
        return None
    fields = control.recv(16)[1:]
    return struct.unpack("=d", fields)[0] if kind == _MORE_TIME else 0.0


def _cpu_time(process: int) -> float:
    """CPU seconds of all threads of a process, by its CPU clock (clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime((~process << 3) | 2)
    except OSError:  # It has just ended.
        return 0.0


def keep_children() -> None:
    """Has children that end wait for `finish`, from here on."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


def ignore_children() -> None:
    """Has the kernel reap children that end, from here on."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)


def reap_others() -> bool:
    """As `ignore_children`, and reaps those that ended before; false, and `keep_children`, if there are none at all."""
    ignore_children()
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        keep_children()
        return False
    return True


def lock_in(parent: int, descriptors: tuple[int, ...], child_filter: kernel.SystemCallFilter) -> None:
    """The last of a child before the program runs: its three descriptors and no others, and the final filter."""
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
    os.closerange(3, jail.MAX_OPEN_FILES)
    if parent != 1:  # Its pid namespace dies with the first process of that anyway.
        kernel.die_with_parent(parent)
    child_filter.install()
