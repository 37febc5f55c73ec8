"""Data sets and loaders: what the lessons train on, from small licensed files inside the package."""

from torchcourse.data.datasets import mnist

__all__ = ["mnist"]
