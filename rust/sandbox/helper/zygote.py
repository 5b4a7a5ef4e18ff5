"""The processes of one worker: launcher → zygote (warm, jailed) → template (one program) → child (one test).

The first test of a program runs in a child of the zygote itself, which compiles it: most programs that fail do so
there, and those with one test need no template.

`main` is called once and returns many times: only ever in a child, which then runs the program. All other processes
stay in the loops below and leave through `os._exit`. Messages are described in `rust/sandbox/protocol.rs`, which is the
other end; this end judges nothing.
"""

import _socket
import gc
import importlib
import os
import resource
import signal
import struct
import sys

import compiler
import executor
import jail
import kernel
import runs
from box import Box
from executor import ExecutedProgram
from program import Program, prepare_interpreter

_CONTROL = 0  # The descriptor of the control socket, as the launcher finds it.
_MAX_MESSAGE = 1 << 16
_MAX_REQUEST = 20 << 10  # A source of up to 16 KB, and what comes along.
_DESCRIPTORS_SPACE = _socket.CMSG_SPACE(4 * struct.calcsize("i"))
_FIRST_RUN, _LOAD, _KILL, _RUN = b"F", b"P", b"K", b"R"
_COMPILED, _NOT_COMPILED, _FAILED = b"C", b"N", b"E"
_EXECUTING, _COMPILING = "exec", "compile"  # Kinds of workers: by exec, and of no programs at all.
_FIRST_RUN_FIELDS, _LOAD_FIELDS, _RUN_FIELDS = struct.Struct("=ddQI"), struct.Struct("=Q"), struct.Struct("=dd")

# Deep recursion in C code and `threading.stack_size(1 << 28)` must not count against the memory of the program.
_STACK_BYTES = 120 << 20
_STACK_ALLOWANCE_BYTES = 320 << 20
_PARSER_ERROR_BYTES = 3072

_kept: list[object] = []

# What is ready to run: the program, what its descriptors 0, 1 and 2 are to be, and its parent.
_Ready = tuple[Program | ExecutedProgram, tuple[int, ...], int]

# Imported once, so that no test pays for them; each costs every fork some pages, so rare ones are not here.
_WARM_MODULES = (
    "abc array bisect cmath codecs collections collections.abc contextlib copy copyreg dataclasses datetime decimal "
    "encodings.ascii encodings.latin_1 enum fractions functools heapq io itertools json keyword linecache math numbers "
    "operator queue random re reprlib stat statistics string struct textwrap threading time token tokenize traceback "
    "types typing warnings weakref "
)


def main() -> Program | ExecutedProgram:
    """Starts the worker. Returns only in a child that is to run the program it is given."""
    control = _socket.socket(fileno=_CONTROL)
    try:
        config, entrances = _read_config(control)
        memory_base = _become_zygote(config, entrances, control)
    except Exception as error:
        control.send(f"E{type(error).__name__}: {error}".encode())
        os._exit(1)
    child_filter = kernel.SystemCallFilter(
        bytes.fromhex(config["child_filter"]), int(config["child_filter_pid_offset"])
    )
    if config["kind"] == _COMPILING:
        compiler.serve(control, config["compiler"])
    program, descriptors, parent = _serve_programs(control, config["kind"], memory_base)
    runs.lock_in(parent, descriptors, child_filter)
    control.detach()
    program.enter()
    return program


def _read_config(control: _socket.socket) -> tuple[dict[str, str], tuple[int, ...]]:
    """The settings, and the entrances of the worker's cgroup."""
    message, descriptors = _receive(control, _MAX_MESSAGE)
    return dict(line.split("=", 1) for line in message.decode().splitlines()), descriptors


def _become_zygote(config: dict[str, str], entrances: tuple[int, ...], control: _socket.socket) -> int | None:
    """Returns in the process that is jailed and warm, with the bytes that it maps.

    None where a cgroup counts what programs use, so that what they only reserve need not be limited.
    """
    tier, kind = config["tier"], config["kind"]
    os.environ.pop("LD_BIND_NOW", None)  # It was for this process alone.
    box = Box(writable=kind == _COMPILING) if kind in (_EXECUTING, _COMPILING) else None
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
    if box is None:
        for name in _WARM_MODULES.split():
            importlib.import_module(name)
        prepare_interpreter()
        kernel.share_one_heap()
    for name in ("kernel", "box", "jail", "runs", "program", "executor", "compiler", "zygote"):
        del sys.modules[name]
    memory_base = _mapped_bytes()
    base_filter = kernel.SystemCallFilter(bytes.fromhex(config["base_filter"]))
    open_files = executor.OPEN_FILES if kind == _EXECUTING else jail.MAX_OPEN_FILES
    layers = jail.lock_in(tier, int(config["uid"]), base_filter, config["readable"].split("\0"), box, open_files)
    missing = jail.missing_layers(tier, layers)
    if missing and (config["forced"] == "true" or tier == jail.LANDLOCK):
        raise OSError(f"this host does not give a part of it: {missing}")
    kernel.die_with_parent(parent)
    # These hinder only programs, who inherit them.
    if kind != _COMPILING:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    gc.collect()
    if box is None:
        _kept.extend(kernel.use_up_fragments())
    gc.freeze()
    # The last of all: what this process has by now does not count as the programs' memory.
    refusal = _enter_cgroup(entrances)
    answer = f"R{sys.version.split()[0]}\n{','.join(layers)}\n{box.path if box else ''}\n{refusal}"
    if box is None:
        control.send(answer.encode())
    else:
        box.hand_over(control, answer.encode())
    return None if kind == _EXECUTING and entrances and not refusal else memory_base


