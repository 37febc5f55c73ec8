"""Bytes are written in the unit that suits them, in steps of 1024 or of 1000."""

import pytest

from torchcourse.units import format_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (-1536, "-1.5 KiB"),
        (2**20 - 1, "1,024.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**52, "4,096.0 TiB"),
    ],
)
def test_memory_in_steps_of_1024(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 bytes"), (60_000, "60 kB"), (17_200_000, "17 MB"), (7.5e9, "8 GB"), (2e12, "2 TB")]
)
def test_files_in_steps_of_1000_with_as_many_decimals_as_asked_for(size: float, text: str) -> None:
    assert format_bytes(size, base=1000, decimals=0) == text
