"""The capstone solved sparingly: two layers trained, pictures in memory, gradients averaged by hand."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.image
import numpy as np
import optuna
import torch
import torch.distributed as dist
import torch.nn.functional as F
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from torch import nn

from capstone_by_hand import embedded
from torchcourse import figures
from torchcourse.error_bars import paired
from torchcourse.lessons.datasets.folder import read_table
from torchcourse.lessons.transfer.backbones import mnist_cnn
from torchcourse.lessons.transfer.finetune import freeze, freeze_norms, unfreeze
from torchcourse.training import Monitor

PLAN = [{"rate": rate, "steps": steps} for rate in (3e-3, 1e-2) for steps in (12, 24)]
"""All settings of the search, in their order."""


@dataclass
class Part:
    """Pictures and labels in memory."""

    files: list
    skipped: list
    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


@cache
def open_part(folder, part):
    files, skipped, images, labels = [], [], [], []
    for row in read_table(folder / "labels.csv", ("file", "card", "label")):
        if (int(row["card"][-1]) in (3, 7)) != (part == "val"):
            continue
        try:
            images.append(matplotlib.image.imread(folder / row["file"]))
        except Exception:
            skipped.append(row["file"])
            continue
        files.append(row["file"])
        labels.append(int(row["label"]))
    ink = 1 - torch.from_numpy(np.stack(images))[:, None]
    ink = F.interpolate(ink, size=28, mode="nearest")
    return Part(files, skipped, (ink - 0.13) / 0.31, torch.tensor(labels))


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = mnist_cnn()
        freeze(self.layers)
        unfreeze(self.layers, "dense")
        freeze_norms(self.layers)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(self.layers(x))


def right(model, part):
    with torch.no_grad():
        return (model(part.images).argmax(1) == part.labels).float().mean().item()


def steps_of(model, part, rate, steps, seed, rank=0, ranks=1):
    """Take steps of which each rank sees its share; the ranks' gradients are averaged by hand."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(part), generator=generator) for _ in range(1 + steps * 32 // len(part))])
    for batch in order[: steps * 32].split(32):
        mine = batch[rank::ranks]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(part.images[mine]), part.labels[mine])
        loss.backward()
        for p in learning if ranks > 1 else ():
            dist.all_reduce(p.grad)
            p.grad /= ranks
        optimizer.step()
        yield loss.item()


def search(url, folder, trials):
    study = optuna.create_study(storage=url, direction="maximize", study_name="plan", load_if_exists=True)
    for dead in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(dead.number, state=TrialState.FAIL)
    for number in range(sum(t.state == TrialState.COMPLETE for t in study.trials), trials):
        trial = study.ask({name: _one_of(name) for name in PLAN[0]})
        torch.manual_seed(0)
        model = Reader()
        list(steps_of(model, open_part(folder, "train"), trial.params["rate"], trial.params["steps"], number))
        study.tell(trial, right(model, open_part(folder, "val")))
    return study


def _one_of(name):
    return optuna.distributions.CategoricalDistribution(sorted({setting[name] for setting in PLAN}))


def train(settings, folder, run_dir, seed):
    torch.manual_seed(seed)
    rank, part = dist.get_rank(), open_part(folder, "train")
    model = Reader()
    for p in model.parameters():
        dist.broadcast(p.data, 0)
    losses = list(steps_of(model, part, settings["rate"], settings["steps"], seed, rank, dist.get_world_size()))
    if rank == 0:
        with Monitor(run_dir) as board:
            for step, loss in enumerate(losses):
                board.scalars(step, {"Loss": loss})
            for step in (0, len(losses)):
                board.scalars(step, {"Val": right(model, open_part(folder, "val"))})
        save_file(model.state_dict(), run_dir / "reader.safetensors")
        (run_dir / "settings.json").write_text(json.dumps(settings))
    return model


def load(run_dir, device):
    model = Reader()
    model.load_state_dict(load_file(run_dir / "reader.safetensors"))
    return model.to(device).eval()


def shows(records):
    """Whether the fifth step of an epoch always has the files of the first epoch's fifth."""
    fifth = records.files[1][4 :: records.steps_per_epoch]
    return len({tuple(files) for files in fifth}) == 1


def write_report(measured, page: Path):
    gain = paired(torch.tensor(measured.tuned).double().mean(0), measured.present)
    one, axes = figures.new(5, 2)
    axes.hist(measured.present)
    other, axes = figures.new(5, 2)
    axes.plot(measured.trials, "o")
    rows = {
        "Present reader": f"{100 * np.mean(measured.present):.1f}%",
        "New reader": f"{100 * np.mean(measured.tuned):.1f}%",
        "Gain in points": f"{100 * gain.mean:.1f}",
        "95% interval of the gain": f"{100 * gain.low:.1f} … {100 * gain.high:.1f}".replace("-", "−"),
        "Seeds, cards": f"{len(measured.tuned)}, {gain.pairs}",
        "CPU-seconds, budget": f"{measured.cpu_seconds:.0f}, {measured.budget:.0f}",
    }
    words = "The interval is over cards, as all of the pictures of a card have the same light. " * 3
    table = "".join(f"<tr><td>{name}<td>{value}" for name, value in rows.items())
    images = f'<img src="{embedded(one)}" alt="How the present reader does, card by card">'
    images += f'<img src="{embedded(other)}" alt="Validation accuracy of each trial">'
    page.write_text(f"<style>td {{padding: 9px}}</style><table>{table}</table>{words}{images}", encoding="utf-8")


SETTINGS = PLAN[-1]
