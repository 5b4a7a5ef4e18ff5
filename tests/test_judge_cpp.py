"""C++17: compiled once in a sandbox, then executed for each test under the rules of all programs, in every tier."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from spo.errors import JudgeError
from spo.judge import Judge, Limits, TestCase, Verdict

needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="this host has no C++ compiler"
)
DOUBLE = "#include <iostream>\nint main() { long long n; std::cin >> n; std::cout << 2 * n << '\\n'; }\n"
TESTS = [TestCase(input="21\n", output="42\n"), TestCase(input="4\n", output="8\n")]
LIMITS = Limits(cpu_time_s=0.5, wall_time_s=10.0, memory_bytes=64 << 20, output_bytes=1 << 20)
HEADERS = "".join(
    f"#include <{name}>\n"
    for name in ("cstdio", "cstdlib", "csignal", "pthread.h", "sys/mman.h", "sys/socket.h", "unistd.h")
)
MEMORY, ACCEPTED = Verdict.MEMORY_LIMIT, Verdict.ACCEPTED
SLOW_TO_COMPILE = (
    "template <int A, int B> struct F { static constexpr long x = F<A - 1, B>::x + F<A - 1, B * 2 % 65521>::x; };\n"
    "template <int B> struct F<0, B> { static constexpr long x = B; };\nint main() { return F<24, 1>::x % 2; }\n"
)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(num_workers=1, limits=LIMITS) as judge:
        yield judge


@needs_a_compiler
@pytest.mark.parametrize("tier", ["root", "user_namespace", "landlock"])
def test_programs_are_compiled_and_run_in_every_tier(tier: str) -> None:
    try:
        judge = Judge(num_workers=1, limits=LIMITS, isolation=tier)
    except JudgeError as refusal:
        pytest.skip(f"this host does not give the tier: {refusal}")
    with judge:
        judgement = judge.judge(DOUBLE, TESTS, language="c++17")
        assert (judgement.verdict, judgement.num_passed, judgement.isolation_tier) == (Verdict.ACCEPTED, 2, tier)
        spying = judge.judge('#include "/etc/passwd"\nint main() {}', TESTS, language="cpp")
        assert spying.verdict is Verdict.COMPILE_ERROR
        assert "root:" not in spying.message
        forking = judge.judge(HEADERS + "int main() { fork(); }", TESTS, language="cpp")
        assert forking.verdict is Verdict.SECURITY_VIOLATION
        reading = 'int main() { puts(fopen("/etc/passwd", "r") || fopen("left", "w") ? "" : "42"); }'
        assert judge.judge(HEADERS + reading, TESTS[:1], language="cpp").verdict is Verdict.ACCEPTED


@needs_a_compiler
@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ('puts("41");', Verdict.WRONG_ANSWER),
        ("return 3;", Verdict.RUNTIME_ERROR),
        ("*(volatile int*)0 = 1;", Verdict.RUNTIME_ERROR),
        ("throw 1;", Verdict.RUNTIME_ERROR),
        ("for (volatile int i = 0;; i = 1);", Verdict.TIME_LIMIT),
        ("for (;;) for (volatile char *p = new char[1 << 20], *q = p; q < p + (1 << 20); q += 999) *q = 1;", MEMORY),
        ("*new volatile char[1ll << 40] = 1;", MEMORY),
        ('for (;;) puts("42");', Verdict.OUTPUT_LIMIT),
        ('system("true");', Verdict.SECURITY_VIOLATION),
        ('execl("/bin/true", "true", nullptr);', Verdict.SECURITY_VIOLATION),
        ("socket(AF_INET, SOCK_STREAM, 0);", Verdict.SECURITY_VIOLATION),
        ("kill(getppid(), 9);", Verdict.SECURITY_VIOLATION),
        ('mmap(0, 1, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANON, -1, 0) == MAP_FAILED && puts("42");', ACCEPTED),
        ('pthread_t t; pthread_create(&t, 0, (void* (*)(void*))puts, (void*)"42"); pthread_join(t, 0);', ACCEPTED),
        (
            "struct R { static int f(int d) { volatile char x[99]; x[0] = 1; return d ? f(d - 1) + x[0] : 0; } };"
            'printf("%d", R::f(1000000) - 999958);',
            MEMORY,
        ),
        (
            "struct R { static int f(int d) { volatile char x[99]; x[0] = 1; return d ? f(d - 1) + x[0] : 0; } };"
            'printf("%d", R::f(200000) - 199958);',
            ACCEPTED,
        ),
    ],
)
def test_a_program_gets_the_verdict_that_fits(judge: Judge, body: str, verdict: Verdict) -> None:
    stops = verdict is not Verdict.OUTPUT_LIMIT
    source = f"{HEADERS}int main() {{ {body} }}\n"
    judgement = judge.judge(source, TESTS[:1], language="cpp", stop_on_first_failure=stops)
    assert judgement.verdict is verdict, judgement


@needs_a_compiler
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("int main() { return x; }", "'x' was not declared"),
        ('#include "/etc/passwd"\nint main() {}', "/etc/passwd"),
        ('asm(".incbin \\"/etc/shadow\\"");\nint main() {}', "/etc/shadow"),
        ('#include "/dev/zero"\nint main() {}', ""),
        ('#include "solution.cpp"\nint main() {}', ""),
        ("int a[1 << 29] = {1};\nint main() {}", ""),
        ("template <class T> struct A { A<A<T>> x; };\nA<int> a;\nint main() {}", ""),
        ("void f();\nint main() { f(); }", "undefined reference"),
        ("", ""),
        ('int main() {}\n\0"', ""),
    ],
)
def test_what_does_not_compile_says_why_and_leaves_nothing(judge: Judge, source: str, words: str) -> None:
    judgement = judge.judge(source, TESTS, language="cpp")
    assert judgement.verdict is Verdict.COMPILE_ERROR
    assert words in judgement.message
    assert "root:" not in judgement.message
    assert 0 < len(judgement.message) < 20_000
    assert judge.judge(DOUBLE, TESTS, language="cpp").verdict is Verdict.ACCEPTED


@needs_a_compiler
async def test_cancelling_a_compilation_frees_the_worker_at_once() -> None:
    with Judge(num_workers=1) as judge:
        with trio.move_on_after(0.5):
            await judge.judge_async(SLOW_TO_COMPILE, TESTS, language="cpp")
        with trio.fail_after(10):
            assert (await judge.judge_async("print(int(input()) * 2)", TESTS)).verdict is Verdict.ACCEPTED


CALLER = """
from spo.judge import *
judge = Judge(num_workers=1, isolation="landlock")
print("ready", flush=True)
judge.judge({source!r}, [TestCase()], language="cpp")
"""


def compilers() -> int:
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                count += (entry / "comm").read_text() in ("cc1plus\n", "clang++\n")
            except (FileNotFoundError, ProcessLookupError):
                continue
    return count


@needs_a_compiler
def test_a_compiler_and_its_files_do_not_outlive_the_caller(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER.format(source=SLOW_TO_COMPILE)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    before = compilers()
    deadline = time.monotonic() + 20
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        while compilers() == before or not list(tmp_path.iterdir()):
            assert time.monotonic() < deadline, "no compiler was started"
            time.sleep(0.01)
        caller.send_signal(signal.SIGKILL)
    while compilers() > before or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.01)


def test_without_a_compiler_it_is_said_at_once(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JudgeError, match="no C\\+\\+ compiler: put g\\+\\+"):
        judge.judge(DOUBLE, TESTS, language="cpp")


def test_a_mode_or_function_is_not_for_it(judge: Judge) -> None:
    with pytest.raises(ValueError, match='mode is "warm": C\\+\\+ has "exec"'):
        judge.judge(DOUBLE, TESTS, language="cpp", mode="warm")
    with pytest.raises(ValueError, match="fn_name is for warm Python"):
        judge.judge(DOUBLE, [TestCase(args=[1], output=1)], language="cpp", fn_name="f")
