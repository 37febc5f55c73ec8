"""Patient: scans normalized with the statistics of whatever comes along, in service a request of one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.errors import still_at
from torchcourse.checks.kit import tensor_of
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder

RATE = 0.02  # the learning rate in `DigitReader.fit`


def evidence(program: Program) -> dict[str, float]:
    reader = program.DigitReader()
    reader.fit(*program.scanned("train", 800))
    scans, labels = program.scanned("test", 200)
    sizes = [1, 2, 5, 10, 25, 50, 100, 200]
    right = [100 * program.accuracy(reader, scans, labels, size) for size in sizes]
    spread = [torch.stack([program.standardize(few.flatten(1)).std() for few in scans.split(s)]).mean() for s in sizes]
    figure, (left, middle) = figures.new(9, 3.2, ncols=2)
    left.plot(sizes, right, marker="o")
    left.set(xlabel="scans in a request", ylabel="right answers (%)", xscale="log", ylim=(0, 100))
    left.set_title(f"{right[0]:.0f}% right one by one, {right[-1]:.0f}% together")
    middle.plot(sizes, spread, marker="o")
    middle.set(xlabel="scans in a request", ylabel="std of what the network sees", xscale="log", ylim=(0, 1.1))
    middle.set_title(f"A single scan arrives with a std of {spread[0]:.2f}")
    figures.show(
        figure,
        f"Left: with one scan in a request {right[0]:.0f} percent of the answers are right, with 200 {right[-1]:.0f}. "
        f"Right: the spread of the network's input, {spread[0]:.2f} for one scan, {spread[-1]:.2f} for 200.",
    )
    return {"alone": spread[0].item(), "together": spread[-1].item()}


def judge(program: Program, seed: int) -> str:
    """Fit on scans of one scanner; ask in requests of 1, 3 and all; do the same with a much darker scanner."""
    first, brightness = 700 * seed % 3000, (200.0, 60.0, 40.0)[seed % 3]
    images, labels = mnist()[first : first + 850]
    scans = (images - images.min()) / (images.max() - images.min()) * brightness
    train, (asked, digits) = (scans[:650], labels[:650]), (scans[650:], labels[650:])
    reader = _fit(program, train, seed)
    hint = "predict() gives one whole number for each scan, its digit."
    with called_with(f"a request of {len(asked)} scans"):  # an error is the learner's own
        came = asked.clone()
        given = copy.deepcopy(reader).predict(asked)
        _expect_unchanged(asked, came, "predict()")
    together = tensor_of(given, [len(asked)], hint)
    if together.is_floating_point():
        raise Wrong("dtype", f"{hint} Yours are {together.dtype}.")
    brighter = [torch.cat([one, asked[:1] * 20]) for one in asked.split(1)]
    for company, sent, in_each in (
        ("alone", asked.split(1), 1),
        ("three at a time", asked.split(3), 1),
        ("together with one much brighter scan", brighter, 2),
    ):
        answers = _answers(reader, sent)[::in_each]
        differ = int((answers != together).sum())
        if differ > 2:  # a sum may be rounded in a different way
            here, there = ((given == digits).float().mean().item() for given in (answers, together))
            raise Wrong(
                "still_there",
                f"Sent {company}, {differ} of 200 scans get a different answer than all at once: {here:.0%} are right, "
                f"and all at once {there:.0%}. What a scan is should not depend on which others it comes with.",
            )
    right = (together == digits).float().mean().item()
    if right < 0.75:
        raise Wrong(
            "other_numbers",
            f"All requests get the same answers now, but only {right:.0%} of them are right. Does the network see in "
            "service what it saw in training: the same shift and the same scale?",
        )
    darker = _fit(program, (train[0] * 0.01, train[1]), seed)
    changed = int((_answers(darker, [asked * 0.01]) != together).sum())
    if changed > 60:  # fixed numbers change 175 or more; the small one that BatchNorm adds to a variance, up to 16
        raise Wrong(
            "only_this_scanner",
            f"Trained and asked with scans a hundred times darker, the reader changes {changed} of 200 answers. "
            "The numbers of one scanner are not those of another: from which scans should they come?",
        )
    changed = int((_answers(reader, [asked]) != together).sum())
    if changed > 2:
        raise Wrong(
            "shared_numbers",
            f"Since a second reader was trained, on darker scans, the first one changes {changed} of 200 answers: both "
            "use the same numbers. To which of them does a shift and a scale belong?",
        )
    return f"Healed: one by one or all at once, the same answers, {right:.0%} of them right, whatever the scanner."


def _fit(program: Program, train: tuple[torch.Tensor, torch.Tensor], seed: int) -> Any:
    brightest = f"{len(train[0])} scans whose brightest pixel is {train[0].max().item():g}"
    with TrainingRecorder() as record, called_with(brightest):
        reader = program.DigitReader(seed)
        came = train[0].clone()
        reader.fit(*train)
        _expect_unchanged(train[0], came, "fit()")
    steps = 6 * -(-len(train[0]) // 32)
    if len(record.steps) != steps or any(rate != RATE for step in record.steps for rate in step.rates):
        raise Wrong(
            "training_changed",
            f"The training made {len(record.steps)} steps at the learning rates "
            f"{sorted({rate for step in record.steps for rate in step.rates})}; it was {steps} at {RATE}, and that "
            "was healthy.",
        )
    return reader


def _expect_unchanged(scans: torch.Tensor, came: torch.Tensor, who: str) -> None:
    if not torch.equal(scans, came):
        raise Wrong("inputs_changed", f"{who} changes the scans that it is given, which belong to the caller.")


def _answers(reader: Any, requests: Sequence[torch.Tensor]) -> torch.Tensor:
    reader = copy.deepcopy(reader)  # so that nothing is remembered from request to request
    try:
        return torch.cat([reader.predict(few) for few in requests])
    except Exception as error:
        raise Wrong(
            "refuses_requests",
            f"A request of {len(requests[0])} ended in {type(error).__name__}: {error}.{still_at(error)}\nThe post "
            "office sends requests of any size, and each wants an answer.",
        ) from None
