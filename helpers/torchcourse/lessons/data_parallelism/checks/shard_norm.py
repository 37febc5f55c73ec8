"""Check of lesson 01 on clipping over shards: one norm for all ranks, and what each rank does with it."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, number, on_ranks, refuse_known, same
from torchcourse.ranks.who import device

Tensors = list[torch.Tensor]

_CLOSE = 1e-5  # torch divides by the norm plus 1e-6

# The length of the gradients, and max_norm. The second norm is below max_norm, and its square above; the third is above
# max_norm, and below its square.
_CASES = ((1.0, 1.5), (0.16, 1.5), (0.35, 2.0))


@check
def clip_shards(learner: Callable[[list[nn.Parameter], float], Any]) -> str:
    """Compare norm and gradients with torch's `clip_grad_norm_` on the whole gradients, on 2 and 3 ranks."""
    for world_size in (3, 2):
        by_rank = on_ranks(_clip, learner, world_size=world_size, known={"NoneType": ("no_gradient", _NO_GRADIENT)})
        for (_, max_norm), runs in zip(_CASES, zip(*by_rank, strict=True), strict=True):
            before, after, norms = map(list, zip(*runs, strict=True))
            _judge_gradients(before, after, max_norm)
            _judge_norms(norms, _length(before))
    return "The norm of the whole gradient on all ranks, and gradients scaled by it only if it is too large."


_NO_GRADIENT = (
    "A shard had no gradient: its `grad` is None, because its unit was not used in this step. Leave such shards out."
)


def _judge_gradients(before: list[Tensors], after: list[Tensors], max_norm: float) -> None:
    """Raise what is wrong with the gradients `after`, of each rank."""
    whole, length = _length(before), _length(after)
    if len(after[0]) > len(before[0]):
        raise Wrong(
            "unused_filled",
            "A shard that was not used had no gradient, and now it has one. With weight decay even a gradient of zeros "
            "makes an optimizer move it. Leave it alone.",
        )
    if same(after, _scaled(before, min(1.0, max_norm / whole)), _CLOSE):
        return
    if whole < max_norm:
        raise Wrong(
            "always_scaled",
            f"A gradient of length {whole:.3f} was changed, although max_norm is {max_norm}. Clipping makes long "
            "gradients shorter, and leaves the others as they are.",
        )
    if max_norm != _CASES[0][1]:
        raise Wrong(
            "one_max_norm_only",
            f"Right for max_norm {_CASES[0][1]}. With max_norm {max_norm} a gradient of length {whole:.3f} has the "
            f"length {length:.3f} after your function. With what do you compare the norm, and what is divided by it?",
        )
    if same(after, before, _CLOSE):
        raise Wrong("nothing_changed", "The gradients are as long as before. Multiply each of them in place.")
    refuse_known(after, _known_factors(before, max_norm), _CLOSE)
    factor = length / whole
    if factor and same(after, _scaled(before, factor), _CLOSE):
        question = "Is the factor upside down?" if factor > 1 else "What of a norm adds up over shards and ranks?"
        raise Wrong(
            "wrong_factor",
            f"All gradients are multiplied by the same factor, {factor:.4f}. Their length is {length:.3f} then, and "
            f"max_norm is {max_norm}. That factor fits a norm of {max_norm / factor:.4f}, and the norm is {whole:.4f}. "
            f"{question}",
        )
    raise Wrong(
        "wrong_value",
        f"The gradient had the length {whole:.3f}. With max_norm {max_norm}, it has {length:.3f} after your function. "
        "Is every shard multiplied, once, by the same factor?",
    )


def _known_factors(before: list[Tensors], max_norm: float) -> dict[str, tuple[Any, str]]:
    """Return what known mistakes leave of the gradients `before`."""

    def by(norm: float) -> float:
        return min(1.0, max_norm / norm)

    own = [_length([gradients]) for gradients in before]
    units = [_length([list(unit)]) for unit in zip(*before, strict=True)]
    each_shard = [[gradient * by(_length([[gradient]])) for gradient in gradients] for gradients in before]
    each_unit = [[gradient * by(norm) for gradient, norm in zip(rank, units, strict=True)] for rank in before]
    return {
        "own_norm": (
            [[gradient * by(norm) for gradient in gradients] for gradients, norm in zip(before, own, strict=True)],
            f"Each rank clips by the norm of its own shards ({', '.join(f'{norm:.2f}' for norm in own)}), so their "
            "parts are scaled by different factors, and the gradient points elsewhere. There is no error, and every "
            "rank holds other numbers anyway, so nobody notices.",
        ),
        "no_root": (
            _scaled(before, by(_length(before) ** 2)),
            "You divide by the sum of the squares. A norm is its root.",
        ),
        "each_by_itself": (
            AnyOf((each_shard, each_unit)),
            "Each shard, or each unit, is clipped by itself. There is one norm, over all shards of all ranks.",
        ),
        "values_clamped": (
            [[gradient.clamp(-max_norm, max_norm) for gradient in gradients] for gradients in before],
            "You clamp each number by itself. Clipping by norm multiplies all of them by one factor.",
        ),
    }


def _judge_norms(norms: list[Any], whole: float) -> None:
    """Raise what is wrong with what each rank returned, where the gradients are right."""
    if any(norm is None for norm in norms):
        raise Wrong("nothing_returned", "The gradients are right. Return the norm that they had before, always.")
    for rank, norm in enumerate(norms):
        given = number(norm)
        if given is None:
            raise Wrong("no_number", f"The gradients are right. Return the norm, one number. You return {norm!r}.")
        if not same(given, whole, _CLOSE):
            raise Wrong(
                "wrong_norm",
                f"The gradients are right. Their norm over all shards was {whole:.4f} before your function, and rank "
                f"{rank} returns {given:.4f}. Return it as it was, whether or not it is clipped.",
            )


def _length(ranks: list[Tensors]) -> float:
    """The norm of all gradients of these ranks together."""
    return math.hypot(*(float(gradient.norm()) for gradients in ranks for gradient in gradients))


def _scaled(before: list[Tensors], factor: float) -> list[Tensors]:
    return [[gradient * factor for gradient in rank] for rank in before]


def _clip(learner: Callable) -> list[tuple[Tensors, Tensors, Any]]:
    """Return gradients before, gradients after, and what the function returns, in each case."""
    results = []
    for length, max_norm in _CASES:
        # Rank 1's share is the longest and rank 2's the shortest, so that no rank stands for a different one.
        generator = torch.Generator().manual_seed(10 + dist.get_rank())
        shards = [nn.Parameter(torch.ones(size, dtype=torch.float64, device=device())) for size in (6, 3, 4)]
        for shard in shards[:2]:
            values = torch.randn(len(shard), generator=generator, dtype=torch.float64)
            shard.grad = (values * length * (1.0, 3.0, 0.2)[dist.get_rank()]).to(device())
        used = shards[:2]
        before = copies(shard.grad for shard in used if shard.grad is not None)
        norm = learner(shards, max_norm)
        after = copies(shard.grad for shard in shards if shard.grad is not None)
        results.append((before, after, norm.detach().cpu() if isinstance(norm, torch.Tensor) else norm))
    return results
