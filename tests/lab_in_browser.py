"""Drive JupyterLab in headless Chromium, as a learner would: what the tests in this folder are written with.

    def test_card_answers(lab):
        notebook = lab.open("01_data_parallelism/quiz.ipynb")     # a copy of notebooks/, as `make lab` shows it
        notebook.run_all()                                        # waits until the kernel is idle again
        card = notebook.cell_with("Question 1")                   # a playwright locator of one cell
        card.get_by_label("a. The gradients").check()
        notebook.click("Check", within=card)
        expect(card).to_contain_text("Right")                     # playwright.sync_api.expect waits by itself
        notebook.screenshot("quiz-card")                          # into the folder $TORCHCOURSE_SCREENSHOTS
        notebook.assert_no_errors()                               # of the page: console errors, requests that failed

`lab.write("mine.ipynb", ["cell 1", "cell 2"])` makes a notebook of a test's own. Cells are counted from 0, markdown
cells included. All cells stay in the page (JupyterLab would otherwise leave out those that are out of sight).
The fixtures are in conftest.py; a machine without Chromium skips these tests, which under CI=true is a failure.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Locator, Page, Request

import course

CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Milliseconds between two looks at the page: playwright's own default looks with every frame, which costs a core.
POLLING = 200


class Lab:
    """A JupyterLab server with the options of `make lab`, on `folder`, with settings and run-time files of its own."""

    def __init__(self, folder: Path, private: Path):
        self.folder, self.screenshots = folder, private / "screenshots"
        self.browser: Browser | None = None
        self._notebooks: list[Notebook] = []
        self._token = secrets.token_hex(16)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        names = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"]
        names += ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
        environment = course.clean_environment(Path(sys.executable)) | course.lab_variables(folder)
        environment |= {name: str(private / name) for name in names} | {"JUPYTER_TOKEN": self._token}
        settings = private / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "notebook-extension"
        settings.mkdir(parents=True)
        (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
        command = [*course.lab_command(Path(sys.executable), folder, port), "--no-browser"]
        self.log = private / "lab.log"
        with open(self.log, "w") as log:
            self._server = subprocess.Popen(
                [*command, "--LabApp.expose_app_in_browser=True"], env=environment, stdout=log, stderr=log
            )
        wait_for_server(self.url, self._server, self.log)

    def open(self, path: str, timeout: float = 180) -> "Notebook":
        """Open a notebook alone in JupyterLab's page, with its kernel started."""
        page, loaded = self._a_page()
        notebook = Notebook(page, self.screenshots)
        self._notebooks.append(notebook)
        page.set_default_timeout(timeout * 1000)
        if loaded:
            page.evaluate("async path => { await jupyterapp.commands.execute('docmanager:open', {path}) }", path)
        else:
            page.goto(f"{self.url}/lab/tree/{path}?reset&token={self._token}", wait_until="domcontentloaded")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext", polling=POLLING)
        page.evaluate(
            """async () => {
                const session = jupyterapp.shell.currentWidget.sessionContext
                await session.ready
                await session.session.kernel.info
            }"""
        )
        notebook.wait_idle(timeout)
        return notebook

    def _a_page(self) -> tuple[Page, bool]:
        """Return a page, and whether JupyterLab is loaded in it: loading it for each notebook takes 6 s of CPU."""
        assert self.browser is not None, "set lab.browser first, as the fixture `lab` does"
        for page in (page for context in self.browser.contexts for page in context.pages):
            return page, True
        return self.browser.new_page(viewport={"width": 1400, "height": 1000}), False

    def write(self, path: str, cells: list[str]) -> None:
        """Make a notebook of code cells; a text that starts with '#' and a space becomes a markdown cell."""
        v4 = nbformat.v4
        made = [v4.new_markdown_cell(text) if text.startswith("# ") else v4.new_code_cell(text) for text in cells]
        notebook = v4.new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, self.folder / path)

    def close_notebooks(self) -> None:
        for notebook in self._notebooks:
            notebook.close()
        self._notebooks.clear()

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(30)


