"""The jail of one worker: namespaces, a read-only root, an own uid, landlock and the system call filter, by tier.

Made once, before any judged program; everything below is inherited by every fork. A tier that this host refuses raises
`OSError` with the call that failed; choosing another tier is the caller's business.
"""

import os
import resource

import kernel
from box import Box

ROOT, USER_NAMESPACE, LANDLOCK, SECCOMP = "root", "user_namespace", "landlock", "seccomp"

_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_NOBODY = 65534
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full"]
_RANDOM = ["/dev/random", "/dev/urandom"]
_LIBRARIES = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
_DATA = ["/usr/share/zoneinfo", "/etc/localtime"]
# Threads of all processes of a worker, where it has a uid of its own.
_MAX_THREADS = 512
MAX_OPEN_FILES = 256
# What can be missing where a tier is had; the tier must not be forced then.
_EXPECTED = {ROOT: {"own_uid", "landlock"}, USER_NAMESPACE: {"landlock"}, LANDLOCK: {"landlock"}, SECCOMP: set()}
# Each takes memory of the kernel, as a queued signal does.
MAX_TIMERS = 256


def readable_paths(more: list[str]) -> list[str]:
    """What Python needs to import the rest of the standard library, and `more`; nothing of the caller's."""
    library = os.path.dirname(os.path.dirname(os.__file__))
    wanted = sorted({*_LIBRARIES, library, *_DATA, *_RANDOM, *more})
    paths: list[str] = []
    for path in wanted:
        if os.path.exists(path) and not any(path.startswith(parent + "/") for parent in paths):
            paths.append(path)
    return paths


def missing_layers(tier: str, layers: list[str]) -> str:
    """The layers of a tier that are not in force, for people; else empty."""
    return ", ".join(sorted(_EXPECTED[tier] - set(layers)))


def leave_host(tier: str) -> bool:
    """Enters the namespaces of `tier`; True when the caller must fork to be inside."""
    if tier == ROOT:
        kernel.unshare(_NAMESPACES)
        return True
    if tier == USER_NAMESPACE:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER | _NAMESPACES)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{_NOBODY} {uid} 1")
        _write("/proc/self/gid_map", f"{_NOBODY} {gid} 1")
        return True
    return False


def lock_in(
    tier: str,
    uid: int,
    base_filter: kernel.SystemCallFilter,
    readable: list[str],
    box: Box | None = None,
    open_files: int = MAX_OPEN_FILES,
) -> list[str]:
    """Everything but the namespaces: mounts, uid, capabilities, limits, landlock, seccomp.

    `readable` are the worker's own files beside the libraries, `box` its folder, `open_files` its limit. Returns the
    layers that are in force.
    """
    paths = readable_paths(readable)
    layers = []
    if tier in (ROOT, USER_NAMESPACE):
        layers += ["namespaces", "read_only_root"]
        _enter_read_only_root(paths, box)
        # Threads are counted by uid and user namespace; elsewhere the caller's own would count.
        resource.setrlimit(resource.RLIMIT_NPROC, (_MAX_THREADS, _MAX_THREADS))
    else:
        os.chdir("/")
    if tier == ROOT and _become(uid):
        layers.append("own_uid")
    kernel.drop_capabilities()
    _limit_resources(open_files)
    kernel.forbid_new_privileges()
    folder = box.path if box is not None and box.writable else None
    if box is not None and not box.writable:
        paths.append(box.path)
    if tier != SECCOMP and kernel.landlock_abi() > 0:
        kernel.landlock_read_only([path for path in paths if os.path.exists(path)], _existing_devices(), folder)
        layers.append("landlock")
    kernel.forbid_inspection()
    base_filter.install()
    return [*layers, "system_call_filter", "resource_limits"]


def _limit_resources(open_files: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, MAX_TIMERS),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _enter_read_only_root(paths: list[str], box: Box | None) -> None:
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    base = "/tmp" if os.path.isdir("/tmp") else "/dev"
    os.chdir("/")
    # The new root covers `base`, so all that is to be bound is opened before.
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in [*paths, *_existing_devices()]}
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,nr_inodes=256,mode=755")
    for path, source in sources.items():
        target = base + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path in links:
            os.symlink(links[path], target)
        else:
            _bind(f"/proc/self/fd/{source}", target, path)
    for descriptor in sources.values():
        os.close(descriptor)
    if box is not None:
        box.mount(base)
    kernel.enter_root(base)
    read_only = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount(None, "/", None, read_only)


def _bind(source: str, target: str, path: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    # A user namespace may not clear the flags that the mount came with.
    kept = os.statvfs(target).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_NOSUID | kept
    kernel.mount(None, target, None, flags if path in _DEVICES else flags | kernel.MS_RDONLY)


def _existing_devices() -> list[str]:
    return [path for path in _DEVICES if os.path.exists(path)]


def _become(uid: int) -> bool:
    """Takes the uid; nobody's, and false, where it cannot be had."""
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return True
    except OSError:  # A container whose id range is too small for an own uid.
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        return False


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, f"writing {path}: {error.strerror}") from error
