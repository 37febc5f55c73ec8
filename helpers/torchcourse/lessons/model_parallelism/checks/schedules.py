"""Checks of lesson 02 on schedules of a pipeline: the share of time that ranks wait, and the order of 1F1B."""

import re
from collections.abc import Callable
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import is_rounded, number, refuse_formula, same
from torchcourse.lessons.model_parallelism.pipeline import Action, Deadlock, Schedule, simulate
from torchcourse.lessons.model_parallelism.pipeline import bubble as right_bubble
from torchcourse.units import counted


@check
def bubble(learner: Callable) -> str:
    """Compare with the formula, which the simulation of every schedule reproduces."""
    cases = [(p, m, v) for v in (1, 2, 3) for p, m in ((4, 8), (2, 6), (5, 5), (3, 12), (1, 3))]
    cases.insert(1, (5, 4, 1))  # with one piece, their number need not be a multiple
    answers: list[float] = []
    try:
        for ranks, micro_batches, pieces in cases:
            given = (pieces,) if pieces > 1 else ()  # one piece is the default
            answers.append(_part(learner(ranks, micro_batches, *given), ranks, micro_batches, pieces))
    finally:
        _judge_bubbles(answers, cases[: len(answers)])  # what is wrong with an earlier case says more than an error
    return "The waiting of the simulated schedules, with one piece per rank and with several; one rank never waits."


@check
def one_f_one_b_order(learner: Callable) -> str:
    """Simulate the learner's orders: all passes, no deadlock, the bubble of 1F1B and no more memory than it needs."""
    for ranks, micro_batches in ((2, 4), (4, 8), (3, 5), (1, 2)):
        _judge_orders(learner, ranks, micro_batches)
    for ranks, micro_batches in ((4, 2), (5, 1)):
        try:
            _judge_orders(learner, ranks, micro_batches)
        except Wrong as wrong:
            raise Wrong(
                "few_micro_batches",
                f"Right while there are as many micro-batches as ranks, but not with {micro_batches} on {ranks} ranks. "
                f"{wrong.hint}",
            ) from None
    return "No rank waits longer than in 1F1B, and rank r of p never holds more than p−r micro-batches."


# The bubble


Bubble = Callable[[int, int, int], float]
"""From ranks, micro-batches and pieces to a part of all time."""

_MISTAKES: dict[str, tuple[list[Bubble], str]] = {
    "relative_to_work": (
        [lambda p, m, v: (p - 1) / (v * m)],
        "That is the waiting divided by the work, not by all of the time.",
    ),
    "one_too_many": (
        [lambda p, m, v: (p - 1) / (v * m + p), lambda p, m, v: p / (v * m + p)],
        "Close. Count once more: for how many other ranks does rank 0 wait, and when does the last rank begin?",
    ),
    "utilization": (
        [lambda p, m, v: v * m / (v * m + p - 1)],
        "That is the part in which a rank works.",
    ),
    "percent": (
        [lambda p, m, v: 100 * (p - 1) / (v * m + p - 1)],
        "That is in percent; a part from 0 to 1 was asked for.",
    ),
    "waiting_twice": (
        [lambda p, m, v: 2 * (p - 1) / (v * m + 2 * (p - 1))],
        "You count filling and draining, and for the work one pass alone. Each has a forward and a backward part.",
    ),
    "exchanged": (
        [lambda p, m, v: (m - 1) / (v * p + m - 1)],
        "That is the formula with the ranks and the micro-batches in each other's place.",
    ),
    "whole_numbers": (
        [lambda p, m, v: 0.0],
        "It is 0 in all cases. Dividing whole numbers with // leaves 0 of every part.",
    ),
}


def _part(answer: Any, ranks: int, micro_batches: int, pieces: int) -> float:
    value = number(answer)
    if value is None:
        raise Wrong(
            "no_number",
            f"bubble({ranks}, {micro_batches}, {pieces}) is {answer!r}. A number from 0 to 1 was asked for.",
        )
    return value


