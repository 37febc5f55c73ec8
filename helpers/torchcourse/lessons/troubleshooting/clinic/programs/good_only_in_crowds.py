"""Read the digits on postal forms: train a reader, validate it, then answer requests of a few scans each."""

import torch
import torch.nn.functional as F

from torchcourse.data import mnist
from torchcourse.models import mlp


def standardize(pixels):
    """Shift and scale scans [N, 784] so that each pixel has mean 0 and the whole a
    standard deviation of 1.
    """
    return (pixels - pixels.mean(dim=0)) / pixels.std()


class DigitReader:
    """A classifier for scans [N, 1, 28, 28], whatever brightness the scanner gives."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = mlp(784, 32, 10)

    def fit(self, scans, labels, epochs=6, lr=0.02):
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        inputs = standardize(scans.flatten(1))
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs)).split(32):
                loss = F.cross_entropy(self.model(inputs[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def predict(self, scans):
        return self.model(standardize(scans.flatten(1))).argmax(dim=1)


def scanned(split, count, brightness=200.0):
    images, labels = mnist(split)[:count]
    return (images - images.min()) * brightness / (images.max() - images.min()), labels


def accuracy(reader, scans, labels, request):
    answers = torch.cat([reader.predict(few) for few in scans.split(request)])
    return (answers == labels).float().mean().item()


def main(seed=0, brightness=200.0):
    reader = DigitReader(seed)
    reader.fit(*scanned("train", 800, brightness))
    scans, labels = scanned("test", 200, brightness)
    print(
        f"validation, 200 scans at once: {accuracy(reader, scans, labels, 200):.1%} "
        f"right"
    )
    for request in (5, 2, 1):
        print(
            f"in service, {request} a request:      "
            f"{accuracy(reader, scans, labels, request):.1%} right"
        )
    return reader


if __name__ == "__main__":
    main()
