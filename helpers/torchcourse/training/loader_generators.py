"""The random number generators (난수 생성기) of a loader: on these, beside the global ones, its order may depend."""

import itertools
from typing import Any

import torch

_MOST = 50
"""Parts that are looked at: an object that makes an attribute of any name would never come to an end."""


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators of a loader, of its samplers and of its datasets, each once, in a fixed order."""
    parts, found = [loader], []
    for part in itertools.islice(parts, _MOST):  # parts grow as they are gone through
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator) and generator not in found:
            found.append(generator)
        inner = [getattr(part, name, None) for name in ("sampler", "batch_sampler", "dataset")]
        parts += [one for one in inner if one is not None and all(one is not other for other in parts)]
    return found
