"""Catastrophic forgetting (치명적 망각): what a reader of MNIST loses when it learns other digits, and what helps.

    reader = mnist_reader()                              # 97% on MNIST
    after = learn(reader, new.train)                     # the small digits: coarser, by other writers
    accuracy(after, *old.test.tensors), accuracy(after, *new.test.tensors)      # few_labels.accuracy

`WAYS` lists what can be done about it. Each starts from the same reader and sees the same new images. Each has a knob
(`KNOBS`), and most knobs trade the old task against the new one: a way is a curve, one setting of it a point.

* lower rate: take smaller steps.
* head only: let the body be.
* rehearsal (리허설): keep a few old images and mix them in.
* distillation (지식 증류): on the new images, stay near what the old reader says of them. Needs no old images.
* EWC: hold each weight back as far as the old task depends on it.
* LoRA: train an adapter, which can be switched off.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from torchcourse.data import mnist
from torchcourse.data.loaders import make_loader
from torchcourse.lessons.transfer.backbones import MNIST_WEIGHTS, Classifier, mnist_cnn
from torchcourse.lessons.transfer.few_labels import WHITE, digit_pixels
from torchcourse.lessons.transfer.finetune import freeze, freeze_norms
from torchcourse.lessons.transfer.lora import add_lora
from torchcourse.models import small_cnn
from torchcourse.training import Trainer
from torchcourse.training.foreign import load_any

WAYS = ("fine-tuned", "lower rate", "head only", "rehearsal", "distillation", "EWC", "LoRA")

NEW_IMAGES, MEMORY = 300, 100
"""How many images of the new task are learned, and how many of the old one rehearsal keeps."""


class Knob(NamedTuple):
    """What a way can be set by, its usual value, and the values of its curve: from forgetting most to keeping most."""

    name: str
    usual: float
    tried: tuple[float, ...]


RATES = (3e-3, 1e-3, 5e-4, 2e-4)
KNOBS = {
    "fine-tuned": Knob("rate", 3e-3, RATES),
    "lower rate": Knob("rate", 5e-4, ()),
    "head only": Knob("rate", 3e-3, RATES),
    "rehearsal": Knob("old images", MEMORY, (20, 50, 100, 300)),
    "distillation": Knob("weight", 0.5, (0.2, 0.5, 1.0, 2.0)),
    "EWC": Knob("strength", 3e3, (1e3, 1e4, 1e5, 1e6)),
    "LoRA": Knob("rate", 3e-3, RATES),
}
"""The knob of each way; "lower rate" is a point on the curve of "fine-tuned"."""

SEEDS, CURVE_SEEDS = 10, 5
TABLE = Path(__file__).parent / "tables" / "forgetting.npz"


class Task(NamedTuple):
    """Images [N, 1, 28, 28], scaled as the reader wants them, and labels [N]: to learn, and to test."""

    train: TensorDataset
    test: TensorDataset


def mnist_reader() -> Classifier:
    """Return the course's small network with the last layer that it had on MNIST: a body and a head for ten digits."""
    network = small_cnn()
    with as_file(MNIST_WEIGHTS) as path:
        load_any(path, network, quiet=True)
    reader = Classifier(mnist_cnn(), num_classes=10)
    reader.head.load_state_dict(network[-1].state_dict())
    return reader.eval()


def tasks() -> dict[str, Task]:
    """Return the old task, "MNIST", and two new ones: "small digits", and "turned" (MNIST by a quarter turn)."""
    old = Task(mnist("train"), mnist("test"))
    return {
        "MNIST": old,
        "small digits": Task(small_digits("train"), small_digits("test")),
        "turned": Task(*(TensorDataset(part.tensors[0].rot90(1, (2, 3)), part.tensors[1]) for part in old)),
    }


