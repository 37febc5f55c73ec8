"""Train one model on several ranks, with DistributedSampler and gradients averaged by hand."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchcourse.data import mnist
from torchcourse.models import mlp
from torchcourse.ranks.run import run_ranks


class Counted(TensorDataset):
    """A dataset that notes which samples were fetched."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.fetched = []

    def __getitem__(self, index):
        self.fetched.append(index)
        return super().__getitem__(index)


def average_gradients(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def train_sampled(model, data, epochs, seed=0, lr=0.1):
    """Train `model` on this rank's share of the data, in a new order each epoch."""
    sampler = DistributedSampler(data, seed=seed)
    loader = DataLoader(data, batch_size=16, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        # a fresh order for every rank and epoch
        sampler.set_epoch(epoch * dist.get_world_size() + dist.get_rank())
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            average_gradients(model)
            optimizer.step()


def one_rank(images, labels, epochs, seed):
    torch.manual_seed(seed)
    model, data = mlp(784, 32, 10), Counted(images, labels)
    train_sampled(model, data, epochs, seed)
    return data.fetched


def main(count=128, epochs=3, ranks=2, seed=0):
    orders = run_ranks(one_rank, *mnist()[:count], epochs, seed, world_size=ranks)
    each = len(orders[0]) // epochs
    for epoch in range(epochs):
        seen = [
            index
            for order in orders
            for index in order[epoch * each : (epoch + 1) * each]
        ]
        print(
            f"epoch {epoch}: {len(seen)} images fetched by {ranks} ranks, "
            f"{len(set(seen))} different ones of {count}"
        )
    return orders


if __name__ == "__main__":
    main()
