"""Invariants of how PyTorch is used: rarer losses, weights of classes, frozen layers, copies. Each yields alarms."""

import difflib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING, LOGISTIC
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed

NUMBERS_AT_LEAST = 64
PER_CLASS = 5  # samples of the rarest class, before anything is said about the weights of classes
DROPPED = 0.05  # of the scores, at least and at most left
APART = math.log(3)  # from the rarest to the most frequent class
OFF = 0.3  # that the logarithm of a weight may be away from that of its class's share
DROPS_MOST = 0.85
_ONE_SIDED = "ctc_loss", "poisson_nll_loss"
MANY_LABELS = 0.05  # of the samples, with more than one label


def log_probabilities(run: WatchedRun) -> Iterator[Alarm]:
    """The CTC loss gets log-probabilities, and a Poisson loss the logarithm of a rate where it is told so."""
    calls = _calls_of(run, "ctc_loss")
    if len(calls) >= 3 and all((call["log_probs"].float().logsumexp(dim=-1).abs() > 0.01).any() for call in calls):
        yield Alarm(
            "no_log_probabilities",
            "ctc_loss got no log-probabilities over the last dimension: they are log_softmax(dim=-1).",
        )
    rates = [call for call in _calls_of(run, "poisson_nll_loss") if call.get("log_input", True)]
    if len(rates) < 3 or sum(call["input"].numel() for call in rates) < NUMBERS_AT_LEAST:
        return
    if all((call["input"] >= 0).all() for call in rates) and any((call["target"] == 0).any() for call in rates):
        yield Alarm(
            "rate_is_no_logarithm",
            "poisson_nll_loss takes the exponential of what it gets, and never got a number below 0: is there a "
            "softplus, an exp or a ReLU before it? Then log_input=False, or leave it out.",
        )


def _calls_of(run: WatchedRun, name: str) -> list[dict[str, Any]]:
    """Return the arguments of each call of one of the rarer losses."""
    return [loss.arguments for loss in run.usage.losses if loss.name == name]


def two_sided_targets(run: WatchedRun) -> Iterator[Alarm]:
    """Losses of pairs get 1 and -1."""
    for name in dict.fromkeys(loss.name for loss in run.usage.losses if loss.name not in _ONE_SIDED):
        found = [call["target"].flatten() for call in _calls_of(run, name) if "target" in call]
        if len(found) >= 3 and sum(map(len, found)) >= 16 and set(torch.cat(found).tolist()) == {0, 1}:
            yield Alarm(
                "targets_one_sided",
                f"{name} got targets 0 and 1. It is made for 1 and -1: a pair with 0 teaches nothing.",
            )


def several_labels(run: WatchedRun) -> Iterator[Alarm]:
    """Scores that add up to 1 are for samples with one label."""
    found = [loss for loss in run.losses_of(F.binary_cross_entropy) if loss.scores.dim() == 2]
    found = [loss for loss in found if loss.scores.size(1) > 1 and loss.target.shape == loss.scores.shape]
    if len(found) < 3 or any(((loss.scores.float().sum(dim=1) - 1).abs() > 1e-2).any() for loss in found):
        return
    many = torch.cat([loss.target.float().sum(dim=1) > 1.5 for loss in found]).float().mean().item()
    if many > MANY_LABELS:
        yield Alarm(
            "softmax_for_several_labels",
            f"{many:.0%} of the samples have more than one label, and each sample's scores add up to 1: a softmax lets "
            "no two of them be sure. Take a sigmoid, best binary_cross_entropy_with_logits.",
        )


def dropped_scores(run: WatchedRun) -> Iterator[Alarm]:
    """Nothing is dropped from the scores themselves."""
    losses = [loss for loss in run.losses_of(*CLASSIFYING, *LOGISTIC) if loss.seen is not None and loss.seen.training]
    found = [loss.scores for loss in losses if loss.scores.numel() > 1]
    if True not in run.dropped or len(found) < 5 or sum(scores.numel() for scores in found) < NUMBERS_AT_LEAST:
        return
    shares = [(scores == 0).float().mean().item() for scores in found]
    both = all(scores.min() < 0 < scores.max() for scores in found)
    if both and DROPPED < sum(shares) / len(shares) < 1 - DROPPED and max(shares) - min(shares) < 0.4:
        yield Alarm(
            "scores_dropped",
            f"{sum(shares) / len(shares):.0%} of the scores that the loss got in training were exactly 0, and the rest "
            "had both signs. Does a dropout follow the last layer?",
        )