class Notebook:
    """A notebook that is open in a page of its own. `page` is playwright's, for whatever has no method here."""

    def __init__(self, page: Page, screenshots: Path):
        self.page, self._screenshots = page, screenshots
        self.errors: list[str] = []
        self._listeners: list[tuple[Any, Callable[[Any], object]]] = [
            ("pageerror", lambda error: self.errors.append(f"exception: {error}")),
            ("console", lambda message: message.type == "error" and self.errors.append(f"console: {message.text}")),
            ("requestfailed", self._note_failed_request),
        ]
        for event, listener in self._listeners:
            page.on(event, listener)

    def run_all(self, timeout: float = 240) -> None:
        """Run all cells, to the end or to the first error, and wait for it."""
        self._command("notebook:run-all-cells", timeout)

    def stopped_at(self) -> str | None:
        """Return the first error that the cells show, or the first cell that did not run; None if all ran well.

        The error of a cell that says of itself that it raises one, by its tag, does not count.
        """
        return self.page.evaluate(
            """() => {
                const {content: {model}, sessionContext} = jupyterapp.shell.currentWidget
                for (const [number, cell] of [...model.cells].entries()) {
                    if (cell.type !== 'code' || !cell.sharedModel.getSource().trim()) continue
                    const error = cell.outputs.toJSON().find(output => output.output_type === 'error')
                    if (error && !cell.getMetadata('tags')?.includes('raises-exception'))
                        return `cell ${number}: ${error.ename}: ${error.evalue}, ${error.traceback.slice(-3)}`
                    if (cell.executionCount === null)
                        return `cell ${number} did not run; the kernel is ${sessionContext.kernelDisplayStatus}`
                }
                return null
            }"""
        )

    def run_cell(self, number: int, timeout: float = 180) -> None:
        self.page.evaluate("number => { jupyterapp.shell.currentWidget.content.activeCellIndex = number }", number)
        self._command("notebook:run-cell", timeout)

    def edit(self, number: int, source: str) -> None:
        """Replace the text of a cell."""
        self.page.evaluate(
            "([n, text]) => jupyterapp.shell.currentWidget.content.widgets[n].model.sharedModel.setSource(text)",
            [number, source],
        )

    def save(self) -> None:
        self._command("docmanager:save", 300)

    def wait_idle(self, timeout: float = 60) -> None:
        """Wait until the kernel has nothing to do and no cell is waiting for it."""
        self.page.wait_for_function(
            """() => {
                const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)')
                const kernel = panel?.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status
                const prompts = [...(panel?.querySelectorAll('.jp-InputArea-prompt') ?? [])]
                return kernel === 'idle' && !prompts.some(prompt => prompt.textContent.includes('*'))
            }""",
            timeout=timeout * 1000,
            polling=POLLING,
        )

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(number)

    def cell_with(self, text: str) -> Locator:
        """Return the first cell that shows this text, in its source or its output."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").filter(has_text=text).first

    def output(self, number: int) -> str:
        """Return the text that a cell shows below itself."""
        return self.cell(number).locator(".jp-Cell-outputArea").inner_text().strip()

    def click(self, label: str, within: Locator | None = None) -> None:
        """Click the button with this text, of the notebook or of one cell."""
        place = within or self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")
        place.get_by_role("button", name=label, exact=True).first.click()

    def fill(self, label: str, text: str, within: Locator | None = None) -> None:
        """Type into the field with this label (or with this hint in it), then leave it."""
        place = within or self.page
        field = place.get_by_label(label).or_(place.get_by_placeholder(label)).first
        field.fill(text)
        field.press("Tab")

    def screenshot(self, name: str, of: Locator | None = None, whole: bool = False) -> Path:
        """Save a picture: of the window, of one part, or of the whole notebook however long it is; return its path."""
        folder = Path(os.environ.get("TORCHCOURSE_SCREENSHOTS", self._screenshots))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        if whole:
            height = self.page.evaluate(
                "() => Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight))"
            )
            self.page.set_viewport_size({"width": 1400, "height": min(height + 200, 16000)})
            self.page.wait_for_timeout(500)
        (of or self.page).screenshot(path=path)
        if whole:
            self.page.set_viewport_size({"width": 1400, "height": 1000})
        return path

    def assert_no_errors(self) -> None:
        """Fail if the page reported an error: an exception, a console error, a request without an answer."""
        assert not self.errors, "the page reported: " + "; ".join(self.errors)

    def close(self) -> None:
        """End the kernel and close the notebook without saving; after an error, close the page with it."""
        self.page.evaluate("async () => jupyterapp.serviceManager.sessions.shutdownAll()")
        if self.errors:
            self.page.close(run_before_unload=False)
            return
        for event, listener in self._listeners:
            self.page.remove_listener(event, listener)
        self.page.evaluate("() => [...jupyterapp.shell.widgets('main')].forEach(widget => widget.dispose())")

    def _note_failed_request(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # which the page itself called off, a superseded icon for one
            self.errors.append(f"request: {request.url} {request.failure}")

    def _command(self, command: str, timeout: float) -> None:
        """Run one of JupyterLab's commands and wait until it is over."""
        self.page.evaluate(
            "name => { window.over = false; jupyterapp.commands.execute(name).finally(() => { window.over = true }) }",
            command,
        )
        self.page.wait_for_function("() => window.over", timeout=timeout * 1000, polling=POLLING)
        self.wait_idle(timeout)


def start_chromium(playwright, executable: str) -> Browser:
    return playwright.chromium.launch(executable_path=executable, headless=True, args=CHROMIUM_FLAGS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_server(url: str, server: subprocess.Popen, log: Path, seconds: float = 240) -> None:
    """Wait until the server answers; raise RuntimeError with its log when it ends or stays silent."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url + "/api", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"JupyterLab does not answer at {url}:\n{log.read_text()}")
