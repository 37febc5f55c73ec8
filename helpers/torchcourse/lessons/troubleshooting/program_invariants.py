"""Invariants of what stands round the steps: optimizers, states, epochs, random numbers. Each rule yields alarms."""

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, WeightedRandomSampler

from torchcourse.lessons.troubleshooting.data_invariants import hashes
from torchcourse.lessons.troubleshooting.surroundings import Iteration
from torchcourse.lessons.troubleshooting.training_records import inputs_of
from torchcourse.lessons.troubleshooting.training_step import parameters_of
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed
from torchcourse.training.generators import generators_of, random_state, set_random_state

PILED_AT_LEAST = 3  # steps with samples that were changed in place before
SMALLEST_WAY = 1e-6  # of the weights' length, over all steps
MEANT_TO_BE_SMALL = 1e-5  # a learning rate below it says itself that the weights are to move little
COPIES = 0.4  # of a stream's samples that come again in one pass through the loader

STAYED = 0.6  # of the weights that gradients pulled at: where so many stay, a quarter of the way and more is lost

_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_COMMON: list[Any] = [np.random.mtrand._rand, random._inst, torch.default_generator]
_SEEDS: list[Callable[[int], object]] = [np.random.seed, random.seed, torch.manual_seed]


def movement(run: WatchedRun) -> Iterator[Alarm]:
    """The weights move."""
    steps = run.steps
    if len(steps) < 3 or run.reached.isdisjoint(run.start):  # not there is what a lazy layer makes later
        return
    way, highest = run.moved(), max(run.rates)
    if way < SMALLEST_WAY and (highest == 0 or highest > MEANT_TO_BE_SMALL):
        yield Alarm(
            "nothing_moves",
            f"There were gradients, but in {len(steps)} steps with learning rates up to {highest:.2g} the weights "
            f"moved by {way:.0e} of their length. Is the learning rate 0, are the gradients clipped to almost nothing, "
            "or does the optimizer hold another model's parameters?",
        )


def rounding(run: WatchedRun) -> Iterator[Alarm]:
    """Weights in 16 bits have digits enough for their updates."""
    weights = dict(run.model.named_parameters())
    pulled = stayed = 0
    for name, count in run.pulled.items():
        # Weights that no optimizer has are written from a copy in full precision, which loses nothing.
        if name in weights and name in run.start and id(weights[name]) in run.owned:
            often = count > len(run.steps) / 2
            pulled += int(often.sum())
            stayed += int((often & (weights[name].detach().cpu() == run.start[name].cpu())).sum())
    if len(run.steps) >= 5 and max(run.rates) > 0 and stayed > STAYED * pulled:
        yield Alarm(
            "updates_rounded_away",
            f"{stayed / pulled:.0%} of the weights in 16 bits are what they were, though gradients pulled at them in "
            f"most of {len(run.steps)} steps: an update below half a percent of a weight is rounded away. Keep "
            "the weights in float32, and let autocast compute in 16 bits.",
        )


def one_optimizer(run: WatchedRun) -> Iterator[Alarm]:
    """The optimizer keeps what it has gathered."""
    steps = run.steps
    changes = [
        number
        for number in range(1, len(steps))
        if (before := steps[number - 1].optimizer) is not (after := steps[number].optimizer)
        if type(before) is type(after) and before.state and _same_parameters(before, after)
        if all(after is not step.optimizer for step in steps[:number])
    ]
    if changes:
        yield Alarm(
            "optimizer_anew",
            f"From step {changes[0]} on, another {type(steps[0].optimizer).__name__} with the same parameters was "
            "stepped: momentum and averages began again. Make the optimizer once, before the loop.",
        )


