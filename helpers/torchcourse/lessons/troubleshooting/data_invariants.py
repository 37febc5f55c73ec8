"""Invariants of the data: inputs, labels, and what is validated on. Each rule yields alarms."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise, starmap

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from torchcourse.lessons.troubleshooting.model_calls import has_numbers, has_weights
from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING, LOGISTIC, MEASURING
from torchcourse.lessons.troubleshooting.training_records import Loss, Pass, float_inputs
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

MEAN_AT_MOST, SPREAD_AT_MOST, SPREAD_AT_LEAST = 3.0, 5.0, 0.05  # of the numbers that go into the first layer
TOLD_AT_LEAST = 64  # samples whose answer is one of the inputs
SAME_ROWS = 0.3  # share of a batch that may be copies of other rows in it
SEEN_A_CLASS = 20  # samples per class, on average, from which on a class that never came is missed
FEWER_CLASSES = 0.85  # of the different classes a batch that a mixed order would give
NEIGHBORS, ROWS_AT_LEAST, DEVIATIONS = 5, 150, 3.0
LEARNT = 0.95  # of the loss of guessing: below it, the labels can be learned from the inputs
ALIKE = 0.25  # of the samples validated on: so many as in training show that all are prepared as they are
SHARED_ROWS = 0.02  # of the samples validated on: so many may be equal to a sample trained on, by chance
TELLING = 8  # whole numbers that tell one sample from all others
SAME_SAMPLE = 0.5  # correlation of a sample with what augmentation has made of it


def normalized_inputs(run: WatchedRun) -> Iterator[Alarm]:
    """What the first layer gets is about 0 with a spread of about 1; validation inputs look like those of training."""
    entries = [seen.entry for seen in run.trained if seen.entry is not None]
    if entries and not _norm_behind_frozen(run):
        mean, spread = (sum(part) / len(entries) for part in zip(*entries, strict=True))
        if abs(mean) > max(MEAN_AT_MOST, 3 * spread) or not SPREAD_AT_LEAST < spread < SPREAD_AT_MOST:
            yield Alarm(
                "inputs_not_normalised",
                f"What the first layer with weights gets has mean {mean:.3g} and standard deviation {spread:.3g}; "
                "initial weights are made for about 0 and 1.",
            )
    trained = float_inputs(run.trained)
    evaluated = float_inputs(run.validated_on)
    if not trained or sum(map(len, evaluated)) < 16 or evaluated[0].shape[1:] != trained[0].shape[1:]:
        return
    if of_one_series(trained):  # it goes on where the next years differ from the last
        return
    # A trend moves the windows of a series; what is prepared differently changes what is within them.
    measure = _within if _smooth(trained) else _mean_and_spread
    one, other = measure(trained), measure(evaluated)
    alike = sum(len(batch) for batch in evaluated if not _unlike(one, measure([batch])))
    # Where some are as in training, others may differ on purpose: anomalies, noise, a different domain.
    if _unlike(one, other) and alike < ALIKE * sum(map(len, evaluated)):
        (mean, spread), (other_mean, other_spread) = one, other
        yield Alarm(
            "validation_differs",
            f"Training inputs have mean {mean:.2g} and standard deviation {spread:.2g}, validation inputs "
            f"{other_mean:.2g} and {other_spread:.2g}. Are they prepared in the same way?",
        )


def _norm_behind_frozen(run: WatchedRun) -> bool:
    """Whether the first layer with weights does not learn, and what it puts out is normalized by the batch."""
    layers = [one for one in run.model.named_modules() if not any(True for _ in one[1].children())]
    first = next((number for number, (_, layer) in enumerate(layers) if has_weights(layer)), len(layers))
    for (_, layer), (name, behind) in pairwise(layers[first : first + 2]):
        if isinstance(behind, _BatchNorm) and not any(p.requires_grad for p in layer.parameters()):
            before = run.start_buffers.get(f"{name}.running_mean")
            return behind.running_mean is None or before is None or not torch.equal(behind.running_mean, before)
    return False


def _unlike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two means are more than a spread apart, or the spreads differ by a factor of 2; never of NaN."""
    factor = other[1] / max(one[1], 1e-12)
    return abs(other[0] - one[0]) > one[1] or factor <= 0.5 or factor >= 2


