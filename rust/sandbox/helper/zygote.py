"""The processes of one worker: launcher → zygote (warm, jailed) → template (one program) → child (one test).

`main` is called once and returns many times: only ever in a child, which then runs the program. All other processes
stay in the loops below and leave through `os._exit`. Messages are described in `rust/sandbox/protocol.rs`, which is the
other end; this end judges nothing.
"""

import _socket
import gc
import importlib
import os
import resource
import select
import signal
import struct
import sys
import time

import executor
import jail
import kernel
from box import Box
from executor import ExecutedProgram
from program import Program, prepare_interpreter

_CONTROL = 0  # The descriptor of the control socket, as the launcher finds it.
_MAX_MESSAGE = 1 << 16
_MAX_REQUEST = 1 << 12
_DESCRIPTORS_SPACE = _socket.CMSG_SPACE(3 * struct.calcsize("i"))
_START, _KILL, _RUN = b"P", b"K", b"R"
_COMPILED, _NOT_COMPILED, _FAILED, _RAN = b"C", b"N", b"E", b"D"
_EXECUTING = "exec"  # The kind of a worker that runs programs by exec.
_BY_PROGRAM, _BY_CPU_TIME, _BY_WALL_TIME, _BY_REQUEST = range(4)
_START_FIELDS, _RUN_FIELDS, _RAN_FIELDS = struct.Struct("=Q"), struct.Struct("=dd"), struct.Struct("=BiddQ")

# Deep recursion in C code and `threading.stack_size(1 << 28)` must not count against the memory of the program.
_STACK_BYTES = 120 << 20
_STACK_ALLOWANCE_BYTES = 320 << 20
_MIN_POLL_S = 0.001
_COMPILE_CPU_S = 5
_PARSER_ERROR_BYTES = 4096

# Imported once, so that no test pays for them; each costs every fork some pages, so rare ones are not here.
_WARM_MODULES = (
    "abc array bisect cmath codecs collections collections.abc contextlib copy copyreg dataclasses datetime decimal "
    "encodings.ascii encodings.latin_1 enum fractions functools heapq io itertools json keyword linecache math numbers "
    "operator queue random re reprlib stat statistics string struct textwrap threading time token tokenize traceback "
    "types typing warnings weakref "
)


def main() -> Program:
    """Starts the worker. Returns only in a child that is to run the program it is given."""
    control = _socket.socket(fileno=_CONTROL)
    try:
        config = _read_config(control)
        memory_base = _become_zygote(config, control)
    except Exception as error:
        control.send(f"E{type(error).__name__}: {error}".encode())
        os._exit(1)
    child_filter = kernel.SystemCallFilter(
        bytes.fromhex(config["child_filter"]), int(config["child_filter_pid_offset"])
    )
    zygote = os.getpid()
    start, program_control, files = _serve_programs(control)
    program = _become_template(config["kind"], zygote, start, program_control, files, memory_base)
    template = os.getpid()
    cpu_time_s = _serve_tests(program_control)
    _become_child(template, cpu_time_s, child_filter)
    program.enter()
    return program


