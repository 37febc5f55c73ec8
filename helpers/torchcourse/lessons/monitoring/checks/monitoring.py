"""Checks of lesson 04, notebook 1, monitoring: logging at an interval, reading back, the price of looks, one writer."""

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, on_ranks, refuse_formula, refuse_known, same, whole
from torchcourse.lessons.monitoring.count_waits import CountWaits
from torchcourse.training import event_files
from torchcourse.training.events import read_scalars
from torchcourse.training.monitor import Monitor

Write = Callable[[int, float], None]
Written = list[tuple[int, float]]


@check
def log_means(learner: Callable[[Iterable[torch.Tensor], int, Write], None]) -> str:
    """Let the learner log losses whose means are known, and count what was turned into a number."""
    for count, every in ((12, 4), (10, 4), (7, 1), (3, 5)):
        losses = [float((3 * step) % 7 + step) for step in range(1, count + 1)]
        written, taken, waits, alive = _logged(learner, losses, every)
        steps = [*range(every, count + 1, every)] + ([count] if count % every else [])
        groups = [losses[start : start + every] for start in range(0, count, every)]
        right = list(zip(steps, (sum(group) / len(group) for group in groups), strict=True))
        _judge_log(written, right, losses, every)
        late = [(step, at) for (step, _), at in zip(written, taken, strict=True) if at > step + 1]
        if late:
            raise Wrong(
                "written_late",
                f"The values are right, but that of step {late[0][0]} was written after the loss of step {late[0][1]} "
                "was taken. A run that dies would leave an empty log: write each value when it is due.",
            )
        if waits > 2 * len(right):
            raise Wrong(
                "waits_each_step",
                f"The values are right, but for {count} steps and {len(right)} written values {waits} times you "
                "turned a tensor into a number or took it to the CPU. On a GPU each of them waits for the device. Keep "
                "tensors where they are until a value is due.",
            )
        if alive:
            raise Wrong(
                "keeps_the_graph",
                "The values are right, but the losses that you keep still hold the graphs of their steps: with a real "
                "network the memory would grow from step to step. What cuts a tensor off its graph?",
            )
    return "Means at the right steps, the rest included, and no more waiting than values: checked on 4 runs."


def _logged(learner: Callable, losses: list[float], every: int) -> tuple[Written, list[int], int, bool]:
    """Return what was written, and how many losses were taken by then; how often a tensor became a number; and whether
    graphs of past steps were kept."""
    written: Written = []
    taken: list[int] = []
    given: list[torch.Tensor] = []  # the memory of the losses, without their graphs
    inputs: list[weakref.ref] = []  # of the graphs: an input lives as long as a graph that leads to it
    most_alive = 0

    def steps() -> Iterator[torch.Tensor]:
        nonlocal most_alive
        for loss in losses:
            if not torch.is_grad_enabled():
                raise Wrong(
                    "steps_without_gradients",
                    "Your loop takes the losses while gradients are switched off. The training step that makes a loss "
                    "runs inside your loop, so its loss gets no graph, and its backward() fails. Switch gradients off "
                    "around your own arithmetic alone, or take a tensor without a past.",
                )
            leaf = torch.tensor(loss / 2, requires_grad=True)
            inputs.append(weakref.ref(leaf))
            result = leaf * 2
            given.append(result.detach())
            del leaf
            yield result
            if result.grad_fn is None:
                raise Wrong(
                    "graph_cut",
                    "A loss that you were given has lost its graph: the training step that it came from cannot call "
                    "backward() any more. Take a tensor without a past beside it, and leave the loss as it is.",
                )
            del result
            most_alive = max(most_alive, sum(one() is not None for one in inputs))

    def write(step: int, value: float) -> None:
        written.append((step, value))
        taken.append(len(inputs))

    with CountWaits() as waits:
        learner(steps(), every, write)
        counted = waits.count
    if [loss.item() for loss in given] != losses[: len(given)]:
        raise Wrong(
            "inputs_changed",
            f"The losses that you were given have changed: {[loss.item() for loss in given]} were {losses}. "
            "`detach()` shares its memory with the loss, so a `+=` on it changes both.",
        )
    return written, taken, counted, most_alive > 2


