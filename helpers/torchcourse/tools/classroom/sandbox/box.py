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
from types import TracebackType
from typing import Any, Literal, Self, get_args

import psutil

from torchcourse.tools.classroom.sandbox import bubblewrap, frames

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
_LOOK = 0.25  # seconds from look to look at a running cell


class Warm:
    """The process that forks sandboxes. Threads may share it.

    Args:
        kinds: what may be used, the best first; the first one that this machine allows is.
    """

    def __init__(self, kinds: Sequence[Kind] = get_args(Kind)) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        script = Path(__file__).with_name("warm.py")
        environment = os.environ | ENVIRONMENT | {"TORCHCOURSE_IN_RANK": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control.settimeout(_START)
        answer = self._control.recv(2**16)
        if not answer:
            raise RuntimeError("The process that starts the sandboxes ended unexpectedly.")
        said = json.loads(answer)
        self.reason: str = said["reason"]
        allowed = {"namespaces": said["isolated"], "bubblewrap": "bubblewrap" in kinds and bubblewrap.is_possible()}
        self.kind: Kind = next((kind for kind in kinds if allowed.get(kind)), "limits")

    @property
    def isolated(self) -> bool:
        """Whether cells run apart from the machine, and not under limits alone."""
        return self.kind != "limits"

    def fork(self, request: dict[str, Any]) -> tuple[psutil.Process, socket.socket]:
        """Start a sandbox; return its process and the grader's end of its channel."""
        ours, theirs = socket.socketpair()
        if self.kind == "bubblewrap":
            with theirs:
                return _fresh(request, theirs.fileno()), ours
        with self._lock, theirs:
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
            pid = int.from_bytes(self._control.recv(8), "big")
        return psutil.Process(pid), ours

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


def _fresh(request: dict[str, Any], channel: int) -> psutil.Process:
    """Start a sandbox that is not forked from the warm process."""
    script, work = Path(__file__).with_name("warm.py"), bubblewrap.WORK
    environment = request["environment"] | {"HOME": work, "TORCHCOURSE_WORK": work, "TMPDIR": str(Path(work).parent)}
    inside = bubblewrap.command([Path(path) for path in request["readable"]], environment)
    return psutil.Popen(
        [*inside, sys.executable, "-P", str(script), "--fresh", str(channel)],
        pass_fds=[channel],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


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


class Box:
    """One sandbox.

    Args:
        warm: forks it.
        readable: folders that its cells may read, besides Python, the packages and the course.
        environment: the environment variables of its cells, besides the search path for programs.
    """

    def __init__(self, warm: Warm, readable: Sequence[Path] = (), environment: Mapping[str, str] = ENVIRONMENT) -> None:
        self._folder = tempfile.mkdtemp(prefix="graded-")  # used where nothing can be isolated
        environment = {**environment, "PATH": os.environ.get("PATH", os.defpath)}
        request = {
            "readable": [str(path) for path in readable],
            "isolated": warm.kind == "namespaces",
            "environment": environment,
            "folder": f"{self._folder}/work",
        }
        self._warm: Warm | None = warm  # which ends, with all its sandboxes, when nobody holds it any more
        self._process, self._channel = warm.fork(request)
        self._depth = {"namespaces": 1, "bubblewrap": bubblewrap.DEPTH, "limits": 0}[warm.kind]
        self._reader = frames.Reader()
        self._nonce = ""
        if warm.kind == "bubblewrap":  # what its imports take is not the first cell's
            try:
                self.run("", _START, _START)
            except Died:
                self.end()
                raise

    def handed_over(self) -> tuple[int, list[str]]:
        """Return the channel's file descriptor, and the words by which a process that inherits it can `adopt` this."""
        channel = self._channel.fileno()
        return channel, [str(self._process.pid), str(channel), str(self._depth)]

    @classmethod
    def adopt(cls, words: Sequence[str]) -> Self:
        """Return a sandbox that this process's parent began, and that the parent ends."""
        pid, channel, depth = map(int, words)
        box = cls.__new__(cls)
        box._warm, box._folder, box._depth = None, "", depth
        box._process, box._channel = psutil.Process(pid), socket.socket(fileno=channel)
        box._reader, box._nonce = frames.Reader(), ""
        return box

    def run(self, source: str, processor: float, wall: float, whole: float = math.inf) -> list[dict[str, Any]]:
        """Run a cell; return its outputs, as a notebook keeps them.

        A cell that takes too long is interrupted, which is an error in its outputs.

        Args:
            source: the cell's text.
            processor: seconds of processor time, of all processes together.
            wall: seconds on the clock.
            whole: seconds of processor time since the sandbox began.

        Raises:
            Died: when the sandbox ended in the middle, by itself or because of its limits.
            Forged: when something else than the one answer came.
        """
        if self._has_data():
            raise Forged("something was sent in the place of a result")
        self._nonce = secrets.token_hex(16)
        with contextlib.suppress(OSError):  # then the answer is missing too
            frames.send(self._channel, {"source": source, "nonce": self._nonce})
        begun, used = time.monotonic(), self._processor_time()
        interrupted = 0.0
        while True:
            if (message := self._message()) is not None:
                if message.get("nonce") != self._nonce or not isinstance(message.get("outputs"), list):
                    raise Forged("something was sent in the place of a result")
                return [*message["outputs"], *([_TOO_LONG] if interrupted else [])]
            if self._memory() > MEMORY:
                raise Died(f"the processes of this notebook needed more than {MEMORY / 2**30:.0f} GiB of memory")
            spent, passed = self._processor_time() - used, time.monotonic() - begun
            if interrupted and time.monotonic() - interrupted > _GRACE:
                raise Died(f"a cell did not end after {spent:.0f} s of processor time, nor when it was interrupted")
            if used + spent > whole:
                raise Died(f"all cells together took more than {whole:.0f} s of processor time")
            if not interrupted and (spent > processor or passed > wall):
                interrupted = time.monotonic()
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
            Died: when the sandbox ended, or the time did.
        """
        frames.send(self._channel, {"test": test, "seed": seed})
        end = time.monotonic() + wall
        while time.monotonic() < end:
            if (message := self._message()) is None:
                continue
            if "failed" in message:
                return str(message["failed"])
            frames.send(self._channel, ask(message["call"], message["given"]))
        raise Died(f"a test took more than {wall:.0f} s")

    def interrupt(self) -> None:
        """Interrupt the cell that runs, as the stop button does."""
        with contextlib.suppress(psutil.Error, IndexError):
            cells = self._process
            for _ in range(self._depth):
                cells = cells.children()[0]
            cells.send_signal(signal.SIGINT)

    def end(self) -> None:
        """End every process of the sandbox, and remove what it wrote."""
        self._channel.close()
        for process in [*self._tree(), self._process]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(psutil.Error):
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def _has_data(self) -> bool:
        readable, _, _ = select.select([self._channel], [], [], 0)
        with contextlib.suppress(OSError):
            return bool(readable and self._channel.recv(1, socket.MSG_PEEK))
        return False

    def _message(self) -> dict[str, Any] | None:
        """Wait a moment for a part of the answer; return it once it is whole."""
        readable, _, _ = select.select([self._channel], [], [], _LOOK)
        if not readable:
            if self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
                return None
            raise Died("the process ended in the middle of a cell")
        try:
            data = self._channel.recv(2**20)
            if not data:
                raise Died("the process ended in the middle of a cell")
            message = self._reader.add(data)
        except OSError as error:
            raise Died("the process ended in the middle of a cell") from error
        except ValueError as error:
            raise Forged("something was sent in the place of a result") from error
        return message

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return self._process.children(recursive=True)
        return []

    def _processor_time(self) -> float:
        """Seconds of processor time so far, of all processes that live and of those that they have waited for."""
        spent = 0.0
        for process in [self._process, *self._tree()]:
            with contextlib.suppress(psutil.Error):
                spent += sum(process.cpu_times()[:4])
        return spent

    def _memory(self) -> int:
        """Bytes in memory that belong to this sandbox alone."""
        size = 0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                info = process.memory_info()
                size += info.rss - info.shared
        return size
