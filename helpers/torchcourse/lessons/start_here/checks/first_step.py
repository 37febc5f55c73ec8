"""Checks of a share of the work, accuracy, and one training step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import number, refuse_known, same, whole
from torchcourse.units import counted

Share = Callable[[list[int], int, int], list[int]]


@check
def my_share(learner: Share) -> str:
    """Every index in exactly one share, shares equal but for one, for several sizes and numbers of ranks."""
    cases = [(12, 2), (12, 3), (10, 4), (7, 2), (23, 5), (2, 3)]
    # The last list is as long as an earlier one, and different: each rank is a process of its own, and knows of no
    # other call. So the last rank is asked first, too.
    for (count, world_size), first, step in [*((case, 166, -3) for case in cases), ((10, 4), 0, 3)]:
        # Indices that are not 0, 1, 2 …: a part of a dataset, or a shuffled one, hands out such lists.
        indices = [first + step * position for position in range(count)]
        given = [list(indices) for _ in range(world_size)]
        shares = [_as_list(learner(given[rank], rank, world_size)) for rank in reversed(range(world_size))][::-1]
        where = f"With {count} indices over {world_size} ranks"
        if any(left != indices for left in given):
            raise Wrong(
                "inputs_changed",
                f"{where}, your function changed the list that it was given. Others still need it: build a new one.",
            )
        _refuse_unshared(indices, shares, where)
        _refuse_unfair(indices, shares, where)
    return f"Every index once and fair shares, checked on {len(cases)} pairs of sizes and ranks."


def _as_list(share: Any) -> list[int]:
    if share is None:
        raise Wrong("nothing_returned", "Your function returned None. Does every path through it end in a return?")
    if not isinstance(share, list | tuple | range):
        kind = type(share).__name__
        raise Wrong("wrong_type", f"Your function returned a value of type {kind}; a rank needs a list of indices.")
    return list(share)


def _refuse_unshared(indices: list[int], shares: list[list[int]], where: str) -> None:
    """Refuse shares of something else, and shares that do not differ between ranks."""
    entries = [entry for share in shares for entry in share]
    if odd := [entry for entry in entries if whole(entry) is None]:
        raise Wrong(
            "wrong_type",
            f"{where}, you handed out {odd[0]!r}, of the type {type(odd[0]).__name__}. A rank needs one list of the "
            "indices themselves, whole numbers.",
        )
    foreign = [index for index in entries if index not in indices]
    if foreign:
        raise Wrong(
            "positions_not_indices",
            f"{where}, you handed out {foreign[0]!r}, which is not in the list. "
            "The list holds indices of samples, and they need not begin at 0.",
        )
    if all(sorted(share) == sorted(indices) for share in shares):
        raise Wrong("everyone_gets_all", f"{where}, each rank got the whole list. Then nothing is shared out.")
    if len(indices) >= len(shares) and all(share == shares[0] for share in shares):
        raise Wrong("same_for_every_rank", f"{where}, all ranks got the same share. Which argument tells them apart?")


def _refuse_unfair(indices: list[int], shares: list[list[int]], where: str) -> None:
    """Refuse indices in two shares or in none, and shares of sizes that differ by more than one."""
    given = [index for share in shares for index in share]
    twice = [index for index in indices if given.count(index) > 1]
    if twice:
        takers = [rank for rank, share in enumerate(shares) if twice[0] in share]
        raise Wrong("handed_out_twice", f"{where}, index {twice[0]} went out twice (to ranks {takers}).")
    lost = [index for index in indices if index not in given]
    if lost and set(lost) == set(indices[-len(lost) :]):
        raise Wrong(
            "rest_lost", f"{where}, the last {len(lost)} of the list went to no rank. Who takes what is left over?"
        )
    if lost:
        raise Wrong("lost", f"{where}, {len(lost)} of the indices went to no rank, {lost[0]} for example.")
    sizes = [len(share) for share in shares]
    if max(sizes) - min(sizes) > 1:
        raise Wrong(
            "uneven",
            f"{where}, the shares have the sizes {sizes}. All ranks wait for the slowest: make them more equal.",
        )


@check
def accuracy_of(learner: Callable[[torch.Tensor, torch.Tensor], float]) -> str:
    """Compare with the share of right answers; first where a wrong axis goes unnoticed."""
    batches = [_labeled_batch(samples, classes) for samples, classes in ((10, 10), (8, 3), (1, 10), (403, 10))]
    answers: list[float] = []
    for logits, labels in batches:
        ours = logits.clone(), labels.clone()
        try:
            answers.append(_as_number(learner(*ours)))
        except Exception:
            _judge_accuracies(answers, batches)  # what is wrong with an earlier batch says more
            raise
        if not (torch.equal(ours[0], logits) and torch.equal(ours[1], labels)):
            raise Wrong("inputs_changed", "Afterwards the logits or the labels are different ones. Others need them.")
    _judge_accuracies(answers, batches)
    return f"The part of right answers, checked on {len(batches)} batches."


Batch = tuple[torch.Tensor, torch.Tensor]
"""Logits [samples, classes] and labels [samples]."""


def _labeled_batch(samples: int, classes: int) -> Batch:
    """Return a batch in which about 7 of 10 are right, most of the largest logits are negative, and no axis is safe."""
    generator = torch.Generator().manual_seed(3)  # with which every known mistake gives a number of its own
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator) - 3.0
    top = torch.where(torch.arange(samples) % 10 % 3 == 2, (labels + 1) % classes, labels)
    logits[torch.arange(samples), top] = logits.max(dim=1).values + 1.0
    return logits, labels


def _as_number(answer: Any) -> float:
    if answer is None:
        raise Wrong("nothing_returned", "Your function returned None. Does it end in a return?")
    if isinstance(answer, torch.Tensor) and answer.numel() > 1:
        raise Wrong("one_per_sample", f"You returned {answer.numel()} values. One number is asked for the whole batch.")
    if isinstance(answer, torch.Tensor):
        raise Wrong("still_a_tensor", "You returned a tensor. A log wants a plain number; how does a tensor give one?")
    if (value := number(answer)) is None:
        raise Wrong("no_number", f"You returned {answer!r}. One number is asked for the whole batch.")
    return value


def _judge_accuracies(answers: list[float], batches: list[Batch]) -> None:
    """Refuse wrong numbers; a known mistake has to explain the numbers of all batches that were tried."""
    tried = batches[: len(answers)]
    hits = [int((logits.argmax(dim=1) == labels).sum()) for logits, labels in tried]
    sizes = [len(labels) for _, labels in tried]
    truths = [count / size for count, size in zip(hits, sizes, strict=True)]
    wrong = [place for place, truth in enumerate(truths) if not same(answers[place], truth, tolerance=1e-5)]
    if not wrong:
        return
    first = wrong[0]
    samples, classes = tried[first][0].shape
    right = counted(hits[first], "sample")
    where = f"For {counted(samples, 'sample')} and {classes} classes you returned {answers[first]:.5g}"
    logits, labels = tried[0]  # only a square of logits gives the best sample of each class
    if first == 0 and same(answers[0], (logits.argmax(dim=0) == labels).double().mean().item(), tolerance=1e-5):
        raise Wrong(
            "wrong_axis",
            "You looked for the best sample of each class. Logits have the shape [samples, classes]: along which of "
            "the two does a sample choose?",
        )
    known = {
        "count": (hits, ", the number of samples that are right, not their part of all samples."),
        "percent": ([100 * truth for truth in truths], ", and the course writes accuracy as a part of 1."),
        "error_rate": (
            [1 - truth for truth in truths],
            ", the part that is wrong. Accuracy is the part that is right.",
        ),
        "all_wrong": (
            [0.0] * len(answers),
            f", but the largest logit is at the label in {right}. What do you compare with the label: the "
            "largest logit, or the class that has it?",
        ),
        "whole_parts": (
            [float(truth == 1) for truth in truths],
            f", as if all samples counted as one; the largest logit is at the label in {right}. Do you divide whole "
            "numbers with //, round, or compare all samples at once?",
        ),
        "each_with_all": (
            [(logits.argmax(dim=1, keepdim=True) == labels).double().mean().item() for logits, labels in tried],
            ": the answer of each sample was compared with the labels of all. Which shapes do you compare?",
        ),
        "by_classes": (
            [count / batch[0].shape[1] for count, batch in zip(hits, tried, strict=True)],
            ": the number of samples that are right, divided by the number of classes. It is a part of the samples.",
        ),
    }
    if len(answers) > 1:
        refuse_known(answers, known, 1e-5, where=where)
        if same(answers, truths, tolerance=1e-2):
            raise Wrong(
                "too_rough",
                f"{where} and {hits[first]} of {samples} is {truths[first]:.5g}: close, but rounded. With how many "
                "digits does your type of numbers compute a mean?",
            )
    raise Wrong("wrong_value", f"{where}, but the largest logit is at the label in {right}.")


@check
def training_step(learner: Callable[..., float]) -> str:
    """Follow three steps of a small model with momentum, and compare the weights after each with a reference."""
    images, labels = 4 * torch.arange(60.0).reshape(3, 5, 4).sin(), torch.arange(15).reshape(3, 5) % 4 % 3
    loss_fn = _SmoothedLoss(label_smoothing=0.2)  # so that a loss which is not the one given is seen
    model, optimizer, log = _watched_model()
    references = {name: _reference(images, labels, loss_fn, name) for name in ("right", *_KNOWN_STEPS)}
    for step, (batch, targets) in enumerate(zip(images, labels, strict=True)):
        start = model.weight.detach().clone()
        before = loss_fn(model(batch), targets).item()
        del log[:]
        loss = learner(model, optimizer, loss_fn, batch, targets)
        weights = model.weight.detach().clone()
        if not torch.allclose(weights, references["right"][step], atol=1e-6):
            known = {name: history[step] for name, history in references.items()}
            _judge_step(step, start, weights, known, log, model.weight.grad)
        if not model.training:
            raise Wrong(
                "mode_left_changed",
                "The weights are right, but your function left the model in evaluation mode. Dropout would be off.",
            )
        _judge_loss(loss, before)
    return "Three steps, and the weights are those of the reference after each."


_KNOWN_STEPS = {
    "gradients_pile_up": "The first step is right, the second is not: it still holds the gradients of the first. "
    "`backward` adds to `.grad`; it does not overwrite.",
    "softmax_before_loss": "The weights are those of a loss that gets softmax(logits). nn.CrossEntropyLoss wants the "
    "logits themselves: it has the softmax inside.",
    "other_loss_function": "The weights are those of a plain nn.CrossEntropyLoss(). Your function gets its loss as an "
    "argument, loss_fn, and here that is a different one.",
    "goes_up": "The step has the right length and goes the wrong way: up the loss.",
}
"""Known mistakes that the weights show, and what is said of each."""


class _SmoothedLoss(nn.CrossEntropyLoss):
    """Says in words that its arguments are swapped: PyTorch's own sentence is about a kernel and the type 'Long'."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if target.is_floating_point() and not input.is_floating_point():
            raise Wrong(
                "loss_arguments_swapped",
                "You call loss_fn with the labels first. PyTorch's losses take the model's output first, and then what "
                "it should be.",
            )
        return super().forward(input, target)


