"""Every test of the quiz has a journal of its own, in a folder that goes away with the test."""

from pathlib import Path

import pytest

from torchcourse.quiz import journal


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The learner's folder; nothing is kept in memory from an earlier test."""
    folder = tmp_path / "work"
    monkeypatch.setenv("TORCHCOURSE_WORK", str(folder))
    monkeypatch.setattr(journal, "_unsaved", [])
    monkeypatch.setattr(journal, "_warned", set())
    return folder
