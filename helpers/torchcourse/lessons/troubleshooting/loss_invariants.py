"""Invariants of losses: what they get, what they count, how large they are. Each rule yields alarms."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting.makers import PRODUCTS
from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING, LOGISTIC, MEASURING
from torchcourse.lessons.troubleshooting.training_records import Loss
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

LOSS_ABOVE_START = 2.0  # nats that the first loss may lie above log(classes)
LOSS_GROWTH = 2.0  # times the first loss
WORSE_THAN_NOTHING = 2.0  # times the loss of a model that puts out nothing
NUMBERS_AT_LEAST = 64  # scores, before "none was ever negative" says anything
REACH = {"Relu": (0, math.inf), "Softplus": (0, math.inf), "Sigmoid": (0, 1), "Softmax": (0, 1), "Tanh": (-1, 1)}
LARGE, FAR_BELOW = 1000.0, 0.05  # targets whose size matters, and outputs that are far from them
OUT_OF_REACH = 0.05  # of the targets, farther out than this share of their spread
COUNTS_APART = 0.05  # of their mean: what the numbers of tokens in the parts of a step may differ


def class_scores(run: WatchedRun) -> Iterator[Alarm]:
    """Cross-entropy gets logits, and nll_loss and kl_div log-probabilities."""
    taken = [loss for loss in run.losses_of(F.cross_entropy) if loss.scores.dim() > 1]
    taken = [loss for loss in taken if loss.maker not in PRODUCTS]  # of any sign, though small ones may have one
    tables = [loss.scores.movedim(1, -1).flatten(0, -2).float() for loss in taken if not loss.picks_rows]
    if len(tables) >= 3 and sum(t.numel() for t in tables) >= NUMBERS_AT_LEAST and all((t >= 0).all() for t in tables):
        yield from _one_sided(tables)
    elsewhere = [dim for dim in range(2, 5) if len(taken) >= 3 and all(_adds_up(loss.scores, dim) for loss in taken)]
    if elsewhere:
        yield Alarm(
            "softmax_elsewhere",
            f"The scores add up to 1 over dimension {elsewhere[0]}, and classes are dimension 1: a softmax runs over "
            "the wrong one, and cross_entropy has its own.",
        )
    logs = [loss.scores.float() for loss in run.losses_of(F.nll_loss) if loss.scores.dim() > 1]
    wrong = any((scores.logsumexp(dim=1).abs() > 0.01).any() for scores in logs)
    if wrong or any((loss.scores > 1e-3).any() for loss in run.losses_of(F.kl_div)):
        yield Alarm(
            "no_log_probabilities",
            f"{'nll_loss' if wrong else 'kl_div'} got no log-probabilities: they are log_softmax over the classes.",
        )


def _adds_up(scores: torch.Tensor, dim: int) -> bool:
    """Whether the scores are probabilities over more than one place of this dimension."""
    wide = dim < scores.dim() and scores.size(dim) > 1
    return wide and bool((scores >= 0).all() and ((scores.float().sum(dim=dim) - 1).abs() < 1e-2).all())


def _one_sided(tables: list[torch.Tensor]) -> Iterator[Alarm]:
    if all(((table.sum(dim=1) - 1).abs() < 1e-2).all() for table in tables):
        yield Alarm(
            "softmax_twice",
            "cross_entropy got probabilities: each row adds up to 1. It has a softmax of its own, and wants logits.",
        )
    elif all(((table.sum(dim=0) - 1).abs() < 1e-2).all() for table in tables):
        yield Alarm("softmax_over_batch", "Each column of the scores adds up to 1: a softmax runs over the batch.")
    elif any((table == 0).any() for table in tables) or _like_sigmoids(tables):
        yield Alarm(
            "one_sided_logits",
            "No score that cross_entropy got was ever below 0. Is there a ReLU or a sigmoid after the last layer?",
        )


def _like_sigmoids(tables: list[torch.Tensor]) -> bool:
    """Whether all scores are from 0 to 1, and began about a half; small scores can all be above 0 by chance."""
    return all((table <= 1).all() for table in tables) and 0.35 < tables[0].mean().item() < 0.65


def logistic_scores(run: WatchedRun) -> Iterator[Alarm]:
    """The logistic loss that has a sigmoid of its own gets logits, and targets from 0 to 1."""
    losses = run.losses_of(F.binary_cross_entropy_with_logits)
    logistic = [loss.scores for loss in losses if loss.maker not in PRODUCTS]
    enough = len(logistic) >= 3 and sum(scores.numel() for scores in logistic) >= NUMBERS_AT_LEAST
    if enough and all(((scores >= 0) & (scores <= 1)).all() for scores in logistic):
        yield Alarm(
            "sigmoid_twice",
            "binary_cross_entropy_with_logits only ever got numbers from 0 to 1: it applies a sigmoid itself, and the "
            "model has done so before.",
        )
    plain = run.losses_of(F.binary_cross_entropy)
    if len(plain) >= 3 and all(loss.maker in PRODUCTS for loss in plain):
        yield Alarm(
            "no_sigmoid",
            "binary_cross_entropy got what came out of a layer, and at most cut off at 0 and 1: beyond, no gradient "
            "comes back. Take binary_cross_entropy_with_logits, which has a sigmoid of its own.",
        )
    targets = [loss.target for loss in run.losses_of(*LOGISTIC) if loss.target.numel()]
    outside = [target for target in targets if target.min() < 0 or target.max() > 1]
    if outside:
        low, high = outside[0].min().item(), outside[0].max().item()
        yield Alarm(
            "targets_outside",
            f"A logistic loss got targets from {low:g} to {high:g}. Outside of 0 to 1 it can fall without end.",
        )


def reach(run: WatchedRun) -> Iterator[Alarm]:
    """Outputs can become what they are compared with."""
    for maker, (low, high) in REACH.items():
        targets = [loss.target.float().flatten() for loss in run.losses_of(*MEASURING) if loss.maker == maker]
        if len(targets) < 3 or sum(map(len, targets)) < NUMBERS_AT_LEAST:
            continue
        numbers = torch.cat(targets)
        margin = OUT_OF_REACH * numbers.std().item()
        outside = ((numbers < low - margin) | (numbers > high + margin)).float().mean().item()
        if outside > OUT_OF_REACH:
            yield Alarm(
                "targets_out_of_reach",
                f"{outside:.0%} of the targets lie where the outputs cannot get: the last operation, {maker.lower()}, "
                f"ends at {low:g}{'' if high == math.inf else f' and {high:g}'}, and the targets go from "
                f"{numbers.min():.3g} to {numbers.max():.3g}. Leave it out, or scale the targets to its range.",
            )


def pairs(run: WatchedRun) -> Iterator[Alarm]:
    """What is to be told from all others is not itself among them."""
    taken = [loss for loss in run.classified if loss.function is F.cross_entropy]
    found = [loss.scores.float() for loss in taken if loss.picks_rows]
    if len(found) >= 3 and all(map(_with_itself, found)):
        yield Alarm(
            "compared_with_itself",
            "Each sample's own likeness to itself counts as the right answer: the scores are symmetric, and the "
            "largest of each row is on the diagonal. Mask the diagonal, and take the other view as the answer.",
        )

    elsewhere = [loss.scores.float() for loss in taken if _picks_others(loss)]
    if len(elsewhere) >= 3 and all(map(_with_itself, elsewhere)):
        yield Alarm(
            "self_not_masked",
            "Each sample is compared with all samples, itself among them, and its likeness to itself is the largest: "
            "the right answer can never be the most alike. Mask the diagonal.",
        )


def _picks_others(loss: Loss) -> bool:
    """Whether each row's label is the number of a different row."""
    rows = torch.arange(len(loss.target))
    return len(rows) == loss.scores.size(1) > 2 and len(loss.target.unique()) > 2 and bool((loss.target != rows).all())


