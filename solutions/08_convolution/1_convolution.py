# %% [markdown]
# # Convolution: what a layer computes, sees and costs
#
# **{minutes} minutes** · one CPU is enough (two processes) · before this: lesson 00
#
# The study log has one line left open: *conv 정리하기*, put the notes on convolution in order. This notebook does. You will
# compute a convolution in three ways, one of which you write. Then you find out what one output value sees, what breaks when a picture moves, and
# what the filters of a trained network look like.
#
# **After this notebook you can**
#
# 1. compute a convolution by loops, as a matrix product and by FFT, and say what each costs;
# 2. tell cross-correlation from convolution;
# 3. compute output size and receptive field by formula, and check them by gradient;
# 4. compare parameters and cost of a convolution with a dense layer;
# 5. test translation equivariance, and name what breaks it;
# 6. say what a kernel does to a picture, and what the first filters of a trained network look like.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("08_convolution")

# %%
import functools

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse import environment, figures
from torchcourse.data import make_loader, mnist, photo
from torchcourse.lessons.convolution import checks as check
from torchcourse.lessons.convolution import kernels_picture as pictures
from torchcourse.lessons.convolution import sizes
from torchcourse.lessons.convolution.by_hand import (
    conv2d_im2col,
    conv2d_loops,
    conv_transpose2d,
    im2col,
)
from torchcourse.lessons.convolution.equivariance import shift_error
from torchcourse.lessons.convolution.fourier import conv2d_fft
from torchcourse.lessons.convolution.kernels import KERNELS, named_kernel
from torchcourse.lessons.convolution.receptive_field import (
    by_formula,
    by_gradient,
    held,
    influence,
)
from torchcourse.lessons.convolution.receptive_field_picture import (
    draw_field,
    draw_influence,
)
from torchcourse.lessons.convolution.strips import conv2d_strip
from torchcourse.models import small_cnn
from torchcourse.ranks import run_ranks
from torchcourse.timing import in_turn
from torchcourse.training import Trainer

torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · A kernel on a photo
#
# A **kernel** (커널) is a small table of weights. It is laid over the picture, each weight is multiplied by the pixel under it, and
# the sum is one value of the output. Then it moves on by the **stride** (스트라이드). That is a **convolution** (합성곱) as
# PyTorch's layers mean it.
#
# Commit yourself before you look:

# %%
predict(
    "08-1.edges",
    "The weights of a kernel add up to 0. What does it make of an area of one even "
    "color?",
    ["0, whatever the color", "the same color", "it depends on the color"],
)

# %%
grey = photo().mean(dim=0)
even = torch.full((1, 1, 9, 9), 0.7)
edges = named_kernel("edges", 3)
value = F.conv2d(even, edges[None, None]).abs().max().item()
outcome(
    "08-1.edges",
    f"{value:.1g}: 0.7 times the sum of the weights, which is 0.",
    right="0, whatever the color",
)

# %% [markdown]
# Now play. Turn `angle` on `edges` and follow the whiskers. Enlarge `size` on `blur`. What does `dilation` (팽창) do to a
# large kernel, and `stride` to the number of pixels?

# %%
figures.explorer(
    functools.partial(pictures.draw_kernel, picture=grey),
    alt=functools.partial(pictures.describe_kernel, picture=grey),
    size=(3, 15, 5, 2),
    angle=(0, 345, 0, 15),
    stride=(1, 6, 1),
    dilation=(1, 5, 1),
    kind=list(KERNELS),
)

# %% [markdown]
# Weights that add up to 1 keep the brightness (blur, sharpen). Weights that add up to 0 answer to *differences* only.
#
# ## 2 · By loops
#
# Real layers have **channels** (채널): a kernel has a table for each input channel, and its sum runs over all of them. A layer
# has one kernel for each *output* channel. Its weight has the shape [outputs, inputs, rows, columns].
#
# ### Exercise 1 · Convolution by loops
#
# ●●○ · 12 minutes · good for: never wondering again what a shape in a convolution means.


