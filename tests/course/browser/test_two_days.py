"""What a learner clicked is there the next day, no key that is meant for a card reaches the notebook, and the path of
a learner hangs together: quiz, review, final, capstone, front page.
"""

import datetime
import json
import re

from playwright.sync_api import Locator, expect

from lesson_notebooks import RELEASES, read, solution
from torchcourse.lessons.start_here import start_notebook
from torchcourse.quiz import review as due_now

CELLS = [
    "from torchcourse import figures\nfrom torchcourse.quiz import card, outcome, predict",
    'card("04_monitoring_and_checkpoints", "manage-training")',
    'predict("two-days", "Which `one` comes out?", ["the first", "the second", "the third"])',
    'outcome("two-days", "The second came.", right="the second")',
    'figures.explorer(lambda boxes: f"<svg><rect width={boxes} /></svg>", alt="{boxes} boxes".format, boxes=(1, 9, 3))',
]
NOT_FOUND = "Error displaying widget"


def entries(lab) -> list[dict]:
    text = (lab.folder / "journal.jsonl").read_text(encoding="utf-8")
    return [entry for entry in map(json.loads, text.splitlines()) if entry.get("id", "two-days") == "two-days"]


def make_it_yesterday(lab) -> str:
    """Set the journal back by a day, and return that day."""
    journal = lab.folder / "journal.jsonl"
    today = datetime.date.today()
    yesterday = (today - datetime.timedelta(days=1)).isoformat()
    journal.write_text(journal.read_text("utf-8").replace(today.isoformat(), yesterday), encoding="utf-8")
    return yesterday


def test_two_days_and_a_lost_kernel(lab):
    lab.write("days.ipynb", CELLS)
    notebook = lab.open("days.ipynb")
    page = notebook.page
    notebook.run_all()
    card, prediction, outcome, explorer = map(notebook.cell, range(1, 5))
    cells = page.locator(".jp-NotebookPanel .jp-Cell")
    before = cells.count()

    # Letters choose, arrows move within a group, and the notebook hears of neither.
    choices = card.get_by_role("checkbox")
    choices.first.focus()
    for key in ("a", "b", "d", "d", "b", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert [choices.nth(place).is_checked() for place in range(5)] == [True, False, False, False, False]
    sure = card.get_by_role("radio")
    sure.first.focus()
    page.keyboard.press("ArrowRight")
    expect(sure.nth(1)).to_be_checked()
    page.keyboard.press("d")
    page.keyboard.press("d")
    expect(card.get_by_role("group", name="How sure are you?")).to_have_count(1)
    button = card.get_by_role("button", name="Check")
    expect(button).to_be_enabled()
    button.press("Enter")
    expect(card.locator("form .tc-verdict")).to_be_focused()
    reason = card.get_by_label("what made you choose this")
    reason.press_sequentially("add")
    card.get_by_role("button", name="Keep it and show why").press("Enter")
    expect(card.locator("form .tc-verdict")).to_be_focused()
    prediction.get_by_role("radio").first.focus()
    for key in ("a", "d", "d", "b"):
        page.keyboard.press(key)
    expect(prediction).to_contain_text("Kept.")

    # Escape leads back to the cell, Tab from the last control to the next cell; sliders and folds keep their keys too.
    page.keyboard.press("Escape")
    expect(prediction).to_be_focused()
    prediction.get_by_role("radio").nth(1).press("Tab")
    expect(outcome).to_be_focused()
    slider, fold = explorer.get_by_role("slider", name="boxes"), outcome.locator("summary")
    for control in (slider, fold):
        control.focus()
        for key in ("a", "d", "d", "b", "x"):
            page.keyboard.press(key)
        expect(control).to_be_focused()
    page.keyboard.press("Escape")
    expect(outcome).to_be_focused()
    slider.press("Shift+Enter")
    expect(notebook.cell(5)).to_have_class(re.compile("jp-mod-active"))
    assert cells.count() == before + 1, "the last cell has run, so there is a new one below it"
    before += 1

    # An outcome that came too early waits behind its question.
    expect(outcome).to_contain_text("You made no prediction.")
    expect(outcome.locator(".tc-verdict")).to_be_hidden()
    notebook.run_cell(3)
    expect(outcome.get_by_text("← right, your prediction")).to_be_visible()
    expect(outcome.locator(".tc-verdict")).to_be_visible()
    expect(explorer.get_by_role("slider", name="boxes")).to_be_visible()

    # A page whose ipywidgets does not fit the kernel's draws an error: the static form stands in its place.
    broken = '<div class="jupyter-widgets-error-widget">Click to show javascript error.</div>'
    explorer.locator(".tc-live").evaluate("(live, broken) => { live.innerHTML = broken }", broken)
    expect(explorer.get_by_text("figures.at(")).to_be_visible()
    expect(explorer.get_by_text("javascript error")).to_be_hidden()
    kinds = [entry["kind"] for entry in entries(lab)]
    assert kinds[-5:] == ["quiz", "reasoning", "prediction", "prediction", "outcome"]

    # The kernel has gone: what is clicked is refused in words.
    page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.restartKernel() }")
    expect(prediction.locator("form .tc-gone")).to_be_visible()
    expect(prediction.get_by_role("radio").first).to_be_disabled()
    notebook.save()
    notebook.assert_no_errors()

    # The next day.
    lab.close_notebooks()
    yesterday = make_it_yesterday(lab)
    notebook = lab.open("days.ipynb")
    card, prediction, _outcome, explorer = map(notebook.cell, range(1, 5))
    expect(card.get_by_text("you answered: A")).to_be_visible()
    expect(card.get_by_text("The performance is measured at each saving")).to_be_visible()
    expect(prediction.get_by_text("← your prediction")).to_be_visible()
    expect(explorer.get_by_role("img", name="3 boxes")).to_be_visible()
    for complaint in (cell.get_by_text(NOT_FOUND) for cell in (card, prediction, explorer)):
        expect(complaint).to_be_attached()
        expect(complaint).to_be_hidden()
    notebook.run_all()
    expect(card.get_by_text(f"asked on {yesterday}: you answered A, not right")).to_be_visible()
    expect(prediction.get_by_role("radio").nth(1)).to_be_checked()
    # JupyterLab reports each widget of yesterday.
    assert [error for error in notebook.errors if "widget model not found" not in error] == []