def _smooth(batches: list[torch.Tensor]) -> bool:
    """Whether samples [N, T] or [N, T, C] are parts of series: from one time to the next, little changes."""
    rows = _windows(batches)
    return rows is not None and (rows.diff(dim=1).square().mean() / (2 * rows.var() + 1e-12)).item() < 0.5


def _within(batches: list[torch.Tensor]) -> tuple[float, float]:
    """Return 0 and the spread of the numbers of a sample around its own mean."""
    flat = torch.cat([(batch - batch.mean(dim=1, keepdim=True)).flatten() for batch in batches]).double()
    return 0.0, flat.std().item()


def of_one_series(batches: list[torch.Tensor]) -> bool:
    """Whether the samples [N, T] or [N, T, C] are windows of one series that overlap: most begin within others."""
    rows = _windows(batches)
    if rows is None:
        return False
    parts = parts_of(rows, 4)  # [N, T - 3, 4 C]
    keys = torch.tensor(hashes(parts.flatten(0, 1))).view(len(parts), -1)
    begins = keys[:, 0][parts[:, 0].amax(dim=-1) > parts[:, 0].amin(dim=-1)]
    return len(begins) > len(rows) / 2 and torch.isin(begins, keys[:, 1:]).float().mean().item() > 0.5


def may_be_windows(batch: torch.Tensor) -> bool:
    """Whether samples [N, T] or [N, T, C] are long enough for parts of a series."""
    return batch.dim() in (2, 3) and batch.size(1) >= 8


def parts_of(windows: torch.Tensor, size: int) -> torch.Tensor:
    """Return each part of so many times of each window [N, T] or [N, T, C]: [N, T - size + 1, size * C]."""
    return (windows if windows.dim() == 3 else windows[..., None]).unfold(1, size, 1).flatten(2)


def _windows(batches: list[torch.Tensor]) -> torch.Tensor | None:
    """Return the samples in one table, if they may be parts of a series."""
    if not may_be_windows(batches[0]):
        return None
    return torch.cat([batch for batch in batches if batch.shape[1:] == batches[0].shape[1:]]).double()


