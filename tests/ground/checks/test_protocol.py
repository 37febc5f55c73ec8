"""The frame of the checks: every way in which learner's code ends becomes one sentence and a score."""

import pytest
import torch

from torchcourse import journal
from torchcourse.checks import Wrong, check
from torchcourse.checks.errors import SKELETON


@check
def seven(learner) -> str:
    """Expect a function that returns 7."""
    value = learner()
    if value == 6:
        raise Wrong("one_too_small", "You are one too small. Where does counting start?")
    assert value == 7
    return "Right: it is seven."


class RankErrorLike(RuntimeError):
    def __init__(self, kind, message):
        super().__init__(f"rank 1: {kind}: {message}")
        self.kind, self.message, self.rank = kind, message, 1


def raising(error):
    def learner():
        raise error

    return learner


@pytest.mark.parametrize(
    ("learner", "state", "symptom", "words"),
    [
        (lambda: 7, "right", None, "it is seven"),
        (lambda: 6, "wrong", "one_too_small", "one too small"),
        (raising(NotImplementedError(SKELETON)), "not done", None, "Fill in"),
        (raising(RankErrorLike("NotImplementedError", SKELETON)), "not done", None, "Fill in"),
        (..., "not done", None, "Fill in"),
        (raising(KeyError("x")), "wrong", "raised_KeyError", "stopped with KeyError: 'x'"),
        (raising(SystemExit(3)), "wrong", "raised_SystemExit", "stopped with SystemExit: 3"),
        (raising(RankErrorLike("ValueError", "bad shape")), "wrong", "raised_ValueError", "in rank 1"),
        (lambda missing: 7, "wrong", "raised_TypeError", "missing"),
    ],
)
def test_every_end_is_a_sentence_and_a_score(learner, state, symptom, words):
    checked = seven(learner, points=3)
    assert (checked.state, checked.symptom) == (state, symptom)
    assert words in checked.message
    assert repr(checked) == ("3" if state == "right" else "0")


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        (lambda: torch.set_grad_enabled(False), "gradients switched off"),
        (lambda: torch.set_default_dtype(torch.float64), "torch.float64 as the type"),
    ],
)
def test_a_setting_of_the_whole_notebook_that_is_left_switched_over_is_refused_and_put_back(switch, words):
    def learner():
        switch()
        return 7

    for _ in range(2):  # the second time it was already switched, by a call outside of the check
        checked = seven(learner)
        assert (checked.state, checked.symptom) == ("wrong", "mode_left_changed")
        assert words in checked.message
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
        torch.set_grad_enabled(False)
    assert seven(lambda: 7).state == "right"
    assert torch.is_grad_enabled()


def test_an_error_after_a_setting_was_left_switched_over_names_it():
    message = seven(lambda: [torch.set_grad_enabled(False), 1 / 0]).message
    assert "ZeroDivisionError" in message
    assert "Besides, your code leaves gradients switched off" in message


def test_the_line_of_the_cell_is_named():
    import linecache

    filename = "/tmp/ipykernel_1/2.py"
    text = "def learner():\n    return 1 / 0\n"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict = {}
    exec(compile(text, filename, "exec"), scope)
    assert "Line 2 of your cell: return 1 / 0" in seven(scope["learner"]).message


def test_hints_are_escaped_and_the_journal_is_told():
    checked = seven(raising(ValueError("<b>bold</b>")))
    assert "<b>bold" not in checked._repr_html_()
    (line,) = [entry for entry in journal.read() if entry["kind"] == "check"]
    assert line["exercise"].endswith(".seven")
    assert line["state"] == "wrong"
