"""Attempts at the exercises of lesson 09 as learners write them: exact counts are right, these mistakes are not."""

import functools

import pytest
import torch

from torchcourse.lessons.performance import checks as check
from torchcourse.lessons.performance import slow_loop
from verdicts import accepted, refused


def shared(left, right):
    return sum(max(0, min(end, stop) - max(start, begin)) for start, end in left for begin, stop in right)


def whole(spans):
    return sum(end - start for start, end in spans)


def in_whole_milliseconds(computing, sending):
    busy, sent = (
        {tick for start, end in spans for tick in range(int(start), int(end))} for spans in (computing, sending)
    )
    return len(sent - busy)


def remembered_by_length(known, computing, sending):
    return known.setdefault((len(computing), len(sending)), whole(sending) - shared(sending, computing))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda computing, sending: whole(computing) - shared(sending, computing), "swapped"),
        (lambda computing, sending: round(whole(sending) - shared(sending, computing)), "wrong_value"),
        (in_whole_milliseconds, "wrong_value"),
        (functools.partial(remembered_by_length, {}), "wrong_value"),
    ],
)
def test_wrong_exposed_times(answer, symptom):
    refused(check.exposed(answer), symptom)


def bound(batch, inputs, outputs, width, peak, bandwidth, *, each=0, bias=False):
    moved = inputs * outputs + batch * (inputs + outputs) + bias * outputs
    return max((2 * inputs + each) * batch * outputs / peak, width * moved / bandwidth)


@pytest.mark.parametrize(("each", "bias"), [(-1, False), (0, True), (1, True)])
def test_an_exact_count_of_additions_is_right(each, bias):
    accepted(check.linear_seconds(functools.partial(bound, each=each, bias=bias)))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda n, i, o, w, p, b: max(2 * i * o / p, w * (i * o + n * (i + o)) / b), "one_sample"),
        (lambda n, i, o, w, p, b: bound(n, i, o, w, b, p), "rates_swapped"),
        (lambda n, i, o, w, p, b: w * (i * o + n * (i + o)) / b, "memory_only"),
    ],
)
def test_wrong_bounds(answer, symptom):
    refused(check.linear_seconds(answer), symptom)


def test_the_limit_that_was_given_counts():
    refused(check.one_graph(lambda x, limit: torch.relu(x * (1 / x.abs().max().clamp_min(1)))), "fixed_limit")


class Late(torch.Tensor):
    """A tensor that could compute its numbers when they are read, after the clock has stopped."""


def means(features, labels, classes):
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda features, labels, classes: means(features.double(), labels, classes), "dtype"),
        (lambda *given: means(*given).as_subclass(Late), "wrong_type"),
    ],
)
def test_wrong_means(answer, symptom):
    refused(check.class_means(answer), symptom)


def loop(model, optimizer, batches, held_out, *, first=9, zeroed=True, copied=True):
    losses, accuracies = [], []
    for step, (images, labels) in enumerate(batches):
        model.train()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        if zeroed:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == first:
            accuracies.append(slow_loop.accuracy(model, held_out))
    weights = {name: value.clone() for name, value in model.state_dict().items()} if copied else None
    return {"losses": losses, "accuracies": accuracies, "weights": weights}


@pytest.mark.parametrize(
    ("mistake", "symptom", "hint"),
    [
        ({"zeroed": False}, "training_changed", "between the two"),
        ({"first": 0}, "wrong_accuracy", "after steps 10, 20"),
        ({"copied": False}, "wrong_weights", "a dictionary"),
    ],
)
def test_hints_are_true_of_the_loop(mistake, symptom, hint):
    checked = check.quick_loop(functools.partial(loop, **mistake))
    refused(checked, symptom)
    assert hint in checked.message


def emptied(model, optimizer, batches, held_out):
    report = loop(model, optimizer, batches, held_out)
    held_out[1].zero_()
    return report


def frozen(model, optimizer, batches, held_out):
    report = loop(model, optimizer, batches, held_out)
    model.requires_grad_(False)
    return report


@pytest.mark.parametrize(("answer", "symptom"), [(emptied, "inputs_changed"), (frozen, "frozen")])
def test_a_loop_leaves_no_damage(answer, symptom):
    refused(check.quick_loop(answer), symptom)
