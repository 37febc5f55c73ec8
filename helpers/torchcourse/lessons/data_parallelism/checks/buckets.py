"""Checks of lesson 01 on buckets of gradients: which parameters share one, and how one is averaged in one message."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    TWO_RANKS_ONLY,
    Tensors,
    added,
    mistaken_averages,
    one_process,
    scaled,
    times_as_large,
    with_missing_gradients,
    wrong_places,
)
from torchcourse.lessons.data_parallelism.checks.traffic import watched
from torchcourse.ranks.who import device

TIME_LIMIT = 10.0  # seconds for one call; healthy ranks need a fraction of one

_STEPS = 3
_RATE = 0.5


@check
def fill_buckets(learner: Callable) -> str:
    """Ask for buckets of several lists of parameters, and test the rules of the exercise one by one."""
    answers = [_filling(learner, *case) for case in _CASES]
    for one in answers:
        _refuse_members(one)
    known = {
        "numbers_not_bytes": ([one.filled(one.each * one.limit) for one in answers], "Your code counts numbers."),
        "four_bytes": ([one.filled(one.each * one.limit // 4) for one in answers], "Your code takes 4 bytes for each."),
    }
    refuse_known([one.buckets for one in answers], known, where="The limit is in bytes, and numbers have 2 or 4. ")
    for one in answers:
        _refuse_cuts(one)
    return f"Last parameter first, none lost, none too full: checked on {len(_CASES)} lists of parameters."


@check
def average_bucket(learner: Callable) -> str:
    """Train three steps on 2 and on 3 ranks and compare every step with one process; count the all-reduces."""
    for world_size in (2, 3):
        runs = with_missing_gradients(
            _train,
            learner,
            world_size=world_size,
            seconds=TIME_LIMIT,
            hint=_NONE,
            known={"ProcessDied": ("sizes_differ", _SIZES_DIFFER)},
        )
        losses = [partial(_loss, step=step, ranks=range(world_size)) for step in range(_STEPS)]
        expected = one_process(_Tied(), runs[0].weights[0], _RATE, losses)
        if any(one.moved for one in runs):
            raise Wrong("weights_changed", "Your function changed the weights. Only the gradients are to be averaged.")
        for step in range(1, _STEPS + 1):
            if not same([one.weights[step] for one in runs], [expected[step]] * world_size):
                _judge_step(runs, step)
        calls = max((one.collectives for one in runs), key=len)
        if len(calls) > runs[0].buckets * _STEPS:
            raise Wrong(
                "many_messages",
                f"The averages are right, but {runs[0].buckets} buckets took {len(calls) // _STEPS} collectives per "
                "step. One bucket should travel as one row of numbers.",
            )
        if gathered := [name for name in calls if "gather" in name]:
            raise Wrong(
                "gathered",
                f"The averages are right, but {gathered[0]} brings the rows of all ranks to each rank. All-reduce "
                "brings their sum only.",
            )
    return (
        "Step by step the weights of one process, on 2 and on 3 ranks that start from different seeds, with a tied "
        "weight and a parameter that only rank 0 uses; one all-reduce per bucket."
    )


# Which parameters share a bucket

_FROZEN = (7, 9)  # parameters of these sizes are frozen
_CASES = (  # numbers in each parameter, limit in bytes, type of the numbers
    ((3, 2, 4, 1), 20, torch.float32),
    ((1, 1, 1, 1, 1, 1), 12, torch.float32),
    ((2, 7, 3, 9, 1), 16, torch.float32),
    ((50, 2, 3), 24, torch.float32),
    ((2, 3, 50), 24, torch.float32),
    ((2, 50, 1), 24, torch.float32),
    ((5,), 1000, torch.float32),
    ((2, 2, 2), 16, torch.float32),
    ((3, 2, 4, 1), 20, torch.float16),
)

Buckets = list[list[int]]
"""For each bucket the places of its parameters in the list."""


@dataclass
class Filling:
    """One case: the bytes of each parameter, the places of those that are trained, the limit, the learner's buckets.

    `each`: the bytes of one number.
    """

    size: list[int]
    trained: list[int]
    limit: int
    buckets: Buckets
    each: int

    def filled(self, limit: float) -> Buckets:
        """The buckets of this case for a limit in bytes."""
        buckets: Buckets = []
        for place in self.trained[::-1]:
            if not buckets or self.bytes_of(buckets[-1]) + self.size[place] > limit:
                buckets.append([])
            buckets[-1].append(place)
        return buckets

    def bytes_of(self, bucket: Sequence[int]) -> int:
        return sum(self.size[place] for place in bucket)

    def __str__(self) -> str:
        held = [[self.size[place] for place in bucket] for bucket in self.buckets]
        return f"For parameters of {self.size} bytes and a limit of {self.limit}, your buckets hold {held} bytes"


def _filling(learner: Callable, sizes: Sequence[int], limit: int, dtype: torch.dtype) -> Filling:
    parameters = [nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=size not in _FROZEN) for size in sizes]
    given, trained = list(parameters), _trained(parameters)
    buckets = _named(learner(given, limit), parameters)
    if list(map(id, given)) != list(map(id, parameters)) or trained != _trained(parameters):
        raise Wrong(
            "inputs_changed",
            "Your function changed the list that it was given, or what is frozen in it: whoever uses that list "
            "next finds it in a different order, or empty, or trains less. Leave it as it is.",
        )
    return Filling([parameter.nbytes for parameter in parameters], trained, limit, buckets, dtype.itemsize)


def _trained(parameters: Sequence[nn.Parameter]) -> list[int]:
    return [place for place, parameter in enumerate(parameters) if parameter.requires_grad]


def _named(buckets: Any, parameters: Sequence[nn.Parameter]) -> Buckets:
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    try:
        return [[places[id(parameter)] for parameter in bucket] for bucket in buckets]
    except (TypeError, KeyError):
        raise Wrong(
            "wrong_type", "Return a list of buckets, each of them a list of the very parameters that came in."
        ) from None


def _refuse_members(one: Filling) -> None:
    """Refuse buckets that do not hold each trained parameter once, in the order of the backward pass."""
    case, buckets, trained, size = str(one), one.buckets, one.trained, one.size
    flat = list(itertools.chain(*buckets))
    if not flat:
        raise Wrong(
            "no_parameter",
            "Your buckets hold no parameter at all. They are filled before the first backward pass, when .grad is None "
            "everywhere: a frozen parameter is one whose requires_grad is False.",
        )
    if frozen := set(flat) - set(trained):
        raise Wrong("frozen", f"{case}; number {min(frozen)} is frozen and gets no gradient, but it is in a bucket.")
    if lost := set(trained) - set(flat):
        question = ""
        if all(size[place] > one.limit for place in lost):
            question = " What does your code do with a parameter larger than the limit?"
        elif lost == set(one.filled(one.limit)[-1]):
            question = " What happens to the last bucket when the loop is over?"
        raise Wrong(
            "lost",
            f"{case}: the parameter of {size[min(lost)]} bytes (number {min(lost)}) is in none, so its gradient "
            f"would never be averaged.{question}",
        )
    if len(flat) > len(trained):
        raise Wrong("twice", f"{case}: some parameter is there twice and would be averaged twice.")
    if [] in buckets:
        raise Wrong("empty", f"{case}: a bucket is empty.")
    if flat == trained and len(trained) > 1:
        raise Wrong(
            "forward_order",
            f"{case}, in the order of the forward pass. Which gradient is ready first in the backward pass?",
        )
    if flat != trained[::-1]:
        raise Wrong("order", f"{case}. Last parameter first, also inside a bucket: {trained[::-1]}.")


def _refuse_cuts(one: Filling) -> None:
    """Refuse buckets that are too full, and those that were closed while there was room."""
    for bucket in one.buckets:
        if len(bucket) > 1 and one.bytes_of(bucket) > one.limit:
            raise Wrong("too_full", f"{one}: one has {one.bytes_of(bucket)} bytes. When do you look if it still fits?")
    for bucket, following in itertools.pairwise(one.buckets):
        if one.bytes_of([*bucket, following[0]]) <= one.limit:
            raise Wrong(
                "closed_early",
                f"{one}: there was still room in a bucket when the next one was begun. "
                "More buckets than needed are more messages than needed.",
            )


# How one is averaged

_NONE = (
    "Your code met a parameter whose .grad is None: nothing used it in this step. It needs a place in the row all the "
    "same."
)
_SIZES_DIFFER = (
    "A message was longer than what the receiver had made ready, and the process of a rank died of it. The row of a "
    "bucket must be equally long on all ranks, whatever gradients a rank has."
)


_PLACES = (range(3), range(3, 9))  # of the parameters of `_Tied`, in two buckets


class _Tied(nn.Module):
    """A model with what trips up an averaging: a tied weight, a layer that only rank 0 uses, one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 6)
        self.decode = nn.Linear(6, 4)
        self.back = nn.Linear(4, 6)
        self.back.weight = self.encode.weight
        self.only_rank_0 = nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2)
        self.double()

    def forward(self, inputs: torch.Tensor, extra: bool) -> torch.Tensor:
        outputs = self.decode(torch.tanh(self.encode(inputs)))
        loss = (outputs - inputs).square().mean() + self.back(outputs).square().mean()
        return loss + self.only_rank_0(outputs).square().mean() if extra else loss


