"""Silent bugs to practice on: one healthy training, and for each bug the one change that spoils it.

    run = prepare(TASKS["blobs"], seed=0)
    BUGS["no_zero_grad"].plant(run)
    with run.probe() as probe:
        run.go(steps=25)
    probe.alarms()

Each bug trains without an error. None is exotic: all of them have been asked about on forums and found in reviews.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.models import small_cnn

VALIDATION = 200  # samples
_Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A model, and data for it.

    Attributes:
        model: returns a new model.
        data: `data(samples, seed)` returns inputs [N, …] and labels [N].
        classes: how many.
        batch: samples per batch.
        optimizer: from parameters and a learning rate.
        lr: the learning rate.
    """

    model: Callable[[], nn.Module]
    data: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]
    classes: int
    batch: int = 64
    optimizer: Callable = torch.optim.Adam
    lr: float = 3e-3


@dataclass
class Run:
    """A training in its parts, each of which a bug may change before it goes."""

    task: Task
    model: nn.Module
    inputs: torch.Tensor
    labels: torch.Tensor
    val_inputs: torch.Tensor
    val_labels: torch.Tensor
    optimizer: torch.optim.Optimizer
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy
    shuffle: bool = True
    order: tuple[str, ...] = ("zero_grad", "backward", "step")
    modes: tuple[bool, bool] = (True, False)
    accumulate: int = 1
    divide: bool = True
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    losses: list[float] = field(default_factory=list)

    def probe(self) -> SanityProbe:
        return SanityProbe(self.model, self.optimizer)

    def go(self, steps: int = 25) -> float:
        """Train for so many batches, validate, and return the accuracy."""
        taken = 0
        while taken < steps:
            order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
            for rows in order.split(self.task.batch)[: steps - taken]:
                self._batch(self.inputs[rows], self.labels[rows], taken)
                taken += 1
        return self.validate()

    def validate(self) -> float:
        self.model.train(self.modes[1])
        with torch.no_grad():
            guesses = torch.cat([self.model(part).argmax(dim=1) for part in self.val_inputs.split(100)])
        self.model.train(self.modes[0])
        return (guesses == self.val_labels).float().mean().item()

    def _batch(self, inputs: torch.Tensor, labels: torch.Tensor, number: int) -> None:
        self.model.train(self.modes[0])
        loss = self.loss(self.model(inputs), labels)
        self.losses.append(loss.item())
        first, last = number % self.accumulate == 0, (number + 1) % self.accumulate == 0
        for call in self.order:
            if call == "zero_grad" and first:
                self.optimizer.zero_grad()
            elif call == "backward":
                (loss / self.accumulate if self.divide else loss).backward()
            elif call == "step" and last:
                self.optimizer.step()
                if self.scheduler is not None:
                    self.scheduler.step()


def prepare(task: Task, seed: int = 0) -> Run:
    """Return a healthy run."""
    inputs, labels = task.data(1600 + VALIDATION, seed)
    torch.manual_seed(seed)
    model = task.model()
    return Run(
        task,
        model,
        inputs[VALIDATION:].clone(),  # a bug may write into them
        labels[VALIDATION:].clone(),
        inputs[:VALIDATION],
        labels[:VALIDATION],
        task.optimizer(model.parameters(), task.lr),
    )


@dataclass(frozen=True)
class Bug:
    """A silent bug.

    Attributes:
        line: what the programmer did, in words.
        plant: changes a run that `prepare` has made.
        alarms: the alarms of which one at least names it; empty for a bug that no cheap check can see.
    """

    line: str
    plant: Callable[[Run], None]
    alarms: tuple[str, ...] = ()


def _change(**parts: object) -> Callable[[Run], None]:
    """Return a bug that replaces parts of a run."""

    def plant(run: Run) -> None:
        for name, value in parts.items():
            setattr(run, name, value)

    return plant


class Around(nn.Module):
    """A model, with functions of its inputs and of its outputs that should not be there."""

    def __init__(self, model: nn.Module, before: _Function, after: _Function) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.after(self.model(self.before(inputs)))


