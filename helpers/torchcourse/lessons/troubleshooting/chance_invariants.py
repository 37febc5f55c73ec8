"""Invariants of what is drawn by chance: noise, and what log-probabilities are weighed with. Each yields alarms."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from torchcourse.lessons.troubleshooting.chance_watch import Drawn, Pull, fingerprint
from torchcourse.lessons.troubleshooting.torch_calls import LOGISTIC, MEASURING
from torchcourse.lessons.troubleshooting.training_records import Loss, Pass
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

STEPS_AT_LEAST = 5
OF_A_SAMPLE, TWO_BITS = 16, 1.4  # numbers, and what a code of two bits costs
SAMPLES_AT_LEAST = 8  # in a batch: a smaller number may be a weight


def noise(run: WatchedRun) -> Iterator[Alarm]:
    """Each step draws other noise."""
    total = len(run.steps)
    drawn = {step: found for step, found in run.chance.drawn.items() if found and step < total}
    batches = _batches(seen for seen in run.trained if seen.inputs is not None and seen.inputs.is_floating_point())
    # With the same batch in each step, the same numbers are part of the data.
    if len(drawn) < STEPS_AT_LEAST or len(set(batches.values())) < len(drawn) / 2:
        return
    for place in range(min(len(found) for found in drawn.values())):
        # Noise has a row for each sample; a projection that a seed stands for has not.
        pairs = [(found[place], batches[step]) for step, found in drawn.items() if step in batches]
        alike = {noise[1] for noise, _ in pairs}
        if len(alike) == 1 and all(noise[0][:1] == batch[0][:1] and noise != batch for noise, batch in pairs):
            yield Alarm(
                "same_noise",
                f"In all of {len(drawn)} steps the same random numbers were drawn, beginning with "
                f"{alike.pop():.3g}. Is a generator seeded within the loop?",
            )
            return


def _batches(passes: Iterable[Pass]) -> dict[int, Drawn]:
    """Return what tells the last batch of each step from others."""
    inputs = {seen.step: seen.inputs for seen in passes if seen.inputs is not None and seen.inputs.numel()}
    return {step: fingerprint(batch) for step, batch in inputs.items()}


def advantages(run: WatchedRun) -> Iterator[Alarm]:
    """How much better an action was than expected is a number: the policy's loss does not teach who expects."""
    weighed = run.chance.weighed
    low = min((least for least, _ in weighed.values()), default=0.0)
    high = max((most for _, most in weighed.values()), default=0.0)
    if len(weighed) >= STEPS_AT_LEAST and low < 0 < high:
        yield Alarm(
            "weight_with_gradient",
            f"In {len(weighed)} steps log-probabilities were multiplied with numbers from {low:.2g} to {high:.2g} that "
            "carry a gradient: what they come from learns from this loss too. Is an advantage to be detached?",
        )


def one_weight_each(run: WatchedRun) -> Iterator[Alarm]:
    """Each action's log-probability, and each sample's loss, has one weight: its own."""
    crossed = run.chance.crossed
    if len(crossed) >= 3:
        logs, weights = next(iter(crossed.values()))
        yield Alarm(
            "broadcast",
            f"Numbers for each sample, of shape {logs}, were multiplied with weights of {weights}: broadcasting "
            "multiplies each with every other.",
        )


def ratios(run: WatchedRun) -> Iterator[Alarm]:
    """A ratio of new and old probabilities changes once a step has been taken."""
    found = run.chance.ratios
    batches = _batches(run.trained)
    again = [step for step in found if step in batches and batches[step] == batches.get(step - 1)]
    if len(again) >= 3 and all(found.values()):
        yield Alarm(
            "ratio_is_1",
            f"The ratio of new to old probabilities was exactly 1 in all of {len(found)} steps, also in {len(again)} "
            "that learned from the batch of the step before. Are the old ones computed again? Keep those with which "
            "the actions were drawn.",
        )


def shown_noise(run: WatchedRun) -> Iterator[Alarm]:
    """Noise that is to be foretold is in what the model gets."""
    steps = run.origins.unknown_noise
    if len(steps) >= STEPS_AT_LEAST:
        yield Alarm(
            "noise_not_shown",
            f"In {len(steps)} steps the target was noise that is not in what the model got; in there was other noise "
            "of the same shape. Is it drawn twice? Compare with the noise that was added.",
        )


def divergences(run: WatchedRun) -> Iterator[Alarm]:
    """A divergence from a normal distribution is made small, not large."""
    pulls = [found for _, found in sorted(run.chance.pulls.items())]
    wrong = sum(_pushed_away(found) for found in pulls)
    if wrong >= STEPS_AT_LEAST and wrong == len(pulls):
        yield Alarm(
            "divergence_subtracted",
            f"In {wrong} steps the loss fell evenly with the square of a mean and with a variance, as a divergence "
            "from the standard normal distribution does with the wrong sign: it has no lower bound. The "
            "divergence is -0.5 * (1 + logvar - mu**2 - exp(logvar)), and is added.",
        )


