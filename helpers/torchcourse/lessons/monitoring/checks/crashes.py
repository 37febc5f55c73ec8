"""Checks of lesson 04, notebook 4: how often to save, what is in the weights, dealing on any number of ranks."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, numbers, refuse_known, result_of
from torchcourse.lessons.monitoring import seen_samples
from torchcourse.lessons.monitoring.crash_costs import daly_interval
from torchcourse.lessons.monitoring.save_interval import best_interval
from torchcourse.lessons.monitoring.seen_samples import BATCH, Row
from torchcourse.units import counted

Steps = Callable[[float, float, float, int], int]

_JOBS = ((30.0, 2.0, 6_000.0, 2048), (120.0, 0.5, 8_000.0, 64), (5.0, 0.25, 20_000.0, 1), (60.0, 3.0, 40_000.0, 500))
"""Seconds per save, seconds per step, hours between crashes of one machine, machines."""

_OFF_BY: dict[str, tuple[Callable[[float, int, float], tuple[float, ...]], str]] = {
    "machines_forgotten": (
        lambda step, machines, seconds: (machines**0.5,),
        "Your answer does not depend on the number of machines. The job stops when any of them does: with 2,048 "
        "machines, how long is it from one stop to the next?",
    ),
    "machines_multiplied": (
        lambda step, machines, seconds: (machines,),
        "With more machines you save less often. More machines crash more often, together.",
    ),
    "machines_outside": (
        lambda step, machines, seconds: (machines**-0.5,),
        "You divide the interval by the number of machines. The time between crashes becomes so much shorter.",
    ),
    "units": (
        lambda step, machines, seconds: (1 / 60, 60, 60**-0.5),
        "Your answers are off by a factor of 60, or of √60. In which units are the two times under the root?",
    ),
    "factor_two": (
        lambda step, machines, seconds: (2**0.5, 2**-0.5),
        "Your answers are off by a factor of √2. On average a crash comes in the middle of an interval: where does "
        "that put a 2?",
    ),
    "root_forgotten": (lambda step, machines, seconds: (seconds,), "Your answers are the squares of seconds."),
    "seconds": (
        lambda step, machines, seconds: (step,),
        "This is the interval in seconds. The question is after how many steps.",
    ),
    "step_multiplied": (
        lambda step, machines, seconds: (step**2,),
        "With longer steps you save after more of them. How many steps fit into the interval?",
    ),
    "save_in_steps": (
        lambda step, machines, seconds: (step**0.5,),
        "Under the root you mix steps and seconds. Compute the interval in seconds, and turn that into steps.",
    ),
}
"""Symptom → the factors by which this mistake is off, from the seconds of a step, the machines and the interval."""


@check
def steps_between_saves(learner: Steps) -> str:
    """Compare with Young's interval in steps, however it is rounded; Daly's further terms are right as well."""
    given = numbers(learner(*job) for job in _JOBS)
    if given is None:
        raise Wrong("wrong_type", "Return one number, how many steps there are from one save to the next.")
    between = [3600 * hours / machines for _, _, hours, machines in _JOBS]
    young = [best_interval(job[0], time) for job, time in zip(_JOBS, between, strict=True)]
    for symptom, (factors, hint) in _OFF_BY.items():
        wrong = [
            [factor * seconds / step for factor in factors(step, machines, seconds)]
            for (_, step, _, machines), seconds in zip(_JOBS, young, strict=True)
        ]
        if any(_near(given, answers) for answers in zip(*wrong, strict=True)):
            raise Wrong(symptom, hint)
    for answer, (save, step, hours, machines), time, seconds in zip(given, _JOBS, between, young, strict=True):
        rounded = 1 + 1 / step  # the steps, or the seconds before they became steps
        right = (seconds, seconds - save, daly_interval(save, time))
        if not any(abs(answer - each / step) <= rounded for each in right):
            raise Wrong(
                "wrong_value",
                f"A save of {save:g} s, steps of {step:g} s, {counted(machines, 'machine')} of {hours:,g} h from "
                f"crash to crash: you save after {answer:,g} step{'s' * (answer != 1)}. Compute √(2·C·M) by "
                "hand, with M of the whole job, in seconds.",
            )
    if any(answer != round(answer) for answer in given):
        raise Wrong("not_whole", f"A loop counts whole steps, and you return {given[0]!r}. Round it.")
    seldom = learner(1.0, 60.0, 1000.0, 100_000)
    if not 1 <= (number(seldom) or 0) <= 2:
        raise Wrong(
            "save_each_step",
            "A save of 1 s, steps of 60 s, 100,000 machines: each step is longer than the best interval of 8 s, and "
            f"you save after {seldom} steps. After at least how many steps can one save?",
        )
    return "Checked on four jobs, from 1 machine to 2,048, and on one where each step has to be saved."


def _near(given: Sequence[float], others: Sequence[float]) -> bool:
    """Whether all are the same to rounding up or down."""
    return all(abs(ours - other) <= 1 for ours, other in zip(given, others, strict=True))


Audit = Callable[[list[Row], int], tuple[Sequence[int], Sequence[int]]]

_RESUMED: list[Row] = [
    *((0, 1, [0, 1]), (0, 2, [2, 3]), (0, 3, [4, 5]), (0, 4, [6, 7])),
    *((1, 3, [4, 5]), (1, 4, [6, 7])),
]
_REPEATED: list[Row] = [(0, 1, [0, 1]), (0, 2, [2, 3]), (1, 3, [0, 3]), (1, 4, [3, 4]), (1, 5, [6, 7])]
_SKIPPED: list[Row] = [(0, 1, [1]), (0, 2, [2]), (1, 2, [4, 5]), (1, 3, [6, 7])]
_LONGER_BEFORE: list[Row] = [*((0, step, [step - 1]) for step in range(1, 5)), (1, 2, [1, 2, 3, 4]), (1, 3, [5, 6, 7])]
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
            found = _pair(result_of(learner, given, samples, what="the list of rows"))
            if found != right:
                _refuse_known_audits(f"For {name}, ", given, samples, found)
                raise Wrong(
                    "wrong_value",
                    f"For {name}, you find {found[0]} more than once and {found[1]} never. The samples are 0 to "
                    f"{samples - 1}, and a list names each of its samples once. The rows (start, step, taken): "
                    f"{given}. Which of these steps are in the weights at the end?",
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
    return sorted(map(int, twice)), sorted(map(int, never))


def _refuse_known_audits(where: str, rows: Sequence[Row], samples: int, found: tuple[list[int], list[int]]) -> None:
    def counted(kept: Iterable[Row], each: Callable[[Sequence[int]], Iterable[int]] = list) -> tuple:
        counts = Counter(sample for _, _, taken in kept for sample in each(taken))
        return sorted(n for n in counts if counts[n] > 1), [n for n in range(samples) if not counts[n]]

    last = {step: max(start for start, other, _ in rows if other == step) for _, step, _ in rows}
    first = {start: min(step for other, step, _ in rows if other == start) for start, _, _ in rows}
    kept = [row for row in rows if all(row[1] < first[start] for start in first if start > row[0])]
    steps: dict[int, set[int]] = {}
    for _, step, taken in kept:
        steps.setdefault(step, set()).update(taken)
    right, every_row = seen_samples.audit(rows, samples), counted(rows)
    known = {
        "swapped": (right[::-1], "your two lists have changed places: first those more than once, then those never."),
        "undone_counted": (
            AnyOf((every_row, (right[0], every_row[1]))),
            "you count rows that are undone. What was done after the last checkpoint was lost with the crash: it is in "
            "the weights only where a later start did it again.",
        ),
        "first_step_counted": (
            counted(row for row in rows if all(row[1] <= first[start] for start in first if start > row[0])),
            "you count the step with which a later start began twice: the first time is gone. Do you find the first "
            "step of a start in whatever order its rows come, and count only what lies before it?",
        ),
        "last_start_of_a_step": (
            counted(row for row in rows if row[0] == last[row[1]]),
            "you keep the last start of each step. Steps after the checkpoint are undone also where the next start "
            "never came to a step of that number.",
        ),
        "next_start_only": (
            counted(row for row in rows if row[1] < first.get(row[0] + 1, row[1] + 1)),
            "you count a step that a start after the next one has undone: later starts may go back further. Compare a "
            "step with every one of them.",
        ),
        "last_start_only": (
            counted(row for row in rows if row[0] == max(first)),
            "you count the last start alone. The steps before the checkpoint that it went on from are in the weights.",
        ),
        "one_rank_of_a_step": (
            counted({row[1]: row for row in sorted(rows, key=lambda row: row[:2])}.values()),
            "you keep one row of each step. Each rank has a row of its own there.",
        ),
        "once_per_step": (
            AnyOf((counted(kept, set), counted((0, step, list(taken)) for step, taken in steps.items()))),
            "a sample that comes twice within a step is counted once.",
        ),
    }
    refuse_known(found, known, where=where)


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
    if not taken:
        raise Wrong(
            "ends_early",
            f"{where}no rank takes a sample, and {len(order) - done} are left. `done` counts the samples of all ranks "
            f"together: no batches, and not the samples of one rank. The last step may have fewer than {BATCH}.",
        )
    if len(set(taken)) < len(taken):
        twice = len(taken) - len(set(taken))
        raise Wrong("overlap", f"{where}{twice} samples are taken twice: by two ranks, or by one.")
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
    read = list(order)  # and no `result_of`, which takes its time over 1,280 numbers
    part = numbers(learner(read, done, rank, ranks))
    if part is None:
        raise Wrong("wrong_type", "Return a list of sample numbers, the part of this rank.")
    if read != order:
        raise Wrong("inputs_changed", "Your function changed the list `order`, which the next step needs as it is.")
    return [int(sample) for sample in part]
