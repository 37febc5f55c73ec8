"""Train in steps, save every tenth, and go on from there after a power cut."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from torchcourse.data import mnist
from torchcourse.models import mlp


class PowerCut(Exception):
    pass


def train_resumably(run, batch_of, steps, path, every=10):
    """Train `run` (model, optimizer, scheduler) up to step `steps`, from the
    checkpoint at `path` if there is one.
    """
    start = 0
    if path.exists():
        saved = torch.load(path)
        start = saved.pop("step")
        for name, state in saved.items():
            run[name].load_state_dict(state)
    for step in range(start, steps):
        images, labels = batch_of(step)
        loss = F.cross_entropy(run["model"](images), labels)
        run["optimizer"].zero_grad()
        loss.backward()
        if (step + 1) % every == 0:
            torch.save(
                {"step": step + 1}
                | {name: part.state_dict() for name, part in run.items()},
                path,
            )
        run["optimizer"].step()
        run["scheduler"].step()


def new_run(seed=0, lr=0.05):
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=60)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def batches(seed=0, size=16, cut=None):
    """Return the function that gives the batch of a step;
    the power goes at step `cut`.
    """
    images, labels = mnist()[:1000]

    def batch_of(step):
        if step == cut:
            raise PowerCut(f"in step {step}")
        chosen = torch.randint(
            1000, (size,), generator=torch.Generator().manual_seed(1000 * seed + step)
        )
        return images[chosen], labels[chosen]

    return batch_of


@torch.no_grad()
def validation_loss(model):
    images, labels = mnist("test")[:300]
    return F.cross_entropy(model(images), labels).item()


def main(steps=40, cut=27, seed=0):
    with tempfile.TemporaryDirectory() as folder:
        whole = new_run(seed)
        train_resumably(whole, batches(seed), steps, Path(folder, "whole.pt"))
        print(f"in one go: validation loss {validation_loss(whole['model']):.6f}")
        path = Path(folder, "cut.pt")
        try:
            train_resumably(new_run(seed), batches(seed, cut=cut), steps, path)
        except PowerCut as error:
            print(f"power cut {error}; started again")
        resumed = new_run(seed)
        train_resumably(resumed, batches(seed), steps, path)
        print(f"resumed:   validation loss {validation_loss(resumed['model']):.6f}")


if __name__ == "__main__":
    main()
