//! The system calls that are left to a judged program, as two BPF programs for seccomp(2).
//!
//! The *base* filter is installed once, in the zygote, and is an allowlist: unknown calls get `ENOSYS` (so that libraries
//! fall back), calls that change files get `EPERM`, and calls that only an attack makes end the process, which the judge
//! sees as a security violation. Programs that are run by exec get past it once: only
//! [`EXEC_DESCRIPTOR`] can be executed, a number that closes on exec and that no process may open again. The *child* filter is installed after the fork for each test and forbids what the
//! zygote's own processes still need: making processes, signalling others, and outliving the parent.

#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
/// Set in the call numbers of the x32 ABI.
const X32_BIT: u32 = 0x4000_0000;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7FFF_0000; // SECCOMP_RET_ALLOW
const KILL: u32 = 0x8000_0000; // SECCOMP_RET_KILL_PROCESS
const fn fail_with(errno: i32) -> u32 {
    0x0005_0000 | errno as u32 // SECCOMP_RET_ERRNO
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index // the low half: both architectures are little-endian
}

/// Made by attacks, not by programs: the process ends at once.
#[rustfmt::skip]
const HOSTILE: &[libc::c_long] = &[
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal, libc::SYS_execve, libc::SYS_unshare, libc::SYS_setns,
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_move_mount,
    libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_mount_setattr, libc::SYS_open_by_handle_at, libc::SYS_connect, libc::SYS_bind,
    libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_bpf, libc::SYS_perf_event_open,
    libc::SYS_userfaultfd, libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_sethostname, libc::SYS_setdomainname,
    libc::SYS_personality,
];
#[cfg(target_arch = "x86_64")]
const HOSTILE_HERE: &[libc::c_long] =
    &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const HOSTILE_HERE: &[libc::c_long] = &[];

/// Refused as a read-only system refuses them.
#[rustfmt::skip]
const REFUSED: &[libc::c_long] = &[
    libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_symlinkat, libc::SYS_mknodat, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown,
    libc::SYS_fchownat, libc::SYS_truncate, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_utimensat,
    libc::SYS_setxattr, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setgroups, libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_setpriority, libc::SYS_memfd_create,
    libc::SYS_mlock, libc::SYS_mlockall, libc::SYS_setsid, libc::SYS_setpgid,
];
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_link, libc::SYS_symlink,
    libc::SYS_mknod, libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_creat, libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// What CPython and the C library need to compute, read, write to open descriptors, wait, and use threads.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_futex, libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap,
    libc::SYS_madvise, libc::SYS_close, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_lseek,
    libc::SYS_openat, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_getdents64, libc::SYS_readlinkat,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_getcwd,
    libc::SYS_chdir, libc::SYS_umask, libc::SYS_fadvise64, libc::SYS_close_range, libc::SYS_getxattr,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack, libc::SYS_restart_syscall,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_eventfd2, libc::SYS_sched_yield, libc::SYS_nanosleep, libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_times,
    libc::SYS_setitimer, libc::SYS_getitimer, libc::SYS_timer_create, libc::SYS_timer_settime,
    libc::SYS_timer_gettime, libc::SYS_timer_delete, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid,
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_getrusage,
    libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_getrandom, libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_getpriority, libc::SYS_getcpu, libc::SYS_set_robust_list,
    libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_membarrier, libc::SYS_set_tid_address, libc::SYS_exit,
    libc::SYS_exit_group, libc::SYS_capget,
    // A program's own socket pairs (asyncio has one), and the control sockets of the helper's own processes.
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_shutdown,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    // Needed by the zygote and the template; the child filter narrows them.
    libc::SYS_clone, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_kill, libc::SYS_tgkill, libc::SYS_prlimit64,
    libc::SYS_prctl, libc::SYS_pidfd_open, libc::SYS_seccomp,
];
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_open, libc::SYS_access, libc::SYS_poll, libc::SYS_select,
    libc::SYS_pipe, libc::SYS_dup2, libc::SYS_getdents, libc::SYS_readlink, libc::SYS_epoll_create,
    libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_getpgrp, libc::SYS_alarm, libc::SYS_pause, libc::SYS_time,
    libc::SYS_arch_prctl, libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// The descriptor of the file that a test's process executes. It is above the limit on open files that the process has by
/// then, so once exec has closed it, nothing can have this number.
pub(super) const EXEC_DESCRIPTOR: u32 = 300;

