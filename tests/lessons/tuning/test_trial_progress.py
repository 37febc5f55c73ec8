"""The line of a search moves in a notebook and in a terminal, and is not there elsewhere."""

import io
import sys
import threading
import time

from torchcourse.lessons.tuning import trial_progress
from torchcourse.lessons.tuning.trial_progress import TrialProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_search_says_trials_the_best_and_the_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with TrialProgress(30, finished=2) as shown:
        assert "2/30" in terminal.getvalue()
        shown.show(3, 0.91234)
        shown.show(4, None)
    assert "3/30" in terminal.getvalue()
    assert "best 0.9123" in terminal.getvalue()


def test_the_clock_of_a_search_goes_on_during_a_long_trial(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(trial_progress, "LOOK_SECONDS", 0.01)
    clock = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with TrialProgress(3, finished=0):
        clock[0] += 75
        until = time.monotonic() + 30
        while "[01:15<" not in terminal.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        assert "0/3 [01:15<" in terminal.getvalue()


def test_a_search_in_a_pipe_leaves_the_lines_to_its_caller(capfd):
    with TrialProgress(30, finished=0) as shown:
        shown.show(1, 0.5)
    assert capfd.readouterr() == ("", "")


def test_a_search_of_other_processes_is_followed_also_past_a_look_that_fails(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(trial_progress, "LOOK_SECONDS", 0.01)
    looks = iter([lambda: (1, None), lambda: 1 / 0, lambda: (2, 0.5)])
    seen = threading.Event()

    def look():
        step = next(looks, None)
        if step is None:
            seen.set()
            return 2, 0.5
        return step()

    with TrialProgress(3, finished=0) as shown, shown.following(look):
        assert seen.wait(30)
    assert "1/3" in terminal.getvalue()
    assert "best 0.5" in terminal.getvalue()
    assert [thread for thread in threading.enumerate() if "watch" in thread.name] == []
