"""The largest batch that fits, in few tries, with memory left as it was found."""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Found:
    """The largest batch size that fitted (0 if none did), and each try with whether it fitted, in order."""

    batch_size: int
    tries: list[tuple[int, bool]]

    def __repr__(self) -> str:
        tried = ", ".join(f"{size} {'fits' if fits else 'does not'}" for size, fits in self.tries)
        return f"{self.batch_size} after {len(self.tries)} tries: {tried}"


def largest_batch_size(attempt: Callable[[int], object], limit: int = 65_536) -> Found:
    """Find the largest batch size up to `limit` that `attempt` survives.

    It doubles from 4 until memory runs out, then halves what is left between: at most 2·log2(limit) tries, and at most
    2·log2(n) where the result n is 3 or more. Doubling first keeps the tries small, and so short.

    Args:
        attempt: runs a whole training step with a batch of the given size, `optimizer.step()` included, on a model and
            an optimizer that it makes itself. So nothing is left of it, and no training is disturbed.
        limit: the largest size that is of use.

    Raises:
        ValueError: if the limit is less than 1.
        Exception: whatever `attempt` raises, except for a full memory, of a GPU or of the machine. A BatchNorm that
            refuses a batch of 1 is no error either where larger batches did not fit: then no size does.
    """
    if limit < 1:
        raise ValueError(f"A batch has at least 1 sample, but limit is {limit}.")
    tries: list[tuple[int, bool]] = []

    def fits(size: int) -> bool:
        tries.append((size, _survives(attempt, size, larger_failed=bool(tries))))
        return tries[-1][1]

    good, bad, size = 0, limit + 1, min(4, limit)
    while size < bad and fits(size):
        good, size = size, max(min(2 * size, limit), size + 1)
    bad = min(size, bad)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return Found(good, tries)


_FULL = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "_alloc_failed")
"""What a RuntimeError says of a full memory, where it has no type of its own: of a CPU, a worker, cuBLAS, cuDNN."""


def _survives(attempt: Callable[[int], object], size: int, larger_failed: bool) -> bool:
    try:
        attempt(size)
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in _FULL):
            raise
    except ValueError as error:
        if not (size == 1 and larger_failed and "Expected more than 1 value per channel" in str(error)):
            raise
    else:
        return True
    # Outside of `except`: an exception that is being handled keeps the frames alive in which it happened, and these
    # their tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
