"""How much memory of the host this process holds, tensors or not.

Resident memory (RSS) is what tools show, and it says little about a few steps: the C library keeps what is freed, so a
leak fills old holes first, and a healthy step may take a hundred MiB more than the one before. On Linux its allocator
tells what is *in use*, which is exact to a few KiB. PyTorch's CPU tensors, NumPy's arrays and large Python objects come
from it; small Python objects are counted beside it.
"""

import ctypes
import functools
import sys

import psutil

SMALL_OBJECT = 32
"""Bytes: what a small Python object takes at least, for most of them (an int or a float does)."""


def bytes_in_use() -> int:
    """Return the bytes that this process has asked for and not given back; its resident memory where none can tell."""
    mallinfo = _mallinfo()
    if mallinfo is None:
        return psutil.Process().memory_info().rss
    said = mallinfo()
    return said.uordblks + said.hblkhd + SMALL_OBJECT * sys.getallocatedblocks()


def is_exact() -> bool:
    """Whether `bytes_in_use` comes from the allocator itself."""
    return _mallinfo() is not None


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


@functools.cache
def _mallinfo() -> "ctypes._NamedFuncPointer | None":
    """The C library's function, if it has it and serves this process (jemalloc and others may stand in its place)."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):
        return None
    mallinfo.restype = _Mallinfo
    before = mallinfo()
    block = bytearray(2**20)
    after = mallinfo()
    grown = after.uordblks + after.hblkhd - before.uordblks - before.hblkhd
    return mallinfo if grown >= len(block) else None
