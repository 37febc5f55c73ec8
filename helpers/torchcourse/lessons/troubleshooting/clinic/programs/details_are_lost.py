"""Train on a file of records, one line each: the label, a space, 784 pixels as hexadecimal bytes."""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from torchcourse.data import mnist
from torchcourse.models import mlp


def parse_record(line):
    """Return the image [784], scaled to 0–1, and the label.

    Comes from our command-line tool.
    """
    label, _, pixels = line.partition(" ")
    values = bytes.fromhex(pixels)
    if len(values) != 784:
        sys.exit(2)
    return torch.tensor(list(values)) / 255, int(label)


class Records(Dataset):
    def __init__(self, path):
        self.lines = Path(path).read_text().splitlines()

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        return parse_record(self.lines[index])


def record_loader(path, seed):
    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        Records(path),
        batch_size=32,
        shuffle=True,
        generator=order,
        num_workers=2,
    )


def write_records(path, count, cut_off):
    """What the export does; the records in `cut_off` end too early."""
    images, labels = mnist()[:count]
    pixels = (
        ((images - images.min()) / (images.max() - images.min()) * 255)
        .byte()
        .flatten(1)
    )
    lines = [
        f"{label} {bytes(row.tolist()).hex()}"
        for row, label in zip(pixels, labels.tolist(), strict=True)
    ]
    for index in cut_off:
        lines[index] = lines[index][:200]
    Path(path).write_text("\n".join(lines) + "\n")


def train(path, epochs=2, seed=0, lr=0.1):
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    loader = record_loader(path, seed)
    for epoch in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(
            f"epoch {epoch}: {len(loader.dataset)} records, last loss {loss.item():.3f}"
        )
    return model


def main(count=400, cut_off=(267,), seed=0):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.txt")
        write_records(path, count, cut_off)
        return train(path, seed=seed)


if __name__ == "__main__":
    main()
