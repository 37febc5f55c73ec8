"""Mistakes found at the first step or before it, each with a sentence of what is wrong and what to try."""

import contextlib
import inspect
import numbers
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils.data import IterableDataset

from torchcourse.data.loaders import length
from torchcourse.ranks import who
from torchcourse.training.checkpoint import parameter_names, some
from torchcourse.training.containers import fingerprint, mapped
from torchcourse.training.explanations import LONE, UNUSED
from torchcourse.training.lockstep import check_alike, check_shares
from torchcourse.training.losses import reduction
from torchcourse.training.metrics import Metric, OverAll, applied, check_rows, check_value
from torchcourse.training.schedules import check_made_for, check_mode
from torchcourse.units import is_whole_number


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument of the Trainer that makes no sense; `given` has them by name."""
    _check_ranges(given)
    _check_callbacks(given)
    if given["precision"] == "fp16" and given["device"].type != "cuda":
        raise ValueError(
            f"precision='fp16' needs an NVIDIA GPU, and this runs on the {given['device'].type}. Use 'bf16' or 'fp32'."
        )
    if given["mode"] == "min" and "accuracy" in given["monitor"]:
        raise ValueError(f"monitor={given['monitor']!r} with mode='min' would keep the worst epoch. Use mode='max'.")
    if given["mode"] == "max" and given["monitor"] in ("loss", "val_loss"):
        raise ValueError(
            f"monitor={given['monitor']!r} with mode='max' would keep the worst epoch. Give monitor the value whose "
            "maximum is best, such as 'val_accuracy', or use mode='min'."
        )
    if isinstance(given["loss_fn"], type) or not callable(given["loss_fn"]):
        what = "has to be a function or a module of torch"
        if isinstance(given["loss_fn"], type):
            what = f"is the class {given['loss_fn'].__name__}, not a loss: call it, {given['loss_fn'].__name__}(…)"
        raise ValueError(f"loss_fn {what}.")
    if not hasattr(given["optimizer"], "param_groups"):
        raise ValueError(
            f"optimizer has to be one optimizer of torch, but is a {type(given['optimizer']).__name__}. One can hold "
            "several groups of parameters, each with a learning rate of its own: AdamW([{'params': …, 'lr': …}, …])."
        )
    check_mode(given["scheduler"], given["monitor"], given["mode"])
    closure = inspect.signature(given["optimizer"].step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(given['optimizer']).__name__} computes the loss several times per step, which the Trainer does "
            "not. Use an optimizer that takes one gradient per step, such as SGD or AdamW."
        )
    if given["save_every"] or given["keep"]:
        checked_folder(given["checkpoint_dir"])
    columns = {*_COLUMNS, *(f"val_{name}" for name in ("loss", *given["metrics"]))}
    if taken := [name for name in given["metrics"] if name in columns]:
        raise ValueError(f"A metric cannot be called {taken[0]!r}: the history has a column of that name already.")
    if reduction(given["loss_fn"]) == "sum":
        raise ValueError(
            "The loss function adds up over the batch (reduction='sum'), so its gradient would grow with the batch and "
            "shrink with the number of ranks. Use reduction='mean'."
        )


def _check_ranges(given: Mapping[str, Any]) -> None:
    for name, choices in _CHOICES.items():
        if given[name] not in choices:
            *others, last = map(repr, choices)
            raise ValueError(f"{name} has to be {', '.join(others)} or {last}, but is {given[name]!r}.")
    for name, (lowest, words) in _WHOLE_NUMBERS.items():
        value = given[name]
        if not (is_whole_number(value) and value >= lowest) and not (value is None and name in _MAY_BE_NONE):
            raise ValueError(f"{name} has to be a whole number{words}, but is {value!r}.")
    norm = given["clip_norm"]
    if norm is not None and not (isinstance(norm, numbers.Real | torch.Tensor) and norm > 0):  # type: ignore[operator]
        raise ValueError(f"clip_norm has to be above 0, or None for no clipping, but is {norm!r}.")


_CHOICES: dict[str, tuple] = {
    "precision": ("fp32", "bf16", "fp16"),
    "mode": ("min", "max"),
    "schedule_by": ("step", "epoch", None),
}
_WHOLE_NUMBERS = {
    "accumulate": (1, " from 1 on"),
    "log_every": (1, " from 1 on"),
    "save_every": (1, " from 1 on, or None"),
    "keep": (0, " from 0 on"),
    "patience": (1, " from 1 on, or None"),
    "watch_every": (0, ", or 0 for never"),
}
_MAY_BE_NONE = ("save_every", "watch_every", "patience")
_COLUMNS = ("loss", "lr", "epoch", "step", "seconds", "gradient_norm")  # of the history, besides the metrics


def _check_callbacks(given: Mapping[str, Any]) -> None:
    for name in ("after_step", "after_epoch"):
        if (function := given[name]) is None:
            continue
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise ValueError(
                f"{name} has to be one function that takes the Trainer, but is {function!r}. It may call several."
            ) from error
        except ValueError:  # one of C's, which does not tell
            continue


def checked_device(device: torch.device | str | int) -> torch.device:
    """Return a device with its number, as tensors on it have it: "cuda:0" where it is called "cuda".

    Raises:
        ValueError: if it is not here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(
            f"The device {str(device)!r} cannot be used here: {reason}. Without device=…, the Trainer takes what there "
            "is."
        ) from error


