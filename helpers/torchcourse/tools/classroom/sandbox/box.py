"""A sandbox as a grader uses it: begun in milliseconds, given one cell at a time, and ended with all that it started.

    with Warm() as warm, Box(warm) as box:
        outputs = box.run("1 + 1", processor=60, wall=300)

Nothing of a cell is in the sandbox before it is to run. Linux only; `Warm` says what the machine allows.
"""

import contextlib
import json
import math
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args
from weakref import WeakSet

import psutil

from torchcourse.tools.classroom.sandbox import bubblewrap, frames, inherited, isolation, outputs, processes

Kind = Literal["namespaces", "bubblewrap", "limits"]
"""What a sandbox is made of: namespaces and limits, the same by bubblewrap, or limits only, which protect nothing."""
POSSIBLE = sys.platform == "linux"
MEMORY = 6 * 2**30
"""Bytes that all processes of a sandbox may have in memory together."""

PROCESSOR, WALL, WHOLE = 300.0, 1200.0, 1800.0
"""Seconds: of processor time per cell, on the clock per cell, and of processor time per notebook."""

ENVIRONMENT = {
    "NBGRADER_EXECUTION": "autograde",
    "OMP_NUM_THREADS": "1",  # from before PyTorch is imported, so that forking is safe
    "MKL_NUM_THREADS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # else c10d warns that loopback has no name
    "MPLBACKEND": "agg",
    "LANG": "C.UTF-8",
}
"""What a sandbox finds in its environment, besides the search path for programs."""

_START = 300.0  # seconds: to import PyTorch on a crowded machine
_GRACE = 5.0  # seconds that an interrupted cell has to end
_AGAIN = 1.0  # seconds until it is interrupted once more
_ENDING = 0.1  # seconds from the end of a sandbox to that of the process that forked it, whose end ended it
_SEND = 60.0  # seconds that a sandbox has to take in what is sent
_LOOK = 0.25  # seconds from look to look at a running cell
_PROCESSES = isolation.LIMITS.processes  # which the system does not count where root grades
_THREADS, _SOCKETS = 4096, 2048  # each takes memory of the system's, up to 0.4 MiB, that is in no process


class Warm:
    """The process that forks sandboxes. Threads may share it.

    Args:
        kinds: what may be used, the best first; the first one that this machine allows is.

    Raises:
        Lost: when it could not begin.
    """

    def __init__(self, kinds: Sequence[Kind] = get_args(Kind)) -> None:
        self._lock = threading.Lock()
        self._fresh = WeakSet[psutil.Process]()  # those that were not forked
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_START)
        script = Path(__file__).with_name("warm.py")
        environment = inherited.environment() | ENVIRONMENT | {"TORCHCOURSE_IN_RANK": "1"}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(script), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    **_APART,
                )
            said = json.loads(self._control.recv(2**16))
        except (OSError, ValueError) as error:
            self.end()
            raise Lost("the process that forks sandboxes ended as it began") from error
        self.reason: str = said["reason"]
        allowed = {"namespaces": said["isolated"], "bubblewrap": "bubblewrap" in kinds and bubblewrap.is_possible()}
        self.kind: Kind = next((kind for kind in kinds if allowed.get(kind)), "limits")

    @property
    def isolated(self) -> bool:
        """Whether cells run apart from the machine, and not under limits alone."""
        return self.kind != "limits"

    def fork(self, request: dict[str, Any]) -> tuple[psutil.Process, socket.socket]:
        """Start a sandbox; return its process and the grader's end of its channel.

        Raises:
            Lost: where there is no room for one more process, or no warm process any more.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                if self.kind == "bubblewrap":
                    process = _fresh(request, theirs.fileno())
                    self._fresh.add(process)
                    return process, ours
                return psutil.Process(self._forked(request, theirs.fileno())), ours
        except (OSError, psutil.Error) as error:
            ours.close()
            raise Lost("no sandbox could be begun") from error

    def _forked(self, request: dict[str, Any], channel: int) -> int:
        with self._lock:
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [channel])
                return int.from_bytes(self._control.recv(8), "big")
            except TimeoutError:
                self._process.kill()  # its answer may come yet, and the next one to ask would take it for its own
                raise

    @property
    def lives(self) -> bool:
        """Whether sandboxes can be forked still."""
        return self._process.poll() is None

    def ended(self) -> bool:
        """Whether it has ended, or ends in this moment: its sandboxes end a little earlier."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING)
        return not self.lives

    def end(self) -> None:
        """End this process, and all its sandboxes with it."""
        self._control.close()
        for process in [*self._fresh]:
            processes.end(process)
        if hasattr(self, "_process"):  # which could not begin, else
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()


