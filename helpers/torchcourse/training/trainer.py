"""The course's training loop: what a raw loop does, and what real runs need besides.

    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), log_dir="runs/a", checkpoint_dir="checkpoints/a")
    history = trainer.fit(make_loader(train_set, 64), epochs=8, val_loader=make_loader(val_set, 250, shuffle=False))

The same lines run in one process and, inside `run_ranks` or under `torchrun`, on several ranks.
Read `fit`, then `_train`, then `_step`: that is the loop. The rest is bookkeeping.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchcourse.data.loaders import begin_at, length, set_epoch, windows
from torchcourse.gpu_errors import stopped_gpu_explained
from torchcourse.ranks import who
from torchcourse.training import checkpoint, evaluation, explanations, resuming, sanity, schedules, snapshot
from torchcourse.training.callbacks import Learning
from torchcourse.training.generators import generators_of, random_state, set_random_state
from torchcourse.training.gradients import clip_gradients, divide_gradients, move
from torchcourse.training.history import History
from torchcourse.training.keeping import Keeper
from torchcourse.training.lockstep import together
from torchcourse.training.losses import Count, Loss, mean_of
from torchcourse.training.metrics import Averages, Metric, OverAll, accuracy
from torchcourse.training.monitor import Monitor
from torchcourse.training.progress import GentleStop, Progress, stopped_by
from torchcourse.training.schedules import Length
from torchcourse.training.watch import Watch
from torchcourse.training.wrappers import unwrap

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains a model on batches of `(inputs, targets)`.

    Args:
        model: moved to the device at hand; on several ranks wrapped in DistributedDataParallel (unless it is already).
        optimizer: made from the model's parameters.
        loss_fn: `loss_fn(outputs, targets)`: a loss of torch; or an own one that returns the mean over the samples, one
            value per sample, or `(sum, count)` (`losses` says why).
        scheduler: a learning rate schedule; a ReduceLROnPlateau moves after every epoch.
        schedule_by: whether it moves after every "step" or "epoch". None: every step, but a schedule that looks as if
            it counted epochs is refused.
        accumulate: batches whose gradients make up one step (gradient accumulation, 기울기 누적).
        clip_norm: upper limit for the norm of all gradients together (gradient clipping).
        precision: "fp32"; or mixed precision (혼합 정밀도): "bf16", or "fp16" with loss scaling, on a GPU only.
        metrics: name → `metric(outputs, targets)`, one value per sample, the batch's mean, or `(sum, count)`; or
            `OverAll(metric)` for what is no mean. None: accuracy, without the targets that the loss ignores.
        log_dir: folder for TensorBoard.
        log_every: steps between two logged values. Only there does the loop wait for the device.
        watch_every: steps between two looks at weights, gradients and activations (`watch`), with a log_dir; 0: never.
            None: 100, as long as looking takes no more than 1% of the time.
        checkpoint_dir: folder for `last.pt` and `best.pt`, saved after every epoch.
        save_every: steps between two savings within an epoch, so that a crash loses no more than these.
        keep: how many of the last savings to keep besides, as `step-N.pt`.
        monitor: which value says what is best: "val_loss", "val_accuracy", "loss" … Without a validation loader, "val_"
            is ignored.
        mode: "min" or "max": which of its values is best.
        patience: end the training after so many epochs without a better value (early stopping, 조기 종료).
        after_step, after_epoch: `function(trainer)`, called after every optimizer step, and after every epoch, which is
            saved by then, and again if it changes a rate, the optimizer's groups, or weights. Returning True ends the
            training. It may freeze and unfreeze. On several ranks all have to do and return the same.
        progress: whether to show a progress bar.
        device: instead of the device that is chosen: a rank's own, else the GPU if there is one, else the CPU. Apple's
            "mps" is never chosen, since it lacks float64 and has no ranks; it has to be asked for.

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
        schedule_by: Literal["step", "epoch"] | None = None,
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
        patience: int | None = None,
        after_step: Callable[["Trainer"], object] | None = None,
        after_epoch: Callable[["Trainer"], object] | None = None,
        progress: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        self.optimizer, self.loss_fn = optimizer, loss_fn
        self.scheduler, self.schedule_by = scheduler, schedule_by
        self.accumulate, self.clip_norm, self.precision = accumulate, clip_norm, precision
        self.metrics = sanity.checked_metrics({"accuracy": accuracy} if metrics is None else metrics)
        self.log_dir, self.log_every, self.watch_every = log_dir, log_every, watch_every
        self.checkpoint_dir = None if checkpoint_dir is None else Path(os.path.expanduser(checkpoint_dir)).absolute()
        self.save_every, self.keep = save_every, keep
        self.monitor, self.mode, self.patience, self.progress = monitor, mode, patience, progress
        self.after_step, self.after_epoch = after_step, after_epoch
        self.device = torch.empty(0, device=who.device()).device if device is None else sanity.checked_device(device)
        sanity.check_arguments(vars(self))  # which are, so far, the arguments
        self.model = sanity.checked_model(unwrap(model)).to(self.device)
        self._learning = Learning(model, self.model, self.device)
        self.replica, self._no_sync = self._learning.follow()
        sanity.check_optimizer(self.model, optimizer, loss_fn, scheduler)
        self.autocast: torch.autocast | contextlib.nullcontext = contextlib.nullcontext()
        self._forward = evaluation.forward
        if dtype := PRECISIONS[precision]:
            self.autocast = torch.autocast(self.device.type, dtype)
            self._forward = self.autocast(evaluation.forward)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.position, self.history = snapshot.Position(), History()
        self.loss = Loss(loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else loss_fn)
        self.averages = Averages(self.metrics, self.device, self.loss.ignored)
        self.settings: dict[str, Any] = {}  # of the fit, as a checkpoint keeps them
        self._keeper = Keeper(self.checkpoint_dir, keep)
        self._ranks = who.world_size()
        self._unit: int | None = None

    def fit(
        self,
        train_loader: Iterable,
        epochs: int | None = None,
        val_loader: Iterable | None = None,
        resume: bool = False,
        *,
        max_steps: int | None = None,
        overwrite: bool = False,
    ) -> History:
        """Train for `epochs` epochs (에포크), or `max_steps` steps, and return the history.

        In one process, the stop button (or Ctrl-C) ends it after the step under way: `last.pt` is saved, `history` has
        what there is, and a KeyboardInterrupt says how to go on. Pressed twice, it interrupts at once. On several ranks
        what was saved last stays. After a SIGTERM, `last.pt` is saved and the process ends (SystemExit 143).

        Args:
            train_loader: yields `(inputs, targets)`; on several ranks this rank's share (`make_loader`).
            epochs: how many more; with `resume`, how many in total. None: as many as `max_steps` takes.
            val_loader: what to evaluate on after every epoch. One of its batches is tried before the first.
            resume: load `last.pt` first, if any, and go on exactly there; only persistent_workers draw other numbers.
            max_steps: optimizer steps after which training ends, also within an epoch; counted as `epochs` are.
            overwrite: replace the run that the checkpoint_dir holds.

        Raises:
            ValueError: for loaders, batches, losses or schedules that nothing can be learned from, and for a
                checkpoint_dir that holds a different run.
            FloatingPointError: when the loss, a weight or the optimizer's state is no longer a finite number.
            CheckpointError: when resuming from a file that is damaged or belongs to a different model.
        """
        sanity.check_fit(vars(self), train_loader, epochs, max_steps, val_loader, resume)
        self._keeper.begin(self, resume, overwrite)
        self.settings = resuming.settings(train_loader, self)
        last_epoch, steps = self._begin(train_loader, epochs, max_steps, resume)
        writes = who.rank() == 0
        with (
            stopped_gpu_explained(),
            sanity.broadcasting_refused(),
            sanity.lone_sample_refused(self.model, train_loader),
            Monitor(self.log_dir if writes else None, first_step=self.position.step + 1) as board,
            Progress(self.progress and writes, None if epochs is None else last_epoch, steps) as bar,
            GentleStop(interrupts=self._ranks == 1, terminations=True, alone=self._ranks == 1) as stop,
        ):
            watch = Watch(self.model, board, self.watch_every)
            if val_loader is not None and self.position.epoch < last_epoch:
                evaluation.try_one_batch(self, val_loader, stop)
            while self.position.epoch < last_epoch and self.position.step < self._last_step and not stop.requested:
                start = time.perf_counter()
                bar.epoch_begins(self.position.epoch + 1)
                row = self._train(train_loader, board, watch, bar, stop)
                if val_loader is not None and not stop.requested:
                    self._keeper.save_last_if_new(self)  # an evaluation that dies loses nothing
                    row |= {f"val_{name}": value for name, value in evaluation.evaluate(self, val_loader, stop).items()}
                if not stop.requested:
                    row |= {"lr": self._rate(), "seconds": time.perf_counter() - start}
                    self._finish_epoch(row, length(train_loader), board, bar)
        if stop.requested:
            self._keeper.save(self, "last")
            raise stopped_by(stop.terminated, self.position, self.checkpoint_dir)
        return self.history

    def evaluate(self, loader: Iterable) -> dict[str, float]:
        """Return the loss and the metrics, as means over all samples of the loader, of all ranks together.

        Raises:
            ValueError: for a loader without batches, or batches that do not fit the model.
        """
        with stopped_gpu_explained(), sanity.broadcasting_refused():
            return evaluation.evaluate(self, loader, GentleStop(interrupts=False))

    def restore(self, name: Literal["best", "last"] = "best") -> None:
        """Put the weights of `best.pt` or `last.pt` into the model.

        Raises:
            CheckpointError: if the file is missing, damaged or of a different model.
            ValueError: without a checkpoint_dir.
        """
        folder = sanity.checked_folder(self.checkpoint_dir)
        checkpoint.load_weights(self.model, checkpoint.load(folder / f"{name}.pt")["model"])

    def _begin(
        self, train_loader: Iterable, epochs: int | None, max_steps: int | None, resume: bool
    ) -> tuple[int, int | None]:
        """Go to where training begins; return the number of the last epoch, and of the steps until its end if known."""
        sanity.check_optimizer(self.model, self.optimizer, self.loss_fn, self.scheduler)
        by_step = self.schedule_by != "epoch" and not isinstance(self.scheduler, ReduceLROnPlateau)
        self._each_step = self.scheduler if by_step else None
        self.generators = generators_of(train_loader, self.model, self.loss.fn)
        self._unchecked: Iterable | None = train_loader  # until its first batch has been looked at
        self.replica, self._no_sync = self._learning.follow()
        if self.position.batch and not resume:  # an epoch that was cut short is over: the next has an order of its own
            self.position.epoch += 1
        begun = (0, 0) if resume else (self.position.epoch, self.position.step)
        last_epoch = sys.maxsize if epochs is None else begun[0] + epochs
        self._last_step = sys.maxsize if max_steps is None else begun[1] + max_steps
        length_of = Length(train_loader, self.accumulate, last_epoch, self._last_step)
        self._random_at_batch = None
        if resume:
            folder = sanity.checked_folder(self.checkpoint_dir)
            found, self._random_at_batch = resuming.resume(self, folder, length_of)
            self._keeper.is_ours = self._keeper.is_ours or found
            self._last_step = length_of.last_step  # which the run may have behind it
        else:
            schedules.check_length(self.scheduler, self.schedule_by, length_of, self.position)
            self._begin_epoch()
        self.random_at_epoch = random_state(self.generators)
        if self.position.epoch < last_epoch and self.position.step < self._last_step:
            self._keeper.rehearse(self)
        return last_epoch, length_of.steps_left(self.position)

    def _train(self, loader: Iterable, board: Monitor, watch: Watch, bar: Progress, stop: GentleStop) -> dict[str, Any]:
        """Train for an epoch, or for the rest of one, and return the means over its batches."""
        set_epoch(loader, self.position.epoch)
        self.random_at_epoch = random_state(self.generators)
        batches = begin_at(loader, self.position.batch)
        if self.position.batch and self._random_at_batch is not None:  # of an epoch that was stopped
            set_random_state(self._random_at_batch, self.generators)
        self.replica.train()
        for window in stop.until(self._windows(loader, batches)):
            with watch.around(self.position.step + 1):
                self._step(window, stop)
            bar.step()
            if self.position.step % self.log_every == 0:
                self._log(board)
            if self.after_step is not None:
                self._call(self.after_step)
            if self.save_every and self.position.step % self.save_every == 0:
                self._keeper.save(self, "last")
            if self.position.step >= self._last_step:
                break
        if stop.requested:
            return {}
        self._log(board)
        return {"epoch": self.position.epoch + 1, "step": self.position.step} | self.averages.means()

    def _windows(self, loader: Iterable, batches: Iterator) -> Iterator[Sequence]:
        """Return the batches of each step. Loaders with a length were compared over the ranks beforehand."""
        grouped = windows(sanity.not_repeated(loader, batches), self.accumulate)
        return together(grouped, self.device) if self._ranks > 1 and length(loader) is None else grouped

    def _step(self, window: Sequence, stop: GentleStop) -> None:
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
            ranks_asked = divide_gradients(self.optimizer, count, unit, self.device, stop.asked)
            # Reading it waits for a GPU: so there only now and then.
            if ranks_asked is not None and (self.device.type == "cpu" or self.position.step % 10 == 0):
                stop.agree(ranks_asked.item())
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self._gradient_norm = clip_gradients(parameters, self.clip_norm)
        move(self.optimizer, self.scaler, self._each_step)
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
        first = self._unchecked is not None
        outputs, loss, count = self._forward(self, self.replica, inputs, targets, bool(unit), first)
        mean = mean_of(loss, count) if unit else loss
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

    def _log(self, board: Monitor) -> None:
        """Report the means since the last time. Only here does the loop wait for the device."""
        losses = self.averages.losses
        if not losses:
            return
        self.loss.check()
        means = self.averages.flush()
        if not math.isfinite(means["loss"]):
            raise explanations.about_loss_that_is_no_number(losses, self.accumulate, self.position)
        sanity.check_scale(self.scaler)
        self.position.logged = self.position.step
        row = means | {"lr": self._rate()}
        if self.clip_norm is not None:
            row["gradient_norm"] = self._gradient_norm.item()
        self.history.steps.append({"step": self.position.step} | row)
        board.scalars(self.position.step, {f"{name}/train": value for name, value in row.items()})

    def _finish_epoch(self, row: dict[str, Any], batches: int | None, board: Monitor, bar: Progress) -> None:
        """Report an epoch, adapt the learning rate, keep the best and the last state.

        An epoch that the last step cut short is reported too, but counts as under way: a longer fit goes on within it.
        """
        cut = self.position.step >= self._last_step and self.position.batch != batches
        if not cut:
            self.position.epoch += 1
            self._begin_epoch()
        self.history.rows.append(row)
        board.scalars(row["step"], {f"{name[4:]}/val": row[name] for name in row if name.startswith("val_")})
        bar.epoch_ends(row)
        name = self.monitor if self.monitor in row else self.monitor.removeprefix("val_")
        if not cut and isinstance(self.scheduler, ReduceLROnPlateau):
            schedules.move_on(self.scheduler, row[name])
        elif not cut and self.scheduler is not None and self.schedule_by == "epoch":
            schedules.move_on(self.scheduler)
        better = self.position.better(row[name], f"{self.mode} {name}", self.mode)
        if better:
            self.history.best = row
        self._keeper.save(self, *(("best", "last") if better else ("last",)))
        if self.after_epoch is not None:
            with self._keeper.keeping_up(self):
                self._call(self.after_epoch)
        if self.patience is not None and (waited := self.history.since_best()) >= self.patience:
            self._last_step = self.position.step
            if self.progress and who.rank() == 0:
                print(explanations.why_stopped_early(name, self.history.rows, waited))

    def _call(self, function: Callable[["Trainer"], object]) -> None:
        if function(self) is True:
            self._last_step = self.position.step
        self.replica, self._no_sync = self._learning.follow()

    def _begin_epoch(self) -> None:
        self.position.batch, self.position.logged = 0, self.position.step
        self.averages = Averages(self.metrics, self.device, self.loss.ignored)

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])
