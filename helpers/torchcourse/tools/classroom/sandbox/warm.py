"""The warm process: it has imported what lessons use, and forks a sandbox on request.

It runs as a script of its own. Command line: the file descriptor of the control socket; with `--fresh` before it, this
process is a sandbox itself, and the descriptor is its channel (`bubblewrap`). On the socket
it says what it can do (`{"isolated": true}`, or why not); then each request, JSON with one file descriptor, makes a
child that serves cells on it (`cells`). The answer is the child's process id.

Forking after `import torch` is safe because this process has one thread, OMP_NUM_THREADS was 1 before the import, and
no tensor is computed here.
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any, NoReturn

from torchcourse.ranks.server import PRELOAD
from torchcourse.tools.classroom.sandbox import isolation, refused

MODULES = (
    *PRELOAD,
    *("torch._dynamo", "numpy", "matplotlib.pyplot", "IPython.core.interactiveshell", "IPython.extensions.storemagic"),
    *(
        "ipywidgets",
        "torchcourse.checks",
        "torchcourse.data",
        "torchcourse.figures",
        "torchcourse.models",
        "torchcourse.quiz",
    ),
    *("torchcourse.training", "torchcourse.ranks.start", "torchcourse.tools.classroom.sandbox.cells"),
)
WORK = "/tmp/work"


def main(control: socket.socket) -> NoReturn:
    _import_all()
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("A module started a thread while it was imported, so that forking is not safe.")
    gc.freeze()  # what is here now stays in memory that all children share
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    control.sendall(json.dumps(_possible()).encode())
    while True:
        readable, _, _ = select.select([control.fileno(), wake], [], [])
        if wake in readable:
            os.read(wake, 4096)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
        if control.fileno() in readable:
            request, fds, _, _ = socket.recv_fds(control, 2**20, 1)
            if not request:
                os._exit(0)
            pid = 0
            with contextlib.suppress(OSError):  # then the machine has no room for one more process
                pid = os.fork()
                if pid == 0:
                    for fd in (control.fileno(), wake, woken):
                        os.close(fd)
                    _become_sandbox(socket.socket(fileno=fds[0]), json.loads(request))
            for fd in fds:
                os.close(fd)
            control.sendall(pid.to_bytes(8, "big"))


def fresh(channel: socket.socket) -> NoReturn:
    """Serve cells in this process, which bubblewrap has isolated."""
    try:
        os.environ["TORCHCOURSE_IN_RANK"] = "1"  # so that no import starts a process
        _import_all()
        del os.environ["TORCHCOURSE_IN_RANK"]
        isolation.limit()
        _serve(channel)
    finally:
        os._exit(3)


def _import_all() -> None:
    for module in MODULES:
        with contextlib.suppress(ImportError):  # a cell that needs it meets the same error
            importlib.import_module(module)


def _possible() -> dict[str, Any]:
    """Try whether a child can be isolated on this machine.

    Raises:
        RuntimeError: if that cannot be said, as on a machine without room. Less protection would be a wrong answer.
    """
    for pause in (0.5, 2.0, 5.0, 0.0):
        said = _tried()
        if said and said.get("number") not in _NO_ROOM:
            return {"isolated": said["isolated"], "reason": said["reason"]}
        time.sleep(pause)
    raise RuntimeError(f"Nobody can say whether namespaces are allowed here: {said.get('reason', 'no answer came')}.")


def _tried() -> dict[str, Any]:
    """Return what a child that tried to isolate itself says; nothing if it ended before."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with contextlib.suppress(Exception):
            try:
                isolation.enter(isolation.visible())
                said: dict[str, Any] = {"isolated": True, "reason": "yes"}
            except OSError as error:
                said = {"isolated": False, "reason": str(error), "number": error.errno}
            os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {}


def _become_sandbox(channel: socket.socket, request: dict[str, Any]) -> NoReturn:
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        if request["isolated"]:
            isolation.enter([*isolation.visible(), *map(Path, request["readable"])])
        else:
            isolation.watched()
            isolation.limit()
        folder = WORK if request["isolated"] else request["folder"]
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(request["environment"], HOME=folder, TORCHCOURSE_WORK=folder, TMPDIR=os.path.dirname(folder))
        tempfile.tempdir = None  # what an import asked for was the grader's, and is not there
        _serve(channel)
    finally:
        os._exit(3)


def _serve(channel: socket.socket) -> None:
    import numpy as np
    import torch

    from torchcourse.ranks import start
    from torchcourse.tools.classroom.sandbox import cells, frames

    with contextlib.suppress(OSError):
        refused.refuse()
    # A child begins where all begin; a notebook's numbers differ from run to run.
    random.seed()
    np.random.seed()
    torch.seed()
    sys.path[:] = ["", *(entry for entry in sys.path if entry)]
    sys.argv = [""]
    sys.modules["__main__"] = types.ModuleType("__main__")
    start.fork_server()
    cells.serve(lambda: frames.receive(channel), lambda message: frames.send(channel, message))


_PR_SET_PDEATHSIG = 1
_NO_ROOM = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.EINTR}
"""Errors that pass, and say nothing about what a machine allows."""

if __name__ == "__main__":
    serve = fresh if sys.argv[1:-1] == ["--fresh"] else main
    serve(socket.socket(fileno=int(sys.argv[-1])))
