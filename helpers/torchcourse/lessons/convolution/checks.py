"""Checks of lesson 08: convolution. Each names the symptom of a mistake.

In the notebook's order: `convolve`, `size_and_field`, `pool_shift`, `flipped`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.convolution import receptive_field
from torchcourse.lessons.convolution.sizes import output_size


@check
def convolve(learner: Callable[..., torch.Tensor]) -> str:
    """Compare with `F.conv2d` over several channels, kernels that are not square, stride and padding."""
    generator = torch.Generator().manual_seed(0)
    cases = [(1, 1, 3, 3, 1, 0), (3, 2, 3, 3, 1, 0), (2, 3, 2, 3, 1, 0), (2, 2, 3, 2, 2, 0), (2, 2, 3, 3, 2, 1)]
    for channels, outputs, rows, columns, stride, padding in cases:
        x = torch.randn(channels, 6, 8, generator=generator, dtype=torch.float64)
        weight = torch.randn(outputs, channels, rows, columns, generator=generator, dtype=torch.float64)
        right = F.conv2d(x[None], weight, stride=stride, padding=padding)[0]
        out = learner(x.clone(), weight, stride, padding)
        case = (
            f"With {channels} channel(s), {outputs} kernel(s) of {rows}×{columns}, stride {stride}, padding {padding}"
        )
        _judge_convolution(out, right, x, weight, stride, padding, case)
    return f"{len(cases)} convolutions, all as F.conv2d: channels, kernels that are not square, stride and padding."


@check
def size_and_field(learner: Callable[..., tuple[int, int]]) -> str:
    """Compare with the sizes of real layers and with the field that gradients show."""
    stacks = [
        [(3, 1, 0, 1)],
        [(3, 1, 1, 1), (3, 1, 1, 1)],
        [(5, 2, 2, 1), (3, 1, 1, 1)],
        [(3, 1, 0, 2), (2, 2, 0, 1), (3, 2, 1, 1)],
        [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 2, 2)],
    ]
    for layers in stacks:
        size, field = 45, receptive_field.Field()
        for kernel, stride, padding, dilation in layers:
            size = output_size(size, kernel, stride, padding, dilation)
            field = field.after(kernel, stride, padding, dilation)
        got = learner(45, layers)
        if not isinstance(got, tuple) or len(got) != 2:
            raise Wrong("shape", f"Return a pair, the output size and the receptive field. You return {got!r}.")
        text = f"For the layers {layers}, each (kernel, stride, padding, dilation),"
        if got == (field.size, size) and size != field.size:
            raise Wrong("swapped", f"{text} your two numbers are right, and in the other order.")
        if got[0] != size:
            _judge_size(got[0], size, layers, text)
        if got[1] != field.size:
            _judge_field(got[1], field.size, layers, text)
        if not all(isinstance(number, int) for number in got):
            raise Wrong("no_int", f"Both are numbers of pixels, so whole numbers. You return {got!r}.")
    return f"{len(stacks)} stacks of layers: sizes as PyTorch's, fields as gradients show them."


@check
def pool_shift(learner: Callable[[nn.Module, torch.Tensor], int]) -> str:
    """Ask for the smallest shift that layers follow, with strides and pooling of several sizes."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 24, 24)
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    models = {
        "one convolution": (conv, 1),
        "stride 2": (nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="circular"), 2),
        "pooling by 3": (nn.Sequential(conv, nn.MaxPool2d(3)), 3),
        "stride 2, then pooling by 2": (
            nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="circular"), nn.MaxPool2d(2)),
            4,
        ),
    }
    for name, (model, right) in models.items():
        got = learner(model, x)
        if got == right:
            continue
        if got == 24:
            raise Wrong(
                "never", f"{name}: you say that only the shift by the whole picture is followed. Did you shift the "
                "output by as many *output places* as the input moved, or by as many pixels?"
            )  # fmt: skip
        if got == 0:
            raise Wrong("zero", f"{name}: a shift by 0 pixels is none. Begin at 1.")
        if isinstance(got, int) and got % right == 0:
            raise Wrong("not_smallest", f"{name}: a shift by {got} is followed, but it is not the smallest one.")
        if got == 1:
            raise Wrong(
                "always_one", f"{name}: shift the picture by one pixel and look: is the output the old one, shifted? "
                "With rounding errors of about 1e-6 two outputs are equal, with differences of 0.1 they are not."
            )  # fmt: skip
        raise Wrong("other", f"{name}: you say {got!r}, but the output does not follow a shift by that.")
    return f"{len(models)} models: the smallest shift that each follows is the product of its strides."


