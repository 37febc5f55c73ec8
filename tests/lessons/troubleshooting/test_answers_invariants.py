"""How right answers are counted: each misuse raises its alarm, and what is right raises none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode  # as torch.export and planners of memory use it

from torchcourse.lessons.troubleshooting.invariants import SanityProbe

CENTERS = 2 * torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
Count = Callable[[torch.Tensor, torch.Tensor], object]


def names(count: Count, classes: int = 6, changed: Callable | None = None) -> list[str]:
    torch.manual_seed(0)
    y = torch.randint(classes, (400,))
    x = CENTERS[y] + 1.5 * torch.randn(400, 12)
    model = nn.Linear(12, classes if classes > 2 else 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(256).split(16):
            scores = model(x[rows])
            right = F.cross_entropy(scores, y[rows]) if classes > 2 else _logistic(scores[:, 0], y[rows])
            optimizer.zero_grad()
            right.backward()
            optimizer.step()
        model.eval()
        given = x[256:] if changed is None else changed(model, x[256:], y[256:])
        with torch.no_grad():
            for rows in torch.arange(len(given)).split(48):
                count(model(given[rows]), y[256:][rows])
    return [alarm.name for alarm in probe.alarms()]


def _logistic(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(scores, labels.float())


@pytest.mark.parametrize(
    ("count", "classes", "alarms"),
    [
        (lambda out, y: (out.argmax(dim=1, keepdim=True) == y).sum(), 6, ["answers_broadcast"]),
        (lambda out, y: out.topk(1)[1].eq(y).sum(), 6, ["answers_broadcast"]),
        (lambda out, y: ((out.sigmoid() > 0.5).float() == y).float().mean(), 2, ["answers_broadcast"]),
        (lambda out, y: (y == (out > 0).long()).sum(), 2, ["answers_broadcast"]),
        (lambda out, y: (out.argmax(dim=1) == y).sum(), 6, []),
        (lambda out, y: (out.topk(3)[1] == y[:, None]).any(dim=1).sum(), 6, []),
        (lambda out, y: ((out[:, 0] > 0) == y.bool()).sum(), 2, []),
        (lambda out, y: (y[:, None] == y).sum(), 6, []),  # which samples have the same label
    ],
)
def test_an_answer_is_compared_with_its_own_label(count: Count, classes: int, alarms: list[str]) -> None:
    assert names(count, classes) == alarms


@pytest.mark.parametrize(
    ("count", "alarms"),
    [
        (lambda out, y: (out.argmax(dim=1) == (y + 1) % 6).sum(), ["numbered_differently"]),
        (lambda out, y: F.cross_entropy(out, 5 - y), ["numbered_differently"]),
        (lambda out, y: F.cross_entropy(out, y), []),
        (lambda out, y: (out.argmax(dim=1) == torch.randint_like(y, 6)).sum(), []),
        (lambda out, y: (out.argmax(dim=1) == (y > 0)).sum(), []),  # whether there is anything at all
        (lambda out, y: (out.argmax(dim=1) == torch.where(y == 2, 3, y)).sum(), []),  # one class is hard
    ],
)
def test_classes_have_the_same_numbers_when_validating(count: Count, alarms: list[str]) -> None:
    assert names(count) == alarms


def test_inputs_that_were_made_to_deceive_are_no_other_numbers() -> None:
    def deceive(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        given = x.clone().requires_grad_()
        _logistic(model(given)[:, 0], y).backward()
        model.zero_grad()
        assert given.grad is not None
        return x + 3 * given.grad.sign()

    assert names(lambda out, y: ((out > 0)[:, 0].long() == y).sum(), 2, deceive) == []


def test_what_has_no_numbers_to_read_is_passed_by() -> None:
    def count(scores: torch.Tensor, _labels: torch.Tensor) -> None:
        shapes = torch.empty(len(scores), dtype=torch.long, device="meta")
        _ = shapes == torch.empty_like(shapes)
        with FakeTensorMode():
            _ = torch.empty(len(scores)) == torch.empty(len(scores))

    assert names(count) == []