def _stand_by(zygote: int, control: _socket.socket) -> None:
    """The launcher: outside the namespaces, it only waits, and takes the zygote along when killed."""
    control.close()
    os.waitpid(zygote, 0)
    os._exit(0)


def _enter_cgroup(entrances: tuple[int, ...]) -> str:
    """Enters through these files; says why that failed, or nothing."""
    refusal = ""
    for entrance in entrances:
        try:
            os.write(entrance, b"0")
        except OSError as error:
            refusal = f"entering the cgroup: {error.strerror}"
        os.close(entrance)
    return refusal


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _receive(control: _socket.socket, size: int = _MAX_REQUEST) -> tuple[bytes, tuple[int, ...]]:
    """The next request and its descriptors."""
    message, parts, _, _ = control.recvmsg(size, _DESCRIPTORS_SPACE)
    data = parts[0][2] if parts else b""
    return message, struct.unpack(f"={len(data) // 4}i", data)


def _serve_programs(control: _socket.socket, worker_kind: str, memory_base: int | None) -> _Ready:
    """The zygote: a fork for each program. Returns in a child of it, or of a template."""
    zygote, template = os.getpid(), 0
    # Whether there may be children beside that of a first run: templates, and what they leave.
    has_others = False
    runs.keep_children()
    report = runs.Report()
    while True:
        message, descriptors = _receive(control)
        kind = message[:1]
        if kind == _FIRST_RUN:
            report.clear()
            cpu_time_s, wall_time_s, memory_bytes, source_bytes = _FIRST_RUN_FIELDS.unpack_from(message, 1)
            if has_others:
                runs.keep_children()
            child = kernel.fork()
            if not child:
                seconds = int(cpu_time_s) + runs.COMPILE_CPU_S + 2
                _limit(memory_base, memory_bytes, (seconds, seconds))
                text = message[1 + _FIRST_RUN_FIELDS.size :]
                program = _first_run(text[:source_bytes], text[source_bytes:], report)
                return program, descriptors, zygote
            runs.finish(child, control, cpu_time_s, wall_time_s, report, descriptors)
            has_others = has_others and runs.reap_others()
            continue
        if kind == _LOAD:
            if not has_others:
                runs.ignore_children()
                has_others = True
            template = kernel.fork()
            if not template:
                report.close()
                os.dup2(1, _CONTROL)  # Closes the zygote's socket here, and keeps the number taken.
                control.detach()
                kernel.die_with_parent(zygote)
                return _become_template(worker_kind, message[1:], descriptors, memory_base)
        elif kind == _KILL:
            _kill_template(template)
            template = 0
            control.send(_KILL)
        elif not kind:
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _kill_template(template: int) -> None:
    if template:
        try:
            os.kill(template, signal.SIGKILL)
            os.waitpid(template, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # It had ended, and the kernel has reaped it.


def _limit(memory_base: int | None, memory_bytes: int, cpu_time_s: tuple[int, int], reserved_bytes: int = 0) -> None:
    """Memory, beside what a process of the worker maps anyway, unless that is None; and CPU seconds."""
    if memory_base is not None:
        allowed = memory_base + memory_bytes + _STACK_ALLOWANCE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
        resource.setrlimit(resource.RLIMIT_AS, (allowed + reserved_bytes, allowed + reserved_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, cpu_time_s)


def _first_run(source: bytes, function: bytes, report: runs.Report) -> Program:
    """A child of the zygote: compiles, and reports and ends where that fails."""
    try:
        program = Program(source, function.decode())
    except BaseException as error:
        report.refuse(_reason(error))
        os._exit(0)
    report.accept()
    return program


def _read(source: int) -> bytes:
    return os.pread(source, os.fstat(source).st_size, 0)  # Its offset is shared with other processes.


def _reason(error: BaseException) -> bytes:
    return f"{type(error).__name__}: {error}".encode(errors="backslashreplace")[:_PARSER_ERROR_BYTES]


def _become_template(worker_kind: str, fields: bytes, descriptors: tuple[int, ...], memory_base: int | None) -> _Ready:
    """Compiles within the limits, reports and ends where that fails; then serves tests."""
    executing = worker_kind == _EXECUTING
    (memory_bytes,) = _LOAD_FIELDS.unpack_from(fields)
    parameter = fields[_LOAD_FIELDS.size :].decode()
    control, files = _socket.socket(fileno=descriptors[0]), descriptors[1:]
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    reserved_bytes = executor.RESERVED_BYTES if executing else 0
    _limit(memory_base, memory_bytes, (runs.COMPILE_CPU_S, hard), reserved_bytes)
    program: Program | ExecutedProgram
    try:
        if executing:
            program = ExecutedProgram(parameter.split("\0"), control.fileno(), *files)
        else:
            program = Program(_read(files[0]), parameter)
    except BaseException as error:
        # No compiler raises these: a file could not be had.
        control.send((_FAILED if isinstance(error, OSError) else _NOT_COMPILED) + _reason(error))
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    gc.freeze()
    control.send(_COMPILED)
    return program, *_serve_tests(control)


def _serve_tests(control: _socket.socket) -> tuple[tuple[int, ...], int]:
    """The template: a fork for each test. Returns in the child, with what its descriptors are to be, and its parent."""
    template = os.getpid()
    runs.keep_children()
    while True:
        message, descriptors = _receive(control)
        if message[:1] == _RUN:
            cpu_time_s, wall_time_s = _RUN_FIELDS.unpack_from(message, 1)
            child = kernel.fork()
            if not child:
                control.detach()
                seconds = int(cpu_time_s) + 2
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
                return descriptors, template
            runs.finish(child, control, cpu_time_s, wall_time_s, runs.Begun(), descriptors)
        elif not message:
            os._exit(0)
        # Else a request to stop that came after the end.
