"""The checks of notebook 1 of lesson 04 accept right answers built in different ways and name wrong ones' symptoms."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from torchcourse.lessons.monitoring.checks import monitoring as check
from torchcourse.training.events import read_run, read_scalars
from torchcourse.training.monitor import Monitor
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["log_means", "turning_step", "look_every", "log_epoch"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# log_means


def means(losses, every, write):
    waiting = []
    for step, loss in enumerate(losses, start=1):
        waiting.append(loss.detach())
        if step % every == 0:
            write(step, torch.stack(waiting).mean().item())
            waiting = []
    if waiting:
        write(step, torch.stack(waiting).mean().item())


def running_sum(losses, every, write):
    total, count, step = torch.zeros(()), 0, 0
    for loss in losses:
        step += 1
        with torch.no_grad():
            total += loss
        count += 1
        if count == every:
            write(step, float(total) / count)
            total, count = torch.zeros(()), 0
    if count:
        write(step, float(total) / count)


@pytest.mark.parametrize("learner", [means, running_sum])
def test_log_means_accepts(learner):
    accepted(check.log_means(learner))


def logged(value, rest=True, first=1):
    """A logger that keeps all losses and writes `value(losses so far, losses since the last value, every)`."""

    def learner(losses, every, write):
        every_loss, waiting = [], []
        for step, loss in enumerate(losses, start=first):
            every_loss.append(loss.detach())
            waiting.append(loss.detach())
            if len(every_loss) % every == 0:
                write(step, value(every_loss, waiting, every).item())
                waiting = []
        if waiting and rest:
            write(step, value(every_loss, waiting, every).item())

    return learner


def mean_of_waiting(every_loss, waiting, every):
    return torch.stack(waiting).mean()


def item_each_step(losses, every, write):
    means((torch.tensor(loss.item()) for loss in losses), every, write)


def keeps_graphs(losses, every, write):
    waiting = []
    for step, loss in enumerate(losses, start=1):
        waiting.append(loss)
        if step % every == 0:
            write(step, torch.stack(waiting).mean().item())
            waiting = []
    if waiting:
        write(step, torch.stack(waiting).mean().item())


def adding_in_place(losses, every, write):
    total = None
    for step, loss in enumerate(losses, start=1):
        if total is None:
            total, first = loss.detach(), step
        else:
            total += loss.detach()
        if step % every == 0:
            write(step, total.item() / (step - first + 1))
            total = None
    if total is not None:
        write(step, total.item() / (step - first + 1))


def at_the_end(losses, every, write):
    means((loss for loss in [loss.detach() for loss in losses]), every, write)


def list_each_step(losses, every, write):
    means((torch.tensor(loss.detach().tolist()) for loss in losses), every, write)


def cutting_the_graph(losses, every, write):
    means((loss.detach_() for loss in losses), every, write)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (cutting_the_graph, "graph_cut"),
        (torch.no_grad()(means), "steps_without_gradients"),
        (torch.inference_mode()(running_sum), "steps_without_gradients"),
        (item_each_step, "waits_each_step"),
        (list_each_step, "waits_each_step"),
        (lambda losses, every, write: means((loss.cpu() for loss in losses), every, write), "waits_each_step"),
        (adding_in_place, "inputs_changed"),
        (at_the_end, "written_late"),
        (lambda losses, every, write: means(losses, every, lambda *pair: write(*pair[::-1])), "arguments_swapped"),
        (keeps_graphs, "keeps_the_graph"),
        (logged(lambda all_, waiting, every: waiting[-1]), "last_not_mean"),
        (logged(lambda all_, waiting, every: torch.stack(all_).mean()), "mean_since_start"),
        (logged(lambda all_, waiting, every: torch.stack(waiting).sum()), "sum_not_mean"),
        (logged(lambda all_, waiting, every: torch.stack(waiting).sum() / every), "rest_divided"),
        (logged(mean_of_waiting, rest=False), "rest"),
        (logged(mean_of_waiting, first=0), "counts_from_0"),
        (lambda losses, every, write: [write(n, loss.item()) for n, loss in enumerate(losses, 1)], "steps"),
        (lambda losses, every, write: None, "nothing_written"),
        (logged(lambda all_, waiting, every: 3 * torch.stack(waiting).mean()), "wrong_value"),
    ],
)
def test_log_means_refuses(learner, symptom):
    refused(check.log_means(learner), symptom)


# turning_step


def turn(log_dir):
    steps, losses = read_scalars(log_dir)["loss/val"]
    best = losses.index(min(losses))
    return None if best == len(losses) - 1 else steps[best]


def turn_with_torch(log_dir):
    steps, losses = read_run(log_dir).scalars["loss/val"]
    best = torch.tensor(losses).argmin()
    return torch.tensor(steps)[best] if best + 1 < len(steps) else None


@pytest.mark.parametrize("learner", [turn, turn_with_torch])
def test_turning_step_accepts(learner):
    accepted(check.turning_step(learner))


def of_curve(answer, tag="loss/val"):
    return lambda log_dir: answer(*read_scalars(log_dir)[tag])


def first_rise(steps, losses):
    return next((steps[n] for n in range(len(steps) - 1) if losses[n + 1] > losses[n]), None)


def evenly_spaced(steps, losses):
    best = losses.index(min(losses))
    return None if best == len(losses) - 1 else steps[0] + best * (steps[1] - steps[0])


def of_rounded(steps, losses):
    return turn_of(steps, [round(loss, 2) for loss in losses])


def beginning_at_one(steps, losses):
    best, at = 1.0, None
    for step, loss in zip(steps, losses, strict=True):
        if loss < best:
            best, at = loss, step
    return None if at == steps[-1] else at


def turn_of(steps, losses):
    best = losses.index(min(losses))
    return None if best == len(losses) - 1 else steps[best]


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (of_curve(evenly_spaced), "no_step_of_it"),
        (of_curve(of_rounded), "wrong_step"),
        (of_curve(beginning_at_one), "no_turn"),
        (of_curve(lambda steps, losses: turn_of(steps, losses) or None), "step_0"),
        (of_curve(lambda steps, losses: steps[losses.index(min(losses))]), "turns_at_the_end"),
        (of_curve(lambda steps, losses: losses.index(min(losses))), "place_not_step"),
        (of_curve(lambda steps, losses: min(losses)), "value_not_step"),
        (of_curve(lambda steps, losses: steps[losses.index(min(losses))], "loss/train"), "training_curve"),
        (of_curve(first_rise), "first_rise"),
        (lambda log_dir: None, "no_turn"),
        (of_curve(lambda steps, losses: losses[0]), "value_not_step"),
        (of_curve(lambda steps, losses: str(steps[0])), "wrong_type"),
        (of_curve(lambda steps, losses: steps[(losses.index(min(losses)) + 1) % len(steps)]), "wrong_step"),
        (of_curve(lambda steps, losses: steps[0]), "wrong_step"),
    ],
)
def test_turning_step_refuses(learner, symptom):
    refused(check.turning_step(learner), symptom)


# look_every


def interval(look, step, budget):
    return max(1, math.ceil(look / (step * budget) - 1e-9))


def by_trying(look, step, budget):
    every = 1
    while look / (every * step) > budget + 1e-12:
        every += 1
    return every


@pytest.mark.parametrize("learner", [interval, by_trying, lambda *price: np.int64(interval(*price))])
def test_look_every_accepts(learner):
    accepted(check.look_every(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda look, step, budget: max(1, int(look / (step * budget))), "rounded_down"),
        (lambda look, step, budget: max(1, math.ceil(look / (step * budget * 100))), "budget_in_percent"),
        (lambda look, step, budget: max(1, math.ceil(step / (look * budget))) if look else 1, "upside_down"),
        (lambda look, step, budget: math.ceil(look / (step * budget) - 1e-9), "below_one"),
        (lambda look, step, budget: look / (step * budget), "no_whole_number"),
        (lambda look, step, budget: max(1, math.ceil(step / (look * budget))), "upside_down"),  # divides by 0 at last
        (lambda look, step, budget: max(1, math.ceil(step * budget / look)), "upside_down"),
        (lambda look, step, budget: 2 * interval(look, step, budget), "too_seldom"),
        (lambda look, step, budget: 7, "over_budget"),
        (lambda look, step, budget: max(1, math.ceil(look * step / budget)), "over_budget"),
        (lambda look, step, budget: 1, "over_budget"),
        (lambda look, step, budget: max(1, math.ceil(look / step)), "budget_forgotten"),
        (lambda look, step, budget: max(1, math.ceil(look * budget / step)), "budget_times"),
        (lambda look, step, budget: interval(look * (1 - budget), step, budget), "share_of_all"),
        (lambda look, step, budget: np.ceil(look / step / budget), "no_whole_number"),
        (lambda look, step, budget: torch.tensor(look / step / budget).ceil().clamp(min=1), "no_whole_number"),
    ],
)
def test_look_every_refuses(learner, symptom):
    refused(check.look_every(learner), symptom)


# log_epoch


def summed(log_dir, step, correct, seen):
    counts = torch.tensor([correct, seen], dtype=torch.float64)
    dist.all_reduce(counts)
    with Monitor(log_dir if dist.get_rank() == 0 else None) as board:
        board.scalars(step, {"accuracy/val": (counts[0] / counts[1]).item()})


def gathered_by_the_last_rank(log_dir, step, correct, seen):
    rows = [None] * dist.get_world_size()
    dist.all_gather_object(rows, (correct, seen))
    if dist.get_rank() == dist.get_world_size() - 1:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(log_dir) as writer:
            writer.add_scalar("accuracy/val", sum(row[0] for row in rows) / sum(row[1] for row in rows), step)


@pytest.mark.slow
@pytest.mark.parametrize("learner", [summed, gathered_by_the_last_rank])
def test_log_epoch_accepts(learner):
    accepted(check.log_epoch(learner))


def reduced(value, tag="accuracy/val", writers=(0,), first=0):
    """Log `value(this rank's counts, the summed counts, the summed accuracies)`."""

    def learner(log_dir, step, correct, seen):
        sums = torch.tensor([correct, seen, correct / max(seen, 1)], dtype=torch.float64)
        dist.all_reduce(sums)
        if dist.get_rank() in writers:
            with Monitor(log_dir) as board:
                board.scalars(step - first, {tag: value((correct, seen), sums[:2].tolist(), sums[2].item())})

    return learner


def summed_in_half(log_dir, step, correct, seen):
    counts = torch.tensor([correct, seen], dtype=torch.float16)
    dist.all_reduce(counts)
    with Monitor(log_dir if dist.get_rank() == 0 else None) as board:
        board.scalars(step, {"accuracy/val": (counts[0].float() / counts[1].float()).item()})


def divided_before(log_dir, step, correct, seen):
    summed(log_dir, step, correct / seen * seen, seen)


def divided_before_as_tensors(log_dir, step, correct, seen):
    summed(log_dir, step, (torch.tensor(correct) / seen * seen).item(), seen)


def written_twice(log_dir, step, correct, seen):
    for _ in range(2):
        summed(log_dir, step, correct, seen)


def alone_in_the_if(log_dir, step, correct, seen):
    if dist.get_rank() == 0:
        counts = torch.tensor([correct, seen], dtype=torch.float64)
        dist.all_reduce(counts)
        with Monitor(log_dir) as board:
            board.scalars(step, {"accuracy/val": (counts[0] / counts[1]).item()})


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (reduced(lambda own, total, means: total[0] / total[1], writers=(0, 1, 2)), "several_writers"),
        (reduced(lambda own, total, means: means / dist.get_world_size()), "mean_of_means"),
        (reduced(lambda own, total, means: own[0] / own[1]), "own_share"),
        (reduced(lambda own, total, means: means), "sum_of_means"),
        (reduced(lambda own, total, means: total[0]), "count_not_share"),
        (reduced(lambda own, total, means: total[0] / own[1]), "own_total"),
        (reduced(lambda own, total, means: total[0] / total[1], tag="acc"), "tag"),
        (reduced(lambda own, total, means: total[0] / total[1], first=1), "steps"),
        (reduced(lambda own, total, means: 0.123), "wrong_value"),
        (lambda log_dir, step, correct, seen: None, "no_writer"),
        (reduced(lambda own, total, means: total[0] / total[1], writers=(1,)), "no_writer"),
        (reduced(lambda own, total, means: 100 * total[0] / total[1]), "percent"),
        (summed_in_half, "rounded"),
        (divided_before, "empty_rank"),
        (divided_before_as_tensors, "wrong_value"),
        (written_twice, "steps"),
        (lambda log_dir, *counts: summed(log_dir / str(dist.get_rank()), *counts), "subfolders"),
    ],
)
def test_log_epoch_refuses(learner, symptom):
    refused(check.log_epoch(learner), symptom)


@pytest.mark.slow
def test_log_epoch_names_a_collective_that_one_rank_calls_alone(monkeypatch):
    monkeypatch.setattr(check, "TIME_LIMIT", 1.0)
    refused(check.log_epoch(alone_in_the_if), "hang")
