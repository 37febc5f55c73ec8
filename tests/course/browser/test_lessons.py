"""Each notebook done once in a browser as its learner does it: run, try, be checked, move a slider, take the quiz.

Each exercise is checked as it is released and then with its answer, as the grader does it: with the hidden tests. The
first notebook of each lesson comes here; the others are done in ../test_execution.py, or here with
TORCHCOURSE_EVERY_NOTEBOOK=1.
"""

import json
import os
import re

import nbformat
import pytest
from playwright.sync_api import expect

from lab_in_browser import Notebook
from lesson_notebooks import (
    DONE_IN_THE_BROWSER,
    FIRST_TRY,
    assert_all_points,
    assert_not_done_yet,
    is_check,
    name,
    outputs,
    read,
    tried_then_done,
    tries_and_rest,
)
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
    done = tried_then_done(release)
    path = f"done/{name(release)}.ipynb"
    (lab.folder / path).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(done, lab.folder / path)
    notebook = lab.open(path)
    notebook.run_all(timeout=600)
    assert notebook.stopped_at() is None
    quiz = release.stem == "quiz"
    checks = [number for number, cell in enumerate(done.cells) if is_check(cell)]
    assert checks
    for number in checks:
        right, not_yet = ("Graded: ", "Not answered yet") if quiz else ("Right.", "Not done yet")
        tried = done.cells[number].id.endswith(FIRST_TRY)
        expect(notebook.cell(number)).to_contain_text(not_yet if tried else right)
    if name(release) in WITHOUT_A_SLIDER:
        assert notebook.page.locator(".jp-NotebookPanel").get_by_role("slider").count() == 0
    elif not quiz:
        move_the_first_slider(notebook)
    if "TORCHCOURSE_SCREENSHOTS" in os.environ:
        notebook.screenshot(name(release).replace("/", "-"), whole=True)
    notebook.save()
    notebook.assert_no_errors()
    saved = nbformat.read(lab.folder / path, as_version=4)
    code = [cell for cell in saved.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.id for cell in code if cell.execution_count is None] == []
    tries, rest = tries_and_rest(saved)
    assert_not_done_yet(tries)
    assert [cell.id for cell in rest if outputs(cell, "error")] == []
    assert_all_points(rest)


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
