"""What handed-in code cannot reach: Linux namespaces, a file system of its own, and limits. As root or as any user.

A process that has entered has no network but its own loopback, sees no process but its own, and no file but what is
named here, read-only. What it writes goes to memory and ends with it. The calls are those of unshare(2), mount(2),
mount_setattr(2), pivot_root(2), capset(2) and prctl(2).
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """What a submission may use. Memory and processor time of the whole tree of processes are watched from outside."""

    memory: int = 6144 * MEBIBYTE  # bytes of data per process
    processes: int = 256
    file_size: int = 256 * MEBIBYTE
    disk: int = 1024 * MEBIBYTE  # bytes of /tmp, and the same again of shared memory
    files: int = 2**16  # of /tmp, and the same again of shared memory: each takes memory that is not counted
    open_files: int = 1024


LIMITS = Limits()


def enter(readable: Iterable[Path]) -> None:
    """Go on in a new process that is alone in its namespaces; the calling one waits for it and ends as it ends.

    The calling process must have one thread.

    Args:
        readable: files and folders that are visible, at their own places.

    Raises:
        OSError: if this machine does not allow it. Then the process may be in some of the namespaces already.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _libc.unshare(sum(_NAMESPACES)))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_USER} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_USER} {group} 1")
    with socket.socket() as probe:
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP_RUNNING))
    child = os.fork()
    if child:
        _end_as(child)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _new_root([path for path in readable if path.exists()])
    # In namespaces of its own making it could mount, and reach parts of the kernel that only root reaches. Where this
    # setting cannot be written, all else still protects.
    with contextlib.suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    limit()
    # Where root grades, the user in here owns the settings of the whole machine, and no right has to be held to write
    # them: the program that the system starts as root when one crashes is a setting too.
    _read_only(Path("/proc"), device=False)
    _call("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    nothing = struct.pack("6I", *[0] * 6)
    _call("capset", _libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), nothing))


def watched() -> None:
    """Go on in a new process; the calling one waits for it, then ends all that it left behind.

    Where nothing is isolated, a process that the first one started and did not wait for would go on for ever.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # those whose parent ended become children of this process
    child = os.fork()
    if child:
        signal.signal(signal.SIGTERM, lambda *_: _end_children())
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # when the process that forked this one ends
        _end_as(child, _end_children)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def limit() -> None:
    """Set the limits that the system counts per process, or per user."""
    for what, most in (
        (resource.RLIMIT_DATA, LIMITS.memory),
        (resource.RLIMIT_NPROC, LIMITS.processes),
        (resource.RLIMIT_FSIZE, LIMITS.file_size),
        (resource.RLIMIT_NOFILE, LIMITS.open_files),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    with contextlib.suppress(OSError):  # where memory runs out all the same, the system ends no program but these
        Path("/proc/self/oom_score_adj").write_text("1000")


def visible() -> list[Path]:
    """Return what a lesson reads: this Python, its packages, the course, and what the system's programs need."""
    places = [Path(sys.prefix), Path(sys.base_prefix), _COURSE]
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys", *_SETTINGS]
    return [*(Path(name) for name in system), *dict.fromkeys(place.resolve() for place in places)]


_SETTINGS = [
    f"/etc/{name}"
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "fonts", "mime.types", "nsswitch.conf")
]
_COURSE = Path(__file__).parents[3]
HIDDEN = (_COURSE / "quiz" / "banks", *map(Path, ("/sys/firmware", "/sys/fs/pstore", "/sys/kernel/debug")))
"""What is visible to nobody: the question banks with their keys, and what root alone may read of the machine."""
_FILES = {
    "hosts": "127.0.0.1 localhost {host}\n::1 localhost\n",
    "passwd": "learner:x:1000:1000:learner:/tmp/work:/bin/sh\n",
    "group": "learner:x:1000:\n",
}
"""What /etc holds of the sandbox's own."""
DEVICES = {name: name for name in ("null", "full", "random", "urandom")} | {"zero": "full"}
"""What /dev holds, and which device of the machine it is.

Memory that is mapped from the real /dev/zero belongs to no process, so that no limit would count it. To read from
/dev/full gives zeros too.
"""