# %% exercise: convolve
def convolve(
    x: torch.Tensor, weight: torch.Tensor, stride: int = 1, padding: int = 0
) -> torch.Tensor:
    """Return the convolution of a picture [C, H, W] with kernels [O, C, kH, kW]: [O,
    H', W'].

    `padding` rows and columns of zeros go on each side of the picture first. Write the
    sum yourself, without `F.conv2d`, `F.unfold` or any function that convolves for you.
    """
    ### BEGIN SOLUTION
    x = F.pad(x, (padding,) * 4)
    outputs, _, rows, columns = weight.shape
    height, width = (
        (x.shape[1] - rows) // stride + 1,
        (x.shape[2] - columns) // stride + 1,
    )
    out = x.new_zeros(outputs, height, width)
    for channel in range(outputs):
        for i in range(height):
            for j in range(width):
                patch = x[
                    :, i * stride : i * stride + rows, j * stride : j * stride + columns
                ]
                out[channel, i, j] = (patch * weight[channel]).sum()
    return out
    ### END SOLUTION


# %% check: convolve
checked = check.convolve(convolve, points=3)
### BEGIN HIDDEN TESTS
from torchcourse.checks.borrowed import watch
from torchcourse.checks.values import judged

_generator = torch.Generator().manual_seed(11)
for _c, _o, _kernel, _stride, _padding in (
    (4, 3, (2, 5), 1, 2),
    (1, 5, (1, 1), 3, 0),
    (3, 1, (4, 3), 2, 1),
):
    _x = torch.randn(_c, 9, 7, generator=_generator, dtype=torch.float64)
    _w = torch.randn(_o, _c, *_kernel, generator=_generator, dtype=torch.float64)
    with watch(
        operators=("conv", "im2col"), package="torchcourse.lessons.convolution"
    ) as _borrowed:
        _out = convolve(_x, _w, _stride, _padding)
    assert not _borrowed
    torch.testing.assert_close(
        _out, F.conv2d(_x[None], _w, stride=_stride, padding=_padding)[0]
    )


@judged(convolve)
def _on_drawn_pictures(convolve, draw):
    import torch

    generator = torch.Generator().manual_seed(draw.getrandbits(32))
    x = torch.randn(2, 8, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 2, 3, 2, generator=generator, dtype=torch.float64)
    stride, padding = draw.randint(1, 3), draw.randint(0, 2)
    right = torch.nn.functional.conv2d(x[None], weight, stride=stride, padding=padding)[
        0
    ]
    torch.testing.assert_close(convolve(x, weight, stride, padding), right)


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the check says that my output is as large as the picture</summary>
#
# Without padding a kernel of 3 fits into 6 pixels at 4 positions. Which is the last one?
# </details>
#
# <details><summary>Help – right with one channel, wrong with more</summary>
#
# One output value is the sum over rows, columns *and input channels*.
# </details>
#
# ## 3 · As a matrix product
#
# Loops in Python are slow. **im2col** (image to columns) writes each patch as a column. Then all output values are *one* matrix product
# ([Chellapilla et al. 2006](https://inria.hal.science/inria-00112631)).

# %%
small = torch.arange(9.0).reshape(1, 1, 3, 3)
print(small[0, 0], im2col(small, kernel=2)[0], sep="\n\n")

# %%
predict(
    "08-1.memory",
    "A kernel of 5×5, stride 1, output as large as the picture. How many times does "
    "im2col hold a pixel, about?",
    ["once", "5 times", "25 times"],
)

# %%
x = photo()[None]
columns = im2col(x, kernel=5, padding=2)
factor = columns.numel() / x.numel()
outcome(
    "08-1.memory",
    f"{columns.numel():,} numbers for {x.numel():,} pixels: {factor:.0f} times.",
    right="25 times",
)

# %% [markdown]
# That is the price for a fast product. Here are all routes beside PyTorch's, with stride, padding, dilation and **groups** (그룹: sets of
# channels that do not see each other). After them comes the **transposed** convolution
# (전치 합성곱). It goes the other way: it is the gradient of a convolution with respect to its input.

