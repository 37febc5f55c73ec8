"""Invariants of the mechanics: gradients, parameters and modes. Each rule yields alarms."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.data import IterableDataset

from torchcourse.lessons.troubleshooting.training_records import Pass, inputs_of
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed

CLIPPED_TO = 2e-3  # of the gradient's norm: less is left only by a threshold that was meant otherwise
MANY, WEIGHTS = 8, ({10}, {100})  # samples or batches: a smaller divisor, or these, may be a weight
FORGETS = 0.9  # a BatchNorm's momentum above which its statistics are those of the last few batches


def order_of_calls(run: WatchedRun) -> Iterator[Alarm]:
    """zero_grad, backward and step: each once, in this order."""
    recorded = any(seen.recorded for seen in run.passes)
    if recorded and not run.steps and not run.others:
        yield Alarm("no_step", "The model was trained, but the optimizer's step() was never called.")
        return
    stale = sum(step.stale for step in run.steps)
    if stale >= 2:
        yield Alarm(
            "gradients_kept",
            f"In {stale} of {len(run.steps)} steps the last step's gradients were still there when backward() "
            "added the new ones. Is zero_grad() missing, or does it belong to another optimizer?",
        )
    wiped = [step for step in run.steps if step.made > 0 and step.norm == 0]
    without = [step for step in run.steps if not step.backwards and step.norm == 0]
    empty = max(wiped, without, key=len)
    unreached = [step for step in run.steps if step.backwards and step.made == 0 and step.norm == 0]
    never = len(unreached) == len(run.steps) >= 3
    zeros = [name for name, p in run.start.items() if p.dim() > 1 and not p.count_nonzero()]
    zeros = [name for name in zeros if all(step.norms.get(name) == 0 for step in unreached)]
    if never and len(zeros) >= 2:
        yield Alarm(
            "zero_times_zero",
            f"All gradients were exactly 0 in {len(unreached)} steps, and {listed(zeros)} began with zeros alone: "
            "where two of them are multiplied, neither can begin to learn. Begin one with random numbers.",
        )
    elif never:
        yield Alarm(
            "gradients_empty",
            f"backward() was called {sum(len(step.backwards) for step in unreached)} times, and the optimizer got no "
            "gradient other than 0. Was the loss cut off from the model by item(), detach() or no_grad()?",
        )
    elif len(empty) >= 2 and run.backward_seen:
        yield Alarm(
            "gradients_empty",
            f"In {len(empty)} of {len(run.steps)} steps the optimizer found no gradient. Does zero_grad() come after "
            "backward(), or is backward() missing?",
        )


def each_gradient_once(run: WatchedRun) -> Iterator[Alarm]:
    """Each gradient that is made goes into one step."""
    again = [step for step in run.steps if not step.backwards and step.norm > 0 and not step.closure]
    if run.backward_seen and len(again) >= 2:
        yield Alarm(
            "stepped_twice",
            f"In {len(again)} of {len(run.steps)} steps there was no backward() since the step before: the same "
            "gradients were applied again. Is there one step() too many?",
        )
    lost = [step for step in run.steps if any(_different(p, step.passes) for p in step.lost)]
    if len(lost) >= 2 and not run.others:
        most = max(len(step.lost) for step in lost)
        yield Alarm(
            "gradients_lost",
            f"Before {len(lost)} of {len(run.steps)} steps, gradients of up to {most} other batches had been "
            "cleared unused. Is zero_grad() inside the accumulation?",
        )


def _different(lost: tuple[Pass, ...], used: tuple[Pass, ...]) -> bool:
    """Whether the batches whose gradients were cleared are others than those that were used, and were to train on."""
    theirs, ours = inputs_of(used), inputs_of(seen for seen in lost if seen.training and not seen.for_inputs)
    return bool(ours and theirs) and not any(torch.equal(one, other) for one in ours for other in theirs)


def owned_parameters(run: WatchedRun) -> Iterator[Alarm]:
    """Each trainable parameter that gets a gradient is in an optimizer."""
    missing = [
        name
        for name, p in run.model.named_parameters()
        if p.requires_grad and p.grad is not None and id(p) not in run.owned and not name.startswith(run.frozen)
    ]
    if missing and not _written_from_elsewhere(run):
        yield Alarm(
            "not_in_optimizer",
            f"The optimizer does not have {listed(missing)}. Was it made from a part of the model, or before a layer "
            "was replaced?",
        )
    unregistered = [name for name, p in _hidden_parameters(run.model) if p.grad is not None and id(p) not in run.owned]
    if unregistered:
        yield Alarm(
            "not_registered",
            f"{listed(unregistered)} gets gradients, but parameters() does not list it, and no optimizer has it. Put "
            "layers into an nn.ModuleList and tensors into an nn.Parameter.",
        )

    computed = run.usage.computed_before()
    if computed and len(run.steps) >= 3:
        yield Alarm(
            "computed_once",
            f"{listed(computed)} was computed from a parameter before the training, and got gradients: it is no "
            "parameter itself, so no step changes it. Keep the nn.Parameter, and compute in forward().",
        )


def _written_from_elsewhere(run: WatchedRun) -> bool:
    """Whether the optimizer has none of the model's parameters, and yet they move: it steps a copy in more digits."""
    return all(id(p) not in run.owned for p in run.model.parameters()) and run.moved() > 1e-6


