"""Any two colors of a picture look different to color-blind readers too, and words on a color can be read."""

import itertools
import math
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from torchcourse import figures, notice
from torchcourse.figures import COLORS
from torchcourse.tools.repository import ROOT

VISIONS = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""How linear RGB is seen. Source: Machado, Oliveira and Fernandes 2009, severity 1.0,
https://www.inf.ufrgs.br/~oliveira/pubs_files/CVD_Simulation/CVD_Simulation.html"""

CLEAR = 10
"""A distance of colors that shows without a search. One that is just seen is about 1."""

XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear(color: str) -> np.ndarray:
    """Return the red, green and blue of a color as amounts of light."""
    parts = np.array(to_rgb(color))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(color: str, vision: str) -> np.ndarray:
    """Return how a color is seen, as L*, a* and b* of CIELAB for the white of sRGB."""
    seen = np.clip(VISIONS[vision] @ linear(color), 0, 1)
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / 3 / (6 / 29) ** 2 + 4 / 29 for t in XYZ @ seen / np.sum(XYZ, 1)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return CIEDE2000. Source: Sharma, Wu and Dalal 2005, https://doi.org/10.1002/col.20070"""
    chroma = (math.hypot(*one[1:]) + math.hypot(*other[1:])) / 2
    stretch = 1.5 - 0.5 * math.sqrt(chroma**7 / (chroma**7 + 25**7))
    chromas = [math.hypot(stretch * a, b) for _, a, b in (one, other)]
    hues = [math.degrees(math.atan2(b, stretch * a)) % 360 for _, a, b in (one, other)]
    gray = min(chromas) == 0
    turn = 0 if gray else (hues[1] - hues[0] + 180) % 360 - 180
    hue = sum(hues) if gray else (hues[0] + turn / 2) % 360
    light, chroma = (one[0] + other[0]) / 2, sum(chromas) / 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    t = 1 + sum(size * math.cos(math.radians(times * hue + by)) for size, times, by in waves)
    of_light = (other[0] - one[0]) / (1 + 0.015 * (light - 50) ** 2 / math.sqrt(20 + (light - 50) ** 2))
    of_chroma = (chromas[1] - chromas[0]) / (1 + 0.045 * chroma)
    of_hue = 2 * math.sqrt(chromas[0] * chromas[1]) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    rotation = math.sin(math.radians(60 * math.exp(-(((hue - 275) / 25) ** 2))))
    rotation *= -2 * math.sqrt(chroma**7 / (chroma**7 + 25**7))
    return math.sqrt(of_light**2 + of_chroma**2 + of_hue**2 + rotation * of_chroma * of_hue)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [  # from table 1 of Sharma, Wu and Dalal
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_that_of_its_authors(one, other, apart):
    assert distance(np.array(one), np.array(other)) == pytest.approx(apart, abs=1e-4)


@pytest.mark.parametrize("vision", VISIONS)
def test_any_two_colors_can_be_told_apart(vision):
    pairs = itertools.combinations(COLORS, 2)
    apart = {pair: distance(*(lab(COLORS[name], vision) for name in pair)) for pair in pairs}
    assert {pair: round(far, 1) for pair, far in apart.items() if far < CLEAR} == {}


def test_pictures_have_no_other_colors():
    other = re.compile(r"""["']#[0-9A-Fa-f]{3,8}["']|colors?=["'](?!white|black|k["'])\w+["']""")
    found = []
    for path in [*(ROOT / "helpers" / "torchcourse").rglob("*.py"), *(ROOT / "solutions").glob("*/[0-9]*.py")]:
        if path not in (ROOT / "helpers/torchcourse/figures.py", ROOT / "helpers/torchcourse/notice.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [
                f"{path.name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if other.search(line)
            ]
    assert found == []
    assert set(notice._COLORS.values()) <= set(COLORS.values())


@pytest.mark.parametrize("name", COLORS)
def test_words_on_a_color_have_the_contrast_that_the_guidelines_ask_for(name):
    ink, ground = (float(linear(color) @ XYZ[1]) + 0.05 for color in (figures.ink(COLORS[name]), COLORS[name]))
    assert max(ink, ground) / min(ink, ground) >= 4.5