# %%
torch.manual_seed(0)
x, weight = (
    torch.randn(2, 4, 12, 10, dtype=torch.float64),
    torch.randn(6, 2, 3, 3, dtype=torch.float64),
)
options = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}
should = F.conv2d(x, weight, **options)
for route in (conv2d_loops, conv2d_im2col, conv2d_fft):
    off = (route(x, weight, None, **options) - should).abs().max().item()
    print(f"{route.__name__:17} at most {off:.0e} from F.conv2d")
    assert off < 1e-9

# %%
x.requires_grad_()
upstream = torch.randn_like(should)
(gradient,) = torch.autograd.grad(F.conv2d(x, weight, **options), x, upstream)
back = conv_transpose2d(upstream, weight, None, output_padding=1, **options)
print(f"transposed: {list(upstream.shape)} to {list(back.shape)}")
assert back.shape == gradient.shape
assert torch.allclose(back, gradient)

# %% [markdown]
# ## 4 · Through the Fourier transform
#
# A convolution in space is a product in frequency (**FFT**, 고속 푸리에 변환). For what `F.conv2d` computes, the kernel's
# transform is conjugated first, and zeros around the picture keep its ends apart. The product costs the same for any kernel that fits into the picture
# ([Mathieu et al. 2013](https://arxiv.org/abs/1312.5851)). So the direct routes get slower with the kernel, and this one hardly does.

# %%
predict(
    "08-1.fft",
    "8 to 8 channels, 64×64 pixels. At which kernel is FFT faster than `F.conv2d` "
    "(one CPU thread)?",
    ["already at 3×3", "somewhere between 5×5 and 31×31", "not even at 31×31"],
)