def sizes(run: WatchedRun) -> Iterator[Alarm]:
    """Scores can become as sure, and outputs as large, as what they are compared with."""
    angles = [loss for loss in run.classified if loss.function is F.cross_entropy and not loss.picks_rows]
    classes = angles[0].scores.size(1) if angles else 0
    cosines = [loss.directions and loss.maker in PRODUCTS and (loss.scores.abs() <= 1 + 1e-3).all() for loss in angles]
    if len(angles) >= 3 and classes >= 4 and all(cosines):
        least = math.log(1 + (classes - 1) * math.exp(-2))
        yield Alarm(
            "cosines_unscaled",
            f"cross_entropy got cosines, from -1 to 1: with {classes} classes it cannot fall below {least:.2f}, also "
            "where each answer is right. Multiply them by a number such as 16, or learn it.",
        )
    measured, steps = run.losses_of(*MEASURING)[-5:], len(run.steps)
    wanted, got = [_size(loss.target) for loss in measured], [_size(loss.scores) for loss in measured]
    if steps >= 15 and len(measured) == 5 and min(wanted) > LARGE and max(got) < FAR_BELOW * min(wanted):
        yield Alarm(
            "targets_far_away",
            f"After {steps} steps the outputs are of size {max(got):.2g}, the targets of {min(wanted):.2g}. Weights "
            "are made for targets of about 1: subtract the mean of the targets, and divide by their spread.",
        )


