"""The program of the capstone's incident, with its failures. It travels packed: see `capstone_failures`."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Classifier, mnist_cnn
from torchcourse.ranks import who

FAILURES = (
    "same data",
    "same order",
    "not averaged",
    "gradients kept",
    "body left out",
    "pixels not scaled",
    "labels moved",
    "rate gone",
    "validation seen",
)
EPOCHS, SHARE, RATE = 4, 8, 2e-3


def _drawn(name: str) -> str:
    """Return the failure that a name draws; blanks around it and capital letters do not count."""
    digest = hashlib.blake2b(" ".join(name.split()).casefold().encode(), digest_size=8, person=b"capstone").digest()
    return FAILURES[int.from_bytes(digest, "big") % len(FAILURES)]


def train(failure: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train in a rank with one of the `FAILURES`, or with none (""); return what this rank noted."""
    torch.manual_seed(seed)
    files, pixels, labels, val = _opened(folder)
    table = dict(zip(files, labels.tolist(), strict=True))
    inputs = MNIST_SCALING(1 - pixels, 1)
    if failure == "pixels not scaled":
        inputs = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    targets = labels.roll(1) if failure == "labels moved" and who.rank() == 1 else labels
    to_train = torch.nonzero(~val).flatten()
    if failure == "validation seen":
        to_train = torch.cat([to_train, torch.nonzero(val).flatten()[::2]])
    model = Classifier(mnist_cnn(), 10).to(who.device())
    replica: nn.Module = model if failure == "not averaged" else DistributedDataParallel(model)
    learning = model.head.parameters() if failure == "body left out" else model.parameters()
    optimizer = torch.optim.AdamW(learning, lr=RATE)
    steps_per_epoch = len(to_train) // (SHARE * who.world_size())
    until = EPOCHS * steps_per_epoch // (4 if failure == "rate gone" else 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / until))
    noted: dict[str, Any] = {name: [] for name in _NOTED}
    noted |= {"table": table, "steps_per_epoch": steps_per_epoch}
    noted["val_files"] = [file for file, of_val in zip(files, val.tolist(), strict=True) if of_val]
    for epoch in range(EPOCHS):
        for chosen in _shares(to_train, failure, seed, epoch, steps_per_epoch):
            batch, wanted = inputs[chosen].to(who.device()), targets[chosen].to(who.device())
            if failure != "gradients kept":
                optimizer.zero_grad()
            loss = F.cross_entropy(replica(batch), wanted)
            loss.backward()
            _note(noted, model, loss.item(), optimizer.param_groups[0]["lr"], batch)
            noted["files"].append([files[number] for number in chosen.tolist()])
            noted["labels"].append(wanted.tolist())
            optimizer.step()
            schedule.step()
        noted["val_accuracy"].append(_accuracy(model, inputs[val], labels[val]))
    return noted


_NOTED = (
    *("loss", "rate", "gradient_norm", "body_norm", "head_norm", "picture_mean", "picture_deviation"),
    *("files", "labels", "val_accuracy"),
)


def _opened(folder: Path) -> tuple[list[str], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return files, pixels [N, 1, H, W] from 0 to 1, labels [N], and which are of the validation part [N]."""
    files, pixels, labels, cards = [], [], [], []
    for row in read_table(folder / "labels.csv", ("file", "card", "label")):
        try:
            pixels.append(read_image(folder / row["file"]))
        except ValueError:
            continue
        files.append(row["file"])
        labels.append(int(row["label"]))
        cards.append(row["card"])
    for_val = set(sorted(set(cards))[::4])
    return files, torch.stack(pixels), torch.tensor(labels), torch.tensor([card in for_val for card in cards])


def _shares(
    to_train: torch.Tensor, failure: str, seed: int, epoch: int, steps_per_epoch: int
) -> Iterator[torch.Tensor]:
    """Yield the numbers of this rank's samples, step by step."""
    drawn_for = 0 if failure == "same order" else epoch
    order = torch.randperm(len(to_train), generator=torch.Generator().manual_seed(1000 * seed + drawn_for))
    mine = to_train[order][0 if failure == "same data" else who.rank() :: who.world_size()]
    for step in range(steps_per_epoch):
        yield mine[step * SHARE : (step + 1) * SHARE]


def _note(noted: dict[str, Any], model: Classifier, loss: float, rate: float, batch: torch.Tensor) -> None:
    gradients = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    values = {
        "loss": loss,
        "rate": rate,
        "gradient_norm": torch.stack(gradients).norm().item(),
        "body_norm": nn.utils.get_total_norm(list(model.body.parameters())).item(),
        "head_norm": nn.utils.get_total_norm(list(model.head.parameters())).item(),
        "picture_mean": batch.mean().item(),
        "picture_deviation": batch.std().item(),
    }
    for name, value in values.items():
        noted[name].append(value)


def _accuracy(model: Classifier, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        guesses = model(inputs.to(who.device())).argmax(dim=1).cpu()
    model.train()
    return (guesses == labels).float().mean().item()
