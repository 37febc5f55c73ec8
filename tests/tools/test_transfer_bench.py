"""The bench of transfer measures both layouts and trains each method."""

import pytest

from torchcourse.lessons.transfer.few_labels import METHODS
from torchcourse.tools.bench import transfer


@pytest.mark.slow
def test_the_tables_have_every_layout_and_method(monkeypatch):
    for name, value in (("ROUNDS", 1), ("PICTURES", 2), ("NUMBERS", (1,)), ("SEEDS", 2)):
        monkeypatch.setattr(transfer, name, value)
    table = transfer.table()
    assert [row[2] for row in table.rows] == ["contiguous", "channels_last"] * 3
    assert all(len(row) == len(table.columns) for row in table.rows)
    (note,) = table.notes
    assert all(method in note for method in METHODS)
    assert note.splitlines()[-1].startswith("| 1 | 0.")