def checked_model(model: Any) -> nn.Module:
    """Return the model. Raises ValueError for what is none, or has no numbers yet."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}, not made yet" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ValueError(f"model has to be a module of torch (nn.Module), but is {what}.")
    if empty := [name for name, one in (*model.named_parameters(), *model.named_buffers()) if one.is_meta]:
        raise ValueError(
            f"The model is on the meta device, so {some(empty)} have shapes without numbers. Call "
            "model.to_empty(device=…), fill it (load weights, or reset_parameters() of its layers), and make the "
            "optimizer after that."
        )
    return model


def checked_metrics(metrics: Any) -> dict[str, Metric | OverAll]:
    """Return a copy of the metrics. Raises ValueError if they are not functions by name."""
    if not isinstance(metrics, Mapping) or not all(
        isinstance(one, OverAll) or (callable(one) and not isinstance(one, type)) for one in metrics.values()
    ):
        raise ValueError(
            'metrics has to be a dict from names to functions, such as {"accuracy": accuracy}. Make objects of classes.'
        )
    return dict(metrics)


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: object, schedule: object) -> None:
    """Raise ValueError if the optimizer does not train the model's parameters, or the schedule does not move its rate.

    Before each fit: between two of them any of these may have been replaced.
    """
    check_made_for(schedule, optimizer)
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    own = loss_fn.named_parameters() if isinstance(loss_fn, nn.Module) else ()
    if learned := [name for name, parameter in own if parameter in trained]:
        raise ValueError(
            f"The optimizer trains the loss function's {some(learned)}, which no checkpoint would hold. Make them "
            "parameters of the model, and let it return them with its outputs."
        )
    _refuse_parts(model, optimizer, trained)
    names = parameter_names(model, optimizer)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = [name for parameter, name in names.items() if parameter in trained and not parameter.requires_grad]
    left_out = [name for parameter, name in names.items() if name in learning and parameter not in trained]
    if frozen and left_out:
        raise ValueError(
            f"The optimizer was made before the model was changed: it holds {some(frozen)}, frozen since, and lacks "
            f"{some(left_out)}, which could learn. Make it last, after add_lora() and freezing: for example of "
            "(p for p in model.parameters() if p.requires_grad)."
        )


def _refuse_parts(model: nn.Module, optimizer: torch.optim.Optimizer, trained: set[torch.Tensor]) -> None:
    """Raise ValueError for an optimizer that shares out its numbers: it holds views of parameters."""
    own = {parameter: name for name, parameter in model.named_parameters()}
    if not (others := [one for one in trained if one not in own and not is_lazy(one)]):
        return
    places = {one.untyped_storage().data_ptr(): name for one, name in own.items() if not is_lazy(one) and one.numel()}
    if shared := [name for one in others if (name := places.get(one.untyped_storage().data_ptr()))]:
        raise ValueError(
            f"The {type(optimizer).__name__} holds parts of parameters, such as one of {shared[0]}, but the Trainer "
            "saves and averages whole ones. Use it in a loop of your own, or give the Trainer an optimizer of torch's."
        )


def check_scale(scaler: torch.amp.GradScaler) -> None:
    """Raise FloatingPointError if loss scaling has left out step after step."""
    if scaler.is_enabled() and scaler.get_scale() < _LEAST_SCALE:
        raise FloatingPointError(
            "The gradients are nan or infinite at any loss scale, so that every step is left out, though the losses "
            "are numbers. Look for sqrt(0), norm(0) or a division by 0 in the model, or use precision='bf16'."
        )


_LEAST_SCALE = 2.0**-20  # from 2**16 on, that is 36 steps left out


def not_repeated(loader: Iterable, batches: Iterator) -> Iterator:
    """Return the batches. They raise ValueError if each of a stream's workers yields the same ones."""
    workers = getattr(loader, "num_workers", 0)
    stream = workers > 1 and isinstance(getattr(loader, "dataset", None), IterableDataset)
    return _compared(batches, workers) if stream else batches


