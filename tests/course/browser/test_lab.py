"""The course's JupyterLab works in a browser: cells run, widgets answer, and nothing of it needs the network."""

import urllib.error
import urllib.request

import pytest
from playwright.sync_api import expect

from torchcourse import journal
from torchcourse.lessons.start_here import course_map, start_notebook

WIDGET = """\
import ipywidgets as widgets
button, name, answer = widgets.Button(description="Greet"), widgets.Text(placeholder="your name"), widgets.Label()
button.on_click(lambda _: setattr(answer, "value", f"Hello, {name.value}"))
widgets.VBox([name, button, answer])"""


def test_cells_run_and_widgets_answer(lab):
    lab.write("widgets.ipynb", ["# A title", "print(6 * 7)", WIDGET])
    notebook = lab.open("widgets.ipynb")
    notebook.run_all()
    assert notebook.output(1) == "42"
    card = notebook.cell(2)
    notebook.fill("your name", "Ada", within=card)
    notebook.click("Greet", within=card)
    expect(card).to_contain_text("Hello, Ada")
    assert notebook.screenshot("widgets").stat().st_size > 10_000
    assert notebook.screenshot("widgets-whole", whole=True).exists()
    notebook.assert_no_errors()


def test_run_all_stops_at_an_error_and_goes_on_after_it_is_mended(lab):
    lab.write("error.ipynb", ["print('before')", "raise NotImplementedError('write me')", "print('after')"])
    notebook = lab.open("error.ipynb")
    notebook.run_all()
    assert "write me" in notebook.output(1)
    assert notebook.output(2) == ""
    notebook.edit(1, "print('mended')")
    notebook.run_cell(1)
    notebook.run_cell(2)
    assert (notebook.output(1), notebook.output(2)) == ("mended", "after")


def test_the_page_needs_no_network_and_asks_nothing(lab):
    lab.write("quiet.ipynb", ["1 + 1"])
    notebook = lab.open("quiet.ipynb")
    asked = []
    notebook.page.on("request", lambda request: asked.append(request.url))
    notebook.page.reload()
    notebook.page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    notebook.wait_idle()
    notebook.page.wait_for_timeout(2000)
    assert asked
    local = (lab.url, lab.url.replace("http", "ws"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(local)] == []
    assert notebook.page.locator(".jp-Dialog").count() == 0
    assert notebook.page.locator(".Toastify__toast").count() == 0
    notebook.assert_no_errors()


def test_the_server_refuses_a_visitor_without_the_token(lab):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{lab.url}/api/contents", timeout=30)
    assert refused.value.code == 403


def test_a_console_error_is_noticed(lab):
    lab.write("noisy.ipynb", ["from IPython.display import HTML", "HTML('<script>console.error(\"broken\")</script>')"])
    notebook = lab.open("noisy.ipynb")
    notebook.run_all()
    with pytest.raises(AssertionError, match="broken"):
        notebook.assert_no_errors()


def test_the_front_page_is_read_without_a_run_and_leads_to_the_next_cell(lab, monkeypatch):
    monkeypatch.setenv("TORCHCOURSE_WORK", str(lab.folder))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(lab.log.parent / "JUPYTER_DATA_DIR"))  # whose notebooks it trusts
    (lab.folder / "journal.jsonl").unlink(missing_ok=True)  # what other tests of this server answered moves the place
    steps = [step for each in course_map.read_notebooks(lab.folder) for step in each.steps]
    exercises = [step for step in steps if step.key[:2] == ("exercise", "01")]
    for step, state in zip(exercises, ("right", "wrong"), strict=False):
        journal.record("check", exercise=f"lesson01.{step.key[2]}", state=state)
    assert start_notebook.main() == 0
    notebook = lab.open("start.ipynb")
    page = notebook.page
    link = page.locator(".tc-continue a").first
    expect(link).to_contain_text(f"exercise {exercises[1].key[2]}")
    expect(page.locator(".tc-front table").first).to_be_visible()
    notebook.screenshot("front-page")
    link.click()
    stub = page.locator(".jp-Cell").filter(has_text=f"def {exercises[1].key[2]}(").first
    expect(stub).to_be_in_viewport()
    notebook.assert_no_errors()
