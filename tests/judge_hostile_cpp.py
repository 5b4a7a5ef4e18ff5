"""Programs in C++ that mean harm, to their judge or to its compiler. Each is (source, verdicts that fit).

As in `judge_hostile_programs.py`: the right output is `xyzzy-4711`, and what they leave behind is called `left-behind`.
"""

from judge_hostile_calls import ACCEPTED, MEMORY, ON_X86_64, OUTPUT, RUNTIME, SECURITY, TIME, WRONG

_HEADERS = "".join(
    f"#include <{name}>\n"
    for name in (
        *(
            "cstdio",
            "initializer_list",
            "cstdlib",
            "cstring",
            "csignal",
            "dirent.h",
            "fcntl.h",
            "mqueue.h",
            "pthread.h",
            "sched.h",
            "spawn.h",
        ),
        *("sys/mman.h", "sys/prctl.h", "sys/ptrace.h", "sys/resource.h", "sys/socket.h", "sys/stat.h", "sys/syscall.h"),
        *("unistd.h",),
    )
)
_RIGHT = ' puts("xyzzy-4711");'


def _main(body: str, before: str = "") -> str:
    return f"{_HEADERS}{before}\nint main() {{ {body} }}\n"


CPP_HONEST = '#include <cstdio>\nint main() { int n; puts(scanf("%d", &n) == 1 && n == 21 ? "xyzzy-4711" : "?"); }\n'

CPP_PROGRAMS = {
    "fork bomb": (_main("for (;;) fork();"), {SECURITY}),
    "vfork": (_main("vfork();"), {SECURITY}),
    "posix_spawn": (_main('char* a[] = {0}; pid_t p; posix_spawn(&p, "/bin/true", 0, 0, a, a);'), {SECURITY}),
    "executing what it was made from": (
        _main('if (syscall(SYS_execveat, 300, "", 0, 0, 0x1000) != -1) puts("executed");' + _RIGHT),
        {ACCEPTED},
    ),
    "thread bomb": (
        _main("pthread_t t; for (;;) pthread_create(&t, 0, (void* (*)(void*))sleep, (void*)99);"),
        {TIME, MEMORY, RUNTIME},
    ),
    "memory by mmap": (
        _main(
            "for (;;) { char* p = (char*)mmap(0, 1 << 24, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);"
            " if (p == MAP_FAILED) abort(); memset(p, 1, 1 << 24); }"
        ),
        {MEMORY, RUNTIME},
    ),
    "shared memory made ready": (
        _main(
            "for (;;) if (mmap(0, 1 << 24, 3, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED) abort();"
        ),
        {MEMORY, RUNTIME},
    ),
    "a gigantic array that it uses": (
        _main(
            'for (long i = 0; i < 1 << 28; i += 512) a[i] = 1; printf("%d", a[512]);', "static volatile int a[1 << 28];"
        ),
        {MEMORY, RUNTIME},
    ),
    "endless recursion": (
        _main(
            "return R::f(0);",
            "struct R { static int f(int d) { volatile char x[999]; x[d % 9] = 1; return f(d + 1) + x[0]; } };",
        ),
        {MEMORY, RUNTIME},
    ),
    "an endless stack": (
        _main("for (;;) *(volatile char*)alloca(4096) = 1;", "#include <alloca.h>"),
        {MEMORY, RUNTIME},
    ),
    "output bomb": (_main('for (;;) puts("xyzzy-4711");'), {WRONG, OUTPUT}),
    "stderr bomb": (_main('for (;;) fputs("xyzzy-4711", stderr);'), {OUTPUT}),
    "tracing": (_main("ptrace(PTRACE_TRACEME, 0, 0, 0);"), {SECURITY}),
    "tracing its parent": (_main("ptrace(PTRACE_ATTACH, getppid(), 0, 0);"), {SECURITY}),
    "a connection": (
        _main("int s = socket(AF_INET, SOCK_STREAM, 0); sockaddr a = {}; connect(s, &a, sizeof a);"),
        {SECURITY},
    ),
    "killing its parent": (_main("kill(getppid(), SIGKILL);"), {SECURITY}),
    "killing everything": (_main("kill(-1, SIGKILL);"), {SECURITY}),
    "stopping itself": (_main("raise(SIGSTOP);"), {TIME}),
    "ignoring signals": (
        _main("for (int i = 1; i < 65; ++i) signal(i, SIG_IGN); for (volatile int i = 0;; i = 1);"),
        {TIME},
    ),
    "right, then hanging": (_main(_RIGHT + " fflush(stdout); pause();"), {TIME}),
    "hanging in a destructor": (
        _main(_RIGHT, "static struct A { ~A() { for (volatile int i = 0;; i = 1); } } a;"),
        {TIME},
    ),
    "hanging before main": (_main(_RIGHT, "static struct A { A() { for (volatile int i = 0;; i = 1); } } a;"), {TIME}),
    "leaving before its output": (_main(_RIGHT + " _exit(0);"), {WRONG}),
    "right, then crashing": (_main(_RIGHT + " fflush(stdout); abort();"), {RUNTIME}),
    "writing outside": (
        _main(
            'for (auto folder : {"/", "/tmp", "/dev/shm", "/var/tmp", ".", "/box"}) { char path[99];'
            ' snprintf(path, 99, "%s/left-behind", folder); if (fopen(path, "w") || !mkdir(path, 511) ||'
            ' !mkfifo(path, 511) || !symlink("/", path) || !link("/dev/null", path)) puts(path); }'
            'if (shm_open("/left-behind", O_CREAT | O_RDWR, 511) >= 0) puts("shm");'
            'if (mq_open("/left-behind", O_CREAT | O_RDWR, 511, nullptr) != (mqd_t)-1) puts("mq");' + _RIGHT
        ),
        {ACCEPTED},
    ),
    "reading what is not its own": (
        _main(
            'for (auto path : {"/etc/passwd", "/etc/shadow", "/proc/self/mem", "/proc/1/environ", "/proc/self/maps"})'
            ' if (fopen(path, "r")) puts(path);'
            'for (auto path : {"/tmp", "/proc", "/home", "/root", "/var"}) if (opendir(path)) puts(path);'
            'for (int i = 3; i < 1024; ++i) { char c; if (read(i, &c, 1) >= 0) puts("open"); }'
            'if (getenv("PATH")) puts("environment");' + _RIGHT
        ),
        {ACCEPTED},
    ),
    "raising its limits": (
        _main(
            'rlimit r = {RLIM_INFINITY, RLIM_INFINITY}; if (!setrlimit(RLIMIT_CPU, &r)) puts("raised");'
            " for (volatile int i = 0;; i = 1);"
        ),
        {TIME, SECURITY},
    ),
    "own code in memory": (
        _main('if (mmap(0, 1, 7, MAP_PRIVATE | MAP_ANON, -1, 0) != MAP_FAILED) puts("made");' + _RIGHT),
        {ACCEPTED},
    ),
    "another processor": (
        _main(
            "cpu_set_t set; CPU_ZERO(&set); CPU_SET(0, &set);"
            ' if (!sched_setaffinity(0, sizeof set, &set)) puts("moved");' + _RIGHT
        ),
        {ACCEPTED},
    ),
}
if ON_X86_64:
    CPP_PROGRAMS |= {
        "old calls of 32 bits": (_main('asm volatile("int $0x80" : : "a"(2));' + _RIGHT), {SECURITY, RUNTIME}),
        "a bare fork": (_main('asm volatile("syscall" : : "a"(57) : "rcx", "r11", "memory");'), {SECURITY}),
    }

