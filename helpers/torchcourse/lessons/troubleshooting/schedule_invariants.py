"""Invariants of schedules and of what the optimizer was told: rates, and what decays. Each rule yields alarms."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from torchcourse.lessons.troubleshooting.training_step import parameters_of
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed

RATE_LEFT = 0.05  # of the highest learning rate
LONG_AFTER, AFTER_A_DROP = 0.25, 0.15  # of the steps: so many at so small a rate are no end of a training run
AT_ZERO, WHOLE = 5, 0.5  # steps with a rate of 0 at the start, and the share of the highest rate that then comes
RAISED, RAISED_IN = 10.0, 10  # times, and steps at least, of a rate that is raised by hand
DROP = 5.0  # times, from one step to the next
CUT_SHORT = 0.6  # of its length: a schedule that another one follows before is not at its end
SMALL_RATE = 0.02  # a first rate up to it; factors that never come above it are rates
AS_A_RATE = 0.05, 1.25  # times the first rate: between them lies the highest factor, where it is a rate
COUNTED_AT_LEAST = 20  # samples validated on, before a number can be told for a share of them

_LENGTHS = ("T_max", "total_steps", "total_iters")


def schedule(run: WatchedRun) -> Iterator[Alarm]:
    """The schedule is that of a long training: it does not end long before the steps do."""
    tops = run.rates
    if len(tops) < 5:
        return
    most = max(range(len(tops)), key=tops.__getitem__)
    low = [number for number in range(most, len(tops)) if tops[number] < RATE_LEFT * tops[most]]
    ends = {entry.step for entry in run.around.iterations}  # a drop there is that of a schedule by epoch
    drops = [n for n in range(most + 1, len(tops)) if tops[n] * DROP < tops[n - 1] and n not in ends]
    at_most = AFTER_A_DROP if drops else LONG_AFTER
    if low and max(tops[low[0] :]) > WHOLE * tops[most]:
        return  # it begins again, as with a cycle for each phase
    if low and len(low) > at_most * len(tops) and not (ends - {0, len(tops)} and not drops):
        yield Alarm(
            "rate_collapses",
            f"After {low[0]} of {len(tops)} steps the learning rate had fallen from {tops[most]:.2g} to "
            f"{tops[low[0]]:.2g}. Is a schedule that counts epochs stepped after each batch?",
        )


def warm_up(run: WatchedRun) -> Iterator[Alarm]:
    """A warm-up rises: it does not stand at 0, to begin with the whole rate."""
    tops = run.rates
    first = next((number for number, top in enumerate(tops) if top > 0), 0)
    if first >= AT_ZERO and tops[first] >= WHOLE * max(tops):
        yield Alarm(
            "rate_stands_at_0",
            f"In the first {first} steps the learning rate was 0, then at once {tops[first]:.2g}. Is a warm-up "
            "computed with //, which rounds down?",
        )


def all_groups(run: WatchedRun) -> Iterator[Alarm]:
    """Where groups of parameters start at one rate, and it is raised by hand, it is raised for all of them."""
    start, optimizer = set(run.start_rates), run.optimizer
    rates = [step.rates for step in run.steps if step.optimizer is optimizer]
    scheduled = any(one.optimizer is optimizer for one in run.around.schedulers.values())
    if len(start) != 1 or len(rates) < RAISED_IN or len({len(one) for one in rates}) != 1 or scheduled:
        return
    first = start.pop()
    found = [set(one) for one in zip(*rates, strict=True)]
    still = [n for n, one in enumerate(found) if one == {first}]
    raised = [n for n, one in enumerate(found) if len(one) >= 3 and max(one) >= RAISED * first > 0]
    learning = [any(p.requires_grad for p in optimizer.param_groups[n]["params"]) for n in still]
    if raised and any(learning) and len(raised) + len(still) == len(found):
        yield Alarm(
            "group_left_behind",
            f"All {len(found)} parameter groups started at a learning rate of {first:.2g}. That of group {raised[0]} "
            f"was raised up to {max(found[raised[0]]):.2g}, and group {still[0]} stayed where it was. Set the rate of "
            "each group: `for group in optimizer.param_groups`.",
        )


def planned_length(run: WatchedRun) -> Iterator[Alarm]:
    """A cosine that falls to its end stops there."""
    for scheduler in run.around.schedulers.values():
        if type(scheduler) is CosineAnnealingLR and scheduler.last_epoch > scheduler.T_max + 1:
            yield Alarm(
                "schedule_outrun",
                f"CosineAnnealingLR was stepped {scheduler.last_epoch} times and has T_max={scheduler.T_max}: the "
                "learning rate has fallen to its end and rises again. Does T_max count epochs, and step() batches?",
            )
            return


def factors(run: WatchedRun) -> Iterator[Alarm]:
    """What the function of a LambdaLR returns is a factor of the first rate, not the rate itself."""
    for scheduler in run.around.schedulers.values():
        if type(scheduler) is not LambdaLR or not all(0 < base <= SMALL_RATE for base in scheduler.base_lrs):
            continue
        pairs = list(zip(scheduler.base_lrs, scheduler.lr_lambdas, scheduler.get_last_lr(), strict=True))
        if any(last > AS_A_RATE[1] * base * base for base, _, last in pairs):
            continue
        tops = [(base, _highest(function, scheduler.last_epoch)) for base, function, _ in pairs]
        if tops and all(AS_A_RATE[0] * base <= top <= AS_A_RATE[1] * base for base, top in tops):
            base, top = tops[0]
            yield Alarm(
                "factor_is_a_rate",
                f"The function of a LambdaLR returns at most {top:.2g}, a factor of the rate of {base:.2g}: that never "
                f"exceeds {base * top:.1g}. Let it return 1 at the top, or give the optimizer lr=1.",
            )
            return


def _highest(function: Callable[[int], float], last: int) -> float:
    """Return the highest factor of a schedule, up to its millionth step."""
    places = {*range(last + 2), *(int(1.3**power) for power in range(54))}
    found = [0.0]
    try:
        own = copy.deepcopy(function)  # an object that counts its calls goes on as it would
    except Exception:  # whatever a part of it that cannot be copied raises
        return 0.0
    for place in sorted(places):
        try:
            found.append(float(own(place)))
        except Exception:  # the user's function, asked beyond the end of its training
            break
    return max(found)


def one_schedule(run: WatchedRun) -> Iterator[Alarm]:
    """A schedule comes to its end before the next one of its kind begins."""
    by_kind: dict[tuple[type, int], list[Any]] = {}
    for scheduler in run.around.schedulers.values():
        by_kind.setdefault((type(scheduler), id(scheduler.optimizer)), []).append(scheduler)
    for (kind, _), made in by_kind.items():
        lengths = [next((n for key in _LENGTHS if (n := vars(one).get(key))), 0) for one in made]
        cut = [one for one, length in zip(made[:-1], lengths, strict=False) if one.last_epoch < CUT_SHORT * length]
        if len(made) >= 3 and len(cut) == len(made) - 1:
            yield Alarm(
                "schedule_anew",
                f"{len(made)} schedules {kind.__name__} of one optimizer followed each other, made for {lengths[0]} "
                f"steps and left after {cut[0].last_epoch}: the rate begins again. Make one, before the loop.",
            )
            return


def of_this_optimizer(run: WatchedRun) -> Iterator[Alarm]:
    """A schedule sets the rates of the optimizer that steps."""
    stepping = run.stepping
    own = {id(p) for p in run.model.parameters()}
    told = [(one.optimizer, one.last_epoch) for one in run.around.schedulers.values()]
    told += [(one.optimizer, len(metrics)) for one, metrics in run.around.plateaus.values()]
    for optimizer, times in told:
        theirs = set(map(id, parameters_of(optimizer)))
        if stepping and times >= 2 and theirs & own and not {id(g) for g in optimizer.param_groups} & stepping:
            yield Alarm(
                "schedule_of_another",
                f"A schedule was stepped {times} times, and the {type(optimizer).__name__} whose rates it sets never "
                "stepped: another one with the model's parameters does. Make the schedule after the optimizer.",
            )
            return


def waiting(run: WatchedRun) -> Iterator[Alarm]:
    """A schedule that waits for improvement knows which way is better."""
    for scheduler, metrics in run.around.plateaus.values():
        found = [(value, sum(seen.samples for seen in block)) for step, value in metrics for block in _block(run, step)]
        values = [value for value, _ in found]
        shares = len(found) == len(metrics) >= 3 and all(_is_share(value, samples) for value, samples in found)
        if scheduler.mode == "min" and shares and values[-1] > values[0]:
            told = ", ".join(f"{value:.3g}" for value in values[:4])
            yield Alarm(
                "waits_for_less",
                f"ReduceLROnPlateau was told {told} …, each a whole number of the validated samples, and these grow: "
                "is it an accuracy? With mode='min' it waits for it to fall. Take mode='max'.",
            )


def _block(run: WatchedRun, step: int) -> list[list[Any]]:
    """Return the last validation up to this step, in a list; an empty one where there was none."""
    return [block for block in run.validations if block[0].step <= step][-1:]


def _is_share(value: float, samples: int) -> bool:
    """Whether this number is a share of so many samples, or their percentage."""
    counts = [value * samples / whole for whole in (1, 100) if 0 <= value <= whole]
    return samples >= COUNTED_AT_LEAST and any(abs(count - round(count)) < 1e-3 for count in counts)


def decay(run: WatchedRun) -> Iterator[Alarm]:
    """If some parameters decay and others do not, it is the matrices that do."""
    owners = {
        id(p): (f"{name}.{key}".lstrip("."), module)
        for name, module in run.model.named_modules()
        for key, p in module.named_parameters(recurse=False)
    }
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for group in run.optimizer.param_groups:
        groups[group.get("weight_decay", 0) > 0] += [p for p in group["params"] if id(p) in owners]
    shifts = [
        name
        for name, module in (owners[id(p)] for p in groups[True])
        if name.endswith("bias") or "Norm" in type(module).__name__
    ]
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    spared = [owners[id(p)][0] for p in groups[False] if p.dim() > 1 and isinstance(owners[id(p)][1], layers)]
    if shifts and spared and all(p.dim() < 2 for p in groups[True]) and all(p.dim() > 1 for p in groups[False]):
        yield Alarm(
            "decay_swapped",
            f"The weight decay pulls only at biases and norms ({listed(shifts)}), and at no matrix ({listed(spared)}): "
            "are the two groups of the optimizer swapped?",
        )
