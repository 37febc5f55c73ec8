"""What the notebook shows of its ranks: the lines that they print, their tracebacks, and where each of them is."""

import codecs
import contextlib
import contextvars
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from torchcourse import progress_bars
from torchcourse.source_lines import cell_name, is_library

_HERE = Path(__file__).parent
_MACHINERY = {str(file) for file in _HERE.glob("*.py")} - {str(_HERE / "who.py")}
_LONGEST_LINE = 1 << 16  # characters; a longer one is shown in pieces


def traceback_of(error: BaseException) -> str:
    """The traceback as Python writes it, less what is not the learner's: of the libraries only the last frame stays."""
    report = traceback.TracebackException.from_exception(error)
    _shorten(report)
    return "".join(report.format()).rstrip()


def stack_of(dump: bytes) -> str:
    """Rewrite faulthandler's dump like a traceback: the learner's frames with source, then the last library frame.

    Empty if the dump holds no frame.
    """
    found: list[tuple[str, str, str]] = []
    for thread in dump.decode("utf-8", "backslashreplace").split("\n\n"):
        found = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', thread, re.MULTILINE) or found
    # The main thread comes last. Frames come innermost first.
    frames = [traceback.FrameSummary(file, int(line), name) for file, line, name in reversed(found)]
    return name_cells("".join(traceback.StackSummary.from_list(_relevant(frames)).format())).rstrip()


def name_cells(text: str) -> str:
    """Call the files that IPython makes of cells by the cells' names: `File "/tmp/ipykernel_7/4.py"` → `Cell In[3]`."""
    for file in set(re.findall(r'File "(.+?)", line ', text)):
        if name := cell_name(file):
            text = text.replace(f'File "{file}"', name)
    return text


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Leave out what C++ libraries write on the console, while ranks are started inside; what Python prints stays."""
    token = _noise_hidden.set(True)
    try:
        yield
    finally:
        _noise_hidden.reset(token)


_noise_hidden: contextvars.ContextVar[bool] = contextvars.ContextVar("noise_hidden", default=False)
_NOISE = re.compile(
    r"\s*(terminate called after throwing|what\(\):|\[(rank\d+|c10d)\]|\[[IWEF]\d{3,4} "
    r"|\[[IWEF] [\w/]+\.(cpp|cc|h|hpp):\d+\]|\[Gloo\] |Exception raised from "
    r"|frame #\d+: |libc\+\+abi: |\[enforce fail at )"
    r"|.*Warning: (c10d::|.*\(Triggered internally at )"
)


class LinePrinter:
    """Prints what ranks write, in whole lines, each with its rank in front.

    A line that a rank rewrites after a carriage return (a progress bar) is rewritten here too. In a notebook it is an
    output of its own, so that a saved notebook holds only its last state.
    """

    def __init__(self) -> None:
        self.columns = progress_bars.columns()
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._begun: dict[int, str] = {}  # rank -> its line so far
        self._quiet = _noise_hidden.get()
        self._unshown: list[str] = []
        self._width = 0  # of the progress line that the screen's cursor is on
        self._bars: dict[int, progress_bars.Line] | None = {} if self.columns == 0 else None  # of a notebook, by rank
        self._note: progress_bars.Line | None = None  # what `waiting` says, in a notebook
        self._noted = False  # whether it is the line that the screen's cursor is on, in a terminal
        self._start = self._last = self._updated = time.monotonic()

    def write(self, rank: int, data: bytes, final: bool = False) -> None:
        """Print the lines that `data` completes, and with `final` also what it leaves incomplete."""
        if rank not in self._decoders:
            self._decoders[rank] = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        new = self._decoders[rank].decode(data, final)
        if not new and not final:
            return
        text = self._begun.pop(rank, "") + new
        *lines, rest = text.split("\n")
        if rest and (final or len(rest) > _LONGEST_LINE):
            lines.append(rest)
        elif rest:
            self._begun[rank] = rest
        if self._quiet:
            lines = [line for line in lines if not _NOISE.match(line)]
        for line in lines:
            self._line(rank, line)
        self._progress(rank)
        self._flush()

    def waiting(self, what: str) -> None:
        """Say `what` goes on, and for how long, where lines can move and nothing has for a while; then each second."""
        now, noted = time.monotonic(), self._note is not None or self._noted
        since = now - (self._updated if noted else max(self._last, progress_bars.last_shown()))
        if self.columns is None or since < (1 if noted else QUIET_SECONDS):
            return
        self._updated = now
        text = f"{what}: {now - self._start:.0f} s"
        if self._bars is not None:
            self._note = self._note or progress_bars.Line()
            self._note.write(text)
        else:
            self._unshown.append(self._place(text, over=self._noted, stay=True))
            self._noted = True
            self._flush()

    def over(self) -> None:
        """Say how long it took, where a notebook has been told that it goes on; take a terminal's note away."""
        if self._note is not None:
            self._note.write(f"run_ranks took {time.monotonic() - self._start:.0f} s.")
            self._note = None
        elif self._noted:
            self._unshown.append(f"\r{' ' * self._width}\r")
            self._width, self._noted = 0, False
            self._flush()

    def _line(self, rank: int, line: str) -> None:
        _, returned, text = line.rstrip("\r").rpartition("\r")
        if returned and self._bars is not None:
            self._move(rank, text)
            del self._bars[rank]
        else:
            self._unshown.append(self._place(f"[rank {rank}] {text}", over=bool(returned), stay=False) + "\n")

    def _progress(self, rank: int) -> None:
        begun = self._begun.get(rank, "")
        if "\r" not in begun:
            return
        text = begun.rstrip("\r").rpartition("\r")[2]
        self._begun[rank] = f"\r{text}\r" if begun.endswith("\r") else f"\r{text}"
        if self._bars is not None:
            self._move(rank, text)
        else:
            self._unshown.append(self._place(f"[rank {rank}] {text}", over=True, stay=True))

    def _move(self, rank: int, text: str) -> None:
        """Rewrite the line of a rank in the notebook, below all that was printed before it."""
        assert self._bars is not None
        self._flush()
        if rank not in self._bars:
            self._bars[rank] = progress_bars.Line()
        self._bars[rank].write(f"[rank {rank}] {text}")
        self._last = time.monotonic()

    def _place(self, text: str, over: bool, stay: bool) -> str:
        """Put text over the progress line, if there is one, or below it; the cursor may stay on it for the next."""
        over, self._noted = over or self._noted, False
        width, self._width = self._width, len(text) if stay else 0
        if not width:
            return text
        return "\r" + text.ljust(width) if over else "\n" + text

    def _flush(self) -> None:
        if self._unshown:
            _show("".join(self._unshown))
            self._unshown.clear()
            self._last = time.monotonic()


QUIET_SECONDS = 1.5
"""How long ranks may run without a sign before the notebook says that they do."""


def _show(text: str) -> None:
    """Write to the console. No result is lost because it lacks a sign, which is written as its number, or is gone."""
    console = sys.stdout
    with contextlib.suppress(AttributeError, OSError, ValueError):
        try:
            console.write(text)
        except UnicodeEncodeError as error:
            console.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        console.flush()


def _shorten(report: traceback.TracebackException) -> None:
    report.stack = traceback.StackSummary.from_list(_relevant(report.stack))
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            _shorten(other)


def _relevant(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    frames = [frame for frame in frames if frame.filename not in _MACHINERY]
    return [frame for i, frame in enumerate(frames) if i == len(frames) - 1 or not is_library(frame.filename)]