def _fresh(request: dict[str, Any], channel: int) -> psutil.Process:
    """Start a sandbox that is not forked from the warm process."""
    script, work = Path(__file__).with_name("warm.py"), bubblewrap.WORK
    environment = request["environment"] | {"HOME": work, "TORCHCOURSE_WORK": work, "TMPDIR": str(Path(work).parent)}
    inside = bubblewrap.command([Path(path) for path in request["readable"]], environment)
    return psutil.Popen(
        [*inside, sys.executable, "-P", str(script), "--fresh", str(channel)],
        pass_fds=[channel],
        env=inherited.environment(),
        **_APART,
    )


def _limited(usage: processes.Usage) -> None:
    """Raise Died for what is used at this moment, if that is too much."""
    if usage.memory > MEMORY:
        raise Died(f"the processes of this notebook needed more than {MEMORY / 2**30:.0f} GiB of memory")
    for number, most, what in (
        (usage.number, _PROCESSES, "processes"),
        (usage.threads, _THREADS, "threads"),
        (usage.sockets, _SOCKETS, "sockets"),
    ):
        if number > most:
            raise Died(f"this notebook had more than {most} {what} at a time")


_APART: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL) | {"start_new_session": True}
"""How a process begins that shares nothing with the grader's terminal."""

_FORGED = "something was sent in the place of a result"
_NO_MEMORY = "this machine has no memory left, and ended some of its processes"
_TOO_LONG = {
    "output_type": "error",
    "ename": "TimeLimit",
    "evalue": "This cell took more time than the grader gives it, and was interrupted.",
    "traceback": ["This cell took more time than the grader gives it, and was interrupted."],
}


class Died(Exception):
    """The sandbox has ended, or was ended; the message says why, for the teacher."""


class Forged(Died):
    """What runs in the sandbox sent an answer of its own, so that none of its answers counts."""


class Lost(Exception):
    """There is no sandbox, or no longer, by no fault of what ran in it: on a machine without room, as a rule."""


