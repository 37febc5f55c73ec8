"""Each notebook done once in a browser as its learner does it: run, be checked, move a slider, take the quiz.

It is run as the grader runs it: with all answers, and with the hidden tests in its check cells. The first notebook of
each lesson comes here; the others are done in ../test_execution.py, or here with TORCHCOURSE_EVERY_NOTEBOOK=1.
"""

import json
import os
import re

import nbformat
import pytest
from nbgrader.utils import is_grade
from playwright.sync_api import expect

from lab_in_browser import Notebook
from lesson_notebooks import DONE_IN_THE_BROWSER, assert_all_points, filled_in, name, outputs, read
from torchcourse.tools.repository import ROOT

pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.timeout(900)]

WITHOUT_A_SLIDER = {
    "04_monitoring_and_checkpoints/4_it_died",
    "06_custom_datasets/1_datasets",
    "06_custom_datasets/4_clinic_data",
}


def journal(lab):
    text = (lab.folder / "journal.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("release", DONE_IN_THE_BROWSER, ids=name)
def test_a_notebook_done_earns_all_points(lab, release):
    done = filled_in(release, lambda _: True)
    path = f"done/{name(release)}.ipynb"
    (lab.folder / path).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(done, lab.folder / path)
    notebook = lab.open(path)
    notebook.run_all(timeout=600)
    assert notebook.stopped_at() is None
    quiz = release.stem == "quiz"
    checks = [n for n, cell in enumerate(done.cells) if is_grade(cell) and cell.cell_type == "code"]
    assert checks
    for number in checks:
        expect(notebook.cell(number)).to_contain_text("Graded: " if quiz else "Right.")
    if name(release) in WITHOUT_A_SLIDER:
        assert notebook.page.locator(".jp-NotebookPanel").get_by_role("slider").count() == 0
    elif not quiz:
        move_the_first_slider(notebook)
    if "TORCHCOURSE_SCREENSHOTS" in os.environ:
        notebook.screenshot(name(release).replace("/", "-"), whole=True)
    notebook.save()
    notebook.assert_no_errors()
    saved = nbformat.read(lab.folder / path, as_version=4)
    assert [cell.id for cell in saved.cells if outputs(cell, "error")] == []
    code = [cell for cell in saved.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.id for cell in code if cell.execution_count is None] == []
    assert_all_points(saved.cells)


def move_the_first_slider(notebook: Notebook):
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
    source = read(ROOT / "notebooks/04_monitoring_and_checkpoints/quiz.ipynb")
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
