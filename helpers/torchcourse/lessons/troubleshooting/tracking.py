"""What is alive in memory while code runs: how many bytes, of which kind, made by which operation in which line.

    with MemoryTracker() as tracker:
        tracker.watch(model, optimizer)
        loss = loss_fn(model(x), y)
        loss.backward()
    tracker.peak, tracker.peak_by_kind(), tracker.live()[:5]

The tracker sees each operation of PyTorch below autograd, notes the storages (저장 공간) of its results, and keeps only
weak references to them: it makes nothing live longer. It works on real tensors of any device and on fake ones, which
have shapes but no memory (`torch._subclasses.FakeTensorMode`). Of a sparse, nested or sharded tensor its parts count.

Tensors that were made before count when they are watched, and so do those that are made out of the tracker's sight: in
another thread, by `torch.frombuffer` or `from_dlpack`. Where an operation uses one that is not watched, `unseen` says
how many bytes are missing. A tensor from NumPy counts as if it had memory of its own.

Not seen at all: what an operation needs inside itself (a workspace: that of a convolution on a CPU, or of a sparse
tensor that is coalesced or made CSR, can be as large as the result), a bare `UntypedStorage`, a storage that is resized
in its place (as FSDP1 does to free one), the allocator's rounding and gaps, and the context of a GPU.

Source: PyTorch's own `torch.distributed._tools.mem_tracker.MemTracker` works in this way; the kinds are its kinds.
"""

import re
import sys
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchcourse.lessons.troubleshooting.tensor_parts import dense_parts, tensors_in
from torchcourse.source_lines import Line, hide, user_lines
from torchcourse.units import format_bytes

hide(__file__)

KINDS = ("parameters", "gradients", "optimizer", "activations", "others")
"""Kinds of memory. Others: inputs, buffers, and what lives for a moment, such as the gradients of activations."""

_FROM_OUTSIDE = {
    "aten::lift_fresh": "torch.tensor or from_numpy",
    "aten::set_.source_Storage_storage_offset": "copy.deepcopy or torch.load",
}
"""Operations that give back a tensor whose memory PyTorch has just got without one: who calls them."""
_WRAPS = "aten::set_.source_Storage"
"""Puts a tensor round a storage for a moment, old or new, as copying a storage does."""


@dataclass(slots=True, eq=False)
class Allocation:
    """A storage that is alive, or was: its bytes, and where it came from."""

    key: int
    """The storage's address on the C++ side, which a later one may get when this one is gone."""
    bytes: int
    op: str
    """The operation that made it; in a backward pass with the one that it belongs to: `mm (backward of addmm)`."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    layer: str
    """The innermost watched layer that made it, or ""."""
    lines: tuple[Line, ...]
    """The user's lines that led to it, innermost first: as many as the tracker keeps."""
    step: int
    """The tracker's `step` when it was made."""
    born: int
    """The number of the operation that made it."""
    died: int | None = None
    """The number of the last operation before it was freed, or None while it is alive."""
    device: str = "cpu"
    """The type of the device that it lies on."""

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape)) or "one number"
        dtype = str(self.dtype).removeprefix("torch.")
        where = ", ".join([*([f"layer {self.layer}"] if self.layer else []), *map(str, self.lines[:1])])
        return f"{format_bytes(self.bytes):>10}  {self.op}  [{shape}] {dtype}  {self.kind}  {where}"