class Box:
    """One sandbox.

    Args:
        warm: forks it.
        readable: folders that its cells may read, besides Python, the packages and the course.
        environment: the environment variables of its cells, besides the search path for programs.

    Raises:
        Lost: when it could not begin, as on a machine that has no room for one more process.
    """

    def __init__(self, warm: Warm, readable: Sequence[Path] = (), environment: Mapping[str, str] = ENVIRONMENT) -> None:
        self._folder = "" if warm.isolated else tempfile.mkdtemp(prefix="graded-")
        environment = {**environment, "PATH": os.environ.get("PATH", os.defpath)}
        request = {
            "readable": [str(path) for path in readable],
            "isolated": warm.kind == "namespaces",
            "environment": environment,
            "folder": f"{self._folder}/work",
        }
        self._warm: Warm | None = warm  # which ends, with all its sandboxes, when nobody holds it any more
        try:
            process, channel = warm.fork(request)
        except Lost:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._attach(process, channel, {"namespaces": 1, "bubblewrap": bubblewrap.DEPTH, "limits": 1}[warm.kind])
        try:  # so that a sandbox that cannot begin costs no points, and what its imports take is not the first cell's
            self.run("", _START, _START)
            self._cells = processes.innermost(self._process, self._depth)  # now, while it has no brothers
        except (Died, psutil.Error) as died:
            self.end()
            raise Lost(f"no sandbox could be begun: {died}") from died

    def _attach(self, process: psutil.Process, channel: socket.socket, depth: int) -> None:
        self._process, self._channel, self._depth = process, channel, depth
        self._cells = process  # until it is there
        self._channel.settimeout(_SEND)
        self._poll = select.poll()  # select() cannot wait for a descriptor above 1023
        self._poll.register(channel, select.POLLIN)
        self._reader, self._nonce, self._killed = frames.Reader(), "", 0

    def handed_over(self) -> tuple[int, list[str]]:
        """Return the channel's file descriptor, and the words by which a process that inherits it can `adopt` this."""
        channel = self._channel.fileno()
        return channel, [str(self._process.pid), str(channel), str(self._depth)]

    @classmethod
    def adopt(cls, words: Sequence[str]) -> Self:
        """Return a sandbox that this process's parent began, and that the parent ends."""
        pid, channel, depth = map(int, words)
        box = cls.__new__(cls)
        box._warm, box._folder = None, ""
        box._attach(psutil.Process(pid), socket.socket(fileno=channel), depth)
        box._cells = processes.innermost(box._process, depth)
        return box

    def run(
        self,
        source: str,
        processor: float,
        wall: float,
        whole: float = math.inf,
        files: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Run a cell; return its outputs, as a notebook keeps them.

        A cell that takes too long is interrupted, which is an error in its outputs.

        Args:
            source: the cell's text.
            processor: seconds of processor time, of all processes together.
            wall: seconds on the clock.
            whole: seconds of processor time since the sandbox began.
            files: written into the folder of the cells first: by their paths, in base64.

        Raises:
            Died: when the sandbox ended in the middle, by itself or because of its limits.
            Forged: when something else than the one answer came.
            Lost: when it ended because the warm process did, or failed while the machine had no memory left.
        """
        if self._has_data():
            raise Forged(_FORGED)
        self._nonce, self._killed = secrets.token_hex(16), processes.killed_for_memory()
        with contextlib.suppress(OSError):  # then the answer is missing too
            frames.send(self._channel, {"source": source, "nonce": self._nonce, "files": dict(files or {})})
        begun, used = time.monotonic(), processes.usage(self._process).seconds
        interrupted = asked = 0.0
        while True:
            if (message := self._message()) is not None:
                if message.get("nonce") != self._nonce:
                    raise Forged(_FORGED)
                try:
                    kept = outputs.received(message.get("outputs"))
                except ValueError as error:
                    raise Forged(_FORGED) from error
                if self._killed != processes.killed_for_memory() and any(one["output_type"] == "error" for one in kept):
                    raise Lost(_NO_MEMORY)
                return [*kept, *([_TOO_LONG] if interrupted else [])]
            usage = processes.usage(self._process)
            _limited(usage)
            spent, passed = usage.seconds - used, time.monotonic() - begun
            if interrupted and time.monotonic() - interrupted > _GRACE:
                raise Died(f"a cell did not end after {spent:.0f} s of processor time, nor when it was interrupted")
            if usage.seconds > whole:
                raise Died(f"all cells together took more than {whole:.0f} s of processor time")
            if not interrupted and (spent > processor or passed > wall):
                interrupted = asked = time.monotonic()
                self.interrupt()
            elif interrupted and time.monotonic() - asked > _AGAIN:  # what came before the cell began is lost
                asked = time.monotonic()
                self.interrupt()

    def judge(self, test: str, seed: str, ask: Callable[[str, Any], dict[str, Any]], wall: float) -> str:
        """Run a test of the teacher's in this sandbox, where nothing that was handed in has run.

        Args:
            test: a function with the mark `judged`.
            seed: of the numbers that it draws.
            ask: called with the name of a function and its arguments; returns its value or its error.
            wall: seconds on the clock.

        Returns:
            Why the test failed; nothing if it did not.

        Raises:
            Died: when the time ended, or what `ask` raises.
            Lost: when this sandbox ended.
        """
        end, reply = time.monotonic() + wall, dict[str, Any](test=test, seed=seed)
        while time.monotonic() < end:
            try:
                if reply:
                    frames.send(self._channel, reply)
                message = self._message()
            except (Died, OSError) as error:
                raise Lost("the sandbox that judges ended") from error
            if message is not None and "failed" in message:
                return str(message["failed"])
            reply = ask(message["call"], message["given"]) if message is not None else {}
        raise Died(f"a test took more than {wall:.0f} s")

    def interrupt(self) -> None:
        """Interrupt the cell that runs, as the stop button does."""
        with contextlib.suppress(psutil.Error):
            self._cells.send_signal(signal.SIGINT)

    def end(self) -> None:
        """End every process of the sandbox, and remove what it wrote."""
        processes.end(self._process)
        self._channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def _has_data(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self._poll.poll(0) and self._channel.recv(1, socket.MSG_PEEK))
        return False

    def _message(self) -> dict[str, Any] | None:
        """Wait a moment for a part of the answer; return it once it is whole."""
        data = b""
        if self._poll.poll(1000 * _LOOK):
            with contextlib.suppress(OSError):
                data = self._channel.recv(2**20)
        elif processes.is_alive(self._process):
            return None
        if not data:
            if self._warm is not None and self._warm.ended():
                raise Lost("the process that forks sandboxes was ended")
            if self._killed != processes.killed_for_memory():
                raise Lost(_NO_MEMORY)
            raise Died("the process ended in the middle of a cell")
        try:
            return self._reader.add(data)
        except (ValueError, RecursionError) as error:
            raise Forged(_FORGED) from error
