"""What counts as waiting for the device."""

import pytest
import torch

from torchcourse.lessons.monitoring.count_waits import CountWaits

VALUE = torch.tensor(2.0)


@pytest.mark.parametrize(
    ("use", "count"),
    [
        (lambda: VALUE.item(), 1),
        (lambda: float(VALUE) + int(VALUE), 2),
        (lambda: bool(VALUE > 1), 1),
        (lambda: f"{VALUE:.2f}", 1),
        (lambda: VALUE.cpu(), 1),
        (lambda: torch.stack([VALUE * 2, VALUE]).mean().detach(), 0),
        (lambda: torch.nn.functional.one_hot(torch.arange(3), 4), 0),
    ],
    ids=["item", "float and int", "if", "format", "cpu", "tensors only", "one_hot, which waits on no GPU"],
)
def test_turning_a_tensor_into_a_number_is_counted(use, count):
    with CountWaits() as waits:
        use()
    assert waits.count == count