def terms(run: WatchedRun) -> Iterator[Alarm]:
    """Of a divergence and a loss that are added, both are sums over the batch, or both are means."""
    found: dict[int, str] = {}
    for divergence in _divergences(run):
        if way := divergence.reduced_apart():
            found.setdefault(divergence.step, way)
    ways = set(found.values())
    if len(found) >= STEPS_AT_LEAST and len(found) == len(_with_one_loss(run)) and len(ways) == 1:
        yield Alarm(
            "terms_reduced_apart",
            f"In {len(found)} steps {ways.pop()}: how much each counts depends on the size of the batch. Take sums "
            "over each sample and means over the batch for both.",
        )


def worth_a_code(run: WatchedRun) -> Iterator[Alarm]:
    """A reconstruction can gain more by a code than the code's divergence costs."""
    costly = {one.step for one in _divergences(run) if one.summed_beside_mean()}
    losses = [loss for loss in run.losses_of(*MEASURING, *LOGISTIC) if _reconstructs(loss)]
    found = [loss for loss in losses if loss.step in costly]
    if len(found) < STEPS_AT_LEAST or len(costly) < len(run.chance.pulls) or len(losses) < len(run.losses):
        return
    numbers, most = found[0].target[0].numel(), max(loss.value for loss in losses)
    if numbers >= OF_A_SAMPLE and 0 < most < TWO_BITS:
        yield Alarm(
            "divergence_outweighs",
            f"The divergence is summed over a sample's code, and the loss beside it is a mean over its {numbers} "
            f"numbers, at most {most:.2g}: less than a code of two bits costs, so the code stays empty. "
            "Sum the loss over each sample's numbers too, or weigh the divergence by 1 / their number.",
        )


def _reconstructs(loss: Loss) -> bool:
    """Whether the target of a loss is what the model got."""
    inputs = None if loss.seen is None else loss.seen.inputs
    return inputs is not None and torch.equal(inputs.flatten(), loss.target.flatten())


@dataclass(frozen=True)
class _Divergence:
    """The divergence of a batch's codes from the standard normal distribution, beside the one loss of its step."""

    step: int
    share: float
    """How much each of its numbers counts, as a multiple of the loss."""
    samples: int
    latents: int
    reduction: str
    """Of the loss."""

    def summed_beside_mean(self) -> bool:
        """Whether it is a sum over each code, unweighed, and the loss a mean over all numbers."""
        return self.reduction == "mean" and _near(self.share, 1 / self.samples) and self.latents > 1

    def reduced_apart(self) -> str:
        """Return how it is reduced, if otherwise than the loss."""
        averaged = any(_near(self.share, 1 / n) for n in (self.samples, self.samples * self.latents))
        if self.reduction == "sum" and self.latents != self.samples and averaged:
            return "the divergence was averaged over the batch, and the loss beside it summed"
        if self.reduction == "mean" and _near(self.share, 1.0):
            return "the divergence was summed over the batch, and the loss beside it averaged"
        return ""


def _with_one_loss(run: WatchedRun) -> list[int]:
    return [step for step in run.chance.pulls if len(run.chance.parts.get(step, ())) == 1]


def _divergences(run: WatchedRun) -> Iterator[_Divergence]:
    for step in _with_one_loss(run):
        pulls, ((reduction, weight, samples),) = run.chance.pulls[step], run.chance.parts[step]
        others = [pull for curve in ("exp", "log") for pull, _ in pulls.get(curve, ())]
        for pull, shape in pulls.get("square", ()):
            whole = pull > 0 and any(abs(abs(other) - pull) <= 1e-5 * pull for other in others)
            if whole and len(shape) == 2 and shape[0] == samples >= SAMPLES_AT_LEAST and weight > 0:
                yield _Divergence(step, 2 * pull / weight, samples, shape[1], reduction)


def _pushed_away(found: dict[str, list[Pull]]) -> bool:
    pulls = {curve: [pull for pull, _ in those] for curve, those in found.items()}
    squares = [pull for pull in pulls.get("square", ()) if pull < 0]
    of_variances = [other for other in pulls.get("exp", ()) if any(_near(other, pull) for pull in squares)]
    logs = [
        other for other in pulls.get("log", ()) for pull in squares if _near(other, -pull) or _near(other, -2 * pull)
    ]
    return bool(of_variances or logs)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-5 * abs(other)
