"""What a run's log says about the run: a name, and the evidence for it in words and numbers.

    diagnose(run)   # from histograms and gradient norms: healthy, exploding, dead units, saturated, vanishing
    judge_fit(run)  # from the two loss curves: fitting, overfitting, underfitting

The two answer different questions. Histograms and norms tell whether a signal gets through the layers; they know
nothing of the validation data. The curves tell what was learned; they do not know which layer learned it.

The limits below were set on dense networks with PyTorch's cross-entropy, and judged on convolutions, thinner and deeper
networks and other seeds. A loss on a different scale (a sum, squared errors of large targets) moves LARGE_NORM with it.
"""

import math
import statistics
from dataclasses import dataclass

from torchcourse.training.events import RunLog
from torchcourse.training.histograms import Histogram

LARGE_NORM = 100.0  # of all gradients together; healthy runs have 0.1 to 10
GROWTH = 4.0  # of a layer's weights, last look over first; healthy and overfitting runs stay under 2.7
MOST = 0.5  # share of a layer's units, or outputs, from which most are dead, or saturated
LITTLE = 1e-3  # gradient of the weakest layer over that of the strongest parameter; healthy runs have 0.02 to 1


@dataclass(frozen=True)
class Diagnosis:
    """A name, and sentences that each name what was measured, its value and the limit."""

    name: str
    evidence: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([self.name, *(f"  · {sentence}" for sentence in self.evidence)])


def diagnose(run: RunLog) -> Diagnosis:
    """Name what is wrong with the signal in a run, most destructive first.

    One sickness brings others: a run that exploded has dead units afterwards, and dead units let gradients vanish. So
    the first name that fits is the answer.

    Args:
        run: of a Trainer with a log_dir and watch_every.

    Raises:
        ValueError: if the run was not watched.
    """
    must_be_watched(run)
    for name, find in _SICKNESSES.items():
        if evidence := find(run):
            return Diagnosis(name, tuple(evidence))
    return Diagnosis("healthy", tuple(_signs_of_health(run)))


def must_be_watched(run: RunLog) -> None:
    """Raise ValueError for a run without what a Trainer writes when it watches: gradients, weights, and their norm."""
    watched = [tag.removeprefix("gradients/") for tag in run.histograms if tag.startswith("gradients/")]
    whole = all(f"weights/{name}" in run.histograms for name in watched)
    if not watched or not whole or "gradient_norm/all" not in run.scalars:
        raise ValueError(
            f"The run in {run.folder} has no histograms of gradients and weights as a Trainer writes them. Train it "
            "with a Trainer that has watch_every=10 or so and at least one step."
        )


def judge_fit(run: RunLog) -> Diagnosis:
    """Say what the loss curves of training and validation tell.

    overfitting: the validation loss has turned and is 5% above its lowest, and twice the training loss or more.
    underfitting: the training loss is still above half of where it began.

    Raises:
        ValueError: if the run has no two such curves; if they end in NaN; or for losses below zero, such as a log
            density's, whose ratios say nothing.
    """
    train, validation = (run.scalars.get(f"loss/{name}", ([], []))[1] for name in ("train", "val"))
    if not train or not validation:
        raise ValueError(f"The run in {run.folder} has no curves loss/train and loss/val. Give fit() a val_loader.")
    finite = [loss for loss in (*train, *validation) if math.isfinite(loss)]
    if not math.isfinite(train[-1]) or not math.isfinite(validation[-1]):
        raise ValueError(
            f"The losses of the run in {run.folder} end in {train[-1]} (training) and {validation[-1]} (validation): "
            "it did not learn to its end. Take a lower learning rate; NanProbe finds the layer."
        )
    if min(finite) < 0:
        raise ValueError(
            f"The losses of the run in {run.folder} go down to {min(finite):.3g}. They are judged by their ratios, "
            "which say nothing of losses below zero: look at the curves."
        )
    steps, lowest = run.scalars["loss/val"][0], min(loss for loss in validation if math.isfinite(loss))
    turned = steps[validation.index(lowest)]
    end = (
        f"training loss {train[0]:.2f} → {train[-1]:.3f}, validation loss {validation[-1]:.2f} at the end, "
        f"lowest {lowest:.2f} at step {turned} of {steps[-1]}"
    )
    if validation[-1] > 1.05 * lowest and validation[-1] > 2 * train[-1]:
        return Diagnosis("overfitting", (end,))
    if not train[-1] < 0.5 * train[0]:
        return Diagnosis("underfitting", (end,))
    return Diagnosis("fitting", (end,))


