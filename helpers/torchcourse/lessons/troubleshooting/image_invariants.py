"""Invariants of images: their colors, and the order of their numbers. Each rule yields alarms."""

from collections.abc import Callable, Iterator

import torch

from torchcourse.lessons.troubleshooting.torch_calls import MEASURING
from torchcourse.lessons.troubleshooting.training_records import Loss, float_inputs
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

SMOOTHER = 0.6  # of the steps between neighboring pixels, if the numbers are read in the other order
IMAGES_AT_LEAST = 16
ALIKE = 0.4  # correlation of a picture with the map that belongs to it
FAR, EITHER_SIDE = 0.7, 0.35  # correlations of two distances from the middle, and of what has a side
LOPSIDED = 0.6  # at most, of what has a side with a distance
PLACES_AT_LEAST = 64
TURNED = 0.1  # of the pictures
_TURNS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "left to right": lambda maps: maps.flip(2),
    "upside down": lambda maps: maps.flip(1),
    "by 180 degrees": lambda maps: maps.flip(1, 2),
    "by 90 degrees": lambda maps: maps.rot90(1, (1, 2)),
    "by 270 degrees": lambda maps: maps.rot90(3, (1, 2)),
}


def channels(run: WatchedRun) -> Iterator[Alarm]:
    """The three colors of an image come in the same order in training and in validation."""
    trained = float_inputs(run.trained)
    evaluated = float_inputs(run.validated_on)
    if not trained or not evaluated or any(b.dim() != 4 or b.size(1) != 3 for b in (*trained, *evaluated)):
        return
    colors, others = (torch.cat([b.mean(dim=(2, 3)) for b in part]).double() for part in (trained, evaluated))
    error = (colors.var(dim=0) / len(colors) + others.var(dim=0) / len(others)).sqrt()[[0, 2]]
    ends, their = colors.mean(dim=0)[[0, 2]], others.mean(dim=0)[[0, 2]]
    unlike, swapped = (ends - their).abs() > 6 * error, (ends.flip(0) - their).abs() < 3 * error
    if len(others) >= 16 and unlike.all() and swapped.all():
        yield Alarm(
            "channels_swapped",
            f"The means of the three channels are {_three(colors)} in training, and {_three(others)} in validation: "
            "the same, the other way round. Is one read as RGB and the other as BGR?",
        )


def _three(colors: torch.Tensor) -> str:
    return ", ".join(f"{mean:.2g}" for mean in colors.mean(dim=0).tolist())


def order(run: WatchedRun) -> Iterator[Alarm]:
    """Neighbors in an image [3, H, W] are neighbors: its numbers are not those of [H, W, 3] in a row."""
    if len(run.usage.colors_last) >= 3:
        yield Alarm(
            "colors_last",
            f"In {len(run.usage.colors_last)} steps images [N, H, W, 3] were viewed as [N, 3, H, W], which "
            "leaves their numbers in the same order: take permute(0, 3, 1, 2).",
        )
    found = [batch for batch in float_inputs(run.trained) if batch.dim() == 4 and batch.size(1) == 3]
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


def interpolated_labels(run: WatchedRun) -> Iterator[Alarm]:
    """A map of labels is resized by taking labels, not by computing between them."""
    found = run.origins.interpolated
    by = next(iter(found.values()), "")
    if len(found) >= 3:
        yield Alarm(
            "labels_interpolated",
            f"In {len(found)} steps the labels had been whole numbers, were interpolated by {by} and "
            "cut to whole numbers again: between class 1 and 3 that makes a 2. Take mode='nearest' for labels.",
        )