def small_digits(split: Literal["train", "test"]) -> TensorDataset:
    """Return the 8×8 digits as MNIST shows digits: with a dark border, 28×28, in the scaling of the reader."""
    pixels, labels = digit_pixels(split)
    return TensorDataset(mnist_cnn(pretrained=False).scaling(pixels, top=WHITE), labels)


def learn(
    reader: Classifier,
    new: TensorDataset,
    way: str = "fine-tuned",
    old: TensorDataset | None = None,
    seed: int = 0,
    epochs: int = 5,
    keep_norms: bool = True,
    knob: float | None = None,
) -> Classifier:
    """Return a copy of the reader, on its device, that has learned `NEW_IMAGES` images of a new task.

    Args:
        reader: stays as it is.
        new: what to learn.
        way: one of `WAYS`.
        old: images of the old task, for "rehearsal" and "EWC".
        seed: chooses the images, their order, and the adapters' start.
        epochs: how often each image comes.
        keep_norms: whether BatchNorm keeps the old task's statistics.
        knob: a different value than the usual one of the way's `KNOBS`.

    Raises:
        ValueError: for an unknown way, or one that needs old images and gets none.
    """
    if way not in WAYS:
        raise ValueError(f"The ways are {', '.join(WAYS)}, but not {way!r}.")
    model = copy.deepcopy(reader)
    chosen = torch.randperm(len(new), generator=torch.Generator().manual_seed(seed))[:NEW_IMAGES]
    images, labels = new[chosen]
    knob = KNOBS[way].usual if knob is None else knob
    plan = Plan(way, model, TensorDataset(images, labels), reader, old, seed, knob)
    if keep_norms:
        freeze_norms(model)
    _PREPARE[way](plan)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=plan.rate, weight_decay=0)
    trainer = Trainer(model, optimizer, plan.loss, metrics={}, progress=False)
    data: Dataset = ConcatDataset([plan.new, *plan.memory]) if plan.memory else plan.new
    trainer.fit(make_loader(data, plan.batch_size, seed=seed), epochs)
    # The Trainer takes a model to the GPU. A copy is compared with its original, so it stays where that is.
    return model.to(next(reader.parameters()).device).eval()


@dataclass
class Plan:
    """What a way of learning starts from, and may change before the training begins: weights, data, loss, rate."""

    way: str
    model: Classifier
    new: TensorDataset
    reader: Classifier
    given: TensorDataset | None
    seed: int
    knob: float
    batch_size: int = 20
    loss: Callable[..., torch.Tensor] = F.cross_entropy
    rate: float = RATES[0]
    memory: Sequence[TensorDataset] = ()

    @property
    def old(self) -> TensorDataset:
        """The images of the old task.

        Raises:
            ValueError: if none were given.
        """
        if self.given is None:
            raise ValueError(f"{self.way} needs images of the old task.")
        return self.given


def _fine_tuned(plan: Plan) -> None:
    plan.rate = plan.knob


def _head_only(plan: Plan) -> None:
    plan.rate = plan.knob
    freeze(plan.model, "body")


