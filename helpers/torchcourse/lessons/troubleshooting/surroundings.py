"""What a program does between the steps of its training: modes set, states taken, datasets gone through.

PyTorch has no hook for these. So while a `Surroundings` is entered, a few of its methods note that they were called,
and do what they do otherwise.
"""

import functools
import random
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, DistributedSampler

from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.watcher import Loop, Watcher
from torchcourse.source_lines import hide

hide(__file__)

_VIEWS = {"cpu", "to", "float", "detach", "contiguous", "view", "__get__"}  # often the same memory, and no reading


@dataclass
class TakenState:
    """A `state_dict()` of the model that shares the memory of its weights."""

    step: int
    """How many steps had been taken."""
    tensors: list["weakref.ref[torch.Tensor]"]
    read: bool = False
    """Whether its numbers were read before the next step: copied, saved, or loaded elsewhere."""
    loaded: bool = False
    """Whether the model has loaded it after later steps."""
    kept: bool = False
    """Whether it was still held when a later step was taken."""

    def place_of(self, value: Any) -> int | None:
        """Return which of its tensors this is, if any."""
        if not isinstance(value, torch.Tensor):
            return None
        return next((place for place, tensor in enumerate(self.tensors) if tensor() is value), None)


@dataclass(frozen=True)
class Iteration:
    """One time that a loader or a DistributedSampler was gone through."""

    source: Any
    step: int
    epoch: int | None
    """What `set_epoch` had set, if the source has it."""


