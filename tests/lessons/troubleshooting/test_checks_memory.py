"""The checks of the memory notebook accept right answers built in different ways and name wrong ones' symptoms."""

import copy
import gc
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from torchcourse.lessons.troubleshooting import checks as check
from torchcourse.lessons.troubleshooting.batch_size import largest_batch_size
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["mlp_bytes", "evaluate", "find_batch_size", "accumulate", "checkpointed"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# mlp_bytes


def parameters(widths):
    return sum(a * b + b for a, b in pairwise(widths))


def mlp_bytes(widths, batch, kept=None, each=(4, 4, 8)):
    states = [size * parameters(widths) for size in each]
    return *states, 4 * batch * (sum(widths[1:]) if kept is None else kept(widths))


def mlp_bytes_layer_by_layer(widths, batch):
    count, activations = 0, 0
    for layer in range(1, len(widths)):
        count += (widths[layer - 1] + 1) * widths[layer]
        activations += 4 * batch * widths[layer]
    return [4 * count, 4 * count, 2 * 4 * count, activations]


@pytest.mark.parametrize("learner", [mlp_bytes, mlp_bytes_layer_by_layer])
def test_mlp_bytes_accepts(learner):
    accepted(check.mlp_bytes(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda w, b: mlp_bytes(w, b, kept=lambda w: sum(w)), "input"),
        (lambda w, b: mlp_bytes(w, b, kept=lambda w: sum(w[1:-1])), "no_loss"),
        (lambda w, b: mlp_bytes(w, b, kept=lambda w: 2 * sum(w[1:-1]) + w[-1]), "twice"),
        (lambda w, b: mlp_bytes(w, b, each=(4, 4, 4)), "states"),
        (lambda w, b: (*mlp_bytes(w, b)[:3], mlp_bytes(w, 1)[3]), "one_sample"),
        (lambda w, b: [size / 4 for size in mlp_bytes(w, b)], "not_bytes"),
        (lambda w, b: (4 * sum(a * c for a, c in pairwise(w)), 0, 0, 0), "no_biases"),
        (lambda w, b: mlp_bytes(w, b, kept=lambda w: 3 * sum(w)), "activations"),
        (lambda w, b: sum(mlp_bytes(w, b)), "count"),
        (lambda w, b: (*mlp_bytes(w, b)[:3], w.pop(0) and 4 * b * sum(w)), "inputs_changed"),
    ],
)
def test_mlp_bytes_refuses(learner, symptom):
    refused(check.mlp_bytes(learner), symptom)


# evaluate


def collect(model, batches, change=lambda logits: logits):
    model.eval()
    outputs = [change(model(x)) for x, _ in batches]
    labels = torch.cat([y for _, y in batches])
    return (torch.cat(outputs).argmax(1) == labels).float().mean().item()


def with_no_grad(model, batches):
    with torch.no_grad():
        return collect(model, batches)


def counted(model, batches):
    model.eval()
    right = seen = 0
    for x, y in batches:
        right += (model(x).argmax(1) == y).sum().item()
        seen += len(y)
    return right / seen


def in_train_mode(model, batches):
    with torch.no_grad():
        outputs = torch.cat([model(x) for x, _ in batches])
    return (outputs.argmax(1) == torch.cat([y for _, y in batches])).float().mean()


def muted(model, batches):
    model.eval()
    outputs = []
    try:
        for x, _ in batches:
            outputs.append(model(x))
    except torch.OutOfMemoryError:
        pass
    labels = torch.cat([y for _, y in batches][: len(outputs)])
    with torch.no_grad():
        return (torch.cat(outputs).argmax(1) == labels).float().mean().item()


def switched_off_for_good(model, batches):
    torch.set_grad_enabled(False)
    return collect(model, batches)


def frozen(model, batches):
    model.requires_grad_(False)
    return collect(model, batches)


def switched_off_and_on(model, batches):
    torch.set_grad_enabled(False)
    accuracy = collect(model, batches)
    torch.set_grad_enabled(True)
    return accuracy


def frozen_and_thawed(model, batches):
    accuracy = frozen(model, batches)
    model.requires_grad_(True)
    return accuracy


