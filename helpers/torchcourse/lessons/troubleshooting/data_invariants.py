"""Invariants of the data, and of what the model makes of them. Each rule yields alarms."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

MEAN_AT_MOST, SPREAD_AT_MOST, SPREAD_AT_LEAST = 3.0, 5.0, 0.05  # of the numbers that go into the model
SAME_ROWS = 0.3  # share of a batch that may be copies of other rows in it
SEEN_A_CLASS = 20  # samples a class, on average, from which on a class that never came is missed
FEWER_CLASSES = 0.85  # of the different classes a batch that a mixed order would give
NEIGHBOURS, ROWS_AT_LEAST, DEVIATIONS = 5, 150, 3.0
LEARNT = 0.95  # of the loss of guessing: below it, the labels can be learnt from the inputs
MIXES_AT_LEAST = 1e-3  # of the outputs' size


def inputs(run: WatchedRun) -> Iterator[Alarm]:
    """Inputs lie about 0 with a spread of about 1, no sample comes twice in a batch, and validation looks alike."""
    record = run.record
    batches = [f.inputs for f in record.trained if f.inputs is not None and f.inputs.is_floating_point()]
    if not batches:
        return
    mean, spread = _mean_and_spread(batches)
    if abs(mean) > MEAN_AT_MOST or not SPREAD_AT_LEAST < spread < SPREAD_AT_MOST:
        yield Alarm(
            "inputs_not_normalised",
            f"The inputs have mean {mean:.3g} and standard deviation {spread:.3g}; initial weights are made for about "
            "0 and 1.",
        )
    large = [batch for batch in batches if batch.dim() > 1 and batch[0].numel() >= 8]
    twice = sorted(1 - len(set(_hashes(batch))) / len(batch) for batch in large)
    if len(twice) >= 3 and twice[len(twice) // 2] > SAME_ROWS:
        yield Alarm(
            "same_samples",
            f"In a typical batch {twice[len(twice) // 2]:.0%} of the samples are copies of others in it. Does "
            "the data set return the same buffer each time?",
        )
    evaluated = [f.inputs for f in record.evaluated if f.inputs is not None and f.inputs.is_floating_point()]
    if evaluated:
        other_mean, other_spread = _mean_and_spread(evaluated)
        if abs(other_mean - mean) > spread or not 0.5 < other_spread / spread < 2:
            yield Alarm(
                "validation_differs",
                f"Training inputs have mean {mean:.2g} and standard deviation {spread:.2g}, validation inputs "
                f"{other_mean:.2g} and {other_spread:.2g}. Are they prepared in the same way?",
            )


def labels(run: WatchedRun) -> Iterator[Alarm]:
    """Each class comes, the order is mixed, and the labels have something to do with the inputs."""
    losses = run.record.classified
    batches = [loss.target[loss.target >= 0] for loss in losses]
    if not batches or not sum(map(len, batches)):
        return
    classes, pooled = losses[0].scores.size(1), torch.cat(batches)
    counts = torch.bincount(pooled, minlength=classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing and len(pooled) >= SEEN_A_CLASS * classes:
        yield Alarm(
            "classes_missing",
            f"Among {len(pooled)} labels there was never class {', '.join(map(str, missing[:5]))}, and the model has "
            f"{classes} outputs. Do the labels start at 1? Are the samples sorted, or the outputs too many?",
        )
    if len(batches) >= 5 and len(batches[0]) >= 4:
        yield from _order(batches, pooled)
    if _guesses(run, counts):
        yield from _relation(run, pooled)


def _order(batches: list[torch.Tensor], pooled: torch.Tensor) -> Iterator[Alarm]:
    sizes = [len(batch) for batch in batches]
    seen = _different(pooled, sizes)
    generator = torch.Generator().manual_seed(0)
    mixed = [_different(pooled[torch.randperm(len(pooled), generator=generator)], sizes) for _ in range(30)]
    if seen < min(mixed) and seen < FEWER_CLASSES * sum(mixed) / len(mixed):
        yield Alarm(
            "not_mixed",
            f"A batch holds {seen:.1f} different classes on average; mixed, the same samples would give "
            f"{sum(mixed) / len(mixed):.1f}. Is shuffle=True missing?",
        )


def _different(labels: torch.Tensor, sizes: list[int]) -> float:
    return sum(len(part.unique()) for part in labels.split(sizes)) / len(sizes)


def _guesses(run: WatchedRun, counts: torch.Tensor) -> bool:
    """Whether the loss is still that of guessing by the frequencies of the classes."""
    shares = counts[counts > 0].double() / counts.sum()
    guessing = -(shares * shares.log()).sum().item()
    last = [loss.value for loss in run.record.losses[-5:]]
    return sum(last) / len(last) > LEARNT * guessing


def _relation(run: WatchedRun, pooled: torch.Tensor) -> Iterator[Alarm]:
    """Ask each sample's nearest neighbours for its label, and compare with labels that were dealt out anew."""
    trained = run.record.trained
    batches = [f.inputs.flatten(1) for f in trained if f.inputs is not None and f.inputs.is_floating_point()]
    if not batches or len({batch.size(1) for batch in batches}) > 1:
        return
    rows = torch.cat(batches).float()
    count = min(len(rows), len(pooled), 2000)
    if count < ROWS_AT_LEAST or sum(map(len, batches)) > len(pooled):
        return
    once = list({value: number for number, value in enumerate(_hashes(rows[:count]))}.values())
    # A sample that has come again would be its own neighbour.
    rows, answers, count = rows[once], pooled[once], len(once)
    if count < ROWS_AT_LEAST:
        return
    distances = torch.cdist(rows, rows).fill_diagonal_(math.inf)
    nearest = distances.topk(NEIGHBOURS, largest=False).indices  # [samples, neighbours]
    generator = torch.Generator().manual_seed(0)
    chance = torch.tensor([_agreement(answers[torch.randperm(count, generator=generator)], nearest) for _ in range(30)])
    found = _agreement(answers, nearest)
    if found < chance.mean() + DEVIATIONS * chance.std():
        yield Alarm(
            "labels_unrelated",
            f"The loss stays at that of guessing, and a sample's nearest neighbours share its label in {found:.0%} of "
            f"the cases; for labels dealt out by chance it is {chance.mean():.0%}. Have inputs and labels been mixed "
            "separately?",
        )


