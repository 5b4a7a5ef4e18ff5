"""A program that is executed, rather than run in a warm interpreter: by a fresh Python, or as a machine's binary.

Stands where `program.Program` does. The system call filter lets one descriptor be executed, and only for as long as the
child has it open: until that very call.
"""

import os
import resource
import signal
import warnings

import jail

# As in rust/sandbox/seccomp.rs. Above what the child itself may open.
EXEC_DESCRIPTOR = 300
_REPORT_DESCRIPTOR = EXEC_DESCRIPTOR + 1
OPEN_FILES = EXEC_DESCRIPTOR + 2
# What glibc reserves, and does not use, in a process of many threads: 64 MB for each of them.
RESERVED_BYTES = 4 << 30
_FAILED = b"E"
_PYTHON_STACK_BYTES = 8 << 20
_BINARY_STACK_BYTES = 256 << 20


class ExecutedProgram:
    """What is to be executed, and as what."""

    def __init__(self, arguments: list[str], control: int, executable: int, source: int | None = None) -> None:
        """Python source is compiled here for its errors only; raises whatever the compiler raises."""
        self._arguments = arguments
        self._stack_bytes = _BINARY_STACK_BYTES if source is None else _PYTHON_STACK_BYTES
        if source is not None:
            with open(source, "rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(file.read(), arguments[-1], "exec", dont_inherit=True)
        os.dup2(executable, EXEC_DESCRIPTOR, inheritable=False)
        os.dup2(control, _REPORT_DESCRIPTOR, inheritable=False)
        os.close(executable)

    def enter(self) -> None:
        """Becomes the program; descriptors 0, 1 and 2 are its own. Never returns."""
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        try:
            # Threads get stacks of this size too, so in Python, whose calls need little of it, it is as usual.
            hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
            soft = self._stack_bytes if hard == resource.RLIM_INFINITY else min(hard, self._stack_bytes)
            resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
            resource.setrlimit(resource.RLIMIT_NOFILE, (jail.MAX_OPEN_FILES, jail.MAX_OPEN_FILES))
            os.execve(EXEC_DESCRIPTOR, self._arguments, {})
        except BaseException as error:
            os.write(_REPORT_DESCRIPTOR, _FAILED + f"executing {self._arguments[0]}: {error}".encode())
        os._exit(1)
