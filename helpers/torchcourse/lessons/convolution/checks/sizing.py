"""The check of lesson 08's exercise on output sizes and receptive fields."""

import math
from collections.abc import Callable
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import number, refuse_formula, result_of, same
from torchcourse.lessons.convolution.receptive_field import Field
from torchcourse.lessons.convolution.sizes import output_size

Layers = list[tuple[int, int, int, int]]
"""For each layer (kernel, stride, padding, dilation)."""


@check
def size_and_field(learner: Callable[[int, Layers], tuple[int, int]]) -> str:
    """Compare with the sizes of real layers and with the field that gradients show."""
    stacks: list[Layers] = [
        [(3, 1, 0, 1)],
        [(3, 1, 1, 1), (3, 1, 1, 1)],
        [(5, 2, 2, 1), (3, 1, 1, 1)],
        [(3, 1, 0, 2), (2, 2, 0, 1), (3, 2, 1, 1)],
        [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 2, 2)],
        [(11, 4, 5, 1), (5, 4, 2, 1), (3, 1, 1, 1)],
    ]
    answers = [result_of(learner, _PIXELS, layers, what="the list of layers") for layers in stacks]
    _judge_pairs(answers, stacks)
    return f"{len(stacks)} stacks of layers: sizes as PyTorch's, fields as gradients show them."


_PIXELS = 45


def _judge_pairs(answers: list[Any], stacks: list[Layers]) -> None:
    pairs = [_pair(given) for given in answers]
    sizes, fields = [_size(layers) for layers in stacks], [_field(layers) for layers in stacks]
    if pairs == [*zip(fields, sizes, strict=True)]:
        raise Wrong("swapped", "Your two numbers are right, and in the other order.")
    cases = [(layers,) for layers in stacks]
    for place, right, mistakes, symptom, text in (
        (0, sizes, _WRONG_SIZES, "size", "45 pixels give an output of {}"),
        (1, fields, _WRONG_FIELDS, "field", "one output value sees {} pixels, where no edge is in the way"),
    ):
        given = [pair[place] for pair in pairs]
        if same(given, right):
            continue
        refuse_formula(given, cases, mistakes)
        first = next(i for i, value in enumerate(given) if not same(value, right[i]))
        raise Wrong(
            symptom,
            f"For the layers {stacks[first]}, each (kernel, stride, padding, dilation), {text.format(right[first])}, "
            f"and you say {answers[first][place]!r}.",
        )
    for given in answers:
        if any(isinstance(value, float) for value in given):
            raise Wrong("no_int", f"Both are numbers of pixels, so whole numbers. You return {given!r}.")


def _pair(given: Any) -> tuple[float, float]:
    values = [number(value) for value in given] if isinstance(given, tuple | list | torch.Tensor) else []
    if len(values) != 2 or values[0] is None or values[1] is None:
        raise Wrong("wrong_type", f"Return a pair, the output size and the receptive field. You return {given!r}.")
    return values[0], values[1]


def _size(layers: Layers) -> int:
    size = _PIXELS
    for layer in layers:
        size = output_size(size, *layer)
    return size


def _field(layers: Layers) -> int:
    field = Field()
    for layer in layers:
        field = field.after(*layer)
    return field.size


def _wrong_size(
    layers: Layers, sides: int = 2, first: int = 1, dilate: bool = True, rounded: Callable[[float], int] = math.floor
) -> int:
    pixels = _PIXELS
    for kernel, stride, padding, dilation in layers:
        reach = dilation * (kernel - 1) + 1 if dilate else kernel
        pixels = rounded((pixels + sides * padding - reach) / stride) + first
    return pixels


def _wrong_field(layers: Layers, jumps: bool = True, early: bool = False, dilate: bool = True) -> int:
    field, jump = 1, 1
    for kernel, stride, _, dilation in layers:
        own = jump * stride if early else jump
        field += (dilation if dilate else 1) * (kernel - 1) * (own if jumps else 1)
        jump *= stride
    return field


Formulas = dict[str, tuple[list[Callable[[Layers], int]], str]]

_WRONG_SIZES: Formulas = {
    "no_padding": ([lambda layers: _wrong_size(layers, sides=0)], "Your output size leaves the padding out."),
    "one_side": (
        [lambda layers: _wrong_size(layers, sides=1)],
        "Your output size counts the padding once. It is on both sides.",
    ),
    "no_dilation": (
        [lambda layers: _wrong_size(layers, dilate=False)],
        "Your output size forgets that dilation makes the kernel reach further.",
    ),
    "no_first": (
        [lambda layers: _wrong_size(layers, first=0)],
        "You count the steps between positions. The first position counts, too.",
    ),
    "rounded_up": (
        [lambda layers: _wrong_size(layers, rounded=math.ceil), lambda layers: _wrong_size(layers, rounded=round)],
        "Your output size counts a position where the kernel would reach beyond the padded edge. What does not fit is "
        "left out.",
    ),
}

_WRONG_FIELDS: Formulas = {
    "no_jump": (
        [lambda layers: _wrong_field(layers, jumps=False)],
        "Your field ignores strides: after one, neighbors are further apart.",
    ),
    "jump_too_early": (
        [lambda layers: _wrong_field(layers, early=True)],
        "A layer's own stride moves apart what comes *after* it.",
    ),
    "no_dilation": (
        [lambda layers: _wrong_field(layers, dilate=False)],
        "Your field forgets that dilation makes the kernel reach further.",
    ),
    "from_the_end": (
        [lambda layers: _wrong_field(layers[::-1])],
        "Your field lets the strides of *later* layers move a layer's pixels apart. It is those before it that do.",
    ),
    "no_pixel": ([lambda layers: _wrong_field(layers) - 1], "Your field is one pixel too small in each case."),
    "cut_off": (
        [lambda layers: min(_wrong_field(layers), _PIXELS)],
        "Your field is never larger than the picture. With padding it can be: it reaches beyond the edge.",
    ),
}