def _watched_model() -> tuple[nn.Linear, torch.optim.Optimizer, list[str]]:
    """Return a small model, its optimizer, and a list to which each backward pass and each step is written."""
    log: list[str] = []
    model = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(12.0).reshape(3, 4).cos())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model.weight.register_post_accumulate_grad_hook(lambda _: log.append("backward"))
    optimizer.register_step_pre_hook(lambda *_: log.append("step"))
    return model, optimizer, log


def _reference(images: torch.Tensor, labels: torch.Tensor, loss_fn: nn.Module, mistake: str) -> list[torch.Tensor]:
    """Return the weights after each step, `"right"` or those of somebody who makes one of the known mistakes."""
    model, optimizer, _ = _watched_model()
    history = []
    for batch, targets in zip(images, labels, strict=True):
        if mistake != "gradients_pile_up":
            optimizer.zero_grad()
        logits = model(batch)
        outputs = logits.softmax(dim=1) if mistake == "softmax_before_loss" else logits
        loss = (nn.CrossEntropyLoss() if mistake == "other_loss_function" else loss_fn)(outputs, targets)
        (-loss if mistake == "goes_up" else loss).backward()
        optimizer.step()
        history.append(model.weight.detach().clone())
    return history


def _judge_step(
    step: int,
    start: torch.Tensor,
    weights: torch.Tensor,
    known: dict[str, torch.Tensor],
    log: list[str],
    gradient: torch.Tensor | None,
) -> None:
    moved = not torch.equal(weights, start)
    if "backward" not in log and not moved:
        raise Wrong(
            "no_backward",
            "No weight of the model got a gradient. Which call turns a loss into gradients, and does the loss come "
            "from the model that your function gets?",
        )
    if "step" not in log:
        raise Wrong(
            "no_step",
            "The gradients are there, but the optimizer that your function gets was never asked to use them."
            + " The weights moved all the same: something else moved them." * moved,
        )
    if "backward" in log and log.index("step") < log.index("backward"):
        raise Wrong("step_before_backward", "The optimizer moved before there were gradients of this batch to follow.")
    for symptom, hint in _KNOWN_STEPS.items():
        if (step > 0 or symptom != "gradients_pile_up") and torch.allclose(weights, known[symptom], atol=1e-6):
            raise Wrong(symptom, hint)
    if log.count("backward") > 1 or log.count("step") > 1:
        counts = " and ".join(f"{name} ran {_times(log.count(name))}" for name in ("backward", "step"))
        raise Wrong("more_than_one", f"For one batch, {counts}. Once each is one training step.")
    if step == 0 and not moved and (gradient is None or not gradient.any()):
        raise Wrong(
            "cleared_too_early",
            "The weights did not move, although backward and step both ran. What was left in `.grad` between them?",
        )
    given, wanted = (weights - start).flatten(), (known["right"] - start).flatten()
    times = (given @ wanted / (wanted @ wanted)).item()
    if step == 0 and times > 0 and torch.allclose(given, times * wanted, atol=1e-6):
        raise Wrong(
            "wrong_length",
            f"The step goes the right way, but it is {times:.3g} times as long as one step of the optimizer on this "
            "batch. What multiplies, divides or cuts the loss or the gradients before step?",
        )
    raise Wrong(
        "wrong_value", f"After step {step + 1} the weights differ from one step of the optimizer on this batch."
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _judge_loss(loss: Any, before: float) -> None:
    if loss is None:
        raise Wrong(
            "no_loss", "The weights are right. Your function returned None; the loss of the batch is asked for."
        )
    if isinstance(loss, torch.Tensor):
        raise Wrong(
            "loss_is_a_tensor",
            "The weights are right. You returned a tensor; kept in a list, it keeps memory. Return a plain number.",
        )
    value = number(loss)
    if value is None:
        raise Wrong("no_number", f"The weights are right. Return the loss as one plain number; you returned {loss!r}.")
    if abs(value - before) > 1e-5:
        raise Wrong(
            "other_loss", f"The weights are right. The loss of this batch is {before:.6f}; you returned {value:.6f}."
        )
