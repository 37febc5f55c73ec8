"""Invariants of what stands beside the model: averages, adversaries, replicas. Each rule yields alarms."""

from collections.abc import Iterator

from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

UPDATES_AT_LEAST, STEPS_AT_LEAST = 8, 5
FOLLOWS = 0.11  # of a weight's way from one update to the next, that is left between it and its average
OPPOSITE = -0.2  # cosine of two gradients
APART = 1e-3  # of the weights' size
TIMES_AT_LEAST, UPDATES_EACH = 2, 4  # that an average took the weights' place, and its updates for each time


def averages(run: WatchedRun) -> Iterator[Alarm]:
    """An average of the weights is of many steps."""
    left = sorted(run.beside.left.values())
    if len(left) >= UPDATES_AT_LEAST and left[-1] < FOLLOWS:
        yield Alarm(
            "average_follows",
            f"After each of {len(left)} updates, what is averaged from the weights was nearly the weights themselves: "
            f"of their last way it lay at most {left[-1]:.1%} behind. Are decay and 1 - decay swapped?",
        )


def put_back(run: WatchedRun) -> Iterator[Alarm]:
    """Weights that make room for their average while validating are put back."""
    beside, validated = run.beside, {seen.step for seen in run.evaluated}
    times = len(beside.overwritten)
    often = times >= TIMES_AT_LEAST and len(beside.averaged) >= UPDATES_EACH * times
    if often and beside.overwritten <= validated:
        yield Alarm(
            "average_left_in",
            f"{times} times the weights were kept, their average took their place, the model was evaluated, and the "
            "training went on from the average. Put the trained weights back after the validation.",
        )


def teachers(run: WatchedRun) -> Iterator[Alarm]:
    """A network that only teaches, and learns nothing itself, is in evaluation mode."""
    found, own = run.teachers, {parameter.shape for parameter in run.model.parameters()}
    still = not found.changed and not found.repeated and not found.shapes <= own  # no average, no copy, no ensemble
    if len(found.taught) >= STEPS_AT_LEAST and still:
        yield Alarm(
            "teacher_in_training",
            f"In {len(found.taught)} steps the target came out of a second network whose weights did not change, and "
            f"which {next(iter(found.taught.values()))}, as in training. Call eval() on a teacher.",
        )


def parameters_of_losses(run: WatchedRun) -> Iterator[Alarm]:
    """A parameter of the loss is in an optimizer."""
    for shape, steps in run.beside.loose(run.owned):
        if steps >= STEPS_AT_LEAST:
            yield Alarm(
                "loss_never_learns",
                f"The loss has a parameter of shape {shape} that got gradients in {steps} steps and never changed: no "
                "optimizer has it. Give the optimizer the parameters of the loss too.",
            )
            return


def adversaries(run: WatchedRun) -> Iterator[Alarm]:
    """A step does not use a gradient of the adversary's loss."""
    against = sorted(run.beside.against)
    if len(against) >= STEPS_AT_LEAST and against[int(0.9 * (len(against) - 1))] < OPPOSITE:
        yield Alarm(
            "adversary_kept",
            f"{len(against)} times gradients were there when a different optimizer stepped, stayed there, and got "
            f"others added that point against them (cosine {against[len(against) // 2]:.2f}). Are they those of an "
            "adversary's loss? Detach what the adversary gets, or call zero_grad() before backward().",
        )


def replicas(run: WatchedRun) -> Iterator[Alarm]:
    """Models that step with the same gradients have the same weights."""
    steps, far = run.beside.apart()
    if steps >= 3 and far > APART:
        yield Alarm(
            "replicas_apart",
            f"A second model had the very gradients of this one in {steps} steps, and its weights are {far:.1%} of "
            "their size away. Replicas have to start from the same weights: copy or broadcast them.",
        )


def sums_of_ranks(run: WatchedRun) -> Iterator[Alarm]:
    """Where replicas share gradients, and each has the mean of its samples, it is the mean of them that they share."""
    steps, losses = run.steps, run.losses
    means = (
        bool(losses)
        and all(loss.reduction == "mean" for loss in losses)
        and all(abs(step.scale - 1) < 1e-4 for step in steps)
    )
    summed = run.beside.summed
    if means and summed >= STEPS_AT_LEAST:
        yield Alarm(
            "ranks_summed",
            f"In {summed} steps replicas shared the sum of their gradients, where each loss is a mean over the samples "
            "of one of them: the gradient is as many times that of one big batch. Divide by the number of replicas.",
        )
