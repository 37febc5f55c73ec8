"""Invariants of how right answers are counted. Each rule yields alarms."""

from collections.abc import Callable, Collection, Iterator

import torch
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING, LOGISTIC, MEASURING
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

ANSWERS_AT_LEAST, OF_A_CLASS = 40, 5
CUTS_AT_LEAST = 2
CLASSES_AT_LEAST = 3  # that are told apart; an attack can swap two
ONE_EACH = 0.8  # of the classes: so many have a most frequent label of their own
PURE = 0.65  # of all answers: so many have the most frequent label of their class
OTHER_UNITS = 8.0  # times the spread: so far apart, or so different in spread, are the targets
ALIKE = 1.0, 2.0  # spreads, and times: so near are the inputs of both, at most
UNKNOWN = 0.2  # of the labels that are validated on
OTHERWISE = 0.5  # of all answers: so many have a different number than their label


def counted_once(run: WatchedRun) -> Iterator[Alarm]:
    """Each answer is compared with one label: its own."""
    crossed = run.answers.crossed
    if len(crossed) >= 2:
        yield Alarm(
            "answers_broadcast",
            f"Answers of shape {crossed[0][0]} were compared with labels of {crossed[0][1]}: broadcasting compares "
            "each with every other, so the share that is counted right means nothing. Give both the same shape.",
        )


def numbered_alike(run: WatchedRun) -> Iterator[Alarm]:
    """A class has the same number in training and in validation."""
    found = run.answers.validated
    if not found or not run.classified:
        return
    answers, labels = (torch.cat(part) for part in zip(*found, strict=True))
    classes = int(max(answers.max(), labels.max())) + 1
    if len(answers) < ANSWERS_AT_LEAST or labels.min() < 0 or classes > 1000:
        return
    table = torch.zeros(classes, classes).index_put_((answers, labels), torch.ones(len(answers)), accumulate=True)
    often = (table.sum(dim=1) >= OF_A_CLASS).nonzero().flatten()
    most, label = table[often].max(dim=1)
    one_each = len(label) >= CLASSES_AT_LEAST and len(label.unique()) >= ONE_EACH * len(label)
    moved = most[label != often].sum() / len(answers)
    if one_each and most.sum() / len(answers) > PURE and moved > OTHERWISE:
        pairs = ", ".join(f"{int(a)} for {int(b)}" for a, b in list(zip(often, label, strict=True))[:3])
        yield Alarm(
            "numbered_differently",
            f"In validation the model tells the classes apart, but under other numbers: it mostly answers {pairs} … "
            "Do training and validation number the classes each in their own order?",
        )


def known_classes(run: WatchedRun) -> Iterator[Alarm]:
    """The classes that are validated on have been trained on."""
    learned = [loss.target[loss.counted] for loss in run.classified]
    labels = [labels for _, labels in run.answers.validated]
    if not learned or not labels or not _learned_by(run, CLASSIFYING):
        return
    known, asked = torch.cat(learned).unique(), torch.cat(labels)
    unknown = asked[~torch.isin(asked, known)]
    # Where tasks are learned one after another, what has been learned is validated on too.
    both = torch.isin(known, asked).sum()
    if len(asked) >= ANSWERS_AT_LEAST and len(known) > 2 and both < 2 and len(unknown) > UNKNOWN * len(asked):
        yield Alarm(
            "classes_never_trained",
            f"{len(unknown)} of {len(asked)} labels that were validated on are of classes that never came in training "
            f"(such as {int(unknown[0])}). Was the data split by its order? Mix it before it is split.",
        )


def borders(run: WatchedRun) -> Iterator[Alarm]:
    """Logits are cut at 0, which stands for a half."""
    cut = run.answers.cut
    if len(cut) < CUTS_AT_LEAST or not _learned_by(run, {F.binary_cross_entropy_with_logits}):
        return
    if all(border == 0.5 for border, _ in cut) and not all(within for _, within in cut):
        yield Alarm(
            "logits_cut_at_half",
            f"{len(cut)} times the model's outputs were cut at 0.5 (or rounded) to give answers, and they are logits: "
            "the loss takes their sigmoid. A half stands at 0: take `outputs > 0`, or the sigmoid first.",
        )


def choices(run: WatchedRun) -> Iterator[Alarm]:
    """Where a class is chosen, it is a class, and there are several to choose from."""
    answers = run.answers
    often = answers.chosen_of_batch >= CUTS_AT_LEAST and _learned_by(run, CLASSIFYING)
    if often and not any(loss.picks_rows for loss in run.classified):
        yield Alarm(
            "argmax_over_batch",
            f"{answers.chosen_of_batch} times the largest of outputs [N, C] was taken over dimension 0, and its number "
            "compared with labels: that is the sample that suits a class best. The class of each sample is argmax(1).",
        )
    chosen = answers.chosen_of_one
    if chosen >= CUTS_AT_LEAST and _learned_by(run, LOGISTIC):
        yield Alarm(
            "argmax_of_one",
            f"{chosen} times the class with the largest score was taken of outputs of shape [N, 1]: with one score "
            "that is always class 0. Cut the score: `outputs > 0` for logits, `outputs > 0.5` for probabilities.",
        )


def units(run: WatchedRun) -> Iterator[Alarm]:
    """Outputs are compared with targets in the units that they have learned."""
    losses = [loss for loss in run.losses_of(*MEASURING) if loss.of_output]
    pairs = [(loss.target.flatten().double(), loss.seen.inputs) for loss in losses if loss.seen is not None]
    found = [(target, seen.inputs) for target, seen in run.answers.measured if not seen.used]
    if len(pairs) < 3 or not found:
        return
    (learned, given), (compared, shown) = (tuple(zip(*those, strict=True)) for those in (pairs, found))
    one, other = torch.cat(learned), torch.cat(compared)
    if min(len(one), len(other)) < ANSWERS_AT_LEAST or not _far(one, other, OTHER_UNITS, OTHER_UNITS):
        return
    inputs = [
        torch.cat([one[:0], *(part.flatten() for part in those if part is not None and part.is_floating_point())])
        for those in (given, shown)
    ]
    if all(map(len, inputs)) and not _far(inputs[0], inputs[1], *ALIKE):
        yield Alarm(
            "other_units",
            f"The model learned targets of {_told(one)}, and what it puts out was compared with {_told(other)}. Were "
            "the targets scaled for the training alone? Scale the outputs back before they are compared.",
        )


def _learned_by(run: WatchedRun, functions: Collection[Callable]) -> bool:
    """Whether most losses are one of these functions, of what the model put out."""
    found = [loss for loss in run.losses_of(*functions) if loss.of_output]
    return len(found) >= 3 and len(found) >= len(run.losses) / 2


def _told(numbers: torch.Tensor) -> str:
    """Return mean and spread in words, the mean to a hundredth of the spread."""
    mean, spread = numbers.mean().item(), numbers.std().item()
    return f"{round(mean / spread, 2) * spread:.3g} ± {spread:.2g}"


def _far(one: torch.Tensor, other: torch.Tensor, apart: float, times: float) -> bool:
    """Whether two samples that both vary have means so many spreads apart, or such different spreads."""
    low, high = sorted((one.std().item(), other.std().item()))
    return low > 0 and (high > times * low or abs(one.mean() - other.mean()).item() > apart * high)
