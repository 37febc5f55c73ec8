"""Train a digit network in small batches, and validate it in large ones. Reports the memory of both."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import mlp


def validation_loss(model, loader):
    """Return the mean loss over the samples."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        total += loss.item()
        count += len(labels)
    model.train(was_training)
    return total / count


def train_epoch(model, loader, optimizer):
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def main(epochs=3, lr=0.2, train_batch=50, val_batch=500, seed=0):
    torch.manual_seed(seed)
    train_loader = DataLoader(
        Subset(mnist("train"), range(500)), train_batch, shuffle=True
    )
    val_loader = DataLoader(Subset(mnist("test"), range(1000)), val_batch)
    model = mlp(784, 256, 256, 256, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        with MemoryTracker() as training:
            train_epoch(model, train_loader, optimizer)
        with MemoryTracker() as validation:
            loss = validation_loss(model, val_loader)
        peaks = (
            f"peak memory: training {training.peak / 1e6:.1f} MB, validation "
            f"{validation.peak / 1e6:.1f} MB"
        )
        print(f"epoch {epoch}: validation loss {loss:.3f}; {peaks}")


if __name__ == "__main__":
    main()