class Surroundings(Watcher):
    """Notes what happens to the model between steps.

    Args:
        loop: the one that is watched.
        loaded: is called when the model has been given a state.
    """

    def __init__(self, loop: Loop, loaded: Callable[[], None]) -> None:
        super().__init__(loop)
        self.trained_by_call = False
        """Whether `train()` was called on the model."""
        self.evaluated_by: CodeType | None = None
        """The code of the function that called `eval()` last."""
        self.training_before = self.training_after = True
        self.states: list[TakenState] = []
        self.iterations: list[Iteration] = []
        self.clipped = self.clipped_nothing = 0
        """How often the model's gradients were clipped, and how often there were none to clip."""
        self.schedulers: dict[int, LRScheduler] = {}
        self.plateaus: dict[int, tuple[ReduceLROnPlateau, list[tuple[int, float]]]] = {}
        """Schedules that wait for improvement, and what they were told after how many steps."""
        self.loaded_nothing: list[tuple[int, str, str]] = []
        """Of each state of which nothing was loaded: its entries, the name of the first, the first of the model's."""
        self.shuffled: set[str] = set()
        """What `random.shuffle` was given whose rows are views, so that some are lost."""
        self.callers: set[CodeType] = set()
        """The code of the functions that were running when a step was taken."""
        self.second_names: dict[str, str] = {}
        """Names with "best" in them that the model has had since a later step than the first, with its other names."""
        self._names: dict[str, str] | None = None
        self._loaded = loaded

    def __enter__(self) -> "Surroundings":
        self.training_before = self.loop.model.training
        self._replace(nn.Module, "train", self._on_train)
        self._replace(nn.Module, "state_dict", self._on_state)
        self._replace(nn.Module, "load_state_dict", self._on_load)
        self._replace(DataLoader, "__iter__", self._on_iteration)
        self._replace(DistributedSampler, "__iter__", self._on_iteration)
        self._replace(random, "shuffle", self._on_shuffle)
        for kind in (LRScheduler, ReduceLROnPlateau, CosineAnnealingWarmRestarts):
            self._replace(kind, "step", self._on_schedule)
        # Its name may have been imported before; it looks this one up when it is called.
        self._replace(clip_grad, "_clip_grads_with_norm_", self._on_clip)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()
        self.training_after = self.loop.model.training

    def on_step(self) -> None:
        """Note what is held while a step is taken, and who is running."""
        for state in self.states:
            state.kept = state.kept or all(tensor() is not None for tensor in state.tensors)
        frame, found = sys._getframe(), dict[str, str]()
        while frame is not None:
            self.callers.add(frame.f_code)
            for names in (frame.f_locals, getattr(frame.f_locals.get("self"), "__dict__", {})):
                found |= self._second_names(names)
            frame = frame.f_back  # type: ignore[assignment]  # None above the outermost frame
        self._names = found if self._names is None else self._names
        self.second_names |= {best: name for best, name in found.items() if best not in self._names}

    def _second_names(self, names: dict[str, Any]) -> dict[str, str]:
        """Return those names of the model that call it the best, where another one beside them does not."""
        own = [name for name, value in list(names.items()) if value is self.loop.model]
        plain = [name for name in own if "best" not in name.lower()]
        return {name: plain[0] for name in own if plain and name not in plain}

    def on_call(self, call: TorchCall) -> None:
        """Note what becomes of the states that were taken."""
        for state in self.states:
            for value in call.args:
                place = state.place_of(value)
                if place is None:
                    continue
                if call.name in _VIEWS:
                    if isinstance(call.out, torch.Tensor) and call.out.data_ptr() == value.data_ptr():
                        state.tensors[place] = weakref.ref(call.out)  # the same memory, held by another tensor
                elif state.step == self.loop.step:
                    state.read = True
                elif call.name == "copy_" and value is call.args[1] and call.first.data_ptr() == value.data_ptr():
                    state.loaded = True

    def _replace(self, owner: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def noted(this: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(this, *args, **kwargs)
            note(this, args, kwargs, result)
            return result

        setattr(owner, name, noted)
        self._open.callback(setattr, owner, name, original)

    def _on_train(self, module: nn.Module, args: tuple, kwargs: dict, _result: Any) -> None:
        if module is not self.loop.model:
            return
        if args[0] if args else kwargs.get("mode", True):
            self.trained_by_call = True
            return
        frame = sys._getframe(2)  # past `noted`
        while frame.f_back is not None and frame.f_code is nn.Module.eval.__code__:
            frame = frame.f_back
        self.evaluated_by = frame.f_code

    def _on_state(self, module: nn.Module, _args: tuple, kwargs: dict, result: Any) -> None:
        if module is not self.loop.model or not isinstance(result, dict):
            return
        places = {parameter.data_ptr() for parameter in module.parameters()}
        shared = [t for t in result.values() if isinstance(t, torch.Tensor) and not isinstance(t, nn.Parameter)]
        shared = [tensor for tensor in shared if tensor.numel() and tensor.data_ptr() in places]
        if shared:
            self.states.append(TakenState(self.loop.step, [weakref.ref(tensor) for tensor in shared]))

    def _on_load(self, module: nn.Module, args: tuple, kwargs: dict, result: Any) -> None:
        if module is self.loop.model:
            self._loaded()
        given = args[0] if args else kwargs["state_dict"]
        if given and len(getattr(result, "unexpected_keys", ())) == len(given) and result.missing_keys:
            self.loaded_nothing.append((len(given), str(next(iter(given))), result.missing_keys[0]))

    def _on_shuffle(self, given: Any, _args: tuple, _kwargs: dict, _result: Any) -> None:
        if isinstance(given, torch.Tensor) or (isinstance(given, np.ndarray) and given.ndim > 1):
            self.shuffled.add(f"{type(given).__name__} of shape {list(given.shape)}")

    def _on_iteration(self, source: Any, _args: tuple, _kwargs: dict, _result: Any) -> None:
        self.iterations.append(Iteration(source, self.loop.step, getattr(source, "epoch", None)))

    def _on_clip(self, parameters: Any, _args: tuple, _kwargs: dict, _result: Any) -> None:
        own = {id(parameter) for parameter in self.loop.model.parameters() if parameter.requires_grad}
        given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        clipped = [parameter for parameter in given if id(parameter) in own]
        if any(p.grad is not None and p.grad.count_nonzero() for p in clipped):
            self.clipped += 1
        elif clipped or (given and all(p.grad is None for p in given)):
            self.clipped_nothing += 1

    def _on_schedule(self, scheduler: Any, args: tuple, kwargs: dict, _result: Any) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            told = args[0] if args else kwargs["metrics"]
            self.plateaus.setdefault(id(scheduler), (scheduler, []))[1].append((self.loop.step, float(told)))
            return
        self.schedulers[id(scheduler)] = scheduler
