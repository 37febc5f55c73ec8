"""Results that are kept: most cells of a class's notebooks are the same for all."""

import functools
from collections.abc import Callable

LONGEST = 10_000
"""Characters of a text whose result is kept, so that what is kept stays small."""


def remembered(function: Callable[[str], str]) -> Callable[[str], str]:
    """Return a function of a text that works out each of the last 4,096 results once."""
    kept = functools.lru_cache(4096)(function)
    return lambda text: kept(text) if len(text) <= LONGEST else function(text)
