"""Checks of lesson 04, notebook 1: logging at an interval, reading back, the price of looking, one writer.

In the notebook's order: `log_means`, `turning_step`, `look_every`, `log_epoch`.
"""

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from torchcourse.checks import Wrong, check
from torchcourse.lessons.monitoring.count_waits import CountWaits
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
from torchcourse.training.events import read_scalars
from torchcourse.training.monitor import Monitor

TIME_LIMIT = 10.0  # seconds for one call; healthy ranks need a fraction of one

Write = Callable[[int, float], None]


@check
def log_means(learner: Callable[[Iterable[torch.Tensor], int, Write], None]) -> str:
    """Let the learner log losses whose means are known, and count what was turned into a number."""
    for count, every in ((12, 4), (10, 4), (7, 1), (3, 5)):
        losses = [float((3 * step) % 7 + step) for step in range(1, count + 1)]
        written, waits, alive = _logged(learner, losses, every)
        steps = [*range(every, count + 1, every)] + ([count] if count % every else [])
        groups = [losses[start : start + every] for start in range(0, count, every)]
        right = list(zip(steps, (sum(group) / len(group) for group in groups), strict=True))
        if not _same(written, right):
            _judge_log(written, right, losses, every)
        if waits > 2 * len(right):
            raise Wrong(
                "waits_each_step",
                f"The values are right, but for {count} steps and {len(right)} written values you turned a tensor into "
                f"a number {waits} times. On a GPU each of them waits for the device. Keep tensors until one is due.",
            )
        if alive:
            raise Wrong(
                "keeps_the_graph",
                "The values are right, but the losses that you keep still hold the graphs of their steps: with a real "
                "network the memory would grow from step to step. What cuts a tensor off its graph?",
            )
    return "Means at the right steps, the rest included, and no more waiting than values: checked on 4 runs."


@check
def turning_step(learner: Callable[[Path], int | None]) -> str:
    """Compare on runs whose validation loss turns, falls to the end, is noisy, or begins at its lowest."""
    curves = {
        "a curve that turns": ([100, 200, 300, 400, 500], [1.0, 0.7, 0.5, 0.6, 0.9], 300),
        "a curve that still falls at the end": ([10, 20, 30], [0.9, 0.8, 0.7], None),
        "a noisy curve": ([5, 10, 15, 20, 25, 30], [1.0, 0.8, 0.85, 0.6, 0.7, 0.75], 20),
        "a curve that only rises": ([50, 100, 150], [0.4, 0.5, 0.6], 50),
        "one value": ([40], [0.5], None),
    }
    for name, (steps, losses, right) in curves.items():
        with tempfile.TemporaryDirectory() as folder:
            _write_curves(Path(folder), steps, losses)
            given = learner(Path(folder))
        given = given.item() if isinstance(given, torch.Tensor) else given
        if given == right and (given is None) == (right is None):
            continue
        _judge_turn(name, given, right, steps, losses)
    return "Found where validation turns, on curves that turn, fall, rise and jump."


@check
def look_every(learner: Callable[[float, float, float], int]) -> str:
    """Compare with the smallest interval that keeps within the budget."""
    for look, step, budget in (
        (0.010, 0.020, 0.01),
        (0.003, 0.004, 0.02),
        (0.5, 0.3, 0.05),
        (0.001, 1.0, 0.01),
        (0.0, 0.1, 0.01),
    ):
        right = max(1, math.ceil(look / (step * budget) - 1e-9))
        given = learner(look, step, budget)
        where = f"For a look of {look:g} s, a step of {step:g} s and a budget of {budget:.0%}"
        if not isinstance(given, int) or isinstance(given, bool):
            raise Wrong("no_whole_number", f"{where} you return {given!r}. An interval is a whole number of steps.")
        if given == right:
            continue
        if given < 1:
            raise Wrong("below_one", f"{where} you return {given}. A Trainer cannot look more often than every step.")
        if given == max(1, math.floor(look / (step * budget) + 1e-9)) or given == round(look / (step * budget)):
            spent = look / (given * step)
            raise Wrong("rounded_down", f"{where} you return {given}: looking takes {spent:.2%} then. Over the budget.")
        if given == max(1, math.ceil(look / (step * budget * 100) - 1e-9)):
            raise Wrong("budget_in_percent", f"{where} you return {given}. The budget is a share: 1 % is 0.01.")
        if given == max(1, math.ceil(step / (look * budget) - 1e-9) if look else 1):
            raise Wrong("upside_down", f"{where} you return {given}. A dearer look should be taken more seldom.")
        if given > right:
            raise Wrong("too_seldom", f"{where} you return {given}, but every {right} steps would still be within it.")
        raise Wrong("over_budget", f"{where} you return {given}: looking takes {look / (given * step):.2%} then.")
    return "The smallest interval within the budget, never below one step: checked on 5 prices."


