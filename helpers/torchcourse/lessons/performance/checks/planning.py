"""Checks of what is reckoned: exposed communication, the bound of a layer, one graph."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number_of, refuse_formula, refuse_known, result_of, same, tensor_of
from torchcourse.lessons.performance.graphs import break_reasons, counted

Intervals = list[tuple[float, float]]

_TRACES: list[tuple[Intervals, Intervals, float]] = [
    # computing, sending, exposed (all in ms); in the first two, each known mistake gives numbers of its own
    ([(2, 12), (14, 15), (18, 20)], [(1, 9), (10, 11), (13, 21)], 6),
    ([(0, 4), (9, 12)], [(2, 7), (11, 14)], 5),
    ([(0, 10)], [(10, 14)], 4),
    ([(0, 10)], [(6, 14)], 4),
    ([(0, 10), (12, 20)], [(5, 15)], 2),
    ([(0, 30)], [(5, 8), (20, 25)], 0),
    ([(0, 4), (6, 9)], [(1, 2), (3, 7), (8, 12)], 5),
    ([], [(1, 3), (5, 6)], 3),
    ([(0, 5)], [], 0),
    ([(0.5, 4.5)], [(2, 7)], 2.5),
    ([(1204.125, 1207.5)], [(1205.25, 1209.875)], 2.375),  # as in a real trace: at any time, on no grid
]


@check
def exposed(learner: Callable[[Intervals, Intervals], float]) -> str:
    """Compare with hand-made traces: nothing covered, partly covered, in a gap, several of each, none."""
    for computing, sending, right in _TRACES:
        value = _exposed(learner, computing, sending)
        if abs(value - right) < 1e-9:
            continue
        case = f"Computing {computing}, sending {sending}, your function returned {value:g}. "
        if computing is _TRACES[0][0]:
            # In one trace, a different mistake may give the same number.
            refuse_formula([value, _exposed(learner, *_TRACES[1][:2])], _TRACES[:2], _WRONG_TIMES, where=case)
        raise Wrong("wrong_value", f"{case}{right:g} ms are exposed.")
    return f"{len(_TRACES)} traces: nothing covered, partly covered, in gaps, several spans, none."


def _exposed(learner: Callable[[Intervals, Intervals], float], computing: Intervals, sending: Intervals) -> float:
    return number_of(result_of(learner, computing, sending, what="a list"), "the exposed milliseconds")


def _length(spans: Intervals) -> float:
    return sum(end - start for start, end in spans)


def _less_whole(computing: Intervals, sending: Intervals, right: float, in_part: bool) -> float:
    """The time of the spans of sending that are not covered as a whole; `in_part`: nor in part."""
    spans = [
        (b, d)
        for b, d in sending
        if not any((a < d and b < c) if in_part else (a <= b and d <= c) for a, c in computing)
    ]
    return _length(spans)


_WRONG_TIMES: dict[str, tuple[list[Callable[[Intervals, Intervals, float], float]], str]] = {
    "swapped": (
        [lambda computing, sending, right: _length(computing) - (_length(sending) - right)],
        "You counted computing without sending. Asked is sending without computing.",
    ),
    "all_sending": (
        [lambda computing, sending, right: _length(sending)],
        "You counted all the time of sending. What runs beside computing costs nothing.",
    ),
    "covered": (
        [lambda computing, sending, right: _length(sending) - right],
        "You counted what is covered. Asked is what is left: nothing is computed then.",
    ),
    "after_the_last": (
        [lambda computing, sending, right: sending[-1][1] - computing[-1][1]],
        "Only what comes after the last computing counts in yours. A gap between two spans waits, too.",
    ),
    "difference_of_sums": (
        [lambda computing, sending, right: _length(sending) - _length(computing)],
        "You compared sums. Which moments are covered depends on where the spans lie.",
    ),
    "idle": (
        [lambda computing, sending, right: sending[-1][1] - min(sending[0][0], computing[0][0]) - _length(computing)],
        "You counted all the time without computing. Where nothing is sent either, nothing is exposed.",
    ),
    "less_than_nothing": (
        [
            lambda computing, sending, right: (
                _length(sending) - _length([(max(a, b), min(c, d)) for a, c in computing for b, d in sending])
            )
        ],
        "Two spans that do not meet share no time. In yours they share less than 0 ms.",
    ),
    "all_or_nothing": (
        [partial(_less_whole, in_part=False), partial(_less_whole, in_part=True)],
        "A span of sending that is covered in part is covered as a whole, or not at all, in yours. Cut it.",
    ),
}


@check
def linear_seconds(learner: Callable[[int, int, int, int, float, float], float]) -> str:
    """Compare with the roofline of a linear layer: one sample and many, 2 and 4 bytes per number, both bounds."""
    values = [number_of(learner(*case, _BANDWIDTH), "the seconds") for case in _LAYERS]
    # n products need n - 1 additions, and the bias one more: whoever counts exactly is right, too.
    right = AnyOf(tuple(_bounds(bias=bias, extra=extra) for bias in (False, True) for extra in (0, -1, 1)))
    if any(same(values, one, tolerance=1e-6) for one in right):
        return f"{len(_LAYERS)} layers: both bounds, 2 and 4 bytes per number."
    # A mistake is one that explains the values of all layers at once.
    known = {
        symptom: (AnyOf(_bounds(**wrong, bias=bias) for wrong in options for bias in (False, True)), hint)
        for symptom, (options, hint) in _MISTAKES.items()
    }
    refuse_known(values, known, tolerance=1e-6)
    place = next(n for n in range(len(values)) if not any(same(values[n], one[n], tolerance=1e-6) for one in right))
    batch, inputs, outputs, width, _ = _LAYERS[place]
    raise Wrong(
        "wrong_value",
        f"{batch} × {inputs} → {outputs}, {width} bytes per number: at least {right[0][place]:.4g} s. Your function "
        f"returned {values[place]:.4g}.",
    )


# Samples, inputs, outputs, bytes per number, peak. The bandwidth is that of a slow machine, so that no time is near 0.
# In the last, even one sample takes longer to compute than the bytes take to move.
_LAYERS = [
    (64, 256, 512, 4, 1e12),
    (2048, 512, 512, 4, 1e9),
    (1, 4096, 512, 2, 1e9),
    (512, 512, 1024, 2, 1e9),
    (3, 512, 512, 2, 1e7),
]
_BANDWIDTH = 5e7

_MISTAKES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "added": (
        [{"take": lambda compute, move: compute + move}],
        "You added both times. Computing and moving run at the same time: which of the two takes longer?",
    ),
    "the_shorter": ([{"take": min}], "You took the shorter time. The layer is not done before both are done."),
    "compute_only": (
        [{"take": lambda compute, move: compute}],
        "Your times are those of the operations alone: the time to move the bytes is left out, or far too short.",
    ),
    "memory_only": (
        [{"take": lambda compute, move: move}],
        "Your times are those of the bytes alone: the time to compute is left out, or far too short.",
    ),
    "one_sample": (
        [{"computed": 1}, {"rows": 1}, {"computed": 1, "rows": 1}],
        "You counted the operations of one sample, or its inputs and outputs. Each sample of the batch has its own.",
    ),
    "rates_swapped": (
        [{"swapped": True}],
        "The two rates are swapped: `peak` is in operations per second, `bandwidth` in bytes per second.",
    ),
    "one_per_product": (
        [{"flop": 1}],
        "A multiplication and an addition are two operations for each weight and sample.",
    ),
    "bytes_left_out": (
        [{"weights": 0}, {"given": 0, "out": 0}, {"given": 0}, {"out": 0}],
        "Something is not moved in yours: weights and inputs have to be read, and outputs to be written.",
    ),
    "weights_per_sample": (
        [{"per_sample": True}],
        "You read the weights once per sample. A batch reads them once: that is what makes it pay.",
    ),
    "bytes_per_number": (
        [{"fixed_width": 1}, {"fixed_width": 4}],
        "You counted numbers, or 4 bytes for each of them. The bandwidth is in bytes per second: how many are given?",
    ),
    "milliseconds": ([{"scale": 1e3}], "Your values are 1,000 times too large. Return seconds."),
}


def _bounds(
    *,
    flop: float = 2,
    weights: float = 1,
    given: float = 1,
    out: float = 1,
    per_sample: bool = False,
    fixed_width: int | None = None,
    scale: float = 1,
    take: Callable[[float, float], float] = max,
    bias: bool = False,
    extra: int = 0,
    computed: int | None = None,
    rows: int | None = None,
    swapped: bool = False,
) -> list[float]:
    """Return the bound of each layer; the arguments say what a mistake does differently."""
    bounds = []
    for batch, inputs, outputs, width, peak in _LAYERS:
        read = weights * (batch if per_sample else 1) * (inputs + bias) * outputs
        moved = read + (rows or batch) * (given * inputs + out * outputs)
        operations = (flop * inputs + extra) * (computed or batch) * outputs
        computing, moving = (_BANDWIDTH, peak) if swapped else (peak, _BANDWIDTH)
        bounds.append(scale * take(operations / computing, moved * (fixed_width or width) / moving))
    return bounds


@check
def one_graph(learner: Callable[[torch.Tensor, float], torch.Tensor]) -> str:
    """Compare values on both sides of the limit, and count the graphs that the compiler's front made."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(6, 5, generator=generator, dtype=torch.float64) - 0.5
    large = 20 * small
    large[0, 0] = -15.0  # the largest size is that of a negative number
    inputs = {"below the limit": small, "above the limit": large, "all 0": torch.zeros_like(small)}
    cases = [(name, x, 1.0) for name, x in inputs.items()]
    cases += [("above a limit of 2.5", large, 2.5), ("above a limit of 0.25", small, 0.25)]
    cases.append(("of the shape [4, 3]", large[:4, :3].clone(), 1.0))
    for name, x, limit in cases:
        out = result_of(learner, x, limit, what="the tensor that it was given")
        out = tensor_of(out, x.shape, f"Input {name}: the output has the shape of the input.")
        _judge_type(out, x.dtype)
        _judge_limited(name, out, x, limit)
    for dtype in (torch.float32, torch.float64):
        _judge_type(learner(large.to(dtype), 1.0), dtype)
    compiled, graphs = counted(lambda x, limit: learner(x, limit))  # as a part of something larger
    for x in inputs.values():
        if not same(compiled(x.clone(), 1.0), limited(x, 1.0), tolerance=1e-8):
            raise Wrong("compiled_differs", "Compiled, your function returns different values for one of the inputs.")
    if len(graphs) == 0:
        raise Wrong("no_graph", "The compiler recorded no graph at all: the function is left to Python as a whole.")
    if len(graphs) > 1:
        reasons = break_reasons(learner, inputs["above the limit"].clone(), 1.0)
        why = f"The first break: {reasons[0]}." if reasons else "It was recorded again for a different input."
        raise Wrong("graph_break", f"The compiler made {len(graphs)} graphs of your function. {why}")
    _judge_gradient(learner, large)
    return f"One graph of {graphs.sizes[0]} operations, and the right values on both sides of the limit."