def class_weights(run: WatchedRun) -> Iterator[Alarm]:
    """The weights of classes make the rare ones count, not the frequent ones."""
    counts, weight = _positives(run) or _frequencies(run) or (torch.zeros(1), torch.ones(1))
    if len(weight) != len(counts) or (weight <= 0).any() or counts.min() < PER_CLASS:
        return
    logs = [numbers.double().log() for numbers in (counts, weight)]
    shares, weights = (numbers - numbers.mean() for numbers in logs)
    if shares.max() - shares.min() > APART and (shares - weights).abs().max() < OFF:
        yield Alarm(
            "class_weights_inverted",
            f"The weights of the classes grow with the classes' frequencies: the most frequent one, {counts.max():.0f} "
            f"of {counts.sum():.0f} labels, counts most. Are they to be 1 / frequency?",
        )


def _frequencies(run: WatchedRun) -> tuple[torch.Tensor, torch.Tensor] | None:
    found = [loss for loss in run.classified if loss.weight is not None]
    if not found or (weight := found[0].weight) is None:
        return None
    labels = torch.cat([loss.target[loss.counted & (loss.target >= 0)] for loss in found])
    return torch.bincount(labels, minlength=len(weight)), weight


def _positives(run: WatchedRun) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the numbers of answers 0 and 1, and the weights of both, where one `pos_weight` is given."""
    kept = [(loss.target.flatten(), loss.weight) for loss in run.losses_of(*LOGISTIC) if loss.weight is not None]
    found = [(target, weight.item()) for target, weight in kept if weight.numel() == 1]
    if not found:
        return None
    answers = torch.cat([target for target, _ in found])
    zeros, ones = (answers == 0).sum().item(), (answers == 1).sum().item()
    plain = zeros + ones == len(answers)
    return (torch.tensor([zeros, ones]), torch.tensor([1.0, found[0][1]])) if plain else None


def frozen_in_name(run: WatchedRun) -> Iterator[Alarm]:
    """What is said to be frozen is frozen: the attribute is `requires_grad`, and it is a parameter's."""
    misspelled = {
        f"{name}.{key}": name
        for name, p in run.model.named_parameters()
        for key, value in vars(p).items()
        if value is False and p.requires_grad and difflib.SequenceMatcher(None, key, "requires_grad").ratio() > 0.85
    }
    if misspelled:
        key = next(iter(misspelled)).rpartition(".")[2]
        yield Alarm(
            "frozen_in_name_only",
            f"{listed(list(misspelled.values()))} has an attribute `{key}` that is False, and PyTorch knows only "
            "`requires_grad`: it learns as before.",
        )
    modules = [
        name
        for name, module in run.model.named_modules()
        if vars(module).get("requires_grad") is False and any(p.requires_grad for p in module.parameters())
    ]
    if modules:
        yield Alarm(
            "frozen_in_name_only",
            f"{listed(modules)} was given `requires_grad = False`, which a module does not look at: its parameters "
            "learn as before. Call `module.requires_grad_(False)`.",
        )


def data_taken(run: WatchedRun) -> Iterator[Alarm]:
    """A parameter that a forward pass uses learns from it."""
    steps, taken = run.steps, run.usage.detached
    reached = run.reached
    idle = [
        (name, taken[id(p)])
        for name, p in run.model.named_parameters()
        if p.requires_grad and id(p) in run.owned and id(p) in taken and name not in reached
        if name in run.start and torch.equal(p.detach(), run.start[name])
    ]
    if idle and len(steps) >= 3 and reached:
        yield Alarm(
            "used_without_graph",
            f"The forward pass takes {listed([name for name, _ in idle])} as {idle[0][1]}, without a graph: it got no "
            f"gradient in {len(steps)} steps, and the optimizer has it to train. Take the parameter itself.",
        )


def layers_made_on_the_way(run: WatchedRun) -> Iterator[Alarm]:
    """Layers are made once, before the training."""
    made = {kind: steps for kind, steps in run.usage.made.items() if len(steps) >= 3}
    if made:
        kind, steps = next(iter(made.items()))
        yield Alarm(
            "layer_made_in_forward",
            f"In {len(steps)} steps the forward pass made a new {kind} with weights of its own: they are random each "
            "time, no optimizer has them, and they never learn. Make it in __init__.",
        )


def repeated_layers(run: WatchedRun) -> Iterator[Alarm]:
    """The layers of a stack are different layers."""
    for name, module in run.model.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        places: dict[int, list[str]] = {}
        for key, layer in module._modules.items():
            if layer is not None and any(p.requires_grad for p in layer.parameters()):
                places.setdefault(id(layer), []).append(f"{name}.{key}".lstrip("."))
        same = next((keys for keys in places.values() if len(keys) > 1), None)
        if same:
            yield Alarm(
                "one_layer_repeated",
                f"{listed(same)} are one layer: `[layer] * {len(same)}` repeats the object. Make one for each place.",
            )
            return


