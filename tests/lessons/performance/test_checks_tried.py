"""Attempts at the exercises of lesson 09 as learners write them: exact counts are right, these mistakes are not."""

import copy
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


def not_cut_at_0(computing, sending):
    return whole(sending) - sum(min(c, d) - max(a, b) for a, c in computing for b, d in sending)


def uncovered_as_a_whole(computing, sending):
    return whole([(b, d) for b, d in sending if not any(a <= b and d <= c for a, c in computing)])


def untouched(computing, sending):
    return whole([(b, d) for b, d in sending if not any(a < d and b < c for a, c in computing)])


def after_the_last(computing, sending):
    end = max((end for _, end in computing), default=0)
    return whole([(max(b, end), d) for b, d in sending if d > end])


def remembered_by_length(known, computing, sending):
    return known.setdefault((len(computing), len(sending)), whole(sending) - shared(sending, computing))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda computing, sending: whole(computing) - shared(sending, computing), "swapped"),
        (not_cut_at_0, "less_than_nothing"),
        (uncovered_as_a_whole, "all_or_nothing"),
        (untouched, "all_or_nothing"),
        (after_the_last, "after_the_last"),
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
        (lambda n, i, o, w, p, b: max(2 * n * i * o / p, w * (i * o + i + o) / b), "one_sample"),
        (lambda n, *given: bound(1, *given), "one_sample"),
        (lambda n, i, o, w, p, b: bound(n, i, o, w, b, p), "rates_swapped"),
        (lambda n, i, o, w, p, b: w * (i * o + n * (i + o)) / b, "memory_only"),
    ],
)
def test_wrong_bounds(answer, symptom):
    refused(check.linear_seconds(answer), symptom)


def test_a_time_that_is_far_too_short_is_not_said_to_be_left_out():
    checked = check.linear_seconds(lambda n, i, o, w, p, b: max(2 * n * (i + o) / p, w * (i * o + n * (i + o)) / b))
    refused(checked, "memory_only")
    assert "or far too short" in checked.message


def limited(x, limit):
    return torch.relu(x * (limit / x.abs().max().clamp_min(limit)))


@torch.compiler.disable
def disabled(x, limit):
    return limited(x, limit)


@torch.no_grad()
def without_gradients(x, limit):
    return limited(x, limit)


def by_condition(x, limit):
    largest = x.abs().max()
    return torch.cond(largest > limit, lambda x: torch.relu(x * (limit / largest)), torch.relu, (x,))


@pytest.mark.slow
@pytest.mark.parametrize("answer", [by_condition, lambda x, limit: limited(x.clone(), limit).clone()])
def test_right_functions_of_one_graph(answer):
    accepted(check.one_graph(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (disabled, "no_graph"),
        (lambda x, limit: limited(x, limit).half(), "dtype"),
        (without_gradients, "no_gradient"),
        (lambda x, limit: limited(x.detach(), limit), "no_gradient"),
        (lambda x, limit: torch.relu(x * (limit / x.detach().abs().max().clamp_min(limit))), "gradient"),
        (lambda x, limit: torch.relu(x * (limit / x.abs().amax(1, True).clamp_min(limit))), "per_row"),
        (lambda x, limit: torch.relu(x * (limit / x.abs().amax(0, True).clamp_min(limit))), "per_row"),
        (
            lambda x, limit: torch.relu(torch.where(x.abs() > limit, x * (limit / x.abs().max()), x)),
            "each_by_itself",
        ),
    ],
)
def test_wrong_functions_of_one_graph(answer, symptom):
    refused(check.one_graph(answer), symptom)


def test_the_limit_that_was_given_counts():
    refused(check.one_graph(lambda x, limit: torch.relu(x * (1 / x.abs().max().clamp_min(1)))), "fixed_limit")
    at_least_1 = check.one_graph(lambda x, limit: torch.relu(x * (limit / x.abs().max().clamp_min(1)).clamp(max=1)))
    refused(at_least_1, "wrong_value")
    assert "above a limit of 0.25" in at_least_1.message


def test_the_shape_may_differ():
    checked = check.one_graph(lambda x, limit: limited(x.view(-1, 5), limit).view_as(x))
    assert (checked.state, checked.symptom) == ("wrong", "raised_RuntimeError")