def _compared(batches: Iterator, workers: int) -> Iterator:
    first: list[float] = []
    for number, batch in enumerate(batches):
        # The workers take turns: the second batch is the first of the second worker.
        if number < 2:
            print_of = fingerprint(batch)
            if print_of and print_of == first:
                raise ValueError(
                    f"The first two batches are equal: each of the {workers} workers goes through the whole stream, so "
                    "that every sample comes once per worker. Let the dataset's __iter__ skip what is others' "
                    "(torch.utils.data.get_worker_info()), or use num_workers=0."
                )
            first = print_of
        yield batch


def checked_folder(checkpoint_dir: Path | None) -> Path:
    """Return the folder of a Trainer's checkpoints. Raises ValueError if it keeps none."""
    if checkpoint_dir is None:
        raise ValueError("This Trainer keeps no checkpoints: give it a checkpoint_dir.")
    return checkpoint_dir


def check_fit(
    given: Mapping[str, Any],
    train_loader: Iterable,
    epochs: int | None,
    max_steps: int | None,
    val_loader: Iterable | None,
    resume: bool,
) -> None:
    """Raise ValueError for a fit that cannot work. Every rank has to call it.

    Args:
        given: what the Trainer was given, by name.
        train_loader, epochs, max_steps, val_loader, resume: as `Trainer.fit` got them.
    """
    monitor, metrics = given["monitor"], given["metrics"]
    for name, value in (("epochs", epochs), ("max_steps", max_steps)):
        if value is not None and (not is_whole_number(value) or value < 1):
            raise ValueError(f"{name} has to be a whole number from 1 on, but is {value!r}.")
    if epochs is None and max_steps is None:
        raise ValueError("fit() has to know when to end: give it epochs or max_steps.")
    names = ["loss", *(name for name, metric in metrics.items() if not isinstance(metric, OverAll))]
    if val_loader is not None:
        names += [f"val_{name}" for name in ["loss", *metrics]]
    if monitor not in names and (val_loader is not None or monitor.removeprefix("val_") not in names):
        raise ValueError(f"monitor={monitor!r} is not among the values of this fit: {', '.join(names)}.")
    of_fit = {"epochs": epochs, "max_steps": max_steps, "val_loader": val_loader, "resume": resume}
    check_alike(dict(given) | of_fit)
    shares = who.gather((length(train_loader), length(getattr(train_loader, "sampler", None))))
    batches, samples = zip(*shares, strict=True)
    if set(batches) == {0} or (val_loader is not None and set(who.gather(length(val_loader))) == {0}):
        raise ValueError("A loader has no batch. Is the dataset empty, or smaller than a batch with drop_last=True?")
    if len(set(shares)) > 1:
        raise ValueError(
            f"The ranks' training loaders are unequal: they have {list(batches)} batches of {list(samples)} samples. A "
            "rank that runs out early lets the others wait forever, and one with smaller batches counts too much. "
            "make_loader(dataset, batch_size) deals equally."
        )


