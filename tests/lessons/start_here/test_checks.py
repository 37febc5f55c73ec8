"""Lesson 00's checks: another right answer passes, and each mistake that learners make gets a hint of its own."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
import torch.distributed as dist

from torchcourse.lessons.start_here import checks


def stub(*_):
    raise NotImplementedError("Write your code here, then run this cell again.")


# --- my_share ---------------------------------------------------------------------------------------------------------


def every_nth(indices, rank, world_size):
    return indices[rank::world_size]


def blocks(indices, rank, world_size):
    size, rest = divmod(len(indices), world_size)
    begin = rank * size + min(rank, rest)
    return indices[begin : begin + size + (rank < rest)]


def dealt_like_cards(indices, rank, world_size):
    return tuple(index for turn, index in enumerate(indices) if turn % world_size == rank)


def ceiling_blocks(indices, rank, world_size):
    size = -(-len(indices) // world_size)
    return indices[rank * size : (rank + 1) * size]


WRONG_SHARES = {
    "everyone_gets_all": lambda indices, rank, world_size: indices,
    "same_for_every_rank": lambda indices, rank, world_size: indices[::world_size],
    "handed_out_twice": lambda indices, rank, world_size: indices[rank::2],
    "rest_lost": lambda indices, rank, world_size: indices[
        rank * (len(indices) // world_size) : (rank + 1) * (len(indices) // world_size)
    ],
    "lost": lambda indices, rank, world_size: indices[rank + 1 :: world_size],
    "uneven": ceiling_blocks,
    "positions_not_indices": lambda indices, rank, world_size: list(range(rank, len(indices), world_size)),
    "nothing_returned": lambda indices, rank, world_size: None,
    "wrong_type": lambda indices, rank, world_size: len(indices) // world_size,
    "inputs_changed": lambda indices, rank, world_size: [indices.pop(0) for _ in range(len(indices) // 2)],
    "raised_ValueError": lambda indices, rank, world_size: indices[dist.get_rank() :: dist.get_world_size()],
}


@pytest.mark.parametrize(
    "share",
    [
        lambda indices, rank, world_size: [indices[other::world_size] for other in range(world_size)],
        lambda indices, rank, world_size: [str(index) for index in indices[rank::world_size]],
        lambda indices, rank, world_size: [float(index) for index in indices[rank::world_size]],
        lambda indices, rank, world_size: np.array_split(indices, world_size),
    ],
    ids=["all shares", "texts", "floats", "all shares as arrays"],
)
def test_what_is_no_index_is_refused_by_its_type(share):
    assert checks.my_share(share).symptom == "wrong_type"


def test_a_rank_that_the_check_has_not_is_explained():
    message = checks.my_share(WRONG_SHARES["raised_ValueError"]).message
    assert "The check called your function where there are no ranks." in message


def test_a_first_line_that_was_changed_is_asked_about():
    message = checks.my_share(lambda indices, rank: indices[rank::2]).message
    assert message.startswith("The check could not call your function: ")
    assert message.endswith("Is its first line still the exercise's own?")


def kept_by_length():
    kept = {}

    def share(indices, rank, world_size):
        return kept.setdefault((len(indices), rank, world_size), indices[rank::world_size])

    return share


def in_turn():
    turns = []

    def share(indices, rank, world_size):
        if rank == 0:
            turns[:] = [indices[other::world_size] for other in range(world_size)]
        return turns.pop(0)

    return share


def rows_filled_with_none(indices, rank, world_size):
    rows = itertools.zip_longest(*[iter(indices)] * world_size)
    return [row[rank] for row in rows if row[rank]]


@pytest.mark.parametrize(
    ("share", "symptom"),
    [(kept_by_length(), "positions_not_indices"), (in_turn(), "raised_IndexError"), (rows_filled_with_none, "lost")],
    ids=["remembered", "in turn", "zero lost"],
)
def test_a_share_is_of_this_list_whatever_was_asked_before(share, symptom):
    answer = checks.my_share(share)
    assert answer.symptom == symptom, answer.message


def halves(indices, rank, world_size):
    return indices[rank * len(indices) // world_size : (rank + 1) * len(indices) // world_size]


def by_recursion(indices, rank, world_size):
    return [indices[rank], *by_recursion(indices[world_size:], rank, world_size)] if rank < len(indices) else []


@pytest.mark.parametrize("right", [every_nth, blocks, dealt_like_cards, halves, by_recursion])
def test_any_fair_share_passes(right):
    assert checks.my_share(right, points=2).score == 2


@pytest.mark.parametrize("symptom", WRONG_SHARES)
def test_an_unfair_share_is_told_what_is_unfair(symptom):
    answer = checks.my_share(WRONG_SHARES[symptom])
    assert (answer.state, answer.symptom) == ("wrong", symptom), answer.message


# --- accuracy_of ------------------------------------------------------------------------------------------------------


def by_argmax(logits, labels):
    return (logits.argmax(dim=1) == labels).float().mean().item()


def by_counting(logits, labels):
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits += max(range(len(row)), key=row.__getitem__) == label
    return hits / len(labels)


def by_softmax_and_topk(logits, labels):
    return logits.softmax(-1).topk(1).indices.squeeze(1).eq(labels).double().mean().item()


WRONG_ACCURACIES = {
    "wrong_axis": lambda logits, labels: (logits.argmax(dim=0) == labels).float().mean().item(),
    "count": lambda logits, labels: (logits.argmax(dim=1) == labels).sum().item(),
    "percent": lambda logits, labels: 100 * by_argmax(logits, labels),
    "error_rate": lambda logits, labels: 1 - by_argmax(logits, labels),
    "still_a_tensor": lambda logits, labels: (logits.argmax(dim=1) == labels).float().mean(),
    "one_per_sample": lambda logits, labels: logits.argmax(dim=1) == labels,
    "nothing_returned": lambda logits, labels: None,
    "no_number": lambda logits, labels: "half",
    "wrong_value": lambda logits, labels: logits.softmax(1).max(dim=1).values.mean().item(),
    "all_wrong": lambda logits, labels: (logits.max(dim=1).values == labels).float().mean().item(),
    "whole_parts": lambda logits, labels: (logits.argmax(dim=1) == labels).sum().item() // len(labels),
    "too_rough": lambda logits, labels: (logits.argmax(dim=1) == labels).half().mean().item(),
    "by_classes": lambda logits, labels: (logits.argmax(dim=1) == labels).sum().item() / logits.shape[1],
}


@pytest.mark.parametrize(
    ("wrong", "symptom"),
    [
        (lambda logits, labels: float(logits.argmax(dim=1).tolist() == labels.tolist()), "whole_parts"),
        (lambda logits, labels: round(by_argmax(logits, labels), 2), "too_rough"),
        (
            lambda logits, labels: (logits.argmax(dim=1, keepdim=True) == labels).float().mean().item(),
            "each_with_all",
        ),
        (lambda logits, labels: ((logits > 0.5) == labels).float().mean().item(), "wrong_value"),
        (lambda logits, labels: (logits.abs().argmax(1) == labels).float().mean().item(), "wrong_value"),
        (lambda logits, labels: (logits.argmax() == labels).float().mean().item(), "wrong_value"),
        (
            lambda logits, labels: (logits.argmax(1) == labels).sum(dtype=torch.uint8).item() / len(labels),
            "wrong_value",
        ),
        (lambda logits, labels: f"{by_argmax(logits, labels)}", "no_number"),
        (lambda logits, labels: by_argmax(logits.sub_(logits.max()), labels), "inputs_changed"),
    ],
)
def test_no_coincidence_of_one_batch_is_taken_for_a_mistake(wrong, symptom):
    answer = checks.accuracy_of(wrong)
    assert answer.symptom == symptom, answer.message


def test_an_accuracy_of_half_precision_is_not_told_the_same_number_twice():
    message = checks.accuracy_of(WRONG_ACCURACIES["too_rough"]).message
    assert "you returned 0.7002 and 7 of 10 is 0.7: close, but rounded" in message


@pytest.mark.parametrize("right", [by_argmax, by_counting, by_softmax_and_topk])
def test_any_way_to_the_accuracy_passes(right):
    assert checks.accuracy_of(right).state == "right"


@pytest.mark.parametrize("symptom", WRONG_ACCURACIES)
def test_another_number_is_told_what_it_is(symptom):
    answer = checks.accuracy_of(WRONG_ACCURACIES[symptom])
    assert (answer.state, answer.symptom) == ("wrong", symptom), answer.message


def test_one_sample_is_not_called_several():
    among_samples = checks.accuracy_of(lambda logits, labels: by_argmax(logits.softmax(0), labels))
    assert among_samples.message.startswith("For 1 sample and 10 classes")
    assert among_samples.message.endswith("in 1 sample.")


# --- training_step ----------------------------------------------------------------------------------------------------


def usual(model, optimizer, loss_fn, images, labels):
    optimizer.zero_grad()
    loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def clears_at_the_end(model, optimizer, loss_fn, images, labels):
    loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    return loss.tolist()


def gradients_by_autograd(model, optimizer, loss_fn, images, labels):
    loss = loss_fn(model(images), labels)
    optimizer.zero_grad(set_to_none=False)
    torch.autograd.backward(loss, inputs=list(model.parameters()))
    optimizer.step()
    return loss.detach().numpy().item()


def steps(*order, result=lambda loss, again: loss.item()):
    """Return a training step that does these things in this order."""

    def step(model, optimizer, loss_fn, images, labels):
        loss = loss_fn(model(images), labels)
        does = {
            "zero": optimizer.zero_grad,
            "zeros": lambda: optimizer.zero_grad(set_to_none=False),
            "backward": lambda: loss.backward(retain_graph=True),
            "step": optimizer.step,
        }
        for name in order:
            does[name]()
        return result(loss, lambda: loss_fn(model(images), labels).item())

    return step


RIGHT = ("zero", "backward", "step")
WRONG_STEPS = [
    ("no_backward", steps("zero", "step")),
    ("no_step", steps("zero", "backward")),
    ("step_before_backward", steps("zero", "step", "backward")),
    ("gradients_pile_up", steps("backward", "step")),
    ("cleared_too_early", steps("backward", "zero", "step")),
    ("cleared_too_early", steps("backward", "zeros", "step")),
    ("more_than_one", steps("zero", "backward", "step", "step")),
    ("more_than_one", steps("zero", "backward", "backward", "step")),
    ("no_loss", steps(*RIGHT, result=lambda loss, again: None)),
    ("loss_is_a_tensor", steps(*RIGHT, result=lambda loss, again: loss)),
    ("other_loss", steps(*RIGHT, result=lambda loss, again: again())),
]


def sums_the_loss(model, optimizer, loss_fn, images, labels):
    return usual(model, optimizer, lambda logits, labels: len(labels) * loss_fn(logits, labels), images, labels)


def with_loss(loss):
    """Return a training step with `loss(loss_fn, logits, labels)` in the place of the loss."""

    def step(model, optimizer, loss_fn, images, labels):
        return usual(model, optimizer, lambda logits, labels: loss(loss_fn, logits, labels), images, labels)

    return step


def own_optimizer(model, optimizer, loss_fn, images, labels):
    return usual(model, torch.optim.SGD(model.parameters(), lr=0.5), loss_fn, images, labels)


def moved_by_hand(model, optimizer, loss_fn, images, labels):
    loss = loss_fn(model(images), labels)
    with torch.no_grad():
        for parameter, gradient in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            parameter -= 0.5 * gradient
    return loss.item()


def evaluates(model, optimizer, loss_fn, images, labels):
    return usual(model.eval(), optimizer, loss_fn, images, labels)


def in_threes(model, optimizer, loss_fn, images, labels):
    optimizer.zero_grad()
    losses = [loss_fn(model(x), y) for x, y in zip(images.split(3), labels.split(3), strict=True)]
    loss = sum(losses) / len(losses)
    loss.backward()
    optimizer.step()
    return loss.item()


def clipped(model, optimizer, loss_fn, images, labels):
    optimizer.zero_grad()
    loss = loss_fn(model(images), labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


WRONG_STEPS += [
    ("wrong_value", in_threes),
    ("wrong_length", clipped),
    ("softmax_before_loss", with_loss(lambda loss_fn, logits, labels: loss_fn(logits.softmax(1), labels))),
    ("other_loss_function", with_loss(lambda _, logits, labels: torch.nn.CrossEntropyLoss()(logits, labels))),
    ("loss_arguments_swapped", with_loss(lambda loss_fn, logits, labels: loss_fn(labels, logits))),
    ("goes_up", with_loss(lambda loss_fn, logits, labels: -loss_fn(logits, labels))),
    ("no_step", own_optimizer),
    ("no_step", moved_by_hand),
    ("mode_left_changed", evaluates),
    ("no_number", steps(*RIGHT, result=lambda loss, again: f"loss {loss.item()}")),
]


def test_gradients_of_a_copy_are_not_told_as_none():
    message = checks.training_step(lambda model, *rest: usual(copy.deepcopy(model), *rest)).message
    assert "No weight of the model got a gradient" in message


def test_a_loss_that_is_slightly_off_is_not_shown_as_the_same():
    message = checks.training_step(steps(*RIGHT, result=lambda loss, again: float(loss.detach().half()))).message
    right, given = re.findall(r"\d\.\d+", message)
    assert right != given


def test_a_count_of_one_is_no_plural():
    assert "backward ran once and step ran 2 times" in checks.training_step(steps(*RIGHT, "step")).message


def test_a_different_optimizer_that_moved_the_weights_is_said():
    assert "something else moved them" in checks.training_step(own_optimizer).message


def with_closure(model, optimizer, loss_fn, images, labels):
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@pytest.mark.parametrize("right", [with_closure, usual, clears_at_the_end, gradients_by_autograd, steps(*RIGHT)])
def test_any_order_that_trains_passes(right):
    answer = checks.training_step(right)
    assert answer.state == "right", answer.message


@pytest.mark.parametrize(("symptom", "wrong"), [*WRONG_STEPS, ("wrong_length", sums_the_loss)])
def test_a_step_that_goes_astray_is_told_where(symptom, wrong):
    answer = checks.training_step(wrong)
    assert (answer.state, answer.symptom) == ("wrong", symptom), answer.message


def test_each_call_checks_a_fresh_model():
    assert checks.training_step(steps("backward", "step")).state == "wrong"
    assert checks.training_step(usual).state == "right"


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_the_evidence_is_read():
    assert checks.evidence((1, 31)).state == "right"
    assert checks.evidence((..., ...)).state == "not done"
    assert checks.evidence((1, ...)).state == "not done"


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        ((0, 31), "other_rank"),
        ((2, 31), "no_such_rank"),
        ((1, 32), "batch_as_planned"),
        ((1, 24304), "pixels"),
        ((1, 30), "other_batch"),
        ((31, 1), "swapped"),
        (("1", "31"), "no_number"),
        (("rank 1", 31), "no_number"),
        ((-1, 31), "no_such_rank"),
        ("1, 31", "wrong_type"),
        ((1, 2, 3), "wrong_type"),
    ],
)
def test_evidence_misread(answer, symptom):
    assert checks.evidence(answer).symptom == symptom


# --- mean_pixel -------------------------------------------------------------------------------------------------------


def repaired(add, *, together=True):
    """Return the lesson's function with `add(total, batch)` in the place of the broken line."""

    def mean_pixel(images):
        mine = images.tensor_split(dist.get_world_size())[dist.get_rank()]
        total = torch.zeros(1)
        for batch in mine.split(32):
            total = add(total, batch)
        if together == "on rank 0":
            dist.reduce(total, dst=0)
        elif together:
            dist.all_reduce(total)
        return total.item() / len(images)

    return mean_pixel


