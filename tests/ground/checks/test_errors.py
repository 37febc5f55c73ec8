"""What a check says of code that raised, hangs or was not written: the hole by its words, the learner's own line."""

import builtins
import contextlib
import importlib
import linecache
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from torchcourse.checks import check, errors, limits
from torchcourse.checks.errors import SKELETON, NotDone, lines_of
from torchcourse.checks.kit import on_ranks
from torchcourse.checks.limits import TimeIsUp, time_limit

HOLE = f'raise NotImplementedError("{SKELETON}")'


@check
def called(learner) -> str:
    """Call the function."""
    learner()
    return "It ended."


@check
def called_on_ranks(learner) -> str:
    """Call the function on one rank."""
    on_ranks(learner, world_size=1, seconds=1.0)
    return "It ended."


ADDED_TO = """\
@check
def added_to(learner):
    return f"{learner() + 1}"
"""


def cell(text, number=3):
    """Run a text as a cell of a notebook; return its names."""
    filename = f"/tmp/ipykernel_1/{number}.py"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope = {"__name__": "__main__"}
    exec(compile(text, filename, "exec"), scope)
    return scope


PRISTINE = [
    f'def f():\n    """Do it."""\n    {HOLE}\n',
    f"def f():\n    {HOLE}\n",
    f'def f():\n    class Part:\n        """A part."""\n        def run(self):\n            {HOLE}\n    Part().run()\n',
]
LEFT_BELOW = [
    f'def f():\n    """Do it."""\n    x = 1\n    {HOLE}\n',
    f"def f():\n    {HOLE}\n    return 3\n",
    f"def f():\n    def inner():\n        x = 1\n        {HOLE}\n    inner()\n",
    f"class Part:\n    def run(self):\n        self.x = 1\n        {HOLE}\ndef f():\n    Part().run()\n",
    f"def f():\n    for x in range(3):\n        print(x)\n    {HOLE}\n",
    f"def f():\n    for x in range(3):\n        y = x\n        {HOLE}\n",
]


@pytest.mark.parametrize("text", PRISTINE)
def test_an_untouched_hole_is_not_done(text):
    checked = called(cell(text)["f"])
    assert (checked.state, checked.message) == ("not done", errors.NOT_DONE)


@pytest.mark.parametrize("text", LEFT_BELOW)
def test_a_skeletons_line_that_stays_is_named(text):
    checked = called(cell(text)["f"])
    number = text[: text.index("raise")].count("\n") + 1
    assert checked.state == "not done"
    assert checked.message.startswith(f"Line {number} of your cell is still the skeleton's")
    assert "delete that line" in checked.message


class WithoutForward(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    "raises",
    [
        lambda: torch.nn.functional.cross_entropy(torch.tensor([0, 1]), torch.randn(2, 3)),
        lambda: torch.log_softmax(torch.tensor([[1, 2]]), dim=1),
        lambda: WithoutForward()(1),
        lambda: torch.utils.data.Dataset()[0],
    ],
)
def test_pytorchs_own_not_implemented_error_is_no_hole(raises):
    with pytest.raises((NotImplementedError, RuntimeError)) as caught:
        raises()
    assert not errors.is_hole(caught.value)
    assert called(raises).state == "wrong"


def test_dots_in_an_answer_are_a_hole():
    @check
    def pair(learner) -> str:
        """Refuse dots."""
        raise NotDone

    assert (pair((1, ...)).state, pair(...).state) == ("not done", "not done")


