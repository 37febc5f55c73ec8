"""Healthy training programs: loops, optimizers, schedules and losses that are built differently."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse.tools.bench.programs import Watch, batches, classifier, clouds, dense, fit, images, step, train


def plain_loop(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()


def lbfgs(watch: Watch) -> None:
    x, y = clouds(120)
    model = nn.Linear(12, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with watch(model, optimizer):
        for _ in range(8):
            optimizer.step(closure)


def adam_with_closure(watch: Watch) -> None:
    x, y, model, optimizer = classifier(adam=True)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):

            def closure(xb: torch.Tensor = xb, yb: torch.Tensor = yb) -> float:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(xb), yb)
                loss.backward()
                return loss.item()

            optimizer.step(closure)


def one_cycle_of_25_steps(watch: Watch) -> None:
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=25)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=25):
            step(optimizer, F.cross_entropy(model(xb), yb))
            scheduler.step()


def cosine_to_zero(watch: Watch) -> None:
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=20):
            step(optimizer, F.cross_entropy(model(xb), yb))
            scheduler.step()


def warm_up_from_zero(watch: Watch) -> None:
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 2000))
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=20):
            optimizer.zero_grad(set_to_none=False)
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()
            scheduler.step()


def tiny_learning_rate(watch: Watch) -> None:
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=20):
            model.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()


def steps_of_epochs(watch: Watch) -> None:
    """A StepLR by epoch, with epochs of five steps."""
    x, y = clouds(160)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    with watch(model, optimizer):
        for _ in range(5):
            train(model, optimizer, DataLoader(TensorDataset(x, y), 32, shuffle=True))
            scheduler.step()


def sum_reduction(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, F.cross_entropy(model(xb), yb, reduction="sum") / len(xb))


def class_weights_and_smoothing(watch: Watch) -> None:
    x, y, model, optimizer = classifier(adam=True)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 1.0, 4.0]), label_smoothing=0.1)
    fit(watch, model, batches(x, y), loss_fn, optimizer)


def loss_of_my_own(watch: Watch) -> None:
    """A focal loss, written out."""
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            logs = model(xb).log_softmax(dim=1)[torch.arange(len(yb)), yb]
            step(optimizer, -((1 - logs.exp()) ** 2 * logs).mean())


def accumulation(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for number, (xb, yb) in enumerate(batches(x, y, size=8, steps=40)):
            (F.cross_entropy(model(xb), yb) / 4).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()


def accumulated_sums(watch: Watch) -> None:
    """Sums of losses, and one division of the gradients before the step."""
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y, size=40):
            optimizer.zero_grad()
            for part, labels in zip(xb.split(10), yb.split(10), strict=True):
                F.cross_entropy(model(part), labels, reduction="sum").backward()
            for parameter in model.parameters():
                parameter.grad.div_(len(xb))  # type: ignore[union-attr]  # backward() has just made it
            optimizer.step()


def sharpness_aware(watch: Watch) -> None:
    """Two gradients per step: one to climb, one to descend."""
    x, y = clouds()
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=20):
            F.cross_entropy(model(xb), yb).backward()
            with torch.no_grad():
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                norm = torch.stack([g.norm() for g in grads]).norm()
                climbs = [0.05 * g / norm for g in grads]
                for parameter, climb in zip(model.parameters(), climbs, strict=True):
                    parameter.add_(climb)
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            with torch.no_grad():
                for parameter, climb in zip(model.parameters(), climbs, strict=True):
                    parameter.sub_(climb)
            optimizer.step()
            optimizer.zero_grad()


def moving_average_of_weights(watch: Watch) -> None:
    x, y = clouds()
    model = dense(12, 4, nn.Dropout(0.1))
    average = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            step(optimizer, F.cross_entropy(model(xb), yb))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
        average.eval()
        with torch.no_grad():
            average(x)


def autocast_to_bfloat16(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(xb), yb)
            step(optimizer, loss)


def scaler_with_clipping(watch: Watch) -> None:
    x, y, model, optimizer = classifier()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(xb), yb)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()


def tiny_data(watch: Watch) -> None:
    """Twelve samples, drawn with replacement."""
    x, y = clouds(12, 12, 3)
    model = dense(12, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer):
        for _ in range(20):
            rows = torch.randint(12, (32,))
            step(optimizer, F.cross_entropy(model(x[rows]), y[rows]))


def whole_data_in_each_step(watch: Watch) -> None:
    x, y = clouds(64)
    model = dense()
    optimizer = torch.optim.Rprop(model.parameters())
    with watch(model, optimizer):
        for _ in range(25):
            step(optimizer, F.cross_entropy(model(x), y))
        model.eval()
        with torch.no_grad():
            model(x)


def gradients_by_hand(watch: Watch) -> None:
    """The gradient comes from autograd.grad, and is put in place by hand."""
    x, y = clouds()
    model = dense()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            loss = F.cross_entropy(model(xb), yb)
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()


def adversarial_images(watch: Watch) -> None:
    """The attack runs in evaluation mode, the training in training mode."""
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(216, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=20):
            model.eval()
            attacked = xb.clone().requires_grad_()
            F.cross_entropy(model(attacked), yb).backward()
            assert attacked.grad is not None
            attacked = (attacked + 0.05 * attacked.grad.sign()).detach()
            model.train()
            step(optimizer, F.cross_entropy(model(attacked), yb))
