"""Evaluation mode for a while."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, a model is in evaluation mode; afterwards each of its parts is in the mode that it had.

    `model.train()` alone would wake the parts that were put to evaluation before, such as frozen norms.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        model.train(before[0][1])  # by its own method, which may do more, such as take merged weights apart
        for module, mode in before:
            if module.training != mode:
                module.train(mode)
