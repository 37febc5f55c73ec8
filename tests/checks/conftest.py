"""Each test of a check writes a journal of its own."""

import pytest


@pytest.fixture(autouse=True)
def own_journal(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHCOURSE_WORK", str(tmp_path))