def limited(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Return x, made shorter so that no number is larger than `limit`, through ReLU. The right answer, in one graph."""
    return torch.relu(x * (limit / x.abs().max().clamp_min(limit)))


def _judge_type(out: torch.Tensor, dtype: torch.dtype) -> None:
    if out.dtype != dtype:
        raise Wrong("dtype", f"The input is {dtype}, and your output is {out.dtype}. Keep its type.")


def _judge_gradient(learner: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor) -> None:
    """Refuse what returns the right values and would train differently."""
    ours, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = learner(ours, 1.0)
    if not out.requires_grad:
        raise Wrong(
            "no_gradient",
            "The values are right, but no gradient comes through your function, and through the given one it does.",
        )
    out.sum().backward()
    limited(other, 1.0).sum().backward()
    if not same(ours.grad, other.grad, tolerance=1e-6):
        raise Wrong(
            "gradient",
            "The values are right, but the gradient of their sum is not that of the given function. The factor hangs "
            "on x as well.",
        )


def _judge_limited(name: str, out: torch.Tensor, x: torch.Tensor, limit: float) -> None:
    if same(out, limited(x, limit), tolerance=1e-8):
        return
    if limit != 1.0 and same(out, limited(x, 1.0), tolerance=1e-8):
        raise Wrong("fixed_limit", f"Input {name}: your function makes it as small as for a limit of 1. Use `limit`.")
    largest = x.abs().max()
    known = {
        "clipped": (torch.relu(x.clamp(-limit, limit)), "you clipped each number. All of them shrink by one factor."),
        "always_scaled": (
            AnyOf((torch.relu(x * (limit / largest)), torch.relu(x * (limit / largest.clamp_min(1e-12))))),
            "you scaled a tensor that is within the limit already. It stays as it is.",
        ),
        "each_by_itself": (
            torch.relu(torch.where(x.abs() > limit, x * (limit / largest), x)),
            "you made only those numbers smaller that are above the limit. All of them shrink by one factor.",
        ),
        "per_row": (
            AnyOf(tuple(torch.relu(x * (limit / x.abs().amax(d, True).clamp_min(limit))) for d in (0, 1))),
            "each row or column has a factor of its own in yours. The largest number of all decides for all.",
        ),
        "never_scaled": (torch.relu(x), "you scaled nothing, though a number is above the limit."),
        "no_relu": (x * (limit / largest.clamp_min(limit)), "the ReLU at the end is missing."),
        "largest_not_size": (
            torch.relu(x * (limit / x.max().clamp_min(limit))),
            "the limit is for the size: a large negative number counts, too.",
        ),
    }
    refuse_known(out, known, tolerance=1e-8, where=f"Input {name}: ")
    if out.isnan().any():
        raise Wrong("nan", f"Input {name}: your output holds NaN. What if the largest number is 0?")
    raise Wrong(
        "wrong_value",
        f"Input {name}: the values differ by up to {(out - limited(x, limit)).abs().max():.2g} from those of the "
        "function that was given.",
    )
