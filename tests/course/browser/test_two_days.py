"""What a learner clicked is there the next day, and no key that is meant for a card reaches the notebook."""

import datetime
import json

from playwright.sync_api import expect

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
    assert cells.count() == before

    # An outcome that came too early waits behind its question.
    expect(outcome).to_contain_text("You made no prediction.")
    expect(outcome.locator(".tc-verdict")).to_be_hidden()
    notebook.run_cell(3)
    expect(outcome.get_by_text("← right, your prediction")).to_be_visible()
    expect(outcome.locator(".tc-verdict")).to_be_visible()
    expect(explorer.get_by_role("slider", name="boxes")).to_be_visible()
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
