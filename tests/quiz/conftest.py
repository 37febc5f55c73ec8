"""Every test of the quiz has a journal of its own, in a folder that goes away with the test."""

from pathlib import Path

import pytest

from quiz import example
from torchcourse.quiz import bank, journal, words


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The learner's folder; nothing is kept in memory from an earlier test."""
    folder = tmp_path / "work"
    monkeypatch.setenv("TORCHCOURSE_WORK", str(folder))
    monkeypatch.setattr(journal, "_unsaved", [])
    monkeypatch.setattr(journal, "_warned", set())
    monkeypatch.setattr(words, "_chosen", None)
    return folder


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of banks in place of the course's own, with the example bank in it."""
    folder = tmp_path / "banks"
    folder.mkdir()
    example.write(folder, example.bank())
    monkeypatch.setattr(bank, "folder", lambda: folder)
    return folder
