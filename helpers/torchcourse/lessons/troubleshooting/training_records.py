"""What a `TrainingWatch` writes down: passes, losses and steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import Optimizer
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING

_PLAIN = (torch.Tensor, bool, int, float, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Call:
    """The arguments of a call, to call a model again with some rows of the same batch."""

    leaves: list[Any]
    """A copy of all arguments, in order."""
    structure: Any
    first: int
    """Which of them is the first tensor."""

    @staticmethod
    def of(args: tuple, kwargs: dict, first: torch.Tensor) -> "Call | None":
        """Return a copy of the arguments; None where one of them is no tensor and no plain value."""
        leaves, structure = tree_flatten((args, kwargs))
        place = next((number for number, leaf in enumerate(leaves) if leaf is first), None)
        if place is None or not all(isinstance(leaf, _PLAIN) for leaf in leaves):
            return None
        leaves = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, leaves)
        return Call(leaves, structure, place)

    def again(self, batch: torch.Tensor, rows: slice = slice(None)) -> tuple[tuple, dict]:
        """Return the arguments with another batch; of what comes with it, a row for each sample, these rows only."""
        samples = len(self.leaves[self.first])
        leaves = [
            leaf[rows] if isinstance(leaf, torch.Tensor) and leaf.dim() and len(leaf) == samples else leaf
            for leaf in self.leaves
        ]
        leaves[self.first] = batch
        return tree_unflatten(leaves, self.structure)


@dataclass
class Pass:
    """One call of the model, or of a part of it where the loop calls the parts one by one."""

    training: bool
    """The mode of the whole model."""
    recorded: bool
    """Whether autograd recorded it."""
    samples: int
    step: int
    """How many steps had been taken before."""
    inputs: torch.Tensor | None
    """A copy of the first tensor that went in, if there was room."""
    output: torch.Tensor | None
    """The tensor that came out, without its graph."""
    random_state: int
    """Which random numbers come next: equal for equal states of the generator."""
    cumulative: bool
    """Whether a BatchNorm was averaging over all batches, as when its statistics are measured again."""
    entry: tuple[float, float] | None
    """Mean and spread of what came to the first layer with weights; None for tokens, zeros and ones."""
    call: Call | None
    """All that the model was called with, if there was room."""
    whole: bool = True
    """Whether it was the model that was called, not a part of it."""
    used: bool = False
    """Whether a step has taken a gradient that came through it."""
    answered: bool = False
    """Whether a loss compared an output of it, as it was, with answers that differ."""
    for_inputs: bool = False
    """Whether a gradient goes on to what the whole model got, as where an input is changed to deceive it."""
    begun: int = 0
    """How often the model had been given the weights again that it began with."""


@dataclass(frozen=True)
class Loss:
    """One call of a loss function of torch.nn.functional that a gradient can come from."""

    function: Any
    scores: torch.Tensor
    target: torch.Tensor
    value: float
    """Its value, or the mean of its values."""
    reduction: str
    ignored: int
    """The label that does not count."""
    seen: Pass | None
    """The pass before it, if it had as many samples as there are targets."""
    step: int
    maker: str
    """The operation that made the scores, as autograd calls it; "" where it was not recorded."""
    directions: bool
    """Whether the scores are products of vectors of length 1, times a number."""
    bootstrapped: bool
    """Whether the target is given numbers plus others that carry a gradient."""
    weight: torch.Tensor | None = None
    """What it weighs the classes with, or the answer 1."""

    @property
    def has_classes(self) -> bool:
        """Whether its targets are the numbers of classes."""
        return self.function in CLASSIFYING and not self.target.is_floating_point()

    @property
    def counted(self) -> torch.Tensor:
        """Which of its targets count."""
        return self.target != self.ignored if self.has_classes else torch.ones_like(self.target, dtype=torch.bool)

    @property
    def mean(self) -> float:
        """The loss per sample (or per number), without weights and however it was summed up."""
        if not self.has_classes:
            return self.value / (max(self.target.numel(), 1) if self.reduction == "sum" else 1)
        if not self.counted.any():
            return 0.0
        return self.function(self.scores.float(), self.target, ignore_index=self.ignored).item()

    @property
    def picks_rows(self) -> bool:
        """Whether each row's label is its own number, as where pairs are told from all others."""
        return self.target.numel() > 0 and torch.equal(self.target, torch.arange(len(self.target)))

    @property
    def inputs(self) -> torch.Tensor | None:
        """What the model got for these targets, a row for each."""
        return self.seen.inputs if self.seen is not None and self.target.dim() < 3 else None

    @property
    def of_output(self) -> bool:
        """Whether it got what the model had put out, as it was, and a step has learned from that."""
        out = None if self.seen is None or not self.seen.used else self.seen.output
        return out is not None and torch.equal(out.flatten(), self.scores.flatten())


@dataclass(frozen=True)
class OtherLoss:
    """One call of a loss function whose targets are no labels and no numbers to come near to."""

    name: str
    arguments: dict[str, Any]
    """By name; copies of the tensors."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it was about to happen; with a closure, as it has happened."""

    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    norms: dict[str, float | None]
    """The norm of each trainable parameter's gradient, None where there is none."""
    backwards: tuple[float, ...]
    """What `backward()` was called on, for those whose gradients are still there."""
    passes: tuple[Pass, ...]
    """The passes that these gradients came through."""
    lost: tuple[tuple[Pass, ...], ...]
    """The passes of gradients that were cleared before the step, while the weights were as they are now."""
    stale: bool
    """Whether the gradients of the step before were there at each backward pass since."""
    made: float
    """The norm of all gradients when the last backward pass was over."""
    norm: float
    """Their norm at the step."""
    before_unscaling: float | None
    """Their norm when a GradScaler began to unscale them."""
    scale: float
    """What `backward()` was called on, as a multiple of the last loss."""
    closure: bool
    optimizer: Optimizer


def inputs_of(passes: Iterable[Pass]) -> list[torch.Tensor]:
    """Return the inputs of these passes that were kept."""
    return [seen.inputs for seen in passes if seen.inputs is not None]


def float_inputs(passes: Iterable[Pass]) -> list[torch.Tensor]:
    """Return those inputs of these passes that are measured numbers."""
    return [inputs for inputs in inputs_of(passes) if inputs.is_floating_point()]