def _judge_bubbles(answers: list[float], cases: list[tuple[int, int, int]]) -> None:
    """Refuse wrong numbers; a known mistake has to give those of all cases, as one case may fit several mistakes.

    Where it is wrong for one piece per rank, that means the cases of one piece: many write these first.
    """
    wrong = [place for place, case in enumerate(cases) if not same(answers[place], float(right_bubble(*case)), 1e-6)]
    if not wrong:
        return
    value, (p, m, v) = answers[wrong[0]], cases[wrong[0]]
    case, right = f"bubble({p}, {m}, {v}) is {value:.4f}. ", float(right_bubble(p, m, v))
    told = [place for place, (_, _, pieces) in enumerate(cases) if v > 1 or pieces == 1]
    refuse_formula([answers[place] for place in told], [cases[place] for place in told], _MISTAKES, where=case)
    if v > 1:  # those with one piece come first
        raise Wrong(
            "pieces",
            f"{case}Right for one piece per rank. Several pieces of a rank share its time, each with 1/v of it: what "
            "becomes of filling and draining, and what of the work?",
        )
    if is_rounded(value, right):
        raise Wrong("rounded", f"{case}That is a rounded value. Return it as it was computed.")
    part = "" if 0 <= value <= 1 else "A part of all time lies between 0 and 1. "
    raise Wrong(
        "wrong_value",
        f"{case}{part}Draw {counted(p, 'rank')} and {m} micro-batches with the slider, and count parts of time.",
    )


# The order of 1F1B


def _judge_orders(learner: Callable, ranks: int, micro_batches: int) -> None:
    orders = tuple(_actions(learner(rank, ranks, micro_batches), rank, ranks, micro_batches) for rank in range(ranks))
    case = f"{ranks} ranks, {micro_batches} micro-batches: "
    try:
        line = simulate(Schedule("the learner's", micro_batches, 1, orders))
    except Deadlock as error:
        raise Wrong("hang", case + str(error)) from None
    for rank in range(ranks):
        most = min(ranks - rank, micro_batches)
        if line.peak(rank) == micro_batches > most and orders[rank][micro_batches - 1].kind == "F":
            raise Wrong(
                "gpipe",
                f"{case}rank {rank} does all forward passes first, and holds {micro_batches} micro-batches: GPipe.",
            )
        if line.peak(rank) > most:
            raise Wrong(
                "holds_too_many",
                f"{case}rank {rank} holds {line.peak(rank)} micro-batches at its worst moment; in 1F1B it is {most}. "
                "How many forward passes does it do before its first backward pass?",
            )
    if line.bubble > right_bubble(ranks, micro_batches):
        kinds = ["".join(action.kind for action in order) for order in orders]
        few = any(kind.index("B") < min(ranks - rank, micro_batches) for rank, kind in enumerate(kinds))
        raise Wrong(
            "waits_too_long",
            f"{case}the ranks wait {float(line.bubble):.0%} of the time; in 1F1B it is "
            f"{float(right_bubble(ranks, micro_batches)):.0%}. "
            + (
                "Some rank has too few forward passes under way while it waits for its first gradient."
                if few
                else "Each rank has enough forward passes under way. Do its backward passes come in the order in which "
                "the next rank sends their gradients?"
            ),
        )


def _actions(order: Any, rank: int, ranks: int, micro_batches: int) -> tuple[Action, ...]:
    call = f"one_f_one_b_order({rank}, {ranks}, {micro_batches})"
    if not isinstance(order, list | tuple) or not all(isinstance(entry, str) for entry in order):
        raise Wrong("wrong_type", f"{call} is {order!r}. A list of entries like 'F0' was asked for.")
    actions = []
    for entry in order:
        match = re.fullmatch(r"([FB])(0|[1-9]\d*)", entry)
        if not match or int(match[2]) >= micro_batches:
            raise Wrong(
                "unknown_entry",
                f"{call} has the entry {entry!r}: it is not a pass of micro-batch 0 to {micro_batches - 1}, written "
                "like 'F0'.",
            )
        actions.append(Action("F" if match[1] == "F" else "B", rank, int(match[2])))
    for k in range(micro_batches):
        forward, backward = Action("F", rank, k), Action("B", rank, k)
        for action in (forward, backward):
            if (times := actions.count(action)) != 1:
                symptom = "twice" if times else "missing"
                raise Wrong(symptom, f"{call} has {action.kind}{k} {times} times. Each pass is done once.")
        if actions.index(backward) < actions.index(forward):
            raise Wrong("backward_first", f"{call} has B{k} before F{k}: there is nothing to go backward through.")
    return tuple(actions)
