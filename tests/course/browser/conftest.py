"""Fixtures of the browser tests; what they offer is described in lab_in_browser.py."""

import os
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

import course
from lab_in_browser import Lab, start_chromium

# Milliseconds that an expectation waits: playwright's own five seconds are too few when the machine is busy.
expect.set_options(timeout=120_000)


def pytest_collection_modifyitems(items):
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> str:
    found = course.find_chromium()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(course.NO_CHROMIUM)
        pytest.skip(course.NO_CHROMIUM)
    return found


@pytest.fixture(scope="session")
def server(chromium, tmp_path_factory):
    """A JupyterLab server on a copy of notebooks/, one for all browser tests."""
    folder = tmp_path_factory.mktemp("browser")
    if (course.ROOT / "notebooks").is_dir():
        shutil.copytree(course.ROOT / "notebooks", folder / "work")
    (folder / "work").mkdir(exist_ok=True)
    lab = Lab(folder / "work", folder / "private")
    yield lab
    lab.stop()


@pytest.fixture(scope="module")
def browser(chromium):
    """Chromium, for the tests of one file: no longer, because playwright's event loop bars others from the thread."""
    with sync_playwright() as playwright:
        browser = start_chromium(playwright, chromium)
        yield browser
        browser.close()


@pytest.fixture
def lab(server, browser):
    """The server, with a browser to open notebooks in; what a test opened is closed after it."""
    server.browser = browser
    yield server
    server.close_notebooks()