def _around(before: _Function = lambda x: x, after: _Function = lambda x: x) -> Callable[[Run], None]:
    def plant(run: Run) -> None:
        run.model = Around(run.model, before, after)

    return plant


def last_layer(model: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """Return the model's last dense layer, with the module that it belongs to and its name there."""
    name, layer = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, last = name.rpartition(".")
    return model.get_submodule(parent), last, layer


def _head_left_out(run: Run) -> None:
    head = set(last_layer(run.model)[2].parameters())
    run.optimizer = run.task.optimizer([p for p in run.model.parameters() if p not in head], run.task.lr)


def _head_replaced(run: Run) -> None:
    parent, name, head = last_layer(run.model)
    setattr(parent, name, nn.Linear(head.in_features, head.out_features))


def _features_detached(run: Run) -> None:
    last_layer(run.model)[2].register_forward_pre_hook(lambda _, args: (args[0].detach(),))


def _frozen(run: Run) -> None:
    next(iter(run.model.parameters())).requires_grad_(False)


def _sorted(run: Run) -> None:
    order = run.labels.argsort(stable=True)
    run.inputs, run.labels, run.shuffle = run.inputs[order], run.labels[order], False


def _labels_permuted(run: Run) -> None:
    run.labels = run.labels[torch.randperm(len(run.labels))]


def _inputs_shifted(run: Run) -> None:
    run.inputs = run.inputs.roll(1, dims=0)


def _labels_from_1(run: Run) -> None:
    parent, name, head = last_layer(run.model)
    setattr(parent, name, nn.Linear(head.in_features, head.out_features + 1))
    run.optimizer = run.task.optimizer(run.model.parameters(), run.task.lr)
    run.labels, run.val_labels = run.labels + 1, run.val_labels + 1


def _scaled(factor: float, shift: float = 0.0) -> Callable[[Run], None]:
    def plant(run: Run) -> None:
        run.inputs, run.val_inputs = run.inputs * factor + shift, run.val_inputs * factor + shift

    return plant


def _validation_raw(run: Run) -> None:
    run.val_inputs = run.val_inputs * 78 + 33


def _one_buffer(run: Run) -> None:
    for start in range(0, len(run.inputs), 16):
        run.inputs[start : start + 16] = run.inputs[start]
    run.shuffle = False


def _rate(factor: float) -> Callable[[Run], None]:
    def plant(run: Run) -> None:
        for group in run.optimizer.param_groups:
            group["lr"] *= factor

    return plant


def _epochs_as_batches(run: Run) -> None:
    run.scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, step_size=8, gamma=0.1)


def _start_too_large(run: Run) -> None:
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.mul_(8)


def _dead_start(run: Run) -> None:
    # What a wrong sign in an initialization does: the first layer's units are far below 0 for every sample.
    module = next(m for m in run.model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d))
    module.register_forward_hook(lambda _module, _args, output: output * 0)


def _labels_partly_wrong(run: Run) -> None:
    wrong = torch.rand(len(run.labels)) < 0.2
    run.labels = torch.where(wrong, torch.randint(run.task.classes, run.labels.shape), run.labels)


def _validation_labels_shifted(run: Run) -> None:
    run.val_labels = (run.val_labels + 1) % run.task.classes


