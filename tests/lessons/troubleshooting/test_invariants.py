"""The probe catches nine silent bugs in ten on models and data that it has not been tuned on, and no healthy run."""

import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.lessons.troubleshooting.silent_bugs import BUGS, TASKS, Task, prepare

# Tasks to judge by: other data, other kinds of models than those in TASKS.


@cache
def waves(samples, seed):
    """Four frequencies with random phases, in noise: sequences [N, 24, 2]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (samples,), generator=generator)
    phases = 6.3 * torch.rand(samples, 1, 2, generator=generator)
    time = torch.arange(24)[None, :, None]
    clean = torch.sin(time * (0.25 + 0.3 * labels[:, None, None]) + phases)
    return 1.2 * clean + 0.3 * torch.randn(samples, 24, 2, generator=generator), labels


@cache
def bars(samples, seed):
    """A bright bar in one of three directions, somewhere: images [N, 1, 12, 12], about normalized."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (samples,), generator=generator)
    images = 0.4 * torch.randn(samples, 1, 12, 12, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        place = int(torch.randint(2, 10, (1,), generator=generator))
        bar = torch.zeros(12, 12)
        bar[place - 1 : place + 1] = 3.0
        image[0] += [bar, bar.T, 3.0 * torch.eye(12).roll(place - 6, dims=1)][label]
    return images - images.mean(), labels


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.drop, self.head = nn.GRU(2, 24, batch_first=True), nn.Dropout(0.1), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.drop(self.gru(x)[0][:, -1]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Linear(2, 16), nn.Parameter(0.1 * torch.randn(24, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.layer(self.embed(x) + self.place).mean(dim=1))


class Residual(nn.Module):
    def __init__(self, norm=lambda width: nn.GroupNorm(2, width)):
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv2d(1, 8, 3), norm(8), nn.Conv2d(8, 8, 3, padding=1)
        self.drop, self.head = nn.Dropout2d(0.05), nn.Linear(8 * 25, 3)

    def forward(self, x):
        x = F.gelu(self.norm(self.stem(x)))
        return self.head(F.max_pool2d(self.drop(x + F.gelu(self.conv(x))), 2).flatten(1))


SGD = partial(torch.optim.SGD, momentum=0.9)
ADAMW = partial(torch.optim.AdamW, weight_decay=0.01)
JUDGES = {
    "waves, GRU": Task(Recurrent, waves, 4, lr=1e-2),
    "waves, attention": Task(Attention, waves, 4, batch=32, optimizer=ADAMW, lr=5e-3),
    "bars, residual": Task(Residual, bars, 3, batch=48, lr=3e-3),
    "bars, batch norm": Task(partial(Residual, nn.BatchNorm2d), bars, 3, batch=64, optimizer=SGD, lr=2e-2),
}


def alarms(run, steps=20):
    with run.probe() as probe:
        run.go(steps)
    return probe.alarms()


@pytest.mark.slow
def test_nine_in_ten_bugs_are_caught_in_20_steps_on_tasks_that_the_rules_were_not_set_on():
    missed, count = [], 0
    for number, (task_name, task) in enumerate(JUDGES.items()):
        # Each bug on one model for each kind of data: on all four the test would take twice the time.
        for bug_name, bug in list(BUGS.items())[number % 2 :: 2]:
            run = prepare(task, seed=100 + number)
            bug.plant(run)
            count += 1
            if not {alarm.name for alarm in alarms(run)} & set(bug.alarms):
                missed.append(f"{bug_name} on {task_name}")
    assert count == 2 * len(BUGS) >= 2 * 12
    assert len(missed) <= 0.1 * count, missed


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.alarms])
def test_each_bug_is_caught_by_its_own_alarm_on_the_tasks_of_the_course(name):
    for task in TASKS.values():
        run = prepare(task, seed=1)
        BUGS[name].plant(run)
        assert {alarm.name for alarm in alarms(run)} & set(BUGS[name].alarms)


def healthy_runs():
    """Fifty runs with different models, data, seeds, batches, optimizers and rates."""
    tasks = list(JUDGES.values())
    changes = [
        {},
        {"batch": 16},
        {"batch": 128},
        {"batch": 250},
        {"batch": 32, "lr": 5e-4},
        {"optimizer": SGD, "lr": 1e-2},
        {"optimizer": ADAMW, "lr": 1e-3},
        {"optimizer": torch.optim.RMSprop, "lr": 1e-3},
        {"optimizer": torch.optim.NAdam, "lr": 2e-3},
        {"optimizer": torch.optim.Adagrad, "lr": 1e-2},
        {"lr": 1e-4},
        {"optimizer": torch.optim.SGD, "lr": 1e-3},
    ]
    cases = [(number, task, change) for number, task in enumerate(tasks) for change in changes]
    for number, task, change in [*cases, (50, tasks[0], {}), (51, tasks[2], {})]:
        yield f"task {number}, {change}", prepare(replace(task, **change), seed=200 + number)


@pytest.mark.slow
def test_fifty_healthy_runs_raise_no_alarm():
    runs = list(healthy_runs())
    assert len(runs) == 50
    found = [(name, str(alarm)) for name, run in runs for alarm in alarms(run)]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_done_right_and_a_warm_up_are_healthy(accumulate):
    run = prepare(JUDGES["bars, residual"], seed=300)
    run.accumulate = accumulate
    run.scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: min(1.0, step / 10))
    assert alarms(run, steps=24) == []