@torch.inference_mode()
def mean_of_means(model, batches):
    model.eval()
    return sum((model(x).argmax(1) == y).float().mean().item() for x, y in batches) / len(batches)


def taking_them_off(model, batches):
    return with_no_grad(model, [batches.pop() for _ in list(batches)])


all_batches = []


def remembering(model, batches):
    all_batches.extend(batches)
    return with_no_grad(model, all_batches)


def in_smaller_batches(model, batches):
    halves = [pair for x, y in batches for pair in zip(x.chunk(2), y.chunk(2), strict=True)]
    return collect(model, halves)


@pytest.mark.parametrize(
    "learner",
    [
        with_no_grad,
        torch.no_grad()(counted),
        torch.inference_mode()(collect),
        lambda model, batches: torch.tensor(with_no_grad(model, batches)),
    ],
)
def test_evaluate_accepts(learner):
    accepted(check.evaluate(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (collect, "still_out_of_memory"),
        (in_smaller_batches, "still_out_of_memory"),
        (in_train_mode, "training_mode"),
        (counted, "graph_recorded"),
        (lambda model, batches: collect(model, batches, torch.Tensor.detach), "graph_recorded"),
        (muted, "wrong_value"),
        (switched_off_for_good, "gradients_off"),
        (frozen, "gradients_off"),
        (switched_off_and_on, "grad_on"),
        (frozen_and_thawed, "thawed"),
        (mean_of_means, "wrong_value"),
        (taking_them_off, "inputs_changed"),
        (torch.autocast("cpu", torch.bfloat16)(lambda *given: with_no_grad(*given)), "other_precision"),
        (remembering, "remembered"),
        (lambda model, batches: 100 * with_no_grad(model, batches), "percent"),
        (lambda model, batches: 464 * with_no_grad(model, batches), "count"),
        (lambda model, batches: 1 - with_no_grad(model, batches), "errors_counted"),
        (lambda model, batches: with_no_grad(model, batches) and None, "no_number"),
    ],
)
def test_evaluate_refuses(learner, symptom):
    refused(check.evaluate(learner), symptom)
    assert torch.is_grad_enabled()


def test_evaluate_speaks_of_the_samples_where_no_activation_is_kept():
    def at_once(model, batches):
        model.eval()
        with torch.no_grad():
            return model(torch.cat([x for x, _ in batches])).argmax(1).float().mean()

    checked = check.evaluate(at_once)
    refused(checked, "still_out_of_memory")
    assert "How many samples" in checked.message


# find_batch_size


def fits(attempt, size):
    try:
        attempt(size)
    except torch.OutOfMemoryError:
        return False
    return True


def bisect(attempt, limit):
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(attempt, middle) else (low, middle)
    return low


def double_then_bisect(attempt, limit):
    return largest_batch_size(attempt, limit).batch_size


def one_by_one(attempt, limit):
    size = limit
    while size and not fits(attempt, size):
        size -= 1
    return size


def doubling_only(attempt, limit):
    size = 1
    if not fits(attempt, 1):
        return 0
    while 2 * size <= limit and fits(attempt, 2 * size):
        size *= 2
    return size


kept_by_a_learner = []


def keeps_results(attempt, limit):
    def keeping(size):
        kept_by_a_learner.append(attempt(size))

    return bisect(keeping, limit)


def keeps_results_for_now(attempt, limit):
    results = []
    return bisect(lambda size: results.append(attempt(size)), limit)


def searches_inside_except(attempt, limit, low=0):
    if limit <= low:
        return low
    middle = (low + limit + 1) // 2
    try:
        attempt(middle)
    except torch.OutOfMemoryError:
        return searches_inside_except(attempt, middle - 1, low)
    return searches_inside_except(attempt, limit, middle)


def in_a_variable(attempt, limit):
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _result = attempt(middle)
            low = middle
        except torch.OutOfMemoryError:
            high = middle
    return low


def keeps_errors(attempt, limit):
    def keeping(size):
        try:
            attempt(size)
        except torch.OutOfMemoryError as error:
            kept_by_a_learner.append(error)
            raise

    return bisect(keeping, limit)


