"""Checks of lesson 04, notebook 2, histograms: counting on the device, dead units, the scale at the start."""

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number_of, refuse_formula, refuse_known, same, tensor_of
from torchcourse.lessons.monitoring.count_waits import CountWaits


@check
def fixed_histogram(learner: Callable[[Iterable[torch.Tensor], torch.Tensor], torch.Tensor]) -> str:
    """Compare with the counts of all values at once, for batches of different ranges and values outside the edges."""
    generator, waited, kept = torch.Generator().manual_seed(0), 0, 0
    unequal = torch.tensor([-1.0, -0.1, 0.0, 0.1, 3.0])
    for edges, unit in ((torch.linspace(-2, 2, 9), 1), (unequal, 1), (unequal.double(), 1), (unequal * _FAR, _FAR)):
        batches = _histogram_batches(edges, generator, unit)
        read = edges.clone()
        try:
            with CountWaits() as waits:
                given, most, results = _count_once(learner, batches, read)
        except (RuntimeError, IndexError) as error:
            if unit == 1:
                raise
            raise Wrong(
                "one_unit",
                f"Right for edges from -1 to 3. With edges and values {unit:,} times as large, your code stops: "
                f"{error}. Is a distance to an edge in it, as `- 1e-6`? What is small depends on the edges.",
            ) from error
        waited, kept = waited + waits.count, max(kept, results)
        bins = len(edges) - 1
        given = tensor_of(
            given, [bins], f"For {bins + 1} edges return a tensor of {bins}: a bin between each two edges."
        )
        _judge_counts(given, batches, edges)
        if not same(read, edges):
            raise Wrong("inputs_changed", f"The edges that you were given have changed: they are {read.tolist()} now.")
        if given.dtype != torch.int64:
            raise Wrong(
                "dtype",
                f"The counts are right, but their type is {given.dtype}, and asked for is int64."
                + (" A float32 does not count beyond 16,777,216." if given.dtype == torch.float32 else ""),
            )
    if most > 2:
        raise Wrong(
            "all_in_memory",
            f"The counts are right, but {most} of {len(batches)} batches were in memory together. Count each batch "
            "when it comes, and let go of it.",
        )
    if kept > 1:
        raise Wrong(
            "results_kept",
            f"The counts are right, but at the end what you had made of {kept} batches was still in memory, as many "
            "numbers as the batches hold. Add up counts, and keep nothing of the size of a batch.",
        )
    if waited:
        raise Wrong(
            "waits",
            f"The counts are right, but {waited} times you turned a tensor into a number or took it to the CPU: each "
            "waits for the device. Count with functions on whole tensors, where they are.",
        )
    return "All values of all batches in the same bins, none lost: checked on equal and on unequal bins."


_FAR = 10_000
"""By what edges and values are multiplied once: a float32 of this size has no room for a small distance to an edge."""


def _histogram_batches(edges: torch.Tensor, generator: torch.Generator, unit: int) -> list[torch.Tensor]:
    """Batches of different ranges, with values outside the edges, on the second and the last, and just below one."""
    sizes = ((50, 0.3), (20, 3.0), (31, 1.0))
    batches = [torch.randn(size, generator=generator, dtype=edges.dtype) * scale * unit for size, scale in sizes]
    batches[0][0], batches[2][-1] = edges[2], edges[-1]
    batches[2][0] = torch.nextafter(edges[3], edges[0])
    return batches


def _count_once(
    learner: Callable[[Iterable[torch.Tensor], torch.Tensor], torch.Tensor],
    batches: list[torch.Tensor],
    edges: torch.Tensor,
) -> tuple[torch.Tensor, int, int]:
    """Return what the learner counts in copies of the batches, and how many of them were in memory together; and of how
    many batches a result of their size was left after the last."""
    given: list[weakref.ref] = []
    made = _Results()
    most = left = 0

    def copies() -> Iterator[torch.Tensor]:
        nonlocal most, left
        for batch in batches:
            made.begin(len(batch))
            copy = batch.clone()
            given.append(weakref.ref(copy))
            yield copy
            if not torch.equal(copy, batch):
                raise Wrong("inputs_changed", "The values of a batch have changed. A function that counts only reads.")
            del copy
            most = max(most, sum(one() is not None for one in given))
        left = made.left()

    with made:
        return learner(copies(), edges), most, left


