"""Train a digit network with dropout and batch normalization; score it on the test set after each epoch."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist


def make_model(inputs=784, hidden=64, classes=10):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(hidden, classes),
    )


def evaluate(model, loader):
    """Return the share of samples that the model answers correctly."""
    right = count = 0
    with torch.no_grad():
        for images, labels in loader:
            right += (model(images).argmax(1) == labels).sum().item()
            count += len(labels)
    return right / count


def train(model, train_loader, test_loader, epochs, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for epoch in range(epochs):
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        print(f"epoch {epoch}: test accuracy {evaluate(model, test_loader):.1%}")


def main(samples=1000, epochs=3, lr=0.05, seed=0):
    torch.manual_seed(seed)
    test_set = Subset(mnist("test"), range(600))
    model = make_model()
    train_loader = DataLoader(Subset(mnist("train"), range(samples)), 50, shuffle=True)
    train(model, train_loader, DataLoader(test_set, 200), epochs, lr)
    for batch_size in (200, 200, 20, 4):
        score = evaluate(model, DataLoader(test_set, batch_size))
        print(f"the finished model, batches of {batch_size:3}: {score:.1%}")
    return model, test_set


if __name__ == "__main__":
    main()
