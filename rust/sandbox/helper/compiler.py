"""The compiler of one worker: turns sources of C++ into executables, one after the other, in a jail of its own.

The jail is that of programs, except that processes may be made and executed, and that the box can be written. It never
holds anything but the source at hand. Each compilation has limits of its own and leaves nothing in the box.
"""

import _socket
import contextlib
import os
import resource
import select
import shutil
import signal
import time

import jail
import kernel

_COMPILED, _NOT_COMPILED, _FAILED = b"C", b"N", b"E"
_NOT_EXECUTED = 127
_SOURCE, _PROGRAM, _MESSAGES = "solution.cpp", "program", "messages"
_OPTIONS = ["-std=gnu++17", "-O2", "-pipe", "-o", _PROGRAM, _SOURCE]

_CPU_S = 15  # Of each of the compiler's processes.
_WALL_S = 300  # For a machine with many more processes than cores.
_MEMORY_BYTES = 2 << 30
_FILE_BYTES = 64 << 20
_MESSAGE_BYTES = 8 << 10
_CHUNK_BYTES = 1 << 20


def serve(control: _socket.socket, compiler: str) -> None:
    """Compiles what is asked for, until the other end closes. The current folder is the box."""
    own = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        message, parts, _, _ = control.recvmsg(1 << 12, _socket.CMSG_SPACE(8))
        if not message:
            os._exit(0)
        data = parts[0][2]
        source, output = (int.from_bytes(data[place : place + 4], "little") for place in (0, 4))
        _copy(source, os.open(_SOURCE, os.O_WRONLY | os.O_CREAT, 0o644))
        job = kernel.fork()
        if not job:
            _become_compiler(own, compiler)
        stopped = not _wait(job, control)
        os.killpg(job, signal.SIGKILL)
        status = _reap(job)
        answer = _explain(status, stopped)
        if answer == _COMPILED:
            _copy(os.open(_PROGRAM, os.O_RDONLY), output)
        else:
            os.close(output)
        _clear()
        with contextlib.suppress(BrokenPipeError):  # The next request tells.
            control.send(answer)


def _become_compiler(parent: int, compiler: str) -> None:
    """The last limits, then the compiler; its children stay in its group."""
    os.setpgid(0, 0)
    kernel.die_with_parent(parent)
    for kind, limit in (
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
    ):
        resource.setrlimit(kind, (limit, limit))
    messages = os.open(_MESSAGES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for place, descriptor in ((0, null), (1, messages), (2, messages)):
        os.dup2(descriptor, place)
    os.closerange(3, jail.MAX_OPEN_FILES)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    folder = os.path.dirname(compiler)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": os.getcwd(), "LC_ALL": "C"}
    try:
        os.execve(compiler, [compiler, *_OPTIONS], environment)
    except OSError as error:
        os.write(2, str(error).encode())
        os._exit(_NOT_EXECUTED)


def _wait(job: int, control: _socket.socket) -> bool:
    """Waits for the compiler's end; false if it takes too long, or nobody wants the result any more."""
    handle = os.pidfd_open(job)
    events = select.poll()
    events.register(handle, select.POLLIN)
    events.register(control, select.POLLIN)
    deadline = time.monotonic() + _WALL_S
    ready = [descriptor for descriptor, _ in events.poll(1000 * (deadline - time.monotonic()))]
    os.close(handle)
    return handle in ready


def _reap(job: int) -> int:
    """The compiler's exit status, when it and all it has left are gone."""
    status = -1
    while True:
        try:
            process, found = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if process == job:
            status = os.waitstatus_to_exitcode(found)


def _explain(status: int, stopped: bool) -> bytes:
    """The answer: that there is an executable, or why not."""
    if status == 0 and os.path.exists(_PROGRAM):
        return _COMPILED
    with open(_MESSAGES, "rb") as file:
        said = file.read(_MESSAGE_BYTES)
    if status == _NOT_EXECUTED:
        return _FAILED + b"the compiler cannot be executed: " + said
    if said and not stopped:
        return _NOT_COMPILED + said
    return _NOT_COMPILED + said + b"the compiler was stopped: it took too much time, memory or disk space"


def _copy(source: int, target: int) -> None:
    while chunk := os.read(source, _CHUNK_BYTES):
        while chunk:
            chunk = chunk[os.write(target, chunk) :]
    os.close(source)
    os.close(target)


def _clear() -> None:
    for name in os.listdir():
        if os.path.isdir(name):
            shutil.rmtree(name, ignore_errors=True)
        else:
            os.unlink(name)