FAILING = """\
def f():
    return g(0)
def g(x):
    return 1 / x
"""
BACKWARD = """\
import torch
class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    def backward(ctx, gradient):
        return gradient / undefined
def f():
    Twice.apply(torch.ones(1, requires_grad=True)).backward()
"""
STOPS = """\
def f():
    return list(g())
def g():
    yield next(iter([]))
"""
DRAWS = """\
import numpy as np
def f():
    return np.random.default_rng(0).choice(3, 10, replace=False)
"""
HOOK = """\
import torch
def f():
    model = torch.nn.Linear(1, 1)
    model.register_forward_hook(lambda module, inputs, output: output.no_such)
    model(torch.ones(1))
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (FAILING, "return 1 / x"),
        (BACKWARD, "return gradient / undefined"),
        (STOPS, "yield next(iter([]))"),
        (DRAWS, "choice(3, 10, replace=False)"),
        (HOOK, "output.no_such"),
    ],
)
def test_the_learners_innermost_line_is_named(text, line):
    message = called(cell(text)["f"]).message
    assert message.startswith("Your code stopped with ")
    assert message.splitlines()[1].startswith("Line ")
    assert message.splitlines()[1].endswith((line, f"{line})"))


class Stumbles(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return [1, 2][index]


def test_an_error_in_a_worker_of_a_loader_names_the_line_and_drops_the_frames():
    checked = called(lambda: list(DataLoader(Stumbles(), num_workers=1)))
    assert checked.symptom == "raised_IndexError"
    assert checked.message.startswith("Your code stopped with IndexError: list index out of range\n")
    assert "in a worker of the DataLoader" in checked.message
    assert checked.message.endswith("return [1, 2][index]")


def test_what_the_check_meets_is_not_put_down_to_a_line():
    names: dict[str, Any] = {"check": check, "__name__": "check_of_a_lesson"}
    exec(compile(ADDED_TO, f"{Path(limits.__file__).parent}/of_a_lesson.py", "exec"), names)
    checked = names["added_to"](lambda: "text")
    assert checked.symptom == "raised_TypeError"
    assert "Your code stopped" not in checked.message
    assert "None of your lines was running" in checked.message


@pytest.mark.slow
def test_a_frame_of_compiled_code_is_no_line_of_the_learners():
    with pytest.raises(ValueError) as met:
        np.random.default_rng(0).choice(3, 10, replace=False)
    line = errors.learners_line(met.value)
    assert line is not None
    assert line.file == __file__


def test_names_of_cells_are_read_from_a_written_traceback():
    text = '  File "/x/y.py", line 3, in run\n    go()\n  Cell In[7], line 2, in f\n    return 1 / 0\n'
    assert [(line.number, line.text) for line in lines_of(text)] == [(3, "go()"), (2, "return 1 / 0")]
    assert errors.is_learners(lines_of(text)[-1].file)


IN_A_RANK = """\
import time, os
def hole():
    x = 1
    HOLE
def stumbles():
    print("a line of the learner")
    os.write(2, b"[W1128 12:00:00.0 socket.cpp:767] [c10d] The client socket cannot be initializedNEWLINE")
    os.write(2, b"terminate called after throwing an instance of 'gloo::EnforceNotMet'NEWLINE")
    return 1 / 0
def spins():
    while True:
        pass
def sleeps():
    while True:
        time.sleep(0.1)
""".replace("HOLE", HOLE).replace("NEWLINE", "\\n")


@pytest.mark.slow
def test_what_a_rank_met_is_told_by_the_learners_line(capfd):
    names = cell(IN_A_RANK)
    checked = called_on_ranks(names["hole"])
    assert checked.state == "not done"
    assert "Line 4 of your cell is still the skeleton's" in checked.message
    checked = called_on_ranks(names["stumbles"])
    assert checked.message == (
        "Your code stopped with ZeroDivisionError: division by zero\nIt happened in rank 0.\n"
        "Line 9 of your cell: return 1 / 0"
    )
    shown = capfd.readouterr()
    assert "a line of the learner" in shown.out
    assert "socket" not in shown.out + shown.err
    assert "gloo" not in shown.out + shown.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spins", "sleeps"])
def test_an_endless_loop_in_a_rank_is_no_hang(name):
    checked = called_on_ranks(cell(IN_A_RANK)[name])
    assert checked.symptom == "endless"
    assert "After 1 s rank 0 was still running" in checked.message
    assert "Line 1" in checked.message


def spin():
    while True:
        pass


def sleep():
    time.sleep(60)


def catch_all():
    while True:
        with contextlib.suppress(Exception):
            time.sleep(60)


def lock():
    threading.Event().wait()


@pytest.mark.slow
@pytest.mark.parametrize("endless", [spin, sleep, catch_all, lock])
def test_an_endless_call_ends_with_the_line_where_it_was(endless, monkeypatch):
    monkeypatch.setattr("torchcourse.checks.TIME_LIMIT", 0.2)
    checked = called(endless)
    assert checked.symptom == "endless"
    assert "still running after 0.2 s" in checked.message
    assert "of test_errors.py" in checked.message
    assert called(lambda: 7).state == "right"


@pytest.mark.slow
def test_the_time_is_named_beforehand_once(monkeypatch, capsys):
    monkeypatch.setattr(limits, "NOTICE", 0.05)
    monkeypatch.setattr("torchcourse.checks.TIME_LIMIT", 0.5)
    assert called(spin).symptom == "endless"
    assert capsys.readouterr().out == "Still checking. This part of the check stops by itself after 0.5 s.\n"


@pytest.mark.slow
def test_an_import_that_the_clock_cuts_off_begins_anew_the_next_time(tmp_path, monkeypatch):
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text("import time, slow_package.part.deeper\ntime.sleep(seconds)\n")
    (package / "part").mkdir()
    (package / "part" / "__init__.py").touch()
    (package / "part" / "deeper.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(builtins, "seconds", 60, raising=False)
    with pytest.raises(TimeIsUp), time_limit(0.5):
        importlib.import_module("slow_package")
    monkeypatch.setattr(builtins, "seconds", 0)
    try:
        assert importlib.import_module("slow_package").part.deeper.__name__ == "slow_package.part.deeper"
    finally:
        for name in [name for name in sys.modules if name.startswith("slow_package")]:
            del sys.modules[name]


@pytest.mark.slow
def test_an_outer_limit_rests_while_an_inner_one_counts():
    with time_limit(0.3), time_limit(5):
        time.sleep(0.5)
    with pytest.raises(TimeIsUp), time_limit(0.2):
        sleep()


def test_a_limit_holds_in_a_different_thread_too():
    ended = []

    def run():
        try:
            with time_limit(0.2):
                spin()
        except TimeIsUp as end:
            ended.append(end.seconds)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert ended == [0.2]


PART = """\
def f(x):
    def part(name, of):
        return of(name)
    return part("a" * 50, int)
