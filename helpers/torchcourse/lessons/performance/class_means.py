"""The mean of the features of each class: slowly by a loop, and what the speed exercise draws."""

import torch

CLASSES, FEATURES = 12, 16


def class_means_loop(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the mean of the rows of each class: [classes, D] from features [N, D] and labels [N]; 0 without rows."""
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype)
    counts = torch.zeros(classes, dtype=features.dtype)
    for row, label in zip(features, labels.tolist(), strict=True):
        sums[label] += row
        counts[label] += 1
    return sums / counts.clamp_min(1)[:, None]


def drawn(seed: int, rows: int = 1500) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return features [rows, 16], labels [rows] and the number of classes. One class has no row."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64)
    return features, torch.randint(CLASSES - 1, (rows,), generator=generator), CLASSES
