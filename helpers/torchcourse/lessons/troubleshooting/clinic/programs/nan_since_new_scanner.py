"""Find the zeros among the scans of two scanners: an old one, and a new one whose images are brighter."""

import torch

from torchcourse.data import mnist
from torchcourse.models import mlp


def detection_loss(logits, targets):
    """Return the mean cross-entropy of logits [N] and targets [N] (1 for a zero, 0
    for another digit).
    """
    p = torch.sigmoid(logits)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


def scans_of_two(count, brightness, every=20):
    """Return scans [N, 1, 28, 28] and targets [N]; one in `every` scans comes from
    the new scanner.
    """
    images, labels = mnist()[:count]
    images = (images - images.min()) / (images.max() - images.min())
    images[::every] *= brightness
    return images, (labels == 0).float()


def train(model, scans, targets, epochs=4, lr=0.05):
    """Train, and return the loss of every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for epoch in range(epochs):
        for batch in torch.randperm(len(scans)).split(32):
            loss = detection_loss(model(scans[batch]).squeeze(1), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss of the last step {losses[-1]:.4f}")
    return losses


def main(count=640, brightness=5.0, seed=0):
    torch.manual_seed(seed)
    model = mlp(784, 32, 1)
    scans, targets = scans_of_two(count, brightness)
    train(model, scans, targets)
    with torch.no_grad():
        found = (model(scans).squeeze(1) > 0) & (targets == 1)
    print(f"{int(found.sum())} of {int(targets.sum())} zeros found")
    return model


if __name__ == "__main__":
    main()
