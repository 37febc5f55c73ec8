"""The check of milestone M6: the program that writes the page, with numbers that it has not seen."""

import base64
import io
import math
import re
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from torchcourse.checks import Wrong, check
from torchcourse.error_bars import paired, standard_error, t95
from torchcourse.lessons.capstone.measured import Measured

WORDS = (60, 500)
"""Between how many words a page has."""


@check
def report(learner: Callable[[Measured, Path], object]) -> str:
    """Let the page be written for two sets of numbers, and read it as a customer's program would."""
    for seed in (1, 2):
        measured = made_up(seed)
        with tempfile.TemporaryDirectory() as place:
            page = Path(place) / "report.html"
            learner(measured, page)
            if not page.is_file():
                raise Wrong("no_page", "Your function wrote no file at the path `page`.")
            read = _Page()
            read.feed(page.read_text(encoding="utf-8"))
        _judge_pictures(read)
        _judge_interval(" ".join(read.words), measured)
        _judge_text(read, measured)
    return "Two plots that travel with the page, an interval over cards, and what it was made of and cost."


def made_up(seed: int) -> Measured:
    """Return numbers such as a project gives: cards differ much, seeds little, and both readers share the cards."""
    draw = np.random.default_rng(seed)
    cards, seeds = int(draw.integers(11, 15)), int(draw.integers(6, 9))
    hard = draw.uniform(0.45, 0.95, cards)
    gain = draw.normal(0.06, 0.05, cards)
    tuned = np.clip(hard + gain + draw.normal(0, 0.01, (seeds, cards)), 0, 1)
    curves = [([10, 20, 30], sorted(draw.uniform(0.3, 0.9, 3).tolist())) for _ in range(seeds)]
    spent = float(draw.uniform(21, 67))
    return Measured(tuned.tolist(), hard.tolist(), curves, draw.uniform(0.3, 0.9, 5).tolist(), spent, 70.0 + seed)


def interval(measured: Measured) -> tuple[float, float, float]:
    """Return the mean gain and its 95% interval, in percentage points, over cards that were not seen."""
    gain = paired(np.mean(measured.tuned, axis=0), measured.present)
    return 100 * gain.mean, 100 * gain.low, 100 * gain.high


