"""Within the sandbox: run cells in IPython, and keep what each of them puts out, as a notebook keeps it."""

import base64
import builtins
import contextlib
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipykernel.compiler import XCachingCompiler
from ipykernel.zmqshell import KernelMagics
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type

from torchcourse.tools.classroom.sandbox import judging

MOST_OUTPUT = 2**20
"""Characters that a cell's outputs may have together; what comes after is dropped."""

MOST_OUTPUTS = 10_000
"""Pictures and lines in turn that a cell's outputs may be; of what comes after, results and errors alone are kept."""
_MOST_FRAMES = 100


class Outputs:
    """The outputs of the cell that runs."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self._left = MOST_OUTPUT

    def take(self) -> list[dict[str, Any]]:
        """Return the outputs so far, and begin again."""
        kept, self.kept, self._left = self.kept, [], MOST_OUTPUT
        return kept

    def stream(self, name: str, text: str) -> None:
        text = text[: self._left]
        self._left -= len(text)
        if not text or self._is_full():
            return
        if self.kept and self.kept[-1].get("name") == name:
            self.kept[-1]["text"] += text
        else:
            self.kept.append({"output_type": "stream", "name": name, "text": text})

    def show(self, kind: str, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        if kind == "display_data" and self._is_full():
            return
        texts = {name: value for name, value in data.items() if isinstance(value, str | dict)}
        size = sum(len(str(value)) for value in texts.values())
        if size > self._left:
            texts = {"text/plain": str(data.get("text/plain", ""))[: self._left]}
        self._left -= min(size, self._left)
        number = {"execution_count": None} if kind == "execute_result" else {}
        self.kept.append({"output_type": kind, "data": texts, "metadata": metadata} | number)

    def _is_full(self) -> bool:
        return len(self.kept) >= MOST_OUTPUTS

    def error(self, kind: type, error: BaseException, lines: list[str]) -> None:
        """An error is kept whatever came before it: it decides about points."""
        text = str(error)[:10_000]
        lines = [line[:10_000] for line in lines[-100:]]
        self.kept.append({"output_type": "error", "ename": kind.__name__, "evalue": text, "traceback": lines})


class Shell(InteractiveShell):
    """IPython without a front end. Cells have the names that a notebook's kernel gives them."""

    compiler_class = Type(XCachingCompiler)

    def __init__(self, outputs: Outputs) -> None:
        super().__init__(displayhook_class=_results(outputs), display_pub_class=_displays(outputs))
        self._outputs = outputs
        self.register_magics(KernelMagics)  # such as %autosave, which are no errors in a notebook
        if self.extension_manager is not None:
            self.extension_manager.load_extension("storemagic")
        if self.history_manager is not None:
            self.history_manager.enabled = False

    def showtraceback(self, exc_tuple: tuple | None = None, *options: Any, **named: Any) -> None:
        """A recursion without end has a thousand frames, for each of which IPython would ask all modules."""
        kind, error, trace = self._get_exc_info(exc_tuple)
        if len(list(itertools.islice(traceback.walk_tb(trace), _MOST_FRAMES + 1))) > _MOST_FRAMES:
            self._showtraceback(kind, error, traceback.format_exception(kind, error, trace, limit=-5))
        else:
            super().showtraceback(exc_tuple, *options, **named)

    def enable_gui(self, gui: str | None = None) -> None:
        """`%matplotlib inline` and `%gui` ask for a loop of events; without a front end there is none."""

    def should_run_async(self, *_cell: Any, **_named: Any) -> bool:
        """A notebook's kernel has a loop that runs in each cell, so that a task can begin where nothing is awaited."""
        return True

    def _format_exception_for_storage(self, *_exception: Any, **_named: Any) -> dict:
        """IPython 9 formats every error a second time, for a history that ends with this process."""
        return {}

    def _showtraceback(self, etype: type, evalue: BaseException, stb: str | list[str]) -> None:
        self._outputs.error(etype, evalue, stb.splitlines() if isinstance(stb, str) else list(stb))


def _results(outputs: Outputs) -> type[DisplayHook]:
    class Results(DisplayHook):
        def write_output_prompt(self) -> None:
            """There is none."""

        def write_format_data(self, format_dict: dict, md_dict: dict | None = None) -> None:
            outputs.show("execute_result", format_dict, md_dict or {})

        def finish_displayhook(self) -> None:
            """Nothing was written that a line would have to end."""

    return Results


def _displays(outputs: Outputs) -> type[DisplayPublisher]:
    class Displays(DisplayPublisher):
        def publish(self, data: dict, metadata: dict | None = None, *_source: Any, **options: Any) -> None:
            if not options.get("update"):
                outputs.show("display_data", data, metadata or {})

        def clear_output(self, wait: bool = False) -> None:
            outputs.take()

    return Displays


class _Stream(io.TextIOBase):
    encoding = "utf-8"

    def __init__(self, name: str, outputs: Outputs) -> None:
        self._name, self._outputs = name, outputs

    def write(self, text: str) -> int:
        self._outputs.stream(self._name, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """As that of a kernel's, for programs that a cell starts; what they write there is in no notebook."""
        return {"stdout": 1, "stderr": 2}[self._name]


def serve(receive: Callable[[], dict[str, Any] | None], send: Callable[[dict[str, Any]], None]) -> None:
    """Run each cell that arrives, and send back its outputs, until no more arrive."""
    outputs = Outputs()
    Shell.clear_instance()
    shell = Shell(outputs)
    for asked in (Shell, InteractiveShell):  # by get_ipython() and display()
        asked._instance = shell  # type: ignore[assignment]  # traitlets declares it as None
    builtins.get_ipython = lambda: shell  # type: ignore[attr-defined]
    shell.user_ns["get_ipython"] = builtins.get_ipython  # type: ignore[attr-defined]
    while (message := receive()) is not None:
        if "test" in message:  # this sandbox is a judge
            judging.serve(message["test"], message["seed"], receive, send)
            continue
        _write(message["files"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout, sys.stderr = _Stream("stdout", outputs), _Stream("stderr", outputs)
        owner = os.getpid()
        try:
            shell.run_cell(message["source"], store_history=True)
        except SystemExit as error:
            outputs.error(SystemExit, error, ["SystemExit"])
        finally:
            if os.getpid() != owner:  # a copy of this process that the cell made
                os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        send({"nonce": message["nonce"], "outputs": outputs.take()})


def _write(files: dict[str, str]) -> None:
    for name, data in files.items():
        with contextlib.suppress(OSError):  # then a cell that needs it says so
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(data))
