"""Checks of lesson 05 on ranks that wait: who stands elsewhere, and a decision that all ranks take together."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import on_ranks, refuse_known
from torchcourse.ranks.who import device

TIME_LIMIT = 10.0  # seconds for a call on ranks

Stacks = dict[int, list[str]]


class Case(NamedTuple):
    """Stacks, the ranks that are elsewhere, and what it means to miss them."""

    stacks: Stacks
    right: list[int]
    symptom: str
    hint: str


_REDUCE, _WAIT = "dist.all_reduce(gradient)", "work.wait()"
_CASES = (
    Case(
        {0: ["step()", _REDUCE, _WAIT], 1: [], 2: ["step()", _REDUCE, _WAIT]},
        [1],
        "returned_missed",
        "Rank 1 has an empty stack: it has returned, and the others wait for it.",
    ),
    Case(
        {0: ["a()", _WAIT], 1: ["a()", _WAIT], 2: ["b()", _WAIT]},
        [2],
        "innermost_only",
        "All three ranks end in the same line, and rank 2 got there by a different call: compare whole stacks.",
    ),
    Case(
        {0: ["log()", _REDUCE], 1: ["step()", _REDUCE], 2: ["step()", _REDUCE], 3: ["step()", _REDUCE]},
        [0],
        "rank_0_is_the_measure",
        "Here rank 0 itself is the odd one: the measure is where *most* ranks are.",
    ),
    Case(
        {rank: [_REDUCE, _WAIT] for rank in range(4)},
        [],
        "nobody_is_odd",
        "All ranks are at the same place, and you named {answer}.",
    ),
    Case(
        {5: ["a()"], 4: ["c()"], 1: ["a()"], 3: ["b()"], 0: ["a()"], 2: ["a()"]},
        [3, 4],
        "one_only",
        "Two ranks are elsewhere, each in its own place: [3, 4]. You named {answer}.",
    ),
    Case(
        {0: ["a()"], 1: ["a()"], 2: ["a()"], 3: ["b()"], 4: ["b()"]},
        [3, 4],
        "two_together",
        "Three ranks are at one place, and [3, 4] together at a different one. You named {answer}.",
    ),
    Case(
        {rank: ["step()", "b()" if rank == 1 else "a()", _REDUCE, _WAIT] for rank in range(3)},
        [1],
        "ends_only",
        "All stacks begin and end alike, and in between rank 1 is elsewhere: compare whole stacks. You named {answer}.",
    ),
    Case(
        {0: ["a()", "b()"], 1: ["b()", "a()"], 2: ["a()", "b()"]},
        [1],
        "lines_without_order",
        "Rank 1 has the same lines in a different order: a different stack. You named {answer}.",
    ),
    Case(
        {0: [], 1: ["step()", _REDUCE], 2: []},
        [1],
        "returned_are_most",
        "Most ranks have returned here, so an empty stack is the most frequent one. You named {answer}.",
    ),
    Case(
        {rank: ["b()"] if rank in (9, 10) else ["a()"] for rank in range(12)},
        [9, 10],
        "two_together",
        "Ten ranks are at one place, and [9, 10] together at a different one. You named {answer}.",
    ),
    Case(
        {0: ["a()"], 1: ["b()"], 2: ["c()"], 3: ["c()"], 4: ["d()"]},
        [0, 1, 4],
        "no_majority",
        "No place has more than half of the ranks, but one has most of all: [2, 3] are there. You named {answer}.",
    ),
    Case(
        {2: ["a()"], 5: ["b()"], 9: ["a()"]},
        [5],
        "some_ranks",
        "Here are the stacks of three ranks of many, 2, 5 and 9. You named {answer}.",
    ),
)


@check
def odd_ones_out(learner: Callable) -> str:
    """Judge stacks in which many ranks, few ranks or none are elsewhere."""
    for case in _CASES:
        given = {rank: list(lines) for rank, lines in case.stacks.items()}
        answer = _ranks_in(learner(given))
        if given != case.stacks:
            raise Wrong("inputs_changed", "The stacks are different after the call. Leave what you are given as it is.")
        if answer == case.right:
            continue
        if sorted(answer) == case.right:
            raise Wrong("order", f"The right ranks, in the order {answer}: ascending is asked for.")
        # Where rank 0 is the odd one, the many are what its stack as the measure gives.
        if set(answer) == set(case.stacks) - set(case.right) and case.right and case.right != [0]:
            raise Wrong("the_many", f"You named {answer}: these are together. Name the ranks that are not with them.")
        raise Wrong(case.symptom, case.hint.format(answer=answer))
    return "Those that have returned and those that wait elsewhere are named, one or several."


def _ranks_in(answer: Any) -> list[int]:
    found = list(answer) if isinstance(answer, list | tuple | set) else None
    if found is None or any(isinstance(rank, bool) or not isinstance(rank, int) for rank in found):
        raise Wrong("wrong_type", f"Return a list of the numbers of ranks. You returned {answer!r}.")
    return found


_LOSSES = (
    (0.5, 1.0, 2.0),
    (0.5, math.nan, 1.0),
    (math.nan, 1.0, 2.0),
    (1.0, 2.0, math.inf),
    (1.0, math.inf, -math.inf),
    (math.nan, math.inf, math.nan),
    (3e38, 3e38, 1.0),
    (-3.0, 0.5, -2e38),
    (3.0, 2.0, 1.0),
    (0.5, -math.inf, 1.0),
)


def _ask(learner: Callable) -> tuple[list, bool, bool]:
    """Call the learner's function once for each row of losses, run by each rank; return the answers, and whether one
    of the losses was sent backward, or is another than before."""
    answers, backward, changed = [], False, False
    for row in _LOSSES:
        loss = torch.tensor(row[dist.get_rank()], device=device(), requires_grad=True)
        given = loss * 1.0
        answer = learner(given)
        answers.append(answer.item() if hasattr(answer, "item") else answer)
        backward |= loss.grad is not None
        changed |= given.grad_fn is None or not torch.allclose(given, loss, rtol=0.0, atol=0.0, equal_nan=True)
    return answers, backward, changed


@check
def any_rank_bad(learner: Callable) -> str:
    """Ask three ranks about good and bad losses on different ranks."""
    asked = on_ranks(
        _ask,
        learner,
        world_size=3,
        seconds=TIME_LIMIT,
        hang="The ranks wait for one another: not all of them make the same calls. Is the collective inside an if?",
        left_alone=None,
    )
    if any(backward for _, backward, _ in asked):
        raise Wrong(
            "backward_called",
            "Your function calls backward(). Whether this step is taken is decided before: only look.",
        )
    answers = [rank for rank, _, _ in asked]
    right = [any(not math.isfinite(value) for value in row) for row in _LOSSES]
    for value in (value for rank in answers for value in rank):
        if not isinstance(value, bool | int | float):
            raise Wrong("wrong_type", f"Return True or False. You returned {value!r}.")
    answers = [[bool(value) for value in rank] for rank in answers]
    if any(rank != right for rank in answers):
        _judge_answers(answers, right)
    if any(changed for *_, changed in asked):
        raise Wrong(
            "inputs_changed", "The answers are right, and the loss is no longer what it was: its backward() comes next."
        )
    return "One bad loss on any rank, NaN or infinite, and all ranks know."


def _judge_answers(answers: list[list[bool]], right: list[bool]) -> None:
    own = [[not math.isfinite(row[rank]) for row in _LOSSES] for rank in range(3)]
    apart = {
        "own_loss_only": (own, "Each rank judges its own loss only: a bad one on rank 1 is no news to rank 0."),
        "rank_0_decides": ([own[0]] * 3, "All ranks agree, and only the loss of rank 0 counts."),
    }
    refuse_known(answers, apart)
    first, *others = answers
    if any(other != first for other in others):
        raise Wrong(
            "ranks_disagree",
            "The ranks come to different answers, so some will skip the step and some not. Who gets the result of your "
            "collective?",
        )
    together = {
        "never": ([False] * len(_LOSSES), "A bad loss was never noticed."),
        "minus_infinity_missed": (
            [any(math.isnan(value) or value == math.inf for value in row) for row in _LOSSES],
            "NaN is noticed, and +inf. A loss of -inf is no number to train on either.",
        ),
        "nan_only": ([any(map(math.isnan, row)) for row in _LOSSES], "NaN is noticed and infinity is not."),
        "all_not_any": (
            [not any(map(math.isfinite, row)) for row in _LOSSES],
            "You say True only if all ranks are bad. One is enough.",
        ),
    }
    refuse_known(first, together)
    if accused := [row for row, bad, said in zip(_LOSSES, right, first, strict=True) if said and not bad]:
        large = " Their sum is not, nor are they in half precision." if max(accused[0]) > 1e38 else ""
        raise Wrong("good_accused", f"All losses were finite, {accused[0]}, and you said True.{large}")
    missed = _LOSSES[next(number for number, value in enumerate(right) if first[number] != value)]
    raise Wrong("wrong_answer", f"With the losses {missed} on the three ranks you said False.")