def _end_as(child: int, at_last: Callable[[], None] = lambda: None) -> NoReturn:
    """Wait for the process that is the sandbox, and end as it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.closerange(3, 2**16)  # or who waits for the end of the channel waits for this process too
    _, status = os.waitpid(child, 0)
    at_last()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _end_children() -> None:
    """End all processes below this one; the children of one that ended are this process's own."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
            time.sleep(0.005)


def _new_root(readable: list[Path]) -> None:
    """Make a file system in memory that holds what is readable, and let it be all there is."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    links = [path for path in readable if path.is_symlink()]
    places = [path for path in readable if not path.is_symlink()]
    devices = {Path("/dev") / name: f"/dev/{device}" for name, device in DEVICES.items()}
    opened = {path: os.open(devices.get(path, path), os.O_PATH) for path in [*places, *devices]}
    root = Path("/tmp")
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={LIMITS.disk},mode=755")
    for name in ("tmp", "dev/shm"):  # first, since what is readable may lie below them
        (root / name).mkdir(parents=True)
        about = f"size={LIMITS.disk},nr_inodes={LIMITS.files},mode=1777"
        _mount("tmpfs", root / name, "tmpfs", _MS_NOSUID | _MS_NODEV, about)
    for path, fd in opened.items():
        target = root / path.relative_to("/")
        if any(parent in opened for parent in path.parents):
            os.close(fd)
            continue  # it lies within a place that is visible already
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # of what was opened: its path may be hidden by now
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        _mount(f"/proc/self/fd/{fd}", target, None, _MS_BIND | _MS_REC)
        os.close(fd)
        _read_only(target, device=path in devices)
    for path in HIDDEN:
        if (root / path.relative_to("/")).is_dir() and path not in readable:
            _mount("tmpfs", root / path.relative_to("/"), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4k,mode=755")
    for path in links:  # as /bin → usr/bin
        (root / path.relative_to("/")).symlink_to(os.readlink(path))
    (root / "etc").mkdir(exist_ok=True)
    for name, text in _FILES.items():
        (root / "etc" / name).write_text(text.format(host=socket.gethostname()))
    for name in ("proc", "old"):
        (root / name).mkdir()
    (root / "dev/fd").symlink_to("/proc/self/fd")
    _mount("proc", root / "proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _call("pivot_root", _libc.syscall(_PIVOT_ROOT, str(root).encode(), str(root / "old").encode()))
    os.chdir("/")
    _call("umount", _libc.umount2(b"/old", _MNT_DETACH))
    os.rmdir("/old")
    _read_only(Path("/"), device=False, recursive=False)


def _read_only(path: Path, device: bool, recursive: bool = True) -> None:
    flags = _ATTR_RDONLY | _ATTR_NOSUID | (0 if device else _ATTR_NODEV)
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    how = _AT_RECURSIVE if recursive else 0
    result = _libc.syscall(_MOUNT_SETATTR, -100, str(path).encode(), how, ctypes.byref(attributes), 32)
    _call(f"mount_setattr {path}", result)


def _mount(source: str | None, target: Path | str, kind: str | None, flags: int, data: str | None = None) -> None:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    result = _libc.mount(encoded(source), str(target).encode(), encoded(kind), flags, encoded(data))
    _call(f"mount {target}", result)


def _call(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


_libc = ctypes.CDLL(None, use_errno=True)
_USER = 1000  # who it is inside
_NAMESPACES = (0x10000000, 0x20000, 0x8000000, 0x20000000, 0x40000000, 0x4000000)  # user, mount, ipc, pid, net, uts
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_MNT_DETACH, _AT_RECURSIVE = 2, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1)
_MOUNT_SETATTR = 442
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 1 | 64
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
