"""Checks of lesson 01 on two formulas: the bytes of each rank under ZeRO, and the seconds of a step with a ring."""

from collections.abc import Callable
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import number_of, numbers_of, refuse_formula, refuse_known, same
from torchcourse.checks.limits import time_limit
from torchcourse.lessons.data_parallelism.cost import ring_seconds
from torchcourse.lessons.data_parallelism.memory import zero_memory
from torchcourse.units import times

_CLOSE = 1e-6  # relative


@check
def zero_bytes(learner: Callable[[float, int, int], Any]) -> str:
    """Compare with the formula of the ZeRO paper for every stage, a small model first."""
    _refuse_allocations(learner)
    for parameters, world_size in ((1e6, 4), (7.5e9, 64), (1e9, 8), (1e6, 1)):
        for stage in (0, 1, 2, 3):
            where = f"{parameters:g} parameters on {world_size} ranks, stage {stage}: "
            right = zero_memory(parameters, world_size, stage)
            expected = [right.parameters, right.gradients, right.optimizer]
            given = numbers_of(learner(parameters, world_size, stage), 3, _PARTS)
            if not same(given, expected, _CLOSE):
                plain = numbers_of(learner(parameters, 1, 0), 3, _PARTS)
                refuse_bytes_per_parameter([part / parameters for part in plain], "Without sharding ")
                judge_shares(given, expected, plain, world_size, where)
    return "The bytes of the ZeRO paper, for DDP and stages 1, 2 and 3: checked for four models."


@check
def step_seconds(learner: Callable[..., float]) -> str:
    """Compare with compute / N plus the ring's time, for one rank and for many."""
    given = [number_of(learner(*case), "the seconds of a step") for case in _STEPS]
    right = [compute / n + ring_seconds(size, n, alpha, beta) for compute, size, n, alpha, beta in _STEPS]
    if not same(given, right, _CLOSE):
        _judge_seconds(given, right)
    return f"Checked on {len(_STEPS)} combinations of model, network and number of ranks, one rank alone among them."


# Memory

_PARTS = "parameters, gradients, optimizer"
_LOOK = 2.0  # seconds for a model of 1e15 parameters: a list of them, number by number, would end the kernel


def _refuse_allocations(learner: Callable[[float, int, int], Any]) -> None:
    """Refuse a function that makes what it only has to count, by a model that no memory can hold."""
    try:
        with time_limit(_LOOK):
            learner(1e15, 4, 0)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise Wrong(
            "allocates",
            "For a model of 1e15 parameters your function makes something as large in memory. The bytes can be worked "
            "out from the numbers that it is given.",
        ) from None


def refuse_bytes_per_parameter(each: list[float], where: str) -> None:
    """Refuse other bytes per parameter than 2, 2 and 12, where nothing is shared out."""
    wanted = [2.0, 2.0, 12.0]
    if same(each, wanted, _CLOSE):
        return
    counted = f"{where}you count {each[0]:g} + {each[1]:g} + {each[2]:g} bytes per parameter"
    if each[0] > 0 and same([part / each[0] for part in each], [1.0, 1.0, 6.0], _CLOSE):
        raise Wrong(
            "unit",
            f"{counted}. The parts are right to one another, and all of them {times(each[0] / wanted[0])} what they "
            "should be. In which unit are they, and of how many parameters? Return bytes.",
        )
    if same(sorted(each), wanted, _CLOSE):
        raise Wrong("order", f"{counted}: the right numbers in a different order. Return {_PARTS}.")
    question = "which three float32 numbers make up the 12?" if same(each[:2], wanted[:2]) else "which is yours?"
    raise Wrong(
        "bytes_per_parameter",
        f"{counted}. In mixed precision with Adam it is 2 (weights in 16 bits), 2 (gradients in 16 bits) and 12: "
        f"{question}",
    )


def judge_shares(given: list[float], right: list[float], plain: list[float], world_size: int, where: str) -> None:
    """Raise what is wrong with the first part that is not what it should be, if one is not.

    Args:
        given, right: the bytes of parameters, gradients and optimizer.
        plain: what they are without sharding.
        world_size: the ranks that share.
        where: the case, for the hint.
    """
    names = ("parameters", "gradients", "optimizer numbers")
    for name, ours, wanted, whole in zip(names, given, right, plain, strict=True):
        if same(ours, wanted, _CLOSE):
            continue
        known = {
            "shared_too_early": (whole / world_size, f"your {name} are shared out, but not yet at this stage."),
            "not_shared": (whole, f"your {name} are not shared out; this stage shares them out."),
        }
        refuse_known(ours, known, _CLOSE, where=where)
        stage = "does not share them out" if same(wanted, whole) else "leaves each rank one of N equal parts of them"
        raise Wrong(
            "wrong_share", f"{where}your {name} are {times(ours / wanted)} what they should be. This stage {stage}."
        )


# Time

Step = tuple[float, float, int, float, float]
"""Compute (s), gradients (bytes), ranks, α (s), β (s per byte)."""

