"""Check of lesson 01 on clipping over shards: one norm for all ranks, and what each rank does with it."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, number, on_ranks, refuse_known, same
from torchcourse.ranks.who import device

Tensors = list[torch.Tensor]

_CLOSE = 1e-5  # torch divides by the norm plus 1e-6

_MAX_NORM = 1.5
_OTHER_MAX_NORM = 2.0


@check
def clip_shards(learner: Callable[[list[nn.Parameter], float], Any]) -> str:
    """Compare norm and gradients with torch's `clip_grad_norm_` on the whole gradients, on 2 and 3 ranks."""
    for world_size in (3, 2):
        runs = on_ranks(_clip, learner, world_size=world_size, known={"NoneType": ("no_gradient", _NO_GRADIENT)})
        _judge_large(*zip(*(run[0] for run in runs), strict=True))
        _judge_small(*zip(*(run[1] for run in runs), strict=True))
        _judge_other_limit(*zip(*(run[2] for run in runs), strict=True))
    return "The norm of the whole gradient on all ranks, and gradients scaled by it only if it is too large."


_NO_GRADIENT = (
    "A shard had no gradient: its `grad` is None, because its unit was not used in this step. Leave such shards out."
)
_FILLED = (
    "A shard that was not used had no gradient, and now it has one. With weight decay even a gradient of zeros makes "
    "an optimizer move it. Leave it alone."
)
_SILENT = "There is no error, and every rank holds other numbers anyway, so nobody notices."


def _judge_large(before: tuple[Tensors, ...], after: tuple[Tensors, ...], norms: tuple[Any, ...]) -> None:
    """Raise what is wrong where the gradient is longer than `max_norm`."""
    n, own = len(before), [_norm(gradients) for gradients in before]
    whole = math.sqrt(sum(norm**2 for norm in own))
    if len(after[0]) > len(before[0]):
        raise Wrong("unused_filled", _FILLED)
    if same(list(after), list(before), _CLOSE):
        raise Wrong("nothing_changed", "The gradients are as long as before. Multiply each of them in place.")
    if not same(list(after), _scaled(before, [_MAX_NORM / whole] * n), _CLOSE):
        _refuse_factors(before, after, own, whole)
    given = [number(norm) for norm in norms]
    if norms[0] is None:
        raise Wrong("nothing_returned", "The gradients are right. Return the norm that they had before, too.")
    if None in given:
        raise Wrong("no_number", f"The gradients are right. Return the norm, one number. You return {norms[0]!r}.")
    known = {
        "own_norm_returned": (own, "you return the norm of one rank's shards. Return that of the whole gradient."),
        "clipped_norm_returned": ([_MAX_NORM] * n, "you return the norm after clipping. Return the one before."),
        "square_returned": ([whole**2] * n, "you return the square of the norm."),
        "factor_returned": ([_MAX_NORM / whole] * n, "you return the factor. Return the norm."),
    }
    if not same(given, [whole] * n, _CLOSE):
        refuse_known(given, known, _CLOSE, where="The gradients are right, but ")
        raise Wrong("wrong_norm", f"The gradients are right. The norm was {whole:.4f}, and you return {given[0]}.")


def _refuse_factors(before: tuple[Tensors, ...], after: tuple[Tensors, ...], own: list[float], whole: float) -> None:
    refuse_known(list(after), _known_factors(before, own, whole), _CLOSE)
    length = math.sqrt(sum(_norm(gradients) ** 2 for gradients in after))
    if same(list(after), _scaled(before, [length / whole] * len(before)), _CLOSE):
        raise Wrong(
            "wrong_factor",
            f"All gradients are multiplied by the same factor, {length / whole:.4f}, as if the norm were "
            f"{_MAX_NORM * whole / length:.4f}. The norm is {whole:.4f}, the root of the sum of all squares.",
        )
    raise Wrong(
        "wrong_value",
        f"The gradient had the length {whole:.3f}. With max_norm {_MAX_NORM}, it has {length:.3f} after your function. "
        "Is every shard multiplied, once, by the same factor?",
    )