def _judge_log(written: Written, right: Written, losses: list[float], every: int) -> None:
    if same(written, right, tolerance=1e-5):
        return
    where = f"With {len(losses)} losses and a value every {every} steps, "
    due = [step for step, _ in right]
    if same([(value, step) for step, value in written], right, tolerance=1e-5):
        raise Wrong("arguments_swapped", f"{where}you call write(mean, step). It takes the step first.")
    _judge_steps([step for step, _ in written], due, len(losses) % every, where)
    sums = [sum(losses[:step]) for step in due]
    sizes = [step - last for step, last in zip(due, [0, *due], strict=False)]
    known = {
        "last_not_mean": (
            [losses[step - 1] for step in due],
            "you wrote the loss of one batch. It jumps: what about the losses since the last value?",
        ),
        "mean_since_start": (
            [total / step for total, step in zip(sums, due, strict=True)],
            "each value is the mean since the first step. Such a curve hides what happens late in a run: begin again "
            "after each value.",
        ),
        "sum_not_mean": (
            AnyOf(([mean * every for _, mean in right], sums)),
            "the values are sums. What turns a sum into a mean?",
        ),
        "rest_divided": (
            [mean * size / every for (_, mean), size in zip(right, sizes, strict=True)],
            "the last value is too small: how many losses are in the rest?",
        ),
    }
    refuse_known([value for _, value in written], known, tolerance=1e-5, where=where)
    raise Wrong("wrong_value", f"{where}you wrote {written}, and due was {right}.")


def _judge_steps(steps: list[int], due: list[int], rest: int, where: str) -> None:
    if not steps:
        raise Wrong("nothing_written", f"{where}nothing was written. Call write(step, value).")
    if rest and steps == due[:-1]:
        raise Wrong("rest", f"{where}the last {rest} losses never show up in the log.")
    if steps == [step - 1 for step in due] or steps[0] == 0:
        raise Wrong("counts_from_0", f"{where}you wrote at steps {steps}. The first step is step 1.")
    if steps != due:
        raise Wrong("steps", f"{where}you wrote at steps {steps}; due are {due}.")


@check
def turning_step(learner: Callable[[Path], int | None]) -> str:
    """Compare on runs whose validation loss turns, falls to the end, is noisy, uneven, or begins at its lowest."""
    curves: dict[str, tuple[list[int], list[float], int | None]] = {
        "a curve that turns": ([100, 200, 300, 400, 500], [1.0, 0.7, 0.5, 0.6, 0.9], 300),
        "a curve that still falls at the end": ([10, 20, 30], [0.9, 0.8, 0.7], None),
        "a noisy curve": ([5, 10, 15, 20, 25, 30], [1.0, 0.8, 0.85, 0.6, 0.7, 0.75], 20),
        "a curve that only rises": ([0, 100, 200], [0.4, 0.5, 0.6], 0),
        "a curve looked at ever more seldom": ([20, 40, 70, 150, 400], [2.9, 2.6, 2.5004, 2.5001, 2.52], 150),
        "one value": ([40], [0.5], None),
    }
    for name, (steps, losses, right) in curves.items():
        with tempfile.TemporaryDirectory() as folder:
            _write_curves(Path(folder), steps, losses)
            given = learner(Path(folder))
        given = given.item() if isinstance(given, torch.Tensor) else given
        if not same(given, right):
            _refuse_turn(name, given, right, steps, losses)
    return "Found where validation turns, on curves that turn, fall, rise and jump."


def _write_curves(folder: Path, steps: list[int], losses: list[float]) -> None:
    """Write a validation curve, and beside it a training loss that falls to the end, twice as often."""
    with Monitor(folder) as board:
        for number, (step, loss) in enumerate(zip(steps, losses, strict=True)):
            board.scalars(max(step - 2, 0), {"loss/train": 1.5 / (number + 1)})
            board.scalars(step, {"loss/train": 1.4 / (number + 1), "loss/val": loss})


def _refuse_turn(name: str, given: Any, right: int | None, steps: list[int], losses: list[float]) -> None:
    where = f"For {name}, {losses} at steps {steps}, you return {given!r}"
    if right is None:
        raise Wrong("turns_at_the_end", f"{where}. The lowest is the last: it has not turned yet, and None says so.")
    if given is None and right == 0:
        raise Wrong("step_0", f"{where}. The lowest is at step 0: is a 0 taken for nothing on the way?")
    if given is None:
        raise Wrong(
            "no_turn",
            f"{where}, which says that the lowest is the last. It is not. Do you read loss/val, and return the step?",
        )
    if isinstance(given, float) and any(same(given, loss, tolerance=1e-5) for loss in losses):
        raise Wrong("value_not_step", f"{where}, a loss. Asked for is the step.")
    if number(given) is None or isinstance(given, bool):
        raise Wrong("wrong_type", f"{where}, of type {type(given).__name__}. A step is a number.")
    lowest = losses.index(min(losses))
    rise = next((place for place in range(1, len(losses)) if losses[place] > losses[place - 1]), 0)
    falls_again = min(losses[rise:]) < losses[rise - 1]
    known = {
        "place_not_step": (AnyOf((lowest, lowest + 1)), ": the place in the list. Which step is there?"),
        "training_curve": (AnyOf((steps[-1], steps[-1] - 2)), ", the lowest *training* loss. That one always falls."),
        "first_rise": (
            AnyOf(steps[place] for place in (rise - 1, rise) if falls_again),
            ", where it rose for the first time. It fell again later.",
        ),
    }
    refuse_known(given, known, where=where)
    if given not in steps:
        raise Wrong("no_step_of_it", f"{where}: nothing was written there. The steps need not be equally far apart.")
    raise Wrong("wrong_step", f"{where}. Where is the lowest value?")