class _Results(TorchDispatchMode):
    """Notes, for each batch, which tensors with as many numbers as it has were made while it was the last one."""

    def __init__(self) -> None:
        super().__init__()
        self._size = 0
        self._made: list[list[weakref.ref]] = []

    def begin(self, size: int) -> None:
        self._size = size
        self._made.append([])

    def left(self) -> int:
        """Of how many batches such a tensor is still in memory."""
        return sum(any(one() is not None for one in made) for made in self._made)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._made and isinstance(result, torch.Tensor) and result.numel() >= self._size:
            self._made[-1].append(weakref.ref(result))
        return result


def _judge_counts(given: torch.Tensor, batches: list[torch.Tensor], edges: torch.Tensor) -> None:
    values = torch.cat(batches)
    right, total, found = _counts(values, edges), len(values), float(given.sum())
    if same(given, right):
        return
    last = edges[-1]
    known = {
        "shares": (
            right.double() / total,
            f"Your bins hold shares. Asked for are counts of {total} values, which can be added up.",
        ),
        "one_batch": (
            AnyOf(_counts(batch, edges) for batch in batches),
            f"Only one batch is in your counts: {found:g} of {total} values.",
        ),
        "lost_outside": (
            AnyOf(_counts(values[(values >= edges[0]) & below], edges) for below in (values <= last, values < last)),
            f"You count {found:g} of {total} values: those beyond the outer edges are lost. Which bin takes them, and "
            "which a value on the last edge?",
        ),
        "own_range": (
            torch.stack([torch.histc(batch, len(edges) - 1) for batch in batches]).sum(dim=0),
            "Each batch got bins of its own, by its own range: such counts cannot be added.",
        ),
        "on_the_edge": (
            _counts(values, edges, right=False),
            "A value on an edge belongs to the bin that *begins* there.",
        ),
        "single_precision": (
            _counts(values.float(), edges.float()),
            "A value just below an edge is in the next bin: something is rounded to float32. The batches and the edges "
            f"are of the type {values.dtype}.",
        ),
        "once_per_batch": (
            torch.stack([_counts(batch, edges).clamp(max=1) for batch in batches]).sum(dim=0),
            "Each batch adds at most 1 to a bin: `counts[places] += 1` adds once for each place, however often it is "
            "named.",
        ),
        "last_edge": (
            right - torch.nn.functional.one_hot(torch.tensor(len(right) - 1)) * (values == edges[-1]).sum(),
            "A value on the last edge belongs to the last bin. You count it nowhere.",
        ),
        "equal_bins": (
            torch.histc(values.clamp(edges[0], edges[-1]), len(edges) - 1, float(edges[0]), float(edges[-1])),
            "Right for equal bins only. Use the edges that you are given.",
        ),
    }
    refuse_known(given, known, tolerance=1e-5)
    raise Wrong("wrong_value", f"You count {given.tolist()}, and right is {right.tolist()}.")


def _counts(values: torch.Tensor, edges: torch.Tensor, right: bool = True) -> torch.Tensor:
    place = (torch.bucketize(values, edges, right=right) - 1).clamp(0, len(edges) - 2)
    return torch.bincount(place, minlength=len(edges) - 1)


