"""Checks of the first repair: what the error says, and a mean over all ranks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from torchcourse.checks import NotDone, Wrong, check
from torchcourse.checks.kit import AnyOf, number, numbers, on_ranks, refuse_known, same

BROKEN_RANK, BROKEN_BATCH, PIXELS = 1, 31, 784


@check
def evidence(learner: tuple[int, int]) -> str:
    """The rank that failed, and the number of images in the batch where it did."""
    if not isinstance(learner, tuple | list) or len(learner) != 2:
        raise Wrong("wrong_type", f"Two numbers are asked for, a rank and a number of images. You gave {learner!r}.")
    rank, batch = learner
    if rank is ... or batch is ...:
        raise NotDone
    rank, batch = _whole_number(rank), _whole_number(batch)
    if (rank, batch) == (BROKEN_BATCH, BROKEN_RANK):
        raise Wrong("swapped", "Both numbers are right, and they are in each other's place.")
    if rank == 0:
        raise Wrong(
            "other_rank",
            "That rank did nothing wrong; it was only waiting. The first line of the error names a different one.",
        )
    if rank != BROKEN_RANK:
        raise Wrong("no_such_rank", f"There is no rank {rank} here: the two ranks are called 0 and 1.")
    if batch == 32:
        raise Wrong(
            "batch_as_planned", "32 is what the code expects. How many images did it get? Divide what the error counts."
        )
    if batch in (BROKEN_BATCH * PIXELS, PIXELS):
        raise Wrong(
            "pixels", f"{batch} counts pixels. An image has {PIXELS} of them, so how many images are in the batch?"
        )
    if batch != BROKEN_BATCH:
        raise Wrong("other_batch", "The error names an input size, which counts pixels. How many images is that?")
    return f"Rank {BROKEN_RANK} had a batch of {BROKEN_BATCH} images. The other rank was only waiting."


def _whole_number(answer: Any) -> int:
    value = number(answer)
    if value is None or value != int(value):
        raise Wrong(
            "no_number", f"Write whole numbers, without quotes: a rank and a number of images. You gave {answer!r}."
        )
    return int(value)


@check
def mean_pixel(learner: Callable[[torch.Tensor], float]) -> str:
    """Run the repaired function over ranks, on sizes with and without a short last batch."""
    generator = torch.Generator().manual_seed(0)
    cases = [(64, 2), (191, 2), (97, 2), (130, 3)]
    for count, world_size in cases:
        # Later images are brighter: an image that is left out, or that weighs too much, changes the mean.
        images = torch.rand(count, 1, 28, 28, generator=generator) + torch.linspace(0, 1, count).reshape(-1, 1, 1, 1)
        images[:, :, :4] = 0  # a digit has a dark margin, and its pixels count like all others
        where = f"With {count} images over {world_size} ranks, "
        stumbles = (
            "still_there",
            f"{where}rank {{rank}} still stops: {{first_line}}. Which number in the shape is not the same for every "
            "batch?",
        )
        known = {"invalid for input of size": stumbles}
        _judge_mean(on_ranks(learner, images, world_size=world_size, known=known), images, where)
    _refuse_alone_or_changed(on_ranks(_with_images_of_its_own, learner, images, world_size=2))
    return f"The same mean in every rank, on {len(cases)} sizes, with and without a short last batch."


def _with_images_of_its_own(learner: Callable[[torch.Tensor], float], images: torch.Tensor) -> tuple[Any, bool]:
    """Call the learner on images that are brighter on rank 1: a rank that works alone finds a mean of its own.

    Return the answer, and whether the images are as they were.
    """
    brighter = images + dist.get_rank()
    handed_over = brighter.clone()
    return learner(handed_over), torch.equal(handed_over, brighter)


def _refuse_alone_or_changed(answers: list[tuple[Any, bool]]) -> None:
    if not all(unchanged for _, unchanged in answers):
        raise Wrong(
            "images_changed",
            "The mean is right, but the images are changed afterwards: a second call would find a different mean. A "
            "batch is a view of them, so `batch /= …`, `batch *= …` and methods ending in `_` write into the images.",
        )
    found = numbers([answer for answer, _ in answers])
    if found is not None and not same(found, found[:1] * len(found), tolerance=1e-4):
        raise Wrong(
            "not_shared",
            "The mean is right, but the ranks did not work together: given different images, each rank returned a mean "
            "of its own. Each rank adds up its part, `mine`, and all_reduce adds the parts.",
        )


def _judge_mean(answers: list[Any], images: torch.Tensor, where: str) -> None:
    if any(answer is None for answer in answers):
        raise Wrong("nothing_returned", f"{where}a rank returned None. Keep the last line of the function.")
    found, ranks = numbers(answers), len(answers)
    if found is None:
        raise Wrong("no_number", f"{where}a rank returned no number. Keep the last line of the function.")
    truth = images.mean(dtype=torch.float64).item()
    if same(found, [truth] * ranks, tolerance=1e-4):
        return
    known = _known_mistakes(images, ranks, truth)
    refuse_known(found, known, tolerance=1e-4, where=where)
    rank = next(place for place, value in enumerate(found) if not same(value, truth, tolerance=1e-4))
    if rank > 0:
        raise Wrong(
            "one_rank_only",
            f"{where}rank {rank} returned {found[rank]:.4f}, and the mean is {truth:.4f}, which rank 0 has. Which "
            "collective gives the sum to all ranks?",
        )
    raise Wrong("wrong_value", f"{where}rank 0 returned {found[0]:.4f}, and the mean is {truth:.4f}.")


def _known_mistakes(images: torch.Tensor, ranks: int, truth: float) -> dict[str, tuple[list[float] | AnyOf, str]]:
    count = len(images)
    shares = images.tensor_split(ranks)
    batches = [batch for share in shares for batch in share.split(32)]
    whole_batches = sum(batch.mean().item() * len(batch) for batch in batches if len(batch) == 32) / count
    last_batches = sum(share.split(32)[-1].mean(dim=(1, 2, 3)).sum().item() for share in shares) / count
    return {
        "short_batch_dropped": (
            [whole_batches] * ranks,
            "the run no longer stops, but the images of short batches are not counted.",
        ),
        "one_per_batch": (
            AnyOf([weight * sum(batch.mean().item() for batch in batches) / count] * ranks for weight in (1, 32)),
            "each batch added as much as one image, or as 32, however many it holds. How many images does it hold?",
        ),
        "wrong_axis": (
            [sum(batch.flatten(1).mean(dim=0).sum().item() for batch in batches) / count] * ranks,
            "you took the mean over the images of a batch and added up the pixels. Which dimension holds the images?",
        ),
        "last_batch_only": (
            [last_batches] * ranks,
            "only the last batch of each rank counts. Was the total replaced, not added to?",
        ),
        "sum_of_pixels": (
            [PIXELS * truth] * ranks,
            f"your mean is {PIXELS} times too large, and an image has {PIXELS} pixels.",
        ),
        "own_share_only": (
            [share.mean(dim=(1, 2, 3)).sum().item() / count for share in shares],
            "each rank returned its own part. Which line adds the parts of all ranks?",
        ),
        "nothing_added": (
            [0.0] * ranks,
            "your mean is 0: nothing was added to the total. `total + …` makes a new tensor, which needs a place.",
        ),
        "every_rank_all": (
            [ranks * truth] * ranks,
            f"your mean is {ranks} times too large, and there are {ranks} ranks. Each adds up its part only, `mine`, "
            "and the sum over all ranks is divided by the number of all images.",
        ),
    }