def layer_gradients(run: RunLog) -> dict[str, float]:
    """Return for each layer the typical size of its weights' gradient: root mean square, median over the looks."""
    return {name: _typical_size(run, f"gradients/{name}") for name in _layers(run)}


def _typical_size(run: RunLog, tag: str) -> float:
    return statistics.median(rms(histogram) for _, histogram in run.histograms[tag])


def rms(histogram: Histogram) -> float:
    """Return the root mean square of the values; 0 of none."""
    return histogram.norm / math.sqrt(max(histogram.number, 1))


def _layers(run: RunLog) -> list[str]:
    """The names of the weights of layers, first to last, without biases; of a model without weights, all names."""
    names = [tag.removeprefix("gradients/") for tag in run.histograms if tag.startswith("gradients/")]
    return [name for name in names if "weight" in name.rpartition(".")[2]] or names


def _growth(run: RunLog, name: str) -> float:
    """How many times larger a layer's weights are at the last look than at the first."""
    looks = run.histograms[f"weights/{name}"]
    return rms(looks[-1][1]) / max(rms(looks[0][1]), 1e-300)


def _exploding(run: RunLog) -> list[str]:
    evidence = []
    steps, norms = run.scalars["gradient_norm/all"]
    large = [(step, norm) for step, norm in zip(steps, norms, strict=True) if not norm <= LARGE_NORM]
    if large:
        step, norm = large[0]
        evidence.append(f"gradient norm of all layers {norm:.3g} at step {step} (limit {LARGE_NORM:g})")
    for name in _layers(run):
        if (growth := _growth(run, name)) > GROWTH:
            evidence.append(f"weights of {name} grew {growth:.3g}-fold (limit {GROWTH:g})")
    return evidence


def _dead(run: RunLog) -> list[str]:
    return [f"{share:.0%} of the units of {name} are dead (limit {MOST:.0%})" for name, share in _most(run, "dead")]


def _saturated(run: RunLog) -> list[str]:
    return [
        f"{share:.0%} of the outputs of {name} are saturated (limit {MOST:.0%})"
        for name, share in _most(run, "saturated")
    ]


def _most(run: RunLog, what: str) -> list[tuple[str, float]]:
    """The layers where this share is above MOST, as median over the looks."""
    shares = {
        tag.removeprefix(f"{what}/"): statistics.median(values)
        for tag, (_, values) in run.scalars.items()
        if tag.startswith(f"{what}/")
    }
    return [(name, share) for name, share in shares.items() if share > MOST]


def _vanishing(run: RunLog) -> list[str]:
    weakest, strongest, ratio = _extremes(run)
    if ratio > LITTLE:
        return []
    return [f"gradient of {weakest} {ratio:.1g} times that of {strongest} (limit {LITTLE:g})"]


def _extremes(run: RunLog) -> tuple[str, str, float]:
    """Return the layer of the smallest gradient, the parameter of the largest, and the one over the other.

    Biases count as strongest too: where all weights started too small, every layer's weights get equally little, but
    the last bias still gets the whole gradient of the loss.
    """
    layers = layer_gradients(run)
    everything = {tag[10:]: _typical_size(run, tag) for tag in run.histograms if tag.startswith("gradients/")}
    weakest, strongest = min(layers, key=layers.__getitem__), max(everything, key=everything.__getitem__)
    return weakest, strongest, layers[weakest] / max(everything[strongest], 1e-300)


def _signs_of_health(run: RunLog) -> list[str]:
    weakest, strongest, ratio = _extremes(run)
    growth = max(_growth(run, name) for name in _layers(run))
    return [
        f"gradient norm of all layers at most {max(run.scalars['gradient_norm/all'][1]):.3g} (limit {LARGE_NORM:g})",
        f"gradient of {weakest} {ratio:.2g} times that of {strongest} (limit {LITTLE:g})",
        f"weights grew {growth:.2f}-fold at most (limit {GROWTH:g})",
    ]


_SICKNESSES = {"exploding": _exploding, "dead units": _dead, "saturated": _saturated, "vanishing": _vanishing}
