"""Datasets and loaders: what the lessons train on, from small licensed files inside the package."""

from torchcourse.data.datasets import digits, mnist, photo
from torchcourse.data.loaders import SeededSamples, make_loader
from torchcourse.data.memory_loader import MemoryLoader
from torchcourse.data.spoken_vowels import vowels

__all__ = ["MemoryLoader", "SeededSamples", "digits", "make_loader", "mnist", "photo", "vowels"]
