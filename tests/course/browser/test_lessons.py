"""Each lesson done once in a browser as its learner does it: fill in, run, be checked, move a slider, take the quiz."""

import json
import re

import nbformat
import pytest
from playwright.sync_api import expect

from torchcourse.tools.build.notebooks import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LESSONS = sorted(path for path in (ROOT / "notebooks").glob("*/*.ipynb") if path.stem != "quiz")


def journal(lab):
    text = (lab.folder / "journal.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("release", LESSONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_lesson_from_first_cell_to_last(lab, release):
    path = release.relative_to(ROOT / "notebooks")
    solution = {cell.id: cell for cell in nbformat.read(ROOT / "solutions" / path, as_version=4).cells}
    cells = nbformat.read(release, as_version=4).cells
    notebook = lab.open(path.as_posix())
    checks = []
    for number, cell in enumerate(cells):
        role = cell.metadata.get("nbgrader", {})
        if role.get("solution") and cell.cell_type == "code":
            notebook.edit(number, solution[cell.id].source)
        elif role.get("grade") and cell.cell_type == "code":
            checks.append(number)
    notebook.run_all(timeout=300)
    assert checks
    for number in checks:
        expect(notebook.cell(number)).to_contain_text("Right.")
    move_the_first_slider(notebook)
    notebook.screenshot(f"{release.parent.name}-{release.stem}", whole=True)
    notebook.assert_no_errors()


def move_the_first_slider(notebook):
    """With the keyboard alone: the picture under the slider must change."""
    cell = notebook.page.locator(".jp-NotebookPanel .jp-Cell").filter(has=notebook.page.get_by_role("slider")).first
    slider, picture = cell.get_by_role("slider").first, cell.locator("img").first
    before = picture.get_attribute("src")
    slider.focus()
    slider.press("ArrowRight")
    expect(picture).not_to_have_attribute("src", before)
    assert picture.get_attribute("alt")


def choose(box):
    """Tick a box or a radio button with the keyboard alone."""
    box.focus()
    box.press("Space")
    expect(box).to_be_checked()


def test_the_recorded_question_is_answered_wrongly_and_then_rightly(lab):
    notebook = lab.open("04_monitoring_and_checkpoints/quiz.ipynb")
    source = nbformat.read(ROOT / "notebooks/04_monitoring_and_checkpoints/quiz.ipynb", as_version=4)
    number = next(n for n, cell in enumerate(source.cells) if "quiz.card(" in cell.source and "manage" in cell.source)
    for index, cell in enumerate(source.cells[:number]):
        if cell.cell_type == "code":
            notebook.run_cell(index)
    notebook.run_cell(number)
    card = notebook.cell(number)
    for letter in "ACD":
        choose(card.get_by_label(re.compile(rf"^{letter}\b")))
    choose(card.get_by_label(re.compile("fairly sure", re.IGNORECASE)))
    notebook.click("Check", within=card)
    card.locator("textarea").first.fill("I took performance for speed")
    notebook.screenshot("quiz-wrong", of=card)
    notebook.click("Keep it and show why", within=card)
    expect(card).to_contain_text("answer_q3")
    expect(card).to_contain_text("speed")
    notebook.screenshot("quiz-why", of=card)
    written = json.dumps(journal(lab), ensure_ascii=False)
    assert "I took performance for speed" in written
    answer = next(n for n, cell in enumerate(source.cells) if "answer_q3 = ..." in cell.source)
    notebook.edit(answer, 'answer_q3 = "ACE"')
    notebook.run_cell(answer)
    notebook.run_cell(answer + 1)
    expect(notebook.cell(answer + 1)).to_contain_text("A, C, E")
    notebook.assert_no_errors()
