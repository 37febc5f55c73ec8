"""Schedules, decay and sampling: each misuse raises its alarm, and what is right raises none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.tools.bench.programs import clouds, dense


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def names(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[], object] = int,
    after_epoch: Callable[[int, float], object] = lambda epoch, share: None,
    sampler: Callable[[torch.Tensor], WeightedRandomSampler | None] = lambda labels: None,
) -> list[str]:
    """Train for four epochs of 5 steps, with a validation after each."""
    x, y = clouds(200)
    loader = DataLoader(TensorDataset(x[:160], y[:160]), 32, sampler=sampler(y[:160]))
    with SanityProbe(model, optimizer) as probe:
        for epoch in range(4):
            for xb, yb in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(xb), yb).backward()
                optimizer.step()
                after_step()
            with torch.no_grad():
                share = (model(x[160:]).argmax(1) == y[160:]).float().mean().item()
            after_epoch(epoch, share)
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.slow
@pytest.mark.parametrize(("length", "alarms"), [(20, ["schedule_anew"]), (5, []), (6, [])])
def test_a_schedule_is_not_left_before_its_end(length: int, alarms: list[str]) -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedules: list[LRScheduler] = []

    def begin(epoch: int = -1, share: float = 0.0) -> None:
        optimizer.param_groups[0]["lr"] = 0.05
        schedules.append(CosineAnnealingLR(optimizer, length, eta_min=0.01))

    begin()
    assert names(model, optimizer, lambda: schedules[-1].step(), begin) == alarms


def _raise(
    optimizer: torch.optim.Optimizer, groups: int, least: float = 1e-5, most: float = 0.05
) -> Callable[[], None]:
    """Return what raises the rates of so many groups, in ten steps."""
    steps = iter(range(1, 100))

    def after_step() -> None:
        for group in optimizer.param_groups[:groups]:
            group["lr"] = max(least, most * min(1.0, next(steps) / 10 / groups))

    return after_step


@pytest.mark.parametrize(
    ("raised", "rates", "alarms"),
    [
        (1, (1e-5, 1e-5), ["group_left_behind"]),
        (2, (1e-5, 1e-5), []),
        (1, (1e-5, 0.05), []),  # only what was trained before warms up
        (1, (0.05, 0.05), []),
    ],
)
def test_groups_that_start_alike_are_raised_together(
    raised: int, rates: tuple[float, float], alarms: list[str]
) -> None:
    model = dense()
    first, last = list(model.parameters())[:2], list(model.parameters())[2:]
    groups = [{"params": part, "lr": rate} for part, rate in zip((first, last), rates, strict=True)]
    optimizer = torch.optim.Adam(groups)
    assert names(model, optimizer, _raise(optimizer, raised)) == alarms


def test_a_part_that_learns_from_the_middle_on_is_no_warm_up() -> None:
    model = dense()
    optimizer = torch.optim.Adam([{"params": [p]} for p in model.parameters()], lr=1e-3)
    steps = iter(range(100))

    def after_step() -> None:
        if next(steps) == 8:
            optimizer.param_groups[0]["lr"] = 0.02

    assert names(model, optimizer, after_step) == []


def test_each_phase_may_have_a_cycle_of_its_own() -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    cycles: list[LRScheduler] = []

    def begin(epoch: int = -1, share: float = 0.0) -> None:
        cycles.append(OneCycleLR(optimizer, 0.05, total_steps=5))

    begin()
    assert names(model, optimizer, lambda: cycles[-1].last_epoch < 4 and cycles[-1].step(), begin) == []


def test_each_of_two_optimizers_may_have_a_schedule() -> None:
    model = dense()
    head, body = torch.optim.SGD(model[-1].parameters(), lr=0.05), torch.optim.SGD(model[0].parameters(), lr=0.01)
    schedules = [StepLR(optimizer, 1, gamma=0.7) for optimizer in (head, body)]

    def both(epoch: int, share: float) -> None:
        for schedule in schedules:
            schedule.step()

    assert "schedule_of_another" not in names(model, head, body.step, both)


@pytest.mark.parametrize(("other", "alarms"), [(False, []), (True, ["schedule_of_another"])])
def test_a_schedule_belongs_to_the_optimizer_that_steps(other: bool, alarms: list[str]) -> None:
    model = dense()
    optimizer, replaced = (torch.optim.SGD(model.parameters(), lr=0.05) for _ in range(2))
    schedule = StepLR(replaced if other else optimizer, 1, gamma=0.7)
    assert names(model, optimizer, after_epoch=lambda epoch, share: schedule.step()) == alarms


@pytest.mark.parametrize(
    ("mode", "told", "alarms"),
    [
        ("max", lambda epoch, share: (15 + 5 * epoch) / 40, []),
        ("min", lambda epoch, share: (15 + 5 * epoch) / 40, ["waits_for_less"]),
        ("min", lambda epoch, share: 100 * (15 + 5 * epoch) / 40, ["waits_for_less"]),
        ("min", lambda epoch, share: 0.401 + 0.053 * epoch, []),  # a loss, of a model that learns by heart
        ("min", lambda epoch, share: (35 - 5 * epoch) / 40, []),  # a share of errors
    ],
)
def test_a_schedule_waits_for_what_is_better(mode: str, told: Callable[[int, float], float], alarms: list) -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = ReduceLROnPlateau(optimizer, mode, patience=0, factor=0.5)
    assert names(model, optimizer, after_epoch=lambda epoch, share: schedule.step(told(epoch, share))) == alarms


@pytest.mark.parametrize(
    ("matrices", "others", "alarms"), [(0.1, 0.0, []), (0.1, 0.1, []), (0.0, 0.0, []), (0.0, 0.1, ["decay_swapped"])]
)
def test_the_matrices_decay(matrices: float, others: float, alarms: list[str]) -> None:
    model = dense(12, 4, nn.LayerNorm(24))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": matrices},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": others},
    ]
    assert names(model, torch.optim.AdamW(groups, lr=1e-3)) == alarms


@pytest.mark.parametrize(("per_class", "alarms"), [(False, []), (True, ["few_are_sampled"])])
def test_a_sampler_has_a_weight_for_each_sample(per_class: bool, alarms: list[str]) -> None:
    def sampler(labels: torch.Tensor) -> WeightedRandomSampler:
        weights = 1 / torch.bincount(labels)
        return WeightedRandomSampler((weights if per_class else weights[labels]).tolist(), len(labels))

    model = dense()
    found = names(model, torch.optim.SGD(model.parameters(), lr=0.01), sampler=sampler)
    assert [name for name in found if name == "few_are_sampled"] == alarms


class Counting:
    """A factor that an object with a memory gives."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, step: int) -> float:
        self.asked += 1
        return min(1.0, (step + 1) / 50_000)