"""
ODD = """\
class Odd(list):
    def __len__(self):
        return -1
def g(x):
    return 1 / 0
def f(x):
    g(Odd())
"""
METHOD = """\
class A:
    def run(self, n):
        return n / 0
def f(x):
    A().run(None)
"""
GIVEN = {
    "def f(x, k=2):\n    return x[k]\n": "There, `x` was a tensor of shape [2] (int64), `k` was 2.",
    "def f(x):\n    x = [1]\n    return x[5]\n": "There, `x` was a list of length 1.",
    "def f(x):\n    return [x[n] for n in range(9)]\n": "There, `x` was a tensor of shape [2] (int64).",
    PART: f"There, `name` was '{'a' * 39} …, `of` was the class int.",
    ODD: "There, `x` was of type Odd.",
    METHOD: "There, `n` was None.",
    "def f(x, a=1, b=2, c=3, d=4, e=5):\n    return x[e]\n": (
        "There, `x` was a tensor of shape [2] (int64), `a` was 1, `b` was 2, `e` was 5."
    ),
    "def f(x):\n    del x\n    return [][1]\n": "",
    "def f(*x):\n    return [][1]\n": "",
}


@check
def called_with_two(learner) -> str:
    """Call the function with a tensor of two numbers."""
    learner(torch.tensor([1, 2]))
    return "It ended."


@pytest.mark.parametrize("text", GIVEN)
def test_a_learner_is_told_with_what_the_function_stopped(text):
    message = called_with_two(cell(text)["f"]).message
    assert message.splitlines()[2:] == ([GIVEN[text]] if GIVEN[text] else [])


def test_of_a_rank_too():
    message = called_on_ranks(cell("def g(y):\n    return 1 / y\ndef f():\n    g(0)\n")["f"]).message
    assert message.splitlines()[1:] == [
        "It happened in rank 0.",
        "Line 2 of your cell: return 1 / y",
        "There, `y` was 0.",
    ]


def test_a_rank_that_says_nothing_shows_no_traceback():
    message = called_on_ranks(cell("import sys\ndef f():\n    sys.exit()\n")["f"]).message
    assert message.splitlines() == [
        "Your code stopped with SystemExit.",
        "It happened in rank 0.",
        "Line 3 of your cell: sys.exit()",
    ]


def test_a_group_that_the_learner_ended_is_not_missing_from_the_start():
    text = "import torch, torch.distributed as dist\ndef f():\n    dist.destroy_process_group()\n    dist.barrier()\n"
    assert called_on_ranks(cell(text)["f"]).message.splitlines()[1] == errors._GROUP_ENDED
