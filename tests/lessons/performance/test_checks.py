"""The checks of lesson 09 accept right answers built in different ways and name wrong ones' symptoms."""

import copy
import functools
import itertools

import pytest
import torch

from torchcourse.checks import Wrong
from torchcourse.lessons.performance import checks as check
from torchcourse.lessons.performance import slow_loop
from torchcourse.lessons.performance.class_means import class_means_loop
from torchcourse.lessons.performance.speed import Comparison
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["exposed", "linear_seconds", "one_graph", "class_means", "quick_loop"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


def shared(left, right):
    return sum(max(0, min(end, stop) - max(start, begin)) for start, end in left for begin, stop in right)


def whole(spans):
    return sum(end - start for start, end in spans)


def by_pieces(computing, sending):
    points = sorted({point for span in [*computing, *sending] for point in span})
    pieces = list(itertools.pairwise(points))

    def within(middle, spans):
        return any(start < middle < end for start, end in spans)

    return sum(b - a for a, b in pieces if within((a + b) / 2, sending) and not within((a + b) / 2, computing))


def by_cutting(computing, sending):
    left = list(sending)
    for begin, stop in computing:
        left = [part for start, end in left for part in ((start, min(end, begin)), (max(start, stop), end))]
        left = [(start, end) for start, end in left if end > start]
    return whole(left)


def by_ticks(computing, sending):
    def at(time, spans):
        return any(start <= time < end for start, end in spans)

    ticks = [tick / 10 for tick in range(1000)]
    return sum(at(tick, sending) and not at(tick, computing) for tick in ticks) / 10


@pytest.mark.parametrize(
    "answer",
    [
        by_pieces,
        by_cutting,
        lambda computing, sending: whole(sending) - shared(sending, computing),
        lambda computing, sending: torch.tensor(float(whole(sending) - shared(computing, sending))),
    ],
)
def test_right_exposed_times(answer):
    accepted(check.exposed(answer))


def in_one_block(computing, sending):
    block = [(computing[0][0], computing[-1][1])] if computing else []
    return whole(sending) - shared(block, sending)


def without_computing(computing, sending):
    points = [point for span in [*computing, *sending] for point in span]
    return max(points) - min(points) - whole(computing)


def cut_in_front(computing, sending):
    def begins(start):
        return next((stop for begin, stop in computing if begin <= start < stop), start)

    return sum(max(0, end - begins(start)) for start, end in sending)


def changes_the_list(computing, sending):
    while sending and not computing:
        sending.pop()
    return whole(sending) - shared(sending, computing)


def changes_a_later_list(computing, sending):
    if len(sending) == 2:
        sending.pop()
    return whole(sending)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda computing, sending: whole(sending), "all_sending"),
        (shared, "covered"),
        (lambda computing, sending: max(0, whole(sending) - whole(computing)), "difference_of_sums"),
        (lambda computing, sending: whole(sending) - whole(computing), "difference_of_sums"),
        (without_computing, "idle"),
        (
            lambda computing, sending: max(
                0, max((e for _, e in sending), default=0) - max((e for _, e in computing), default=0)
            ),
            "after_the_last",
        ),
        (by_ticks, "wrong_value"),
        (lambda computing, sending: None, "no_number"),
        (lambda computing, sending: [1.0], "no_number"),
        # known mistakes give the same number for the first trace, and others for the second
        (in_one_block, "wrong_value"),
        (cut_in_front, "wrong_value"),
        (lambda computing, sending: 1e3 * (whole(sending) - shared(sending, computing)), "wrong_value"),
        (lambda computing, sending: whole(sending) - shared(sending[:1], computing), "wrong_value"),
        (changes_the_list, "inputs_changed"),
        (changes_a_later_list, "inputs_changed"),  # and the table of the check stays as it is
        (lambda computing, sending: "5 ms", "no_number"),
        (lambda computing, sending: sending, "no_number"),
        (lambda computing, sending: shared(sending, computing) - whole(sending), "wrong_value"),
        (lambda computing, sending: whole(sending) + whole(computing), "wrong_value"),
        (lambda computing, sending: whole(sending) - shared(sending, computing[:1]), "wrong_value"),
    ],
)
def test_wrong_exposed_times(answer, symptom):
    refused(check.exposed(answer), symptom)


def test_a_wrong_exposed_time_is_said_with_its_trace():
    message = check.exposed(lambda computing, sending: whole(sending)).message
    assert message.startswith("Computing [(2, 12), (14, 15), (18, 20)], sending [(1, 9), (10, 11), (13, 21)], your ")


