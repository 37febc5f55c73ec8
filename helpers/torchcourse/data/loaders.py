"""Loaders that give the same batches to one process and to several ranks together.

Two rules serve all loaders of the course: `samples_per_rank` says how many samples of a batch a rank gets, and `Shares`
which ones.
"""

import contextlib
import hashlib
import math
import operator
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from torchcourse import loader_workers
from torchcourse.ranks import who
from torchcourse.units import is_whole_number


def make_loader(dataset: Dataset, batch_size: int, shuffle: bool = True, seed: int = 0, **options: Any) -> DataLoader:
    """Return a loader that deals the samples to the ranks; in one process it is an ordinary loader.

    `batch_size` counts the samples of all ranks together. So a program takes the same steps on 1 and on N ranks: the
    ranks' shares of a batch make up exactly the batch that one process would get.

    * `shuffle=True` is for training. The order comes from `seed` and the epoch alone. If the ranks cannot get equally
      many samples, a few come twice, since a rank that runs out early would let the others wait forever.
    * `shuffle=False` is for evaluation: every sample comes exactly once, in order.

    Args:
        dataset: any dataset with a length.
        batch_size: samples per step, over all ranks; a multiple of the number of ranks.
        shuffle: whether to mix the samples, differently in each epoch.
        seed: chooses the order.
        **options: more for `torch.utils.data.DataLoader`, such as `num_workers`; see `loader_workers.at_most`.

    Raises:
        ValueError: if the dataset is empty or has no length, the batch cannot be dealt out evenly, the seed is no whole
            number, or `options` choose the order too.
    """
    if taken := sorted(options.keys() & {"sampler", "batch_sampler", "generator"}):
        raise ValueError(
            f"make_loader() chooses {taken[0]} itself, from the seed. With one of your own: DataLoader(…)."
        )
    samples = length(dataset)
    if samples is None or isinstance(dataset, IterableDataset):
        lacks = "no length" if samples is None else "a length, but no numbers"
        raise ValueError(
            f"make_loader() deals out samples by number, but a {type(dataset).__name__} has {lacks}. Give an "
            "iterable data set to a DataLoader, and let each rank iterate over samples of its own."
        )
    if samples == 0:
        raise ValueError("The dataset is empty: there is nothing to load.")
    if options.get("num_workers") and not loader_workers.at_most(options["num_workers"]):
        of_workers = ("num_workers", "persistent_workers", "prefetch_factor", "multiprocessing_context", "timeout")
        options = {name: value for name, value in options.items() if name not in of_workers}
    # A generator of its own: making an iterator then takes no number from the one that dropout uses. It seeds the
    # workers, and workers of different ranks must not draw the same numbers.
    sampler = Shares(samples, shuffle, seed)
    generator = generator_of(sampler.seed * 1_000_003 + who.rank())
    return DataLoader(dataset, samples_per_rank(batch_size), sampler=sampler, generator=generator, **options)


def samples_per_rank(batch_size: int) -> int:
    """Return how many samples of each batch a rank gets, when `batch_size` counts the samples of all ranks together.

    Raises:
        ValueError: if the batch cannot be dealt out evenly.
    """
    ranks = who.world_size()
    try:
        batch_size = operator.index(batch_size)  # NumPy's whole numbers too
    except TypeError:
        raise ValueError(f"batch_size={batch_size!r} is no whole number of samples.") from None
    if batch_size < 1 or batch_size % ranks:
        raise ValueError(
            f"batch_size={batch_size} cannot be dealt out to {ranks} rank(s): it counts the samples of all ranks "
            f"together, so it has to be a multiple of {ranks}, and at least 1."
        )
    return batch_size // ranks


class Shares(Sampler[int]):
    """A rank's share of the samples: every N-th of N ranks, of an order that comes from seed and epoch alone.

    With `shuffle`, index for index the same as `torch.utils.data.DistributedSampler`: all ranks get equally many, so
    the first of the order may come twice. Without, every sample comes exactly once, in order.

    Args:
        samples: how many there are, over all ranks.
        shuffle: whether to mix them, differently in each epoch.
        seed: chooses the order.
    """

    def __init__(self, samples: int, shuffle: bool = True, seed: int = 0) -> None:
        self.samples, self.shuffle, self.seed = samples, shuffle, whole_seed(seed)
        self.rank, self.world_size = who.rank(), who.world_size()
        self.epoch = self.begin = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next epoch have a different order. The Trainer calls it."""
        self.epoch, self.begin = epoch, 0

    def begin_at(self, sample: int) -> None:
        """Let the next epoch, and no other, begin after so many samples of the share."""
        self.begin = sample

    def __len__(self) -> int:
        if self.shuffle:
            return math.ceil(self.samples / self.world_size)
        return len(range(self.rank, self.samples, self.world_size))

    def order(self) -> torch.Tensor:
        """Return the indices of this rank's samples in this epoch: int64 [len(self)]."""
        if not self.shuffle:
            return torch.arange(self.rank, self.samples, self.world_size)
        order = torch.randperm(self.samples, generator=generator_of(self.seed + self.epoch))
        total = len(self) * self.world_size
        return order.repeat(math.ceil(total / self.samples))[self.rank : total : self.world_size]

    def __iter__(self) -> Iterator[int]:
        begin, self.begin = self.begin, 0
        return iter(self.order()[begin:].tolist())


