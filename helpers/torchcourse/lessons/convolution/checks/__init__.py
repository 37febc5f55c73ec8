"""Checks of lesson 08."""

from torchcourse.lessons.convolution.checks.convolving import convolve, flipped
from torchcourse.lessons.convolution.checks.shifting import pool_shift
from torchcourse.lessons.convolution.checks.sizing import size_and_field

__all__ = ["convolve", "flipped", "pool_shift", "size_and_field"]
