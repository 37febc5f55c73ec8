"""Which samples make up a batch: of similar length, or each class as often as the others. In one process or on ranks.

As with `make_loader`, a batch counts the samples of all ranks together: on N ranks each takes every N-th sample of it,
so that the ranks take as many steps as one process would, with the same samples. `make_loader` chooses its own order;
give these to a DataLoader:

    DataLoader(vowels(), batch_sampler=BucketBatches(vowels().lengths, 32), collate_fn=pad)
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from torchcourse.data.loaders import generator_of, samples_per_rank, whole_seed
from torchcourse.ranks import who
from torchcourse.units import is_whole_number

_MOST_DRAWN = 2**24  # torch.multinomial takes no more weights


class BucketBatches(Sampler[list[int]]):
    """Batches of sequences of similar length (length buckets, 길이 버킷), so that little is padding.

    All samples are mixed and cut into pools. Within a pool they are sorted by length and cut into batches, and then the
    batches of all pools are mixed. A pool of one batch is an ordinary shuffle; the larger it is, the less padding, and
    the less chance decides who meets whom. `set_epoch` gives a different order to each epoch.

    Each sample comes once an epoch; on ranks that do not divide the last batch, the first of it come twice.

    Args:
        lengths: the length of each sample, [N].
        batch_size: samples per batch, over all ranks; a multiple of the number of ranks.
        pool: how many batches are sorted together.
        shuffle: False takes all samples sorted by length, for evaluation.
        seed: chooses the order.

    Raises:
        ValueError: for no lengths, or a batch or a pool that makes no sense.
    """

    def __init__(
        self,
        lengths: torch.Tensor | Sequence[int],
        batch_size: int,
        pool: int = 20,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.lengths = _lengths(lengths)
        self.batch_size, self.pool, self.shuffle = batch_size, pool, shuffle
        self.seed, self.epoch = whole_seed(seed), 0
        self.rank, self.world_size = who.rank(), who.world_size()
        if len(self.lengths) == 0:
            raise ValueError("There are no lengths: the dataset is empty.")
        if not is_whole_number(pool) or pool < 1:
            raise ValueError(f"pool={pool!r} is a number of batches, and has to be at least 1.")
        samples_per_rank(batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Let the next epoch have a different order. The Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches():
            short = -len(batch) % self.world_size
            whole = batch + (batch * short)[:short]
            yield whole[self.rank :: self.world_size]

    def batches(self) -> list[list[int]]:
        """Return the batches of the epoch, of all ranks together."""
        if not self.shuffle:
            return _cut(self.lengths.argsort(stable=True), self.batch_size)
        generator = generator_of(self.seed * 1_000_003 + self.epoch)
        batches = []
        for pool in torch.randperm(len(self.lengths), generator=generator).split(self.pool * self.batch_size):
            batches += _cut(pool[self.lengths[pool].argsort(stable=True)], self.batch_size)
        return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]


class WeightedSamples(Sampler[int]):
    """Samples drawn with replacement, each as often as its weight says, a different draw each epoch.

    It is torch's WeightedRandomSampler with a seed, `set_epoch` and ranks: the order comes from seed and epoch alone,
    and every N-th sample of it is a rank's.

    Args:
        weights: [N], 0 or more; they need not add up to 1. `balanced(labels)` makes all classes equally likely.
        samples: how many to draw, over all ranks; as many as there are weights if None. A multiple of the number of
            ranks, or a few are left out.
        seed: chooses the draw.

    Raises:
        ValueError: for weights that are no such numbers, or fewer samples than ranks.
    """

    def __init__(self, weights: torch.Tensor | Sequence[float], samples: int | None = None, seed: int = 0) -> None:
        self.weights = _per_sample(weights, "Weights").double()
        if samples is not None and not is_whole_number(samples):
            raise ValueError(f"samples={samples!r} is no whole number of samples to draw.")
        self.seed, self.epoch = whole_seed(seed), 0
        self.rank, self.world_size = who.rank(), who.world_size()
        self.samples = (len(self.weights) if samples is None else samples) // self.world_size
        if self.weights.sum() <= 0 or self.weights.min() < 0 or self.samples < 1:
            raise ValueError("Weights are 0 or more, one of them above 0, and each rank needs a sample.")

    def set_epoch(self, epoch: int) -> None:
        """Let the next epoch have a different draw. The Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        generator = generator_of(self.seed * 1_000_003 + self.epoch)
        total = self.samples * self.world_size
        if len(self.weights) <= _MOST_DRAWN:
            drawn = torch.multinomial(self.weights, total, replacement=True, generator=generator)
        else:
            drawn = _draw(self.weights, total, generator)
        yield from drawn[self.rank :: self.world_size].tolist()