@check
def dead_share(learner: Callable[[nn.Module, list[torch.Tensor]], Mapping[str, float]]) -> str:
    """Compare on a network whose units are alive in different batches, and look for hooks that were left behind."""
    for seed, sizes in ((0, (6, 6)), (1, (4, 9, 3))):
        model, batches = _half_dead(seed).train(mode=seed == 0), _batches(seed, sizes)
        model[1].register_forward_hook(lambda *_: None)  # somebody else's
        model[0].bias.grad = torch.ones(16)  # of a training step that is under way
        before = _hooks(model)
        state = _settings(model)
        given = learner(model, list(batches))
        if not isinstance(given, Mapping):
            raise Wrong("wrong_type", f"You return {type(given).__name__}, not a share for each ReLU by its name.")
        relus = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
        if set(given) != set(relus):
            raise Wrong("names", f"You return values for {sorted(given)}. The ReLUs are {' and '.join(relus)}.")
        _judge_dead({name: float(given[name]) for name in relus}, model, batches)
        if after := _hooks(model) ^ before:
            raise Wrong(
                "hooks_changed",
                f"The shares are right, but of the hooks on the model {len(after - before)} are new afterwards, and "
                f"{len(after & before)} are gone. Remove your own, and no others: each has the handle that "
                "`register_forward_hook` returned.",
            )
        if _settings(model) != state:
            raise Wrong(
                "mode_left_changed",
                "The shares are right, but the model is not as it was: training or evaluation mode, or requires_grad "
                "or the gradient of a parameter, has changed. Put it back.",
            )
    return "A unit is dead when no sample of any batch wakes it: checked on two networks, and no hook was left."


def _hooks(model: nn.Module) -> set[tuple[str, int]]:
    """The hooks before and after the forward pass, each by its module and its number."""
    own = [(name, module._forward_hooks, module._forward_pre_hooks) for name, module in model.named_modules()]
    for_all = torch.nn.modules.module._global_forward_hooks
    return {(name, hook) for name, *kinds in [*own, ("all modules", for_all)] for hooks in kinds for hook in hooks}


def _settings(model: nn.Module) -> tuple[list[bool], list[tuple[bool, list[float] | None]]]:
    """The mode of each module; whether each parameter needs a gradient, and the one that it has."""
    gradients = [(one.requires_grad, None if one.grad is None else one.grad.tolist()) for one in model.parameters()]
    return [module.training for module in model.modules()], gradients


def _half_dead(seed: int) -> nn.Sequential:
    """A network with two ReLU layers, of which seed 1 puts the second into a part of its own; some units wake for one
    sample only, some for none, one puts out very small numbers, and two
    of seed 1 the same number for all."""
    torch.manual_seed(seed)
    first, second, last = nn.Linear(4, 16), nn.Linear(16, 12), nn.Linear(12, 2)
    with torch.no_grad():
        first.bias.sub_(0.9)
        second.bias.sub_(0.15)
        first.weight[0] *= 1e-5
        first.bias[0] = 0
        if seed == 1:
            first.weight[1:3], first.bias[1:3] = 0, 0.5
    if seed == 1:
        return nn.Sequential(first, nn.ReLU(), nn.Sequential(second, nn.ReLU()), last)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


def _batches(seed: int, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 4, generator=generator) for size in sizes]


