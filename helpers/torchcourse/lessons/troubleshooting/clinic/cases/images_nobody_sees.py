"""Patient: `set_epoch` with a number that differs between the ranks: each cuts its share out of a different order."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import copies, on_ranks, same
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, model_of_ranks, step_of_ranks
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.ranks.run import run_ranks

EPOCHS, BATCH, RATE = 3, 16, 0.1


def evidence(program: Program) -> None:
    count, ranks = 128, 2
    orders = run_ranks(program.one_rank, *mnist()[:count], 1, 0, world_size=ranks)
    times = Counter(index for order in orders for index in order)
    images = [sum(times[index] == wanted for index in range(count)) for wanted in range(ranks + 1)]
    figure, axis = figures.new(6, 2.6)
    axis.bar([str(wanted) for wanted in range(ranks + 1)], images)
    axis.set(xlabel="how often an image was fetched in one epoch", ylabel="images")
    finding = f"In one epoch {images[0]} of {count} images are never seen, {images[2]} are seen twice"
    axis.set_title(finding)
    figures.show(figure, f"{finding}, and {images[1]} once.")


def judge(program: Program, seed: int) -> str:
    """Train on 2 and on 3 ranks; look at what each fetched, and repeat the training in one process."""
    for ranks, count in ((2, 64 + 2 * seed), (3, 70 + seed)):
        images, labels = mnist()[100 * seed : 100 * seed + count]
        with called_with(f"{count} images on {ranks} ranks, and {EPOCHS} epochs"):
            runs = on_ranks(_train, program.train_sampled, program.Counted, images, labels, seed, world_size=ranks)
        _judge_orders([run.order for run in runs], ranks, count)
        if all(run.order[: len(run.other)] == run.other for run in runs):
            raise Wrong("seed_ignored", "Two training runs with different seeds bring the images in the same order.")
        _judge_weights(runs, images, labels, seed)
    return "Healed: on 2 and 3 ranks, each epoch brings every image once, in an order that is new."


class Run(NamedTuple):
    """What a rank fetched, and where it ended."""

    order: list[int]
    """The indices in the order in which they were fetched."""
    other: list[int]
    """The same of an epoch with a different seed."""
    weights: list[torch.Tensor]


def _train(train_sampled: Callable, data_class: type, images: torch.Tensor, labels: torch.Tensor, seed: int) -> Run:
    model, data, other = model_of_ranks(seed), data_class(images, labels), data_class(images, labels)
    train_sampled(model, data, EPOCHS, seed, RATE)
    train_sampled(model_of_ranks(seed), other, 1, seed + 1, RATE)
    return Run(data.fetched, other.fetched, copies(model.parameters()))


def _epochs(order: list[int]) -> list[list[int]]:
    each = len(order) // EPOCHS
    return [order[each * epoch : each * (epoch + 1)] for epoch in range(EPOCHS)]


def _judge_orders(orders: Sequence[list[int]], ranks: int, count: int) -> None:
    case, share = f"On {ranks} ranks with {count} images", -(-count // ranks)
    lengths = [len(order) for order in orders]
    too_many = max(lengths) > share * EPOCHS
    if too_many and all(len(set(order[:count])) == count for order in orders):
        raise Wrong(
            "whole_set",
            f"{case}, a rank fetches {max(lengths) // EPOCHS} images per epoch; its share would be {share}. Nothing is "
            "missed, because everybody does everything, and nothing is gained by a second rank.",
        )
    if too_many or min(lengths) < (count // ranks) * EPOCHS:
        raise Wrong(
            "count",
            f"{case}, the ranks fetch {', '.join(map(str, lengths))} images in {EPOCHS} epochs. The share of each is "
            f"{share * EPOCHS}: how many epochs, and of how many images, does it train?",
        )
    if len(set(lengths)) > 1:
        raise Wrong(
            "unequal_shares",
            f"{case}, the ranks fetch {', '.join(map(str, lengths))} images in {EPOCHS} epochs. As soon as one of them "
            "has a batch more than another, it waits in its all-reduce. How does DistributedSampler make shares equal?",
        )
    epochs = list(zip(*map(_epochs, orders), strict=True))
    for number, shares in enumerate(epochs):
        fetched = [index for part in shares for index in part]
        missed = count - len(set(fetched))
        if missed and missed == count - len(fetched):
            raise Wrong(
                "left_out",
                f"{case}, in epoch {number} none is fetched twice, and {missed} of them by nobody. The shares fit "
                "together, and the last ones are left out to make them equal. What does the sampler do about them, if "
                "nobody tells it otherwise?",
            )
        if missed:
            raise Wrong(
                "still_there",
                f"{case}, {missed} of them are seen by nobody in epoch {number}, and others several times. "
                "The shares only fit together if they are cut out of one and the same order.",
            )
    if all(part == sorted(part) for shares in epochs for part in shares):
        raise Wrong("no_shuffle", f"{case}, none is missed, and none is shuffled: they come in the order of the file.")
    for number in range(1, EPOCHS):
        if epochs[number] == epochs[number - 1]:
            raise Wrong(
                "order_repeats",
                f"{case}, none is missed, but epoch {number} brings them in the very order of epoch {number - 1}. "
                "When does the sampler learn which epoch it is?",
            )


def _judge_weights(runs: Sequence[Run], images: torch.Tensor, labels: torch.Tensor, seed: int) -> None:
    model = model_of_ranks(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for shares in zip(*(_epochs(run.order) for run in runs), strict=True):
        for batches in zip(*(torch.tensor(share).split(BATCH) for share in shares), strict=True):
            step_of_ranks(model, optimizer, [(images[batch], labels[batch]) for batch in batches])
    expected = list(model.parameters())
    if not all(same(run.weights, expected, tolerance=1e-3) for run in runs):
        raise Wrong(
            "training_changed",
            "The order is right, but the weights are not those that it should lead to: the steps, their batches of "
            f"{BATCH}, the average over the ranks or the learning rate has changed.",
        )