def class_weights(labels: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Return a weight for each class, N / (classes × its samples), for `cross_entropy(weight=)`: mean 1 over samples.

    Raises:
        ValueError: if a class between 0 and the largest label has no sample, or a label is no class.
    """
    labels = _classes(labels)
    there = labels.unique()  # sorted; counting up to a label of a billion, such as an id, would take all memory
    empty = (there != torch.arange(len(there), device=there.device)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"Class {empty[0]} has no samples, so it can have no weight.")
    counts = labels.bincount()
    return len(labels) / (len(counts) * counts.float())


def balanced(labels: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Return a weight for each sample with which `WeightedSamples` draws every class equally often."""
    labels = _classes(labels)
    return class_weights(labels)[labels]


def padding_share(lengths: torch.Tensor | Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Return the share of padding, 0 to 1, in batches that are padded to their longest sequence.

    Raises:
        ValueError: if there is no batch, or no step in any.
    """
    lengths = _lengths(lengths)
    cells, steps = 0, 0
    for batch in batches:
        chosen = lengths[list(batch)]
        cells, steps = cells + len(chosen) * int(chosen.max()), steps + int(chosen.sum())
    if cells == 0:
        raise ValueError("There is no batch with a step in it, so it has no share of padding.")
    return 1 - steps / cells


def _per_sample(values: Any, what: str) -> torch.Tensor:
    """As a tensor [N] of finite numbers.

    Raises:
        ValueError: if they are none.
    """
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} are one number per sample, [N], but these are not: {error}.") from error
    if found.dim() != 1:
        raise ValueError(f"{what} are one number per sample, [N], but these have the shape {[*found.shape]}.")
    if bad := (~found.isfinite()).nonzero().flatten().tolist():
        raise ValueError(f"{what} are finite numbers, but that of sample {bad[0]} is {found[bad[0]].item()}.")
    return found


def _lengths(lengths: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """As a tensor [N].

    Raises:
        ValueError: if they are no lengths.
    """
    found = _per_sample(lengths, "Lengths")
    if (found < 0).any():
        raise ValueError(f"Length {found.min().item()} is no length.")
    return found


def _cut(order: torch.Tensor, size: int) -> list[list[int]]:
    return [part.tolist() for part in order.split(size)]


def _draw(weights: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw with replacement, for any number of weights: where a random number falls in their running sum."""
    edges = weights.cumsum(0)
    points = torch.rand(count, dtype=edges.dtype, generator=generator) * edges[-1]
    return torch.searchsorted(edges, points, right=True).clamp_max_(int(weights.nonzero()[-1]))


def _classes(labels: torch.Tensor | Sequence[Any]) -> torch.Tensor:
    """As int64: torch takes truth values and bytes for a mask where they are an index."""
    found = _per_sample(labels, "Labels")
    if not len(found):
        raise ValueError("There are no labels [N].")
    if found.is_floating_point() or found.is_complex():
        raise ValueError(f"Labels are whole numbers, but these are {found.dtype}: labels.long() makes them whole.")
    found = found.long()
    if found.min() < 0:
        raise ValueError(
            f"Label {int(found.min())} is no class. Leave out the samples that the loss ignores: labels[labels >= 0]."
        )
    return found
