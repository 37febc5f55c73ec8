"""Pipelines executed by ranks: the loss and gradients of the unsplit model, and the picture that was simulated."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.distributed.pipelining as pp
import torch.nn.functional as F
from torch import nn

from torchcourse.data import digits
from torchcourse.lessons.model_parallelism.pipeline import (
    SCHEDULES,
    Action,
    Costs,
    Pipeline,
    cut,
    gpipe,
    measure,
    one_f_one_b,
    simulate,
    zero_bubble,
)
from torchcourse.lessons.model_parallelism.pipeline.run import _one_group_per_wire
from torchcourse.models import row_transformer
from torchcourse.ranks import RankError, RankTimeout, device, run_ranks

BATCH = 24


def model_and_batch(blocks=4):
    torch.manual_seed(0)
    images, labels = digits()[:BATCH]
    return row_transformer(blocks, width=16).double().to(device()), images.double().to(device()), labels.to(device())


def a_pipeline(schedule, model):
    parts = cut(model, schedule.stages)
    mine = [parts[stage] for stage in schedule.stages_of(dist.get_rank())]
    like = torch.empty(BATCH // schedule.micro_batches, 8, 16, dtype=torch.float64, device=device())
    return Pipeline(schedule, mine, F.cross_entropy, like), nn.ModuleList(mine)


def compared(schedule, steps=1):
    """How far loss and gradients are from the unsplit model's, and what the rank recorded."""
    model, images, labels = model_and_batch()
    whole = copy.deepcopy(model)
    twins = {id(ours): theirs for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True)}
    pipeline, mine = a_pipeline(schedule, model)
    for _ in range(steps):
        outputs: list[torch.Tensor] = []
        loss = pipeline.step(images, labels, outputs=outputs, record=True)
        expected = whole(images)
        right = F.cross_entropy(expected, labels)
        right.backward()
    differences = [(p.grad - twins[id(p)].grad).norm() / twins[id(p)].grad.norm() for p in mine.parameters()]
    off = None if loss is None else max(abs(loss - right).item(), (torch.cat(outputs) - expected).abs().max().item())
    return off, max(differences).item(), pipeline.record


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "micro_batches"), [(2, 4), (4, 4), (1, 2)])
def test_loss_and_gradients_are_those_of_the_unsplit_model(ranks, micro_batches):
    for name, generator in SCHEDULES.items():
        if name.startswith("interleaved") and ranks == 4:
            continue  # eight stages; the model has four blocks
        results = run_ranks(compared, generator(ranks, micro_batches), world_size=ranks)
        losses, gradients, _ = zip(*results, strict=True)
        assert losses[:-1] == (None,) * (ranks - 1)
        assert losses[-1] < 1e-13
        assert max(gradients) < 1e-13


@pytest.mark.slow
def test_gradients_add_up_over_steps():
    for schedule in (one_f_one_b(2, 3), zero_bubble(2, 3)):
        assert max(gradients for _, gradients, _ in run_ranks(compared, schedule, 2, world_size=2)) < 1e-13


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_torchs_pipelining():
    for loss_off, gradients_off in run_ranks(compared_with_torch, world_size=2):
        assert loss_off < 1e-13
        assert gradients_off < 1e-12


def compared_with_torch():
    """How far loss and gradients of this rank are from PyTorch's, relative, at worst over three schedules."""
    worst = [0.0, 0.0]
    for name, torchs in (
        ("GPipe", pp.ScheduleGPipe),
        ("1F1B", pp.Schedule1F1B),
        ("interleaved 1F1B", pp.ScheduleInterleaved1F1B),
    ):
        schedule = SCHEDULES[name](2, 4)
        loss, losses, outputs, gradients = own_step(schedule)
        their_losses, their_outputs, their_gradients = torchs_step(schedule, torchs)
        assert len(gradients) == len(their_gradients) > 0
        off = [(a - b).norm() / b.norm() for a, b in zip(gradients, their_gradients, strict=True)]
        worst[1] = max(worst[1], *(value.item() for value in off))
        assert (loss is None) == (not losses) == (not outputs) == (not their_losses) == (dist.get_rank() == 0)
        if loss is not None:
            whole = torch.stack(losses), torch.cat(outputs), loss
            theirs = torch.stack(their_losses), their_outputs, torch.stack(their_losses).mean()
            off = [(ours - their).norm() / their.norm() for ours, their in zip(whole, theirs, strict=True)]
            worst[0] = max(worst[0], *(value.item() for value in off))
    return worst


def own_step(schedule):
    model, images, labels = model_and_batch()
    pipeline, mine = a_pipeline(schedule, model)
    losses: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    loss = pipeline.step(images, labels, losses=losses, outputs=outputs)
    return loss, losses, outputs, [parameter.grad for parameter in mine.parameters()]


