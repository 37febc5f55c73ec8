"""The rank server: a small process that imports PyTorch once and then forks ranks on request.

It runs as a script of its own and starts with an empty slate: no CUDA context, no OpenMP pool, nothing of the
notebook. That is what makes forking safe here and unsafe in the kernel. It is not `multiprocessing`'s forkserver: that
one belongs to everybody in the notebook (a DataLoader may use it) and runs the `__main__` script again in every child.

Command line: the file descriptor of the control socket, and `sys.path` as JSON. On the socket the server says READY;
after that come requests. IMPORT: a length and as many bytes of JSON, the names of modules of the course that the next
ranks will need; imported here, they cost once what they would cost in each rank. The learner's own modules never are:
each call imports them again. FORK carries four file descriptors for one rank: its connection, its output, its stacks
and its status pipe. The status pipe gets two numbers: the process id (or minus the errno, if the system refuses the
fork) and, at the end, the exit code. When the socket closes or the notebook's process is gone, the server ends and
takes all ranks with it.
"""

import contextlib
import errno
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import types
import weakref
from collections.abc import Iterable
from typing import NoReturn

READY, FORK, IMPORT = b"R", b"F", b"I"
NUMBER = struct.Struct("q")
# What ranks use, imported once here instead of once per rank.
PRELOAD = (
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.distributed.checkpoint",
    "torch.utils.tensorboard",
    "tabulate",  # if there is one: torch._dynamo imports it when a process ends, which took half of a rank's time
    "cloudpickle",
    "torchcourse.ranks.worker",
)

_status_pipes: dict[int, int] = {}  # process id of a running rank -> its status pipe


def main(control_fd: int, path: list[str]) -> NoReturn:
    """Import, say READY, then fork and reap ranks until the notebook is gone."""
    notebook = os.getppid()
    signal.signal(signal.SIGALRM, lambda *_: os.getppid() == notebook or _stop())
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)  # a timer, because it also asks during the long imports
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a rank that is only just starting has no stack to show yet
    sys.path[:] = path
    _import(PRELOAD)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    control = socket.socket(fileno=control_fd)
    control.sendall(READY)
    while True:
        readable, _, _ = select.select([control_fd, wake_r], [], [])
        if wake_r in readable:
            os.read(wake_r, 4096)
            _reap()
        if control_fd in readable:
            request, fds, _, _ = socket.recv_fds(control, 1, 4)
            if request == IMPORT:
                (length,) = NUMBER.unpack(_received(control, NUMBER.size))
                _import(json.loads(_received(control, length)))
            elif request == FORK:
                _fork(fds, unused=[control_fd, wake_r, wake_w])
            else:
                _stop()


def _received(control: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        part = control.recv(length - len(received))
        if not part:
            _stop()
        received += part
    return received


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        with contextlib.suppress(Exception):  # a rank that needs it meets the same error, and can report it
            importlib.import_module(module)
    gc.freeze()  # what is here now stays in memory that all ranks share
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # the type stubs leave it out
        finalizer.atexit = False  # nor need a rank unregister torch's operators one by one when it ends


def _fork(fds: list[int], unused: list[int]) -> None:
    *rank_fds, status_fd = fds
    try:
        pid = os.fork()
        if pid == 0:
            _become_rank(rank_fds, unused=[*unused, status_fd, *_status_pipes.values()])
        _status_pipes[pid] = status_fd
        _report(status_fd, pid)
    except OSError as error:
        _report(status_fd, -(error.errno or errno.EAGAIN))
        os.close(status_fd)
    for fd in rank_fds:
        os.close(fd)


def _become_rank(rank_fds: list[int], unused: list[int]) -> NoReturn:
    try:
        os.setsid()  # a process group of its own: whatever the rank starts can be ended together with it
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for fd in unused:
            os.close(fd)
        sys.modules["__main__"] = types.ModuleType("__main__")  # the learner's functions should not see this script
        from torchcourse.ranks import worker

        worker.main(*rank_fds)
    finally:
        os._exit(1)


def _reap() -> None:
    """Report the exit code of each rank that ended, and end the processes that it left behind."""
    while _status_pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _kill_group(pid)
        status_fd = _status_pipes.pop(pid)
        _report(status_fd, os.waitstatus_to_exitcode(status))
        os.close(status_fd)


def _report(status_fd: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(status_fd, NUMBER.pack(number))


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _stop() -> NoReturn:
    for pid in _status_pipes:
        _kill_group(pid)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
