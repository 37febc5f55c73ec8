"""Ranks that have to take the same steps on samples of their own: they notice together where one does not."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import RandomSampler

from torchcourse.ranks import who
from torchcourse.training.containers import fingerprint
from torchcourse.training.generators import generators_of, random_state, set_random_state


def together(windows: Iterator[Sequence], device: torch.device) -> Iterator[Sequence]:
    """Yield windows of batches as long as every rank has one. Every rank has to call it.

    For streams, whose lengths nobody knows beforehand: it asks the other ranks before each step.

    Raises:
        ValueError: on every rank, if some have a window left and others have none.
    """
    steps = 0
    while True:
        window = next(windows, None)
        going = torch.tensor([float(window is not None)], device=device)
        dist.all_reduce(going)
        if not going.item():
            return
        if window is None or going.item() < who.world_size():
            raise ValueError(
                f"The ranks' streams are of unequal length: after {steps} steps of this epoch {int(going.item())} of "
                f"{who.world_size()} ranks had a batch left, and a step takes all ranks. Let every rank's stream yield "
                "equally many batches, or cut all after as many as the shortest has."
            )
        steps += 1
        yield window


def check_alike(given: dict[str, Any]) -> None:
    """Raise ValueError for what differs between ranks, which would then wait for each other in vain, or drift apart.

    Every rank has to call it.

    Args:
        given: what the Trainer and its fit were given, by name.
    """
    settings = {name: given[name] for name in _ALIKE}
    settings |= {name: "None" if given[name] is None else "given" for name in _GIVEN}
    settings |= {"metrics": list(given["metrics"]), "scheduler": type(given["scheduler"]).__name__}
    settings["the learning rate"] = [float(group["lr"]) for group in given["optimizer"].param_groups]
    of_ranks = who.gather(settings)
    for name in settings:
        for rank, other in enumerate(of_ranks):
            if other[name] != of_ranks[0][name]:
                raise ValueError(
                    f"{name} is {of_ranks[0][name]} on rank 0, and {other[name]} on rank {rank}. Give all ranks the "
                    "same: what one of them does for all, such as writing files, the Trainer leaves to rank 0 itself."
                )


_ALIKE = (
    *("epochs", "max_steps", "resume", "accumulate", "clip_norm", "precision", "schedule_by"),
    *("log_every", "save_every", "monitor", "mode", "patience"),
)
_GIVEN = ("checkpoint_dir", "after_epoch", "val_loader")


def check_shares(loader: Any, batch: Any) -> None:
    """Raise ValueError if all ranks train on the same samples: they got one batch, or each shuffles one dataset.

    Every rank has to call it. Samplers that deal to ranks, as their attributes tell, are left to do so.
    """
    ranks, sampler = who.world_size(), getattr(loader, "sampler", None)
    if ranks == 1 or hasattr(sampler, "num_replicas") or hasattr(sampler, "world_size"):
        return
    shuffles = type(sampler) is RandomSampler and not sampler.replacement
    found = who.gather((fingerprint(batch), _some_samples(loader) if shuffles else []))
    batches, samples = zip(*found, strict=True)
    for prints, what in (
        (batches, "got the same first batch: each would compute the same gradient, and all but one would be of no use"),
        (samples, f"shuffle the same dataset, each for itself: an epoch would go through it {ranks} times"),
    ):
        if prints[0] and all(other == prints[0] for other in prints):
            raise ValueError(
                f"All {ranks} ranks {what}. Use make_loader(dataset, batch_size), which gives each rank its own share."
            )


def _some_samples(loader: Any) -> list[float]:
    """Return the fingerprint of a dataset: its length, and three samples as they come in a batch.

    One alone may be the same in the shares of all ranks. Random numbers and the dataset stay as they are.
    """
    generators = generators_of(loader)
    state = random_state(generators)
    found: list[float] = []
    with contextlib.suppress(Exception):  # the loader may ask otherwise
        dataset, count = copy.copy(loader.dataset), len(loader.dataset)
        samples = [loader.collate_fn([dataset[number]]) for number in (0, count // 2, count - 1)]
        prints = fingerprint(samples)
        found = [count, *prints] if prints and loader.sampler.num_samples == count else []
    set_random_state(state, generators)
    return found