# %%
kernels, seconds = (3, 5, 9, 15, 23, 31), {"F.conv2d": [], "im2col": [], "FFT": []}
x = torch.randn(1, 8, 64, 64)
for kernel in kernels:
    weight = torch.randn(8, 8, kernel, kernel)
    routes = {"F.conv2d": F.conv2d, "im2col": conv2d_im2col, "FFT": conv2d_fft}
    calls = {
        n: functools.partial(r, x, weight, padding=kernel // 2)
        for n, r in routes.items()
    }
    for name, times in in_turn(calls, rounds=5).items():
        seconds[name].append(min(times) * 1e3)

# %%
figure, axes = figures.new(6.5, 3)
faster = [
    k
    for k, a, b in zip(kernels, seconds["FFT"], seconds["F.conv2d"], strict=True)
    if a < b
]
found = (
    f"FFT is faster than F.conv2d first at {faster[0]}×{faster[0]}"
    if faster
    else "FFT is slower than F.conv2d at every kernel"
)
for name, values in seconds.items():
    axes.plot(kernels, values, "o-", label=name)
axes.set(
    yscale="log",
    xlabel="kernel, pixels along a side",
    ylabel="one call, ms",
    title=found,
)
axes.legend()
figures.show(figure, f"Time over kernel size for three routes: {found}.")

# %%
answers = ["already at 3×3", "somewhere between 5×5 and 31×31", "not even at 31×31"]
right = answers[2] if not faster else answers[0] if faster[0] == 3 else answers[1]
outcome("08-1.fft", f"On this machine: {found}.", right=right)

# %% [markdown]
# The layers of most networks have kernels of 3×3 or so, and there it does not pay: look at the left
# end of the curves. The course's im2col is written to be read, so the question compares with `F.conv2d`, which you would use.
#
# ## 5 · Break-it lab: a filter that points the wrong way
#
# A colleague ports a program from signal processing. There, **convolution** lays a *scaled copy of the kernel* down at each pixel. On one
# bright pixel that draws the kernel. In PyTorch:

# %%
kernel = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
dot = torch.zeros(5, 5)
dot[2, 2] = 1.0
print(F.conv2d(dot[None, None], kernel[None, None], padding=1)[0, 0])

# %% [markdown]
# Upside down, and left is right. PyTorch computes the **cross-correlation** (교차 상관), and says so in
# [its documentation](https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html). A network that *learns* its weights
# does not mind: it learns the flipped ones. Weights that come from somewhere else do.

# %%
predict(
    "08-1.flip",
    "For which kernel do cross-correlation and convolution give the same?",
    ["a Gaussian blur", "a kernel that subtracts left from right", "for none"],
)

# %%
same = {
    kind: torch.allclose(named_kernel(kind, 5), named_kernel(kind, 5).flip(0, 1))
    for kind in ("blur", "edges")
}
outcome(
    "08-1.flip",
    f"Flipped equal to itself? {same}. Then the two are the same.",
    right="a Gaussian blur",
)

# %% [markdown]
# ### Exercise 2 · The convolution of mathematics
#
# ●●○ · 8 minutes · good for: porting weights and filters between libraries.
#
# Repair the port. The output is the *full* one: each place where kernel and picture overlap by one pixel or more. Your colleague's line is in the stub.


# %% exercise: flipped
def flipped(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Return the convolution of [H, W] with [kH, kW] as mathematics defines it, full:
    [H + kH − 1, W + kW − 1].

    The colleague wrote: F.conv2d(image[None, None], kernel[None, None], padding=1)[0,
    0]
    """
    ### BEGIN SOLUTION
    padding = (kernel.shape[0] - 1, kernel.shape[1] - 1)
    return F.conv2d(image[None, None], kernel.flip(0, 1)[None, None], padding=padding)[
        0, 0
    ]
    ### END SOLUTION


# %% check: flipped
checked = check.flipped(flipped, points=2)
### BEGIN HIDDEN TESTS
_generator = torch.Generator().manual_seed(5)
for _shape in ((2, 5), (3, 1), (4, 4)):
    _image = torch.randn(5, 8, generator=_generator, dtype=torch.float64)
    _kernel = torch.randn(*_shape, generator=_generator, dtype=torch.float64)
    _size = [_a + _b - 1 for _a, _b in zip(_image.shape, _shape, strict=True)]
    _product = torch.fft.rfft2(_image, _size) * torch.fft.rfft2(_kernel, _size)
    torch.testing.assert_close(
        flipped(_image, _kernel), torch.fft.irfft2(_product, _size)
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – right for 3×3, the wrong shape for others</summary>
#
# The padding of 1 fits one kernel only. How far can a kernel of k pixels stick out and still touch the picture?
# </details>
#
# ## 6 · Output size and receptive field
#
# With input size n, kernel k, stride s, padding p and dilation d, along one dimension
# ([Dumoulin and Visin 2016](https://arxiv.org/abs/1603.07285)):
#
# $$n' = \left\lfloor \frac{n + 2p - d(k-1) - 1}{s} \right\rfloor + 1$$
#
# The **receptive field** (수용 영역) of an output value is the part of the input that it can see. It begins as 1 pixel. Each layer adds d(k−1)
# *jumps*, and a jump is the product of the strides of all layers before
# ([Araujo et al. 2019](https://distill.pub/2019/computing-receptive-fields/)).

# %%
predict(
    "08-1.field",
    "Three convolutions of 3×3, stride 1, one after the other. What does one output "
    "value see?",
    ["3×3 pixels", "7×7 pixels", "9×9 pixels"],
)

# %%
three = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(3)))
height, width = by_formula(three)
seen = by_gradient(three, (1, 30, 30))
outcome(
    "08-1.field",
    f"By formula {height.size}×{width.size}; by gradient {int(seen.sum())} pixels, "
    f"which is {height.size}².",
    right="7×7 pixels",
)

# %% [markdown]
# The check by gradient asks which input pixels change one output value. (It makes all weights positive and maxima into means, so that no gradient is zero by
# chance.) Move the sliders: depth adds, stride multiplies.


# %%
def stack(layers, stride, dilation):
    first = nn.Conv2d(1, 1, 3, stride=stride, padding=1)
    rest = [
        nn.Conv2d(1, 1, 3, padding=dilation, dilation=dilation)
        for _ in range(layers - 1)
    ]
    return nn.Sequential(first, *rest)


# %%
def describe_stack(layers, stride, dilation):
    field = by_formula(stack(layers, stride, dilation))[0]
    seen = int(by_gradient(stack(layers, stride, dilation), (1, *grey.shape)).sum())
    return f"field {field.size}×{field.size}: {seen} pixels reach the middle"


def draw_stack(layers, stride, dilation):
    title = describe_stack(layers, stride, dilation)
    return draw_field(stack(layers, stride, dilation), grey, title)


figures.explorer(
    draw_stack,
    alt=describe_stack,
    layers=(1, 8, 4),
    stride=(1, 4, 2),
    dilation=(1, 4, 1),
)

# %% [markdown]
# A pixel that *can* reach the output may hardly count. The squared gradient says how much each one does. Its share in a square
# around the middle gives the **effective receptive field** (유효 수용 영역): here, the square that holds 95%
# ([Luo et al. 2016](https://arxiv.org/abs/1701.04128)).

# %%
predict(
    "08-1.effective",
    "By formula, 8 layers of 3×3 see 17 pixels along a side, and 32 layers see 65, about "
    "four times as many. Weights are random. How does the effective field grow?",
    ["about four times, too", "about twice", "not at all"],
)


# %%
def random_stack(layers, seed):
    torch.manual_seed(seed)
    parts = []
    for inputs in [1] + [8] * (layers - 1):
        parts += [nn.Conv2d(inputs, 8, 3, padding=1, bias=False), nn.ReLU()]
        nn.init.kaiming_normal_(parts[-2].weight)
    return nn.Sequential(*parts[:-1])


maps, widths = {}, {}
for layers in (2, 8, 32):
    shape = (1, 2 * layers + 5, 2 * layers + 5)
    each = [influence(random_stack(layers, seed), shape) for seed in range(10)]
    maps[layers], widths[layers] = sum(each) / 10, [held(one) for one in each]
    print(f"{layers:2} layers: field {2 * layers + 1}, effective {widths[layers]}")

# %%
growth = sum(widths[32]) / sum(widths[8])
answers = ["not at all", "about twice", "about four times, too"]
outcome(
    "08-1.effective",
    f"It grows {growth:.1f} times, from {sum(widths[8]) / 10:.0f} to "
    f"{sum(widths[32]) / 10:.0f} pixels, means of ten seeds.",
    right=answers[0] if growth < 1.3 else answers[1] if growth < 2.8 else answers[2],
)

# %%
# How much each column of pixels counts
share = sum(widths[32]) / 10 / 65
title = f"32 layers: 95% of the influence in {share:.0%} of the field's width"
figures.show(
    draw_influence(maps, title),
    f"Three curves of influence over the distance from the middle. {title}.",
)

# %% [markdown]
# Many paths lead from the middle pixels to the output, and only one from the corner. So the influence, added up over each column, is nearly a bell curve. Its
# width grows with the root of the depth. A network that has to see a whole object needs a field well above the object's size. In the paper, strides
# and dilation widen the curve, and training does, too.
#
# ### Exercise 3 · Size and field
#
# ●●○ · 8 minutes · good for: knowing whether a network *can* see what it is asked about.


# %% exercise: size_and_field
def size_and_field(
    size: int, layers: list[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """Return output size and receptive field, in pixels along one dimension, of layers
    that follow one another.

    Each layer is (kernel, stride, padding, dilation).
    """
    ### BEGIN SOLUTION
    field, jump = 1, 1
    for kernel, stride, padding, dilation in layers:
        size = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        field += dilation * (kernel - 1) * jump
        jump *= stride
    return size, field
    ### END SOLUTION


# %% check: size_and_field
checked = check.size_and_field(size_and_field, points=2)
### BEGIN HIDDEN TESTS
for _layers in (
    [(3, 2, 1, 1)] * 4,
    [(4, 3, 0, 2), (5, 1, 2, 1)],
    [(11, 4, 2, 1), (3, 2, 0, 1), (5, 1, 2, 1)],
):
    _model = nn.Sequential(
        *(nn.Conv2d(1, 1, _k, _s, _p, _d) for _k, _s, _p, _d in _layers)
    )
    assert tuple(size_and_field(97, _layers)) == (
        _model(torch.zeros(1, 1, 97, 97)).shape[2],
        by_formula(_model)[0].size,
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – my field is too large when a layer has a stride</summary>
#
# In which order do you update the field and the jump? A layer's own kernel steps over the values *before* its stride.
# </details>
#
# ## 7 · What it costs
#
# A convolution uses the same weights at every place, and each output value sees a few pixels only. A **dense layer** (완전 연결층) does neither.

# %%
predict(
    "08-1.dense",
    "From 1×28×28 to 16×28×28 values. How many times as many weights as a 3×3 "
    "convolution does a dense layer have?",
    ["about 100 times", "about 10,000 times", "more than 50,000 times"],
)

# %%
conv = sizes.conv_cost(1, 16, 3, 28)
dense = sizes.dense_cost(28 * 28, 16 * 28 * 28)
assert conv.parameters == sum(p.numel() for p in small_cnn()[0].parameters())
for name, cost in (("convolution", conv), ("dense", dense)):
    print(
        f"{name:12} {cost.parameters:12,} parameters {cost.multiply_adds:12,} "
        f"multiply-adds a picture"
    )
outcome(
    "08-1.dense",
    f"{dense.parameters / conv.parameters:,.0f} times the parameters, "
    f"{dense.multiply_adds / conv.multiply_adds:.0f} "
    "times the multiply-adds.",
    right="more than 50,000 times",
)

# %% [markdown]
# Two different savings: sharing weights saves *parameters*, seeing little saves *work*. A convolution is a dense layer in which most weights are 0 and the others
# are the same over and over. Groups save both; here `groups` equals the channels, a **depthwise** convolution (깊이별 합성곱):

# %%
for groups in (1, 4, 16):
    cost = sizes.conv_cost(16, 16, 3, 28, groups=groups)
    print(
        f"groups={groups:2}: {cost.parameters:6,} parameters "
        f"{cost.multiply_adds:10,} multiply-adds"
    )

# %% [markdown]
# ## 8 · When the picture moves
#
# Shift the picture, then convolve; or convolve, then shift. The same? Then the layer is **equivariant** to translation (이동 등변성).

# %%
predict(
    "08-1.shift",
    "Stride 2, pooling by 2, zero padding: which break it, for a shift by one pixel?",
    ["only stride 2 and pooling", "only zero padding", "all three", "none"],
)

# %%
torch.manual_seed(0)
circular = {"padding": 1, "padding_mode": "circular"}
layers = {
    "convolution around the edge": nn.Conv2d(1, 4, 3, **circular),
    "zero padding": nn.Conv2d(1, 4, 3, padding=1),
    "stride 2": nn.Conv2d(1, 4, 3, stride=2, **circular),
    "max pooling by 2": nn.MaxPool2d(2),
}
print(f"{'error, relative to the largest output':30}    shift 1   shift 2")
with torch.no_grad():
    errors = {
        name: [shift_error(layer, grey[None, None], n) for n in (1, 2)]
        for name, layer in layers.items()
    }
for name, (one, two) in errors.items():
    print(f"{name:38} {one:9.0e} {two:9.0e}")

# %%
with torch.no_grad():
    inside = shift_error(layers["zero padding"], grey[None, None], 1, margin=2)
broken = [name for name, (one, _) in errors.items() if one > 1e-4]
outcome(
    "08-1.shift",
    f"Broken for one pixel: {', '.join(broken)}. Zero padding only near the edge: "
    f"{inside:.0e} away from it.",
    right="all three" if len(broken) == 3 else None,
)

# %% [markdown]
# A stride of 2 follows shifts of 2, since then the output moves by a whole place. For one pixel it looks at *other* pixels
# ([Zhang 2019](https://arxiv.org/abs/1904.11486)).
#
# ### Exercise 4 · Find the smallest shift
#
# ●●● · 10 minutes · good for: testing a property instead of believing it.


# %% exercise: pool_shift
def pool_shift(model: nn.Module, x: torch.Tensor) -> int:
    """Return the smallest shift in pixels, from 1 up, that the model follows exactly
    (up to 1e-5, for rounding).

    Shift pictures [1, 1, H, W] to the right, around the edge: `x.roll(pixels, dims=3)`.
    The output has W' places for W pixels, so it has to move by pixels · W'/W places; a
    shift where that is no whole number is not followed. A shift by W always is.
    """
    ### BEGIN SOLUTION
    with torch.no_grad():
        out = model(x)
        for pixels in range(1, x.shape[3] + 1):
            places, rest = divmod(pixels * out.shape[3], x.shape[3])
            if rest == 0 and torch.allclose(
                model(x.roll(pixels, dims=3)), out.roll(places, dims=3), atol=1e-5
            ):
                return pixels
    ### END SOLUTION


# %% check: pool_shift
checked = check.pool_shift(pool_shift, points=3)
### BEGIN HIDDEN TESTS
torch.manual_seed(3)
_conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
_back = nn.Sequential(nn.MaxPool2d(3), nn.Upsample(scale_factor=3))
for _model, _right in (
    (nn.Sequential(_conv, nn.AvgPool2d(5)), 5),
    (nn.MaxPool2d((5, 6)), 6),
    (_conv, 1),
    (_back, 3),
):
    assert pool_shift(_model, torch.randn(1, 1, 30, 30)) == _right
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – only the shift by the whole picture is followed</summary>
#
# If the output is half as wide, a shift of the picture by 2 pixels is a shift of the output by 1 place.
# </details>
#
# ## 9 · What a network learns to look for
#
# The first filters of a network work on pixels, so they can be looked at. The course's small CNN, before and after two epochs of training:

# %%
torch.manual_seed(0)
model = small_cnn()
before = model[0].weight.detach().clone()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
trainer = Trainer(model, optimizer, F.cross_entropy, progress=False)
trainer.fit(
    make_loader(mnist(), 50),
    2,
    val_loader=make_loader(mnist("test"), 250, shuffle=False),
)
after = model[0].weight.detach().cpu()
print(f"accuracy {trainer.history['val_accuracy'][-1]:.1%}")

# %%
predict(
    "08-1.filters",
    "How alike are a filter before and after training (cosine: 1 is the same "
    "direction, 0 is unrelated)?",
    ["below 0.3: learned again", "0.3 to 0.7", "above 0.7: the start shines through"],
)

# %%
cosine = F.cosine_similarity(before.flatten(1), after.flatten(1)).mean().item()
pictures_of = {"random": before, "trained": after}
title = f"16 first filters, random and trained: mean cosine {cosine:.2f}"
figures.show(
    pictures.draw_filters(pictures_of, title), f"Two rows of 3×3 filters. {title}."
)

# %%
answers = [
    "below 0.3: learned again",
    "0.3 to 0.7",
    "above 0.7: the start shines through",
]
right = answers[0] if cosine < 0.3 else answers[1] if cosine <= 0.7 else answers[2]
outcome("08-1.filters", f"The mean cosine is {cosine:.2f}.", right=right)

# %% [markdown]
# So be careful with stories about learned filters. The famous edge and color filters of
# [AlexNet](https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html) are 11×11 and saw a million photos. In 3×3 filters from a short training run,
# much of the random start can remain. How much of a filter is an edge detector can be measured: the share of its strength in its mean, and the share in the two slopes.


# %%
def shares(weights):
    """Mean share of a filter's squared length in its mean, and in its slopes to the
    right and down.
    """
    flat = F.normalize(weights.flatten(1), dim=1)
    level = torch.full((9,), 1 / 3)
    slopes = [
        torch.tensor([-1.0, 0, 1]).repeat(3, 1),
        torch.tensor([-1.0, 0, 1]).repeat(3, 1).T,
    ]
    slopes = torch.stack([slope.flatten() / 6**0.5 for slope in slopes])
    return (flat @ level).square().mean().item(), (flat @ slopes.T).square().sum(
        dim=1
    ).mean().item()


for name, weights in pictures_of.items():
    mean, slope = shares(weights)
    print(
        f"{name:8} mean {mean:.2f}, slopes {slope:.2f}   (by chance 1/9 = "
        f"{1 / 9:.2f} and 2/9 = {2 / 9:.2f})"
    )

# %% [markdown]
# The two numbers answer different questions. The cosine says how much of the start is left. The shares say whether training moved the filters
# toward edges. Both can hold at once: much of the start is left, and yet the
# share of the slopes has grown. Compare the two rows.
#
# ## 10 · Scale up: one picture, two ranks
#
# A picture that is too large for a device can be cut into strips of rows. At the cut a kernel needs rows of the neighbor: the **halo** (경계 영역). Each rank sends
# its edge rows to its neighbors and receives theirs. Then it computes its part ([Dryden et al. 2019](https://arxiv.org/abs/1903.06681)).


# %%
def my_rows(picture, weight):
    strip = picture.chunk(dist.get_world_size(), dim=2)[dist.get_rank()]
    return F.conv2d(strip, weight, padding="same"), conv2d_strip(strip, weight)


torch.manual_seed(0)
picture, weight = photo()[None], torch.randn(4, 3, 5, 5)
whole = F.conv2d(picture, weight, padding="same")
for world_size in (1, 2):
    results = run_ranks(my_rows, picture, weight, world_size=world_size)
    alone, joined = (torch.cat(parts, dim=2) for parts in zip(*results, strict=True))
    wrong = int(((alone - whole).abs() > 1e-4).any(dim=3).any(dim=1).sum())
    print(
        f"{world_size} rank(s): {wrong} wrong rows without a halo; with it at most "
        f"{(joined - whole).abs().max():.0e} off"
    )
    assert torch.allclose(joined, whole, atol=1e-4)

# %% [markdown]
# A halo is kernel // 2 rows per layer and neighbor, however tall the strip is, as long as it has so many rows. `conv2d_strip` is for reading: its messages carry no gradients. On 8 GPUs, or on two machines of 8, the same function runs as a script (`export_script` of lesson 01 writes one):
# `torchrun --nproc-per-node=8 script.py`, `torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 script.py`.
#
# ## 11 · What the log said
#
# | The log | The evidence | The notes, in order |
# |---|---|---|
# | *conv 정리하기* | Sections 2 to 4: three routes, one result. | A convolution multiplies a kernel with each patch and sums, over channels too. |
# | | Section 5: one bright pixel draws the kernel flipped. | PyTorch's is a cross-correlation. Learned weights do not mind, ported ones do. |
# | | Section 6: formula and gradient agree. | Depth adds to the receptive field, stride multiplies what comes after. |
# | | Section 7: parameters and multiply-adds, counted. | Sharing saves parameters, locality saves work. |
# | | Section 8: errors of a shift, measured. | Equivariant, but for padding at the edge, and stride and pooling for parts of a place. |
#
# ## Take away
#
# * Loops say what is computed; im2col makes it one product and holds each pixel about k² times; FFT can pay for large kernels.
# * Output size and receptive field have formulas. Gradients check them, and show how much less most pixels count.
# * Compare counts, not impressions: parameters and multiply-adds are two things.
# * A property such as equivariance is tested by doing both orders and subtracting.
# * Strips of a picture need a halo.
#
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [where does the time go?](../09_performance/1_where_does_the_time_go.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | convolution | 합성곱 | a kernel, multiplied and summed at each place |
# | cross-correlation | 교차 상관 | the same without flipping: what PyTorch computes |
# | kernel | 커널 | a small table of weights |
# | stride | 스트라이드 | pixels from one position to the next |
# | dilation | 팽창 | distance of neighbors within the kernel |
# | group | 그룹 | channels that see only one another |
# | transposed convolution | 전치 합성곱 | the gradient of a convolution with respect to its input |
# | receptive field | 수용 영역 | what one output value can see |
# | effective receptive field | 유효 수용 영역 | the part of it that holds most of the influence |
# | equivariance | 등변성 | shift in, the same shift out |
# | halo | 경계 영역 | rows borrowed from a neighbor |
#
# ### Further reading
#
# * Dumoulin and Visin 2016, [A guide to convolution arithmetic](https://arxiv.org/abs/1603.07285): sizes, with pictures.
# * Araujo, Norris and Sim 2019, [Computing receptive fields](https://distill.pub/2019/computing-receptive-fields/).
# * Zhang 2019, [Making Convolutional Networks Shift-Invariant Again](https://arxiv.org/abs/1904.11486): what strides break, and a remedy.
# * PyTorch, [Conv2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html).
