"""Invariants of images: their colors, and the order of their numbers. Each rule yields alarms."""

from collections.abc import Callable, Iterator

import torch

from torchcourse.lessons.troubleshooting.data_invariants import float_inputs
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

SMOOTHER = 0.6  # of the steps between neighboring pixels, if the numbers are read in the other order
IMAGES_AT_LEAST = 16


def channels(run: WatchedRun) -> Iterator[Alarm]:
    """The three colors of an image come in the same order in training and in validation."""
    trained = float_inputs(run.record.trained)
    evaluated = float_inputs([seen for block in run.whole_validations for seen in block])
    if not trained or not evaluated or any(b.dim() != 4 or b.size(1) != 3 for b in (*trained, *evaluated)):
        return
    colors, others = (torch.cat([b.mean(dim=(2, 3)) for b in part]).double() for part in (trained, evaluated))
    error = (colors.var(dim=0) / len(colors) + others.var(dim=0) / len(others)).sqrt()[[0, 2]]
    ends, their = colors.mean(dim=0)[[0, 2]], others.mean(dim=0)[[0, 2]]
    if (
        len(others) >= 16
        and ((ends - their).abs() > 6 * error).all()
        and ((ends.flip(0) - their).abs() < 3 * error).all()
    ):
        yield Alarm(
            "channels_swapped",
            f"The means of the three channels are {_three(colors)} in training, and {_three(others)} in validation: "
            "the same, the other way round. Is one read as RGB and the other as BGR?",
        )


def _three(colors: torch.Tensor) -> str:
    return ", ".join(f"{mean:.2g}" for mean in colors.mean(dim=0).tolist())


def order(run: WatchedRun) -> Iterator[Alarm]:
    """Neighbors in an image [3, H, W] are neighbors: its numbers are not those of [H, W, 3] in a row."""
    found = [batch for batch in float_inputs(run.record.trained) if batch.dim() == 4 and batch.size(1) == 3]
    if sum(map(len, found)) < IMAGES_AT_LEAST or min(min(batch.shape[2:]) for batch in found) < 4:
        return
    steps = sum(_roughness(batch) for batch in found)
    other = sum(_roughness(batch.reshape(len(batch), *batch.shape[2:], 3).permute(0, 3, 1, 2)) for batch in found)
    if other < SMOOTHER * steps:
        yield Alarm(
            "colors_last",
            f"Read as [H, W, 3], the numbers of the images differ from pixel to pixel by {other / steps:.0%} of what "
            "they do as [3, H, W]: a view or reshape has taken the place of permute(2, 0, 1).",
        )


def _roughness(images: torch.Tensor) -> float:
    return (images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()).item()


RULES: list[Callable[[WatchedRun], Iterator[Alarm]]] = [channels, order]