class Late(torch.Tensor):
    """A tensor that could compute its numbers when they are read, after the clock has stopped."""


def means(features, labels, classes):
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


def with_what_was_there(features, labels, classes):
    zeros = torch.zeros(classes, features.shape[1], dtype=features.dtype)
    return zeros.scatter_reduce(0, labels[:, None].expand_as(features), features, "mean")


def one_row_each(features, labels, classes):
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype)
    sums[labels] += features
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda features, labels, classes: means(features.double(), labels, classes), "dtype"),
        (lambda *given: means(*given).as_subclass(Late), "wrong_type"),
        (lambda features, labels, classes: means(features, labels, 12), "shape"),
        (lambda *given: torch.cat([means(*given)[:-1], torch.zeros(1, given[0].shape[1]).double()]), "wrong_value"),
        (with_what_was_there, "one_row_more"),
        (one_row_each, "one_row_each"),
        (lambda f, n, c: means(f, n, c) + (torch.bincount(n, minlength=c) == 0)[:, None], "empty_class"),
    ],
)
def test_wrong_means(answer, symptom):
    refused(check.class_means(answer), symptom)


def test_means_of_a_smaller_type_are_not_said_to_be_of_other_inputs():
    checked = check.class_means(lambda features, *given: means(features.bfloat16(), *given).to(features.dtype))
    refused(checked, "wrong_value")
    assert "Do you compute in a smaller type?" in checked.message


def test_the_number_of_features_may_differ():
    answer = lambda features, labels, classes: means(features.expand(-1, 16), labels, classes)  # noqa: E731
    assert check.class_means(answer).symptom == "raised_RuntimeError"


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


@pytest.mark.slow
def test_a_forward_pass_counts_however_it_is_called():
    def calls_forward(model, *given):
        passed, model.__class__.__call__ = model.__class__.__call__, lambda self, x: self.forward(x)
        try:
            return loop(model, *given)
        finally:
            model.__class__.__call__ = passed

    accepted(check.quick_loop(calls_forward))


def on_a_copy(model, optimizer, batches, held_out):
    twin = copy.deepcopy(model)
    return loop(twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), batches, held_out)


def of_its_own(model, optimizer, batches, held_out):
    return loop(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batches, held_out)


def twice_at_most(*given):
    report = loop(*given)
    return report | {"accuracies": report["accuracies"][:2]}


def times(factor, *given):
    report = loop(*given)
    return report | {"accuracies": [factor * share for share in report["accuracies"]]}


def with_graphs(*given):
    report = loop(*given)
    return report | {"losses": [torch.tensor(loss, requires_grad=True) * 1 for loss in report["losses"]]}


def parameters_alone(model, *given):
    report = loop(model, *given)
    return report | {"weights": {name: value.detach().clone() for name, value in model.named_parameters()}}


@pytest.mark.parametrize(
    ("answer", "symptom", "hint"),
    [
        (on_a_copy, "steps", "Was it a copy that you trained?"),
        (of_its_own, "training_changed", "between the two"),
        (twice_at_most, "count", "31 steps give 3 accuracies"),
        (functools.partial(times, 100), "wrong_accuracy", "from 0 to 1"),
        (functools.partial(times, 2048), "wrong_accuracy", "from 0 to 1"),
        (with_graphs, "losses_with_graphs", "holds the graph"),
        (lambda *given: loop(*given) | {"accuracies": [None] * (len(given[2]) // 10)}, "wrong_accuracy", "differs"),
        (parameters_alone, "wrong_weights", "lacks 3.num_batches_tracked, 3.running_mean"),
        (lambda *given: loop(*given) | {"losses": 0.5}, "wrong_type", 'report["losses"] is a list'),
        (
            lambda *given: loop(*given) | {"accuracies": torch.tensor(0.5)},
            "wrong_type",
            'report["accuracies"] is a list',
        ),
    ],
)
def test_what_a_report_lacks_is_said(answer, symptom, hint):
    checked = check.quick_loop(answer)
    refused(checked, symptom)
    assert hint in checked.message