def _loss(model: nn.Module, step: int, ranks: Sequence[int]) -> torch.Tensor:
    """The mean loss of these ranks' inputs, on the device of the model."""
    losses, place = [], next(model.parameters()).device
    for rank in ranks:
        generator = torch.Generator().manual_seed(10 * step + rank)
        inputs = torch.randn(5, 4, generator=generator, dtype=torch.float64).to(place)
        losses.append(model(inputs, extra=rank == 0))
    return torch.stack(losses).mean()


@dataclass
class BucketRun:
    """One rank's training: weights before and after each step, own and averaged gradients of the first step.

    `moved`: the learner's function changed weights.
    """

    names: list[str]
    weights: list[Tensors]
    own: Tensors
    averaged: Tensors
    buckets: int
    collectives: list[str]
    moved: bool = False


def _train(learner: Callable, missing: bool) -> BucketRun:
    """Train with the learner's average; not `missing`: gradients that are None are zeros before it is called."""
    torch.manual_seed(dist.get_rank())
    model = _Tied().to(device())
    parameters = list(model.parameters())
    for parameter in parameters:
        dist.broadcast(parameter.detach(), src=0)
    buckets = [[parameters[place] for place in members[::-1]] for members in _PLACES[::-1]]
    optimizer = torch.optim.SGD(parameters, lr=_RATE)
    names = [name for name, _ in model.named_parameters()]
    run = BucketRun(names, [copies(parameters)], [], [], len(buckets), [])
    for step in range(_STEPS):
        optimizer.zero_grad()
        _loss(model, step, [dist.get_rank()]).backward()
        run.own = run.own or _gradients(parameters)
        if not missing:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        with watched() as traffic:
            for bucket in buckets:
                learner(list(bucket))
        run.collectives += traffic.collectives
        run.averaged = run.averaged or _gradients(parameters)
        run.moved |= not same([w.nan_to_num() for w in copies(parameters)], [w.nan_to_num() for w in run.weights[-1]])
        optimizer.step()
        run.weights.append(copies(parameters))
    return run


