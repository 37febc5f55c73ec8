"""Train with a large batch on a small device: gradients of several small batches make up one step."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist
from torchcourse.models import mlp


def accumulated_epoch(model, loader, optimizer, accumulate):
    """One epoch in which every `accumulate` batches make up one step; return the
    mean loss of a batch.
    """
    assert len(loader) % accumulate == 0, "the last step would be made of fewer batches"
    model.train()
    total = 0.0
    optimizer.zero_grad()
    for number, (images, labels) in enumerate(loader, start=1):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        total += loss.item()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return total / len(loader)


def run(batch_size, accumulate, samples, epochs, lr, seed):
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        Subset(mnist("train"), range(samples)),
        batch_size,
        shuffle=True,
        generator=generator,
    )
    losses = [
        accumulated_epoch(model, loader, optimizer, accumulate) for _ in range(epochs)
    ]
    print(
        f"{accumulate:2} × {batch_size:3} samples per step: "
        + "  ".join(f"{loss:8.3f}" for loss in losses)
    )
    return losses


def main(samples=1280, epochs=5, lr=0.1, seed=0):
    print("loss of each epoch")
    for accumulate in (1, 4, 16):
        run(160 // accumulate, accumulate, samples, epochs, lr, seed)


if __name__ == "__main__":
    main()
