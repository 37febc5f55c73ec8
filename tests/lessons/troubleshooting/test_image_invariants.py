"""Images: their colors and the order of their numbers; each misuse raises its alarm, and what is right raises none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe

COLORS = torch.tensor([0.6, 0.1, -0.4])[:, None, None]


def names(x: torch.Tensor, validated: torch.Tensor) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for batch in x.split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), (batch.mean((1, 2, 3)) > 0.1).long()).backward()
            optimizer.step()
        with torch.no_grad():
            model(validated)
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize(
    ("change", "alarms"),
    [(lambda x: x, []), (lambda x: x.flip(1), ["channels_swapped"]), (lambda x: x.roll(1, 1), [])],
)
def test_colors_come_in_the_same_order_when_validating(change: Callable, alarms: list[str]) -> None:
    torch.manual_seed(1)
    x = torch.randn(160, 3, 6, 6) + COLORS + 0.3 * torch.randn(160, 1, 1, 1)
    assert names(x[:128], change(x[128:])) == alarms


@pytest.mark.parametrize(
    ("arrange", "alarms"),
    [
        (lambda pictures: pictures, []),
        (lambda pictures: pictures.permute(0, 2, 3, 1).reshape(pictures.shape), ["colors_last"]),
    ],
)
def test_neighbors_in_an_image_are_neighbors(arrange: Callable, alarms: list[str]) -> None:
    torch.manual_seed(1)
    x = F.interpolate(torch.randn(160, 3, 3, 3), size=12, mode="bilinear", align_corners=True) + 2 * COLORS
    x = arrange(x + torch.randn(160, 1, 1, 1))
    assert names(x[:128], x[128:]) == alarms
