"""The capstone solved with plain PyTorch, Optuna and Matplotlib: no Trainer, study, loader or split of the course."""

import base64
import csv
import io
from pathlib import Path

import numpy as np
import optuna
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure
from optuna.trial import TrialState
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from torch.utils.tensorboard import SummaryWriter

from torchcourse.error_bars import t95
from torchcourse.lessons.capstone.measured import Measured
from torchcourse.lessons.capstone.records import Records
from torchcourse.lessons.transfer.backbones import mnist_cnn
from torchcourse.ranks import device

EPOCHS = 2


class Lazy(Dataset):
    """Opens a file when its sample is asked for."""

    def __init__(self, folder, rows):
        self.folder, self.files, self.skipped, self.labels = folder, [], [], []
        for row in rows:
            try:
                with Image.open(folder / row["file"]) as image:
                    image.load()
            except OSError:
                self.skipped.append(row["file"])
            else:
                self.files.append(row["file"])
                self.labels.append(int(row["label"]))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.folder / self.files[index]) as image:
            pixels = 255 - np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC), dtype=np.float32)
        return torch.from_numpy(pixels / 255 - 0.1307)[None] / 0.3081, self.labels[index]


def open_part(folder, part):
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for_val = set(sorted({row["card"] for row in table})[::4])
    return Lazy(folder, [row for row in table if (row["card"] in for_val) == (part == "val")])


def new_model():
    body = mnist_cnn()
    return nn.Sequential(body, nn.Linear(64, 10))


@torch.no_grad()
def accuracy(model, data):
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(data, 100))
    model.train()
    return right / len(data)


def search(url, folder, trials):
    train_part, val_part = open_part(folder, "train"), open_part(folder, "val")
    study = optuna.create_study(storage=url, study_name="by hand", direction="maximize", load_if_exists=True)
    for trial in study.get_trials(states=[TrialState.RUNNING]):  # one process works here, so these are dead
        study.tell(trial.number, state=TrialState.FAIL)

    def objective(trial):
        torch.manual_seed(0)
        model = new_model()
        rate = trial.suggest_float("rate", 2e-3, 1e-2, log=True)
        size = trial.suggest_categorical("batch", [16, 32])
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(EPOCHS):
            for x, y in DataLoader(train_part, size, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        return accuracy(model, val_part)

    while (done := len(study.get_trials(states=[TrialState.COMPLETE]))) < trials:
        study.optimize(objective, n_trials=trials - done)
    return study


def train(settings, folder, run_dir, seed):
    torch.manual_seed(seed)
    train_part, val_part = open_part(folder, "train"), open_part(folder, "val")
    sampler: DistributedSampler = DistributedSampler(train_part, seed=seed)
    loader = DataLoader(train_part, settings["batch"] // dist.get_world_size(), sampler=sampler)
    replica = DistributedDataParallel(new_model().to(device()))
    optimizer = torch.optim.Adam(replica.parameters(), lr=settings["rate"])
    board = SummaryWriter(str(run_dir / "tensorboard")) if dist.get_rank() == 0 else None
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(replica(x.to(device())), y.to(device()))
            loss.backward()
            optimizer.step()
        if board:
            board.add_scalar("train/loss", loss.item(), epoch)
            board.add_scalar("val/accuracy", accuracy(replica.module, val_part), epoch)
    if board:
        board.close()
        torch.save({"weights": replica.state_dict()}, run_dir / "final.pt")
    # BatchNorm's statistics of rank 0 are those of the file: every rank returns them.
    for buffer in replica.module.buffers():
        dist.broadcast(buffer, 0)
    return replica.module


def load(run_dir, device):
    weights = torch.load(run_dir / "final.pt", map_location=device, weights_only=True)["weights"]
    model = new_model()
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in weights.items()})
    return model.to(device).eval()


def shows(records: Records) -> bool:
    """Whether every epoch has the same order."""
    each = records.steps_per_epoch
    epochs = [records.files[0][start : start + each] for start in range(0, len(records.files[0]), each)]
    return all(epoch == epochs[0] for epoch in epochs)


def embedded(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def write_report(measured: Measured, page: Path):
    new, old = np.array(measured.tuned), np.array(measured.present)
    gain = 100 * (new.mean(0) - old)
    reach = t95(len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
    scatter, lines = Figure(), Figure()
    scatter.subplots().scatter(old, new.mean(0))
    axes = lines.subplots()
    for steps, values in measured.curves:
        axes.plot(steps, values)
    text = [
        f"The present reader reads {100 * old.mean():.2f}%, the new one {100 * new.mean():.2f}%. That is",
        f"{gain.mean():.2f} percentage points more ({gain.mean() - reach:.2f} to {gain.mean() + reach:.2f} at 95%).",
        f"{len(new)} seeds were trained, and {len(gain)} cards that nobody had seen were read by both readers.",
        f"Cost: {measured.cpu_seconds:.1f} of {measured.budget:.1f} CPU-seconds.",
        "The interval is for cards like these. A different camera, light or hand was not tried, and one run of",
        "training may be somewhat better or worse than the mean of all of them, as the second picture shows.",
    ]
    pictures = [("Accuracy of both readers on each card", scatter), ("Validation accuracy over the steps", lines)]
    images = "".join(f'<p><img alt="{alt}" src="{embedded(figure)}"></p>' for alt, figure in pictures)
    page.write_text(f"<html><body><p>{' '.join(text)}</p>{images}</body></html>", encoding="utf-8")


SETTINGS = {"rate": 2e-3, "batch": 16}
