"""Train on few digits: make several noisy, shifted copies of each, and hold some back for validation."""

import torch
import torch.nn.functional as F

from torchcourse.data import mnist
from torchcourse.models import mlp


def augment(images, copies):
    """Return `copies` versions of each image [N, 1, 28, 28], shifted by up to one
    pixel; version by version.
    """
    versions = []
    for _ in range(copies):
        shift = torch.randint(-1, 2, (2,)).tolist()
        versions.append(torch.roll(images, shift, dims=(-2, -1)))
    return torch.cat(versions) + 0.3 * torch.randn(
        copies * len(images), *images.shape[1:]
    )


def make_splits(images, labels, copies=8, share=0.2):
    """Return (images, labels) to train on and (images, labels) to validate on, the
    given share of the data.
    """
    images, labels = augment(images, copies), labels.repeat(copies)
    order = torch.randperm(len(images))
    held_back = round(share * len(images))
    val, train = order[:held_back], order[held_back:]
    return (images[train], labels[train]), (images[val], labels[val])


def train_model(images, labels, epochs=4, lr=0.05):
    model = mlp(784, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def accuracy(model, images, labels):
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def main(originals=200, copies=8, seed=0):
    torch.manual_seed(seed)
    train, val = make_splits(*mnist()[:originals], copies)
    model = train_model(*train)
    print(f"trained on {len(train[0])} images, validated on {len(val[0])}")
    print(f"validation accuracy          {accuracy(model, *val):.1%}")
    print(f"the first month in service   {accuracy(model, *mnist('test')[:1000]):.1%}")
    return model


if __name__ == "__main__":
    main()
