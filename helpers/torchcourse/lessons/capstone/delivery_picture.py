"""The cards of a delivery, one at a time, under a slider: `look_at(folder)`."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.lessons.capstone.delivery import PER_CARD, SIDE
from torchcourse.lessons.datasets.folder import read_image, read_table

Rows = list[dict[str, str]]
GAP = 2
"""Pixels between two pictures."""


def look_at(folder: Path) -> figures.Explorer:
    """Return the cards of a delivery under a slider, with their labels."""
    cards = cards_of(folder)
    names = list(cards)

    def draw(card: int) -> Figure:
        return draw_card(folder, names[card], cards[names[card]])

    def alt(card: int) -> str:
        return f"Card {names[card]}, one of {len(names)}: {', '.join(row['label'] for row in cards[names[card]])}"

    return figures.explorer(draw, alt=alt, card=(0, len(names) - 1, 0))


def cards_of(folder: Path) -> dict[str, Rows]:
    """Return the rows of the label table by card, the cards in the order of their names."""
    found: dict[str, Rows] = defaultdict(list)
    for row in read_table(folder / "labels.csv", ("file", "card", "label")):
        found[row["card"]].append(row)
    return dict(sorted(found.items()))


def draw_card(folder: Path, name: str, rows: Rows) -> Figure:
    """Draw the pictures of a card beside each other, each under its label; a file that is cut off is an empty place."""
    figure, axis = figures.canvas(7.2, 1.6, left=0.1, right=0.1, bottom=0.1, top=0.65)
    strip = np.ones((SIDE, PER_CARD * (SIDE + GAP) - GAP))
    for place, row in enumerate(rows):
        left = place * (SIDE + GAP)
        middle = left + SIDE / 2
        axis.text(middle, -1.5, row["label"], ha="center", va="bottom", fontsize=10)
        try:
            strip[:, left : left + SIDE] = read_image(folder / row["file"])[0]
        except ValueError:
            axis.text(middle, SIDE / 2, "cannot\nbe read", ha="center", va="center", fontsize=8)
    axis.imshow(strip, cmap="gray", vmin=0, vmax=1)
    axis.axis("off")
    figures.headline(figure, f"Card {name}: {len(rows)} pictures under their labels")
    return figure
