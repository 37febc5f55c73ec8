"""Checks of what is reckoned: exposed communication, the bound of a layer, one graph."""

from collections.abc import Callable

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, refuse_known, same, tensor_of
from torchcourse.lessons.performance.graphs import break_reasons, counted

Intervals = list[tuple[float, float]]

_TRACES: list[tuple[Intervals, Intervals, float]] = [
    # computing, sending, exposed (all in ms)
    ([(0, 10)], [(10, 14)], 4),
    ([(0, 10)], [(6, 14)], 4),
    ([(0, 10), (12, 20)], [(5, 15)], 2),
    ([(0, 30)], [(5, 8), (20, 25)], 0),
    ([(0, 4), (6, 9)], [(1, 2), (3, 7), (8, 12)], 5),
    ([], [(1, 3), (5, 6)], 3),
    ([(0, 5)], [], 0),
]


@check
def exposed(learner: Callable[[Intervals, Intervals], float]) -> str:
    """Compare with hand-made traces: nothing covered, partly covered, in a gap, several of each, none."""
    for computing, sending, right in _TRACES:
        given = list(computing), list(sending)
        case = f"Computing {computing}, sending {sending}: "
        value = _one_number(learner(*given), f"{case}the function returns milliseconds, one number.")
        if given != (computing, sending):
            raise Wrong("inputs_changed", "Your function changed a list that it was given. The caller still needs it.")
        whole = sum(end - start for start, end in sending)
        span = max((end for _, end in [*computing, *sending]), default=0) - min(
            (start for start, _ in [*computing, *sending]), default=0
        )
        busy = sum(end - start for start, end in computing)
        if abs(value - right) < 1e-9:
            continue
        known = {
            "all_sending": (whole, "you counted all the time of sending. What runs beside computing costs nothing."),
            "covered": (whole - right, "you counted what is covered. Asked is what is left: nothing is computed then."),
            "after_the_last": (
                max(0.0, max((end for _, end in sending), default=0) - max((end for _, end in computing), default=0)),
                "only what comes after the last computing counts in yours. A gap between two spans waits, too.",
            ),
            "difference_of_sums": (
                AnyOf((whole - busy, max(0.0, whole - busy), span - busy)),
                "you compared sums. Which moments are covered depends on where the spans lie.",
            ),
        }
        refuse_known(value, known, where=case)
        raise Wrong("wrong_value", f"{case}{right:g} ms are exposed. Your function returned {value:g}.")
    return f"{len(_TRACES)} traces: nothing covered, partly covered, in gaps, several spans, none."


def _one_number(value: object, hint: str) -> float:
    found = number(value)
    if found is None:
        raise Wrong("no_number", f"{hint} Yours is {value!r}.")
    return found


@check
def linear_seconds(learner: Callable[[int, int, int, int, float, float], float]) -> str:
    """Compare with the roofline of a linear layer: one sample and many, 2 and 4 bytes per number, both bounds."""
    cases = [(1, 1024, 1024, 4), (2048, 1024, 1024, 4), (1, 4096, 512, 2), (512, 512, 4096, 2), (64, 256, 256, 4)]
    peak, bandwidth = 1e9, 5e7  # of a slow machine, so that no time is close to 0
    for batch, inputs, outputs, width in cases:
        case = f"{batch} × {inputs} → {outputs}, {width} bytes per number: "
        returned = learner(batch, inputs, outputs, width, peak, bandwidth)
        value = _one_number(returned, f"{case}the function returns seconds, one number.")
        flop = 2 * batch * inputs * outputs
        bias = outputs * width
        weights, given, out = (count * width for count in (inputs * outputs, batch * inputs, batch * outputs))
        moved = weights + given + out
        right = AnyOf(tuple(max(flop / peak, (moved + extra) / bandwidth) for extra in (bias, 0)))
        if any(same(value, one, tolerance=1e-6) for one in right):
            continue
        known = {
            "added": (
                AnyOf(tuple(flop / peak + (moved + extra) / bandwidth for extra in (bias, 0))),
                "you added both times. Computing and moving run at the same time: which of the two takes longer?",
            ),
            "the_shorter": (
                AnyOf(tuple(min(flop / peak, (moved + extra) / bandwidth) for extra in (bias, 0))),
                "you took the shorter time. The layer is not done before both are done.",
            ),
            "one_per_product": (
                max(flop / 2 / peak, moved / bandwidth),
                "a multiplication and an addition are two operations for each weight and sample.",
            ),
            "no_weights": (
                max(flop / peak, (given + out) / bandwidth),
                "the weights have to be read as well.",
            ),
            "weights_only": (
                AnyOf((max(flop / peak, weights / bandwidth), max(flop / peak, (weights + bias) / bandwidth))),
                "inputs are read and outputs are written as well.",
            ),
            "no_outputs": (
                AnyOf(tuple(max(flop / peak, (weights + given + extra) / bandwidth) for extra in (bias, 0))),
                "the outputs have to be written as well.",
            ),
            "weights_per_sample": (
                AnyOf(
                    tuple(
                        max(flop / peak, (batch * (weights + extra) + given + out) / bandwidth) for extra in (bias, 0)
                    )
                ),
                "you read the weights once per sample. A batch reads them once: that is what makes it pay.",
            ),
            "numbers": (
                AnyOf(tuple(max(flop / peak, (moved + extra) / width / bandwidth) for extra in (bias, 0))),
                "you counted numbers. The bandwidth is in bytes per second.",
            ),
            "four_bytes": (
                AnyOf(tuple(max(flop / peak, (moved + extra) / width * 4 / bandwidth) for extra in (bias, 0))),
                "a number has 4 bytes in yours, whatever is given.",
            ),
            "compute_only": (flop / peak, "you left out the time to move the bytes."),
            "memory_only": (
                AnyOf(tuple((moved + extra) / bandwidth for extra in (bias, 0))),
                "you left out the time to compute.",
            ),
        }
        refuse_known(value, known, tolerance=1e-6, where=case)
        raise Wrong("wrong_value", f"{case}at least {right[1]:.3g} s. Your function returned {value:.3g}.")
    return f"{len(cases)} layers: both bounds, 2 and 4 bytes per number."