@torch.no_grad()
def _judge_dead(given: dict[str, float], model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    outputs = _outputs(model, torch.cat(batches))

    def each(share: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        return {name: share(output).double().mean().item() for name, output in outputs.items()}

    def dead(output: torch.Tensor, at_most: float = 0.0) -> torch.Tensor:
        return (output <= at_most).all(dim=0)

    right = each(dead)
    if same(given, right, tolerance=1e-5):
        return
    sizes = [len(batch) for batch in batches]
    rows = [
        {name: dead(part).double().mean().item() for name, part in zip(outputs, parts, strict=True)}
        for parts in zip(*(output.split(sizes) for output in outputs.values()), strict=True)
    ]
    known = {
        "one_batch": (AnyOf(rows), "That is the share in one batch. A unit asleep there may wake in another."),
        "mean_over_batches": (
            {name: sum(row[name] for row in rows) / len(rows) for name in right},
            "That is the mean of the batches' shares. A unit that wakes in one of them is alive.",
        ),
        "zeros_not_units": (
            each(lambda output: output == 0),
            "That is the share of *outputs* that are 0, and of a healthy ReLU about half are.",
        ),
        "any_zero": (
            each(lambda output: (output == 0).any(dim=0)),
            "You call a unit dead when it is 0 for *some* sample. Dead is: for all of them.",
        ),
        "threshold": (
            AnyOf(each(functools.partial(dead, at_most=most)) for most in (1e-2, 1e-3, 1e-4, 1e-5)),
            "You call a unit dead whose outputs are small. Dead is: exactly 0, for every sample.",
        ),
        "constant": (
            each(lambda output: (output == output[:1]).all(dim=0)),
            "A unit that puts out the same number for all samples is alive, unless that number is 0.",
        ),
        "alive_share": (each(lambda output: ~dead(output)), "That is the share of units that are alive."),
        "count_not_share": (
            each(lambda output: dead(output).sum()),
            "That is how many units are dead. Of how many?",
        ),
        "percent": ({name: 100 * share for name, share in right.items()}, "That is in percent. Asked for is a share."),
        "inputs_not_outputs": (
            dict.fromkeys(right, 0.0),
            "You find no dead unit at all. Do you look at what a ReLU gets, or at what it puts out?",
        ),
        "samples_not_units": (
            each(lambda output: (output == 0).all(dim=1)),
            "That is the share of *samples* without any unit awake. Which dimension counts units?",
        ),
    }
    refuse_known(given, known, tolerance=1e-5)
    raise Wrong("wrong_value", f"You return {given}, and right is {right}.")


def _outputs(model: nn.Sequential, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what each ReLU puts out: name → [samples, units]."""
    found = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Sequential):
            batch = layer(batch)
        if isinstance(layer, nn.ReLU):
            found[name] = batch
    return found


@check
def gradient_factor(learner: Callable[[float, int], float]) -> str:
    """Compare with scale^(hidden layers − 1)."""
    given = []
    for scale, layers in _NETWORKS:
        what = f"the factor for scale {scale:g} and {layers} hidden layers"
        given.append(number_of(learner(scale, layers), what))
    right = [scale ** (layers - 1) for scale, layers in _NETWORKS]
    if not same(given, right, tolerance=1e-6):
        refuse_formula(given, _NETWORKS, _FACTOR_MISTAKES)
        place = next(place for place, ours in enumerate(given) if not same(ours, right[place], tolerance=1e-6))
        scale, layers = _NETWORKS[place]
        raise Wrong(
            "wrong_value",
            f"For scale {scale:g} and {layers} hidden layers you return {given[place]:g}. Work it out for 2 hidden "
            "layers, then for 3.",
        )
    return "A product over the other layers: checked on 5 networks."


_NETWORKS = [(2.0, 5), (0.5, 8), (1.5, 1), (1.0, 20), (0.3, 6)]
"""The scale of the weights, and the number of hidden layers."""

_FACTOR_MISTAKES: dict[str, tuple[list[Callable[..., float]], str]] = {
    "own_layer_counted": (
        [lambda scale, layers: scale**layers],
        "You count all hidden layers. How many *other* ones are on the way? A layer's own weights do not count.",
    ),
    "layers_add_up": (
        [lambda scale, layers: scale * (layers - 1), lambda scale, layers: scale * layers],
        "Your factors add up. Each layer multiplies what it passes on: what comes of that?",
    ),
    "one_layer": ([lambda scale, layers: scale], "That would be true if a single layer lay on the way."),
    "upside_down": (
        [lambda scale, layers: scale ** (1 - layers)],
        "Larger weights make larger gradients, not smaller ones.",
    ),
    "power_of_layers": (
        [lambda scale, layers: float(layers) ** scale],
        "Which number is multiplied, and which counts how often?",
    ),
}
