"""The check of milestone M6: the program that writes the page, with numbers that it has not seen."""

import base64
import io
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import result_of
from torchcourse.error_bars import paired, standard_error, t95
from torchcourse.lessons.capstone.measured import Measured

WORDS = (60, 500)
"""Between how many words a page has."""


@check
def report(learner: Callable[[Measured, Path], object]) -> str:
    """Let the page be written for two sets of numbers, and read it as a customer's program would."""
    drawn: set[str] = set()
    for seed in (1, 2):
        measured = made_up(seed)
        read = result_of(partial(_written, learner), measured, what="`measured`")
        _judge_pictures(read)
        _judge_interval(" ".join(read.words), measured)
        _judge_text(read, measured)
        if drawn & {src for src, _ in read.pictures}:
            raise Wrong(
                "same_for_all",
                "A plot is the same for two different sets of numbers: nothing of `measured` is drawn in it.",
            )
        drawn |= {src for src, _ in read.pictures}
    return "Two plots that travel with the page, an interval over cards, and what it was made of and cost."


def _written(learner: Callable[[Measured, Path], object], measured: Measured) -> "_Page":
    """Let the page be written, and read it."""
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        learner(measured, page)
        if not page.is_file():
            raise Wrong("no_page", "Your function wrote no file at the path `page`.")
        try:
            text = page.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise Wrong(
                "not_utf8",
                "The page is not written in UTF-8, so other programs show different letters. `open` and `write_text` "
                'take `encoding="utf-8"`.',
            ) from None
    read = _Page()
    read.feed(text)
    return read