_STEPS: list[Step] = [
    (0.4, 1e8, 4, 1e-5, 1e-9),
    (0.4, 1e8, 1, 1e-5, 1e-9),
    (0.4, 0.0, 8, 1e-3, 1e-9),
    (0.0, 1e8, 8, 0.0, 1e-9),
    (1.5, 4e6, 64, 5e-6, 1e-10),
    (9.0, 1e8, 4, 1e-5, 1e-9),
]


Count = Callable[[int], float]
"""From the number of ranks."""


def _formula(
    share: Count = lambda n: 1 / n, messages: Count = lambda n: 2 * (n - 1), sent: Count = lambda n: 2 * (n - 1) / n
) -> Callable[..., float]:
    """The seconds by a share of the computing, a number of messages, and how often the tensor is sent."""
    return lambda c, s, n, a, b: c * share(n) + messages(n) * a + sent(n) * s * b


def _none(n: int) -> float:
    return 0


_MISTAKES: dict[str, tuple[list[Callable[..., float]], str]] = {
    "compute_not_shared": (
        [_formula(share=lambda n: 1)],
        "Your ranks each compute the whole batch. How much of it does one rank have?",
    ),
    "compute_forgotten": ([_formula(share=_none)], "You count the all-reduce only. A step also computes."),
    "all_reduce_forgotten": (
        [_formula(messages=_none, sent=_none)],
        "You count the computing only. A step also sends.",
    ),
    "bytes_forgotten": ([_formula(sent=_none)], "You count the messages and not their bytes."),
    "overlapped": (
        [lambda c, s, n, a, b: max(c / n, ring_seconds(s, n, a, b))],
        "You let communication and computing hide behind each other. Here nothing overlaps.",
    ),
    "all_reduce_shared": (
        [lambda c, s, n, a, b: (c + ring_seconds(s, n, a, b)) / n],
        "You divide the time of the all-reduce by the number of ranks as well. Only the computing is shared.",
    ),
    "half_a_ring": (
        [_formula(messages=lambda n: n - 1, sent=lambda n: (n - 1) / n)],
        "You count one half of the ring. How many halves has it?",
    ),
    "whole_tensor": (
        [_formula(sent=lambda n: 1), _formula(sent=lambda n: 2), _formula(sent=lambda n: 2 * (n - 1))],
        "Your all-reduce sends the tensor as a whole: once, twice, or in each of its steps. How large is what travels "
        "in one step of a ring?",
    ),
    "plain_way": (
        [_formula(sent=lambda n: n - 1)],
        "That is the plain way, where one rank sends N−1 tensors. This is a ring.",
    ),
    "messages": (
        [
            _formula(messages=count)
            for count in (_none, lambda n: 1, lambda n: 2, lambda n: n - 1, lambda n: n, lambda n: 2 * (n - 1) / n)
        ],
        "The bytes are right, the messages are not. How many steps does a ring take, in both of its halves?",
    ),
    "chunk_cut_again": (
        [_formula(sent=lambda n: 2 * (n - 1) / n**2)],
        "The messages are right, and the bytes are divided by N twice. One chunk is S/N, and 2(N−1) of them are sent.",
    ),
    "steps_of_a_ring": (
        [_formula(messages=lambda n: 2 * n, sent=lambda n: 2)],
        "Your ring has 2N steps. In which step has a rank nothing left to send?",
    ),
    "whole_numbers": (
        [lambda c, s, n, a, b: c // n + ring_seconds(s, n, a, b), _formula(sent=lambda n: 2 * (n - 1) // n)],
        "You divide with //, which leaves the whole number below: 6 // 4 is 1. A share is no whole number.",
    ),
    "bandwidth": (
        [lambda c, s, n, a, b: c / n + ring_seconds(s, n, a, 1 / b)],
        "You divide by β as by a speed. β is the seconds of one byte: more bytes, more times β.",
    ),
    "swapped": (
        [lambda c, s, n, a, b: c / n + ring_seconds(s, n, b, a)],
        "α and β have changed places: α is per message, β per byte.",
    ),
}


def _judge_seconds(given: list[float], right: list[float]) -> None:
    """Raise what is wrong: a mistake that explains all cases, else the first case that differs."""
    refuse_formula(given, _STEPS, _MISTAKES, _CLOSE)
    place = next(place for place, ours in enumerate(given) if not same(ours, right[place], _CLOSE))
    compute, size, world_size, alpha, beta = _STEPS[place]
    where = f"compute {compute} s, {size:g} bytes, {world_size} ranks, α {alpha:g} s, β {beta:g} s per byte: "
    if world_size == 1:
        raise Wrong(
            "one_rank_talks",
            f"{where}one rank alone has nobody to send to and computes everything, {compute} s; you return "
            f"{given[place]:g} s.",
        )
    raise Wrong(
        "wrong_value",
        f"{where}you return {given[place]:g} s. Work it out by hand for β = 0 (messages only), then for α = 0 (bytes "
        "only).",
    )