def _read_config(control: _socket.socket) -> dict[str, str]:
    lines = control.recv(_MAX_MESSAGE).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def _become_zygote(config: dict[str, str], control: _socket.socket) -> int:
    """Returns in the process that is jailed and warm, with the bytes that it maps."""
    tier, executing = config["tier"], config["kind"] == _EXECUTING
    box = Box() if executing else None
    kernel.die_with_parent(int(config["parent_pid"]))
    if jail.leave_host(tier):
        zygote = kernel.fork()
        if zygote:
            _stand_by(zygote, control)
    else:
        if box is not None:
            box.leave_with_launcher(config["temporary"], int(config["parent_pid"]), control)
        kernel.adopt_orphans()
    parent = os.getppid()  # 0 for the first process of a pid namespace.
    if not executing:
        for name in _WARM_MODULES.split():
            importlib.import_module(name)
        prepare_interpreter()
        kernel.share_one_heap()
    for name in ("kernel", "box", "jail", "program", "executor", "zygote"):
        del sys.modules[name]
    memory_base = _mapped_bytes()
    base_filter = kernel.SystemCallFilter(bytes.fromhex(config["base_filter"]))
    open_files = executor.OPEN_FILES if executing else jail.MAX_OPEN_FILES
    jail.lock_in(tier, int(config["uid"]), base_filter, config["readable"].split("\0"), box, open_files)
    kernel.die_with_parent(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Templates are reaped by the kernel.
    gc.collect()
    gc.freeze()
    answer = f"R{sys.version.split()[0]}\n{kernel.landlock_abi()}\n{box.path if box else ''}"
    if box is None:
        control.send(answer.encode())
    else:
        box.hand_over(control, answer.encode())
    return memory_base


def _stand_by(zygote: int, control: _socket.socket) -> None:
    """The launcher: outside the namespaces, it only waits, and takes the zygote along when killed."""
    control.close()
    os.waitpid(zygote, 0)
    os._exit(0)


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _receive(control: _socket.socket) -> tuple[bytes, tuple[int, ...]]:
    """The next request and its descriptors."""
    message, parts, _, _ = control.recvmsg(_MAX_REQUEST, _DESCRIPTORS_SPACE)
    data = parts[0][2] if parts else b""
    return message, struct.unpack(f"={len(data) // 4}i", data)


def _serve_programs(control: _socket.socket) -> tuple[bytes, _socket.socket, tuple[int, ...]]:
    """The zygote: a fork for each program. Returns in the template."""
    template = 0
    while True:
        message, descriptors = _receive(control)
        if message[:1] == _START:
            template = kernel.fork()
            if not template:
                os.dup2(1, _CONTROL)  # Closes the zygote's socket here, and keeps the number taken.
                control.detach()
                return message[1:], _socket.socket(fileno=descriptors[0]), descriptors[1:]
            for descriptor in descriptors:
                os.close(descriptor)
        elif message[:1] == _KILL:
            _kill_template(template)
            control.send(_KILL)
        else:
            os._exit(0)


def _kill_template(template: int) -> None:
    try:
        os.kill(template, signal.SIGKILL)
        os.waitpid(template, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # It had ended, and the kernel has reaped it.


def _become_template(
    kind: str, zygote: int, start: bytes, control: _socket.socket, files: tuple[int, ...], memory_base: int
) -> Program | ExecutedProgram:
    """Sets the limits of the program and compiles it inside them; reports and ends when it does not compile."""
    kernel.die_with_parent(zygote)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    (memory_bytes,) = _START_FIELDS.unpack(start[: _START_FIELDS.size])
    allowed = memory_base + memory_bytes + _STACK_ALLOWANCE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    if kind == _EXECUTING:
        allowed += executor.RESERVED_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (_COMPILE_CPU_S, hard))
    try:
        program = _load(kind, start[_START_FIELDS.size :].decode(), control, files)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".encode(errors="backslashreplace")
        # No compiler raises these: a file could not be had.
        control.send((_FAILED if isinstance(error, OSError) else _NOT_COMPILED) + reason[:_PARSER_ERROR_BYTES])
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    gc.freeze()
    control.send(_COMPILED)
    return program


def _load(kind: str, parameter: str, control: _socket.socket, files: tuple[int, ...]) -> Program | ExecutedProgram:
    if kind == _EXECUTING:
        return ExecutedProgram(parameter.split("\0"), control.fileno(), *files)
    with open(files[0], "rb") as file:
        return Program(file.read(), parameter)


def _serve_tests(control: _socket.socket) -> float:
    """The template: a fork for each test. Returns in the child, with descriptors 0, 1 and 2 in place, its CPU limit."""
    while True:
        message, descriptors = _receive(control)
        if message[:1] != _RUN:
            if message:
                continue  # A request to stop that came after the end.
            os._exit(0)
        cpu_time_s, wall_time_s = _RUN_FIELDS.unpack(message[1:])
        started = time.monotonic()
        child = kernel.fork()
        if not child:
            for place, descriptor in enumerate(descriptors):
                os.dup2(descriptor, place)
            os.closerange(3, jail.MAX_OPEN_FILES)
            control.detach()
            return cpu_time_s
        for descriptor in descriptors:
            os.close(descriptor)
        ended_by = _watch(child, control, started, cpu_time_s, wall_time_s)
        _, status, usage = os.wait4(child, 0)
        wall = time.monotonic() - started
        cpu = usage.ru_utime + usage.ru_stime
        control.send(_RAN + _RAN_FIELDS.pack(ended_by, status, cpu, wall, usage.ru_maxrss * 1024))


def _watch(child: int, control: _socket.socket, started: float, cpu_limit: float, wall_limit: float) -> int:
    """Waits for the child's end, which a limit or a message may bring about."""
    handle = os.pidfd_open(child)
    events = select.poll()
    events.register(handle, select.POLLIN)
    events.register(control, select.POLLIN)
    wait, ended_by = min(cpu_limit, wall_limit), _BY_PROGRAM
    while True:
        ready = [descriptor for descriptor, _ in events.poll(max(wait, _MIN_POLL_S) * 1000)]
        if handle in ready:
            break
        wall_left = wall_limit - (time.monotonic() - started)
        cpu_left = cpu_limit - _cpu_time(child)
        if ready:
            ended_by = _BY_REQUEST
        elif cpu_left <= 0:
            ended_by = _BY_CPU_TIME
        elif wall_left <= 0:
            ended_by = _BY_WALL_TIME
        else:
            wait = min(cpu_left, wall_left)
            continue
        os.kill(child, signal.SIGKILL)
        break
    os.close(handle)
    return ended_by


def _cpu_time(process: int) -> float:
    """CPU seconds of all threads of a process, by its CPU clock (clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime((~process << 3) | 2)
    except OSError:  # It has just ended.
        return 0.0


def _become_child(template: int, cpu_time_s: float, child_filter: kernel.SystemCallFilter) -> None:
    """The last limits, which would hinder the template itself, and the filter that no fork gets past."""
    kernel.die_with_parent(template)
    seconds = int(cpu_time_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    child_filter.install()