@check
def look_every(learner: Callable[[float, float, float], int]) -> str:
    """Compare with the smallest interval that keeps within the budget."""
    for prices in (_PRICES, _FREE):  # what divides by the price of a look gets the hint of its formula first
        given = []
        for look, step, budget in prices:
            answer = learner(look, step, budget)
            interval = whole(answer)
            if interval is None:
                where = _price(look, step, budget)
                raise Wrong("no_whole_number", f"{where} {answer!r}. Return a whole number of steps, of type int.")
            given.append(interval)
        if given != [_interval(*price) for price in prices]:
            refuse_formula(given, prices, _INTERVAL_MISTAKES)
            for interval, price in zip(given, prices, strict=True):
                _judge_interval(interval, *price)
    return "The smallest interval within the budget, never below one step: checked on 7 prices."


_PRICES = [
    (0.010, 0.020, 0.01),
    (0.003, 0.004, 0.02),
    (0.5, 0.3, 0.05),
    (0.001, 1.0, 0.01),
    (2.0, 0.01, 0.05),
    (0.0004, 0.0013, 0.02),
]
_FREE = [(0.0, 0.1, 0.01)]
"""Seconds of a look and of a step, and the budget."""


def _price(look: float, step: float, budget: float) -> str:
    return f"For a look of {look:g} s, a step of {step:g} s and a budget of {budget:.0%} you return"


def _rounded_up(interval: float) -> int:
    return max(1, math.ceil(interval - 1e-9))


def _interval(look: float, step: float, budget: float) -> int:
    return _rounded_up(look / (step * budget))


_INTERVAL_MISTAKES: dict[str, tuple[list[Callable[..., float]], str]] = {
    "rounded_down": (
        [
            lambda look, step, budget: max(1, math.floor(look / (step * budget) + 1e-9)),
            lambda look, step, budget: max(1, round(look / (step * budget))),
        ],
        "You round to the nearest whole number, or down: where that is down, looking takes more than the budget.",
    ),
    "budget_in_percent": (
        [
            lambda look, step, budget: _rounded_up(look / (step * budget * 100)),
            lambda look, step, budget: _rounded_up(look / (step * budget / 100)),
        ],
        "The budget is a share: 1% is 0.01.",
    ),
    "budget_forgotten": ([lambda look, step, budget: _rounded_up(look / step)], "Your interval leaves the budget out."),
    "budget_times": (
        [lambda look, step, budget: _rounded_up(look / step * budget)],
        "Your interval grows with the budget. A larger budget allows more looks.",
    ),
    "share_of_all": (
        [lambda look, step, budget: _rounded_up(look * (1 - budget) / (step * budget))],
        "You take the share of training and looking together. Asked for is the share of the training alone.",
    ),
    "upside_down": (
        [
            lambda look, step, budget: _rounded_up(step / (look * budget)) if look else 1,
            lambda look, step, budget: _rounded_up(step * budget / look) if look else 1,
        ],
        "The longer a look takes, the more seldom it should be taken. Yours is taken more often.",
    ),
}


def _judge_interval(given: int, look: float, step: float, budget: float) -> None:
    where, right = f"{_price(look, step, budget)} {given}", _interval(look, step, budget)
    if given == right:
        return
    if given < 1:
        raise Wrong("below_one", f"{where}. A Trainer cannot look more often than every step.")
    if given > right:
        raise Wrong("too_seldom", f"{where}, but every {right} steps would still be within it.")
    raise Wrong("over_budget", f"{where}: looking takes {look / (given * step):.2%} then.")


TIME_LIMIT = 20.0  # seconds for one call; healthy ranks need a fraction of one