@check
def one_graph(learner: Callable[[torch.Tensor, float], torch.Tensor]) -> str:
    """Compare values on both sides of the limit, and count the graphs that the compiler's front made."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(6, 5, generator=generator, dtype=torch.float64) - 0.5
    inputs = {"below the limit": small, "above the limit": 20 * small, "all 0": torch.zeros_like(small)}
    for name, x in inputs.items():
        given = x.clone()
        out = tensor_of(learner(given, 1.0), x.shape, f"Input {name}: the output has the shape of the input.")
        if not torch.equal(given, x):
            raise Wrong("inputs_changed", "Your function changed the tensor that it was given. The caller needs it.")
        _judge_limited(name, out, x)
    compiled, graphs = counted(learner)
    for x in inputs.values():
        if not same(compiled(x.clone(), 1.0), limited(x, 1.0), tolerance=1e-8):
            raise Wrong("compiled_differs", "Compiled, your function returns different values for one of the inputs.")
    if len(graphs) == 0:
        raise Wrong("no_graph", "The compiler recorded no graph at all: the function is left to Python as a whole.")
    if len(graphs) > 1:
        reasons = break_reasons(learner, inputs["above the limit"].clone(), 1.0)
        why = f" A break: {reasons[0]}" if reasons else " It was recorded anew for a different input."
        raise Wrong("graph_break", f"The compiler made {len(graphs)} graphs of your function.{why}")
    return f"One graph of {graphs.sizes[0]} operations, and the right values on both sides of the limit."


def limited(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Return x, made shorter so that no number is larger than `limit`, through ReLU. The right answer, in one graph."""
    return torch.relu(x * (limit / x.abs().max().clamp_min(limit)))


def _judge_limited(name: str, out: torch.Tensor, x: torch.Tensor) -> None:
    if same(out, limited(x, 1.0), tolerance=1e-8):
        return
    largest = x.abs().max()
    known = {
        "clipped": (torch.relu(x.clamp(-1.0, 1.0)), "you clipped each number. All of them shrink by one factor."),
        "always_scaled": (
            AnyOf((torch.relu(x / largest), torch.relu(x / largest.clamp_min(1e-12)))),
            "you scaled a tensor that is within the limit already. It stays as it is.",
        ),
        "never_scaled": (torch.relu(x), "you scaled nothing, though a number is above the limit."),
        "no_relu": (x * (1.0 / largest.clamp_min(1.0)), "the ReLU at the end is missing."),
        "largest_not_size": (
            torch.relu(x * (1.0 / x.max().clamp_min(1.0))),
            "the limit is for the size: a large negative number counts, too.",
        ),
    }
    refuse_known(out, known, tolerance=1e-8, where=f"Input {name}: ")
    if out.isnan().any():
        raise Wrong("nan", f"Input {name}: your output holds NaN. What if the largest number is 0?")
    raise Wrong("wrong_value", f"Input {name}: the values differ from those of the function that was given.")
