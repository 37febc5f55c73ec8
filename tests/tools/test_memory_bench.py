"""The simulated peak is that of PyTorch's MemTracker, and the table says so."""

import pytest
import torch

from torchcourse.models import small_cnn
from torchcourse.tools.bench import memory as bench


@pytest.mark.slow
def test_the_simulated_peak_is_that_of_mem_tracker(monkeypatch):
    monkeypatch.setattr(bench, "CASES", [("small CNN", small_cnn, (64, 1, 28, 28), torch.float32)])
    table = bench.table()
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert abs(float(row["against MemTracker"].rstrip("%"))) < 0.5  # percent: blocks of 512 bytes
    assert row["simulated peak"].endswith("MiB")
    assert "%" in row["against the formula"]
