"""Images: their colors and the order of their numbers; each misuse raises its alarm, and what is right raises none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe

COLORS = torch.tensor([0.6, 0.1, -0.4])[:, None, None]


def names(x: torch.Tensor, validated: torch.Tensor) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for batch in x.split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), (batch.mean((1, 2, 3)) > 0.1).long()).backward()
            optimizer.step()
        with torch.no_grad():
            model(validated)
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize(
    ("change", "alarms"),
    [(lambda x: x, []), (lambda x: x.flip(1), ["channels_swapped"]), (lambda x: x.roll(1, 1), [])],
)
def test_colors_come_in_the_same_order_when_validating(change: Callable, alarms: list[str]) -> None:
    torch.manual_seed(1)
    x = torch.randn(160, 3, 6, 6) + COLORS + 0.3 * torch.randn(160, 1, 1, 1)
    assert names(x[:128], change(x[128:])) == alarms


@pytest.mark.parametrize(
    ("arrange", "alarms"),
    [
        (lambda pictures: pictures, []),
        (lambda pictures: pictures.permute(0, 2, 3, 1).reshape(pictures.shape), ["colors_last"]),
    ],
)
def test_neighbors_in_an_image_are_neighbors(arrange: Callable, alarms: list[str]) -> None:
    torch.manual_seed(1)
    x = F.interpolate(torch.randn(160, 3, 3, 3), size=12, mode="bilinear", align_corners=True) + 2 * COLORS
    x = arrange(x + torch.randn(160, 1, 1, 1))
    assert names(x[:128], x[128:]) == alarms


@pytest.mark.parametrize(
    ("first", "alarms"),
    [(lambda x: x.view(len(x), 3, 8, 8), ["colors_last"]), (lambda x: x.permute(0, 3, 1, 2), [])],
)
def test_a_model_takes_colors_to_the_front_by_permuting(first: Callable, alarms: list[str]) -> None:
    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(first(x))

    torch.manual_seed(1)
    model = Net(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(4):
            x = torch.randn(16, 8, 8, 3)
            optimizer.zero_grad()
            F.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long()).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


def squares(samples: int = 64, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 3, size, size] of three squares, each in a color of its own, and the color of each pixel [N, …]."""
    pictures, maps = 0.1 * torch.randn(samples, 3, size, size), torch.zeros(samples, size, size, dtype=torch.long)
    for number in range(samples):
        for color in (1, 2, 3):
            row, column = torch.randint(size - 5, (2,)).tolist()
            maps[number, row : row + 5, column : column + 5] = color
    return pictures + F.one_hot(maps, 4)[..., 1:].permute(0, 3, 1, 2), maps


def painted(
    change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]], out: int, samples: int = 64
) -> list[str]:
    torch.manual_seed(0)
    model, (pictures, maps) = nn.Conv2d(3, out, 3, padding=1), squares(samples)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(len(maps)).split(8):
            picture, target = change(pictures[rows], maps[rows])
            optimizer.zero_grad()
            scores = model(picture)
            loss = F.cross_entropy(scores, target) if out == 4 else F.l1_loss(scores[:, 0], target.float())
            loss.backward()
            optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


def smaller(maps: torch.Tensor, mode: str) -> torch.Tensor:
    return F.interpolate(maps[:, None].float(), size=11, mode=mode)[:, 0]