@pytest.mark.parametrize(
    ("rate", "factor", "alarms"),
    [
        (1e-3, lambda step: 1e-3 * min(1.0, (step + 1) / 10), ["factor_is_a_rate"]),
        (1e-3, lambda step: 5e-4 * 0.99**step, ["factor_is_a_rate"]),
        (1e-3, lambda step: 1e-3 if step < 10 else 1e-4, ["factor_is_a_rate"]),
        (1e-3, lambda step: min(1.0, (step + 1) / 10), []),
        (1e-3, lambda step: min(1.0, (step + 1) / 50_000), []),  # a warm-up that has only begun
        (1e-3, lambda step: [1e-4, *[step / 100] * 50][step], []),  # it knows no step beyond its training
        (1.0, lambda step: 1e-3 * min(1.0, (step + 1) / 10), []),
        (1e-2, lambda step: 0.1 * 0.97**step, []),
        (1e-7, lambda step: 1.5**step, []),  # a search for the rate
    ],
)
def test_a_factor_is_no_rate(rate: float, factor: Callable[[int], float], alarms: list[str]) -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    schedule = LambdaLR(optimizer, factor)
    assert [name for name in names(model, optimizer, lambda: schedule.step()) if name == "factor_is_a_rate"] == alarms


def test_a_factor_is_asked_no_more_often_than_it_would_be() -> None:
    model, factor = dense(), Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = LambdaLR(optimizer, factor)
    assert "factor_is_a_rate" not in names(model, optimizer, lambda: schedule.step())
    assert factor.asked == 21


def test_a_part_may_have_a_small_factor() -> None:
    model = dense()
    groups = [{"params": model[0].parameters()}, {"params": model[-1].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=1e-2)
    schedule = LambdaLR(optimizer, [lambda step: 0.01, lambda step: 1.0])
    assert "factor_is_a_rate" not in names(model, optimizer, lambda: schedule.step())
