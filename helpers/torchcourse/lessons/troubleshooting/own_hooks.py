"""Hooks of a watcher that stay with the model that it watches: a copy of the model, or a file of it, has none."""

import contextlib
from collections.abc import Callable
from typing import Any

from torchcourse.source_lines import hide

hide(__file__)


class OwnHook:
    """A hook that calls `call`; in its place, a copy or a pickled model gets one that does nothing.

    Otherwise what a copy computes (an average of the weights, the best model so far) would be taken for the model's,
    and a model could not be saved while it is watched.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # From the standard library, so that a file of the model can be read where the course is not installed.
        return getattr, (contextlib.nullcontext(), "__exit__")