def _agreement(answers: torch.Tensor, nearest: torch.Tensor) -> float:
    return (answers[nearest] == answers[:, None]).float().mean().item()


def outputs(run: WatchedRun) -> Iterator[Alarm]:
    """In evaluation, a sample's output is its own: it depends on the sample, on no other one, and not on chance."""
    batches = [f.inputs for f in run.record.trained if f.inputs is not None and len(f.inputs) >= 4]
    if not batches:
        return
    tables = [f.output for f in run.record.trained[-3:] if f.output is not None and f.output.dim() > 1]
    if tables and all(len(t) > 2 and t.float().std(dim=0).max() < 1e-6 * (1 + t.abs().max()) for t in tables):
        yield Alarm("same_output", "The model puts out the same numbers for every sample: nothing gets through.")
    whole, again, part = _in_evaluation(run.model, [batches[-1], batches[-1], batches[-1][:2]])
    if whole is None or part is None or len(whole) != len(batches[-1]):
        return
    size = whole.abs().max() + 1e-12
    if (whole - again).abs().max() > MIXES_AT_LEAST * size:
        yield Alarm(
            "random_in_evaluation",
            "In evaluation mode the same batch gives other outputs the second time. Is there an F.dropout without "
            "training=self.training?",
        )
    elif (whole[:2] - part).abs().max() > MIXES_AT_LEAST * size:
        yield Alarm(
            "samples_mixed",
            "A sample's output changes with the other samples of its batch, in evaluation mode too. Is there a "
            "softmax, a norm or a view over the wrong dimension, or a BatchNorm without running statistics?",
        )


@torch.no_grad()
def _in_evaluation(model: nn.Module, batches: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """Return the model's outputs in evaluation mode, and leave its modes as they were."""
    before = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.random.fork_rng():  # what is random in the model must not change the training that goes on
            results = [model(batch.to(device)) for batch in batches]
    except (TypeError, RuntimeError):  # it needs other arguments too, or cannot take so small a batch
        return [None] * len(batches)
    finally:
        for module, mode in before.items():
            module.training = mode
    return [out.float().cpu() if isinstance(out, torch.Tensor) else None for out in results]


def _hashes(rows: torch.Tensor) -> list[float]:
    """Return a number for each row of a batch that tells it from others: a sum with fixed random weights."""
    flat = rows.flatten(1).double()
    weights = torch.randn(flat.size(1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (flat @ weights).tolist()


def _mean_and_spread(batches: list[torch.Tensor]) -> tuple[float, float]:
    flat = torch.cat([batch.flatten() for batch in batches]).double()
    return flat.mean().item(), flat.std().item()


RULES: list[Callable[[WatchedRun], Iterator[Alarm]]] = [inputs, labels, outputs]
