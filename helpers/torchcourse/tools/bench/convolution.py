"""Four routes to one convolution: im2col and FFT as the course writes them, PyTorch's own, and the loops."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from torchcourse.lessons.convolution.by_hand import conv2d_im2col, conv2d_loops
from torchcourse.lessons.convolution.fourier import conv2d_fft
from torchcourse.timing import in_turn, ratio, spread
from torchcourse.tools.bench.report import Table

ROUNDS = 5


def table() -> Table:
    torch.set_num_threads(1)
    rows = []
    routes: dict[str, Callable[..., object]] = {
        "F.conv2d": F.conv2d,
        "im2col": conv2d_im2col,
        "FFT": conv2d_fft,
        "loops": conv2d_loops,
    }
    for kernel in (3, 7, 15, 31):
        x, weight = torch.randn(2, 8, 64, 64), torch.randn(8, 8, kernel, kernel)
        seconds = in_turn(
            {name: partial(route, x, weight, padding=kernel // 2) for name, route in routes.items()},
            ROUNDS,
        )
        rows += [
            [
                f"{kernel}×{kernel}",
                name,
                spread(values, "ms", 1e3),
                ratio(values, seconds["F.conv2d"]),
            ]
            for name, values in seconds.items()
        ]
    return Table(
        "Routes to a convolution",
        ["kernel", "route", "one call", "against F.conv2d"],
        rows,
        "Two pictures of 64×64 pixels, 8 to 8 channels, output of the same size, "
        f"{ROUNDS} rounds in turn, one CPU thread.",
    )
