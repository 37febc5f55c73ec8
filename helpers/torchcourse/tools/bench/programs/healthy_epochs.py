"""Healthy training programs: validations, epochs and states that are handled differently."""

import copy
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchcourse.tools.bench.programs import Watch, batches, classifier, clouds, dense, evaluate, step, train
from torchcourse.training import Trainer


def course_trainer(watch: Watch) -> None:
    data = TensorDataset(*clouds())
    model = dense(12, 4, nn.Dropout(0.2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with tempfile.TemporaryDirectory() as folder, watch(model, optimizer):
        trainer = Trainer(model, optimizer, F.cross_entropy, log_dir=folder, progress=False)
        trainer.fit(DataLoader(data, 32, shuffle=True), 2, DataLoader(TensorDataset(*clouds()), 64))


def validation_at_the_start(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.BatchNorm1d(24), samples=500, adam=True)
    with watch(model, optimizer):
        for _ in range(3):
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x[400:]), y[400:]).item()
            model.train()
            train(model, optimizer, DataLoader(TensorDataset(x[:400], y[:400]), 50, shuffle=True))


def validation_in_the_middle(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.Dropout(0.3), samples=500, adam=True)
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x[:400], y[:400])):
            step(optimizer, F.cross_entropy(model(xb), yb))
            if number == 11:
                was = model.training
                model.eval()
                with torch.inference_mode():
                    model(x[400:])
                model.train(was)


def validation_at_the_end(watch: Watch) -> None:
    """As most scripts do it: train() at the start of each epoch, eval() at its end."""
    x, y, model, optimizer = classifier(nn.Dropout(0.3), samples=500, adam=True)
    with watch(model, optimizer):
        for _ in range(2):
            model.train()
            train(model, optimizer, batches(x[:400], y[:400], steps=12))
            evaluate(model, x[400:], y[400:])


def one_epoch_and_a_last_test(watch: Watch) -> None:
    """A script of one epoch, which never needs train()."""
    x, y, model, optimizer = classifier(nn.Dropout(0.3), samples=500, adam=True)
    with watch(model, optimizer):
        train(model, optimizer, batches(x[:400], y[:400]))
        model.eval()
        with torch.no_grad():
            F.cross_entropy(model(x[400:]), y[400:]).item()


def accuracy_on_the_training_batch(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.Dropout(0.3), adam=True)
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x, y)):
            step(optimizer, F.cross_entropy(model(xb), yb))
            if number % 5 == 0:
                with torch.no_grad():
                    (model(xb).argmax(dim=1) == yb).float().mean().item()


def ranks_share_of_the_data(watch: Watch) -> None:
    data = TensorDataset(*clouds(320))
    sampler: DistributedSampler = DistributedSampler(data, num_replicas=2, rank=1)
    loader = DataLoader(data, 20, sampler=sampler)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer):
        for epoch in range(3):
            sampler.set_epoch(epoch)
            train(model, optimizer, loader)


def copy_of_the_best_state(watch: Watch) -> None:
    x, y, model, optimizer = classifier(nn.Dropout(0.1), samples=500, adam=True)
    least, best = float("inf"), {}
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x[:400], y[:400])):
            model.train()
            step(optimizer, F.cross_entropy(model(xb), yb))
            if number % 6 == 5:
                model.eval()
                with torch.no_grad():
                    loss = F.cross_entropy(model(x[400:]), y[400:]).item()
                if loss < least:
                    least, best = loss, copy.deepcopy(model.state_dict())
        model.load_state_dict(best)


def saved_each_epoch(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with tempfile.TemporaryDirectory() as folder, watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x, y)):
            step(optimizer, F.cross_entropy(model(xb), yb))
            if number % 8 == 7:
                state = model.state_dict()
                torch.save({"model": state, "step": number}, f"{folder}/{number}.pt")


def weights_averaged_at_the_end(watch: Watch) -> None:
    """The BatchNorm statistics are measured again, without gradients and in training mode."""
    x, y, model, optimizer = classifier(nn.BatchNorm1d(24))
    loader = DataLoader(TensorDataset(x, y), 50, shuffle=True)
    with watch(model, optimizer):
        for _ in range(3):
            train(model, optimizer, loader)
        torch.optim.swa_utils.update_bn(([xb] for xb, _ in loader), model)
