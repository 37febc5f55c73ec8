"""Programs with one silent bug each, on which the rules of `SanityProbe` were set."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchcourse.tools.bench.programs import (
    Watch,
    batches,
    classifier,
    clouds,
    dense,
    evaluate,
    fit,
    fit_tokens,
    sentences,
    step,
    train,
)
from torchcourse.tools.bench.programs.healthy_models import _Language


def eval_mode_from_the_middle(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.Dropout(0.3), samples=500, adam=True)
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x[:400], y[:400])):
            step(optimizer, F.cross_entropy(model(xb), yb))
            if number == 12:
                model.eval()
                with torch.no_grad():
                    model(x[400:])


def eval_mode_left_at_the_end(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.BatchNorm1d(24), samples=500, adam=True)
    with watch(model, optimizer):
        train(model, optimizer, batches(x[:400], y[:400], steps=20))
        evaluate(model, x[400:], y[400:])


def zero_grad_forgotten(watch: Watch) -> None:
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()


def loss_made_anew(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, torch.tensor(F.cross_entropy(model(xb), yb).item(), requires_grad=True))


def state_is_no_copy(watch: Watch) -> None:
    x, y, model, optimizer = classifier(samples=500, adam=True)
    least, best = float("inf"), {}
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x[:400], y[:400])):
            step(optimizer, F.cross_entropy(model(xb), yb))
            if number % 6 == 5:
                with torch.no_grad():
                    loss = F.cross_entropy(model(x[400:]), y[400:]).item()
                if loss < least:
                    least, best = loss, model.state_dict()
    model.load_state_dict(best)


def epoch_never_set(watch: Watch) -> None:
    data = TensorDataset(*clouds(320))
    loader = DataLoader(data, 20, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer):
        for _ in range(3):
            train(model, optimizer, loader)


def padding_is_counted(watch: Watch) -> None:
    tokens, model = sentences(200), _Language()
    lengths = torch.randint(3, 13, (200, 1))
    targets = torch.where(torch.arange(12) < lengths, tokens[:, 1:], 0)
    fit_tokens(watch, model, batches(tokens[:, :-1], targets, size=16))


def clipped_before_unscaling(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(xb), yb)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()


def head_not_in_the_optimizer(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    model[2] = nn.Linear(24, 4)
    fit(watch, model, batches(x, y), optimizer=optimizer)


def labels_shuffled_apart(watch: Watch) -> None:
    x, y = clouds()
    model, y = dense(), y[torch.randperm(len(y))]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    fit(watch, model, batches(x, y), optimizer=optimizer)


def optimizer_made_anew(watch: Watch) -> None:
    x, y, model, optimizer = classifier(adam=True)
    with watch(model, optimizer):
        for _ in range(3):
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            train(model, optimizer, batches(x, y, steps=8))


def clipped_to_nothing(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-5)
            optimizer.step()


def softmax_over_the_wrong_dimension(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, F.nll_loss(model(xb).log_softmax(dim=0), yb))
