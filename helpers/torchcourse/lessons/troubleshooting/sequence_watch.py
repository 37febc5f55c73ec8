"""How a training treats sequences: what its attention sums and leaves out, and which steps of a recurrence it reads."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.model_calls import is_plain
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall, readable
from torchcourse.lessons.troubleshooting.watcher import Loop, Notes, Watcher
from torchcourse.source_lines import hide

hide(__file__)

CELLS_AT_MOST = 500
KEPT_AT_MOST = 24  # masks, and tables of tokens
NEVER = -1e4  # a score below it leaves a place out
_SOFTMAX = {"softmax", "_softmax"}
_OVER_CLASSES = {"softmax", "log_softmax"}
_SAME_SHAPE = {"dropout", "contiguous", "float", "to", "type_as", "half", "bfloat16", "clone", "nan_to_num"}
_PRODUCTS = {"matmul", "__matmul__", "bmm"}


@dataclass
class Reading:
    """Which steps of a recurrent layer's output got a gradient."""

    length: int = 0
    """The steps of the last sequence that it ran over."""
    at_end: int = 0
    """How often the last step alone, or the state after it."""
    elsewhere: int = 0


class SequenceWatch(Watcher):
    """Notes what a training does with sequences. PyTorch tells it of each recurrent layer that has run."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.apart: dict[int, tuple[int, list[int]]] = {}
        """In which steps attention summed over a dimension over which its weights do not add up to 1: that of the
        weights, and their shape."""
        self.masks: list[tuple[int, torch.Tensor]] = []
        """The step, and which places [samples, time] attention was told to leave out."""
        self.looked_up: list[tuple[torch.Tensor, int]] = []
        """Tokens [samples, time] that an embedding with a `padding_idx` got, and that index."""
        self.carried: list[int] = []
        """The steps in which a recurrence began with a state that a pass of an earlier step had left."""
        self.numbers = 0
        """How often a mask of attention was made of the numbers 0 and 1, which are added to the scores."""
        self.begun = 0
        """How often a recurrence began with a state that is not 0, teaches nothing, and was left by no pass before."""
        self.cells: list[bool] = []
        """Of each call of a recurrent cell that goes on from the one before, whether its state carries no gradient."""
        self.over_batch = 0
        """How often a softmax ran over the samples of what the model had put out."""
        self.readings: dict[str, Reading] = {}
        """By the name of each recurrent layer."""
        self._left: dict[str, torch.Tensor] = {}
        self._axes = Notes()  # of weights, the dimension over which they add up to 1
        self._cells: dict[str, tuple[int, torch.Tensor]] = {}

    def on_step(self) -> None:
        """Forget the weights of the step that is about to be taken."""
        self._axes.clear()

    def on_call(self, call: TorchCall) -> None:
        """Note what attention does, and what an embedding looks up."""
        name, args, out = call.name, call.args, call.out
        if not torch.is_grad_enabled() or not self.loop.inside:
            self.over_batch += name in _OVER_CLASSES and self._over_batch(call)
        elif name in _SOFTMAX and isinstance(out, torch.Tensor) and out.dim() >= 3:
            axis = call.get(1, "dim")
            if isinstance(axis, int):
                self._axes[out] = axis % out.dim()
        elif name in _SAME_SHAPE or name == "transpose":
            self._follow(call)
        elif name in _PRODUCTS and len(args) > 1:
            self._on_product(args[0], args[1])
        elif name == "einsum" and args and isinstance(args[0], str):
            operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
            self._on_einsum(args[0], list(operands))
        elif name == "embedding":
            index = call.get(2, "padding_idx")
            tokens = call.first  # None where torch.embedding is called by keywords: it has others
            known = isinstance(tokens, torch.Tensor) and index is not None and index >= 0
            if known and tokens.dim() == 2 and len(self.looked_up) < KEPT_AT_MOST:
                self.looked_up.append((tokens.detach().cpu().clone(), index))
        else:
            self._on_mask(call)

    def _over_batch(self, call: TorchCall) -> bool:
        out = call.out
        flat = isinstance(out, torch.Tensor) and out.dim() == 2 and out.requires_grad and out.size(1) > 1
        if not flat or call.get(1, "dim") not in (0, -2) or len(out) == out.size(1):
            return False
        output = self.loop.passes[-1].output if self.loop.passes else None
        return output is not None and output.shape == out.shape and torch.equal(output, call.first.detach().cpu())

    def _follow(self, call: TorchCall) -> None:
        axis, out = self._axes.of(call.first), call.out
        if axis is None or not isinstance(out, torch.Tensor) or out.dim() != call.first.dim():
            return
        if call.name == "transpose" and len(call.args) == 3:
            one, other = (int(dim) % out.dim() for dim in call.args[1:])
            axis = {one: other, other: one}.get(axis, axis)
        self._axes[out] = axis

    def _on_product(self, one: Any, other: Any) -> None:
        operands = [(tensor, self._axes.of(tensor), summed) for tensor, summed in ((one, -1), (other, -2))]
        found = [(tensor, axis, summed % tensor.dim()) for tensor, axis, summed in operands if axis is not None]
        if any(axis == summed for _, axis, summed in found):
            return
        for tensor, axis, _ in found:
            # What shares each place out among groups is no square: it has as many columns as groups, not as places.
            if tensor.size(-1) == tensor.size(-2) > 2 and tensor.size(axis) > 1:
                self.apart[self.loop.step] = axis, list(tensor.shape)

    def _on_einsum(self, equation: str, operands: list[Any]) -> None:
        inputs, arrow, output = equation.replace(" ", "").partition("->")
        names = inputs.split(",")
        if "." in equation or not arrow or len(names) != len(operands) != 1:
            return
        axes = [*map(self._axes.of, operands)]
        pairs = [(letters, axis) for letters, axis in zip(names, axes, strict=True) if axis is not None]
        if any(letters[axis] not in output for letters, axis in pairs):
            return
        for place, (letters, axis) in enumerate(zip(names, axes, strict=True)):
            tensor, others = operands[place], "".join(names[:place] + names[place + 1 :])
            sizes = dict(zip(letters, tensor.shape, strict=True)) if axis is not None else {}
            asking = {size for letter, size in sizes.items() if letter in output and letter not in others}
            summed = {size for letter, size in sizes.items() if letter not in output}
            if axis is not None and tensor.size(axis) > 1 and max(asking & summed, default=0) > 2:
                self.apart[self.loop.step] = axis, list(tensor.shape)

    def _on_added(self, given: Any) -> None:
        """Note a mask that is added to the scores."""
        if is_plain(given) and given.is_floating_point() and given.numel() > 1:
            self.numbers += int(bool(((given == 0) | (given == 1)).all() and (given == 1).any()))

    def _on_mask(self, call: TorchCall) -> None:
        mask = None
        if call.name == "multi_head_attention_forward":
            mask = call.kwargs.get("key_padding_mask")
            self._on_added(mask)
            self._on_added(call.kwargs.get("attn_mask"))
        elif call.name == "scaled_dot_product_attention":
            mask = call.get(3, "attn_mask")
            self._on_added(mask)
            mask = ~mask if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool else mask
        elif call.name in ("masked_fill", "masked_fill_"):
            value = call.get(2, "value")
            mask = call.get(1, "mask") if isinstance(value, int | float) and value <= NEVER else None
        if not is_plain(mask) or mask.dim() < 2 or not mask.numel() or len(self.masks) >= KEPT_AT_MOST:
            return
        left_out = mask.detach() if mask.dtype == torch.bool else mask.detach() <= NEVER
        if left_out.numel() == left_out.size(0) * left_out.size(-1):  # one row for each sample
            self.masks.append((self.loop.step, left_out.reshape(left_out.size(0), -1).cpu().clone()))

    def on_recurrence(self, name: str, module: nn.RNNBase | nn.RNNCellBase, args: tuple, output: Any) -> None:
        """Note what a recurrent layer or cell has got and put out; of a packed sequence, nothing."""
        if isinstance(module, nn.RNNCellBase):
            self._on_cell(name, args, output)
            return
        given = args[0] if args else None
        states = output[0] if isinstance(output, tuple) else None
        if not isinstance(given, torch.Tensor) or not isinstance(states, torch.Tensor) or states.dim() != 3:
            return
        begun, left = _state(args[1:]), self._left.get(name)
        if isinstance(begun, torch.Tensor) and not begun.requires_grad and begun.count_nonzero():
            if left is not None and torch.equal(begun, left):
                self.carried.append(self.loop.step)
            else:
                self.begun += 1
        last = _state(output[1:])
        self._left[name] = last.detach()
        along = 1 if module.batch_first else 0
        reading = self.readings.setdefault(name, Reading())
        reading.length = states.size(along)
        if states.requires_grad:
            states.register_hook(partial(self._on_states, reading, along))
            last.register_hook(partial(self._on_last, reading))

    def _on_cell(self, name: str, args: tuple, output: Any) -> None:
        state, after = _state(args[1:]), _state((output,))
        number, before = self._cells.get(name, (-1, after))
        goes_on = number == len(self.loop.passes) and len(self.cells) < CELLS_AT_MOST
        if goes_on and isinstance(state, torch.Tensor) and state.dtype == before.dtype and torch.equal(state, before):
            self.cells.append(not state.requires_grad)
        self._cells[name] = len(self.loop.passes), after.detach()

    @staticmethod
    def _on_states(reading: Reading, along: int, gradient: torch.Tensor) -> None:
        if not readable(gradient):
            return
        used = gradient.movedim(along, 0).flatten(1).count_nonzero(dim=1) > 0
        reading.at_end += int(used[-1] and not used[:-1].any())
        reading.elsewhere += int(used[:-1].any())

    @staticmethod
    def _on_last(reading: Reading, _gradient: torch.Tensor) -> None:
        reading.at_end += 1


def _state(given: tuple) -> Any:
    """Return the state that comes first; of an LSTM, which has two, the one that it puts out."""
    first = given[0] if given else None
    return first[0] if isinstance(first, tuple) else first
