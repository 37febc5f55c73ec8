"""The folder of a run's checkpoints: whose it is, and what is looked at before anything is written."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from torchcourse.ranks import who
from torchcourse.training import finite, snapshot
from torchcourse.training.callbacks import kept
from torchcourse.training.checkpoint import some
from torchcourse.training.explanations import about_loss_that_is_no_number
from torchcourse.training.generators import Generator
from torchcourse.training.sanity import checked_folder
from torchcourse.training.snapshot import Training


class Running(Training, Protocol):
    """A Trainer in the midst of a fit."""

    accumulate: int
    generators: list[Generator]
    random_at_epoch: dict[str, Any]


class Keeper:
    """Saves a Trainer into a folder, or nowhere.

    Args:
        folder: None: nothing is written, but numbers are still looked at.
        keep: how many of the last savings are kept besides, as `step-N.pt`.
    """

    def __init__(self, folder: Path | None, keep: int) -> None:
        self.folder, self._keep = folder, keep
        self.is_ours = False  # whether the files there are of this Trainer's run
        self._replaces = False
        self._saved: int | None = None  # the step that `last.pt` holds
        self._seen: bytes | None = None  # the seal of `last.pt`, as this run found or left it
        self._odd: set[str] = set()  # what held nan or inf from the start, such as a mask of -inf
        self._shapes: dict[str, torch.Size] = {}  # of the buffers at the start

    def begin(self, trainer: Training, resume: bool, overwrite: bool) -> None:
        """Get ready for a fit. Every rank has to call it.

        Raises:
            ValueError: if the folder holds a different run, and nobody said what should become of it.
        """
        if not isinstance(resume, bool):
            raise ValueError(
                f"resume has to be True or False, but is {resume!r}: it goes on from last.pt in the checkpoint_dir. "
                "Give the Trainer the checkpoint_dir of the run."
            )
        self._odd = set(finite.not_finite(trainer.model, trainer.optimizer))
        self._shapes = finite.shapes_of_buffers(trainer.model)
        if resume:
            checked_folder(self.folder)
        if self.folder is not None and (resume or not self.is_ours):
            self._seen = snapshot.seal(self.folder)
        if self.folder is None or resume or self.is_ours:
            return
        found = snapshot.run_in(self.folder)
        if found is not None and not overwrite:
            raise ValueError(
                f"{found} is there already, of a run before this one. To go on with it: fit(…, resume=True). To keep "
                "it: a different checkpoint_dir. To replace it: fit(…, overwrite=True)."
            )
        self._replaces = found is not None

    def rehearse(self, trainer: Running) -> None:
        """Raise now what saving would raise after an epoch (`snapshot.rehearse`). Every rank has to call it."""
        if self.folder is not None:
            snapshot.rehearse(trainer, self.folder)

    def save(self, trainer: Running, *names: str) -> None:
        """Save under these names, unless something is no longer a number. Every rank has to call it.

        Raises:
            FloatingPointError: if so.
            CheckpointError: if it could not be written.
        """
        self.check_numbers(trainer)
        if self.folder is None:
            return
        state = snapshot.take(trainer, trainer.random_at_epoch, trainer.generators)
        self._seen = snapshot.write(state, self.folder, names, self._keep, self._replaces, self._seen)
        self.is_ours, self._replaces = True, False
        self._saved = trainer.position.step

    def save_last_if_new(self, trainer: Running) -> None:
        """Save `last.pt`, unless it holds this step already."""
        if self.folder is not None and self._saved != trainer.position.step:
            self.save(trainer, "last")

    @contextlib.contextmanager
    def keeping_up(self, trainer: Running) -> Iterator[None]:
        """Save `last.pt` once more if the block changes what it holds, such as the rate. Every rank has to call it."""
        before = kept(trainer.model, trainer.optimizer)
        yield
        if self.folder is not None and any(who.gather(kept(trainer.model, trainer.optimizer) != before)):
            self.save(trainer, "last")

    def check_numbers(self, trainer: Running) -> None:
        """Raise FloatingPointError if losses, weights or the optimizer's state are no longer numbers, on any rank."""
        trainer.loss.check()
        losses = trainer.averages.losses
        if losses:
            total = torch.stack([loss for _, loss in losses]).sum().item()
            if not math.isfinite(who.sum_over_ranks([[total]], trainer.device)[0][0]):
                raise about_loss_that_is_no_number(losses, trainer.accumulate, trainer.position)
        odd = self._odd | finite.masks_made_since(trainer.model, self._shapes)
        found = [name for name in finite.not_finite(trainer.model, trainer.optimizer) if name not in odd]
        spoiled = list(dict.fromkeys(name for names in who.gather(found) for name in names))
        if not spoiled:
            return
        after = f"after step {self._saved}, which is saved, and " if self.is_ours and self._saved is not None else ""
        raise FloatingPointError(
            f"{some(spoiled)} became nan or infinite {after}by step {trainer.position.step}, though the losses are "
            "numbers: a gradient was not, as that of sqrt(0) or of norm(0), or the learning rate is too high. So "
            "nothing was saved since. Add a small number inside the root, or lower the rate."
        )