def made_up(seed: int) -> Measured:
    """Return numbers such as a project gives: cards differ much, seeds little, and both readers share the cards.

    With an even seed the tuned reader is no better than the present one, and the gain is below 0.
    """
    draw = np.random.default_rng(seed)
    cards, seeds = int(draw.integers(11, 15)), int(draw.integers(6, 9))
    hard = draw.uniform(0.45, 0.95, cards)
    gain = draw.normal(0.06 if seed % 2 else -0.01, 0.05, cards)
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
        self._hidden = ""  # the element that is open and not on the page; a head need not be closed, or even opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("style", "script", "title"):
            self._hidden = tag
        if tag == "img":
            self.pictures.append((values.get("src", ""), values.get("alt", "")))
        if tag not in ("a", "img"):  # a link may lead elsewhere
            self._note([values[name] for name in ("src", "href", "data") if name in values])
        self._look_for_files(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()
        else:
            self._look_for_files(data)

    def _look_for_files(self, style: str) -> None:
        named = re.findall(r"url\(\s*['\"]?([^'\")]*)|@import\s*['\"]([^'\"]*)", style)
        self._note([one or other for one, other in named])

    def _note(self, addresses: list[str]) -> None:
        self.outside += [address for address in addresses if not address.startswith(("data:", "#"))]


def _judge_pictures(page: _Page) -> None:
    if len(page.pictures) != 2:
        number = {0: "no picture", 1: "one picture"}.get(len(page.pictures), f"{len(page.pictures)} pictures")
        raise Wrong("two_plots", f"The page has {number} (`<img>`), and the brief asks for two.")
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
            pixels = _pixels(src.partition(",")[2])
            if float(pixels.std()) < 0.01:
                raise Wrong("blank_plot", "A plot is empty: was it saved before anything was drawn?")
    if page.pictures[0][0] == page.pictures[1][0]:
        raise Wrong("same_plot", "Both plots are the same picture.")


def _pixels(letters: str) -> np.ndarray:
    """The pixels of a PNG file in base64."""
    try:
        # a browser passes over line ends in an address
        pixels = imread(io.BytesIO(base64.b64decode("".join(letters.split()), validate=True)), format="png")
    except (ValueError, SyntaxError, OSError):
        raise Wrong(
            "no_picture",
            "A plot's `src` says PNG, and what follows the comma is no PNG picture. After `savefig`, a `BytesIO` gives "
            "its bytes by `getvalue()`. `base64.b64encode` gives bytes, too: their text is `.decode()`.",
        ) from None
    return pixels[..., :3] if pixels.ndim == 3 else pixels


def _judge_interval(text: str, measured: Measured) -> None:
    mean, low, high = interval(measured)
    found = numbers_in(text)
    unsigned = mean < 0 and not _has(found, mean) and _has(found, -mean)
    if unsigned and re.search(r"\b(below|worse|lower|less|fewer|loses?|lost|behind)\b", text):
        found.append(mean)  # a loss that is said in words
    if _has(found, mean) and states(text, low, high):
        return
    whole = rf"(?<![\d.]){abs(round(low))}[^\d.]{{1,12}}{abs(round(high))}(?![\d.]*\d)"
    if _has(found, mean) and re.search(whole, text):
        raise Wrong("whole_points", "Your interval is rounded to whole points. Give its ends to a tenth of a point.")
    for symptom, (ends, hint) in _known_mistakes(measured).items():
        if any(states(text, *each) for each in ends):
            raise Wrong(symptom, hint)
    if unsigned:
        raise Wrong(
            "sign_lost",
            f"With the numbers of this check the tuned reader is {-mean:.1f} points below the present one, and your "
            "page gives the gain without its sign.",
        )
    if not _has(found, mean):
        raise Wrong(
            "no_gain",
            f"The page does not say by how many percentage points the tuned reader is above the present one: "
            f"{mean:.1f} with the numbers of this check, to a tenth of a point, as the mean over seeds and cards.",
        )
    raise Wrong(
        "no_interval",
        f"The page has the gain, {mean:.1f} points, but not the two ends of its 95% interval, to a tenth of a point. "
        "What was drawn at random, so that a different delivery would give a different gain?",
    )


def _known_mistakes(measured: Measured) -> dict[str, tuple[Sequence[tuple[float, float]], str]]:
    """Intervals that learners give: symptom → ends in percentage points, and the hint."""
    tuned, present = 100 * np.array(measured.tuned), 100 * np.array(measured.present)
    by_card, by_seed = tuned.mean(axis=0) - present, tuned.mean(axis=1) - present.mean()
    mean, cards, seeds = by_card.mean().item(), len(by_card), len(by_seed)
    error = standard_error(by_card).item()
    apart = math.hypot(standard_error(tuned.mean(axis=0)).item(), standard_error(present).item())
    over_all = standard_error((tuned - present).flatten()).item()

    def ends(reach: float) -> tuple[float, float]:
        return mean - reach, mean + reach

    low, high = ends(t95(cards - 1) * error)
    clipped = (
        f"The interval goes from {low:.1f} to {high:.1f}: an end below 0 says that the tuned reader may be worse. "
    )
    clipped += "Do not leave that out."
    return ({"clipped": ([(0.0, high)], clipped)} if low < 0 else {}) | {
        "over_seeds": (
            [ends(t95(seeds - 1) * standard_error(by_seed).item())],
            "Your interval is over the seeds. All seeds were tested on the same cards: it says how much training "
            "varies, and nothing of other cards, which are what the customer will send.",
        ),
        "one_error": (
            [ends(error)],
            "Your interval reaches one standard error to each side: that covers two in three.",
        ),
        "other_t": (
            (ends(1.96 * error), ends(t95(seeds - 1) * error)),
            f"Your interval reaches 1.96 standard errors, as for very many cards, or the t of {seeds} seeds. The "
            f"differences are of {cards} cards. Lesson 03 has the t.",
        ),
        "divided_by_n": (
            [ends(t95(cards - 1) * error * math.sqrt(1 - 1 / cards))],
            f"Your deviation divides by {cards}, the number of cards. That of a sample divides by one less: `ddof=1` "
            "in NumPy.",
        ),
        "unpaired": (
            [ends(t95(cards - 1) * apart)],
            "Your interval is that of two independent readers. Both read the same cards: what makes a card hard is "
            "hard for both, and cancels in the difference.",
        ),
        "spread": (
            (ends(t95(cards - 1) * error * math.sqrt(cards)), ends(error * math.sqrt(cards))),
            f"Your interval says how far apart single cards lie. The mean of {cards} cards is surer than one card.",
        ),
        "over_all": (
            [ends(t95(seeds * cards - 1) * over_all)],
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
    _refuse_swapped(_plain(" ".join(page.words)), wanted)


def _refuse_swapped(text: str, wanted: dict[str, float]) -> None:
    """Refuse pages that say it the wrong way round, twice, and so by no chance of wording."""
    present, tuned, seeds, cards, spent, budget = wanted.values()
    named = [re.search(rf"{reader} reader[^\d]{{0,25}}({_NUMBER})", text, re.I) for reader in ("present", "tuned")]
    said = [float(found[1]) for found in named if found]
    if len(said) == 2 and _has(said[:1], tuned) and _has(said[1:], present):
        raise Wrong("readers_swapped", "The page gives each of the two readers the accuracy of the other one.")
    if re.search(rf"\b{cards} seeds", text) and re.search(rf"\b{seeds} cards", text):
        raise Wrong("counts_swapped", f"The page says {cards} seeds and {seeds} cards: it is the other way round.")
    after = [
        [float(number) for number in re.findall(rf"\b{words}\b[^\d.;]{{0,25}}({_NUMBER})", text, re.I)]
        for words in (r"(?:took|spent|used|cost)(?!,? of\b)", "budget")
    ]
    if _has(after[0], budget, 0.51) and _has(after[1], spent, 0.51) and not _has(after[1], budget, 0.51):
        raise Wrong(
            "cost_swapped",
            f"The page says that {budget:.0f} CPU-seconds were spent of a budget of {spent:.0f}: it is the other way "
            "round.",
        )


def states(text: str, low: float, high: float) -> bool:
    """Whether a text has the ends of an interval to a tenth, or its middle ± half its width."""
    around = re.findall(rf"({_NUMBER})[^\d±-]{{0,40}}±\s*({_NUMBER})", _plain(text))
    middle, half = (low + high) / 2, (high - low) / 2
    if any(_has([float(a)], middle) and _has([float(b)], half) for a, b in around):
        return True
    return all(_has(numbers_in(text), end) for end in (low, high))


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text; the minus sign may be a hyphen or the real one."""
    return [float(number) for number in re.findall(_NUMBER, _plain(text))]


_NUMBER = r"(?<![\d.])-?\d+(?:\.\d+)?"


def _plain(text: str) -> str:
    return text.replace(",", "").replace("−", "-").replace("–", "-").replace("&plusmn;", "±").replace("+/-", "±")


def _has(found: list[float], value: float, tolerance: float = 0.051) -> bool:
    return any(abs(number - value) <= tolerance for number in found)