def reads_the_message(attempt, limit):
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(middle)
            low = middle
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            high = middle
    return low


def remembers(known):
    def learner(attempt, limit):
        if limit not in known:
            known[limit] = bisect(attempt, limit)
        return known[limit]

    return learner


def catches_all(attempt, limit):
    def any_error(size):
        try:
            attempt(size)
        except Exception as error:
            raise torch.OutOfMemoryError from error

    return bisect(any_error, limit)


@pytest.fixture(autouse=True)
def forget():
    kept_by_a_learner.clear()
    yield
    kept_by_a_learner.clear()
    gc.collect()


def counts_in_tensors(attempt, limit):
    low, high = torch.tensor(0), torch.tensor(limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(attempt, int(middle)) else (low, middle)
    return int(low)


@pytest.mark.parametrize("learner", [bisect, double_then_bisect, in_a_variable, reads_the_message, counts_in_tensors])
def test_find_batch_size_accepts(learner):
    accepted(check.find_batch_size(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (doubling_only, "not_the_largest"),
        (lambda attempt, limit: bisect(attempt, limit) + 1, "does_not_fit"),
        (lambda attempt, limit: limit, "does_not_fit"),
        (one_by_one, "too_many_tries"),
        (lambda attempt, limit: [fits(attempt, 1) for _ in range(30)] and bisect(attempt, limit), "too_many_tries"),
        (keeps_results, "memory_left"),
        (keeps_errors, "memory_left"),
        (keeps_results_for_now, "held_while_searching"),
        (searches_inside_except, "held_while_searching"),
        (catches_all, "swallowed"),
        (lambda attempt, limit: attempt(limit), "escaped"),
        (lambda attempt, limit: bisect(attempt, 2 * limit), "outside"),
        (lambda attempt, limit: attempt(limit / 3), "outside"),
        (lambda attempt, limit: attempt(limit / 2), "outside"),
        (lambda attempt, limit: attempt(torch.tensor(limit / 2)), "outside"),
        (remembers({}), "remembered"),
        (lambda attempt, limit: None, "no_number"),
    ],
)
def test_find_batch_size_refuses(learner, symptom):
    refused(check.find_batch_size(learner), symptom)


# accumulate


def accumulate(model, loss_fn, x, y, parts, share=lambda part, x, parts: len(part) / len(x)):
    for part, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        (loss_fn(model(part), labels) * share(part, x, parts)).backward()


def with_autograd_grad(model, loss_fn, x, y, parts):
    size = -(-len(x) // parts)
    weights = list(model.parameters())
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        loss = loss_fn(model(x[part]), y[part], reduction="sum") / len(x)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient


def one_backward(model, loss_fn, x, y, parts):
    pairs = zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
    sum(loss_fn(model(part), labels) * len(part) / len(x) for part, labels in pairs).backward()


def cleared(model, loss_fn, x, y, parts):
    for part, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        model.zero_grad()
        (loss_fn(model(part), labels) * len(part) / len(x)).backward()


def summed_apart(model, loss_fn, x, y, parts):
    weights = list(model.parameters())
    sums = [torch.zeros_like(weight) for weight in weights]
    for part, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        loss = loss_fn(model(part), labels) * len(part) / len(x)
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
    for weight, total in zip(weights, sums, strict=True):
        weight.grad = total if weight.grad is None else weight.grad + total


def then_a_step(model, *rest):
    accumulate(model, *rest)
    torch.optim.SGD(model.parameters(), 0.1).step()


def divided_afterwards(model, loss_fn, x, y, parts):
    accumulate(model, loss_fn, x, y, parts, share=lambda part, x, parts: len(part))
    for weight in model.parameters():
        weight.grad /= len(x)


def in_16_bits(model, loss_fn, x, y, parts):
    for part, targets in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model(part)
        (loss_fn(scores, targets) * len(part) / len(x)).backward()


@pytest.mark.parametrize("learner", [accumulate, with_autograd_grad, summed_apart])
def test_accumulate_accepts(learner):
    accepted(check.accumulate(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda *a: accumulate(*a, share=lambda part, x, parts: 1), "times_parts"),
        (lambda *a: accumulate(*a, share=lambda part, x, parts: 1 / parts), "uneven"),
        (one_backward, "no_memory_saved"),
        (cleared, "wrong_gradient"),
        (lambda *a: accumulate(*a, share=lambda part, x, parts: 1 / len(x)), "scaled"),
        (lambda model, *rest: accumulate(model, *rest) or model.zero_grad(), "no_gradient"),
        (lambda model, *rest: model.zero_grad() or accumulate(model, *rest), "gradient_cleared"),
        (lambda model, loss_fn, x, y, parts: loss_fn(model(x), y), "no_gradient"),
        (then_a_step, "weights_changed"),
        (divided_afterwards, "gradient_rescaled"),
        (lambda model, loss_fn, x, y, parts: accumulate(model, F.cross_entropy, x, y, parts), "other_loss"),
        (lambda model, loss_fn, x, y, parts: accumulate(model, loss_fn, x, y, 2), "parts"),
        (lambda model, loss_fn, x, y, parts: accumulate(model, loss_fn, x, y, len(x) // 8), "parts"),
        (lambda model, *rest: accumulate(model.eval(), *rest), "mode_left_changed"),
        (lambda model, *rest: accumulate(model.eval(), *rest) or model.train(), "evaluation_mode"),
        (in_16_bits, "other_precision"),
        (lambda model, loss_fn, x, y, parts: loss_fn(model(x), y).backward(), "no_memory_saved"),
    ],
)
def test_accumulate_refuses(learner, symptom):
    refused(check.accumulate(learner), symptom)


# checkpointed


def each_block(blocks, x):
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False)
    return x


def only_the_last(blocks, x):
    for block in blocks[:-1]:
        x = block(x)
    return checkpoint(blocks[-1], x, use_reentrant=False)


def every_other(blocks, x):
    for number, block in enumerate(blocks):
        x = checkpoint(block, x, use_reentrant=False) if number % 3 == 0 else block(x)
    return x


def detached(blocks, x):
    for block in blocks:
        x = checkpoint(block, x.detach(), use_reentrant=False)
    return x


def reentrant(blocks, x):
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=True)
    return x


def doubled(blocks, x):
    output = each_block(blocks, x)
    return 2 * output - output.detach()


@pytest.mark.parametrize(
    "learner", [each_block, lambda blocks, x: checkpoint_sequential(blocks, 4, x, use_reentrant=False)]
)
def test_checkpointed_accepts(learner):
    accepted(check.checkpointed(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda blocks, x: blocks(x), "nothing_saved"),
        (lambda blocks, x: checkpoint(blocks, x, use_reentrant=False), "nothing_saved"),
        (only_the_last, "nothing_saved"),
        (every_other, "too_little"),
        (detached, "no_gradient"),
        (reentrant, "no_gradient"),
        (torch.no_grad()(lambda blocks, x: blocks(x)), "no_gradient"),
        (doubled, "wrong_gradient"),
        (lambda blocks, x: each_block(blocks, x.requires_grad_()), "inputs_changed"),
        (lambda blocks, x: each_block(blocks.eval(), x), "mode_left_changed"),
        (lambda blocks, x: print(each_block(blocks, x).mean()), "wrong_type"),
        (lambda blocks, x: each_block(blocks[:-1], x), "wrong_value"),
        (lambda blocks, x: each_block(blocks[:12], x), "wrong_value"),
        (lambda blocks, x: each_block(copy.deepcopy(blocks), x), "no_gradient"),
    ],
)
def test_checkpointed_refuses(learner, symptom):
    refused(check.checkpointed(learner), symptom)


def test_the_oracle_of_the_accumulation_is_the_whole_batch():
    model, x, y = torch.nn.Linear(3, 2).double(), torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    F.cross_entropy(model(x), y).backward()
    whole = model.weight.grad.clone()
    model.zero_grad()
    accumulate(model, F.cross_entropy, x, y, 2)
    assert torch.allclose(model.weight.grad, whole)