TWO_CARDS = """\
from IPython.display import display
from torchcourse.quiz import card
lesson = "04_monitoring_and_checkpoints"
display(*(card(lesson, name, grade_line=False) for name in ("refused-for-eval", "interval-for-one-percent")))"""


def test_the_cards_of_one_cell_are_answered_by_the_keys_alone(lab):
    lab.write("keys.ipynb", [TWO_CARDS, "1 + 1"])
    notebook = lab.open("keys.ipynb")
    notebook.run_cell(0)
    cell, keys = notebook.cell(0), notebook.page.keyboard
    first, second = cell.locator("form").first, cell.locator("form").last
    expect(second.get_by_role("button", name="Check")).to_be_visible()
    first.get_by_role("button", name="EN").focus()
    # Faster than Python answers: the button is reached before it has heard that there is an answer.
    for key in ("Tab", "Tab", "b", "Tab", "ArrowRight", "Tab", "Enter"):
        keys.press(key)
    expect(first.locator(".tc-verdict")).to_be_focused()
    expect(first.get_by_role("radio", name="Fairly sure")).to_be_checked()
    for key in ("Tab", "Tab", "Enter"):  # the reasoning, which may stay empty
        keys.press(key)
    expect(first.get_by_text("Show the other choices")).to_be_visible()
    expect(first.locator(".tc-verdict")).to_be_focused()
    for key in ("Tab", "Enter", "Enter", "Tab", "Tab", "Tab"):  # a fold opens and closes; then the languages
        keys.press(key)
    expect(second.get_by_role("textbox")).to_be_focused()
    keys.type("0.5")
    for key in ("Tab", "Space", "Tab", "Enter"):
        keys.press(key)
    expect(second.locator(".tc-verdict")).to_be_focused()
    keys.press("Escape")
    expect(cell).to_be_focused()
    notebook.assert_no_errors()


