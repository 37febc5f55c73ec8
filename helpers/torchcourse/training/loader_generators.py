"""The random number generators (난수 생성기) of a loader: on these, beside the global ones, its order may depend."""

from typing import Any

import torch


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators of a loader, of its samplers and of its datasets, each once, in a fixed order."""
    parts, found = [loader], []
    for part in parts:  # which grows
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator) and generator not in found:
            found.append(generator)
        inner = [getattr(part, name, None) for name in ("sampler", "batch_sampler", "dataset")]
        parts += [one for one in inner if one is not None and all(one is not other for other in parts)]
    return found