def check_first_batch(
    loader: Iterable,
    metrics: Mapping[str, Metric | OverAll],
    inputs: Any,
    outputs: Any,
    targets: torch.Tensor,
    loss: torch.Tensor,
) -> None:
    """Raise ValueError for a first step that nothing can be learned from. Every rank has to call it."""
    if not loss.requires_grad:
        raise ValueError(
            "The loss does not depend on any parameter that can learn. Is the whole model frozen, or the output "
            "detached or computed under torch.no_grad()?"
        )
    if loss.is_complex():
        raise ValueError("The loss is a complex number, which has no minimum. Return its abs() or its real part.")
    for name, metric in metrics.items():
        if isinstance(metric, OverAll):
            continue
        with torch.no_grad():
            value = applied(name, metric, outputs, targets)
        check_value(name, metric, value, outputs, targets)
        if isinstance(value, torch.Tensor) and value.dim():
            check_rows(name, metric, value, outputs, targets)
    check_shares(loader, (inputs, targets))


def check_unused(replica: nn.Module) -> None:
    """Raise ValueError if the first backward pass left out parameters that DistributedDataParallel waits for."""
    if not isinstance(replica, DistributedDataParallel) or replica.find_unused_parameters or replica.static_graph:
        return
    parameters = replica.module.named_parameters()
    if unused := [name for name, parameter in parameters if parameter.requires_grad and parameter.grad is None]:
        raise ValueError(f"The loss does not depend on {some(unused)}, and {UNUSED}")


@contextlib.contextmanager
def lone_sample_refused(model: nn.Module, loader: Iterable) -> Iterator[None]:
    """Let the first batch raise ValueError if the last one of the epoch will be a single sample that BatchNorm refuses.

    Whether BatchNorm sees one value per channel, its first input tells: images have many values per sample.
    """
    size, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
    count = length(sampler)
    if (
        not isinstance(size, int)
        or size < 2
        or count is None
        or count % size != 1
        or getattr(loader, "drop_last", False)
    ):
        yield
        return

    def look(module: nn.Module, inputs: tuple) -> None:
        if module.training and inputs[0].numel() == inputs[0].size(0) * inputs[0].size(1):
            raise ValueError(f"{count} samples in batches of {size} leave one for the last batch, and {LONE}")
        for hook in hooks:
            hook.remove()

    hooks = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, _BatchNorm)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def samples(batch: Any) -> int:
    """Return how many samples a batch has.

    Raises:
        ValueError: for a batch that is not a pair (inputs, targets).
    """
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], torch.Tensor) and batch[1].dim():
        return batch[1].size(0)
    parts = f" with {len(batch)} parts" if isinstance(batch, tuple | list | dict) else ""
    raise ValueError(
        f"The loader yields a {type(batch).__name__}{parts}, but the Trainer needs pairs (inputs, targets), where "
        "targets is a tensor with one row per sample. Change what the dataset returns, or give the loader a "
        "collate_fn."
    )


def receive(batch: Any, device: torch.device) -> tuple[Any, torch.Tensor]:
    """Return a batch's inputs and targets, on the device. Raises ValueError as `samples` does."""
    # Nearly always two tensors in the right place, and this runs in every step: so look before doing anything.
    if type(batch) not in _PAIRS or len(batch) != 2 or not isinstance(batch[1], torch.Tensor) or not batch[1].dim():
        samples(batch)
    inputs, targets = batch
    if not isinstance(inputs, torch.Tensor) or inputs.device != device:
        inputs = _to_device(inputs, device)
    return inputs, targets if targets.device == device else targets.to(device, non_blocking=True)


_PAIRS = (list, tuple)


def _to_device(value: Any, device: torch.device) -> Any:
    if hasattr(value, "to"):  # a container of its own kind may have it too
        return value.to(device, non_blocking=True)
    return mapped(lambda item: _to_device(item, device) if hasattr(item, "to") else item, value)


@contextlib.contextmanager
def broadcasting_refused() -> Iterator[None]:
    """Make PyTorch's warning about unequal shapes in a loss an error: broadcasting would compare every pair."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size")
        yield
