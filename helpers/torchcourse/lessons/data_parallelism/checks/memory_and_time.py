"""Checks of lesson 01 on two formulas: the bytes of each rank under ZeRO, and the seconds of a step with a ring."""

from collections.abc import Callable
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, numbers_of, refuse_known, same
from torchcourse.lessons.data_parallelism.cost import ring_seconds
from torchcourse.lessons.data_parallelism.memory import zero_memory

_CLOSE = 1e-6  # relative


@check
def zero_bytes(learner: Callable[[float, int, int], Any]) -> str:
    """Compare with the formula of the ZeRO paper for every stage."""
    for parameters, world_size in ((7.5e9, 64), (1e9, 8), (1e6, 1)):
        for stage in (0, 1, 2, 3):
            where = f"{parameters:g} parameters on {world_size} ranks, stage {stage}: "
            right = zero_memory(parameters, world_size, stage)
            expected = [right.parameters, right.gradients, right.optimizer]
            given = numbers_of(learner(parameters, world_size, stage), 3, _PARTS)
            if not same(given, expected, _CLOSE):
                plain = numbers_of(learner(parameters, 1, 0), 3, _PARTS)
                _refuse_bytes_per_parameter([part / parameters for part in plain])
                _judge_shares(given, expected, plain, world_size, where)
    return "The bytes of the ZeRO paper, for DDP and stages 1, 2 and 3: checked for three models."


@check
def step_seconds(learner: Callable[..., float]) -> str:
    """Compare with compute / N plus the ring's time, for one rank and for many."""
    for case in _STEPS:
        answer = learner(*case)
        given = number(answer)
        if given is None:
            raise Wrong("no_number", f"Return one number, the seconds of a step. You returned {answer!r}.")
        compute, size, world_size, alpha, beta = case
        if not same(given, compute / world_size + ring_seconds(size, world_size, alpha, beta), _CLOSE):
            _judge_seconds(given, *case)
    return f"Checked on {len(_STEPS)} combinations of model, network and number of ranks, one rank alone among them."


# Memory

_PARTS = "parameters, gradients, optimizer"


def _refuse_bytes_per_parameter(each: list[float]) -> None:
    if [round(value) for value in each] != [2, 2, 12]:
        raise Wrong(
            "bytes_per_parameter",
            f"Without sharding you count {each[0]:g} + {each[1]:g} + {each[2]:g} bytes per parameter. In mixed "
            "precision with Adam it is 2 (weights), 2 (gradients) and 12: which three float32 numbers make up the 12?",
        )


def _judge_shares(given: list[float], right: list[float], plain: list[float], world_size: int, where: str) -> None:
    """Raise what is wrong with the first part that is not what it should be; `plain` are the bytes without sharding."""
    names = ("parameters", "gradients", "optimizer numbers")
    for name, ours, wanted, whole in zip(names, given, right, plain, strict=True):
        if same(ours, wanted, _CLOSE):
            continue
        known = {
            "shared_too_early": (whole / world_size, f"your {name} are shared out, but not yet at this stage."),
            "not_shared": (whole, f"each rank still holds all {name}; this stage shares them out."),
        }
        refuse_known(ours, known, _CLOSE, where=where)
        raise Wrong(
            "wrong_share",
            f"{where}your {name} are {ours / wanted:.3g} times what they should be. Each rank keeps one of N equal "
            "parts.",
        )


# Time

_STEPS = [
    # compute (s), gradients (bytes), ranks, α (s), β (s per byte)
    (0.4, 1e8, 4, 1e-5, 1e-9),
    (0.4, 1e8, 1, 1e-5, 1e-9),
    (0.4, 0.0, 8, 1e-3, 1e-9),
    (0.0, 1e8, 8, 0.0, 1e-9),
    (1.5, 4e6, 64, 5e-6, 1e-10),
]


def _judge_seconds(given: float, compute: float, size: float, world_size: int, alpha: float, beta: float) -> None:
    where = f"compute {compute} s, {size:g} bytes, {world_size} ranks, α {alpha:g} s, β {beta:g} s per byte: "
    share, sends = compute / world_size, world_size - 1
    messages, traffic = 2 * sends * alpha, 2 * sends / world_size * size * beta
    not_shared = "your ranks each compute the whole batch. How much of it does one rank have?"
    refuse_known(given, {"compute_not_shared": (compute + messages + traffic, not_shared)}, _CLOSE, where=where)
    if world_size == 1:
        raise Wrong(
            "one_rank_talks", f"{where}one rank alone has nobody to send to, but you count {given - compute:g} s."
        )
    known = {
        "whole_tensor": (
            AnyOf(share + messages + times * size * beta for times in (1, 2)),
            "your all-reduce sends the tensor once or twice as a whole. How much does a rank really send?",
        ),
        "plain_way": (
            share + messages + sends * size * beta,
            "that is the plain way, where one rank sends N−1 tensors. This is a ring.",
        ),
        "messages": (
            AnyOf(share + count * alpha + traffic for count in (0, 1, 2, sends, world_size)),
            "the bytes are right, the messages are not. How many steps has a ring, in both of its halves?",
        ),
        "overlapped": (
            max(share, messages + traffic),
            "you let all communication hide behind computing. Here nothing overlaps.",
        ),
    }
    refuse_known(given, known, _CLOSE, where=where)
    raise Wrong(
        "wrong_value",
        f"{where}you return {given:g} s. Work it out by hand for β = 0 (messages only), then for α = 0 (bytes only).",
    )
