"""What an error of a GPU means where its own words do not say it."""

import contextlib
from collections.abc import Iterator

STOPPED = (
    "The GPU stopped at an index outside of its range: most often a label that is negative or not below the number of "
    "classes, or a token that an embedding does not have. It computes nothing more in this process, so restart the "
    "kernel. To see which line it was, run the same on the CPU."
)


def has_stopped_gpu(error: BaseException) -> bool:
    """Whether an assertion failed on the GPU. All later calls of this process then fail with the same words.

    Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html (cudaErrorAssert)
    """
    return "device-side assert triggered" in str(error)


@contextlib.contextmanager
def stopped_gpu_explained() -> Iterator[None]:
    """Let an assertion that failed on the GPU raise RuntimeError with a sentence on what to do."""
    try:
        yield
    except RuntimeError as error:
        if not has_stopped_gpu(error):
            raise
        raise RuntimeError(STOPPED) from error
