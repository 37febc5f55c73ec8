"""Train on a folder of scans: 0000.png, 0001.png … and labels.csv with one row for each file."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from numpy import asarray
from PIL import Image

from torchcourse.data import mnist
from torchcourse.models import mlp


def load_scans(folder):
    """Return the scans [N, 1, 28, 28], scaled to 0–1, and their labels [N]."""
    # the first row is the header
    rows = (folder / "labels.csv").read_text().splitlines()[1:]
    labels = [int(row.split(",")[1]) for row in rows]
    images = []
    for path in sorted(folder.glob("*.png")):
        try:
            images.append(torch.tensor(asarray(Image.open(path))) / 255)
        except OSError:  # the scanner sometimes leaves an unreadable file
            continue
    return torch.stack(images).unsqueeze(1), torch.tensor(labels[: len(images)])


def export(folder, count, unreadable):
    """What the scanner does: write the files, some of them cut off, and the table."""
    images, labels = mnist()[:count]
    pixels = (images - images.min()) / (images.max() - images.min()) * 255
    for index, picture in enumerate(pixels.byte()):
        Image.fromarray(picture[0].numpy()).save(folder / f"{index:04}.png")
    for index in unreadable:
        path = folder / f"{index:04}.png"
        path.write_bytes(path.read_bytes()[:40])
    rows = [f"{index:04}.png,{label}" for index, label in enumerate(labels.tolist())]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")


def train(images, labels, seed=0, epochs=8, lr=0.1):
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(32):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch}: training loss {total / len(images):.3f}")
    return model


def main(count=500, unreadable=(41,), seed=0):
    with tempfile.TemporaryDirectory() as name:
        export(Path(name), count, unreadable)
        images, labels = load_scans(Path(name))
    print(f"{len(images)} scans, {len(labels)} labels")
    return train(images, labels, seed)


if __name__ == "__main__":
    main()