def _size(numbers: torch.Tensor) -> float:
    return numbers.float().square().mean().sqrt().item()


def _with_itself(scores: torch.Tensor) -> bool:
    size = 1e-4 * scores.abs().max()
    square = len(scores) > 2 and scores.size(0) == scores.size(1)
    return bool(square and (scores - scores.T).abs().max() <= size and (scores.amax(1) - scores.diag()).max() <= size)


def shapes(run: WatchedRun) -> Iterator[Alarm]:
    """Outputs are compared with targets of the same shape."""
    pair = run.broadcast
    for loss in run.losses_of(*MEASURING, *LOGISTIC):
        both = loss.scores.shape, loss.target.shape
        if torch.broadcast_shapes(*both) not in both:
            pair = list(both[0]), list(both[1])
            break
    if pair is not None:
        yield Alarm(
            "broadcast",
            f"Outputs of shape {pair[0]} were compared with targets of {pair[1]}: each with every other.",
        )


def losses(run: WatchedRun) -> Iterator[Alarm]:
    """The first loss is that of guessing; later ones are numbers and do not run away."""
    wrong = [(number, loss.value) for number, loss in enumerate(run.losses) if not math.isfinite(loss.value)]
    if wrong:
        number, value = wrong[0]
        yield Alarm("not_finite", f"Loss number {number} is {value}. A NanProbe says which layer made it.")
        return
    # A margin, and the size that scores of directions are given, make a first loss of any height.
    classified = [loss for loss in run.classified if not loss.picks_rows and not loss.directions]
    if classified and not _tied(run):
        first, classes = classified[0].mean, classified[0].scores.size(1)
        if first > math.log(classes) + LOSS_ABOVE_START:
            yield Alarm(
                "first_loss",
                f"The first loss is {first:.2f} per sample; a guess among {classes} classes has log({classes}) = "
                f"{math.log(classes):.2f}. The model starts sure and wrong: look at its weights and its inputs.",
            )
    if run.others:  # with an adversary, each one's loss grows as the other learns
        return
    steps = run.steps
    if len(steps) >= 3 and all(abs(step.scale + 1) < 1e-4 for step in steps):
        yield Alarm(
            "loss_negated",
            f"In {len(steps)} steps backward() was called on minus the loss, which makes it larger.",
        )
    yield from _growth(run)


