"""Checks of lesson 04, notebook 2: counting on the device, dead units, naming runs, the scale of the start.

In the notebook's order: `fixed_histogram`, `dead_share`, `names_of_runs`, `gradient_factor`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.monitoring import sick_runs
from torchcourse.lessons.monitoring.count_waits import CountWaits
from torchcourse.training.events import RunLog

_UNKNOWN = {
    "A": ("vanishing", "narrow", 21),
    "B": ("over-fitting", "conv", 22),
    "C": ("exploding", "narrow", 23),
    "D": ("healthy", "conv", 24),
    "E": ("dead units", "conv", 25),
    "F": ("under-fitting", "narrow", 26),
    "G": ("saturated", "narrow", 27),
}
"""The runs that the learner names: other networks and seeds than those that the lesson shows."""

_SEE = {
    "vanishing": "the gradients from layer to layer, on their log axis",
    "exploding": "the size of the gradients and of the loss, and how far the weights spread",
    "dead units": "the third panel, and what it counts",
    "saturated": "the third panel, and what it counts",
    "over-fitting": "the two curves of the loss: nothing else tells",
    "under-fitting": "the two curves of the loss: nothing else tells",
    "healthy": "all four panels: is there one that is out of order?",
}


def train_unknown(folder: str | Path) -> dict[str, RunLog]:
    """Train the runs A to G, each into a folder of its own."""
    return {
        letter: sick_runs.train(kind, Path(folder) / letter, family=family, seed=seed)
        for letter, (kind, family, seed) in _UNKNOWN.items()
    }


@check
def fixed_histogram(learner: Callable[[Iterable[torch.Tensor], torch.Tensor], torch.Tensor]) -> str:
    """Compare with the counts of all values at once, for batches of different ranges and values outside the edges."""
    generator = torch.Generator().manual_seed(0)
    for edges in (torch.linspace(-2, 2, 9), torch.tensor([-1.0, -0.1, 0.0, 0.1, 3.0])):
        batches = [torch.randn(size, generator=generator) * scale for size, scale in ((50, 0.3), (20, 3.0), (31, 1.0))]
        batches[0][0] = edges[2]  # a value on an edge belongs to the bin that begins there
        right = _counts(torch.cat(batches), edges)
        with CountWaits() as waits:
            given = learner(iter(batches), edges)
            waited = waits.count
        if not isinstance(given, torch.Tensor) or given.shape != right.shape:
            shape = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
            raise Wrong("shape", f"For {len(edges)} edges you return {shape}. There is a bin between each two edges.")
        if torch.equal(given.long(), right) and torch.equal(given.double(), right.double()):
            if waited:
                raise Wrong(
                    "waits",
                    f"The counts are right, but you turned tensors into numbers {waited} times on the way: each waits "
                    "for the device. Count with functions on whole tensors.",
                )
            continue
        _judge_counts(given, right, batches, edges)
    return "All values of all batches in the same bins, none lost: checked on equal and on unequal bins."


@check
def dead_share(learner: Callable[[nn.Module, list[torch.Tensor]], Mapping[str, float]]) -> str:
    """Compare on a network whose units are alive in different batches, and look for hooks that were left behind."""
    for seed, sizes in ((0, (6, 6)), (1, (4, 9, 3))):
        model = _half_dead(seed)
        batches = _batches(seed, sizes)
        before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
        given = learner(model, list(batches))
        right = _dead(model, [torch.cat(batches)])[0]
        if not isinstance(given, Mapping):
            raise Wrong("no_dict", f"You return {type(given).__name__}, not a share for each ReLU by its name.")
        if set(given) != set(right):
            raise Wrong("names", f"You return values for {sorted(given)}. The ReLUs are {sorted(right)}.")
        given = {name: float(value) for name, value in given.items()}
        if not _close(given, right):
            _judge_dead(given, right, model, batches)
        if {name: len(module._forward_hooks) for name, module in model.named_modules()} != before:
            raise Wrong(
                "hooks_left", "The shares are right, but your hooks are still on the model, for all later calls."
            )
    return "A unit is dead when no sample of any batch wakes it: checked on two networks, and no hook was left."


@check
def names_of_runs(learner: Mapping[str, str]) -> str:
    """Compare the names with the recipes of the runs A to G."""
    if not isinstance(learner, Mapping) or set(learner) != set(_UNKNOWN):
        raise Wrong("letters", f"Give a dictionary with a name for each of {', '.join(_UNKNOWN)}.")
    if any(name is ... for name in learner.values()):
        raise NotImplementedError
    for letter, name in learner.items():
        if name not in sick_runs.RECIPES:
            raise Wrong("no_such_name", f"{letter}: {name!r} is none of {', '.join(sick_runs.RECIPES)}.")
    wrong = {letter: name for letter, name in learner.items() if name != _UNKNOWN[letter][0]}
    if wrong:
        letter, name = next(iter(wrong.items()))
        kind = _UNKNOWN[letter][0]
        raise Wrong(
            f"{name}_for_{kind}".replace(" ", "_").replace("-", "_"),
            f"{len(wrong)} of {len(_UNKNOWN)} are not right yet. Begin with run {letter}, and look at {_SEE[kind]}.",
        )
    return f"All {len(_UNKNOWN)} runs named."


@check
def gradient_factor(learner: Callable[[float, int], float]) -> str:
    """Compare with scale^(hidden layers − 1)."""
    for scale, layers in ((2.0, 5), (0.5, 8), (1.5, 1), (1.0, 20), (0.3, 6)):
        right, given = scale ** (layers - 1), learner(scale, layers)
        where = f"For scale {scale:g} and {layers} hidden layers"
        if not isinstance(given, int | float | torch.Tensor) or isinstance(given, bool):
            raise Wrong("no_number", f"{where} you return {given!r}.")
        given = float(given)
        known = {
            "own_layer_counted": (
                scale**layers,
                "How many *other* hidden layers are on the way? A layer's own weights do not count.",
            ),
            "layers_add_up": (
                scale * (layers - 1),
                "Each layer multiplies what it passes on: what comes of that?",
            ),
            "layers_add_up_too": (
                scale * layers,
                "Each layer multiplies what it passes on: what comes of that?",
            ),
            "one_layer": (scale, "That would be true if a single layer lay on the way."),
            "upside_down": (scale ** (1 - layers), "Larger weights make larger gradients, not smaller ones."),
            "power_of_layers": (
                float(layers) ** scale,
                "Which number is multiplied, and which counts how often?",
            ),
        }
        if math.isclose(given, right, rel_tol=1e-6):
            continue
        for symptom, (value, hint) in known.items():
            if math.isclose(given, value, rel_tol=1e-6):
                raise Wrong(symptom.removesuffix("_too"), f"{where} you return {given:g}. {hint}")
        raise Wrong("wrong_value", f"{where} you return {given:g}. Work it out for 2 hidden layers, then for 3.")
    return "A product over the other layers: checked on 5 networks."


# fixed_histogram


def _counts(values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    place = (torch.bucketize(values, edges, right=True) - 1).clamp(0, len(edges) - 2)
    return torch.bincount(place, minlength=len(edges) - 1)


def _judge_counts(given: torch.Tensor, right: torch.Tensor, batches: list[torch.Tensor], edges: torch.Tensor) -> None:
    total, values = int(right.sum()), torch.cat(batches)
    if torch.allclose(given.double(), right.double() / total):
        raise Wrong("shares", f"Your bins hold shares. Asked for are counts of {total} values, which can be added up.")
    found = float(given.sum())
    if torch.equal(given.long(), _counts(batches[-1], edges)):
        raise Wrong("last_batch", f"Only the last batch is in your counts: {found:g} of {total} values.")
    if any(torch.equal(given.long(), _counts(batch, edges)) for batch in batches):
        raise Wrong("one_batch", f"Only one batch is in your counts: {found:g} of {total} values.")
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    if found < total and torch.equal(given.long(), _counts(inside, edges)):
        raise Wrong("lost_outside", f"You count {found:g} of {total} values: those beyond the outer edges are lost.")
    if found == total and not torch.allclose(edges.diff(), edges.diff()[0].expand(len(edges) - 1)):
        raise Wrong("equal_bins", "Right for equal bins only. Use the edges that you are given.")
    own = sum(torch.histc(batch, len(edges) - 1) for batch in batches)
    if torch.equal(given.double(), own.double()):
        raise Wrong(
            "own_range",
            "Each batch got bins of its own, by its own range: such counts cannot be added.",
        )
    left = torch.bincount((torch.bucketize(values, edges) - 1).clamp(0, len(edges) - 2), minlength=len(edges) - 1)
    if torch.equal(given.long(), left):
        raise Wrong("on_the_edge", "A value that lies on an edge belongs to the bin that *begins* there.")
    raise Wrong("wrong_counts", f"You count {given.tolist()}, and right is {right.tolist()}.")


# dead_share


def _half_dead(seed: int) -> nn.Sequential:
    """A network with two ReLU layers; some units wake for one sample only, some for none."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].bias -= 0.9
        model[2].bias -= 0.15
    return model