def set_epoch(loader: Iterable, epoch: int) -> None:
    """Tell a loader, its samplers and its datasets which epoch comes, so that each has an order of its own.

    Those inside others are told, too: the sampler of a BatchSampler, the datasets of a Subset or a ConcatDataset, and
    the loader in a progress bar round it.
    """
    parts: list[Any] = [loader]
    told: dict[int, Any] = {}
    while parts:
        part = parts.pop()
        if id(part) in told:
            continue
        told[id(part)] = part
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
        parts += _parts_inside(part)


def _parts_inside(part: Any) -> list[Any]:
    """Return samplers and datasets. What is in a list of samples, or of their numbers, is none."""
    inside = [part_of(part, name) for name in ("sampler", "batch_sampler", "dataset")]
    several = part_of(part, "datasets")  # of a ConcatDataset, a StackDataset
    if isinstance(several, list | tuple | dict):
        inside += several.values() if isinstance(several, dict) else several
    inside += [one for one in held_parts(part) if all(one is not other for other in inside)]
    return [one for one in inside if one is not None and not isinstance(one, list | tuple | dict)]


def held_parts(whole: Any) -> list[Any]:
    """Return the loaders, samplers and datasets that an object holds, whatever it calls them."""
    return [one for one in getattr(whole, "__dict__", {}).values() if isinstance(one, DataLoader | Sampler | Dataset)]


def part_of(whole: Any, name: str) -> Any:
    """Return what an object has under a name, or None; also where it is a property that raises."""
    try:
        return getattr(whole, name, None)
    except Exception:  # of whatever kind: it is code of others, and may be meant for other uses
        return None


def begin_at(loader: Iterable, batch: int) -> Iterator:
    """Return an iterator over the rest of an epoch that has had so many batches; `set_epoch` comes before.

    What depends on random streams has to be drawn again, so the batches are loaded and dropped. Samples that depend on
    their number alone (`SeededSamples` from `make_loader`) are passed over without being loaded.
    """
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if isinstance(sampler, Shares) and size and isinstance(getattr(loader, "dataset", None), SeededSamples):
        sampler.begin_at(batch * size)
        return iter(loader)
    batches = iter(loader)
    deque(islice(batches, batch), maxlen=0)
    return batches


class SeededSamples(Dataset):
    """A dataset whose random changes to a sample (augmentation, 데이터 증강) depend on seed, epoch and index alone.

    Whatever `dataset[index]` and `transform` draw from the generators of torch, `random` and NumPy comes out the same
    on any rank, in any worker, after any interruption. So a run resumes exactly, with any number of workers.

    Args:
        dataset: with a length; may draw random numbers itself.
        transform: applied to a sample, as `dataset[index]` returns it.
        seed: chooses the random numbers.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[Any], Any] | None = None, seed: int = 0) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, whole_seed(seed)
        self._epoch = shared_number()

    def set_epoch(self, epoch: int) -> None:
        """Let the next epoch draw different numbers. The Trainer calls it."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Any:
        with seeded(self.seed, int(self._epoch), int(index)):
            sample = self.dataset[index]
            return sample if self.transform is None else self.transform(sample)


def whole_seed(seed: Any) -> int:
    """Return a seed as Python's whole number, so that NumPy's 3 gives the same numbers as 3.

    Raises:
        ValueError: for anything else, such as None: an order that no seed chooses cannot be had again.
    """
    if not is_whole_number(seed):
        raise ValueError(f"seed={seed!r} is no whole number: the order comes from it, and has to come again.")
    return int(seed)


def generator_of(number: int) -> torch.Generator:
    """Return a generator that starts from any whole number, however large: torch's own takes 64 bits."""
    return torch.Generator().manual_seed(number % 2**64)


def shared_number() -> torch.Tensor:
    """Return a 0 (int64 []) that workers which live longer than an epoch (persistent_workers) see change.

    Where there is no shared memory there are no workers either, and an ordinary number serves.
    """
    number = torch.zeros((), dtype=torch.int64)
    return number.share_memory_() if loader_workers.can_share_memory() else number


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within the block, torch's CPU generator, `random` and NumPy draw what depends on `numbers` only.

    Afterwards they go on as if nothing had been drawn.
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(int.from_bytes(digest, "big", signed=True))
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "big"))
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def length(loader: Any) -> int | None:
    """Return the number of a loader's batches or of a dataset's samples, or None where it is not known."""
    try:
        return len(loader)
    except TypeError:
        return None


def windows(batches: Iterator, size: int) -> Iterator[Sequence]:
    """Group batches for gradient accumulation; the last window of an epoch may be smaller."""
    # The usual size costs least this way.
    return zip(batches) if size == 1 else iter(lambda: list(islice(batches, size)), [])


def steps_left(loader: Iterable, accumulate: int, epochs: int, done: int) -> int | None:
    """Return the optimizer steps of so many epochs, less `done` batches; None if the loader has no length."""
    batches = length(loader)
    return None if batches is None else epochs * math.ceil(batches / accumulate) - math.ceil(done / accumulate)