def _rehearsal(plan: Plan) -> None:
    if plan.knob < 1 or len(plan.old) == 0:
        raise ValueError(f"Rehearsal keeps one old image or more, but not {plan.knob:g} of {len(plan.old)}.")
    kept = TensorDataset(*plan.old[: int(plan.knob)])
    plan.memory = [kept] * max(NEW_IMAGES // len(kept), 1)
    plan.batch_size = 40


def _distillation(plan: Plan) -> None:
    images, labels = plan.new.tensors
    with torch.no_grad():
        said = plan.reader.eval()(images)
    plan.new, plan.loss = (
        TensorDataset(images, torch.cat([labels[:, None], said], dim=1)),
        functools.partial(distillation, weight=plan.knob),
    )


def _ewc(plan: Plan) -> None:
    plan.loss = held_back(plan.model, importance(plan.reader, *plan.old[:NEW_IMAGES]), strength=plan.knob)


def _lora(plan: Plan) -> None:
    plan.rate = plan.knob
    freeze(plan.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        add_lora(plan.model, rank=8)


_PREPARE = {
    "fine-tuned": _fine_tuned,
    "lower rate": _fine_tuned,
    "head only": _head_only,
    "rehearsal": _rehearsal,
    "distillation": _distillation,
    "EWC": _ewc,
    "LoRA": _lora,
}


@functools.cache
def results() -> dict[str, np.ndarray]:
    """Return for each way the accuracies on MNIST and on small digits, [10 seeds, 2].

    `python -m torchcourse.tools.make_data.forgetting` measured them before.
    """
    with np.load(TABLE) as file:
        return {way: file[way] for way in WAYS}


@functools.cache
def curves() -> dict[str, np.ndarray]:
    """Return for each way that has several values of its knob the same accuracies, [values tried, 5 seeds, 2]."""
    with np.load(TABLE) as file:
        return {way: file[f"{way}/curve"] for way, knob in KNOBS.items() if knob.tried}


def distillation(
    outputs: torch.Tensor, targets: torch.Tensor, weight: float = 0.5, temperature: float = 2.0
) -> torch.Tensor:
    """Return the loss on new labels, plus how far the outputs are from what the old model said of the same images.

    Args:
        outputs: logits [N, C].
        targets: [N, 1 + C]: the label, then the old model's logits.
        weight: how much the old model's opinion counts.
        temperature: softens both opinions, so that small probabilities count, too.

    Source: Li and Hoiem 2016, "Learning without Forgetting", https://arxiv.org/abs/1606.09282
    """
    labels, said = targets[:, 0].long(), targets[:, 1:]
    softened, should = (outputs / temperature).log_softmax(dim=1), (said / temperature).softmax(dim=1)
    apart = F.kl_div(softened, should, reduction="batchmean") * temperature**2
    return F.cross_entropy(outputs, labels) + weight * apart


def importance(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return for each weight the mean square of its gradient over single samples: how much the task depends on it.

    It is the diagonal of the empirical Fisher information (피셔 정보), in evaluation mode.

    Args:
        model: trained on the old task.
        images, labels: N samples of the old task.
    """
    model = copy.deepcopy(model).eval()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, weights, image[None]), label[None])

    gradients = vmap(grad(loss), (None, 0, 0))
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y in zip(images.split(100), labels.split(100), strict=True):
        for name, each in gradients(weights, x, y).items():
            total[name] += each.square().sum(dim=0)
    return {name: squares / len(images) for name, squares in total.items()}


def held_back(
    model: nn.Module, importance: Mapping[str, torch.Tensor], strength: float = 3000.0
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a loss that pulls the model's weights toward where they are now, each as strongly as it is important.

    That is elastic weight consolidation (EWC): cross entropy + strength / 2 · Σ importance · (weight − start)².

    Source: Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796
    """
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        moved = sum(
            (importance[name].to(p.device) * (p - start[name].to(p.device)).square()).sum()
            for name, p in model.named_parameters()
        )
        return F.cross_entropy(outputs, targets) + strength / 2 * moved

    return loss


def blend(old: nn.Module, new: nn.Module, share: float) -> nn.Module:
    """Return a model whose weights and statistics lie between two: `(1 − share) · old + share · new`.

    Raises:
        ValueError: for models of different weights.

    Source: Wortsman et al. 2021, https://arxiv.org/abs/2109.01903
    """
    ones, others = old.state_dict(), new.state_dict()
    if {n: t.shape for n, t in ones.items()} != {n: t.shape for n, t in others.items()}:
        raise ValueError("Only weights of the same names and shapes can be blended.")
    between = copy.deepcopy(new)
    blended = {n: torch.lerp(t.float(), others[n].to(t.device).float(), share).to(t.dtype) for n, t in ones.items()}
    between.load_state_dict(blended)
    return between
