"""Reuse a network for ten digits on a new task with three classes: new last layer, frozen features."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.data import mnist


def load_pretrained(images, labels, steps=60):
    """Stands for a download: a small network that knows the ten digits."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def prepare(model, classes, lr):
    """Freeze the features, put a new last layer of `classes` outputs on them, and
    return model and optimizer.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model[-1].requires_grad_(True)
    trainable = [
        parameter for parameter in model.parameters() if parameter.requires_grad
    ]
    optimizer = torch.optim.SGD(trainable, lr=lr, momentum=0.9)
    model[-1] = nn.Linear(model[-1].in_features, classes)
    return model, optimizer


def fit(model, optimizer, images, labels, epochs):
    for epoch in range(epochs):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if epoch % 10 == 0:
            right = (model(images).argmax(1) == labels).float().mean().item()
            print(f"epoch {epoch:2}: loss {loss.item():.6f}, accuracy {right:.1%}")


def main(classes=3, epochs=51, lr=0.05, seed=0):
    torch.manual_seed(seed)
    images, digits = mnist("train")[:500]
    model, optimizer = prepare(load_pretrained(images, digits), classes, lr)
    fit(model, optimizer, images, digits % classes, epochs)


if __name__ == "__main__":
    main()