@check
def log_epoch(learner: Callable[[Path, int, int, int], None]) -> str:
    """Let two and three ranks log uneven shares, and one alone; read what is in the folder afterwards."""
    hang = (
        "A rank waited for others that never came. Adding up needs all ranks, writing only one: which of your lines "
        "may be inside the if?"
    )
    for shares in ([(90, 100), (5, 20)], [(1003, 1003), (0, 3001), (703, 2003)], [(7, 9)]):
        with tempfile.TemporaryDirectory() as folder:
            on_ranks(
                _log_two_epochs,
                learner,
                Path(folder),
                shares,
                world_size=len(shares),
                seconds=TIME_LIMIT,
                hang=hang,
                left_alone=None,
                known={"ZeroDivisionError": ("empty_rank", "Rank {rank} had no samples. Add up first, then divide.")},
            )
            for epoch, value in _accuracies(Path(folder), len(shares)):
                _judge_accuracy(value, _counts(shares, epoch))
    return "One writer, and the accuracy of all samples of all ranks: checked on 1, 2 and 3 ranks."


def _counts(shares: list[tuple[int, int]], epoch: int) -> list[tuple[int, int]]:
    """The right ones and all samples of each rank in an epoch; the last of three ranks has none in the second."""
    return [(0, 0) if (rank, epoch) == (2, 2) else (right // epoch, seen) for rank, (right, seen) in enumerate(shares)]


def _log_two_epochs(learner: Callable, folder: Path, shares: list[tuple[int, int]]) -> None:
    for epoch in (1, 2):
        learner(folder, epoch, *_counts(shares, epoch)[dist.get_rank()])
        dist.barrier()


def _accuracies(folder: Path, ranks: int) -> Iterator[tuple[int, float]]:
    """Yield each epoch and its accuracy from the log; refuse a log with no writer, several, or other tags and steps."""
    found = list(folder.iterdir()) if folder.exists() else []
    if folders := [one.name for one in found if one.is_dir()]:
        raise Wrong(
            "subfolders", f"The log is in folders of its own, {', '.join(sorted(folders))}. Write into the one given."
        )
    if not found:
        found_out = "With one rank, it wrote nothing." if ranks == 1 else "No rank wrote anything."
        raise Wrong("no_writer", f"{found_out} Which rank is the one that writes?")
    writers = {event_files.writer(file.name) for file in found}
    if len(writers) > 1:
        raise Wrong(
            "several_writers",
            f"{len(writers)} processes wrote into one folder. TensorBoard takes them for one run and joins the points.",
        )
    log = read_scalars(folder, every=True)
    if "accuracy/val" not in log:
        raise Wrong("tag", f"There is no accuracy/val in the log, but {', '.join(log) or 'nothing'}.")
    steps, values = log["accuracy/val"]
    if steps != [1, 2]:
        raise Wrong("steps", f"After epochs 1 and 2 the log has accuracy/val at {steps}. Each epoch has one value.")
    yield from zip(steps, values, strict=True)


def _judge_accuracy(value: float, counts: list[tuple[int, int]]) -> None:
    """Compare with the share of all samples; `counts` are the right ones and all of them, for each rank."""
    correct, seen = sum(right for right, _ in counts), sum(count for _, count in counts)
    if same(value, correct / seen, tolerance=1e-5):
        return
    where = f"With {', '.join(f'{right} of {count}' for right, count in counts)} right, you log {value:.4g}. "
    shares = [right / count for right, count in counts if count]
    known = {
        "mean_of_means": (
            sum(shares) / len(shares),
            "That is the mean of the ranks' accuracies: few samples count like many.",
        ),
        "own_share": (AnyOf(shares), "That is what one rank saw. The others' samples are missing."),
        "count_not_share": (correct, "That is how many were right. Of how many?"),
        "own_total": (
            AnyOf(correct / count for _, count in counts if count),
            "The right ones are those of all ranks, the total is one rank's.",
        ),
        "percent": (100 * correct / seen, "That is in percent. The tag holds a share, from 0 to 1."),
        "sum_of_means": (sum(shares), "An accuracy cannot be above 1: you added the ranks' accuracies."),
    }
    refuse_known(value, known, tolerance=1e-5, where=where)
    if same(value, correct / seen, tolerance=0.02):
        raise Wrong(
            "rounded",
            f"{where}Right is {correct / seen:.6g}: something is rounded on the way. Which type of numbers holds such "
            "counts exactly?",
        )
    raise Wrong("wrong_value", f"{where}Of all {seen} samples, how many were right?")
