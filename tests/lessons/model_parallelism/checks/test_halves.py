"""Steps through two halves built in different ways are accepted; each wrong one has its symptom."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.model_parallelism import pipeline
from torchcourse.lessons.model_parallelism.checks import halves as check
from verdicts import accepted, refused, todo


@pytest.fixture
def short_limit(monkeypatch):
    """For answers that hang: what ends by itself gets its time on a crowded machine too."""
    monkeypatch.setattr(check, "TIME_LIMIT", 4.0)


def receive(between, source):
    tensor = torch.empty_like(between)
    dist.recv(tensor, source)
    return tensor


# split_step


def split(stage, x, y, between, *, back=None, asks=True, reduction="mean", answer=lambda loss: loss, sends=None):
    """The step of the notebook, with switches for its mistakes."""
    if dist.get_rank() == 0:
        border = stage(x)
        dist.send(border.detach(), 1)
        gradient = receive(between, 1)
        border.backward(gradient if back is None else back(border))
        return None
    arrived = receive(between, 0).requires_grad_(asks)
    loss = F.cross_entropy(stage(arrived), y, reduction=reduction)
    loss.backward()
    dist.send(arrived.grad if sends is None else sends(arrived), 0)
    return answer(loss.detach())


def split_with_autograd_grad(stage, x, y, between):
    rank = dist.get_rank()
    if rank == 1:
        arrived = torch.zeros_like(between, requires_grad=True)
        dist.recv(arrived.data, 0)
        loss = F.cross_entropy(stage(arrived), y)
        gradient, *own = torch.autograd.grad(loss, [arrived, *stage.parameters()])
        for parameter, value in zip(stage.parameters(), own, strict=True):
            parameter.grad = value
        dist.isend(gradient.contiguous(), 0).wait()
        return loss.item()
    border = stage(x)
    dist.isend(border.detach(), 1).wait()
    (border * receive(between, 1)).sum().backward()


def split_by_the_package(stage, x, y, between):
    return pipeline.Pipeline(pipeline.gpipe(2, 1), [stage], F.cross_entropy, between).step(x, y)


def never_sent_back(stage, x, y, between):
    if dist.get_rank() == 0:
        dist.send(stage(x).detach(), 1)
        return None
    loss = F.cross_entropy(stage(receive(between, 0)), y)
    loss.backward()
    return loss


def no_backward(stage, x, y, between):
    if dist.get_rank() == 0:
        border = stage(x)
        dist.send(border.detach(), 1)
        border.backward(receive(between, 1))
        return None
    arrived = receive(between, 0).requires_grad_()
    loss = F.cross_entropy(stage(arrived), y)
    dist.send(torch.autograd.grad(loss, arrived)[0], 0)
    return loss.detach()


def waits_for_what_waits_by_itself(stage, x, y, between):
    if dist.get_rank() == 0:
        dist.send(stage(x).detach(), 1).wait()  # type: ignore[attr-defined]
    receive(between, 0)


def into_between(stage, x, y, between):
    """Rank 1 receives into the tensor that only shows a shape, and makes a leaf of it: right once."""
    if dist.get_rank() == 0:
        return split(stage, x, y, between)
    between.requires_grad_(False)
    dist.recv(between, 0)
    loss = F.cross_entropy(stage(between.requires_grad_()), y)
    loss.backward()
    dist.send(between.grad, 0)
    return loss.detach()


def without_a_gradient(stage, x, y, between):
    if dist.get_rank() == 0:
        border = stage(x)
        dist.send(border.detach(), 1)
        border.backward()
        return None
    loss = F.cross_entropy(stage(receive(between, 0)), y)
    loss.backward()
    return loss.detach()


def both_listen(stage, x, y, between):
    receive(between, 1 - dist.get_rank())


def one_leaves(stage, x, y, between):
    if dist.get_rank() == 0:
        receive(between, 1)


def with_a_step(stage, *given):
    loss = split(stage, *given)
    torch.optim.SGD(stage.parameters(), lr=0.1).step()
    return loss


def softmax_before_the_loss(stage, *given):
    return split(nn.Sequential(stage, nn.Softmax(1)) if dist.get_rank() else stage, *given)


def backward_twice(stage, *given):
    loss = split(stage, *given)
    for parameter in stage.parameters() if dist.get_rank() else ():
        parameter.grad *= 2
    return loss


def mean_of_the_products(stage, x, y, between):
    if dist.get_rank() == 1:
        return split(stage, x, y, between)
    border = stage(x)
    dist.send(border.detach(), 1)
    (border * receive(between, 1)).mean().backward()


def forward_again(stage, x, y, between):
    """Rank 0 makes its output anew when the gradient is there."""
    if dist.get_rank() == 1:
        return split(stage, x, y, between)
    dist.send(stage(x).detach(), 1)
    stage(x).backward(receive(between, 1))


def in_32_bits(stage, x, y, between):
    if dist.get_rank() == 1:
        return split(stage, x, y, between)
    border = stage(x)
    dist.send(border.detach().float().double(), 1)
    border.backward(receive(between, 1))


def cleared_at_the_end(stage, *given):
    loss = split(stage, *given)
    stage.zero_grad()
    return loss


def to_itself(stage, x, y, between):
    rank = dist.get_rank()
    dist.recv(torch.empty_like(between), rank) if rank else dist.send(stage(x).detach(), rank)


def back_twice(stage, x, y, between):
    if dist.get_rank() == 1:
        return split(stage, x, y, between)
    border = stage(x)
    dist.send(border.detach(), 1)
    gradient = receive(between, 1)
    border.backward(gradient)
    border.backward(gradient)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [split, split_with_autograd_grad, split_by_the_package])
def test_split_step_accepts(answer):
    accepted(check.split_step(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (never_sent_back, "no_gradient_on_rank_0"),
        (no_backward, "no_gradient_on_rank_1"),
        (lambda *given: split(*given, asks=False), "nothing_to_send"),
        (without_a_gradient, "backward_without_gradient"),
        (lambda *given: split(*given, back=torch.ones_like), "sum_of_the_border"),
        (lambda *given: split(*given, back=torch.detach), "border_came_back"),
        (lambda *given: split(*given, sends=torch.detach), "border_came_back"),
        (lambda *given: split(*given, reduction="sum"), "wrong_loss"),
        (lambda *given: split(*given, back=lambda border: 2 * border.detach()), "wrong_gradient_on_rank_0"),
        (mean_of_the_products, "wrong_size_on_rank_0"),
        (lambda *given: split(*given, answer=lambda loss: None), "no_loss"),
        (lambda *given: split(*given, answer=lambda loss: loss / 2), "wrong_loss"),
        (lambda *given: split(*given) or 0.0, "loss_on_rank_0"),
        (with_a_step, "weights_changed"),
        (softmax_before_the_loss, "wrong_loss"),
        (backward_twice, "wrong_size_on_rank_1"),
        (both_listen, "hang"),
        (one_leaves, "left_alone"),
        (into_between, "wrong_size_on_rank_0"),
        (cleared_at_the_end, "no_gradient_on_rank_1"),
        (to_itself, "to_itself"),
        (back_twice, "same_output_again"),
        (lambda stage, *given: split(stage.eval(), *given), "mode_left_changed"),
        (forward_again, "forward_again"),
        (waits_for_what_waits_by_itself, "nothing_to_wait_for"),
        (in_32_bits, "precision"),
    ],
)
def test_split_step_refuses(answer, symptom, request):
    if symptom == "hang":
        request.getfixturevalue("short_limit")
    refused(check.split_step(answer), symptom)


def test_a_gradient_that_was_cleared_is_not_said_to_be_one_that_never_came():
    verdict = check.split_step(cleared_at_the_end)
    assert "no gradient at the end" in verdict.message
    assert "has not been gone through" not in verdict.message


@pytest.mark.slow
def test_what_is_left_of_a_first_call_is_asked_for_where_the_second_is_wrong():
    assert "What of the first call is still there" in check.split_step(into_between).message


# repaired_step


def second_rank(stage, targets, between):
    losses, following = [], receive(between, 0)
    for k, target in enumerate(targets):
        arrived = following.requires_grad_()
        if k + 1 < len(targets):
            following = receive(between, 0)
        losses.append(F.cross_entropy(stage(arrived), target) / len(targets))
        losses[-1].backward()
        dist.send(arrived.grad, 0)
    return sum(losses).detach()


def repaired(loop):
    def step(stage, inputs, targets, between):
        if dist.get_rank() == 1:
            return second_rank(stage, targets, between)
        return loop(stage, inputs, between)

    return step


def one_ahead(stage, inputs, between):
    borders = []
    for k, x in enumerate(inputs):
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            borders[k - 1].backward(receive(between, 1))
    borders[-1].backward(receive(between, 1))


def through_the_newest(stage, inputs, between):
    borders = []
    for k, x in enumerate(inputs):
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            borders[k].backward(receive(between, 1))
    borders[-1].backward(receive(between, 1))


def divided_again(stage, inputs, between):
    one_ahead(stage, inputs, between)
    for parameter in stage.parameters():
        parameter.grad /= len(inputs)


def multiplied(stage, inputs, between):
    one_ahead(stage, inputs, between)
    for parameter in stage.parameters():
        parameter.grad *= len(inputs)


def by_a_held_border(stage, inputs, between):
    held = None
    for x in (*inputs, None):
        border = None if x is None else stage(x)
        if border is not None:
            dist.send(border.detach(), 1)
        if held is not None:
            held.backward(receive(between, 1))
        held = border


def all_forwards_without_waiting(stage, inputs, between):
    borders = [stage(x) for x in inputs]
    sending = [dist.isend(border.detach(), 1) for border in borders]
    for border in borders:
        border.backward(receive(between, 1))
    for work in sending:
        work.wait()


def colleagues(stage, inputs, between):
    for x in inputs:
        border = stage(x)
        dist.send(border.detach(), 1)
        border.backward(receive(between, 1))


def all_forwards(stage, inputs, between):
    borders = []
    for x in inputs:
        borders.append(stage(x))
        dist.send(borders[-1].detach(), 1)
    for border in borders:
        border.backward(receive(between, 1))


def last_forgotten(stage, inputs, between):
    borders = []
    for k, x in enumerate(inputs):
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            borders[k - 1].backward(receive(between, 1))


def last_taken_but_unused(stage, inputs, between):
    borders = []
    for k, x in enumerate(inputs):
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            borders[k - 1].backward(receive(between, 1))
    gradient = receive(between, 1)
    if len(inputs) == 1:
        borders[0].backward(gradient)


def wrong_border(stage, inputs, between):
    gradients, borders = [], []
    for k, x in enumerate(inputs):
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            gradients.append(receive(between, 1))
    gradients.append(receive(between, 1))
    for border, gradient in zip(borders[::-1], gradients, strict=True):
        border.backward(gradient)


def cleared(stage, inputs, between):
    borders = []
    for k, x in enumerate(inputs):
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            borders[k - 1].backward(receive(between, 1))
            stage.zero_grad()
    borders[-1].backward(receive(between, 1))


def cleared_early(stage, inputs, between):
    borders = []
    for k, x in enumerate(inputs):
        stage.zero_grad()
        borders.append(stage(x))
        dist.send(borders[k].detach(), 1)
        if k:
            borders[k - 1].backward(receive(between, 1))
    borders[-1].backward(receive(between, 1))


def of_ones(stage, inputs, between):
    one_ahead(stage, inputs, between)
    stage.zero_grad()
    for x in inputs:
        stage(x).sum().backward()


def turned_round(stage, inputs, between):
    one_ahead(stage, inputs, between)
    for parameter in stage.parameters():
        parameter.grad *= -1


def never_backward(stage, inputs, between):
    for k, x in enumerate(inputs):
        dist.send(stage(x).detach(), 1)
        if k:
            receive(between, 1)
    receive(between, 1)


def same_input(stage, inputs, between):
    one_ahead(stage, [inputs[0]] * len(inputs), between)


@pytest.mark.slow
@pytest.mark.parametrize("loop", [one_ahead, by_a_held_border, all_forwards_without_waiting])
def test_repaired_step_accepts(loop):
    accepted(check.repaired_step(repaired(loop)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "symptom"),
    [
        (colleagues, "hang"),
        (all_forwards, "hang"),
        (last_forgotten, "left_alone"),
        (last_taken_but_unused, "last_left_out"),
        (wrong_border, "mixed_up"),
        (through_the_newest, "same_output_again"),
        (cleared, "early_ones_lost"),
        (divided_again, "wrong_size_on_rank_0"),
        (multiplied, "wrong_size_on_rank_0"),
        (never_backward, "no_gradient_on_rank_0"),
        (same_input, "mixed_up"),
        (cleared_early, "early_ones_lost"),
        (of_ones, "sum_of_the_border"),
        (turned_round, "wrong_size_on_rank_0"),
        (lambda stage, *given: one_ahead(stage.eval(), *given), "mode_left_changed"),
    ],
)
def test_repaired_step_refuses(loop, symptom, request):
    if symptom == "hang":
        request.getfixturevalue("short_limit")
    refused(check.repaired_step(repaired(loop)), symptom)


def fetches_late(stage, inputs, targets, between):
    """The colleague's rank 0 with a rank 1 of one's own: nobody hangs, and nothing is fetched early."""
    if dist.get_rank() == 0:
        return colleagues(stage, inputs, between)
    losses = []
    for target in targets:
        arrived = receive(between, 0).requires_grad_()
        losses.append(F.cross_entropy(stage(arrived), target) / len(targets))
        losses[-1].backward()
        dist.send(arrived.grad, 0)
    return sum(losses).detach()


def all_forwards_on_both(stage, inputs, targets, between):
    """GPipe: rank 1 fetches everything before it sends anything."""
    if dist.get_rank() == 0:
        return all_forwards(stage, inputs, between)
    arrived, losses = [receive(between, 0).requires_grad_() for _ in targets], []
    for border, target in zip(arrived, targets, strict=True):
        losses.append(F.cross_entropy(stage(border), target) / len(targets))
        losses[-1].backward()
        dist.send(border.grad, 0)
    return sum(losses).detach()


def sends_and_goes_on(stage, inputs, targets, between):
    """What was begun to send is never waited for, and its handle is dropped."""
    if dist.get_rank() == 1:
        return second_rank(stage, targets, between)
    receive(between, 1)  # whether a dropped send arrives is chance, so let it hang for certain
    for x in inputs:
        dist.isend(stage(x).detach(), 1)


def begins_to_receive_and_leaves(stage, x, y, between):
    """Rank 0 goes backward with whatever lies in the tensor by then, and ends before rank 1 sends."""
    if dist.get_rank() == 0:
        border = stage(x)
        dist.send(border.detach(), 1)
        dist.irecv(between, 1)
        return border.backward(torch.zeros_like(between))
    receive(between, 0)
    return receive(between, 0)  # waits for certain


@pytest.mark.slow
@pytest.mark.usefixtures("short_limit")
def test_a_send_that_was_only_begun_is_told_where_ranks_hang():
    message = check.repaired_step(sends_and_goes_on).message
    assert "`isend` only begins to send" in message
    assert "`isend`" not in check.repaired_step(repaired(colleagues)).message
    assert "`irecv` only begins to receive" in check.split_step(begins_to_receive_and_leaves).message


@pytest.mark.slow
def test_repaired_step_leaves_rank_1_as_it_is():
    refused(check.repaired_step(fetches_late), "fetches_late")
    refused(check.repaired_step(all_forwards_on_both), "another_second_rank")


def test_a_tensor_of_many_numbers_is_told_by_its_shape():
    def border(stage, inputs, between):
        one_ahead(stage, inputs, between)
        return stage(inputs[0])

    verdict = check.repaired_step(repaired(border))
    refused(verdict, "loss_on_rank_0")
    assert "rank 0 returned a tensor of shape [12, 5], but" in verdict.message


# both


@pytest.mark.parametrize("exercise", [check.split_step, check.repaired_step])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"
    assert exercise(...).state == "not done"