@check
def flipped(learner: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str:
    """Compare with the definition of convolution, summed term by term."""
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((3, 3), (1, 4), (2, 3), (4, 1)):
        image = torch.randn(6, 7, generator=generator, dtype=torch.float64)
        kernel = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        right = _by_definition(image, kernel)
        out = learner(image.clone(), kernel.clone())
        if not isinstance(out, torch.Tensor) or out.shape != right.shape:
            shape = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise Wrong(
                "shape", f"A kernel of {rows}×{columns} on 6×7 pixels gives {list(right.shape)}: wherever the two "
                f"overlap by one pixel or more. You return {shape}."
            )  # fmt: skip
        if torch.allclose(out, right):
            continue
        for symptom, other, hint in (
            ("not_flipped", kernel.flip(0, 1), "It is still the cross-correlation: the sign of each offset is wrong."),
            ("one_axis", kernel.flip(0), "One axis is as it should be, and the other is not."),
            ("one_axis", kernel.flip(1), "One axis is as it should be, and the other is not."),
        ):
            if other.shape == kernel.shape and torch.allclose(out, _by_definition(image, other)):
                raise Wrong(symptom, f"With a kernel of {rows}×{columns}: {hint} Try it on a picture with one pixel.")
        if torch.allclose(out, _by_definition(image.flip(0, 1), kernel)):
            raise Wrong("picture_flipped", "You flipped the picture. The result comes out upside down as well.")
        raise Wrong(
            "values", f"With a kernel of {rows}×{columns} the values differ by up to {(out - right).abs().max():.2g}."
        )
    return "Four kernels, each as the sum in the definition says."


def _judge_convolution(
    out: object, right: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, case: str
) -> None:
    if not isinstance(out, torch.Tensor) or out.shape != right.shape:
        shape = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        if isinstance(out, torch.Tensor) and list(out.shape) == [weight.shape[0], *x.shape[1:]]:
            raise Wrong("same_size", f"{case}, your output is as large as the picture: {shape}. Not all of it is full.")
        raise Wrong("shape", f"{case}, the output has the shape {list(right.shape)}. You return {shape}.")
    if torch.allclose(out, right):
        return
    options = {"stride": stride, "padding": padding}
    if torch.allclose(out, F.conv2d(x[None], weight.flip(2, 3), **options)[0]):
        raise Wrong("kernel_flipped", f"{case}, you flipped the kernel. PyTorch's layers do not.")
    if torch.allclose(out, F.conv2d(x[None, :1], weight[:, :1], **options)[0]):
        raise Wrong("one_channel", f"{case}, only the first channel of the picture counts.")
    if torch.allclose(out, right / weight[0].numel()) or torch.allclose(out, right / weight.shape[1]):
        raise Wrong("mean", f"{case}, your values are too small by one factor: a sum is asked for, not a mean.")
    padded = F.pad(x, (padding,) * 4)
    unstrided = F.conv2d(padded[None], weight)[0, :, : right.shape[1], : right.shape[2]]
    if stride > 1 and torch.allclose(out, unstrided):
        raise Wrong("stride_ignored", f"{case}, neighbours in your output are neighbours in the picture, too.")
    raise Wrong("values", f"{case}, the values differ by up to {(out - right).abs().max():.2g} from F.conv2d.")


def _judge_size(got: object, right: int, layers: list, text: str) -> None:
    def sizes(**changes: object) -> int | None:
        size = 45
        for kernel, stride, padding, dilation in layers:
            reach = kernel if changes.get("no_dilation") else dilation * (kernel - 1) + 1
            both = padding if changes.get("one_side") else 2 * padding
            size = (size + both - reach) // stride + (0 if changes.get("no_first") else 1)
        return size

    if got == sizes(one_side=True):
        raise Wrong("one_side", f"{text} your output size counts the padding once. It is on both sides.")
    if got == sizes(no_dilation=True):
        raise Wrong("no_dilation", f"{text} your output size forgets that dilation makes the kernel reach further.")
    if got == sizes(no_first=True):
        raise Wrong("no_first", f"{text} you count the steps between positions. The first position counts, too.")
    raise Wrong("size", f"{text} 45 pixels give an output of {right}, and you say {got!r}.")


def _judge_field(got: object, right: int, layers: list, text: str) -> None:
    if got == 1 + sum(dilation * (kernel - 1) for kernel, _, _, dilation in layers):
        raise Wrong("no_jump", f"{text} your field ignores strides: after one, neighbours are further apart.")
    early, jump = 1, 1
    for kernel, stride, _, dilation in layers:
        jump *= stride
        early += dilation * (kernel - 1) * jump
    if got == early:
        raise Wrong("jump_too_early", f"{text} a layer's own stride moves apart what comes *after* it.")
    raise Wrong("field", f"{text} one output value sees {right} pixels, and you say {got!r}.")


def _by_definition(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Return the full convolution [H + kH − 1, W + kW − 1]: each pixel lays a scaled copy of the kernel down."""
    (height, width), (rows, columns) = image.shape, kernel.shape
    out = image.new_zeros(height + rows - 1, width + columns - 1)
    for i in range(rows):
        for j in range(columns):
            out[i : i + height, j : j + width] += kernel[i, j] * image
    return out