def without_batches(images):
    total = images[dist.get_rank() :: dist.get_world_size()].mean(dim=(1, 2, 3)).sum()
    dist.all_reduce(total)
    return total.item() / len(images)


def every_image_in_every_rank(images):
    total = images.mean(dim=(1, 2, 3)).sum()
    dist.all_reduce(total)
    return total.item() / len(images)


@pytest.mark.slow
@pytest.mark.parametrize(
    "right",
    [
        repaired(lambda total, batch: total + batch.flatten(start_dim=1).mean(dim=1).sum()),
        repaired(lambda total, batch: total + batch.reshape(len(batch), 784).mean(dim=1).sum()),
        repaired(lambda total, batch: total + batch.mean() * len(batch)),
        without_batches,
    ],
)
def test_any_repair_passes(right):
    answer = checks.mean_pixel(right)
    assert answer.state == "right", answer.message


WRONG_REPAIRS = {
    "still_there": repaired(lambda total, batch: total + batch.reshape(31, 784).mean(dim=1).sum()),
    "short_batch_dropped": repaired(
        lambda total, batch: total + batch.reshape(32, 784).mean(dim=1).sum() if len(batch) == 32 else total
    ),
    "one_per_batch": repaired(lambda total, batch: total + batch.mean()),
    "one_per_batch, of 32 images": repaired(lambda total, batch: total + 32 * batch.mean()),
    "wrong_axis": repaired(lambda total, batch: total + batch.flatten(1).mean(dim=0).sum()),
    "last_batch_only": repaired(lambda total, batch: total * 0 + batch.mean(dim=(1, 2, 3)).sum()),
    "sum_of_pixels": repaired(lambda total, batch: total + batch.sum()),
    "own_share_only": repaired(lambda total, batch: total + batch.mean(dim=(1, 2, 3)).sum(), together=False),
    "wrong_value": repaired(lambda total, batch: total + batch.amax(dim=(1, 2, 3)).sum()),
    "wrong_value, dark pixels": repaired(lambda total, batch: total + batch[batch != 0].mean() * len(batch)),
    "nothing_returned": lambda images: None,
    "no_number": lambda images: "bright",
    "not_shared": lambda images: images.mean().item(),
    "one_rank_only": repaired(lambda total, batch: total + batch.mean() * len(batch), together="on rank 0"),
    "images_changed": repaired(lambda total, batch: total + batch.div_(784).sum()),
    "nothing_added": repaired(lambda total, batch: total),
    "every_rank_all": every_image_in_every_rank,
}


@pytest.mark.parametrize("symptom", WRONG_REPAIRS)
def test_a_repair_that_hides_the_fault_is_found(symptom):
    answer = checks.mean_pixel(WRONG_REPAIRS[symptom])
    assert (answer.state, answer.symptom) == ("wrong", symptom.partition(",")[0]), answer.message


def test_another_error_in_a_rank_is_told_with_its_rank():
    answer = checks.mean_pixel(repaired(lambda total, batch: total + batch.view(-1, 785)))
    assert answer.state == "wrong"
    assert "rank" in answer.message


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my_share", "accuracy_of", "training_step", "mean_pixel"])
def test_a_stub_is_not_done_yet(name):
    answer = getattr(checks, name)(stub, points=3)
    assert (answer.state, repr(answer)) == ("not done", "0")
