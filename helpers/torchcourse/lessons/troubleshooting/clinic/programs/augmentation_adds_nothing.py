"""Train on digits whose brightness is drawn again each time one is fetched."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from torchcourse.data import mnist
from torchcourse.models import mlp


class JitteredDigits(Dataset):
    """Images [N, 1, 28, 28], each multiplied by a random
    brightness between 0.5 and 1.5.
    """

    def __init__(self, images, labels, seed):
        self.images, self.labels = images, labels
        self.random = np.random.default_rng(seed)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        brightness = self.random.uniform(0.5, 1.5)
        return self.images[index] * brightness, self.labels[index], brightness


def jitter_loader(images, labels, seed):
    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        JitteredDigits(images, labels, seed),
        batch_size=32,
        shuffle=True,
        generator=order,
        num_workers=2,
    )


def train(images, labels, epochs=2, seed=0, lr=0.1):
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    loader = jitter_loader(images, labels, seed)
    for epoch in range(epochs):
        for number, (scans, digits, brightness) in enumerate(loader):
            loss = F.cross_entropy(model(scans), digits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            drawn = "  ".join(f"{value:.4f}" for value in brightness[:4])
            print(f"epoch {epoch}, batch {number}: brightness {drawn} …")
    return model


def main(count=128, seed=0):
    return train(*mnist()[:count], seed=seed)


if __name__ == "__main__":
    main()