def _batches(seed: int, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 4, generator=generator) for size in sizes]


@torch.no_grad()
def _dead(model: nn.Sequential, batches: list[torch.Tensor]) -> list[dict[str, float]]:
    """The share of dead units of each ReLU, for each batch."""
    rows = []
    for batch in batches:
        first = model[1](model[0](batch))
        second = model[3](model[2](first))
        rows.append({"1": _share(first == 0), "3": _share(second == 0)})
    return rows


def _share(zero: torch.Tensor) -> float:
    return zero.all(dim=0).double().mean().item()


def _close(given: Mapping[str, float], right: Mapping[str, float]) -> bool:
    return all(math.isclose(given[name], right[name], abs_tol=1e-6) for name in right)


@torch.no_grad()
def _judge_dead(given: dict[str, float], right: dict[str, float], model: nn.Sequential, batches: list) -> None:
    rows = _dead(model, batches)
    first = model[1](model[0](torch.cat(batches)))
    outputs = {"1": first, "3": model[3](model[2](first))}

    def like(row: Mapping[str, float]) -> bool:
        return _close(given, row)

    if like(rows[-1]):
        raise Wrong("last_batch", "That is the share in the last batch. A unit asleep there may wake in another.")
    if like({name: sum(row[name] for row in rows) / len(rows) for name in right}):
        raise Wrong(
            "mean_over_batches", "That is the mean of the batches' shares. A unit that wakes in one of them is alive."
        )
    if like({name: (output == 0).double().mean().item() for name, output in outputs.items()}):
        raise Wrong(
            "zeros_not_units",
            "That is the share of *outputs* that are 0, and of a healthy ReLU about half are.",
        )
    if like({name: (output == 0).any(dim=0).double().mean().item() for name, output in outputs.items()}):
        raise Wrong("any_zero", "You call a unit dead when it is 0 for *some* sample. Dead is: for all of them.")
    if like({name: 1 - share for name, share in right.items()}):
        raise Wrong("alive_share", "That is the share of units that are alive.")
    if like({name: share * outputs[name].shape[1] for name, share in right.items()}):
        raise Wrong("count_not_share", "That is how many units are dead. Of how many?")
    if like({name: (output == 0).all(dim=1).double().mean().item() for name, output in outputs.items()}):
        raise Wrong(
            "samples_not_units",
            "That is the share of *samples* without any unit awake. Which dimension counts units?",
        )
    raise Wrong("wrong_share", f"You return {given}, and right is {right}.")