def _gradients(parameters: Sequence[nn.Parameter]) -> Tensors:
    """The gradients, zeros where there is none."""
    return copies(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)


def _judge_step(runs: Sequence[BucketRun], step: int) -> None:
    """Raise what is wrong with the first step after which the weights are not those of one process."""
    n, own, averaged = len(runs), [one.own for one in runs], [one.averaged for one in runs]
    if step > 1:
        raise Wrong("later_steps", f"The first step is right on {n} ranks, step {step} is not. What is left over?")
    mean = scaled(added(own), 1 / n)
    if any(ours.shape != wanted.shape for rank in averaged for ours, wanted in zip(rank, mean, strict=True)):
        raise Wrong("shape", "A gradient came back as a flat row. It needs the shape of its parameter again.")
    known = {
        "nothing_changed": (
            own,
            "Each rank still has its own gradients. torch.cat copies: the averages are in the row, and somebody has to "
            "put them back into p.grad.",
        ),
        **mistaken_averages(own),
    }
    refuse_known(averaged, known)
    if n > 2:
        raise Wrong("two_ranks_only", TWO_RANKS_ONLY)
    if same(averaged, [mean] * n, tolerance=1e-4):
        raise Wrong(
            "dtype",
            "The means are right to a few digits only. The gradients have more: what is the dtype of your row?",
        )
    _judge_parameters(runs, mean)


def _judge_parameters(runs: Sequence[BucketRun], mean: Tensors) -> None:
    """Raise which parameters have a wrong average, where no known mistake explains all of them."""
    wrong = wrong_places([one.averaged for one in runs], mean)
    of_rank_0 = runs[0].averaged
    names = ", ".join(runs[0].names[place] for place in wrong)
    if set(wrong) <= set(_PLACES[1]):
        raise Wrong(
            "missing_gradient",
            f"Wrong for {names} alone: all of these are in the bucket in which some p.grad is None, on one rank or on "
            "all. What does None count as, and do the others of that bucket get their mean?",
        )
    if same(of_rank_0, mean):
        raise Wrong(
            "one_rank_only",
            "Rank 0 has the means, the other ranks have not. Which collective gives the result to all ranks?",
        )
    ratios = [times_as_large(of_rank_0[place], mean[place]) if of_rank_0[place].any() else 0.0 for place in wrong]
    if None not in ratios:
        listed = ", ".join(f"{runs[0].names[place]} {ratio:.3g}" for place, ratio in zip(wrong, ratios, strict=True))
        raise Wrong(
            "wrong_factor",
            f"What rank 0 holds is the mean, times a number: {listed}. What is in the row, and by what is it divided?",
        )
    if len(wrong) < sum(bool(part.any()) for part in mean):
        raise Wrong(
            "some_parameters",
            f"Right for some parameters, wrong for {names}. Is the row cut where it was joined, and does each piece "
            "get its shape back?",
        )
    raise Wrong(
        "wrong_value",
        "The gradients are neither their own nor the mean. What happens to the numbers of a row on the way, is it cut "
        "where it was joined, and does each piece get its shape back?",
    )
