"""What hostile programs are written with: system calls by name, on either architecture, and short names of verdicts."""

import platform

from spo.judge import Verdict

ACCEPTED, WRONG, RUNTIME = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR
TIME, MEMORY, OUTPUT = Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT, Verdict.OUTPUT_LIMIT
COMPILE, SECURITY = Verdict.COMPILE_ERROR, Verdict.SECURITY_VIOLATION

ON_X86_64 = platform.machine() == "x86_64"
# name=number on x86-64,number on aarch64
_NUMBERS = """
    add_key=248,217 adjtimex=159,171 bpf=321,280 capset=126,91 clock_adjtime=305,266 clone=56,220 clone3=435,435
    copy_file_range=326,285 execveat=322,281 fanotify_init=300,262 fsopen=430,430 init_module=175,105
    inotify_init1=294,26 io_uring_enter=426,426 io_uring_setup=425,425 ioprio_set=251,30 kcmp=312,272
    kexec_load=246,104 keyctl=250,219 mlock=149,228 mlock2=325,284 mlockall=151,230 mount=165,40 mq_open=240,180
    msgget=68,186 name_to_handle_at=303,264 open_by_handle_at=304,265 perf_event_open=298,241
    personality=135,92 pidfd_getfd=438,438 pidfd_send_signal=424,424
    pivot_root=155,41 prctl=157,167 process_vm_readv=310,270 process_vm_writev=311,271 ptrace=101,117
    reboot=169,142 rt_sigqueueinfo=129,138 rt_tgsigqueueinfo=297,240 sched_setattr=314,274 seccomp=317,277
    semget=64,190 sendfile=40,71 setns=308,268 settimeofday=164,170 shmget=29,194 splice=275,76 swapon=167,224
    tee=276,77 tgkill=234,131 timer_create=222,107 tkill=200,130 umount2=166,39 unshare=272,97
    userfaultfd=323,282 vmsplice=278,75
"""
_ONLY_ON_X86_64 = "iopl=172 vfork=58"


_entries = [entry.split("=") for entry in (_NUMBERS + (_ONLY_ON_X86_64 if ON_X86_64 else "")).split()]
_numbers = {name: int(numbers.split(",")[0 if ON_X86_64 else 1]) for name, numbers in _entries}

# `call(name, arguments…)` makes a system call, and `refused(name, arguments…)` one that must fail.
CALL = (
    "import ctypes, os\n"
    f"_numbers = {_numbers}\n"
    "def call(name, *arguments): return _call(_numbers.get(name, name), *arguments)\n"
    "_call = ctypes.CDLL(None, use_errno=True).syscall\n"
)
REFUSED = (
    CALL
    + """
def refused(name, *arguments):
    result = call(name, *arguments)
    assert result == -1, (name, result)
"""
)
RIGHT = "\nprint('xyzzy-4711')\n"