def dropout(run: WatchedRun) -> Iterator[Alarm]:
    """A dropout drops the smaller part."""
    much = {name: m.p for name, m in run.model.named_modules() if isinstance(m, _DropoutNd) and DROPS_MOST < m.p < 1}
    what, share = (listed([*much]), next(iter(much.values()))) if much else ("A dropout function", run.usage.dropped)
    if DROPS_MOST < share < 1:
        yield Alarm(
            "drops_nearly_all",
            f"{what} drops {share:.0%}: p is the share that is dropped. Is it the share to keep?",
        )


def derivatives(run: WatchedRun) -> Iterator[Alarm]:
    """A derivative in the loss has a graph."""
    lost = run.usage.lost_terms
    if len(lost) >= 2:
        yield Alarm(
            "penalty_without_graph",
            f"For {len(lost)} steps the loss had a term made from torch.autograd.grad without create_graph=True: it "
            "changes the loss's value, and no gradient comes from it.",
        )


def copies(run: WatchedRun) -> Iterator[Alarm]:
    """What is copied into a weight is not that weight."""
    if len(run.usage.onto_itself) >= 2:
        yield Alarm(
            "copied_onto_itself",
            f"At {len(run.usage.onto_itself)} times a weight was overwritten with its own memory, which changes "
            "nothing: what was kept as a copy shares the memory of the weights. Keep .detach().clone().",
        )


def loaded(run: WatchedRun) -> Iterator[Alarm]:
    """Of a state that is loaded, something fits."""
    if run.around.loaded_nothing:
        entries, theirs, own = run.around.loaded_nothing[0]
        yield Alarm(
            "nothing_loaded",
            f"load_state_dict(strict=False) took none of {entries} entries: the first is called {theirs}, and the "
            f"model's is {own}. Mend the names, and load with strict=True.",
        )


def tied(run: WatchedRun) -> Iterator[Alarm]:
    """Weights that share their memory are one parameter."""
    places: dict[tuple, list[str]] = {}
    for name, p in run.model.named_parameters():
        if p.layout == torch.strided and p.numel() > 1 and p.data_ptr() and id(p) in run.owned:
            places.setdefault((p.data_ptr(), *p.shape), []).append(name)
    for names in places.values():
        if len(names) > 1 and run.reached.issuperset(names):
            yield Alarm(
                "tied_by_memory",
                f"{listed(names)} are two parameters in one memory: a step changes it once for each, by a part of its "
                "gradient. Tie them as one parameter: `head.weight = embedding.weight`, without .data.",
            )
            return


def leftovers(run: WatchedRun) -> Iterator[Alarm]:
    """An accumulation that an epoch's end cuts short leaves nothing to the next epoch."""
    counts = [len(step.backwards) for step in run.steps]
    begun = {entry.step for entry in run.around.iterations if 0 < entry.step < len(counts)}
    within = {count for number, count in enumerate(counts) if number not in begun}
    across = {counts[number] for number in begun}
    if len(begun) < 2 or len(within) != 1 or len(across) != 1 or run.others:
        return
    usual, more = within.pop(), across.pop()
    if 1 < usual < more < 2 * usual:
        yield Alarm(
            "batches_left_over",
            f"A step is made of {usual} batches, and the first one of an epoch of {more}: the gradients of the last "
            f"{more - usual} of the epoch before were still there. Take a step at an epoch's end, or clear them.",
        )


def one_answer(run: WatchedRun) -> Iterator[Alarm]:
    """Of two batches that a step learns to judge, not all have the same answer."""
    judged: dict[int, set[int]] = {}
    answers = set()
    for loss in run.losses_of(*LOGISTIC):
        seen = loss.seen
        if seen is None or not seen.used or seen.output is None:
            continue
        if loss.of_output or loss.function is F.binary_cross_entropy:
            judged.setdefault(loss.step, set()).add(id(seen))
            answers |= set(loss.target.unique().tolist())
    single = [step for step in run.steps if len(step.backwards) == 1]
    both = len(single) == len(run.steps) and all(len(passes) >= 2 for passes in judged.values())
    if both and len(judged) >= 5 and len(answers) == 1:
        yield Alarm(
            "one_answer",
            f"Each step learns to judge two batches, and the right answer was {answers.pop():g} for all samples of "
            f"both, in {len(judged)} steps: there is nothing to tell apart.",
        )
