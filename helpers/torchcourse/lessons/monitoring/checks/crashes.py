"""Checks of lesson 04, notebook 4: how often to save, what is in the weights, dealing on any number of ranks."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import number, numbers
from torchcourse.lessons.monitoring import seen_samples
from torchcourse.lessons.monitoring.crash_costs import daly_interval
from torchcourse.lessons.monitoring.save_interval import best_interval
from torchcourse.lessons.monitoring.seen_samples import BATCH, Row

Steps = Callable[[float, float, float, int], int]

_JOBS = ((30.0, 2.0, 6_000.0, 2048), (120.0, 0.5, 8_000.0, 64), (5.0, 0.25, 20_000.0, 1), (60.0, 3.0, 40_000.0, 500))
"""Seconds per save, seconds per step, hours between crashes of one machine, machines."""

_WRONG_STEPS: dict[str, tuple[Callable[[float, float, float, int], float], str]] = {
    "machines_forgotten": (
        lambda c, s, h, n: math.sqrt(2 * c * 3600 * h) / s,
        "Your answer does not depend on the number of machines. The job stops when any of them does: with 2,048 "
        "machines, how long is it from one stop to the next?",
    ),
    "machines_multiplied": (
        lambda c, s, h, n: math.sqrt(2 * c * 3600 * h * n) / s,
        "With more machines you save less often. More machines crash more often, together.",
    ),
    "machines_outside": (
        lambda c, s, h, n: math.sqrt(2 * c * 3600 * h) / n / s,
        "You divide the interval by the number of machines. The time between crashes becomes so much shorter.",
    ),
    "hours": (
        lambda c, s, h, n: math.sqrt(2 * c * h / n) / s,
        "Your answers are 60 times too small. In which units are the two times under the root?",
    ),
    "minutes": (
        lambda c, s, h, n: math.sqrt(2 * c * 60 * h / n) / s,
        "Your answers are √60 times too small: minutes under the root, where the save has seconds.",
    ),
    "two_forgotten": (
        lambda c, s, h, n: math.sqrt(c * 3600 * h / n) / s,
        "Your answers are √2 times too small. On average a crash comes in the middle of an interval.",
    ),
    "two_outside": (
        lambda c, s, h, n: 2 * math.sqrt(c * 3600 * h / n) / s,
        "Your answers are √2 times too large. What stands under the root, and what before it?",
    ),
    "hours_outside": (
        lambda c, s, h, n: 3600 * math.sqrt(2 * c * h / n) / s,
        "Your answers are 60 times too large. Seconds times hours are under your root: that gives no hours.",
    ),
    "root_forgotten": (lambda c, s, h, n: 2 * c * 3600 * h / n / s, "Your answers are the squares of seconds."),
    "seconds": (
        lambda c, s, h, n: math.sqrt(2 * c * 3600 * h / n),
        "This is the interval in seconds. The question is after how many steps.",
    ),
    "step_multiplied": (
        lambda c, s, h, n: math.sqrt(2 * c * 3600 * h / n) * s,
        "With longer steps you save after more of them. How many steps fit into the interval?",
    ),
    "save_in_steps": (
        lambda c, s, h, n: math.sqrt(2 * c / s * 3600 * h / n),
        "Under the root you mix steps and seconds. Compute the interval in seconds, and turn that into steps.",
    ),
}


@check
def steps_between_saves(learner: Steps) -> str:
    """Compare with Young's interval in steps, however it is rounded; Daly's further terms are right as well."""
    given = []
    for save, step, hours, machines in _JOBS:
        answer = number(learner(save, step, hours, machines))
        if answer is None:
            raise Wrong("wrong_type", "Return one number, how many steps there are from one save to the next.")
        given.append(answer)
    for symptom, (formula, hint) in _WRONG_STEPS.items():
        if all(abs(answer - formula(*job)) <= 1 for answer, job in zip(given, _JOBS, strict=True)):
            raise Wrong(symptom, hint)
    for answer, (save, step, hours, machines) in zip(given, _JOBS, strict=True):
        between = 3600 * hours / machines
        young = best_interval(save, between)
        if not any(abs(answer - right / step) <= 1 for right in (young, young - save, daly_interval(save, between))):
            raise Wrong(
                "wrong_value",
                f"A save of {save:g} s, steps of {step:g} s, {machines:,} machines that each run for {hours:,g} h "
                f"from crash to crash: you save after {answer:,g} step{'s' * (answer != 1)}. Compute √(2·C·M) by "
                "hand, with M of the whole job, in seconds.",
            )
    if any(answer != round(answer) for answer in given):
        raise Wrong("not_whole", f"A loop counts whole steps, and you return {given[0]!r}. Round it.")
    answer = learner(1.0, 60.0, 1000.0, 100_000)  # an interval of about 8 s
    seldom = number(answer)
    if seldom is None or seldom < 1:
        raise Wrong(
            "never",
            f"Where a step takes longer than the interval, you return {answer}. After at least how many steps can one "
            "save?",
        )
    if seldom > 2:
        raise Wrong(
            "too_seldom",
            "A save of 1 s, steps of 60 s, 100,000 machines: each step is longer than the best interval of 8 s, and "
            f"you save after {seldom:,g} steps.",
        )
    return "Checked on four jobs, from 1 machine to 2,048, and on one where each step has to be saved."


Audit = Callable[[list[Row], int], tuple[Sequence[int], Sequence[int]]]

_RESUMED: list[Row] = [
    *((0, 1, [0, 1]), (0, 2, [2, 3]), (0, 3, [4, 5]), (0, 4, [6, 7])),
    *((1, 3, [4, 5]), (1, 4, [6, 7])),
]
_REPEATED: list[Row] = [(0, 1, [0, 1]), (0, 2, [2, 3]), (1, 3, [0, 3]), (1, 4, [3, 4]), (1, 5, [6, 7])]
_SKIPPED: list[Row] = [(0, 1, [1]), (0, 2, [2]), (1, 2, [4, 5]), (1, 3, [6, 7])]
_LONGER_BEFORE: list[Row] = [
    (0, 1, [0]),
    (0, 2, [1]),
    (0, 3, [2]),
    (0, 4, [3]),
    (1, 2, [1, 2, 3, 4]),
    (1, 3, [5, 6, 7]),
]
_OLDER_FILE: list[Row] = [
    *((0, step, [step - 1]) for step in range(1, 7)),
    (1, 5, [4]),
    (1, 6, [5]),
    *((2, step, [step - 1, step]) for step in (3, 5, 7)),
]
_TWO_RANKS: list[Row] = [(0, 1, [0, 1]), (0, 1, [1, 2]), (0, 2, [3, 1]), (0, 2, [5, 5])]
_NO_STEP: list[Row] = [(0, 1, [0]), (0, 2, [1]), (0, 3, [2]), (2, 3, [2, 3]), (2, 4, [4])]
_CASES: tuple[tuple[str, list[Row], int], ...] = (
    ("a restart as it should be", _RESUMED, 8),
    ("a restart that takes samples again", _REPEATED, 8),
    ("a restart that leaves samples out", _SKIPPED, 8),
    ("two ranks that take sample 1 three times, and one that takes sample 5 twice in a step", _TWO_RANKS, 9),
    ("a second start that needs fewer steps than the first one had done", _LONGER_BEFORE, 8),
    ("a third start from an older checkpoint than the second's", _OLDER_FILE, 8),
    ("a run whose start 1 died before its first step", _NO_STEP, 8),
)
"""A name, the rows, and the number of samples."""


@check
def audit(learner: Audit) -> str:
    """Give it seven histories of 8 or 9 samples, in different orders of the rows, and compare both lists."""
    for name, rows, samples in _CASES:
        right = seen_samples.audit(rows, samples)
        mixed = [(start, step, list(taken)) for start, step, taken in sorted(rows, key=lambda row: str(row)[::-1])]
        for given in (rows, mixed, rows[::-1]):
            read: list[Row] = [(start, step, list(taken)) for start, step, taken in given]
            found = _pair(learner(read, samples))
            if read != given:
                raise Wrong(
                    "inputs_changed", "Afterwards the list of rows is a different one. An audit only reads: use a copy."
                )
            if unknown := {*found[0], *found[1]} - set(range(samples)):
                raise Wrong(
                    "no_such_sample",
                    f"For {name}, you name the sample {min(unknown)}; there are the samples 0 to {samples - 1}.",
                )
            _refuse_known_audits(name, given, samples, found, right)
            if found != right:
                raise Wrong(
                    "wrong_value",
                    f"For {name}, you find {found[0]} more than once and {found[1]} never. The rows (start, step, "
                    f"taken): {given}. Which of these steps are in the weights at the end?",
                )
    return f"{len(_CASES)} histories: a good restart, one that repeats, one that skips, four that are easy to misread."


def _pair(value: Any) -> tuple[list[int], list[int]]:
    """Return both lists sorted, or say what is wrong with their form."""
    try:
        twice, never = (numbers(item) for item in value)
    except (TypeError, ValueError):
        twice = never = None
    if twice is None or never is None:
        raise Wrong(
            "wrong_type", "Return two lists of sample numbers: those that are in more than once, and those never."
        )
    if len(set(twice)) < len(twice) or len(set(never)) < len(never):
        raise Wrong("listed_twice", "A sample stands in one of your lists several times. Each is listed once.")
    return sorted(map(int, twice)), sorted(map(int, never))


def _refuse_known_audits(name: str, rows: Sequence[Row], samples: int, found: tuple, right: tuple) -> None:
    if found == right:
        return
    if found == right[::-1]:
        raise Wrong("swapped", "Your two lists have changed places: first those more than once, then those never.")
    last = {step: max(start for start, other, _ in rows if other == step) for _, step, _ in rows}
    first = {start: min(step for other, step, _ in rows if other == start) for start, _, _ in rows}
    for symptom, kept, hint in (
        (
            "undone_counted",
            list(rows),
            "you count every row. What was done after the last checkpoint was lost with the crash: only the second "
            "time is in the weights.",
        ),
        (
            "first_step_counted",
            [row for row in rows if all(row[1] <= first[start] for start in first if start > row[0])],
            "you count the step with which a later start began twice: the first time is gone. Do you find the first "
            "step of a start in whatever order its rows come, and count only what lies before it?",
        ),
        (
            "last_start_of_a_step",
            [row for row in rows if row[0] == last[row[1]]],
            "you keep the last start of each step. Steps after the checkpoint are undone also where the next start "
            "never came to a step of that number.",
        ),
        (
            "next_start_only",
            [row for row in rows if row[1] < first.get(row[0] + 1, row[1] + 1)],
            "you count a step that a start after the next one has undone: later starts may go back further. Compare a "
            "step with every one of them.",
        ),
        (
            "last_start_only",
            [row for row in rows if row[0] == max(first)],
            "you count the last start alone. The steps before the checkpoint that it went on from are in the weights.",
        ),
        (
            "one_rank_of_a_step",
            list({row[1]: row for row in sorted(rows, key=lambda row: row[:2])}.values()),
            "you keep one row of each step. Each rank has a row of its own there.",
        ),
    ):
        counts = Counter(sample for _, _, taken in kept for sample in taken)
        once = sorted(n for n in counts if counts[n] > 1), [n for n in range(samples) if not counts[n]]
        if found == once and (symptom not in _SEEN_TWICE or found[0] != right[0]):
            raise Wrong(symptom, f"For {name}, {hint}")
    _refuse_half_right_audits(name, rows, samples, found, right)
    if found == tuple([n for n in numbers if n < 8] for numbers in right):
        raise Wrong(
            "samples_ignored",
            f"For {name}, there are {samples} samples: the last one is {samples - 1}, and you leave it out.",
        )


_SEEN_TWICE = ("undone_counted", "first_step_counted")
"""What shows in the first list, too, where an audit does it: in the first history."""


def _refuse_half_right_audits(name: str, rows: Sequence[Row], samples: int, found: tuple, right: tuple) -> None:
    """Refuse audits that keep the right rows and count them differently, or have one of the two lists right."""
    kept = [row for row in rows if all(row[1] < step for start, step, _ in rows if start > row[0])]
    in_a_step = {(step, sample) for _, step, taken in kept for sample in taken}
    counts = Counter(sample for _, sample in in_a_step)
    if found == (sorted(n for n in counts if counts[n] > 1), right[1]):
        raise Wrong(
            "once_per_step",
            f"For {name}, a sample that comes twice within a step is counted once.",
        )
    if found == (right[0], sorted(set(range(samples)) - {sample for _, _, taken in rows for sample in taken})):
        raise Wrong(
            "undone_is_seen",
            f"For {name}, your second list lacks a sample whose only step was lost with the crash. It was taken, and "
            "it is not in the weights.",
        )
    if 0 in right[1] and found == (right[0], right[1][1:]):
        raise Wrong("sample_0", f"For {name}, the samples are counted from 0, and you leave 0 out.")
    for place, word in ((0, "more than once"), (1, "never")):
        if found[place] == [] and right[place] and found[1 - place] == right[1 - place]:
            raise Wrong("half", f"For {name}, you find no sample {word}. There is one: look at each sample's count.")


Deal = Callable[[list[int], int, int, int], Sequence[int]]


@check
def deal(learner: Deal) -> str:
    """Deal the next step for one to five ranks, to the end of an epoch, and through changes of the number of ranks."""
    order = [(37 * place + 5) % 1280 for place in range(1280)]
    for ranks in (4, 2, 1, 3, 5):
        for done in (0, 640, 1248, 1280):
            _judge_step(learner, order, done, ranks)
    done = 0
    seen: list[int] = []
    for ranks in (4, 4, 2, 3, 1, *(5 for _ in range(20))):
        taken = [sample for rank in range(ranks) for sample in _part(learner, order, done, rank, ranks)]
        done, seen = done + len(taken), seen + taken
    if sorted(seen) != sorted(order):
        raise Wrong("wrong_value", f"An epoch on 4, 2, 3, 1 and 5 ranks took {len(set(seen))} of 1,280 samples.")
    return "One to five ranks, at the start, in the middle and at the end of an epoch: the next 64 samples, each once."


def _judge_step(learner: Deal, order: list[int], done: int, ranks: int) -> None:
    parts = [_part(learner, order, done, rank, ranks) for rank in range(ranks)]
    taken = [sample for part in parts for sample in part]
    right = order[done : done + BATCH]
    where = f"With {done} samples done, on {ranks} rank{'s' if ranks > 1 else ''}, "
    if sorted(taken) == sorted(right):
        sizes = [len(part) for part in parts]
        if max(sizes) - min(sizes) > 1:
            raise Wrong("uneven", f"{where}the ranks take {sizes} samples: the others wait for the largest part.")
        return
    if done == len(order):
        raise Wrong(
            "past_the_end", f"{where}the epoch is over, and you return samples. Return none: the loop ends then."
        )
    if not taken and len(right) < BATCH:
        raise Wrong(
            "short_step_left_out",
            f"{where}no rank takes a sample, and {len(right)} are left: the last step of an epoch may have fewer than "
            f"{BATCH}.",
        )
    if not taken:
        raise Wrong(
            "ends_early",
            f"{where}no rank takes a sample, and {len(order) - done} are left. `done` counts the samples of all ranks "
            "together: no batches, and not the samples of one rank.",
        )
    if len(set(taken)) < len(taken):
        raise Wrong(
            "overlap", f"{where}{len(taken) - len(set(taken))} samples are taken twice: by two ranks, or by one."
        )
    if set(taken) < set(right):
        lost = len(right) - len(taken)
        raise Wrong(
            "left_out", f"{where}{lost} of the next {len(right)} samples {'go' if lost > 1 else 'goes'} to no rank."
        )
    if sorted(taken) == list(range(done, done + len(right))):
        raise Wrong(
            "places_not_samples", f"{where}you return places of `order`, {taken[0]} first. Which samples stand there?"
        )
    if len(taken) > len(right):
        raise Wrong(
            "batch_grows",
            f"{where}a step takes {len(taken)} samples. All ranks together take the next {len(right)}: then "
            "the step is the same on every number of ranks.",
        )
    first = order.index(taken[0]) if taken and taken[0] in order else None
    raise Wrong(
        "wrong_place",
        f"{where}the ranks take {len(taken)} samples, and not the next {len(right)} of the order. Rank 0 begins at "
        f"place {first} of it; the step begins at place {done}.",
    )


def _part(learner: Deal, order: list[int], done: int, rank: int, ranks: int) -> list[int]:
    given = list(order)
    part = numbers(learner(given, done, rank, ranks))
    if part is None:
        raise Wrong("wrong_type", "Return a list of sample numbers, the part of this rank.")
    if given != order:
        raise Wrong("order_changed", "You change the list `order`, which the next step needs as it is.")
    return [int(sample) for sample in part]