@pytest.mark.slow
def test_fine_tuning_with_a_frozen_body_is_healthy_if_it_is_meant():
    run = prepare(JUDGES["bars, residual"], seed=301)
    run.model.stem.requires_grad_(False)
    with SanityProbe(run.model, run.optimizer, frozen=["stem."]) as probe:
        run.go(20)
    assert probe.alarms() == []
    assert [alarm.name for alarm in alarms(run)] == ["frozen"]


def test_a_probe_changes_no_number_of_the_training():
    def weights(watched):
        run = prepare(JUDGES["waves, attention"], seed=5)
        torch.manual_seed(9)
        if watched:
            with run.probe() as probe:
                run.go(4)
            probe.alarms()
        else:
            run.go(4)
        run.go(3)
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    assert torch.equal(weights(True), weights(False))


def watch(model, loss_of, steps=5, lr=0.1):
    """Train in a loop that is not that of the course."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(steps):
            loss = loss_of(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


def test_regression_targets_that_broadcast():
    x = torch.randn(32, 8)
    y = x.sum(dim=1)

    def wrong(model):
        with pytest.warns(UserWarning, match="target size"):
            return F.mse_loss(model(x), y)

    assert watch(nn.Linear(8, 1), wrong, lr=0.01) == ["broadcast"]
    assert watch(nn.Linear(8, 1), lambda model: F.mse_loss(model(x), y[:, None]), lr=0.01) == []


def test_sigmoid_before_a_loss_that_has_its_own():
    x = torch.randn(32, 8)
    y = (x[:, :1] > 0).float()
    model = nn.Linear(8, 1)
    assert watch(nn.Sequential(model, nn.Sigmoid()), lambda m: F.binary_cross_entropy_with_logits(m(x), y)) == [
        "sigmoid_twice"
    ]
    assert watch(model, lambda m: nn.BCEWithLogitsLoss()(m(x), y)) == []
    model.weight.data.zero_()
    model.bias.data.fill_(0.5)  # all numbers are from 0 to 1, and no sigmoid has made them
    assert watch(model, lambda m: F.binary_cross_entropy_with_logits(m(x), y), lr=1e-4) == []


def test_scores_in_place_of_log_probabilities():
    x = torch.randn(32, 8)
    y = x[:, :3].argmax(dim=1)
    assert "no_log_probabilities" in watch(nn.Linear(8, 3), lambda m: F.nll_loss(m(x), y), lr=0.01)
    assert watch(nn.Linear(8, 3), lambda m: F.nll_loss(m(x).log_softmax(dim=1), y), lr=0.01) == []


def test_a_step_that_is_never_taken_and_a_loss_that_is_no_number():
    model, x = nn.Linear(8, 3), torch.randn(32, 8)
    with SanityProbe(model, torch.optim.SGD(model.parameters(), lr=0.1)) as probe:
        F.cross_entropy(model(x), torch.arange(32) % 3).backward()
    assert [alarm.name for alarm in probe.alarms()] == ["no_step"]
    assert watch(nn.Linear(8, 3), lambda m: F.cross_entropy(m(x) * math.nan, torch.arange(32) % 3)) == ["not_finite"]


def test_a_probe_on_a_model_that_is_never_called_says_so():
    model = nn.Linear(2, 2)
    with SanityProbe(model, torch.optim.SGD(model.parameters())) as probe:
        pass
    with pytest.raises(ValueError, match="never called"):
        probe.alarms()


@pytest.mark.parametrize(("started", "alarms"), [((0, 0), ["zero_times_zero"]), ((1, 0), []), ((0, 1), [])])
def test_of_two_weights_that_are_multiplied_one_may_start_at_0(started, alarms):
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 1, bias=False), nn.Linear(1, 1))
    model[2].requires_grad_(False)
    for layer, scale in zip(model, started, strict=False):
        layer.weight.data *= scale
    optimizer = torch.optim.SGD(model[:2].parameters(), lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(model(x), x.mean(dim=1, keepdim=True)).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms() if alarm.name != "same_output"] == alarms
