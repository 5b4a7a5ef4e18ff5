"""The box of a worker: a folder that the judge writes to and the programs only read, for what is executed by path.

Inside of namespaces it is a file system in memory. Elsewhere it is a folder among the temporary files, which the
launcher removes when the worker has ended, or when its caller has; one that lost even its launcher is removed by the
next that is made.
"""

import _socket
import fcntl
import os
import shutil
import signal
import struct

import kernel

IN_MEMORY_PATH = "/box"
_MEMORY_OPTIONS = "size=32m,nr_inodes=64,mode=755"
_WRITABLE_MEMORY_OPTIONS = "size=512m,nr_inodes=1k,mode=777"
_PREFIX = "spo-judge-"
_ENDINGS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


class Box:
    """The folder: `path` is where programs find it, `descriptor` what it is written through, if not `writable`."""

    def __init__(self, writable: bool) -> None:
        self.writable = writable
        self.path = IN_MEMORY_PATH
        self.descriptor = -1

    def mount(self, root: str) -> None:
        """Makes it below a root that is being built: read-only by path, writable through the descriptor."""
        place = root + IN_MEMORY_PATH
        os.mkdir(place)
        options = _WRITABLE_MEMORY_OPTIONS if self.writable else _MEMORY_OPTIONS
        kernel.mount("none", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        self.descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        if self.writable:
            return
        kernel.mount(place, place, None, kernel.MS_BIND)
        read_only = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount(None, place, None, read_only)

    def _make_on_disk(self, folder: str) -> None:
        _remove_abandoned(folder)
        self.path = os.path.join(folder, _PREFIX + os.urandom(8).hex())
        os.mkdir(self.path, 0o700)
        self.descriptor = _lock(self.path)

    def leave_with_launcher(self, folder: str, caller: int, control: _socket.socket) -> None:
        """Makes it in `folder`, and forks: returns in the new process; the old one stays, to remove the box."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)  # Kept until the launcher waits for them.
        kernel.die_with_parent(caller, by=signal.SIGTERM)
        kernel.adopt_orphans()
        self._make_on_disk(folder)
        zygote = kernel.fork()
        if zygote:
            control.close()
            self._keep_until_end(zygote)
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def hand_over(self, control: _socket.socket, message: bytes) -> None:
        """Sends a message with the descriptor, which nobody has here any more then."""
        data = struct.pack("=i", self.descriptor)
        control.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)])
        os.close(self.descriptor)
        os.chdir(self.path)

    def _keep_until_end(self, zygote: int) -> None:
        """Waits for the zygote's or the caller's end."""
        while True:
            ending = signal.sigwait(_ENDINGS)
            if ending != signal.SIGCHLD:
                os.kill(zygote, signal.SIGKILL)
            flags = os.WNOHANG if ending == signal.SIGCHLD else 0
            if os.waitpid(zygote, flags) != (0, 0):
                _end_orphans()
                shutil.rmtree(self.path, ignore_errors=True)
                return


def _end_orphans() -> None:
    """Ends what the zygote had started itself, and has left to this process."""
    try:
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)
    except OSError:  # There are none left, or this kernel does not list them.
        return


def _lock(path: str) -> int:
    """Opens a box and locks it for as long as any process has the descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_abandoned(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not name.startswith(_PREFIX):
            continue
        try:
            descriptor = _lock(path)
        except OSError:  # It is in use, somebody else's, or just gone.
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