def different_samples(run: WatchedRun) -> Iterator[Alarm]:
    """No sample comes twice in a batch with two labels."""
    shares, unlike, batches = [], 0, set()
    for loss in run.losses:
        rows = loss.inputs
        if rows is None or not rows.is_floating_point() or rows.dim() < 2 or rows[0].numel() < 8:
            continue
        keys = hashes(rows)
        shares.append(1 - len(set(keys)) / len(keys))
        batches.add(tuple(sorted(keys)))
        answers: dict[float, torch.Tensor] = {}
        for key, answer in zip(keys, loss.target, strict=True):
            unlike += not torch.equal(answers.setdefault(key, answer), answer)
    shares.sort()
    often = len(shares) >= 3 and shares[len(shares) // 2] > SAME_ROWS and unlike > len(shares)
    if often and not _few_in_all(batches):
        yield Alarm(
            "same_samples",
            f"In a typical batch {shares[len(shares) // 2]:.0%} of the samples are copies of others in it, and "
            f"{unlike} of them have a different label. Does the dataset return the same buffer each time?",
        )


def _few_in_all(batches: set[tuple[float, ...]]) -> bool:
    """Whether the rows that come more than once in a batch come in different batches too, as states of a game do."""
    copies = [{key for key, times in Counter(batch).items() if times > 1} for batch in batches]
    in_how_many = Counter(key for batch in batches for key in set(batch))
    again = [in_how_many[key] > 1 for keys in copies for key in keys]
    return sum(again) > len(again) / 2


def labels(run: WatchedRun) -> Iterator[Alarm]:
    """Labels begin at 0, their order is mixed, and they have something to do with the inputs."""
    # A label per sample: what stands in a sentence or a picture has an order of its own.
    found = [loss for loss in run.classified if loss.inputs is not None]
    batches = [loss.target[(loss.target >= 0) & loss.counted] for loss in found]
    if not batches or not sum(map(len, batches)) or len({loss.scores.size(1) for loss in found}) > 1:
        return
    classes, pooled = found[0].scores.size(1), torch.cat(batches)
    counts = torch.bincount(pooled, minlength=classes)
    ignored, times = found[0].ignored, sum(int((~loss.counted).sum()) for loss in found)
    if 0 <= ignored < classes and times and counts.count_nonzero() == classes - 1:
        yield Alarm(
            "class_ignored",
            f"{times} labels do not count, since ignore_index={ignored}: the model never learns this class.",
        )
    elif not counts[0] and (counts[1:] > 0).all() and len(pooled) >= SEEN_A_CLASS * classes:
        yield Alarm(
            "classes_missing",
            f"Among {len(pooled)} labels were all of the model's {classes} classes but class 0. Do the labels start at "
            "1? Then the model has one output too many.",
        )
    # Where the model is given a state again and again, each part of the training has data of its own.
    if len(batches) >= 5 and len(batches[0]) >= 4 and len(run.reloaded - {0, len(run.steps)}) < 2:
        yield from _order(batches, pooled)
    if _guesses(found, counts):
        yield from _relation(found)


def _order(batches: list[torch.Tensor], pooled: torch.Tensor) -> Iterator[Alarm]:
    sizes = [len(batch) for batch in batches]
    seen = _different(pooled, sizes)
    generator = torch.Generator().manual_seed(0)
    mixed = [_different(pooled[torch.randperm(len(pooled), generator=generator)], sizes) for _ in range(30)]
    # In sorted data a batch goes on where the last one ended; samplers that choose classes for a batch do not.
    goes_on = sum(bool(a[-1] == b[0]) for a, b in pairwise(batches)) / (len(batches) - 1)
    if seen < min(mixed) and seen < FEWER_CLASSES * sum(mixed) / len(mixed) and goes_on >= 0.5:
        yield Alarm(
            "not_mixed",
            f"A batch holds {seen:.1f} different classes on average; mixed, the same samples would give "
            f"{sum(mixed) / len(mixed):.1f}. Is shuffle=True missing?",
        )


def _different(labels: torch.Tensor, sizes: list[int]) -> float:
    return sum(len(part.unique()) for part in labels.split(sizes)) / len(sizes)


def _guesses(found: list[Loss], counts: torch.Tensor) -> bool:
    """Whether the loss is still that of guessing by the frequencies of the classes."""
    shares = counts[counts > 0].double() / counts.sum()
    guessing = -(shares * shares.log()).sum().item()
    last = [loss.mean for loss in found[-5:] if loss.counted.any()]
    return bool(last) and sum(last) / len(last) > LEARNT * guessing


def answers_kept_apart(run: WatchedRun) -> Iterator[Alarm]:
    """The answer is not among the numbers of a table or a window that the model gets."""
    tables: dict[tuple, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for loss in run.losses_of(*MEASURING, *LOGISTIC, *CLASSIFYING):
        rows, answers = loss.inputs, loss.target.flatten()
        if rows is None or not rows.is_floating_point() or rows.dim() not in (2, 3):
            continue
        if len(answers) == len(rows) and rows[0].numel() >= 3:
            tables.setdefault(rows.shape[1:], []).append((rows.flatten(1), answers.float()))
    for shape, found in tables.items():
        rows, answers = torch.cat([rows for rows, _ in found]), torch.cat([answers for _, answers in found])
        if len(found) < 3 or len(rows) < TOLD_AT_LEAST or len(answers.unique()) < 2:
            continue
        equal = ((rows - answers[:, None]).abs() <= 1e-6 * (1 + answers.abs()[:, None])).all(dim=0).nonzero()
        if len(equal):
            yield Alarm(
                "answer_among_inputs",
                f"Of the {math.prod(shape)} numbers of an input, number {int(equal[0])} is the answer, in all of "
                f"{len(rows)} samples. Is the target's column left in, or does a window end on its target?",
            )
            return


def _relation(found: list[Loss]) -> Iterator[Alarm]:
    """Ask nearest neighbors and a linear rule for each sample's label; compare with labels dealt out by chance."""
    pairs = [(rows, loss.target) for loss in found if (rows := loss.inputs) is not None and _measured(rows)]
    if not pairs or len({rows[0].numel() for rows, _ in pairs}) > 1:
        return
    rows = torch.cat([part.flatten(1) for part, _ in pairs]).float()[:2000]
    answers = torch.cat([target for _, target in pairs])[:2000]
    once = list({value: number for number, value in enumerate(hashes(rows))}.values())
    # A sample that has come again would be its own neighbor.
    rows, answers = rows[once], answers[once]
    if len(once) < ROWS_AT_LEAST or not _structured(rows):
        return
    distances = torch.cdist(rows, rows).fill_diagonal_(math.inf)
    nearest = distances.topk(NEIGHBORS, largest=False).indices  # [samples, neighbors]
    generator = torch.Generator().manual_seed(0)
    dealt = [answers[torch.randperm(len(answers), generator=generator)] for _ in range(30)]
    linear = functools.cache(lambda: _ridge(rows))  # asked for only where the neighbors say nothing
    rules: list[Callable[[torch.Tensor], float]] = [lambda a: _agreement(a, nearest), lambda a: _guessed(a, linear())]
    for rule in rules:
        chance = torch.tensor([rule(labels) for labels in dealt])
        if rule(answers) >= chance.mean() + DEVIATIONS * chance.std():
            return
    chance = torch.tensor([_agreement(labels, nearest) for labels in dealt])
    yield Alarm(
        "labels_unrelated",
        f"The loss stays at that of guessing, no linear rule does better on {len(rows)} samples, and a sample's "
        f"nearest neighbors share its label in {_agreement(answers, nearest):.0%} of the cases; for labels dealt "
        f"out by chance it is {chance.mean():.0%}. Have inputs and labels been mixed separately?",
    )


def _measured(rows: torch.Tensor) -> bool:
    """Whether the inputs are measured, so that near samples are alike: not tokens, and not only zeros and ones."""
    return rows.is_floating_point() and not bool(((rows == 0) | (rows == 1)).all())


def _structured(rows: torch.Tensor) -> bool:
    """Whether there is anything in the inputs that labels could follow, so that they are not noise made for a trial.

    Then samples lie nearer to each other than rows whose numbers come each from another sample.
    """
    generator = torch.Generator().manual_seed(0)
    mixed = torch.stack([column[torch.randperm(len(rows), generator=generator)] for column in rows.T], dim=1)
    near, other = (torch.cdist(part, part).fill_diagonal_(math.inf).min(dim=1).values for part in (rows, mixed))
    error = math.sqrt((near.var() + other.var()).item() / len(rows))
    return (other.mean() - near.mean()).item() > DEVIATIONS * error


def _agreement(answers: torch.Tensor, nearest: torch.Tensor) -> float:
    return (answers[nearest] == answers[:, None]).float().mean().item()


def _ridge(rows: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that foretells each sample's answer [samples, K] by ridge regression on all other samples."""
    inputs = rows.double() - rows.double().mean(dim=0)
    if inputs.shape[1] > len(inputs):  # a turned copy with fewer columns has the same answer
        inputs = torch.linalg.qr(inputs.T, mode="r").R.T
    columns = torch.eye(inputs.shape[1], dtype=torch.float64)
    factor = torch.linalg.cholesky(inputs.T @ inputs + inputs.square().sum() / len(inputs) * columns)
    weights_of = torch.cholesky_solve(inputs.T, factor)  # [columns, samples]: answers → weights
    own = (inputs * weights_of.T).sum(dim=1, keepdim=True)  # how far a sample's answer decides on its own foretelling
    return lambda answers: (inputs @ (weights_of @ answers) - own * answers) / (1 - own)


def _guessed(answers: torch.Tensor, foretell: Callable[[torch.Tensor], torch.Tensor]) -> float:
    one_hot = torch.nn.functional.one_hot(answers).double()
    return (foretell(one_hot - one_hot.mean(dim=0)).argmax(dim=1) == answers).double().mean().item()


def separate_validation(run: WatchedRun) -> Iterator[Alarm]:
    """What is validated on has not been trained on, and is the same each time."""

    def keys_of(seen: Pass) -> list[tuple[int, float]]:
        return [(seen.begun, key) for key in _keys_of(seen)]  # the first weights once more: a run that begins again

    trained: dict[tuple[int, float], int] = {}  # of each sample, the step that took it first
    with_answers = {seen.step for seen in run.trained if seen.answered}
    for seen in run.trained:
        # A pass without answers beside one with answers learns no labels, as of a domain that has none.
        for key in keys_of(seen) if seen.answered or seen.step not in with_answers else ():
            trained.setdefault(key, seen.step)
    whole = {tuple(keys_of(seen)) for seen in run.trained}
    blocks = [[seen for seen in block if seen.inputs is not None and seen.step] for block in run.whole_validations]
    blocks = [block for block in blocks if block]
    passes = [(seen, keys_of(seen)) for block in blocks for seen in block]
    shared = sum(trained.get(key, seen.step) < seen.step for seen, keys in passes for key in keys)
    # All that had been trained on, in one validation, is how a program looks at its training error.
    training_error = any(
        {key for key, step in trained.items() if step < block[0].step} <= {k for seen in block for k in keys_of(seen)}
        for block in blocks
    )
    total, by_chance = sum(len(keys) for _, keys in passes), sum(starmap(_copies_by_chance, passes))
    again = training_error or any(tuple(keys) in whole for _, keys in passes)
    if total >= 8 and by_chance <= SHARED_ROWS * total < shared and not again:
        yield Alarm(
            "validated_on_training_data",
            f"{shared} of the {total} samples that were validated on had been trained on. Do the two splits overlap?",
        )
    yield from _changed(blocks)


def _copies_by_chance(seen: Pass, keys: list) -> int:
    """Return how many rows are copies of others in their batch, of those with few values, which are so by chance."""
    if seen.inputs is not None and seen.inputs.dim() > 1:
        values = seen.inputs.flatten(1).double().sort(dim=1).values.diff(dim=1).count_nonzero(dim=1) + 1
        keys = [key for key, many in zip(keys, (values >= TELLING).tolist(), strict=False) if not many]
    return len(keys) - len(set(keys))


def _changed(blocks: list[list[Pass]]) -> Iterator[Alarm]:
    """Compare each validation's batches with those of the one before, in their order."""
    alike: list[torch.Tensor] = []
    for before, after in pairwise(blocks):
        for one, two in zip(before, after, strict=False):
            a, b = one.inputs, two.inputs
            if a is None or b is None or a.shape != b.shape or not a.is_floating_point() or len(a) < 4:
                return
            if set(_keys(a)) & set(_keys(b)) or a[0].numel() < 4:
                return  # the same samples, perhaps in a different order
            rows = [(part - part.mean(dim=0)).flatten(1) for part in (a, b)]
            alike.append(torch.nn.functional.cosine_similarity(rows[0], rows[1]))
    if alike and torch.cat(alike).median() > SAME_SAMPLE:
        yield Alarm(
            "validation_changes",
            f"The validation's samples are never quite the same: from one time to the next each is like itself "
            f"(correlation {torch.cat(alike).median():.2f}), but changed. Is the training's augmentation at work?",
        )


def _keys_of(seen: Pass) -> list[float]:
    """Return a number for each sample: of all that the model got with a row for each."""
    first = seen.inputs
    if first is None or seen.call is None or first.is_floating_point() or not first.numel():
        return _keys(first)
    if first.dim() < 2 or first[0].numel() >= TELLING:
        return _keys(first)
    # A few whole numbers tell no sample from others: what comes with them may.
    parts = [leaf for leaf in seen.call.leaves if isinstance(leaf, torch.Tensor) and leaf.dim() and has_numbers(leaf)]
    rows = [part.cpu().reshape(seen.samples, -1) for part in parts if len(part) == seen.samples and part.numel()]
    if sum(part.size(1) for part in rows) < 4:
        return []
    keys = [*map(hashes, rows)]
    return [sum(key * (place + 1) for place, key in enumerate(one)) for one in zip(*keys, strict=True)]


def _keys(rows: torch.Tensor | None) -> list[float]:
    return hashes(rows) if rows is not None and rows.dim() > 1 and rows[0].numel() >= 4 else []


def hashes(rows: torch.Tensor) -> list[float]:
    """Return a number for each row of a batch that tells it from others: a sum with fixed random weights."""
    flat = rows.flatten(1).double()
    weights = torch.randn(flat.size(1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (flat * weights).sum(dim=1).tolist()  # not a product of matrices: that rounds by the size of the batch


def _mean_and_spread(batches: list[torch.Tensor]) -> tuple[float, float]:
    flat = torch.cat([batch.flatten() for batch in batches]).double()
    return flat.mean().item(), flat.std().item()
