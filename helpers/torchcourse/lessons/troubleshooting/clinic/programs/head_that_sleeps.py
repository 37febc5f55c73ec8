"""Fine-tune a pretrained digit network for a new question: is the digit smaller than five?"""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.data import mnist


class Classifier(nn.Module):
    """A backbone that brings its weights along, and a new head."""

    def __init__(self, inputs=784, features=32, classes=2):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, features), nn.ReLU()
        )
        self.head = nn.Linear(features, classes)

    def forward(self, images):
        return self.head(self.backbone(images))


def make_optimizer(model, lr):
    """The backbone learns at a tenth of the rate; whatever is not the backbone is
    new and learns at the full rate.
    """
    groups = {"backbone": [], "fc": []}
    for name, parameter in model.named_parameters():
        for prefix in groups:
            if name.startswith(prefix):
                groups[prefix].append(parameter)
    settings = [
        {"params": groups["backbone"], "lr": lr / 10},
        {"params": groups["fc"], "lr": lr},
    ]
    return torch.optim.SGD(settings, lr=lr, momentum=0.9)


def pretrain(model, images, labels, steps=60):
    """Stands for the weights that come from elsewhere:
    the backbone learns the ten digits.
    """
    digits = nn.Sequential(model.backbone, nn.Linear(model.head.in_features, 10))
    optimizer = torch.optim.Adam(digits.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(digits(images), labels).backward()
        optimizer.step()


def main(epochs=30, lr=0.05, seed=0):
    torch.manual_seed(seed)
    (images, digits), (test_images, test_digits) = (
        mnist("train")[:500],
        mnist("test")[:500],
    )
    model = Classifier()
    pretrain(model, images, digits)
    labels, test_labels = (digits >= 5).long(), (test_digits >= 5).long()
    optimizer = make_optimizer(model, lr)
    for epoch in range(epochs):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if epoch % 5 == 4:
            right = (model(test_images).argmax(1) == test_labels).float().mean().item()
            print(
                f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {right:.1%}"
            )


if __name__ == "__main__":
    main()
