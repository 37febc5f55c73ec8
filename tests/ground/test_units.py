"""Bytes are written in the unit that suits them; NumPy's whole numbers count as such, and truth values do not."""

import numpy as np
import pytest

from torchcourse.units import counted, format_bytes, is_whole_number, times


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


def test_whole_numbers_of_numpy_are_such_and_truth_values_are_not() -> None:
    assert all(is_whole_number(value) for value in (0, -3, 10**30, np.int64(3), np.uint8(3)))
    assert not any(is_whole_number(value) for value in (True, np.bool_(True), 1.0, np.float64(1), "1", None))


def test_a_ratio_near_1_is_not_told_as_1() -> None:
    told = [times(ratio) for ratio in (2, 1 / 3, 1, 1.0003, 0.99981, 1.02, -1, 0, 2**0.5)]
    numbers = ["2", "0.333", "1", "1.0003", "0.99981", "1.02", "-1", "0", "1.41"]
    assert told == [f"{number} times" for number in numbers]


def test_one_thing_stands_in_the_singular() -> None:
    assert [counted(count, "file") for count in (0, 1, 2, 1200)] == ["0 files", "1 file", "2 files", "1,200 files"]
