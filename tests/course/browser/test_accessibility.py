"""axe-core finds no fault in a card, a prediction, an outcome and the front page, in both themes."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from torchcourse.lessons.start_here import start_notebook

CELLS = [
    "from torchcourse.quiz import card, outcome, predict",
    'card("04_monitoring_and_checkpoints", "manage-training")',
    'predict("axe", "Which `one` comes out?", ["the first", "the second"])',
    'outcome("axe", "The second came.", right="the second")',
]


def test_axe_finds_no_fault(lab, monkeypatch):
    axe = Axe()
    monkeypatch.setenv("TORCHCOURSE_WORK", str(lab.folder))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(lab.log.parent / "JUPYTER_DATA_DIR"))  # whose notebooks it trusts
    lab.write("axe.ipynb", CELLS)
    notebook = lab.open("axe.ipynb")
    notebook.run_all()
    card = notebook.cell(1)
    for control in ("A", "B"):
        card.locator(f'[name=answer][value="{control}"]').check()
    card.locator('[name=sure][value="2"]').check()
    notebook.click("Check", within=card)
    expect(card.get_by_label("what made you choose this")).to_be_visible()
    check(axe, notebook.page, "form.tc-card", ".tc-card[role=status]")
    lab.close_notebooks()
    assert start_notebook.main() == 0
    notebook = lab.open("start.ipynb")
    expect(notebook.page.locator(".tc-front")).to_be_visible()
    check(axe, notebook.page, ".tc-front")


def check(axe, page, *parts: str) -> None:
    """Fail where axe-core finds a violation in one of these parts of the page, in either theme."""
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        dark = page.locator(f"body[data-jp-theme-light={'false' if 'Dark' in theme else 'true'}]")
        expect(dark).to_be_attached()
        for part in parts:
            expect(page.locator(part).first).to_be_visible()
            found = axe.run(page, part).response
            assert found["passes"], part
            assert [(part, fault["id"], node["html"]) for fault in found["violations"] for node in fault["nodes"]] == []