def _whole_loss_grew(run: WatchedRun, step: int) -> bool:
    """Whether what `backward()` is called on has grown too: a part of it that counts little may grow as it likes."""
    totals = [sum(s.backwards) / len(s.backwards) for s in run.steps if s.backwards]
    scaled = any(s.before_unscaling is not None for s in run.steps)
    later = sorted(totals[step : step + 3])
    return scaled or not later or later[len(later) // 2] > totals[0] + (LOSS_GROWTH - 1) * abs(totals[0])


def _growth(run: WatchedRun) -> Iterator[Alarm]:
    series: dict[tuple, list[Loss]] = {}
    for loss in run.losses:
        series.setdefault((loss.function, loss.scores.shape[1:], loss.reduction), []).append(loss)
    for same in series.values():
        values = [loss.mean for loss in same]
        medians = [sorted(values[i : i + 3])[1] for i in range(len(values) - 2)]
        if not medians:
            continue
        most = max(range(len(medians)), key=medians.__getitem__)
        nothing = max(_of_zeros(loss) for loss in same[most : most + 3])
        grew = medians[most] > LOSS_GROWTH * values[0] + 0.1 and medians[most] > WORSE_THAN_NOTHING * nothing
        if grew and _whole_loss_grew(run, same[most].step) and not _other_classes(same[:3], same[most : most + 3]):
            yield Alarm(
                "diverges",
                f"The loss went from {values[0]:.3g} up to {medians[most]:.3g}, where outputs of 0 would have "
                f"{nothing:.3g}. Is the learning rate too high, or the sign of the loss wrong?",
            )
            return


def _other_classes(first: list[Loss], later: list[Loss]) -> bool:
    """Whether most labels are of classes that did not come at first, as where one task is learned after another."""
    if not first[0].has_classes:
        return False
    known, labels = (torch.cat([loss.target.flatten() for loss in part]) for part in (first, later))
    return torch.isin(labels, known).float().mean().item() < 0.5


def _of_zeros(loss: Loss) -> float:
    """Return the loss that outputs of 0 would have."""
    if loss.function in CLASSIFYING:
        return math.log(max(loss.scores.size(min(1, loss.scores.dim() - 1)), 2))
    if loss.function in LOGISTIC:
        return math.log(2)
    if loss.function in MEASURING:
        return loss.function(torch.zeros_like(loss.target.float()), loss.target.float()).item()
    return math.inf


def _tied(run: WatchedRun) -> bool:
    """Whether a parameter has two names: the sizes that an embedding starts with are large for scores."""
    return len(list(run.model.named_parameters(remove_duplicate=False))) > len(list(run.model.named_parameters()))


def accumulation(run: WatchedRun) -> Iterator[Alarm]:
    """Where k batches make one step, each sample or token counts alike, and the loss is that of one big batch."""
    steps = {
        number: step
        for number, step in enumerate(run.steps)
        if not step.closure and len(step.backwards) > 1 and len(step.passes) == len(step.backwards)
    }
    if len(steps) < 2 or run.others or len({(loss.function, loss.scores.shape[1:]) for loss in run.losses}) != 1:
        return
    per_step = [[loss for loss in run.losses if loss.step == number] for number in steps]
    if any(loss.reduction != "mean" or _constant(loss) for part in per_step for loss in part):
        return
    values = {loss.value for loss in run.losses}
    whole = values.issuperset(value for step in steps.values() for value in step.backwards)
    if whole and all(abs(step.norm / max(step.made, 1e-30) - 1) < 1e-4 for step in steps.values()):
        times = len(next(iter(steps.values())).backwards)
        yield Alarm(
            "sum_of_batches",
            f"{times} batches are added up for each step, and each counts fully: the gradient is {times} times that of "
            "one big batch. Divide each loss by their number.",
        )
    counts = [[int(loss.counted.sum()) for loss in part] for part in per_step]
    padded = any(not loss.counted.all() for part in per_step for loss in part)
    apart = [part for part in counts if part and max(part) - min(part) > COUNTS_APART * sum(part) / len(part)]
    if padded and len(apart) > len(counts) / 2:
        yield Alarm(
            "means_of_means",
            f"The parts of a step count different numbers of tokens (such as {min(apart[0])} and {max(apart[0])}), and "
            "each part's mean weighs the same. Add up sums, and divide by the tokens of the whole step.",
        )


def targets(run: WatchedRun) -> Iterator[Alarm]:
    """A target that is made of the model's own answers is taken as given."""
    found = run.losses_of(*MEASURING)
    moving = [loss for loss in found if loss.bootstrapped]
    if len(moving) >= 3 and len(moving) > len(found) / 2:
        yield Alarm(
            "target_with_gradient",
            f"In {len(moving)} losses the target was a sum of given numbers and of others that carry a gradient, as of "
            "a reward and the value expected next: the loss moves the target too. Make it under no_grad().",
        )


def sums(run: WatchedRun) -> Iterator[Alarm]:
    """A loss that has gone backward is not part of the next sum that does."""
    again, most = 0, 0
    for number, step in enumerate(run.steps):
        values = [loss.value for loss in run.losses if loss.step == number]
        if len(values) == len(step.backwards) >= 2 and values[0] and not step.closure:
            share, total = step.backwards[0] / values[0], 0.0
            totals = [total := total + share * value for value in values]
            near = (abs(one - other) <= 1e-4 * abs(other) for one, other in zip(step.backwards, totals, strict=True))
            again += share > 0 and totals[1] > 1.01 * totals[0] and all(near)
            most = max(most, len(values))
    if again >= 2:
        yield Alarm(
            "backward_again",
            f"In {again} steps each backward() was called on the sum of all losses since the step before: of {most} "
            "batches, the first one counted as often as there are. Call it on each loss, or once on their sum.",
        )


def _constant(loss: Loss) -> bool:
    """Whether all targets are the same number, as those for what is real and for what is made."""
    return bool((loss.target == loss.target.flatten()[:1]).all())
