"""Programs with one silent bug each that were kept back while the rules of `SanityProbe` were set."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchcourse.tools.bench.programs import (
    Watch,
    batches,
    classifier,
    clouds,
    dense,
    fit,
    fit_tokens,
    images,
    sentences,
    step,
    train,
)


class _Augmented(Dataset):
    """Adds noise from a generator of its own, which each worker gets a copy of."""

    def __init__(self, samples: int) -> None:
        self.inputs, self.labels = clouds(samples)
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index] + torch.from_numpy(self.random.normal(0, 0.1, 12)).float(), self.labels[index]


class _HiddenLayers(nn.Module):
    """Keeps its layers in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = [nn.Linear(12, 12) for _ in range(2)], nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class _Attends(nn.Module):
    """Looks at the tokens that it is to foretell."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(tokens)))


def workers_draw_alike(watch: Watch) -> None:
    loader = DataLoader(_Augmented(128), 16, shuffle=True, num_workers=2)
    model = dense()
    fit(watch, model, loader, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def layers_in_a_list(watch: Watch) -> None:
    fit(watch, _HiddenLayers(), batches(*clouds()))


def future_is_seen(watch: Watch) -> None:
    tokens, model = sentences(200), _Attends()
    fit_tokens(watch, model, batches(tokens[:, :-1], tokens[:, 1:], size=16))


def statistics_stand_still(watch: Watch) -> None:
    fit(watch, dense(12, 4, nn.BatchNorm1d(24, momentum=0.0)), batches(*clouds()))


def validation_from_the_training_data(watch: Watch) -> None:
    """Two random splits with different seeds: most of the validation has been trained on."""
    x, y = clouds(300)
    seen, held = torch.randperm(300)[:240], torch.randperm(300)[:60]
    model = dense()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        train(model, optimizer, batches(x[seen], y[seen]))
        model.eval()
        with torch.no_grad():
            model(x[held])


def sorted_without_shuffle(watch: Watch) -> None:
    x, y = clouds()
    order = y.argsort()
    loader = DataLoader(TensorDataset(x[order], y[order]), 20)
    model = dense()
    fit(watch, model, loader, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def validation_is_augmented(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.Dropout(0.1), samples=500, adam=True)

    def noisy(rows: torch.Tensor) -> torch.Tensor:
        return rows + 0.3 * torch.randn_like(rows)

    with watch(model, optimizer):
        for _ in range(3):
            model.train()
            for xb, yb in batches(x[:400], y[:400], steps=8):
                step(optimizer, F.cross_entropy(model(noisy(xb)), yb))
            model.eval()
            with torch.no_grad():
                model(noisy(x[400:]))


def schedule_of_epochs_by_batch(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 12], gamma=0.1)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, F.cross_entropy(model(xb), yb))
            scheduler.step()


def stepped_past_the_scaler(watch: Watch) -> None:
    x, y, model, optimizer = classifier(adam=True)
    scaler = torch.amp.GradScaler("cpu")
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, scaler.scale(F.cross_entropy(model(xb), yb)))


def zero_grad_for_each_part(watch: Watch) -> None:
    """Of four parts per step, only the last one's gradient is left."""
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x, y, size=8, steps=40)):
            optimizer.zero_grad()
            (F.cross_entropy(model(xb), yb) / 4).backward()
            if number % 4 == 3:
                optimizer.step()


def seeded_in_each_step(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.Dropout(0.3))
    with watch(model, optimizer):
        for start in range(0, 400, 20):
            torch.manual_seed(0)
            step(optimizer, F.cross_entropy(model(x[start : start + 20]), y[start : start + 20]))


def frozen_by_mistake(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    model[0].requires_grad_(False)
    fit(watch, model, batches(x, y))


def targets_broadcast_by_hand(watch: Watch) -> None:
    x, _ = clouds()
    y = x[:, 0] - x[:, 1]
    model = dense(12, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, ((model(xb) - yb) ** 2).mean())