class _Page(HTMLParser):
    """The words, pictures and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self.outside: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._hidden += tag in ("style", "script", "head")
        if tag == "img":
            self.pictures.append((values.get("src", ""), values.get("alt", "")))
        if tag in ("script", "link"):
            self.outside += [values[name] for name in ("src", "href") if name in values]

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script", "head")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()


def _judge_pictures(page: _Page) -> None:
    if len(page.pictures) != 2:
        raise Wrong("two_plots", f"The page has {len(page.pictures)} pictures (`<img>`), and the brief asks for two.")
    outside = page.outside + [src for src, _ in page.pictures if not src.startswith("data:image/")]
    if outside:
        raise Wrong(
            "not_alone",
            f"The page needs {outside[0][:60]!r}, which stays behind when the page is mailed. A `src` may hold the "
            "picture itself: data:image/png;base64, and its bytes.",
        )
    for src, alt in page.pictures:
        if len(alt.split()) < 4:
            raise Wrong("no_alt", "A plot has no `alt` text that says what it shows, in four words or more.")
        if src.startswith("data:image/png;base64,"):
            pixels = imread(io.BytesIO(base64.b64decode(src.partition(",")[2])), format="png")
            if float(pixels[..., :3].std()) < 0.01:
                raise Wrong("blank_plot", "A plot is empty: was it saved before anything was drawn?")
    if page.pictures[0][0] == page.pictures[1][0]:
        raise Wrong("same_plot", "Both plots are the same picture.")


def _judge_interval(text: str, measured: Measured) -> None:
    mean, low, high = interval(measured)
    found = numbers_in(text)
    if all(_has(found, value) for value in (mean, low, high)):
        return
    for symptom, (ends, hint) in _known_mistakes(measured).items():
        if all(_has(found, value) for value in ends):
            raise Wrong(symptom, hint)
    if not _has(found, mean):
        raise Wrong(
            "no_gain",
            f"The page does not say by how many percentage points the tuned reader is above the present one: "
            f"{mean:.1f} with the numbers of this check, to a tenth of a point, as the mean over seeds and cards.",
        )
    if all(_has(found, float(round(value))) for value in (low, high)):
        raise Wrong("whole_points", "Your interval is rounded to whole points. Give its ends to a tenth of a point.")
    raise Wrong(
        "no_interval",
        f"The page has the gain, {mean:.1f} points, but not the two ends of its 95% interval, to a tenth of a point. "
        "What was drawn at random, so that a different delivery would give a different gain?",
    )


def _known_mistakes(measured: Measured) -> dict[str, tuple[tuple[float, float], str]]:
    """Intervals that learners give: symptom → ends in percentage points, and the hint."""
    tuned, present = 100 * np.array(measured.tuned), 100 * np.array(measured.present)
    by_card, by_seed = tuned.mean(axis=0) - present, tuned.mean(axis=1) - present.mean()
    mean, cards, seeds = by_card.mean().item(), len(by_card), len(by_seed)
    error = standard_error(by_card).item()
    apart = math.hypot(standard_error(tuned.mean(axis=0)).item(), standard_error(present).item())
    over_all = standard_error((tuned - present).flatten()).item()

    def ends(reach: float) -> tuple[float, float]:
        return mean - reach, mean + reach

    over_seeds = "Your interval is over the seeds. All seeds were tested on the same cards: it says how much training "
    over_seeds += "varies, and nothing of other cards, which are what the customer will send."
    unpaired = "Your interval is that of two independent readers. Both read the same cards: what makes a card hard is "
    unpaired += "hard for both, and cancels in the difference."
    return {
        "over_seeds": (ends(t95(seeds - 1) * standard_error(by_seed).item()), over_seeds),
        "one_error": (ends(error), "Your interval reaches one standard error to each side: that covers two in three."),
        "not_student": (
            ends(1.96 * error),
            f"1.96 standard errors are for very many cards. How many are they for {cards}? Lesson 03 has the t.",
        ),
        "divided_by_n": (
            ends(t95(cards - 1) * error * math.sqrt(1 - 1 / cards)),
            f"Your deviation divides by {cards}, the number of cards. That of a sample divides by one less: `ddof=1` "
            "in NumPy.",
        ),
        "unpaired": (ends(t95(cards - 1) * apart), unpaired),
        "over_all": (
            ends(t95(seeds * cards - 1) * over_all),
            f"Your interval takes {seeds} seeds on {cards} cards for {seeds * cards} independent values. Each card is "
            "counted several times: average over the seeds first.",
        ),
    }


def _judge_text(page: _Page, measured: Measured) -> None:
    low, high = WORDS
    if not low <= len(page.words) <= high:
        raise Wrong("one_page", f"The page has {len(page.words)} words: one page has {low} to {high}.")
    found = numbers_in(" ".join(page.words))
    wanted = {
        "the accuracy of the present reader, in %": 100 * float(np.mean(measured.present)),
        "the accuracy of the tuned reader, in %": 100 * float(np.mean(measured.tuned)),
        "the number of seeds": len(measured.tuned),
        "the number of cards": len(measured.present),
        "the CPU-seconds spent": measured.cpu_seconds,
        "the budget": measured.budget,
    }
    for what, value in wanted.items():
        exact = isinstance(value, int) or "CPU" not in what
        if not _has(found, value, 0.051 if exact else 0.51):
            raise Wrong(
                "number_missing",
                f"The page lacks {what}: {value:.4g} with the numbers of this check. Does your page compute each "
                "number from `measured`?",
            )


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text; the minus sign may be a hyphen or the real one."""
    found = re.findall(r"(?<![\d.])[-−]?\d+(?:\.\d+)?", text.replace(",", ""))
    return [float(number.replace("−", "-")) for number in found]


def _has(found: list[float], value: float, tolerance: float = 0.051) -> bool:
    return any(abs(number - value) <= tolerance for number in found)