@dataclass
class Timeline:
    """How memory went up and down: one entry for each time that a storage was made or freed."""

    ops: list[int] = field(default_factory=list)
    """The number of the operation."""
    by_kind: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Bytes alive after the change, by kind."""
    marks: list[tuple[int, str]] = field(default_factory=list)
    """The number of the operation at which a mark was set, and its name."""

    @property
    def total(self) -> list[int]:
        return [sum(values) for values in zip(*self.by_kind.values(), strict=True)]


class MemoryTracker(TorchDispatchMode):
    """Tracks the storages of all tensors that are made while it is active, and of those that are watched.

    Args:
        longest: how many changes the timeline keeps; the oldest go first.
        lines: how many of the user's lines each allocation keeps, from the one that made it outwards.
    """

    def __init__(self, longest: int = 200_000, lines: int = 1) -> None:
        super().__init__()
        self.step = 0
        """Whoever watches training steps counts it up; each allocation notes it."""
        self._lines = lines
        self._current = self._peak = self._op = 0
        self._alive: dict[int, Allocation] = {}  # by the address of the storage's C++ side
        self._references: dict[int, weakref.ref] = {}
        self._used: dict[int, tuple[weakref.ref, int]] = {}  # storages that operations used, and that do not count
        self._unseen = self._most_unseen = 0
        self._at_peak: list[Allocation] = []
        self._peak_is_new = False
        self._changes: deque[tuple[int, Allocation, int]] = deque(maxlen=longest)
        self._marks: list[tuple[int, str]] = []
        self._names: dict[int, str] = {}  # id of a watched module -> its name
        self._hooks: list[Any] = []

    @property
    def current(self) -> int:
        """Bytes that are alive."""
        return self._current

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return self._peak

    @property
    def unseen(self) -> int:
        """The most bytes at once of tensors that operations used, and that neither were made in sight nor are watched.

        They are missing in all the other numbers.
        """
        return self._most_unseen

    def watch(self, *things: nn.Module | torch.optim.Optimizer | torch.Tensor) -> None:
        """Count what these hold already, and call it by its kind from now on: also the gradients that are to come.

        Args:
            things: models (parameters, gradients), optimizers (their state) and tensors (others).

        Raises:
            TypeError: for anything else.
        """
        for thing in things:
            if isinstance(thing, nn.Module):
                self._watch_model(thing)
            elif isinstance(thing, torch.optim.Optimizer):
                self._label_state(thing)
                self._hooks.append(thing.register_step_post_hook(lambda optimizer, *_: self._label_state(optimizer)))
            elif isinstance(thing, torch.Tensor):
                self._label(thing, "others", "input")
            else:
                raise TypeError(
                    "watch() takes models, optimizers and tensors, each as an argument of its own, and got "
                    f"{type(thing).__name__}."
                )

    def adopt(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was made out of sight. Its operation is "unseen", its step the present one."""
        for part in dense_parts(tensor):
            if part.untyped_storage()._cdata not in self._alive:
                self._add(part, "others", "unseen", in_sight=False)

    def mark(self, name: str) -> None:
        """Set a mark into the timeline, such as `backward`."""
        self._marks.append((self._op, name))

    def live(self) -> list[Allocation]:
        """Return what is alive now, the largest first."""
        return sorted(self._alive.values(), key=lambda allocation: -allocation.bytes)

    def live_at_peak(self) -> list[Allocation]:
        """Return what was alive when memory was at its peak, the largest first."""
        self._keep_peak()
        return sorted(self._at_peak, key=lambda allocation: -allocation.bytes)

    def by_kind(self) -> dict[str, int]:
        """Return the bytes that are alive now, by kind."""
        return sum_by_kind(self._alive.values())

    def peak_by_kind(self) -> dict[str, int]:
        """Return the bytes that were alive at the peak, by kind."""
        return sum_by_kind(self.live_at_peak())

    def timeline(self) -> Timeline:
        """Return how memory went up and down."""
        # Backwards from what is alive now: the beginning may have been dropped.
        now, backwards = self.by_kind(), []
        for op, allocation, sign in reversed(self._changes):
            backwards.append((op, dict(now)))
            now[allocation.kind] -= sign * allocation.bytes
        timeline = Timeline(marks=list(self._marks))
        for op, bytes_by_kind in reversed(backwards):
            timeline.ops.append(op)
            for kind, values in timeline.by_kind.items():
                values.append(bytes_by_kind[kind])
        return timeline

    def changes(self) -> list[tuple[Allocation, bool]]:
        """Return what was made (True) and freed (False), in order, as far as the timeline reaches back."""
        return [(allocation, sign > 0) for _, allocation, sign in self._changes]

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._keep_peak()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self._op += 1
        given = list(tensors_in((args, kwargs)))
        parts = [part for tensor in given for part in dense_parts(tensor)]
        seen = {part.untyped_storage()._cdata for part in parts}
        result = func(*args, **(kwargs or {}))
        outside = _FROM_OUTSIDE.get(func.name())
        name = outside or func.name().rpartition("::")[2].partition(".")[0]
        for tensor in tensors_in(result) if func.name() != _WRAPS else ():
            for part in dense_parts(tensor):
                storage = part.untyped_storage()
                known = self._alive.get(storage._cdata)
                if known is not None and known.bytes != self._size(storage.nbytes()):
                    self._free(storage._cdata)  # resized in place: it counts as a new one
                    seen.discard(storage._cdata)
                if storage._cdata not in self._alive and (outside or storage._cdata not in seen):
                    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
                    self._add(part, "activations" if recorded else "others", name)
        for part in parts:
            self._note_use(part)
        return result

    def _note_use(self, part: torch.Tensor) -> None:
        """Note the storage of an operation's input, if it does not count."""
        storage = part.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in self._used or not self._counts(part):
            return
        self._used[key] = weakref.ref(storage, lambda _: self._forget_use(key)), self._size(storage.nbytes())
        self._unseen += self._used[key][1]
        self._most_unseen = max(self._most_unseen, self._unseen)

    def _forget_use(self, key: int) -> None:
        if (used := self._used.pop(key, None)) is not None:
            self._unseen -= used[1]

    # What devices do otherwise

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in the memory that is tracked."""
        return True

    def _size(self, nbytes: int) -> int:
        """How many bytes a storage of `nbytes` takes."""
        return nbytes

    def _admit(self, allocation: Allocation) -> None:
        """Refuse what does not fit, by raising."""

    def _add(self, tensor: torch.Tensor, kind: str, op: str, in_sight: bool = True) -> None:
        if not self._counts(tensor):
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, self._size(storage.nbytes())
        node = torch._C._current_autograd_node()
        if node is not None and op not in ("parameter", "optimizer state"):
            op = f"{op} (backward of {_forward_name(node.name())})"
        allocation = Allocation(
            key,
            size,
            op,
            tuple(tensor.shape),
            tensor.dtype,
            kind,
            layer=_innermost(self._names) if self._names and in_sight else "",
            lines=user_lines(self._lines) if in_sight else (),
            step=self.step,
            born=self._op,
            device=storage.device.type,
        )
        self._admit(allocation)
        self._forget_use(key)
        self._alive[key] = allocation
        self._references[key] = weakref.ref(storage, lambda _: self._free(key))
        self._changes.append((self._op, allocation, 1))
        self._current += size
        if self._current > self._peak:
            self._peak, self._peak_is_new = self._current, True

    def _free(self, key: int) -> None:
        self._keep_peak()
        self._references.pop(key, None)
        allocation = self._alive.pop(key, None)
        if allocation is not None:
            allocation.died = self._op
            self._current -= allocation.bytes
            self._changes.append((self._op, allocation, -1))

    def _keep_peak(self) -> None:
        """Note what is alive at the peak; only before something is freed, for memory often climbs for long."""
        if self._peak_is_new:
            self._at_peak, self._peak_is_new = list(self._alive.values()), False

    def _label(self, tensor: torch.Tensor, kind: str, op: str) -> None:
        for part in dense_parts(tensor):
            known = self._alive.get(part.untyped_storage()._cdata)
            if known is None:
                self._add(part, kind, op)
            else:
                known.kind = kind

    def _watch_model(self, model: nn.Module) -> None:
        self._names |= {id(module): name for name, module in model.named_modules() if name}
        for parameter in model.parameters():
            self._label(parameter, "parameters", "parameter")
            self._label_gradient(parameter)
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._label_gradient))
        for buffer in model.buffers():
            self._label(buffer, "others", "buffer")

    def _label_gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._label(parameter.grad, "gradients", "gradient")

    def _label_state(self, optimizer: torch.optim.Optimizer) -> None:
        for state in optimizer.state.values():
            for tensor in tensors_in(state):
                self._label(tensor, "optimizer", "optimizer state")


def sum_by_kind(allocations: Iterable[Allocation]) -> dict[str, int]:
    """Return the bytes of the allocations by kind, all kinds among them."""
    counter: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for allocation in allocations:
        counter[allocation.kind] += allocation.bytes
    return dict(counter)


def peak_of_activations(model: nn.Module, work: Callable[[], Any]) -> int:
    """Return the most bytes of activations that are alive at once while `work()` trains the model."""
    with MemoryTracker() as tracker:
        tracker.watch(model)
        work()
    return max(tracker.timeline().by_kind["activations"], default=0)


def describe_unseen(tracker: MemoryTracker) -> str:
    """Say how much is missing in the tracker's numbers, if it is at least a hundredth of them; else ""."""
    if tracker.unseen < max(1, tracker.peak) / 100:
        return ""
    return f" Not counted: {format_bytes(tracker.unseen)} of tensors made before or elsewhere. Pass them to watch()."


def list_largest(live: list[Allocation]) -> str:
    """Write the first of these allocations, a line each, as the end of an out-of-memory error."""
    return "The largest live tensors:\n" + ("\n".join(f"  {allocation}" for allocation in live[:5]) or "  none")


def _innermost(names: dict[int, str]) -> str:
    """The name of the innermost module among these (by `id`) whose call is running, or ""."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_call_impl" and (name := names.get(id(frame.f_locals.get("self")))):
            return name
        frame = frame.f_back
    return ""


def _forward_name(node: str) -> str:
    """`AddmmBackward0` → `addmm`, as the operation is called in the forward pass."""
    name = node.rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")
    return re.sub(r"(?<=[a-zA-Z0-9])(?=[A-Z][a-z])", "_", name).lower()
