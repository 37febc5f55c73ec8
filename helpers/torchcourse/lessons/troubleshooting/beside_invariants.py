"""Invariants of what stands beside the model: averages, adversaries, replicas. Each rule yields alarms."""

from collections.abc import Callable, Iterator

from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

UPDATES_AT_LEAST, STEPS_AT_LEAST = 8, 5
FOLLOWS = 0.11  # of a weight's way from one update to the next, that is left between it and its average
OPPOSITE = -0.2  # cosine of two gradients
APART = 1e-3  # of the weights' size


def averages(run: WatchedRun) -> Iterator[Alarm]:
    """An average of the weights is of many steps."""
    left = sorted(run.record.beside.left.values())
    if len(left) >= UPDATES_AT_LEAST and left[-1] < FOLLOWS:
        yield Alarm(
            "average_follows",
            f"After each of {len(left)} updates, what is averaged from the weights was nearly the weights themselves: "
            f"of their last way it lay at most {left[-1]:.1%} behind. Are decay and 1 - decay swapped?",
        )


def adversaries(run: WatchedRun) -> Iterator[Alarm]:
    """A step does not use a gradient of the adversary's loss."""
    against = sorted(run.record.beside.against)
    if len(against) >= STEPS_AT_LEAST and against[int(0.9 * (len(against) - 1))] < OPPOSITE:
        yield Alarm(
            "adversary_kept",
            f"{len(against)} times gradients were there when a different optimizer stepped, stayed there, and got "
            f"others added that point against them (cosine {against[len(against) // 2]:.2f}). Are they those of an "
            "adversary's loss? Detach what the adversary gets, or call zero_grad() before backward().",
        )


def replicas(run: WatchedRun) -> Iterator[Alarm]:
    """Models that step with the same gradients have the same weights."""
    steps, far = run.record.beside.apart()
    if steps >= 3 and far > APART:
        yield Alarm(
            "replicas_apart",
            f"A second model of the same shapes was given the very gradients of this one in {steps} steps, and its "
            f"weights are {far:.1%} of their size away. Replicas have to start from the same weights: copy or "
            "broadcast them.",
        )


def sums_of_ranks(run: WatchedRun) -> Iterator[Alarm]:
    """Where replicas share gradients, and each has the mean of its samples, it is the mean of them that they share."""
    steps, losses = run.record.steps, run.record.losses
    means = (
        bool(losses)
        and all(loss.reduction == "mean" for loss in losses)
        and all(abs(step.scale - 1) < 1e-4 for step in steps)
    )
    summed = run.record.beside.summed
    if means and summed >= STEPS_AT_LEAST:
        yield Alarm(
            "ranks_summed",
            f"In {summed} steps replicas shared the sum of their gradients, where each loss is a mean over the samples "
            "of one of them: the gradient is as many times that of one big batch. Divide by the number of replicas.",
        )


RULES: list[Callable[[WatchedRun], Iterator[Alarm]]] = [averages, adversaries, replicas, sums_of_ranks]
