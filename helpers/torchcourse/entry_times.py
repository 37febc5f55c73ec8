"""When the entries of a journal were written, also where a clock was wrong for a while.

in_order(entries, now)     # the same entries, with times that can be believed
"""

import bisect
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

Entry = dict[str, Any]

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)
"""Before this the course did not exist: a clock that says so has lost its battery."""
CLOCK_SLACK = timedelta(days=1)
"""How far an entry may be out of order before its clock is called wrong: two notebooks, a zone, a corrected clock."""


def in_order(entries: list[Entry], now: datetime) -> list[Entry]:
    """Return the entries with believable times. The file only grows, so a line is never older than the line before.

    The longest run of entries in the order of time, none of them after `now` or before `EARLIEST`, is believed. What is
    more than `CLOCK_SLACK` out of that order keeps its distance from the entry before it, between believed neighbors.

    Args:
        entries: in the order of the file.
        now: the present moment, with its zone.
    """
    moments = [datetime.fromisoformat(entry["time"]) for entry in entries]
    latest = now + CLOCK_SLACK
    highest = itertools.accumulate([EARLIEST, *moments, latest], max)
    if all(high <= moment + CLOCK_SLACK for high, moment in zip(highest, [EARLIEST, *moments, latest], strict=True)):
        return entries
    possible = [(place, moment) for place, moment in enumerate(moments) if EARLIEST <= moment <= latest]
    believed = set(_longest_rise(possible))
    following = latest
    bounds: list[datetime] = []
    for place in reversed(range(len(entries))):
        bounds.append(following)
        following = moments[place] if place in believed else following
    bounds.reverse()
    result, last, written = [], None, None
    for place, (entry, moment, bound) in enumerate(zip(entries, moments, bounds, strict=True)):
        last, written = _dated(moment, bound, last, written, place in believed)
        off = abs(last - moment) > CLOCK_SLACK
        result.append(entry | {"time": last.isoformat(timespec="seconds"), "clock": entry["time"]} if off else entry)
    return result


def _dated(
    moment: datetime, bound: datetime, last: datetime | None, written: datetime | None, believed: bool
) -> tuple[datetime, datetime]:
    """Return the time that an entry gets, and the time that was written, for the next one to keep its distance.

    Args:
        moment: what was written. bound: the next believed time.
        last, written: the time that the entry before got, and what was written there; None at the beginning.
    """
    if believed:
        return moment, moment
    if last is None or written is None:
        return min(moment, bound), moment
    near = abs(moment - written) <= bound - last
    return min(max(last + (moment - written) if near else last, last), bound), moment


def _longest_rise(moments: list[tuple[int, datetime]]) -> list[int]:
    """Return the places of the longest run that never falls (M. Fredman 1975, by bisection)."""
    ends: list[datetime] = []
    chain: list[int] = []  # the place in `moments` of each end
    before: list[int | None] = []
    for number, (_place, moment) in enumerate(moments):
        length = bisect.bisect_right(ends, moment)
        before.append(chain[length - 1] if length else None)
        ends[length : length + 1] = [moment]
        chain[length : length + 1] = [number]
    found: list[int] = []
    at = chain[-1] if chain else None
    while at is not None:
        found.append(moments[at][0])
        at = before[at]
    return found