# Against the compiler: none compiles.
CPP_SOURCES = {
    "templates without end": "template <int N> struct A : A<N + 1> {};\nA<0> a;\nint main() {}",
    "types without end": "template <class T> struct A { A<A<T>> x; };\nA<int> a;\nint main() {}",
    "a file without end": '#include "/dev/zero"\nint main() {}',
    "itself": '#include "solution.cpp"\nint main() {}',
    "a secret": '#include "/etc/passwd"\nint main() {}',
    "a secret, by the assembler": 'asm(".incbin \\"/etc/shadow\\"");\nint main() {}',
    "the environment": '#include "/proc/self/environ"\nint main() {}',
    "a gigantic array with contents": "int a[1 << 29] = {1};\nint main() { return a[5]; }",
    "an assembler that repeats": 'asm(".rept 1000000000\\n.quad 1\\n.endr");\nint main() {}',
    "messages without end": "".join(f"int f{n} = undeclared_{n};\n" for n in range(400)),
    "a huge line that is wrong": "int main() { return " + "(" * 2_000 + "1; }",
}
# Each uses up the compiler's time or memory.
CPP_SLOW_SOURCES = {
    "a loop in a constant": "constexpr int f() { int n = 0; for (long i = 0; i < 1l << 60; ++i) n ^= i; return n; }\n"
    "constexpr int x = f();\nint main() { return x; }",
    "a billion laughs": "#define a0 x+x\n"
    + "".join(f"#define a{n} a{n - 1}+a{n - 1}\n" for n in range(1, 31))
    + "int main() { int x = 1; return a30; }",
    "randomness": '#include "/dev/random"\nint main() {}',
}
