"""The course's training loop: what a raw loop does, and what real runs need besides.

    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), log_dir="runs/a", checkpoint_dir="checkpoints/a")
    history = trainer.fit(make_loader(train_set, 64), epochs=8, val_loader=make_loader(val_set, 250, shuffle=False))

The same lines run in one process and, inside `run_ranks` or under `torchrun`, on several ranks.
Read `fit`, then `_train`, then `_step`: that is the loop. The rest is bookkeeping.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchcourse.data.loaders import begin_at, set_epoch, steps_left, windows
from torchcourse.ranks import who
from torchcourse.training import checkpoint, sanity, snapshot, wrappers
from torchcourse.training.gradients import clip_gradients, divide_gradients
from torchcourse.training.history import History
from torchcourse.training.losses import Count, Loss, mean_of
from torchcourse.training.metrics import Averages, Metric, OverAll, accuracy
from torchcourse.training.monitor import Monitor
from torchcourse.training.progress import GentleStop, Progress
from torchcourse.training.watch import Watch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains a model on batches of `(inputs, targets)`.

    Args:
        model: moved to the device at hand; on several ranks wrapped in DistributedDataParallel (unless it is already).
        optimizer: made from the model's parameters.
        loss_fn: `loss_fn(outputs, targets)`: a loss of torch; or an own one that returns the mean over the samples, one
            value per sample, or `(sum, count)` (`losses` says why).
        scheduler: stepped after every optimizer step; a ReduceLROnPlateau after every epoch.
        accumulate: batches whose gradients make up one step (gradient accumulation, 기울기 누적).
        clip_norm: upper limit for the norm of all gradients together (gradient clipping).
        precision: "fp32"; or mixed precision (혼합 정밀도): "bf16", or "fp16" with loss scaling, on a GPU only.
        metrics: name → `metric(outputs, targets)`, one value per sample, the batch's mean, or `(sum, count)`; or
            `OverAll(metric)` for what is no mean. None: accuracy, without the targets that the loss ignores.
        log_dir: folder for TensorBoard.
        log_every: steps between two logged values. Only there does the loop wait for the device.
        watch_every: steps between two looks at weights, gradients and activations (`watch`), with a log_dir; 0: never.
            None: 100, as long as looking takes no more than 1 % of the time.
        checkpoint_dir: folder for `last.pt` and `best.pt`, saved after every epoch.
        save_every: steps between two savings within an epoch, so that a crash loses no more than these.
        keep: how many of the last savings to keep besides, as `step-N.pt`.
        monitor: which value says what is best: "val_loss", "val_accuracy", "loss" … Without a validation loader, "val_"
            is ignored.
        mode: "min" or "max": which of its values is best.
        progress: whether to show a progress bar.
        device: in place of the device that is chosen: a rank's own, else the GPU if there is one, else the CPU.

    Raises:
        ValueError: for an argument that makes no sense, in one sentence.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[[Any, torch.Tensor], Any],
        *,
        scheduler: LRScheduler | ReduceLROnPlateau | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        metrics: dict[str, Metric | OverAll] | None = None,
        log_dir: str | os.PathLike | None = None,
        log_every: int = 50,
        watch_every: int | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        save_every: int | None = None,
        keep: int = 0,
        monitor: str = "val_loss",
        mode: Literal["min", "max"] = "min",
        progress: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        self.optimizer, self.loss_fn, self.scheduler = optimizer, loss_fn, scheduler
        self.accumulate, self.clip_norm, self.precision = accumulate, clip_norm, precision
        self.metrics: dict[str, Metric | OverAll] = {"accuracy": accuracy} if metrics is None else dict(metrics)
        self.log_dir, self.log_every, self.watch_every = log_dir, log_every, watch_every
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.save_every, self.keep = save_every, keep
        self.monitor, self.mode, self.progress = monitor, mode, progress
        # An empty tensor knows the device with its number, as tensors will: "cuda:0" where it was called "cuda".
        self.device = torch.empty(0, device=who.device() if device is None else device).device
        sanity.check_arguments(vars(self))  # which are, so far, the arguments
        self.model = wrappers.unwrap(model).to(self.device)
        self.replica = wrappers.wrap(model, self.device)
        self._no_sync = getattr(self.replica, "no_sync", lambda: _NOTHING)
        checkpoint.optimizer_state(self.model, optimizer)  # raises if the two do not belong together
        self._each_step = None if isinstance(scheduler, ReduceLROnPlateau) else scheduler
        dtype = PRECISIONS[precision]
        self.autocast = torch.autocast(self.device.type, dtype) if dtype else _NOTHING
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.position = snapshot.Position()
        self.history = History()
        self.loss = Loss(loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else loss_fn)
        self.averages = Averages(self.metrics, self.device, self.loss.ignored)
        self._ranks = who.world_size()
        self._unit: int | None = None

    def fit(
        self, train_loader: Iterable, epochs: int, val_loader: Iterable | None = None, resume: bool = False
    ) -> History:
        """Train for `epochs` epochs (에폭) and return the history.

        In one process, the stop button (or Ctrl-C) ends it after the step under way: `last.pt` is saved and the history
        so far returned. Pressed twice, it interrupts at once. On several ranks what was saved last stays.

        Args:
            train_loader: yields `(inputs, targets)`; on several ranks this rank's share (`make_loader`).
            epochs: how many more; with `resume`, how many in all.
            val_loader: what to evaluate on after every epoch.
            resume: load `last.pt` first, if there is one, and go on exactly where it was saved.

        Raises:
            ValueError: for loaders, batches or losses that nothing can be learned from.
            FloatingPointError: when the loss is no longer a finite number; names the step.
            CheckpointError: when resuming from a file that is damaged or belongs to a different model.
        """
        sanity.check_fit(self.monitor, self.metrics, train_loader, epochs, val_loader)
        folder = sanity.checked_folder(self.checkpoint_dir) if resume else None
        self._unchecked: Iterable | None = train_loader  # until its first batch has been looked at
        self._generator = getattr(train_loader, "generator", None)
        self._begin_epoch()
        if folder is not None:
            self._resume(folder, epochs)
        last_epoch = epochs if resume else self.position.epoch + epochs
        steps = steps_left(train_loader, self.accumulate, last_epoch - self.position.epoch, self.position.batch)
        writes = who.rank() == 0
        with (
            sanity.broadcasting_refused(),
            sanity.lone_sample_refused(self.model, train_loader),
            Monitor(self.log_dir if writes else None, first_step=self.position.step + 1) as board,
            Progress(self.progress and writes, last_epoch, steps) as bar,
            GentleStop(active=who.world_size() == 1) as stop,
        ):
            watch = Watch(self.model, board, self.watch_every)
            while self.position.epoch < last_epoch and not stop.requested:
                start = time.perf_counter()
                bar.epoch_begins(self.position.epoch + 1)
                row = self._train(train_loader, board, watch, bar, stop)
                if val_loader is not None and not stop.requested:
                    row |= {f"val_{name}": value for name, value in self._evaluate(val_loader, stop).items()}
                if not stop.requested:
                    row |= {"lr": self._rate(), "seconds": time.perf_counter() - start}
                    self._finish_epoch(row, board, bar)
        if stop.requested:
            self._finish_early()
        return self.history

    def evaluate(self, loader: Iterable) -> dict[str, float]:
        """Return the loss and the metrics, as means over all samples of the loader, of all ranks together.

        Raises:
            ValueError: for a loader without batches, or batches that do not fit the model.
        """
        with sanity.broadcasting_refused():
            return self._evaluate(loader, GentleStop(active=False))

    def restore(self, name: Literal["best", "last"] = "best") -> None:
        """Put the weights of `best.pt` or `last.pt` into the model.

        Raises:
            CheckpointError: if the file is missing, damaged or of a different model.
            ValueError: without a checkpoint_dir.
        """
        folder = sanity.checked_folder(self.checkpoint_dir)
        checkpoint.load_weights(self.model, checkpoint.load(folder / f"{name}.pt")["model"])

    def _train(self, loader: Iterable, board: Monitor, watch: Watch, bar: Progress, stop: GentleStop) -> dict[str, Any]:
        """Train for an epoch, or for the rest of one, and return the means over its batches."""
        set_epoch(loader, self.position.epoch)
        self._random_at_epoch = checkpoint.random_state(self._generator)
        batches = begin_at(loader, self.position.batch)
        if self.position.batch and self._random_at_batch is not None:  # of an epoch that was stopped
            checkpoint.set_random_state(self._random_at_batch, self._generator)
        self.replica.train()
        for window in stop.until(windows(batches, self.accumulate)):
            with watch.around(self.position.step + 1):
                self._step(window)
            bar.step()
            if self.position.step % self.log_every == 0:
                self._log(board)
            if self.save_every and self.position.step % self.save_every == 0:
                self._save_within_epoch()
        if stop.requested:
            return {}
        self._log(board)
        return {"epoch": self.position.epoch + 1, "step": self.position.step} | self.averages.means()

    def _step(self, window: list) -> None:
        """Take one optimizer step on a window of batches.

        The gradient is that of one big batch, of all ranks together, even where the last batch or the last window is
        smaller, and whatever the loss divides by: sums and counts are added up, and divided once.
        """
        self.optimizer.zero_grad()
        if len(window) == 1 and self._ranks == 1:
            self._backward(window[0], 0)
        else:
            unit = self._unit_of(window[0])
            count: Count = 0
            for batch in window[:-1]:
                with self._no_sync():  # ranks need to average only once: in the last backward pass of a step
                    count = count + self._backward(batch, unit)
            count = count + self._backward(window[-1], unit)
            divide_gradients(self.optimizer, count, unit, self.device)
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self._gradient_norm = clip_gradients(parameters, self.clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # A step whose gradients overflowed was left out and the scale lowered: then the schedule waits too.
        if self._each_step is not None and self.scaler.get_scale() >= scale:
            self._each_step.step()
        self.position.step += 1
        self.position.batch += len(window)

    def _unit_of(self, batch: Any) -> int:
        """Return what summed losses are divided by on the way: about a batch's samples, on all ranks alike."""
        if self._unit is None:
            self._unit = max(who.gather(2 ** math.ceil(math.log2(max(1, sanity.samples(batch))))))
        return self._unit

    def _backward(self, batch: Any, unit: int) -> Count:
        """Add the gradients of a batch's summed losses over `unit`, or (0) of their mean; return the count."""
        inputs, targets = sanity.receive(batch, self.device)
        outputs, loss, count = self._forward(self.replica, inputs, targets, summed=bool(unit))
        mean = mean_of(loss, count) if unit else loss
        first = self._unchecked is not None
        if self._unchecked is not None:
            sanity.check_first_batch(self._unchecked, self.metrics, inputs, outputs, targets, loss)
            with self.autocast:
                self.loss.watch_first(outputs, targets, mean, parts=bool(unit))
            self._unchecked = None
        if unit:
            with self.autocast:
                self.loss.watch(outputs, targets, mean)
        self.scaler.scale(loss / unit if unit else loss).backward()
        if first:
            sanity.check_unused(self.replica)
        self.averages.add(outputs, targets, mean, count)
        return count

    def _forward(
        self, model: nn.Module, inputs: Any, targets: torch.Tensor, summed: bool
    ) -> tuple[Any, torch.Tensor, Count]:
        """Return the outputs, the mean or summed loss as one number, and what it counts."""
        with self.autocast:
            try:
                outputs = model(inputs)
            except Exception as error:
                if known := sanity.about_model(error, targets):
                    raise known from error
                error.add_note(sanity.about_inputs(inputs))
                raise
            try:
                loss, count = (self.loss.total if summed else self.loss.mean)(outputs, targets)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError, Warning) as error:
                own = not (getattr(self.loss_fn, "__module__", None) or "").startswith("torch.")
                raise sanity.about_loss(error, outputs, targets) from (error if own else None)
        return outputs, loss, count

    def _evaluate(self, loader: Iterable, stop: GentleStop) -> dict[str, float]:
        averages = Averages(self.metrics, self.device, self.loss.ignored, evaluation=True)
        wrappers.broadcast_buffers(self.model)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                for batch in stop.until(iter(loader)):
                    inputs, targets = sanity.receive(batch, self.device)
                    # The model and not its replica, which would wait for ranks that have had their last batch.
                    outputs, loss, count = self._forward(self.model, inputs, targets, summed=True)
                    averages.add(outputs, targets, mean_of(loss, count), count)
        finally:
            self.model.train(was_training)
        return {} if stop.requested else averages.means()

    def _log(self, board: Monitor) -> None:
        """Report the means since the last time. Only here does the loop wait for the device."""
        losses = self.averages.losses
        if not losses:
            return
        self.loss.check()
        means = self.averages.flush()
        if not math.isfinite(means["loss"]):
            raise sanity.about_loss_that_is_no_number(losses, self.accumulate, self.position)
        self.position.logged = self.position.step
        row = means | {"lr": self._rate()}
        if self.clip_norm is not None:
            row["gradient_norm"] = self._gradient_norm.item()
        self.history.steps.append({"step": self.position.step} | row)
        board.scalars(self.position.step, {f"{name}/train": value for name, value in row.items()})

    def _finish_epoch(self, row: dict[str, Any], board: Monitor, bar: Progress) -> None:
        """Report an epoch, adapt the learning rate, keep the best and the last state."""
        self.position.epoch += 1
        self._begin_epoch()
        self.history.rows.append(row)
        board.scalars(row["step"], {f"{name[4:]}/val": row[name] for name in row if name.startswith("val_")})
        bar.epoch_ends(row)
        watched = row[self.monitor if self.monitor in row else self.monitor.removeprefix("val_")]
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(watched)
        best = self.position.best
        better = math.isfinite(watched) and (best is None or (watched < best if self.mode == "min" else watched > best))
        if better:
            self.position.best, self.history.best = watched, row
        self._save("best", "last") if better else self._save("last")

    def _finish_early(self) -> None:
        """After the stop button: keep what was trained."""
        if self.averages.losses and not math.isfinite(self.averages.losses[-1][1]):
            raise sanity.about_loss_that_is_no_number(self.averages.losses, self.accumulate, self.position)
        self._save("last")
        kept = "The weights are in the model, but without a checkpoint_dir nothing is on disk."
        if self.checkpoint_dir is not None:
            kept = f"Saved as {self.checkpoint_dir / 'last.pt'}: fit(…, resume=True) goes on from here."
        print(f"Stopped after step {self.position.step}, in epoch {self.position.epoch + 1}. {kept}")

    def _save(self, *names: str) -> None:
        if self.checkpoint_dir is not None:
            state = snapshot.take(self, self._random_at_epoch, self._generator)
            snapshot.write(state, self.checkpoint_dir, names, self.keep)

    def _save_within_epoch(self) -> None:
        """Save, unless a loss since the last log is not a number: then the weights are spoilt already, on all ranks."""
        self.loss.check()
        losses = self.averages.losses
        if losses:
            total = torch.stack([loss for _, loss in losses]).sum().item()
            if not math.isfinite(who.sum_over_ranks([[total]], self.device)[0][0]):
                raise sanity.about_loss_that_is_no_number(losses, self.accumulate, self.position)
        self._save("last")

    def _resume(self, folder: Path, epochs: int) -> None:
        state = snapshot.read(folder)
        if state is None:
            if who.rank() == 0:
                print(f"There is no checkpoint in {folder} yet: training begins at the first epoch.")
            return
        differences = snapshot.differences(self, state)
        snapshot.put_back(self, state)
        if differences and who.rank() == 0:
            print(
                f"Going on with the checkpoint's {checkpoint.some(differences)}. For new settings, begin a new fit "
                "from its weights, without resume: restore('last')."
            )
        random = snapshot.random_of_this_rank(state)
        self._random_at_batch = random and random["batch"]
        if random is not None:
            checkpoint.set_random_state(random["epoch"], self._generator)
        if self.position.epoch >= epochs and who.rank() == 0:
            print(f"The checkpoint has had {self.position.epoch} epochs already: nothing is left to train.")

    def _begin_epoch(self) -> None:
        self.position.batch, self.position.logged = 0, self.position.step
        self.averages = Averages(self.metrics, self.device, self.loss.ignored)

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


_NOTHING = contextlib.nullcontext()