/// What compilers and linkers need beside it: processes, and files in the folder that they are given.
#[rustfmt::skip]
const FOR_COMPILERS: &[libc::c_long] = &[
    libc::SYS_execve, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_mkdirat, libc::SYS_fchmod,
    libc::SYS_fchmodat, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_utimensat, libc::SYS_setpgid,
    libc::SYS_sendfile, libc::SYS_copy_file_range,
];
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const FOR_COMPILERS_HERE: &[libc::c_long] = &[
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_unlink, libc::SYS_rename, libc::SYS_mkdir, libc::SYS_rmdir,
    libc::SYS_chmod, libc::SYS_setrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const FOR_COMPILERS_HERE: &[libc::c_long] = &[];

/// F_SETOWN, F_SETSIG, F_SETOWN_EX; F_SETLEASE, F_NOTIFY, F_SET_RW_HINT, F_SET_FILE_RW_HINT
const FCNTL_FOR_OTHERS: [u32; 7] = [8, 10, 15, 1024, 1026, 1036, 1038];
/// TCGETS (isatty), TIOCOUTQ, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
const IOCTL_HARMLESS: [u32; 7] = [0x5401, 0x5411, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451];
const PR_SCHED_CORE: u32 = 62;

/// A BPF program under construction.
#[derive(Default)]
struct Assembler(Vec<(u16, u8, u8, u32)>);

impl Assembler {
    fn emit(&mut self, code: u16, value: u32) -> &mut Self {
        self.branch(code, value, 0, 0)
    }

    fn branch(&mut self, code: u16, value: u32, if_true: u8, if_false: u8) -> &mut Self {
        self.0.push((code, if_true, if_false, value));
        self
    }

    /// Refuses other architectures' calls, and leaves the call number in the accumulator.
    fn prologue(&mut self) {
        self.emit(LOAD, ARCHITECTURE).branch(IF_EQUAL, AUDIT_ARCH, 1, 0).emit(RETURN, KILL);
        self.emit(LOAD, NUMBER);
        if cfg!(target_arch = "x86_64") {
            self.branch(IF_AT_LEAST, X32_BIT, 0, 1).emit(RETURN, KILL);
        }
    }

    /// Calls of the list end in `action`.
    fn each(&mut self, calls: &[libc::c_long], action: u32) {
        // A conditional jump reaches 255 instructions.
        for group in calls.chunks(250) {
            for (index, call) in group.iter().enumerate() {
                self.branch(IF_EQUAL, *call as u32, (group.len() - index) as u8, 0);
            }
            self.emit(JUMP, 1).emit(RETURN, action);
        }
    }

    /// The call is decided by `rule`, which must end in a `RETURN` on each path; other calls go on behind it.
    fn only(&mut self, call: libc::c_long, rule: impl FnOnce(&mut Self)) {
        let mut inner = Assembler::default();
        rule(&mut inner);
        self.branch(IF_EQUAL, call as u32, 0, inner.0.len() as u8);
        self.0.append(&mut inner.0);
    }

    /// Decides by an argument: `action` for these values, `otherwise` for all others.
    fn by_argument(&mut self, index: u32, values: &[u32], action: u32, otherwise: u32) {
        self.emit(LOAD, argument(index));
        for (index, value) in values.iter().enumerate() {
            self.branch(IF_EQUAL, *value, (values.len() - index) as u8, 0);
        }
        self.emit(RETURN, otherwise).emit(RETURN, action);
    }

    fn bytes(&self) -> Vec<u8> {
        let encode = |&(code, if_true, if_false, value): &(u16, u8, u8, u32)| {
            let [low, high] = code.to_ne_bytes();
            let [a, b, c, d] = value.to_ne_bytes();
            [low, high, if_true, if_false, a, b, c, d]
        };
        self.0.iter().flat_map(encode).collect()
    }
}

/// The allowlist that the zygote and everything below it live under.
pub(super) fn base_filter() -> Vec<u8> {
    allowlist(&[])
}

/// The allowlist of a compiler, and of what it starts.
pub(super) fn compiler_filter() -> Vec<u8> {
    allowlist(&[FOR_COMPILERS, FOR_COMPILERS_HERE])
}

fn allowlist(more: &[&[libc::c_long]]) -> Vec<u8> {
    let mut filter = Assembler::default();
    filter.prologue();
    more.iter().for_each(|calls| filter.each(calls, ALLOW));
    filter.each(ALLOWED, ALLOW);
    filter.each(ALLOWED_HERE, ALLOW);
    filter.only(libc::SYS_mmap, |rule| {
        let writable_code = (libc::PROT_WRITE | libc::PROT_EXEC) as u32;
        rule.emit(LOAD, argument(2)).emit(AND, writable_code).branch(IF_EQUAL, writable_code, 0, 1);
        rule.emit(RETURN, fail_with(libc::EPERM)).emit(RETURN, ALLOW);
    });
    filter.only(libc::SYS_mprotect, |rule| {
        rule.emit(LOAD, argument(2)).branch(IF_ANY_BIT, libc::PROT_EXEC as u32, 0, 1);
        rule.emit(RETURN, fail_with(libc::EPERM)).emit(RETURN, ALLOW);
    });
    filter.only(libc::SYS_socketpair, |rule| {
        // Only connected streams: a datagram socket could address others'.
        rule.emit(LOAD, argument(1)).emit(AND, 0xF).branch(IF_EQUAL, libc::SOCK_STREAM as u32, 1, 0);
        rule.emit(RETURN, KILL).emit(RETURN, ALLOW);
    });
    // A descriptor with an owner would signal other processes, and a lease of a file make them wait.
    let refused = fail_with(libc::EPERM);
    filter.only(libc::SYS_fcntl, |rule| rule.by_argument(1, &FCNTL_FOR_OTHERS, refused, ALLOW));
    // Others type into the caller's terminal, or change what a file system holds of a file that can only be read.
    filter.only(libc::SYS_ioctl, |rule| rule.by_argument(1, &IOCTL_HARMLESS, ALLOW, fail_with(libc::ENOTTY)));
    filter.only(libc::SYS_socket, |rule| {
        // The C library itself tries these two, to ask for user names or interfaces, and goes on without.
        rule.emit(LOAD, argument(0)).branch(IF_EQUAL, libc::AF_UNIX as u32, 1, 0);
        rule.branch(IF_EQUAL, libc::AF_NETLINK as u32, 0, 1);
        rule.emit(RETURN, fail_with(libc::EAFNOSUPPORT)).emit(RETURN, KILL);
    });
    filter.only(libc::SYS_execveat, |rule| {
        rule.emit(LOAD, argument(0)).branch(IF_EQUAL, EXEC_DESCRIPTOR, 1, 0);
        rule.emit(RETURN, KILL).emit(RETURN, ALLOW);
    });
    filter.each(HOSTILE, KILL);
    filter.each(HOSTILE_HERE, KILL);
    filter.each(REFUSED, fail_with(libc::EPERM));
    filter.each(REFUSED_HERE, fail_with(libc::EPERM));
    filter.emit(RETURN, fail_with(libc::ENOSYS));
    filter.bytes()
}

/// The filter of one test's process, and the byte offset at which its pid is to be written before it is installed.
pub(super) fn child_filter() -> (Vec<u8>, usize) {
    let mut filter = Assembler::default();
    filter.prologue();
    filter.only(libc::SYS_clone, |rule| {
        rule.emit(LOAD, argument(0)).branch(IF_ANY_BIT, libc::CLONE_THREAD as u32, 1, 0);
        rule.emit(RETURN, KILL).emit(RETURN, ALLOW);
    });
    filter.only(libc::SYS_prlimit64, |rule| {
        rule.emit(LOAD, argument(0)).branch(IF_EQUAL, 0, 1, 0);
        rule.emit(RETURN, fail_with(libc::EPERM)).emit(RETURN, ALLOW);
    });
    filter.only(libc::SYS_prctl, |rule| {
        let for_others = [libc::PR_SET_PDEATHSIG as u32, PR_SCHED_CORE];
        rule.by_argument(0, &for_others, fail_with(libc::EPERM), ALLOW);
    });
    // Signals reach the own process only.
    filter.branch(IF_EQUAL, libc::SYS_kill as u32, 2, 0).branch(IF_EQUAL, libc::SYS_tgkill as u32, 1, 0);
    filter.emit(RETURN, ALLOW).emit(LOAD, argument(0));
    let pid_instruction = filter.0.len();
    filter.branch(IF_EQUAL, 0, 1, 0).emit(RETURN, KILL).emit(RETURN, ALLOW);
    (filter.bytes(), pid_instruction * 8 + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_in_two_lists() {
        let lists = [HOSTILE, HOSTILE_HERE, REFUSED, REFUSED_HERE, ALLOWED, ALLOWED_HERE];
        let mut calls: Vec<_> = lists.concat();
        calls.sort_unstable();
        let count = calls.len();
        calls.dedup();
        assert_eq!(calls.len(), count);
    }

    #[test]
    fn every_jump_of_the_filters_lands_inside() {
        for bytes in [base_filter(), compiler_filter(), child_filter().0] {
            let count = bytes.len() / 8;
            for (index, instruction) in bytes.chunks(8).enumerate() {
                let farthest = index + 1 + usize::from(instruction[2].max(instruction[3]));
                assert!(instruction[0] == RETURN as u8 || farthest < count, "instruction {index}");
            }
            assert_eq!(bytes[(count - 1) * 8], RETURN as u8);
        }
    }
}