def bound(batch, inputs, outputs, width, peak, bandwidth, *, flop=2.0, weights=1, given=1, out=1, take=max):
    moved = weights * inputs * outputs + given * batch * inputs + out * batch * outputs
    return take(flop * batch * inputs * outputs / peak, width * moved / bandwidth)


def with_bias(batch, inputs, outputs, width, peak, bandwidth):
    moved = inputs * outputs + outputs + batch * (inputs + outputs)
    return max(2 * batch * inputs * outputs / peak, width * moved / bandwidth)


def by_roof(batch, inputs, outputs, width, peak, bandwidth):
    flop = 2 * batch * inputs * outputs
    moved = sum(rows * columns * width for rows, columns in ((batch, inputs), (inputs, outputs), (batch, outputs)))
    return flop / min(peak, bandwidth * flop / moved)


def by_case(batch, inputs, outputs, width, peak, bandwidth):
    compute, move = (bound(batch, inputs, outputs, width, peak, bandwidth, take=take) for take in (first, second))
    return compute if compute > move else move


def first(compute, move):
    return compute


def second(compute, move):
    return move


@pytest.mark.parametrize(
    "answer", [bound, with_bias, by_roof, by_case, lambda *given: torch.tensor(bound(*given), dtype=torch.float64)]
)
def test_right_bounds(answer):
    accepted(check.linear_seconds(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (functools.partial(bound, take=lambda a, b: a + b), "added"),
        (functools.partial(bound, take=min), "the_shorter"),
        (functools.partial(bound, flop=1.0), "one_per_product"),
        (functools.partial(bound, weights=0), "bytes_left_out"),
        (functools.partial(bound, given=0, out=0), "bytes_left_out"),
        (functools.partial(bound, out=0), "bytes_left_out"),
        (lambda n, i, o, w, p, b: max(2 * n * i * o / p, w * n * (i * o + i + o) / b), "weights_per_sample"),
        (lambda n, i, o, w, p, b: bound(n, i, o, 1, p, b), "bytes_per_number"),
        (lambda n, i, o, w, p, b: bound(n, i, o, 4, p, b), "bytes_per_number"),
        (functools.partial(bound, take=lambda a, b: a), "compute_only"),
        (functools.partial(bound, take=lambda a, b: b), "memory_only"),
        (functools.partial(bound, flop=6.0), "wrong_value"),
        (lambda *given: 1e3 * bound(*given), "milliseconds"),
        (functools.partial(bound, given=0), "bytes_left_out"),
        (lambda n, i, o, w, p, b: bound(n, i, o, w / 8, p, b), "wrong_value"),
        (lambda *given: (bound(*given), "memory"), "no_number"),
        (lambda *given: None, "no_number"),
    ],
)
def test_wrong_bounds(answer, symptom):
    refused(check.linear_seconds(answer), symptom)


def by_where(x, limit):
    largest = x.abs().max()
    return torch.relu(torch.where(largest > limit, x * (limit / largest), x))


def by_maximum(x, limit):
    return torch.relu(x) * (limit / torch.maximum(x.abs().amax(), torch.tensor(limit, dtype=x.dtype)))


def by_norm(x, limit):
    size = torch.linalg.vector_norm(x, ord=float("inf"))
    return torch.clamp(x / torch.clamp(size / limit, min=1.0), min=0)


def by_minimum(x, limit):
    factor = torch.minimum(limit / x.abs().max(), torch.ones((), dtype=x.dtype))  # limit / 0 is inf, and 1 is smaller
    return (x * factor).clamp_min(0)


@pytest.mark.parametrize("answer", [check.planning.limited, by_where, by_maximum, by_norm, by_minimum])
def test_right_functions_of_one_graph(answer):
    accepted(check.one_graph(answer))


def with_item(x, limit):
    largest = x.abs().max()
    if largest.item() > limit:
        x = x * (limit / largest)
    return torch.relu(x)


def with_print(x, limit):
    out = check.planning.limited(x, limit)
    print("largest:", out.max())
    return torch.relu(out)


def in_place(x, limit):
    x *= limit / x.abs().max().clamp_min(limit)
    return torch.relu(x)


def in_python_alone(x, limit):
    rows = x.tolist()
    largest = max(limit, *(abs(value) for row in rows for value in row))
    return torch.tensor([[max(0.0, value * limit / largest) for value in row] for row in rows], dtype=x.dtype)


