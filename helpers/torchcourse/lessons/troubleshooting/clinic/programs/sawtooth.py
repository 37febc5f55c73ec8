"""Train an autoencoder and report its error over the epoch, and the share of pixels that are close."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import mlp


def reconstruction_epoch(model, loader, optimizer, near=0.5):
    """Train one epoch; return the mean squared error of all pixels and the share
    that is off by less than `near`.
    """
    outputs, targets = [], []
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        output = model(images)
        F.mse_loss(output, images).backward()
        optimizer.step()
        outputs.append(output)
        targets.append(images)
    off = (torch.cat(outputs) - torch.cat(targets)).abs()
    return off.square().mean().item(), (off < near).float().mean().item()


def main(samples=2000, epochs=3, batch_size=64, lr=1e-3, seed=0):
    torch.manual_seed(seed)
    model = mlp(784, 64, 784)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loader = DataLoader(
        Subset(mnist("train"), range(samples)), batch_size, shuffle=True
    )
    for epoch in range(epochs):
        with MemoryTracker() as tracker:
            error, close = reconstruction_epoch(model, loader, optimizer)
        print(
            f"epoch {epoch}: error {error:.3f}, close {close:.1%}; peak memory "
            f"{tracker.peak / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