def _same_parameters(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    return set(map(id, parameters_of(one))) == set(map(id, parameters_of(other)))


def best_state(run: WatchedRun) -> Iterator[Alarm]:
    """A state that is kept while the training goes on is a copy."""
    total = len(run.steps)
    kept = [s for s in run.around.states if s.loaded or (s.kept and not s.read and s.step > 0)]
    if kept:
        yield Alarm(
            "state_is_no_copy",
            f"The state_dict() taken after step {kept[-1].step} shares the memory of the weights, and was kept while "
            f"later ones of the {total} steps changed them. Keep copy.deepcopy(model.state_dict()).",
        )
    elif run.around.second_names:
        best, name = next(iter(run.around.second_names.items()))
        yield Alarm(
            "state_is_no_copy",
            f"`{best}` and `{name}` are one and the same model, while later ones of the {total} steps changed it: "
            f"`{best}` is no longer what it was when it was named. Keep copy.deepcopy({name}).",
        )


def epochs(run: WatchedRun) -> Iterator[Alarm]:
    """A sampler that shuffles by its epoch is told the epoch."""
    gone: dict[int, list[Any]] = {}
    for entry in run.around.iterations:
        if hasattr(entry.source, "set_epoch") and getattr(entry.source, "shuffle", True) and entry.epoch is not None:
            gone.setdefault(id(entry.source), []).append(entry)
    for entries in gone.values():
        pairs = pairwise(entries)
        same = [a for a, b in pairs if a.epoch == b.epoch and _trained_between(run, a.step, b.step)]
        if same:
            yield Alarm(
                "epoch_not_set",
                f"A {type(entries[0].source).__name__} that shuffles was gone through {len(entries)} times with epoch "
                f"{same[0].epoch}: each time in the same order. Call sampler.set_epoch(epoch) before each epoch.",
            )
            return


def orders(run: WatchedRun) -> Iterator[Alarm]:
    """A loader that shuffles deals its batches in a different order each time."""
    if run.around.shuffled:
        yield Alarm(
            "rows_lost",
            f"random.shuffle was given a {min(run.around.shuffled)}: it swaps rows that share its memory, so some are "
            "lost and others come twice. Take x[torch.randperm(len(x))], or numpy.random.shuffle.",
        )
    starts: dict[tuple, list[int]] = {}
    for entry in run.around.iterations:
        if isinstance(entry.source, DataLoader) and isinstance(entry.source.sampler, RandomSampler):
            loader: DataLoader = entry.source  # perhaps made again for each epoch
            starts.setdefault((loader.batch_size, len(loader)), []).append(entry.step)
    for begun in starts.values():
        dealt = [_batches(run, one, two) for one, two in pairwise([*begun, len(run.steps)])]
        for one, two in pairwise(dealt):
            both = list(zip(one, two, strict=False))
            if len(both) >= 3 and len({tuple(keys) for keys in one}) >= 3 and all(a == b for a, b in both):
                yield Alarm(
                    "same_order",
                    f"A loader that shuffles dealt the same {len(both)} batches twice. Is it seeded in each epoch?",
                )
                return


def sampling(run: WatchedRun) -> Iterator[Alarm]:
    """A sampler by weights has a weight for each sample."""
    for loader in run.loaders:
        if not isinstance(loader.sampler, WeightedRandomSampler) or not hasattr(loader.dataset, "__len__"):
            continue
        weights, samples = len(loader.sampler.weights), len(loader.dataset)
        if weights < samples:
            yield Alarm(
                "few_are_sampled",
                f"WeightedRandomSampler has {weights} weights for {samples} samples, so it draws the first {weights} "
                "of them alone. It wants a weight for each sample, not for each class: class_weights[labels].",
            )
            return


def _batches(run: WatchedRun, first: int, last: int) -> list[list[float]]:
    """Return what tells the samples of each batch that was trained on between two steps."""
    kept = inputs_of(seen for seen in run.trained if first <= seen.step < last)
    return [hashes(batch) for batch in kept if batch.dim() > 1]


def _trained_between(run: WatchedRun, first: int, last: int) -> bool:
    return any(first <= seen.step < last for seen in run.trained)


def workers(run: WatchedRun) -> Iterator[Alarm]:
    """Each worker draws random numbers of its own, others in each epoch, and has its own part of a stream."""
    for loader in run.loaders:
        if not loader.num_workers:
            continue
        seeds, stream = loader.worker_init_fn, isinstance(loader.dataset, IterableDataset)
        names, used = _drawing(loader)
        alike, again = (bool(names), bool(names)) if seeds is None else _seeds_alike(seeds, used)
        what = f"The dataset draws from {listed(names)}" if seeds is None else "worker_init_fn sets a seed"
        if alike and loader.num_workers > 1:
            yield Alarm(
                "workers_alike",
                f"{what}, the same in each of the {loader.num_workers} workers: they all draw the same numbers. Take "
                "torch.initial_seed() into the seed in worker_init_fn, or draw from torch.",
            )
        elif again and not (loader.persistent_workers or stream) and _epochs_trained(run, loader) > 1:
            yield Alarm(
                "epochs_alike",
                f"{what}, the same in each epoch, for which new workers are made: the random numbers of an epoch "
                "come again. Take torch.initial_seed() into the seed in worker_init_fn, or draw from torch.",
            )
        if stream and loader.num_workers > 1:
            yield from _repeated(run, loader)


def _epochs_trained(run: WatchedRun, loader: Any) -> int:
    """Return how often a loader was gone through to train."""
    found = [*run.around.iterations, Iteration(None, len(run.steps), None)]
    return sum(a.source is loader and _trained_between(run, a.step, b.step) for a, b in pairwise(found))


@contextlib.contextmanager
def _undisturbed(*generators: Any) -> Iterator[None]:
    """Give all generators their random numbers back, and ask somebody's code for no more than it can do."""
    before = random_state(generators)
    try:
        with contextlib.suppress(Exception):
            yield
    finally:
        set_random_state(before, generators)


def _drawing(loader: Any) -> tuple[list[str], list[bool]]:
    """Return what a sample is drawn from: the dataset's own generators by name, and which of the common ones."""
    held = _held_generators(loader.dataset, 3)
    around = [one for one in generators_of(loader.dataset) if all(one is not other for other in held.values())]
    names, used = list[str](), [False] * len(_COMMON)
    if not held and not around and loader.worker_init_fn is None:
        return names, used
    states = [*map(_state, around)]
    with _undisturbed(*around):
        tried = copy.deepcopy(loader.dataset) if held else loader.dataset
        before, common = {name: _state(one) for name, one in held.items()}, [_state(one) for one in _COMMON]
        sample = next(iter(tried)) if isinstance(tried, IterableDataset) else tried[0]
        after = {name: _state(one) for name, one in _held_generators(tried, 3).items()}
        names += [name for name, state in before.items() if state != after.get(name, state)]
        names += ["a generator of its module"] * ([*map(_state, around)] != states)
        with contextlib.suppress(Exception):  # perhaps one sample is no batch
            loader.collate_fn([sample])
        used = [_state(one) != state for one, state in zip(_COMMON, common, strict=True)]
    return names, used


def _held_generators(holder: Any, depth: int, name: str = "") -> dict[str, Any]:
    found = {}
    parts = enumerate(holder) if isinstance(holder, list | tuple) else getattr(holder, "__dict__", {}).items()
    for key, value in list(parts)[:50]:
        inner = f"{name}.{key}".lstrip(".")
        if isinstance(value, _GENERATORS):
            found[inner] = value
        elif depth > 1 and not isinstance(value, torch.Tensor | np.ndarray | type):
            found |= _held_generators(value, depth - 1, inner)
    return found


def _state(generator: Any) -> str:
    if isinstance(generator, torch.Generator):
        return str(generator.get_state().tolist())
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    return str(generator.getstate() if isinstance(generator, random.Random) else generator.get_state(legacy=False))


def _seeds_alike(worker_init_fn: Callable[[int], object], used: list[bool]) -> tuple[bool, bool]:
    """Call it as two workers would, and in a later epoch; say whether what is used then draws alike in either."""
    drawn = []
    with _undisturbed():  # it may need to be in a worker
        for number, epoch in ((0, 0), (1, 0), (0, 1)):
            for seed in _SEEDS:
                seed(1000 + 2 * number + epoch)
            worker_init_fn(number)
            drawn.append((np.random.random(), random.random(), torch.rand(()).item()))
    alike = [any(a == b and asked for a, b, asked in zip(drawn[0], one, used, strict=True)) for one in drawn[1:]]
    return (alike[0], alike[1]) if len(alike) == 2 else (False, False)


def _repeated(run: WatchedRun, loader: Any) -> Iterator[Alarm]:
    starts = sorted(e.step for e in run.around.iterations if e.source is loader)
    last = starts[1] if len(starts) > 1 else len(run.steps)
    keys = [key for batch in _batches(run, starts[0], last) for key in batch]
    share = 1 - len(set(keys)) / len(keys) if keys else 0.0
    if share > COPIES:
        yield Alarm(
            "stream_repeated",
            f"In one pass through a stream with {loader.num_workers} workers, {share:.0%} of the samples came again: "
            "each worker reads all of it. Split it by get_worker_info().",
        )


def kept_data(run: WatchedRun) -> Iterator[Alarm]:
    """A dataset gives out its samples, and does not change what it keeps."""
    for loader in run.loaders:
        # In a worker it is a copy that changes, and the workers are gone after the epoch.
        if loader.num_workers or isinstance(loader.dataset, IterableDataset):
            continue
        if _changes_what_it_keeps(loader.dataset):
            yield Alarm(
                "dataset_changed",
                f"{type(loader.dataset).__name__} changes in place what it keeps: its first sample, asked for again, "
                "is the same memory with other numbers, so augmentation piles up. Work on a clone().",
            )
            return
    piled = {seen.step for seen in run.trained if seen.answered} & run.stored.piled
    if len(piled) >= PILED_AT_LEAST:
        yield Alarm(
            "dataset_changed",
            f"In {len(piled)} steps the model got samples that were changed in place in the memory of the data, where "
            "the changes of an earlier epoch still were: augmentation piles up. Work on a clone().",
        )


def _changes_what_it_keeps(dataset: Any) -> bool:
    pairs: list[tuple] = []
    with _undisturbed():
        one = _numbers(dataset[0])
        kept = [part.clone() for part in one]
        pairs += zip(one, kept, _numbers(dataset[0]), strict=True)
    return any(a.data_ptr() == b.data_ptr() and not torch.equal(b, was) for a, was, b in pairs)


def _numbers(sample: Any) -> list[torch.Tensor]:
    kinds = torch.Tensor, np.ndarray
    return [torch.as_tensor(leaf) for leaf in tree_leaves(sample) if isinstance(leaf, kinds)]


def random_numbers(run: WatchedRun) -> Iterator[Alarm]:
    """Each step drops other units: nobody seeds again within the loop."""
    if True not in run.dropped:
        return
    first: dict[int, int] = {}
    for seen in run.trained:
        if seen.training:
            first.setdefault(seen.step, seen.random_state)
    states = list(first.values())
    most = max(map(states.count, states), default=0)
    if most >= 3:
        yield Alarm(
            "same_random_numbers",
            f"{most} of {len(states)} steps began with the same random numbers, so dropout dropped the same units each "
            "time. Is there a manual_seed() within the loop?",
        )
