"""Progress is one moving line in a notebook and in a terminal, and plain lines elsewhere; nothing goes to stderr."""

import io
import signal
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from torchcourse.training.progress import GentleStop, Progress

ROW = {"epoch": 1, "step": 3, "loss": 0.123456, "val_accuracy": 0.5, "lr": 0.1, "seconds": 2.04}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(shown=True):
    with Progress(shown, epochs=2, steps=6) as bar:
        for epoch in (1, 2):
            bar.epoch_begins(epoch)
            for _ in range(3):
                bar.step()
            bar.epoch_ends(ROW | {"epoch": epoch})


def test_a_pipe_gets_a_line_an_epoch(capfd):
    show()
    printed = capfd.readouterr()
    assert printed.out.splitlines() == [f"epoch {epoch}/2  loss 0.1235  val_accuracy 0.5  (2.0 s)" for epoch in (1, 2)]
    assert printed.err == ""


def test_a_long_epoch_in_a_pipe_says_so_ever_more_rarely(monkeypatch, capfd):
    clock = [0.0]
    monkeypatch.setattr("torchcourse.training.progress.time.monotonic", lambda: clock[0])
    with Progress(True, epochs=None, steps=99) as bar:
        bar.epoch_begins(1)
        for _ in range(20):
            clock[0] += 1.0
            bar.step()
        bar.epoch_ends(ROW)
    said = capfd.readouterr().out.splitlines()
    assert said[:-1] == [f"epoch 1  step {step} of 99" for step in (2, 6, 14)]


def test_a_terminal_gets_one_line_that_moves(monkeypatch, capfd):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show()
    assert terminal.getvalue().count("\n") == 1
    last = terminal.getvalue().split("\r")[-1]
    assert "epoch 2/2" in last
    assert "6/6" in last
    assert "loss 0.1235" in last
    assert capfd.readouterr().err == ""


def test_steps_without_a_known_end_are_counted(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(True, epochs=2, steps=None) as bar:
        bar.epoch_begins(1)
        bar.step()
        bar.epoch_ends(ROW)
    assert "1/?" in terminal.getvalue().split("\r")[-1]


def test_silence_is_silent(capfd):
    show(shown=False)
    assert capfd.readouterr() == ("", "")


FIT = """
import torch
from torch import nn
from torchcourse.models import mlp
from torchcourse.training import Trainer
torch.set_num_threads(1)
model = mlp(4, 8, 3)
batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(20)]
trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
history = trainer.fit(batches, epochs=3, val_loader=batches)
"""

STOPPED = """
import os, signal, threading
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
trainer.fit(batches, epochs=1_000_000)
"""

AFTER = """
print("epochs:", len(trainer.history) > 3, "handler:", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.slow
def test_a_notebook_gets_one_bar_and_its_stop_button_one_sentence():
    cells = [nbformat.v4.new_code_cell(code) for code in (FIT, STOPPED, AFTER)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=240, kernel_name="python3", allow_errors=True).execute()
    fitted, stopped, after = (cell.outputs for cell in notebook.cells)
    (bar,) = fitted  # and it stays as it was at the end, in the saved notebook too
    assert bar.output_type == "display_data"
    line = bar.data["text/plain"]
    assert line.startswith("epoch 3/3: 100%|███")
    assert "60/60" in line
    assert "val_accuracy" in line
    assert "\n" not in line
    (error,) = (output for output in stopped if output.output_type == "error")
    assert error.ename == "KeyboardInterrupt"
    (line,) = error.traceback
    assert line.startswith("KeyboardInterrupt: Stopped after step")
    assert {output.name for output in stopped if output.output_type == "stream"} <= {"stdout"}
    assert [output.text for output in after] == ["epochs: True handler: True\n"]


def test_the_first_signal_asks_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with GentleStop() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_inactive_stop_leaves_the_signal_alone():
    with pytest.raises(KeyboardInterrupt), GentleStop(interrupts=False):
        signal.raise_signal(signal.SIGINT)


def test_until_passes_errors_on_unless_a_stop_was_requested():
    def broken():
        yield 1
        raise RuntimeError("a worker exited")

    with GentleStop() as stop:
        items = stop.until(broken())
        assert next(items) == 1
        with pytest.raises(RuntimeError, match="a worker exited"):
            next(items)

        def stopped_while_loading():
            yield 1
            stop.requested = True
            raise RuntimeError("a worker exited")

        assert list(stop.until(stopped_while_loading())) == [1]