BUGS: dict[str, Bug] = {
    "no_zero_grad": Bug("no zero_grad()", _change(order=("backward", "step")), ("gradients_kept",)),
    "zero_grad_late": Bug(
        "zero_grad() between backward() and step()",
        _change(order=("backward", "zero_grad", "step")),
        ("gradients_empty",),
    ),
    "step_early": Bug(
        "step() before backward()", _change(order=("zero_grad", "step", "backward")), ("gradients_empty",)
    ),
    "softmax_twice": Bug(
        "softmax before cross_entropy", _around(after=lambda out: out.softmax(dim=1)), ("softmax_twice",)
    ),
    "softmax_over_batch": Bug("softmax(dim=0)", _around(after=lambda out: out.softmax(dim=0)), ("softmax_over_batch",)),
    "relu_at_the_end": Bug("ReLU after the last layer", _around(after=F.relu), ("one_sided_logits",)),
    "sigmoid_at_the_end": Bug("sigmoid after the last layer", _around(after=torch.sigmoid), ("one_sided_logits",)),
    "head_left_out": Bug("the optimizer has no head", _head_left_out, ("not_in_optimizer",)),
    "head_replaced": Bug("head replaced after the optimizer was made", _head_replaced, ("not_in_optimizer",)),
    "features_detached": Bug("features.detach() before the head", _features_detached, ("never_changes",)),
    "frozen_by_mistake": Bug("a layer is still frozen", _frozen, ("frozen",)),
    "always_eval": Bug("eval() and no train() after it", _change(modes=(False, False)), ("eval_in_training",)),
    "never_eval": Bug("no eval() for the validation", _change(modes=(True, True)), ("train_in_evaluation",)),
    "sorted": Bug("sorted data, no shuffle", _sorted, ("not_mixed", "classes_missing")),
    "labels_permuted": Bug("labels mixed without their inputs", _labels_permuted, ("labels_unrelated",)),
    "inputs_shifted": Bug("inputs one row away from their labels", _inputs_shifted, ("labels_unrelated",)),
    "labels_from_1": Bug("labels start at 1, one output more", _labels_from_1, ("classes_missing",)),
    "raw_inputs": Bug("inputs from 0 to 255", _scaled(78.6, 33.3), ("inputs_not_normalised",)),
    "normalised_twice": Bug("inputs divided by 255 twice", _scaled(1 / 255), ("inputs_not_normalised",)),
    "validation_raw": Bug("validation inputs not normalized", _validation_raw, ("validation_differs",)),
    "one_buffer": Bug("the dataset returns one buffer", _one_buffer, ("same_samples",)),
    "rate_too_high": Bug("learning rate 1,000 times too high", _rate(1000), ("diverges", "not_finite")),
    "rate_zero": Bug("learning rate 0", _rate(0), ("nothing_moves",)),
    "epochs_as_batches": Bug("schedule in epochs, stepped a batch", _epochs_as_batches, ("rate_collapses",)),
    "not_divided": Bug(
        "accumulation without dividing the loss", _change(accumulate=4, divide=False), ("sum_of_batches",)
    ),
    "start_too_large": Bug("initial weights 8 times too large", _start_too_large, ("first_loss",)),
    "dead_start": Bug("first layer dead", _dead_start, ("same_output", "never_changes")),
    "dropout_always": Bug(
        "F.dropout without training=", _around(before=lambda x: F.dropout(x, 0.2)), ("random_in_evaluation",)
    ),
    "batch_centred": Bug(
        "inputs centered over the batch", _around(before=lambda x: x - x.mean(dim=0)), ("samples_mixed",)
    ),
    "labels_partly_wrong": Bug("a fifth of the labels wrong", _labels_partly_wrong),
    "validation_shifted": Bug("validation labels off by one", _validation_labels_shifted, ("numbered_differently",)),
}


# Tasks


def blobs(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Five clouds of points with 20 coordinates each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 20, generator=generator)
    labels = torch.randint(5, (samples,), generator=generator)
    return 0.6 * centres[labels] + 0.8 * torch.randn(samples, 20, generator=generator), labels


def digits(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of digits, 14 × 14 pixels."""
    images, labels = mnist()[:]
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:samples]
    return F.avg_pool2d(images[rows], 2), labels[rows]


def _dense() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 5))


def _cnn() -> nn.Module:
    layers = list(small_cnn(width=4))
    layers[-3] = nn.Linear(8 * 3 * 3, 64)  # for 14 × 14 pixels
    return nn.Sequential(*layers)


TASKS = {"blobs": Task(_dense, blobs, 5), "digits": Task(_cnn, digits, 10, lr=5e-3)}
"""Those on which the thresholds of the rules were set. The tests judge the rules on others."""
