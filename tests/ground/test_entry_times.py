"""Entries of a wrong clock are dated by their neighbors."""

from datetime import datetime

import pytest

from torchcourse.entry_times import in_order

NOW = datetime.fromisoformat("2026-11-20T12:00:00+09:00")


def dated(*days: str) -> list[str]:
    """Return the days that entries of these days count for; None for a line whose time is believed."""
    entries = [{"time": f"{day}T10:00:00+09:00", "kind": "x"} for day in days]
    result = in_order(entries, NOW)
    assert [entry.get("clock", entry["time"]) for entry in result] == [entry["time"] for entry in entries]
    return [entry["time"][:10] for entry in result]


@pytest.mark.parametrize(
    ("written", "counts"),
    [
        (["2026-11-02", "2026-11-03"], ["2026-11-02", "2026-11-03"]),
        (["2026-11-02", "2035-01-01", "2026-11-03"], ["2026-11-02", "2026-11-02", "2026-11-03"]),
        (
            ["2026-11-02", "2035-01-01", "2035-01-04", "2026-11-09"],
            ["2026-11-02", "2026-11-02", "2026-11-05", "2026-11-09"],
        ),
        (
            ["2026-11-02", "1970-01-01", "1970-01-02", "2026-11-09"],
            ["2026-11-02", "2026-11-02", "2026-11-03", "2026-11-09"],
        ),
        (["2035-01-01", "2035-01-02"], ["2026-11-21", "2026-11-21"]),
        (["2035-01-01", "2026-11-02"], ["2026-11-02", "2026-11-02"]),
        (["2026-11-03", "2026-11-02", "2026-11-03"], ["2026-11-03", "2026-11-02", "2026-11-03"]),
        ([], []),
    ],
    ids=["right", "once ahead", "days ahead", "days behind", "always ahead", "ahead at first", "two zones", "empty"],
)
def test_a_clock_that_jumps_loses_nothing(written: list[str], counts: list[str]) -> None:
    assert dated(*written) == counts
