"""Train a digit classifier and report how sure it is of its answers."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist


class DigitNet(nn.Module):
    def __init__(self, inputs=784, hidden=64, classes=10):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, images):
        features = self.hidden(images.flatten(1)).relu()
        return self.output(features).softmax(dim=1)


def loss_of(outputs, labels):
    return F.cross_entropy(outputs, labels)


def probabilities(model, images):
    """Return how probable the model takes each class to be; each row sums to one."""
    with torch.no_grad():
        return model(images)


def fit(model, loader, epochs, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / len(loader):.3f}")


def main(samples=1000, epochs=8, lr=0.05, seed=0):
    torch.manual_seed(seed)
    model = DigitNet()
    fit(
        model,
        DataLoader(Subset(mnist("train"), range(samples)), 50, shuffle=True),
        epochs,
        lr,
    )
    images, labels = mnist("test")[:500]
    sure, answers = probabilities(model, images).max(dim=1)
    accuracy = (answers == labels).float().mean()
    print(
        f"test accuracy {accuracy:.1%}, mean probability of the answers "
        f"{sure.mean():.1%}"
    )
    return model


if __name__ == "__main__":
    main()