def turned_alike(run: WatchedRun) -> Iterator[Alarm]:
    """A picture and the map that belongs to it are turned together."""
    pairs = [pair for loss in run.losses if (pair := _picture_and_map(loss)) is not None]
    if not pairs or len({picture.shape[1:] for picture, _ in pairs}) > 1:
        return
    pictures, maps = (torch.cat(part) for part in zip(*pairs, strict=True))
    straight = _alike(pictures, maps)
    turns = {name: _alike(pictures, m) for name, turn in _TURNS.items() if (m := turn(maps)).shape == maps.shape}
    all_ways = torch.stack([straight, *turns.values()])
    sign = 1 if all_ways.amax(dim=0).mean() > -all_ways.amin(dim=0).mean() else -1
    if (sign * all_ways).amax(dim=0).median() < ALIKE:
        return  # most pictures fit their map in no way
    for name, turned in turns.items():
        as_is, other = sign * straight, sign * turned
        fits, fits_turned = (as_is > 2 * other) & (as_is > ALIKE), (other > 2 * as_is) & (other > ALIKE)
        share = fits_turned.float().mean().item()
        clear = fits | fits_turned
        if _told(pictures[clear], fits_turned[clear]):
            return
        if min(fits.sum(), fits_turned.sum()) >= IMAGES_AT_LEAST and share > TURNED and fits.float().mean() > TURNED:
            yield Alarm(
                "turned_without_target",
                f"{share:.0%} of {len(pictures)} pictures fit the map that is their target much better once it is "
                f"turned ({name}), and others do not. Is an augmentation applied to one of the two alone?",
            )
            return


def _told(pictures: torch.Tensor, turned: torch.Tensor) -> bool:
    """Whether one pixel says which maps are turned, as where the model is told how to draw."""
    flags, pixels = turned.float() - turned.float().mean(), pictures.flatten(1)
    pixels = pixels - pixels.mean(dim=0)
    return bool((torch.nn.functional.cosine_similarity(pixels, flags[:, None], dim=0).abs() > 0.9).any())


def _picture_and_map(loss: Loss) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the pictures [N, H, W], without color, and their targets [N, H, W], where there is one for each pixel."""
    pictures = _pictures(loss)
    call = loss.seen.call if loss.seen is not None else None
    if pictures is None or call is None or sum(isinstance(leaf, torch.Tensor) for leaf in call.leaves) > 1:
        return None  # what else the model gets may say how to draw
    target = loss.target.squeeze(1) if loss.target.dim() == 4 else loss.target
    return (pictures, target.float()) if target.shape == pictures.shape else None


def _pictures(loss: Loss) -> torch.Tensor | None:
    """Return the pictures [N, H, W], without color, that the model got."""
    inputs = loss.seen.inputs if loss.seen is not None and loss.seen.recorded else None
    if inputs is None or inputs.dim() != 4 or not inputs.is_floating_point() or min(inputs.shape[2:]) < 8:
        return None
    return inputs.float().mean(dim=1)


def _alike(pictures: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return the correlation of each picture with its map."""
    one, other = (part.flatten(1) - part.flatten(1).mean(dim=1, keepdim=True) for part in (pictures, maps))
    return torch.nn.functional.cosine_similarity(one, other, dim=1)


def sides(run: WatchedRun) -> Iterator[Alarm]:
    """Where something lies in a picture says on which side of the middle its coordinates are."""
    pairs = [pair for loss in run.losses_of(*MEASURING) if (pair := _place_and_numbers(loss)) is not None]
    if len({numbers.size(1) for _, numbers in pairs}) != 1 or sum(len(place) for place, _ in pairs) < PLACES_AT_LEAST:
        return
    places, numbers = (torch.cat(part) for part in zip(*pairs, strict=True))
    for axis, name in enumerate(("left and right", "above and below")):
        place, far = places[:, axis], places[:, axis].abs()
        for column in (numbers - numbers.mean(dim=0)).T:
            alike, sided = _together(column.abs(), far), _together(column, place)
            if alike > FAR and sided < EITHER_SIDE and _together(column, far) < LOPSIDED:
                yield Alarm(
                    "turned_without_target",
                    "How far what stands out lies from a picture's middle tells how far a target is from its mean "
                    f"(correlation {alike:.2f}), and the side does not. Are only the pictures flipped ({name})?",
                )
                return


def _place_and_numbers(loss: Loss) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return where what stands out of each picture lies [N, 2], from -1 to 1, and what is to be measured [N, K]."""
    gray = _pictures(loss)
    if gray is None or loss.target.dim() != 2:
        return None
    weight = (gray - gray.flatten(1).median(dim=1).values[:, None, None]).square()
    total = weight.sum(dim=(1, 2)) + 1e-12
    across, down = (torch.linspace(-1, 1, size) for size in (gray.size(2), gray.size(1)))
    place = torch.stack([weight.sum(dim=1) @ across, weight.sum(dim=2) @ down], dim=1) / total[:, None]
    return place, loss.target.float()


def _together(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the size of the correlation of two columns."""
    return torch.corrcoef(torch.stack([one, other]))[0, 1].nan_to_num().abs().item()