@torch.no_grad()
@torch.compiler.disable
def kept_from_the_compiler(x, limit):
    return check.planning.limited(x, limit)


def by_loop(x, limit):
    for value in x.flatten().tolist():
        if abs(value) > limit:
            return torch.relu(x * (limit / x.abs().max()))
    return torch.relu(x)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (with_item, "graph_break"),
        (with_print, "graph_break"),
        (by_loop, "graph_break"),
        (in_python_alone, "graph_break"),
        (kept_from_the_compiler, "no_graph"),
        (in_place, "inputs_changed"),
        (lambda x, limit: torch.relu(x.clamp(-limit, limit)), "clipped"),
        (lambda x, limit: torch.relu(x * (limit / x.abs().max().clamp_min(1e-12))), "always_scaled"),
        (lambda x, limit: torch.relu(x), "never_scaled"),
        (lambda x, limit: x * (limit / x.abs().max().clamp_min(limit)), "no_relu"),
        (lambda x, limit: torch.relu(x * (limit / x.max().clamp_min(limit))), "largest_not_size"),
        (lambda x, limit: torch.relu(x)[0], "shape"),
        (lambda x, limit: x.tolist(), "wrong_type"),
        (lambda x, limit: torch.relu(x * (limit / x.abs().max())), "always_scaled"),
        (lambda x, limit: None, "wrong_type"),
        (lambda x, limit: check.planning.limited(x.double(), limit), "dtype"),
    ],
)
def test_wrong_functions_of_one_graph(answer, symptom):
    refused(check.one_graph(answer), symptom)


def by_index_add(features, labels, classes):
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


def by_one_hot(features, labels, classes):
    hot = torch.nn.functional.one_hot(labels, classes).to(features.dtype)
    return hot.T @ features / hot.sum(dim=0).clamp_min(1)[:, None]


def by_masks(features, labels, classes):
    rows = [features[labels == number] for number in range(classes)]
    return torch.stack([part.sum(dim=0) / max(1, len(part)) for part in rows])


def by_scatter(features, labels, classes):
    places = labels[:, None].expand_as(features)
    zeros = torch.zeros(classes, features.shape[1], dtype=features.dtype)
    return zeros.scatter_reduce(0, places, features, "mean", include_self=False)


def by_sorting(features, labels, classes):
    order = labels.argsort()
    counts = torch.bincount(labels, minlength=classes)
    parts = features[order].split(counts.tolist())
    return torch.stack([part.mean(dim=0) if len(part) else part.sum(dim=0) for part in parts])


@pytest.mark.parametrize("answer", [by_index_add, by_one_hot, by_masks, by_scatter, by_sorting])
def test_right_and_fast_means(answer):
    accepted(check.class_means(answer))


class Remembering:
    """Returns the first answer again for inputs of the same shape."""

    def __init__(self):
        self.known = {}

    def __call__(self, features, labels, classes):
        key = features.shape
        if key not in self.known:
            self.known[key] = by_index_add(features, labels, classes)
        return self.known[key]


def every_tenth(features, labels, classes):
    if len(features) < 1000:
        return by_index_add(features, labels, classes)
    return by_index_add(features[::10], labels[::10], classes)


def divides_in_place(features, labels, classes):
    features /= 1.0 + 1e-12
    return by_index_add(features.float().double() if len(features) > 9999 else features, labels, classes)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (class_means_loop, "too_slow"),
        (Remembering(), "wrong_value"),
        (every_tenth, "wrong_value"),
        (divides_in_place, "inputs_changed"),
        (lambda f, n, c: by_index_add(f, n, c).float(), "dtype"),
        (lambda f, n, c: torch.zeros(c, f.shape[1], dtype=f.dtype).index_add_(0, n, f), "sum_not_mean"),
        (lambda f, n, c: torch.zeros(c, f.shape[1], dtype=f.dtype).index_add_(0, n, f) / len(f), "divided_by_all"),
        (lambda f, n, c: by_index_add(f, n, c) / torch.bincount(n, minlength=c).eq(1).add(1)[:, None], "wrong_value"),
        (lambda f, n, c: torch.stack([f[n == k].mean(dim=0) for k in range(c)]), "nan"),
        (lambda f, n, c: by_index_add(f, n, c)[: c - 1], "shape"),
        (lambda f, n, c: by_index_add(f.half(), n, c).to(f.dtype), "wrong_value"),
        (lambda f, n, c: (row for row in by_index_add(f, n, c)), "wrong_type"),
        (lambda f, n, c: by_index_add(f, n, c).T, "shape"),
        (lambda f, n, c: by_index_add(f, n, c).flip(0), "wrong_value"),
        (lambda f, n, c: by_index_add(f, n, c).tolist(), "wrong_type"),
        (lambda f, n, c: None, "wrong_type"),
    ],
)
def test_wrong_or_slow_means(answer, symptom):
    refused(check.class_means(answer), symptom)