PATH = [
    "from torchcourse.lessons.final.final_quiz import final, final_result\nfrom torchcourse.quiz import card, review",
    'card("04_monitoring_and_checkpoints", "manage-training")',
    "review()",
    "final()",
    """\
for each in final().cards[1:]:
    key = each.question.key
    each.answer(key[0] if isinstance(key, list) else key, sure=3)""",
    "final_result()",
]


def answer(card: Locator, words: str) -> None:
    """Choose these letters, or type these words, be certain, and check."""
    typed = card.locator("[type=text][name=answer]")
    if typed.count():
        typed.fill(words)
    else:
        for letter in words:
            card.locator(f'[name=answer][value="{letter}"]').check()
    card.locator('[name=sure][value="3"]').check()
    card.get_by_role("button", name="Check").click()


def test_a_path_from_a_wrong_answer_to_the_capstone(lab, monkeypatch):
    monkeypatch.setenv("TORCHCOURSE_WORK", str(lab.folder))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(lab.log.parent / "JUPYTER_DATA_DIR"))  # whose notebooks it trusts
    (lab.folder / "journal.jsonl").unlink(missing_ok=True)
    lab.write("path.ipynb", PATH)
    notebook = lab.open("path.ipynb")
    card, review, final, result = map(notebook.cell, (1, 2, 3, 5))
    for number in (0, 1):
        notebook.run_cell(number)
    answer(card, "AD")
    card.get_by_label("what made you choose this").fill("Speed is performance")
    notebook.click("Keep it and show why", within=card)
    expect(card.get_by_text("Your reasoning: Speed is performance")).to_be_visible()
    notebook.run_cell(2)
    expect(review).to_contain_text("Nothing is due")

    # The next day the question comes back, says what was answered, and is answered rightly.
    yesterday = make_it_yesterday(lab)
    notebook.run_cell(2)
    expect(review).to_contain_text("One review is due.")
    again = review.locator("form")
    expect(again.get_by_text(f"on {yesterday}: you answered A, D, not right")).to_be_visible()
    [asked] = due_now().cards
    answer(again, str(asked.question.key))
    expect(again.locator(".tc-verdict").first).to_contain_text("Right.")

    # The final: one answer in the page, nine by code, and the page says what counts.
    notebook.run_cell(3)
    first = final.locator("form").first
    expect(first.get_by_text("1 of 10 ·")).to_be_visible()
    answer(first, "1" if first.locator("[type=text]").count() else "A")
    expect(first.locator(".tc-verdict").first).to_be_visible()
    notebook.run_cell(4)
    notebook.run_cell(5)
    expect(result).to_contain_text("of 10")
    notebook.assert_no_errors()

    # The first milestone of the capstone, then the front page.
    release = next(path for path in RELEASES if path.parent.name == "10_capstone")
    answers = {cell.id: cell.source for cell in solution(release).cells}
    cells = [cell.id for cell in read(release).cells]
    lab.close_notebooks()
    notebook = lab.open("10_capstone/1_capstone.ipynb")
    done = cells.index("check-open_part")
    for number in (done - 2, done - 1):
        notebook.edit(number, answers[cells[number]])
    imports = next(number for number, cell in enumerate(cells) if "# @title Imports" in answers[cell])
    for number in (imports, done - 2, done - 1, done):
        notebook.run_cell(number)
    expect(notebook.cell(done)).to_contain_text("Right.")
    assert start_notebook.main() == 0
    lab.close_notebooks()
    notebook = lab.open("start.ipynb")
    expect(notebook.page.locator(".tc-continue a").first).to_contain_text("exercise study")
    row = notebook.page.get_by_role("row").filter(has_text="10 Capstone").first
    expect(row).to_contain_text("1/6")
    notebook.assert_no_errors()
