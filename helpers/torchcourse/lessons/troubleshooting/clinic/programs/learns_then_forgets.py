"""Train a digit classifier with plain SGD and print the loss of every epoch."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist
from torchcourse.models import mlp


def make_loader(samples, batch_size, seed):
    data = Subset(mnist("train"), range(samples))
    return DataLoader(
        data, batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )


def train_epoch(model, loader, optimizer):
    """Train on every batch once and return the mean loss over the samples."""
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


@torch.no_grad()
def accuracy(model, samples=500):
    images, labels = mnist("test")[:samples]
    model.eval()
    return (model(images).argmax(1) == labels).float().mean().item()


def main(samples=1000, epochs=6, batch_size=50, lr=0.1, seed=0):
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    loader = make_loader(samples, batch_size, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        loss = train_epoch(model, loader, optimizer)
        print(f"epoch {epoch}: loss {loss:.3f}, test accuracy {accuracy(model):.1%}")
    return model


if __name__ == "__main__":
    main()