def quick(model, optimizer, batches, held_out, *, every=slow_loop.EVERY, back=True, copied=True, early=False):
    losses, accuracies = [], []
    for step, (images, labels) in enumerate(batches, start=1):
        if back or step == 1:
            model.train()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if early and step % every == 0:
            accuracies.append(slow_loop.accuracy(model, held_out))
            model.train()
        optimizer.step()
        losses.append(loss.item())
        if not early and step % every == 0:
            accuracies.append(slow_loop.accuracy(model, held_out))
    weights = {name: value.clone() if copied else value for name, value in model.state_dict().items()}
    return {"losses": losses, "accuracies": accuracies, "weights": weights}


def losses_at_the_end(model, optimizer, batches, held_out):
    losses = []
    report = quick(model, optimizer, batches, held_out)
    losses = [float(loss) for loss in report.pop("losses")]
    return {"losses": losses} | report


def by_index(model, optimizer, batches, held_out):
    losses, accuracies = torch.zeros(len(batches)), []
    for step in range(len(batches)):
        model.train()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batches[step][0]), batches[step][1])
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        if (step + 1) % slow_loop.EVERY == 0:
            accuracies += [slow_loop.accuracy(model, held_out)]
    return {"losses": losses.tolist(), "accuracies": accuracies, "weights": copy.deepcopy(model.state_dict())}


def in_tens(model, optimizer, batches, held_out):
    losses, accuracies = [], []
    for start in range(0, len(batches), slow_loop.EVERY):
        model.train()
        for images, labels in batches[start : start + slow_loop.EVERY]:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if start + slow_loop.EVERY <= len(batches):
            accuracies.append(slow_loop.accuracy(model, held_out))
    return {"losses": losses, "accuracies": accuracies, "weights": copy.deepcopy(model.state_dict())}


def weights_by_name(model, optimizer, batches, held_out):
    report = quick(model, optimizer, batches, held_out)
    return report | {"weights": {name: value.detach().clone() for name, value in model.state_dict().items()}}


@pytest.mark.slow
@pytest.mark.parametrize("answer", [quick, losses_at_the_end, by_index, in_tens, weights_by_name])
def test_right_and_fast_loops(answer):
    accepted(check.quick_loop(answer))


def no_steps(model, optimizer, batches, held_out):
    optimizer.param_groups[0]["lr"] = 0.0
    return quick(model, optimizer, batches, held_out)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (slow_loop.train, "too_slow"),
        (functools.partial(quick, back=False), "steps"),
        (functools.partial(quick, every=5), "count"),
        (functools.partial(quick, early=True), "wrong_accuracy"),
        (functools.partial(quick, copied=False), "no_copy"),
        (lambda model, optimizer, batches, held_out: quick(model, optimizer, batches[::2], held_out), "steps"),
        (lambda *given: list(quick(*given).values()), "wrong_type"),
        (lambda *given: quick(*given) | {"losses": []}, "losses"),
        (lambda *given: None, "wrong_type"),
        (lambda *given: quick(*given) | {"accuracies": []}, "count"),
        (lambda *given: quick(*given) | {"best": 1.0}, "wrong_type"),
        (lambda *given: quick(*given) | {"losses": quick(*given)["losses"]}, "steps"),
        (lambda model, optimizer, batches, held_out: quick(model, optimizer, batches[::-1], held_out), "losses"),
        (lambda *given: quick(*given) | {"weights": {}}, "wrong_weights"),
        (no_steps, "training_changed"),
    ],
)
def test_wrong_or_slow_loops(answer, symptom):
    refused(check.quick_loop(answer), symptom)


def test_noise_is_no_reason_to_refuse():
    assert "4.0 times" in check.faster.judged_speed(Comparison((3.9, 4.0, 4.1, 4.0)), 2.0, "")
    assert "too busy to decide" in check.faster.judged_speed(Comparison((1.0, 1.5, 2.5, 3.5)), 2.2, "")
    with pytest.raises(Wrong, match="asked are 2 times"):
        check.faster.judged_speed(Comparison((1.0, 1.1, 0.9) * 3 + (9.0,)), 2.0, "")