@check
def log_epoch(learner: Callable[[Path, int, int, int], None]) -> str:
    """Let two and three ranks log uneven shares, and read what is in the folder afterwards."""
    for shares in ([(90, 100), (5, 20)], [(10, 10), (0, 30), (7, 20)]):
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_ranks(_log_two_epochs, learner, Path(folder), shares, world_size=len(shares), timeout=TIME_LIMIT)
            except RankError as error:
                if not isinstance(error, RankTimeout) and not error.left_alone:
                    raise
                raise Wrong(
                    "hang",
                    "A rank waited for others that never came. Adding up needs all ranks, "
                    "writing only one: which of your lines stand inside the if?",
                ) from None
            _judge_epochs(Path(folder), shares)
    return "One writer, and the accuracy of all samples of all ranks: checked on 2 and 3 ranks with uneven shares."


# log_means


def _logged(learner: Callable, losses: list[float], every: int) -> tuple[list[tuple[int, float]], int, bool]:
    """Return what was written, how often a tensor became a number, and whether graphs of past steps were kept."""
    written: list[tuple[int, float]] = []
    inputs: list[weakref.ref] = []  # of the graphs: an input lives as long as a graph that leads to it
    most_alive = 0

    def steps() -> Iterator[torch.Tensor]:
        nonlocal most_alive
        for loss in losses:
            leaf = torch.tensor(loss / 2, requires_grad=True)
            inputs.append(weakref.ref(leaf))
            result = leaf * 2
            del leaf
            yield result
            del result
            most_alive = max(most_alive, sum(one() is not None for one in inputs))

    with CountWaits() as waits:
        learner(steps(), every, lambda step, value: written.append((step, value)))
        counted = waits.count
    return [(int(step), float(value)) for step, value in written], counted, most_alive > 2


def _same(written: list[tuple[int, float]], right: list[tuple[int, float]]) -> bool:
    return [step for step, _ in written] == [step for step, _ in right] and all(
        math.isclose(value, mean, rel_tol=1e-5) for (_, value), (_, mean) in zip(written, right, strict=True)
    )


def _judge_log(
    written: list[tuple[int, float]], right: list[tuple[int, float]], losses: list[float], every: int
) -> None:
    where = f"With {len(losses)} losses and a value every {every} steps"
    steps, due = [step for step, _ in written], [step for step, _ in right]
    if not written:
        raise Wrong("nothing_written", f"{where}, nothing was written. Call write(step, value).")
    if steps == due[:-1] and len(losses) % every:
        raise Wrong("rest", f"{where}, the last {len(losses) % every} losses never show up in the log.")
    if steps == [step - 1 for step in due] or steps[0] == 0:
        raise Wrong("counts_from_0", f"{where}, you wrote at steps {steps}. The first step is step 1.")
    if steps != due:
        raise Wrong("steps", f"{where}, you wrote at steps {steps}; due are {due}.")
    values = [value for _, value in written]

    def like(others: list[float]) -> bool:
        return all(math.isclose(value, other, rel_tol=1e-5) for value, other in zip(values, others, strict=True))

    if like([losses[step - 1] for step in due]):
        raise Wrong("last_not_mean", f"{where}, you wrote the loss of one batch. It jumps: what of the ones between?")
    if like([sum(losses[:step]) / step for step in due]):
        raise Wrong(
            "mean_since_start",
            f"{where}, each value is the mean since the first step. Such a curve hides what happens late in a run: "
            "begin anew after each value.",
        )
    if like([mean * every for _, mean in right]) or like([sum(losses[:step]) for step in due]):
        raise Wrong("sum_not_mean", f"{where}, the values are sums. What turns a sum into a mean?")
    if like([mean * min(every, step - last) / every for (step, mean), last in zip(right, [0, *due], strict=False)]):
        raise Wrong("rest_divided", f"{where}, the last value is too small: how many losses are in the rest?")
    raise Wrong("wrong_value", f"{where}, you wrote {written}, and due was {right}.")


# turning_step