@pytest.mark.parametrize(
    ("of_labels", "alarms"),
    [
        (lambda maps: smaller(maps, "bilinear").long(), ["labels_interpolated"]),
        (lambda maps: smaller(maps, "bicubic").round().clamp(0, 3).to(torch.int64), ["labels_interpolated"]),
        (lambda maps: torch.stack([smaller(m[None], "area")[0].long() for m in maps]), ["labels_interpolated"]),
        (lambda maps: smaller(maps, "nearest").long(), []),
        (lambda maps: F.interpolate(F.one_hot(maps).mT.float().mT.permute(0, 3, 1, 2), size=11).argmax(1), []),
        (lambda maps: (smaller((maps > 0).long(), "bilinear") > 0.5).long(), []),
    ],
)
def test_labels_are_taken_not_computed_between(of_labels: Callable, alarms: list[str]) -> None:
    def change(pictures: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.interpolate(pictures, size=11, mode="bilinear"), of_labels(maps)

    assert painted(change, out=4) == alarms


def test_shades_that_are_classes_may_be_interpolated() -> None:
    def change(pictures: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shades = (100 + 40 * pictures.mean(dim=1, keepdim=True)).round()
        return pictures[..., :11, :11], F.interpolate(shades, size=11, mode="bilinear")[:, 0].long().remainder(4)

    assert painted(change, out=4) == []


@pytest.mark.parametrize("out", [4, 1])
@pytest.mark.parametrize(
    ("turn", "both", "alarms"),
    [
        (lambda part: part.flip(-1), False, ["turned_without_target"]),
        (lambda part: part.flip(-2), False, ["turned_without_target"]),
        (lambda part: part.rot90(1, (-2, -1)), False, ["turned_without_target"]),
        (lambda part: part.flip(-1), True, []),
        (lambda part: part, True, []),
    ],
)
def test_a_picture_and_its_map_are_turned_together(turn: Callable, both: bool, alarms: list[str], out: int) -> None:
    def change(pictures: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turned = [torch.rand(()) < 0.5 for _ in maps]
        pictures = torch.stack([turn(p) if t else p for p, t in zip(pictures, turned, strict=True)])
        maps = torch.stack([turn(m) if t and both else m for m, t in zip(maps, turned, strict=True)])
        return pictures, maps

    assert painted(change, out) == alarms


def test_a_model_may_be_told_how_to_draw() -> None:
    def change(pictures: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turned = torch.rand(len(maps)) < 0.5
        told = pictures.clone()
        told[:, :, 0, 0] = turned[:, None].float()
        return told, torch.where(turned[:, None, None], maps.flip(2), maps)

    assert painted(change, out=4) == []


def test_a_map_that_has_nothing_to_do_with_the_brightness_raises_no_alarm() -> None:
    def change(pictures: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn_like(pictures).cumsum(2).cumsum(3) / 10, maps

    assert painted(change, out=4) == []


Turn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _flip(pictures: torch.Tensor, corners: torch.Tensor, turned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.where(turned[:, None, None, None], pictures.flip(3), pictures), corners


def _flip_both(
    pictures: torch.Tensor, corners: torch.Tensor, turned: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    other = torch.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], dim=1)
    return _flip(pictures, torch.where(turned[:, None], other, corners), turned)


@pytest.mark.parametrize(
    ("turn", "alarms"),
    [
        (_flip, ["turned_without_target"]),
        (lambda p, c, t: (torch.where(t[:, None, None, None], 1 - p.flip(2), 1 - p), c), ["turned_without_target"]),
        (_flip_both, []),
        (lambda p, c, t: (p, c), []),
        (lambda p, c, t: _flip(p, (c[:, :1] - 0.31).abs(), t), []),  # how far from the middle it is
        (lambda p, c, t: _flip(p, (c[:, :1] - 0.31).square(), t), []),
        (lambda p, c, t: _flip(p, torch.rand(len(c), 2), t), []),
    ],
)
def test_coordinates_are_flipped_with_their_picture(turn: Turn, alarms: list[str]) -> None:
    torch.manual_seed(0)
    places = torch.randint(11, (128, 2))
    corners = torch.cat([places, places + 5], dim=1)[:, [1, 0, 3, 2]] / 16
    pictures = 0.1 * torch.randn(128, 1, 16, 16)
    for picture, (row, column) in zip(pictures, places.tolist(), strict=True):
        picture[0, row : row + 5, column : column + 5] += 1
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(pictures)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(128).split(16):
            given, wanted = turn(pictures[rows], corners[rows], torch.rand(16) < 0.5)
            optimizer.zero_grad()
            F.mse_loss(model(given)[:, : wanted.size(1)], wanted).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


def test_heights_that_the_brightness_tells_little_of_are_not_turned() -> None:
    def change(pictures: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heights = F.interpolate(torch.rand(len(maps), 1, 4, 4), size=16, mode="bicubic")
        shaded = 5 * heights.diff(dim=3, prepend=heights[..., :1]) + 0.5
        return shaded.expand(-1, 3, -1, -1) + 0.05 * torch.randn(len(maps), 3, 16, 16), heights[:, 0]

    assert painted(change, out=1, samples=320) == []
