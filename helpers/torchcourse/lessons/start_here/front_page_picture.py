"""The pictures of the front page: how sure against how right, what falls due, misconceptions by lesson.

What is written inside them is English everywhere: the fonts that come with matplotlib have no Korean letters.
"""

from datetime import date, timedelta

from torchcourse import figures
from torchcourse.error_bars import interval_of_share
from torchcourse.figures import COLORS
from torchcourse.quiz.texts import say

SIZE = (4.4, 2.7)
LEVELS = {1: "guessing", 2: "fairly sure", 3: "certain"}
DAYS = 14


def sure(found: dict[int, tuple[int, int]]) -> str:
    """Return as an image how often each degree of confidence was right, with its 95% interval (Wilson 1927).

    Args:
        found: what `calibration` gives: {degree: (right, answered)}. Without answers there is no image.
    """
    if not found:
        return ""
    figure, axis = figures.new(*SIZE)
    for place, (right, count) in enumerate(found.values()):
        low, high = interval_of_share(right, count)
        axis.bar(place, 100 * right / count, color=COLORS["blue"], width=0.6)
        axis.vlines(place, 100 * low, 100 * high, color=COLORS["black"], linewidth=1.2)
        axis.annotate(f"{right} of {count}", (place, 100 * high + 2), ha="center", va="bottom", fontsize=9)
    axis.set_xticks(range(len(found)), [LEVELS[level] for level in found])
    axis.set(ylim=(0, 118), yticks=range(0, 101, 25), ylabel="right, with 95% interval / %", xlabel="how sure you were")
    level, (right, count) = list(found.items())[-1]
    axis.set_title(f"When {LEVELS[level]}, right in {right} of {count}")
    said = [f"{say(f'sure_{level}')} {right}/{count}" for level, (right, count) in found.items()]
    return figures.to_html(figure, say("front_sure_alt", said=", ".join(said)))


def days(answered: dict[date, int], coming: dict[date, int], today: date) -> str:
    """Return as an image the questions answered on each of the last 14 days, and those that come back in the next 14.

    Where nothing comes back there is no image.
    """
    if not coming:
        return ""
    figure, axis = figures.new(*SIZE)
    for offset in range(-DAYS, DAYS):
        day = today + timedelta(days=offset)
        before = answered.get(day, 0)
        axis.bar(offset, before, color=COLORS["blue"], width=0.8, label="answered" if offset == -DAYS else None)
        look = {"color": COLORS["orange"], "width": 0.8, "label": "come back" if offset == 0 else None}
        axis.bar(offset, coming.get(day, 0) if offset >= 0 else 0, bottom=before, **look)
    axis.set(xlabel="days from today", ylabel="questions", xlim=(-DAYS - 0.6, DAYS - 0.4))
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.axvline(0, color=COLORS["gray"], linewidth=0.8, linestyle=":")
    axis.legend(frameon=False, fontsize=8.5)
    week = sum(count for day, count in coming.items() if day < today + timedelta(days=7))
    axis.set_title(f"{week} come back within 7 days")
    said = [f"{day} {count}" for day, count in sorted(coming.items())[:DAYS]]
    return figures.to_html(figure, say("front_days_alt", said=", ".join(said)))


def ideas(found: dict[str, int]) -> str:
    """Return as an image how many misconceptions are open in each lesson, by its number; nothing where none is."""
    if not found:
        return ""
    figure, axis = figures.new(*SIZE)
    axis.bar(list(found), list(found.values()), color=COLORS["vermillion"], width=0.6)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="lesson", ylabel="open misconceptions")
    most = max(found, key=lambda number: found[number])
    axis.set_title(f"{sum(found.values())} open, {found[most]} of them in lesson {most}")
    said = [f"{number} {count}" for number, count in found.items()]
    return figures.to_html(figure, say("front_ideas_alt", said=", ".join(said)))