def _write_curves(folder: Path, steps: list[int], losses: list[float]) -> None:
    """Write a validation curve, and beside it a training loss that falls to the end, twice as often."""
    with Monitor(folder) as board:
        for number, (step, loss) in enumerate(zip(steps, losses, strict=True)):
            board.scalars(step - 2, {"loss/train": 1.5 / (number + 1)})
            board.scalars(step, {"loss/train": 1.4 / (number + 1), "loss/val": loss})


def _judge_turn(name: str, given: int | None, right: int | None, steps: list[int], losses: list[float]) -> None:
    at = f"For {name}, {losses} at steps {steps},"
    lowest = losses.index(min(losses))
    rises = [steps[place] for place in range(len(losses) - 1) if losses[place + 1] > losses[place]]
    if right is None:
        raise Wrong("turns_at_the_end", f"{at} you return {given}. The lowest is the last: it has not turned yet.")
    if isinstance(given, float) and not given.is_integer():
        raise Wrong("value_not_step", f"{at} you return {given}, a loss. Asked for is the step.")
    if given in (lowest, lowest + 1):
        raise Wrong("place_not_step", f"{at} you return {given}: the place in the list. Which step is there?")
    if given in (steps[-1], max(read - 2 for read in steps)):
        raise Wrong("training_curve", f"{at} you return {given}, the lowest *training* loss. That one always falls.")
    if rises and given in (rises[0], steps[steps.index(rises[0]) + 1]):
        raise Wrong("first_rise", f"{at} you return {given}, where it rose for the first time. It fell again later.")
    raise Wrong("wrong_step", f"{at} you return {given!r}. Where is the lowest value?")


# log_epoch


def _log_two_epochs(learner: Callable, folder: Path, shares: list[tuple[int, int]]) -> None:
    correct, seen = shares[dist.get_rank()]
    for epoch in (1, 2):
        learner(folder, epoch, correct // epoch, seen)
        dist.barrier()


def _judge_epochs(folder: Path, shares: list[tuple[int, int]]) -> None:
    files = [file.name for file in folder.iterdir()] if folder.exists() else []
    if not files:
        raise Wrong("no_writer", "No rank wrote anything. Which rank is the one that writes?")
    writers = {name.split(".")[-2] for name in files}  # a file's name holds the process that wrote it
    if len(writers) > 1:
        raise Wrong(
            "several_writers",
            f"{len(writers)} processes wrote into one folder. TensorBoard takes them for one run and joins the points.",
        )
    series = read_scalars(folder).get("accuracy/val")
    if series is None:
        raise Wrong("tag", f"There is no accuracy/val in the log, but {', '.join(read_scalars(folder)) or 'nothing'}.")
    steps, values = series
    if steps != [1, 2]:
        raise Wrong("steps", f"After epochs 1 and 2 the log has accuracy/val at {steps}.")
    for epoch, value in zip(steps, values, strict=True):
        counts = [(correct // epoch, seen) for correct, seen in shares]
        right = sum(correct for correct, _ in counts) / sum(seen for _, seen in counts)
        if math.isclose(value, right, rel_tol=1e-5):
            continue
        at = f"With {', '.join(f'{correct} of {seen}' for correct, seen in counts)} right, you log {value:.4g}."
        ranks = len(counts)
        if math.isclose(value, sum(correct / seen for correct, seen in counts) / ranks, rel_tol=1e-5):
            raise Wrong(
                "mean_of_means", f"{at} That is the mean of the ranks' accuracies: few samples count like many."
            )
        if any(math.isclose(value, correct / seen, rel_tol=1e-5) for correct, seen in counts):
            raise Wrong("own_share", f"{at} That is what one rank saw. The others' samples are missing.")
        if math.isclose(value, sum(correct for correct, _ in counts), rel_tol=1e-5):
            raise Wrong("count_not_share", f"{at} That is how many were right. Of how many?")
        if any(math.isclose(value, sum(c for c, _ in counts) / seen, rel_tol=1e-5) for _, seen in counts):
            raise Wrong("own_total", f"{at} The right ones are those of all ranks, the total is one rank's.")
        if math.isclose(value, sum(correct / seen for correct, seen in counts), rel_tol=1e-5):
            raise Wrong("sum_of_means", f"{at} An accuracy cannot be above 1: you added the ranks' accuracies.")
        raise Wrong("wrong_value", f"{at} Of all {sum(seen for _, seen in counts)} samples, how many were right?")
