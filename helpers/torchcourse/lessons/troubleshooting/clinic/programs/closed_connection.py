"""Train one model on several ranks, and stop when the validation loss no longer falls."""

import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.data import mnist
from torchcourse.models import mlp
from torchcourse.ranks.run import run_ranks


def average_gradients(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


@torch.no_grad()
def validation_loss(model, images, labels):
    return F.cross_entropy(model(images), labels)


def train_until_stale(model, train, val, epochs=12, patience=2, lr=0.05):
    """Train on this rank's parts; stop after `patience` epochs without a better
    validation loss. Returns the losses.
    """
    images, labels = train
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    best, stale, losses = float("inf"), 0, []
    for epoch in range(epochs):
        for batch in torch.arange(len(images)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            average_gradients(model)
            optimizer.step()
        loss = validation_loss(model, *val).item()
        losses.append(loss)
        print(f"epoch {epoch}: validation loss {loss:.3f}")
        if loss < best:
            best, stale = loss, 0
        else:
            stale += 1
        if stale == patience:
            break
    return losses


def one_rank(train, val, seed):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(seed)
    model = mlp(784, 32, 10)
    shares = [[tensor[rank::ranks] for tensor in part] for part in (train, val)]
    return train_until_stale(model, *shares), list(model.parameters())


def main(ranks=2, samples=192, seed=0):
    images, labels = mnist()[: samples + 120]
    train, val = (
        (images[:samples], labels[:samples]),
        (images[samples:], labels[samples:]),
    )
    results = run_ranks(one_rank, train, val, seed, world_size=ranks, timeout=20)
    print(f"stopped after {[len(losses) for losses, _ in results]} epochs")
    return results


if __name__ == "__main__":
    main()
