"""The small networks that the lessons train: big enough to learn something, small enough for a laptop."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def small_cnn(num_classes: int = 10, width: int = 16) -> nn.Sequential:
    """Return a network of two convolutions with batch normalization, for images of shape [N, 1, 28, 28].

    It puts out logits of shape [N, num_classes]. With `width` 16 it has about 106,000 parameters and reaches 97 to 98%
    on MNIST 5,000 in eight epochs.
    """
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def mlp(*widths: int) -> nn.Sequential:
    """Return dense layers with ReLU between them: `mlp(784, 64, 10)` takes [N, 784] (or images) to [N, 10].

    It has no batch normalization: its gradient is a plain mean over samples, whatever batch they come in.

    Raises:
        ValueError: for fewer than two widths.
    """
    if len(widths) < 2:
        raise ValueError(f"mlp() needs at least the widths of its input and its output, but got {list(widths)}.")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TransformerBlock(nn.Module):
    """Attention and an MLP, each normed first and added to its input: [N, T, width] → [N, T, width].

    Source: the "pre-norm" block of Xiong et al. 2020, https://arxiv.org/abs/2002.04745
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.dense(self.norm2(x))


def row_transformer(
    blocks: int = 4, width: int = 32, heads: int = 4, side: int = 8, num_classes: int = 10
) -> nn.Sequential:
    """Return a transformer that reads an image [N, 1, side, side] row by row: an embedding, equal blocks, a head.

    Between its blocks travels a tensor [N, side, width]; it puts out logits [N, num_classes]. The defaults suit
    `data.digits()`.
    """
    layers = [TransformerBlock(width, heads) for _ in range(blocks)]
    return nn.Sequential(_Rows(side, width), *layers, _Head(width, num_classes))


class _Rows(nn.Module):
    """Each row of pixels as one token, with its place added: [N, 1, side, side] → [N, side, width]."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(side, width)
        self.place = nn.Parameter(0.1 * torch.randn(side, width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embed(images.squeeze(1)) + self.place


class _Head(nn.Module):
    """The mean over the tokens, then logits: [N, T, width] → [N, num_classes]."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm, self.classify = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.norm(x).mean(dim=1))