def _known_factors(before: tuple[Tensors, ...], own: list[float], whole: float) -> dict[str, tuple[list[Tensors], str]]:
    """Return what known mistakes leave of the gradients `before`; `own`: the norm of each rank's shards."""
    n = len(before)

    def by(*norms: float) -> list[Tensors]:
        return _scaled(before, [min(1.0, _MAX_NORM / norm) for norm in norms])

    each = [[_norm([gradient]) for gradient in gradients] for gradients in before]
    columns = [math.sqrt(sum(norm**2 for norm in column)) for column in zip(*each, strict=True)]
    return {
        "own_norm": (
            by(*own),
            f"Each rank clips by the norm of its own shards ({', '.join(f'{norm:.2f}' for norm in own)}), so their "
            f"parts are scaled by different factors, and the gradient points elsewhere. {_SILENT}",
        ),
        "norms_added": (
            by(*[sum(own)] * n),
            f"You add the norms of the ranks: {sum(own):.2f}. The norm is {whole:.2f}. What of a norm adds up?",
        ),
        "norms_of_shards_added": (
            by(*[sum(sum(norms) for norms in each)] * n),
            f"You add the norms of the shards: {sum(sum(norms) for norms in each):.2f}. The norm is {whole:.2f}. What "
            "of a norm adds up?",
        ),
        "norms_averaged": (by(*[sum(own) / n] * n), "You take the mean of the ranks' norms. What of a norm adds up?"),
        "largest_norm": (by(*[max(own)] * n), "You take the largest norm of a rank. What of a norm adds up?"),
        "norm_of_rank_0": (by(*[own[0]] * n), "All ranks use the norm of rank 0. The other shards count too."),
        "smallest_norm": (by(*[min(own)] * n), "You take the smallest norm of a rank. What of a norm adds up?"),
        "no_root": (by(*[whole**2] * n), "You divide by the sum of the squares. A norm is its root."),
        "squares_averaged": (
            by(*[whole / math.sqrt(n)] * n),
            f"Your norm is √{n} times too small: you take the mean of the squares. The shards are parts of one "
            "gradient: their squares add up.",
        ),
        "each_shard": (
            [
                [gradient * min(1.0, _MAX_NORM / norm) for gradient, norm in zip(gradients, norms, strict=True)]
                for gradients, norms in zip(before, each, strict=True)
            ],
            "Each shard is clipped by itself. There is one norm, over all shards of all ranks.",
        ),
        "each_unit": (
            [
                [gradient * min(1.0, _MAX_NORM / norm) for gradient, norm in zip(gradients, columns, strict=True)]
                for gradients in before
            ],
            "Each unit is clipped by itself. There is one norm, over all units.",
        ),
        "values_clamped": (
            [[gradient.clamp(-_MAX_NORM, _MAX_NORM) for gradient in gradients] for gradients in before],
            "You clamp each number by itself. Clipping by norm multiplies all of them by one factor.",
        ),
        "turned_round": (_scaled(before, [whole / _MAX_NORM] * n), "The gradients grow: your factor is upside down."),
        "made_to_length_one": (
            _scaled(before, [1 / whole] * n),
            "Your gradients have the length 1. They are to have the length max_norm.",
        ),
    }


def _judge_small(before: tuple[Tensors, ...], after: tuple[Tensors, ...], norms: tuple[Any, ...]) -> None:
    """Raise what is wrong where the gradient is shorter than `max_norm`, and to be left alone."""
    whole = math.sqrt(sum(_norm(gradients) ** 2 for gradients in before))
    if not same(list(after), list(before), _CLOSE):
        raise Wrong(
            "always_scaled",
            f"A gradient of length {whole:.3f} was changed, although max_norm is {_MAX_NORM}. Clipping makes long "
            "gradients shorter, and leaves the others as they are.",
        )
    given = [number(norm) for norm in norms]
    if None in given:
        raise Wrong("nothing_returned", "Where nothing is clipped, your function returns no norm. Return it always.")
    if not same(given, [whole] * len(given), _CLOSE):
        raise Wrong(
            "wrong_norm",
            f"Where nothing is clipped, your function returns {given[0]:.4f}. The norm is {whole:.4f}: return it as it "
            "is, also when it is smaller than max_norm.",
        )


def _judge_other_limit(before: tuple[Tensors, ...], after: tuple[Tensors, ...], norms: tuple[Any, ...]) -> None:
    """Raise what is wrong with a different `max_norm`, where the first one was served."""
    whole = math.sqrt(sum(_norm(gradients) ** 2 for gradients in before))
    length = math.sqrt(sum(_norm(gradients) ** 2 for gradients in after))
    if not same(list(after), _scaled(before, [_OTHER_MAX_NORM / whole] * len(before)), _CLOSE):
        raise Wrong(
            "one_max_norm_only",
            f"Right for max_norm {_MAX_NORM}. With max_norm {_OTHER_MAX_NORM} a gradient of length {whole:.3f} has the "
            f"length {length:.3f} after your function. With what do you compare the norm, and what is divided by it?",
        )
    if not same([number(norm) for norm in norms], [whole] * len(norms), _CLOSE):
        raise Wrong("wrong_norm", f"The gradients are right. The norm was {whole:.4f}, and you return {norms[0]}.")


def _norm(gradients: Tensors) -> float:
    return float(torch.cat(gradients).norm())


def _scaled(before: tuple[Tensors, ...], factors: list[float]) -> list[Tensors]:
    return [[gradient * factor for gradient in rank] for rank, factor in zip(before, factors, strict=True)]


def _clip(learner: Callable) -> list[tuple[Tensors, Tensors, Any]]:
    """Return gradients before, gradients after, and what the function returns: for a long and for a short gradient."""
    results = []
    # The second norm is below max_norm, and its square above; the third is above max_norm, and below its square.
    for length, max_norm in ((1.0, _MAX_NORM), (0.16, _MAX_NORM), (0.35, _OTHER_MAX_NORM)):
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
