"""A cell of an answer that Python could not read: what is checked is what came before it, and the check says so."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

CHECK = """\
from torchcourse.checks import check
from torchcourse.checks.errors import SKELETON
@check
def seven(learner):
    found = [one() if callable(one) else one for one in (learner if isinstance(learner, tuple) else (learner,))]
    assert set(found) == {7}
    return "Right: it is seven."
"""
STUB = "def answer():\n    raise NotImplementedError(SKELETON)"
RIGHT = "def answer(): return 7"
ASK = "# @title Check\nchecked = seven(answer, points=2)\nchecked"


@pytest.fixture
def message():
    """Return the message of the check in the last of these cells, run in a shell of their own."""
    shell = InteractiveShell.instance()

    def run(*cells):
        for cell in (CHECK, *cells):
            shell.run_cell(cell, store_history=True)
        return shell.user_ns["checked"].message

    yield run
    InteractiveShell.clear_instance()


CELL = "Your cell In[3], with `answer`, did not run: "


@pytest.mark.parametrize(
    ("cells", "begins"),
    [
        ([STUB, "def answer():\n    return 7)"], CELL + "SyntaxError in its line 2"),
        ([STUB, "def answer()\n    return 7"], CELL + "SyntaxError in its line 1"),
        ([STUB, "def answer():\nreturn 7"], CELL + "IndentationError in its line 2"),
        ([STUB, "x = 1\nreturn 7\ndef answer(): return 7"], CELL + "SyntaxError in its line 2"),
        ([STUB, RIGHT + ")", "1 + 1"], CELL + "SyntaxError"),
        ([STUB, RIGHT + ")", "print('%s' % answer, answer == 7)"], CELL + "SyntaxError"),
        (["answer = ...", "answer = 7)"], CELL + "SyntaxError"),
        (["answer: int = ...", "answer: int = 7)"], CELL + "SyntaxError"),
        ([STUB], "Fill in the exercise"),
        ([STUB, RIGHT + ")", STUB], "Fill in the exercise"),
        ([STUB, "other = 7)"], "Fill in the exercise"),
        ([STUB, RIGHT + ")", RIGHT], "Right: it is seven."),
        ([STUB, RIGHT + ")", "%time answer = lambda: 7"], "Right: it is seven."),
        ([STUB, RIGHT + ")", "%%time\n" + RIGHT], "Right: it is seven."),
        ([STUB, RIGHT + ")", "answer, other = 7, 8"], "Right: it is seven."),
        ([STUB, RIGHT + ")", "from math import tau as answer\nanswer += 7 - answer"], "Right: it is seven."),
        ([STUB, RIGHT + ")", RIGHT, "%time checked = seven(answer)"], "Right: it is seven."),
        ([STUB, RIGHT + ")", "import asyncio\nawait asyncio.sleep(0)\nif 1:\n    answer = 7"], "Right: it is seven."),
    ],
)
def test_a_cell_that_did_not_run_is_named_where_its_answer_is_checked(message, cells, begins):
    told = message(*cells, ASK)
    assert told.startswith(begins)
    assert ("did not run" in told) == ("did not run" in begins)


def test_beside_the_verdict_on_what_ran_before(message):
    told = message(RIGHT, "def answer():\n    return 6)", ASK)
    assert told.splitlines()[0] == "Right: it is seven."
    assert "did not run" in told
    assert "What came before it was checked." in told


def test_each_part_of_an_answer_is_looked_for(message):
    told = message("first, second = 7, 7", "second = 8)", "checked = seven((first, second))")
    assert "Your cell In[3], with `second`, did not run" in told


def test_a_check_that_the_history_does_not_hold_says_nothing(message):
    message(RIGHT, "checked = seven(answer)", "answer = 8)")
    shell = InteractiveShell.instance()
    shell.run_cell("again = seven(answer)")
    assert shell.user_ns["again"].message == "Right: it is seven."
