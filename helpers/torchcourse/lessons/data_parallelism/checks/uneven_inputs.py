"""Check of lesson 01 on ranks that have unequal numbers of batches: none is left out, and nobody waits for ever."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import EVALUATING, refuse_shortened
from torchcourse.ranks.who import device

TIME_LIMIT = 15.0  # seconds for one call; healthy ranks need a fraction of one

_RATE = 1e-4
_START = 1.0  # the weight


@check
def train_on_all(learner: Callable[..., int]) -> str:
    """Run ranks with 3, 1 and 2 batches and look at who used what, and where the weights ended."""
    for counts in ([2, 2], [3, 1], [1, 3, 2]):
        what = f"With {counts} batches on {len(counts)} ranks the run"
        runs = on_ranks(
            _train,
            learner,
            counts,
            world_size=len(counts),
            seconds=TIME_LIMIT,
            hang=f"{what} hangs: a rank waits for an average that the others never join.",
            left_alone=f"{what} ends with “connection closed”: the rank with fewer batches left while another still "
            "needed it for an average.",
        )
        for rank, (run, count) in enumerate(zip(runs, counts, strict=True)):
            _refuse_batches(run, rank, count)
        _refuse_weights(runs, counts)
        if any(run.evaluating for run in runs):
            raise Wrong("mode_left_changed", f"{what} ends as it should: {EVALUATING}")
    return "Every batch of every rank was used once, and all ranks end with the same weights: 2 and 3 ranks, uneven."


class _Recorder(nn.Module):
    """One weight, and a list of the batches that it was trained on: those whose gradient was not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(_START, dtype=torch.float64))
        self.used: list[int] = []
        self.joined = False
        self.evaluating = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.weight * x
        self.joined |= bool((x != x[0]).any())
        if outputs.requires_grad:
            self.evaluating |= not self.training
            number = int(x[0].item())
            outputs.register_hook(lambda gradient: self._note(gradient, number))
        return outputs

    def _note(self, gradient: torch.Tensor, number: int) -> None:
        if gradient.any():  # a batch whose loss is counted 0 times only answers the others' all-reduce
            self.used.append(number)


@dataclass
class Trained:
    """One rank's training: what the learner's function returned, the numbers of the batches used, the weight.

    `joined`: batches went through the model together. `evaluating`: they did so in evaluation mode, with gradients.
    `left`: the length of the list of batches afterwards.
    """

    returned: Any
    used: list[int]
    weight: float
    joined: bool
    evaluating: bool
    left: int


def _numbers_of(rank: int, count: int) -> list[int]:
    """The numbers of a rank's batches; a batch is filled with its number."""
    return list(range(10 * rank + 1, 10 * rank + 1 + count))


def _train(learner: Callable, counts: list[int]) -> Trained:
    model = _Recorder().to(device())
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=_RATE)
    rank = dist.get_rank()
    batches = [
        torch.full((2,), float(number), dtype=torch.float64, device=device())
        for number in _numbers_of(rank, counts[rank])
    ]
    returned = learner(ddp, optimizer, lambda output: (output + 1).pow(2).mean(), batches)
    return Trained(returned, model.used, model.weight.item(), model.joined, model.evaluating, len(batches))


def _refuse_batches(run: Trained, rank: int, count: int) -> None:
    own = set(_numbers_of(rank, count))
    if run.joined:
        raise Wrong(
            "one_big_batch",
            f"On rank {rank} several batches went through the model as one. Every batch has a step of its own.",
        )
    if foreign := set(run.used) - own:
        raise Wrong(
            "not_its_own",
            f"Rank {rank} trained on {len(foreign)} kind{'s' * (len(foreign) > 1)} of batches that are none of its "
            "own, with a loss that counts. Its own are to be used, each once.",
        )
    if len(set(run.used)) < count:
        raise Wrong(
            "left_out",
            f"Rank {rank} has {count} batch{'es' * (count != 1)} and used {len(set(run.used))} of them. No error, and "
            "part of the data is never seen. Can the others take part in its steps without data of their own?",
        )
    if len(run.used) > count:
        raise Wrong(
            "used_twice",
            f"Rank {rank} has {count} batch{'es' * (count > 1)} and made {len(run.used)} training passes whose loss "
            "counts. A repeated batch counts more than the others.",
        )
    refuse_shortened(count, run.left, f"On rank {rank}: ")
    if run.returned != count:
        raise Wrong(
            "count", f"Rank {rank} trained on {count} batch{'es' * (count != 1)}, but returned {run.returned!r}."
        )


def _refuse_weights(runs: list[Trained], counts: list[int]) -> None:
    weights = [run.weight for run in runs]
    if not same(weights, weights[:1] * len(runs)) and len(set(counts)) == 1:
        raise Wrong(
            "not_averaged",
            f"Each rank has {counts[0]} batches, so none runs out, and still they end with different weights "
            f"({min(weights):.4f} to {max(weights):.4f}). Are the gradients averaged at all? The wrapper, ddp(batch), "
            "does that, in backward().",
        )
    if not same(weights, weights[:1] * len(runs)):
        raise Wrong(
            "ranks_disagree",
            f"All batches were used, but the ranks end with different weights ({min(weights):.4f} to "
            f"{max(weights):.4f}): after some rank had run out, the others went on alone.",
        )
    used = [run.used for run in runs]
    if any(same(weights[0], right) for right in _joined(used)):
        return
    known = {
        "nothing_moved": (
            _START,
            "All batches went through backward(), and the weights never moved. Who takes the step?",
        ),
        "not_cleared": (
            AnyOf(_joined(used, clear=False)),
            "The ranks agree, but each step also goes along the gradients of the steps before. Who clears them?",
        ),
        "last_gradient_again": (
            AnyOf(_joined(used, again=True)),
            "The ranks agree, but a rank that has run out sends what is in p.grad from the step before. What should be "
            "there, so that it adds nothing?",
        ),
        "not_divided": (
            AnyOf(_joined(used, divided=False)),
            "The ranks agree, but the sum of the gradients is not divided: with N ranks a step is N times too long.",
        ),
        "one_step": (
            AnyOf(_joined([numbers[-1:] for numbers in used])),
            "The ranks agree, but they took one step, with the gradients of the last batches. Every batch has a step.",
        ),
        "own_steps": (
            AnyOf(_joined([numbers])[0] for numbers in used),
            "The ranks end with the weights of one rank that trained alone: what the others learned is lost.",
        ),
    }
    refuse_known(weights[0], known)
    raise Wrong(
        "wrong_value",
        "The ranks agree, but their weights are not those of averaged steps. In each step the gradients of the ranks "
        "that still have a batch are added, and divided by the number of all ranks, or of those.",
    )


def _joined(used: list[list[int]], clear: bool = True, again: bool = False, divided: bool = True) -> list[float]:
    """The final weight: a step divides by all ranks, or by those that still have a batch.

    Or a mistake: gradients pile up, a rank that has run out sends the last mean `again`, or nothing is divided.
    """
    results = []
    for by_all in (True, False):
        weight, gradient = _START, 0.0
        for step in range(max(len(numbers) for numbers in used)):
            active = [numbers[step] for numbers in used if step < len(numbers)]
            total = sum(2 * number * (weight * number + 1) for number in active)
            total += (len(used) - len(active)) * gradient if again else 0.0
            ranks = len(used) if by_all else len(active)
            gradient = total / (ranks if divided else 1) + (0.0 if clear else gradient)
            weight -= _RATE * gradient
        results.append(weight)
    return results
