"""The quiz notebook: readable without running it, nothing given away in the release, graded in full in the solution."""

import json
import re
from pathlib import Path

import pytest

import example_bank as example
from torchcourse.quiz import bank, received
from torchcourse.quiz.bank import BankError
from torchcourse.tools.build import quiz_notebook
from torchcourse.tools.build.source import Origin, to_notebook

pytestmark = pytest.mark.usefixtures("banks")


def source() -> str:
    return quiz_notebook.quiz_source(bank.lesson(example.LESSON))


def released(text: str) -> str:
    """Return what the release keeps of a source, by the rules of the build."""
    text = re.sub(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS\n", "", text, flags=re.DOTALL)
    text = re.sub(r" = .*### SOLUTION$", " = ...", text, flags=re.MULTILINE)
    return re.sub(r"(# %% written: .*?\n).*?(?=# %%|\Z)", r"\1", text, flags=re.DOTALL)


def test_each_question_can_be_read_and_is_marked_for_grading() -> None:
    cells = to_notebook(source(), Origin(f"solutions/{example.LESSON}/quiz.py")).cells
    roles = {cell.id: cell.metadata.get("nbgrader", {}) for cell in cells}
    assert {name: roles[name]["points"] for name in roles if roles[name].get("grade")} == {
        "check-q1": 1,
        "check-q2": 2,
        "check-q3": 1,
        "check-q4": 1,
        "check-q5": 1,
        "q6": 2,
    }
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for text in (
        "# Quiz 07: Example",
        "## Question 2\n\n*Choose all that apply · 2 points*\n\nPick several\n\n- **A.** two\n- **B.** three",
        '<details lang="ko"><summary>한국어</summary>\n\n한국어 Pick several',
        "Pick `one` &lt;b&gt;",
        "How many?\n\n(bytes)",
        "- **A.** last\n- **B.** first",
    ):
        assert text in prose
    assert sum("quiz.card(" in cell.source for cell in cells) == 6


def test_the_release_gives_nothing_away() -> None:
    text = released(source())
    for secret in (
        "Why two",
        "Why three",
        "odd",
        "slip",
        "Look again",
        "all_reduce",
        "Because",
        "Says this",
        "BCA",
        "key",
    ):
        assert secret not in text, secret
    assert text.count(" = ...\n") == 5
    assert "answer_q2 = ...\n" in text


def test_the_solution_earns_all_points_and_the_release_none() -> None:
    for text, share in ((source(), 1), (released(source()), 0)):
        cells = re.split(r"^# %%.*\n", text, flags=re.MULTILINE)
        code = [cell for cell in cells if "answer_q" in cell or "received" in cell]
        names: dict[str, object] = {"quiz": __import__("torchcourse.quiz").quiz}
        earned = []
        for cell in code:
            exec(cell, names)
            if "received" in cell:
                earned.append(float(repr(names["received"])))
        assert earned == [1 * share, 2 * share, share, share, share]


def test_a_stripped_bank_makes_no_graded_notebook(banks: Path) -> None:
    example.write(banks, bank.strip(bank.lesson(example.LESSON)))
    with pytest.raises(BankError, match="stripped of its keys"):
        source()


@pytest.mark.parametrize(
    ("typed", "kind", "shown", "earned"),
    [
        (..., "several", "Not answered yet.", "0"),
        ("AC", "several", "Kept: A, C. It is graded when you hand in.", "2"),
        ("a,c", "several", "Kept: A, C.", "2"),
        (["A", "C"], "several", "Kept: A, C.", "2"),
        ("A", "several", "Kept: A.", "1"),
        ("ABCD", "several", "Kept: A, B, C, D.", "0"),
        ("AZ", "several", "There is no choice Z", "0"),
        (13, "several", "between quotes", "0"),
        (object(), "several", "between quotes", "0"),
        ("<b>", "text", "Kept: &lt;b&gt;.", "0"),
    ],
)
def test_what_the_learner_sees_and_what_nbgrader_reads(typed, kind, shown, earned) -> None:
    answer = received("l", "q", typed, kind=kind, letters="ABCD", points=2)
    assert repr(answer) == "0"
    assert shown in answer._repr_html_()
    answer.grade(key="AC" if kind == "several" else ["x"])
    assert repr(answer) == earned
    if earned == "1":
        assert "Graded: 1 of 2." in answer._repr_html_()


@pytest.mark.parametrize(("typed", "earned"), [(0.25, 1), ("1/4", 1), (0.26, 1), (0.3, 0), ("a quarter", 0), (..., 0)])
def test_a_number_is_graded_within_its_tolerance(typed, earned) -> None:
    answer = received("l", "q", typed, kind="number", points=1)
    answer.grade(key=0.25, tolerance=0.01)
    assert float(repr(answer)) == earned


def test_a_third_of_the_points_is_written_as_nbgrader_reads_it() -> None:
    answer = received("l", "q", "A", kind="several", letters="ABCDE", points=2)
    answer.grade(key="ACE")
    assert json.loads(repr(answer)) == pytest.approx(2 / 3, abs=1e-5)
