"""Bytes and counts in words, and what counts as a whole number."""

import math
import numbers
from typing import Literal, TypeGuard

_UNITS = {1024: ("bytes", "KiB", "MiB", "GiB", "TiB"), 1000: ("bytes", "kB", "MB", "GB", "TB")}


def format_bytes(size: float, base: Literal[1000, 1024] = 1024, decimals: int = 1) -> str:
    """Return bytes in the unit that suits them: `format_bytes(1536)` is "1.5 KiB".

    Args:
        size: bytes; negative for a loss.
        base: 1024 for KiB, MiB and GiB, as memory is counted; 1000 for kB, MB and GB, as files and networks are.
        decimals: digits after the point, for everything but whole bytes.
    """
    *units, largest = _UNITS[base]
    for unit in units:
        if abs(size) < base:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:,.{decimals}f} {unit}"
        size /= base
    return f"{size:,.{decimals}f} {largest}"


def counted(count: int, thing: str) -> str:
    """Return how many there are: `counted(1, "file")` is "1 file", `counted(3, "file")` is "3 files"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def times(ratio: float) -> str:
    """Return a ratio in words: "2 times", "0.333 times"; near 1 with the digits in which it differs: "1.0003 times"."""
    off = abs(ratio - 1)
    return f"{ratio:.{2 - math.floor(math.log10(off)) if 0 < off < 0.01 else 3}g} times"


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether this is a whole number, Python's or NumPy's; a truth value is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