def torchs_step(schedule, schedule_class):
    model, images, labels = model_and_batch()
    parts = cut(model, schedule.stages)
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    numbers = schedule.stages_of(rank)
    stages = [pp.PipelineStage(parts[number], number, schedule.stages, device()) for number in numbers]
    one_stage = schedule.stages_per_rank == 1
    runner = schedule_class(stages[0] if one_stage else stages, schedule.micro_batches, loss_fn=F.cross_entropy)
    losses = []
    given = [images] if rank == 0 else []
    outputs = runner.step(*given, target=labels, losses=losses) if rank == last else runner.step(*given)
    gradients = [parameter.grad for number in numbers for parameter in parts[number].parameters()]
    return losses, outputs, gradients


@pytest.mark.slow
def test_a_rank_holds_the_bytes_that_the_simulation_says():
    peaks = {}
    for schedule in (gpipe(2, 6), one_f_one_b(2, 6)):
        records = [record for *_, record in run_ranks(compared, schedule, world_size=2)]
        peaks[schedule.name] = [record.peak_bytes for record in records]
    line = simulate(one_f_one_b(2, 6))
    for rank in range(2):
        assert peaks["GPipe"][rank] / peaks["1F1B"][rank] == pytest.approx(6 / line.peak(rank), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_measured_bubble_is_the_simulated_one(name):
    """The best of six, of longer and longer passes: a rank that wakes late says nothing about the schedule."""
    schedule = SCHEDULES[name](2, 4)
    ideal = simulate(schedule, Costs(forward=0.06, backward=0.12)).bubble
    differences: list[float] = []
    for longer in (1, 1, 1, 2, 3, 4):
        line = measure(schedule, Costs(forward=0.06 * longer, backward=0.12 * longer))
        differences.append(float(abs(line.bubble - ideal)))
        if differences[-1] < 0.04:
            break
    assert min(differences) < 0.04
    assert [line.peak(rank) for rank in range(2)] == [simulate(schedule).peak(rank) for rank in range(2)]
    for rank, order in enumerate(schedule.orders):
        assert tuple(span.action for span in line.spans if span.rank == rank) == order


@pytest.mark.slow
def test_messages_find_their_way_through_one_group_per_wire():
    """As on GPUs, where every wire has a group of its own, though with gloo."""
    results = run_ranks(with_groups, SCHEDULES["interleaved 1F1B"](2, 4), world_size=2)
    assert max(results) < 1e-13


def with_groups(schedule):
    model, images, labels = model_and_batch()
    whole = copy.deepcopy(model)
    pipeline, mine = a_pipeline(schedule, model)
    pipeline._wires = _one_group_per_wire(schedule)
    assert set(pipeline._wires) == {("F", 0, 1), ("F", 1, 0), ("B", 0, 1), ("B", 1, 0)}
    pipeline._tag = lambda result: 0  # NCCL knows no tags
    pipeline.step(images, labels)
    F.cross_entropy(whole(images), labels).backward()
    right = {name: parameter.grad for name, parameter in whole.named_parameters()}
    ours = {id(parameter) for parameter in mine.parameters()}
    return max((p.grad - right[name]).abs().max().item() for name, p in model.named_parameters() if id(p) in ours)


@pytest.mark.slow
def test_orders_that_block_each_other_hang_and_the_stacks_say_where():
    good = one_f_one_b(2, 2)
    first = (Action("F", 0, 0), Action("B", 0, 0), Action("F", 0, 1), Action("B", 0, 1))
    second = (Action("F", 1, 0), Action("F", 1, 1), Action("B", 1, 0), Action("B", 1, 1))
    with pytest.raises(RankTimeout) as caught:
        run_ranks(compared, replace(good, orders=(first, second)), world_size=2, timeout=4)
    assert caught.value.traceback.count(" in _take") == 2


@pytest.mark.parametrize(
    ("schedule", "batch", "sentence"),
    [
        (one_f_one_b(3, 4), BATCH, "The schedule is for 3 ranks, but 2 are here. .* world_size=3"),
        (one_f_one_b(2, 5), BATCH, "needs a batch that 5 micro-batches share equally, but got a batch of 24."),
        (one_f_one_b(2, 4), None, "needs a batch that 4 micro-batches share equally, but got no batch."),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(schedule, batch, sentence):
    with pytest.raises(RankError, match=sentence) as caught:
        run_ranks(one_step, schedule, batch, 2, world_size=2)
    assert caught.value.kind == "ValueError"


@pytest.mark.parametrize(
    ("batch", "loss_fn", "sentence"),
    [
        (8, F.cross_entropy, r"Stage 0 puts out \[2, .*`between` is \[1\] .*drop_last=True"),
        (24, nn.CrossEntropyLoss(ignore_index=0), "The micro-batches count .* in the loss, since labels are ignored"),
        (24, nn.CrossEntropyLoss(reduction="sum"), "adds up over a micro-batch"),
    ],
    ids=["a smaller batch", "labels that count unequally", "a sum"],
)
def test_a_step_that_would_hang_or_have_a_different_gradient_is_refused(batch, loss_fn, sentence):
    with pytest.raises(RankError, match=sentence) as caught:
        run_ranks(one_step, one_f_one_b(2, 4), batch, 2, loss_fn, world_size=2, timeout=20)
    assert caught.value.kind == "ValueError"


def test_a_wrong_number_of_stages_is_told():
    with pytest.raises(RankError, match=r"Rank \d holds 1 of the schedule's 2 stages, \[\d\], but was given 2"):
        run_ranks(one_step, one_f_one_b(2, 4), BATCH, 4, world_size=2)


def one_step(schedule, batch, parts, loss_fn=F.cross_entropy):
    model, images, labels = model_and_batch()
    stages = cut(model, parts)[:: 2 if parts == 4 else 3][: parts // 2]
    pipeline = Pipeline(schedule, stages, loss_fn, torch.empty(1))
    if batch is None:
        pipeline.step()
    pipeline.step(images[:batch], labels[:batch])


def test_a_model_is_cut_between_its_ends():
    model = row_transformer(blocks=4)
    parts = cut(model, 2)
    assert [len(part) for part in parts] == [3, 3]
    assert parts[0][0] is model[0]
    assert parts[1][-1] is model[-1]
    assert len(cut(model, 1)[0]) == 6
    with pytest.raises(ValueError, match="4 layers cannot be shared equally by 3 stages"):
        cut(model, 3)


@pytest.mark.gpu
def test_on_gpus_gradients_are_those_of_the_unsplit_model():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for generator in SCHEDULES.values():
        assert max(gradients for _, gradients, _ in run_ranks(compared, generator(2, 4), world_size=2)) < 1e-12


def dense_layers(kind):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()]
    if kind == "first frozen":
        layers[0].requires_grad_(False)
    if kind == "written into":
        layers[1:] = [nn.Identity(), nn.ReLU(inplace=True), nn.Linear(4, 4)]
    if kind == "detached":
        layers[3] = Detached()
    return nn.Sequential(*layers).double()


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


def per_sample(outputs, targets):
    return (outputs - targets).square().mean(dim=1)


def added_up(outputs, targets):
    return per_sample(outputs, targets).sum()


def of_pairs(outputs, targets):
    return (outputs @ targets.T).log_softmax(dim=1).diag().neg().mean()


def beside_one_process(kind, schedule, loss_fn):
    """The largest difference of a gradient from that of one process."""
    x, targets = torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model, whole, rank = dense_layers(kind), dense_layers(kind), dist.get_rank()
    stage = model[2 * rank : 2 * rank + 2]
    pipeline = Pipeline(schedule, [stage], loss_fn, x[: 8 // schedule.micro_batches])
    pipeline.step(x.clone(), targets)
    loss_fn(whole(x), targets).mean().backward()
    pairs = zip(stage.parameters(), whole[2 * rank : 2 * rank + 2].parameters(), strict=True)
    return max(
        (0.0 if ours.grad is right.grad else (ours.grad - right.grad).abs().max().item()) for ours, right in pairs
    )


@pytest.mark.parametrize("schedule", [gpipe(2, 4), one_f_one_b(2, 4), zero_bubble(2, 4)], ids=lambda each: each.name)
@pytest.mark.parametrize("kind", ["first frozen", "written into"])
def test_a_frozen_first_stage_and_layers_that_write_into_their_input(kind, schedule):
    assert max(run_ranks(beside_one_process, kind, schedule, F.mse_loss, world_size=2)) < 1e-13


def test_one_loss_per_sample_is_averaged():
    assert max(run_ranks(beside_one_process, "plain", one_f_one_b(2, 4), per_sample, world_size=2)) < 1e-13


@pytest.mark.parametrize(
    ("kind", "loss_fn", "sentence"),
    [
        ("plain", added_up, "adds up over the batch"),
        ("plain", of_pairs, "is not the mean over its samples"),
        ("detached", F.mse_loss, "What stage 1 puts out does not depend on its input"),
    ],
)
def test_a_loss_that_micro_batches_would_change_is_refused(kind, loss_fn, sentence):
    with pytest.raises(RankError, match=sentence):
        run_ranks(beside_one_process, kind, one_f_one_b(2, 4), loss_fn, world_size=2)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(1, 1)), nn.Sequential(), nn.Linear(1, 1), nn.ModuleList()])
def test_what_has_no_first_and_last_layer_is_not_cut(model):
    with pytest.raises(ValueError, match=r"takes an nn\.Sequential with a first and a last layer, not a"):
        cut(model, 1)
