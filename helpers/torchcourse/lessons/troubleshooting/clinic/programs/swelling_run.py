"""Train a denoising autoencoder; in every step, watch how well it does on a clean probe batch."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import mlp


def add_noise(images, generator):
    return images + 0.5 * torch.randn(images.shape, generator=generator)


def denoise_epoch(model, loader, optimizer, probe, generator):
    """Train one epoch; return the mean training loss of a batch, and the mean loss
    on the clean probe.
    """
    running, probed = 0.0, 0.0
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        loss = F.mse_loss(model(add_noise(images, generator)), images)
        loss.backward()
        optimizer.step()
        running += loss
        probed += F.mse_loss(model(probe), probe)
    return running / len(loader), probed / len(loader)


def main(samples=1000, epochs=3, batch_size=50, lr=1e-3, seed=0):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = mlp(784, 64, 784)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loader = DataLoader(
        Subset(mnist("train"), range(samples)),
        batch_size,
        shuffle=True,
        generator=generator,
    )
    probe = mnist("test")[:50][0].flatten(1)
    history = []
    with MemoryTracker() as tracker:
        for epoch in range(epochs):
            history.append(denoise_epoch(model, loader, optimizer, probe, generator))
            loss, clean = history[-1]
            print(
                f"epoch {epoch}: loss {loss:.3f}, on the probe {clean:.3f}; memory "
                f"{tracker.current / 1e6:.1f} MB"
            )


if __name__ == "__main__":
    main()
