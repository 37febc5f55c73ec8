"""Invariants of how right answers are counted. Each rule yields alarms."""

from collections.abc import Callable, Iterator

import torch

from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

ANSWERS_AT_LEAST, OF_A_CLASS = 40, 5
CLASSES_AT_LEAST = 3  # that are told apart; an attack can swap two
ONE_EACH = 0.8  # of the classes: so many have a most frequent label of their own
PURE = 0.65  # of all answers: so many have the most frequent label of their class
OTHERWISE = 0.5  # of all answers: so many have a different number than their label


def counted_once(run: WatchedRun) -> Iterator[Alarm]:
    """Each answer is compared with one label: its own."""
    crossed = run.record.answers.crossed
    if len(crossed) >= 2:
        yield Alarm(
            "answers_broadcast",
            f"Answers of shape {crossed[0][0]} were compared with labels of {crossed[0][1]}: broadcasting compares "
            "each with every other, so the share that is counted right means nothing. Give both the same shape.",
        )


def numbered_alike(run: WatchedRun) -> Iterator[Alarm]:
    """A class has the same number in training and in validation."""
    found = run.record.answers.validated
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


RULES: list[Callable[[WatchedRun], Iterator[Alarm]]] = [counted_once, numbered_alike]
