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
        (lambda out, y: (out.argmax(dim=0) == y[:6]).sum(), 6, ["argmax_over_batch"]),
        (lambda out, y: (y[:6] == torch.max(out, 0)[1]).sum(), 6, ["argmax_over_batch"]),
        (lambda out, y: y[out.argmax(dim=0)].tolist(), 6, []),  # which sample is the plainest of its class
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


@pytest.mark.parametrize(
    ("trained", "asked", "alarms"),
    [
        ([0, 1, 2, 3], [4, 5], ["classes_never_trained"]),
        ([0, 1, 2, 3], [3, 4, 5], ["classes_never_trained"]),
        ([0, 1, 2], [0, 1, 2, 3, 4, 5], []),  # the first task of two
        ([0, 1, 2, 3, 4, 5], [4, 5], []),
    ],
)
def test_classes_that_are_validated_on_have_been_learned(
    trained: list[int], asked: list[int], alarms: list[str]
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(8):
            y = torch.tensor(trained)[torch.randint(len(trained), (16,))]
            optimizer.zero_grad()
            F.cross_entropy(model(CENTERS[y] / 2 + torch.randn(16, 12)), y).backward()
            optimizer.step()
        y = torch.tensor(asked)[torch.randint(len(asked), (60,))]
        with torch.no_grad():
            (model(CENTERS[y] / 2 + torch.randn(60, 12)).argmax(dim=1) == y).sum()
    found = [alarm.name for alarm in probe.alarms()]
    assert [name for name in found if name != "numbered_differently"] == alarms


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


class Logits(nn.Sequential):
    """Logits in training, and in evaluation what they stand for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = super().forward(x)
        return scores if self.training else scores.sigmoid()


def labels_of(count: Count, model: nn.Module | None = None, loss_of: Callable | None = None) -> list[str]:
    """Learn three labels of each sample, and validate on what is left."""
    torch.manual_seed(0)
    x = torch.randn(400, 12)
    y = (x @ CENTERS.T[:, :3] + torch.randn(400, 3) > 0).float()
    model = nn.Sequential(nn.Linear(12, 3)) if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(256).split(16):
            optimizer.zero_grad()
            (loss_of or F.binary_cross_entropy_with_logits)(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for rows in torch.arange(256, 400).split(48):
                count(model(x[rows]), y[rows])
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize(
    ("count", "alarms"),
    [
        (lambda out, y: ((out > 0.5).float() == y).float().mean(), ["logits_cut_at_half"]),
        (lambda out, y: (out.ge(0.5).long() & y.long()).sum(), ["logits_cut_at_half"]),
        (lambda out, y: torch.round(out).eq(y).float().mean(), ["logits_cut_at_half"]),
        (lambda out, y: ((out > 0).float() == y).float().mean(), []),
        (lambda out, y: ((out.sigmoid() > 0.5).float() == y).float().mean(), []),
        (lambda out, y: [((out > border).float() == y).float().mean() for border in (-0.5, 0.0, 0.5)], []),  # a curve
        (lambda out, y: torch.round(out, decimals=2).tolist(), []),  # to be shown
    ],
)
def test_a_logit_is_cut_at_0(count: Count, alarms: list[str]) -> None:
    assert labels_of(count) == alarms


def test_what_is_a_probability_in_evaluation_is_cut_at_a_half() -> None:
    assert labels_of(lambda out, y: (out > 0.5).float() == y, Logits(nn.Linear(12, 3))) == []


def test_numbers_that_are_learned_as_they_are_may_be_cut_at_a_half() -> None:
    assert labels_of(lambda out, y: (out > 0.5).float() == y, loss_of=F.mse_loss) == []


def measured(measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object], drift: float = 0.0) -> list[str]:
    """Learn standardized targets; `measure(outputs, raw targets, inputs)` is called in the validation."""
    torch.manual_seed(0)
    x = torch.randn(400, 12)
    y = 300 + 60 * (x[:, 0] + 0.1 * torch.randn(400))
    model = nn.Sequential(nn.Linear(12, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(320).split(32):
            optimizer.zero_grad()
            F.mse_loss(model(x[rows]), (y[rows] - 300) / 60).backward()
            optimizer.step()
        with torch.no_grad():
            shown = x[320:] + drift
            measure(model(shown), y[320:], shown)
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize(
    ("measure", "alarms"),
    [
        (lambda out, y, x: F.l1_loss(out, y), ["other_units"]),
        (lambda out, y, x: nn.MSELoss()(out, y), ["other_units"]),
        (lambda out, y, x: (out - y).abs().mean(), ["other_units"]),
        (lambda out, y, x: ((y - out) ** 2).mean().sqrt(), ["other_units"]),
        (lambda out, y, x: F.l1_loss(60 * out + 300, y), []),
        (lambda out, y, x: F.l1_loss(out, (y - 300) / 60), []),
        (lambda out, y, x: (y - out).mean(), []),  # a correction that is taken off, not an error
        (lambda out, y, x: (y - out - 300).abs().mean(), []),
        (lambda out, y, x: F.l1_loss(out, torch.full_like(y, 0.0)), []),  # how large the outputs are
    ],
)
def test_outputs_are_measured_in_the_units_that_were_learned(measure: Callable, alarms: list[str]) -> None:
    assert measured(measure) == alarms


def test_other_inputs_may_have_other_targets() -> None:
    assert "other_units" not in measured(lambda out, y, x: F.l1_loss(out, y), drift=50.0)


def test_noise_that_is_taken_off_is_not_compared() -> None:
    torch.manual_seed(0)
    clean = 20 * torch.randn(200, 12)
    model = nn.Linear(12, 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(160).split(16):
            noise = torch.randn(16, 12)
            optimizer.zero_grad()
            F.mse_loss(model(clean[rows] + noise), noise).backward()
            optimizer.step()
        with torch.no_grad():
            noisy = clean[160:] + torch.randn(40, 12)
            F.mse_loss(noisy - model(noisy), clean[160:])
    assert "other_units" not in [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize(
    ("count", "alarms"),
    [
        (lambda out, y: out.argmax(dim=1).eq(y).sum(), ["argmax_of_one"]),
        (lambda out, y: out.sigmoid().argmax(-1).tolist(), ["argmax_of_one"]),
        (lambda out, y: (out.softmax(dim=1).max(1)[1] == y).sum(), ["argmax_of_one"]),
        (lambda out, y: (torch.max(out.data, 1).indices == y).sum(), ["argmax_of_one"]),
        (lambda out, y: ((out[:, 0] > 0) == y.bool()).sum(), []),
        (lambda out, y: (out.argmax(dim=0), out.argmax()), []),  # which sample has the largest
        (lambda out, y: out.max(dim=1).values.mean(), []),  # of whatever number of scores
        (lambda out, y: torch.cat([-out, out], dim=1).argmax(dim=1).eq(y).sum(), []),
        (lambda out, y: torch.max(out, torch.zeros_like(out)), []),
    ],
)
def test_a_class_is_chosen_among_several(count: Count, alarms: list[str]) -> None:
    assert names(count, classes=2) == alarms


def test_of_one_action_the_best_is_the_first() -> None:
    assert names(lambda out, y: out[:, :1].argmax(dim=1)) == []
