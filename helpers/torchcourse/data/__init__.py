"""Data sets and loaders: what the lessons train on, from small licensed files inside the package."""

from torchcourse.data.datasets import digits, mnist, photo
from torchcourse.data.vowels import vowels

__all__ = ["digits", "mnist", "photo", "vowels"]