def _hidden_parameters(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors with a gradient that modules hold in plain lists, dicts and attributes, with names."""
    known = {id(parameter) for parameter in model.parameters()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key.startswith("_"):
                continue
            parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            for part in parts:
                inner = part.parameters() if isinstance(part, nn.Module) else [part]
                for tensor in inner:
                    own = isinstance(tensor, torch.Tensor) and id(tensor) not in known
                    if own and tensor.is_leaf and tensor.requires_grad:
                        yield f"{name}.{key}".lstrip("."), tensor
                        break


def reached_parameters(run: WatchedRun) -> Iterator[Alarm]:
    """Each layer that is called in training gets a gradient in one of its parameters."""
    steps, never, reached = run.steps, list[str](), run.reached
    names = {id(p): name for name, p in run.model.named_parameters()}  # the first name of one that has two
    for name, module in run.model.named_modules():
        # What no optimizer has and nothing reaches is a constant, such as a teacher.
        owned = [p for p in _own_parameters(module) if id(p) in run.owned]
        own = [names[id(p)] for p in owned if p.requires_grad]
        # A parameter that a module of one's own holds may be for another use; a layer uses all of its own.
        layer = type(module).__module__.startswith("torch.")
        idle = not layer and all(step.norms.get(key) is None for step in steps for key in own)
        if not idle and reached.isdisjoint(own) and run.called.get(name):
            never += own
    if never and reached and len(steps) >= 3:
        yield Alarm(
            "never_changes",
            f"{listed(never)} got no gradient in {len(steps)} steps. Is there a detach(), a no_grad(), a layer that "
            "is not called, or a layer whose units are all dead?",
        )


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return a module's own parameters, with those that its weights are computed from (weight_norm and the like)."""
    made_from = module.parametrizations if parametrize.is_parametrized(module) else None
    return [*module.parameters(recurse=False), *(made_from.parameters() if isinstance(made_from, nn.Module) else ())]


def frozen_parameters(run: WatchedRun) -> Iterator[Alarm]:
    """What the optimizer has can learn, unless it is meant to be frozen; what it leaves out may be frozen."""
    ever = {name for step in run.steps for name in step.norms}
    unmeant = []
    for owner, module in run.model.named_modules():
        if not type(module).__module__.startswith("torch."):
            continue  # a constant, such as a table of positions
        for key, p in module.named_parameters(recurse=False):
            name = f"{owner}.{key}".lstrip(".")
            if not p.requires_grad and name not in ever and id(p) in run.owned:
                unmeant += [name] if not name.startswith(run.frozen) else []
    if unmeant:
        yield Alarm(
            "frozen",
            f"{listed(unmeant)} cannot learn (requires_grad is False), and the optimizer has been given it to train. "
            "If that is meant, name them in frozen=.",
        )


def modes(run: WatchedRun) -> Iterator[Alarm]:
    """Training in training mode, evaluation in evaluation mode."""
    layers, around = run.mode_dependent(), run.around
    if not layers and True not in run.dropped:
        return
    what = listed(layers) if layers else "dropout"
    in_eval = [seen for seen in run.trained if not seen.training]
    if len(in_eval) >= 2 and (not layers or not all(_in_frozen_part(run.model, name) for name in layers)):
        yield Alarm(
            "eval_in_training",
            f"{len(in_eval)} of {len(run.trained)} batches were trained on in evaluation mode, so {what} did not "
            "work as in training. Is there a model.eval() without a model.train() after it?",
        )
    elif _left_in_evaluation(run):
        by = around.evaluated_by.co_name if around.evaluated_by else "the validation"
        yield Alarm(
            "eval_left_on",
            f"`{by}` set evaluation mode and returned without model.train(), and nothing that was watched calls it: "
            f"the next epoch would be trained in evaluation mode, and {what} would not work as in training.",
        )
    wrong = [seen for block in run.validations for seen in _in_training_mode(block, inputs_of(run.trained))]
    if wrong:
        yield Alarm(
            "train_in_evaluation",
            f"{len(wrong)} batches were evaluated in training mode: {what} saw them as training data. "
            "model.eval() before, model.train() after.",
        )


def _in_frozen_part(model: nn.Module, name: str) -> bool:
    """Whether a layer, or a part of the model that it is in, has parameters of which none learns."""
    parts = name.split(".")
    owners = [model.get_submodule(".".join(parts[: end + 1])) for end in range(len(parts))]
    return any(list(one.parameters()) and not any(p.requires_grad for p in one.parameters()) for one in owners)


def _left_in_evaluation(run: WatchedRun) -> bool:
    """Whether a function that is not the loop itself has left evaluation mode on, and nobody ever turns it off."""
    around = run.around
    left = around.training_before and not around.training_after and not around.trained_by_call
    return left and around.evaluated_by is not None and around.evaluated_by not in around.callers


def _in_training_mode(block: list[Pass], trained: list[torch.Tensor]) -> list[Pass]:
    """Return the passes of a validation in training mode.

    Not among them: passes before the first step, which try the shapes out; passes that measure a BatchNorm's
    statistics; a batch that was trained on, which is no validation; and a batch that is passed again and again, to see
    how much the dropout scatters.
    """
    found = [seen for seen in block if seen.training and seen.step and not seen.cumulative and not seen.recorded]
    others = trained + inputs_of(found)

    def again(given: torch.Tensor) -> bool:
        return any(other is not given and torch.equal(other, given) for other in others)

    return [seen for seen in found if seen.inputs is None or not again(seen.inputs)]


def statistics(run: WatchedRun) -> Iterator[Alarm]:
    """A BatchNorm that trains gathers statistics over many batches; one that is frozen keeps its own."""
    still, drifting, short = [], [], []
    layers = ((name, m) for name, m in run.model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats)
    for name, module in layers:
        buffer = module.running_mean
        start = run.start_buffers.get(f"{name}.running_mean".lstrip("."))
        if buffer is None or start is None or start.shape != buffer.shape or run.called.get(name, 0) < 3:
            continue
        moved = not torch.equal(start, buffer.detach())
        fixed = [p for p in module.parameters() if not p.requires_grad]
        drifting += [name] if moved and len(fixed) == 2 else []
        still += [name] if not moved and module.training and module.momentum == 0 else []
        short += [name] if moved and module.momentum is not None and module.momentum > FORGETS else []
    if still:
        yield Alarm(
            "statistics_still",
            f"The running mean of {listed(still)} is what it was before training. The momentum is 0, the share of each "
            "new batch: evaluation will use statistics of no data.",
        )
    if short:
        yield Alarm(
            "statistics_short",
            f"The momentum of {listed(short)} is the share of the *new* batch: its running statistics are almost those "
            "of the last batch alone. Most use 0.1.",
        )
    if drifting:
        yield Alarm(
            "statistics_drift",
            f"The running mean of {listed(drifting)} has changed, though its weights are frozen. Set it to eval() too.",
        )


def clipping(run: WatchedRun) -> Iterator[Alarm]:
    """Clipping leaves a gradient, and sees it in its right size."""
    steps = run.steps
    if run.shrunk_late >= 3 and not run.shrunk_in_time:
        yield Alarm(
            "clipped_late",
            f"{run.shrunk_late} times gradients were made smaller after the step that had used them, and never "
            "before one. Clip between backward() and step().",
        )
    elif run.around.clipped_nothing >= 3 and not run.around.clipped:
        yield Alarm(
            "clipped_nothing",
            f"All {run.around.clipped_nothing} times there were no gradients to clip: they are not yet made there, or "
            "gone, or the parameters are a different model's. Clip between backward() and step().",
        )
    left = [step.norm / step.made for step in steps if step.made > 0 and step.before_unscaling is None]
    if len(left) >= 3 and 0 < max(left) < CLIPPED_TO and max(left) > 1.5 * min(left):
        yield Alarm(
            "clipped_to_nothing",
            f"Between backward() and step() the gradients shrank to at most {max(left):.0e} of what they were, in each "
            "of the steps. Is the threshold of the clipping far too small?",
        )
    pairs = [(step.before_unscaling, step.made) for step in steps if step.made > 0]
    shares = [before / made for before, made in pairs if before is not None]
    if len(shares) >= 3 and max(shares) < 0.999 and max(shares) > 1.01 * min(shares):
        yield Alarm(
            "clipped_before_unscaling",
            f"In {len(shares)} steps the gradients were clipped while they were still scaled, to {min(shares):.1e} of "
            "their size or so, and the scaler divided what was left. Call scaler.unscale_(optimizer) first.",
        )
    scales = [step.scale for step in steps if step.backwards and step.before_unscaling is None]
    untouched = all(abs(step.norm / step.made - 1) < 1e-3 for step in steps if step.made > 0)
    if len(scales) == len(steps) >= 3 and untouched and all(_power_of_two(scale) for scale in scales):
        yield Alarm(
            "gradients_scaled",
            f"backward() was called on {scales[0]:.0f} times the loss, and nothing divided the gradients before "
            "the step. Use scaler.step(optimizer) instead of optimizer.step().",
        )


def _power_of_two(scale: float) -> bool:
    if not 1000 < scale < math.inf:
        return False
    nearest = 2 ** round(math.log2(scale))
    return abs(scale / nearest - 1) < 1e-3


def divided_once(run: WatchedRun) -> Iterator[Alarm]:
    """A mean over the samples is not divided by their number again."""
    steps, found = run.steps, run.losses
    alone = len(found) == len(steps) >= 3 and all(len(step.backwards) == 1 and not step.closure for step in steps)
    if not alone or any(loss.reduction != "mean" or not loss.target.dim() for loss in found):
        return
    sources = [source for source in run.sources if hasattr(source, "dataset")]  # loaders, and samplers of ranks
    wholes = {len(source.dataset) for source in sources if hasattr(source.dataset, "__len__")}
    wholes |= {len(source) for source in sources if not isinstance(source.dataset, IterableDataset)}
    for sizes in ([len(loss.target) for loss in found], *([whole] * len(found) for whole in wholes)):
        divided = all(abs(step.scale * size - 1) < 1e-3 for step, size in zip(steps, sizes, strict=True))
        if divided and min(sizes) >= MANY and set(sizes) not in WEIGHTS:
            yield Alarm(
                "mean_divided_again",
                f"backward() was called on the loss divided by {max(sizes)}, as many as there are samples or batches, "
                "and the loss is a mean already: the gradients are that much smaller. Leave the division out.",
            )
            return
