"""The checks of notebook 2 of lesson 04 accept right answers built in different ways and name wrong ones' symptoms."""

import pytest
import torch
from torch import nn

from torchcourse.lessons.monitoring.checks import histograms as check
from torchcourse.lessons.monitoring.checks import naming
from torchcourse.lessons.monitoring.diagnosis import diagnose, judge_fit
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["fixed_histogram", "dead_share", "gradient_factor"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# fixed_histogram


def places(batch, edges):
    return (torch.bucketize(batch, edges, right=True) - 1).clamp(0, len(edges) - 2)


def bucketized(batches, edges):
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for batch in batches:
        counts += torch.bincount(places(batch, edges), minlength=len(counts))
    return counts


def compared(batches, edges):
    counts = 0
    for batch in batches:
        values = batch.clamp(edges[0], edges[-1])
        inside = (values[:, None] >= edges[:-1]) & (values[:, None] < edges[1:])
        inside[:, -1] |= values == edges[-1]
        counts = counts + inside.sum(dim=0)
    return counts


def one_hot(batches, edges):
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for batch in batches:
        counts += nn.functional.one_hot((batch[:, None] >= edges[1:-1]).sum(1), len(counts)).sum(0)
    return counts


def by_histogram(batches, edges):
    inside = (batch.clamp(edges[0], edges[-1]) for batch in batches)
    return sum(torch.histogram(batch, edges).hist for batch in inside).long()


@pytest.mark.parametrize("learner", [bucketized, compared, by_histogram, one_hot])
def test_fixed_histogram_accepts(learner):
    accepted(check.fixed_histogram(learner))


def inner(batches, edges):
    return bucketized((batch[(batch >= edges[0]) & (batch <= edges[-1])] for batch in batches), edges)


def between_each_two_edges(batches, edges):
    return sum(((batch[:, None] >= edges[:-1]) & (batch[:, None] < edges[1:])).sum(dim=0) for batch in batches)


def just_below_the_last_edge(batches, edges):
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for batch in batches:
        place = torch.bucketize(batch.clamp(edges[0], edges[-1] - 1e-6), edges, right=True) - 1
        counts += torch.bincount(place, minlength=len(counts))
    return counts


def on_the_cpu(batches, edges):
    return bucketized((batch.cpu() for batch in batches), edges)


def clamping_in_place(batches, edges):
    return bucketized((batch.clamp_(min=edges[0]) for batch in batches), edges)


def widening_the_edges(batches, edges):
    edges[0], edges[-1] = -torch.inf, torch.inf
    return bucketized(batches, edges)


def keeping_places(batches, edges):
    return torch.bincount(torch.cat([places(batch, edges) for batch in batches]), minlength=len(edges) - 1)


def keeping_views(batches, edges):
    return bucketized([torch.cat([batch[:] for batch in batches])], edges)


def once_for_a_batch(batches, edges):
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for batch in batches:
        counts[places(batch, edges)] += 1
    return counts


def none_on_the_last_edge(batches, edges):
    return bucketized((batch[batch != edges[-1]] for batch in batches), edges)


def by_python(batches, edges):
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for batch in batches:
        for place in places(batch, edges):
            counts[int(place)] += 1
    return counts


def left_bins(batches, edges):
    place = (torch.bucketize(torch.cat(list(batches)), edges) - 1).clamp(0, len(edges) - 2)
    return torch.bincount(place, minlength=len(edges) - 1)


def evenly(batches, edges):
    values = torch.cat(list(batches))
    low, *_, high = edges.tolist()
    return torch.histc(values.clamp(low, high), len(edges) - 1, low, high)


def by_list(batches, edges):
    counts = [0] * (len(edges) - 1)
    for batch in batches:
        for place in places(batch, edges).tolist():
            counts[place] += 1
    return torch.tensor(counts)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda batches, edges: bucketized(list(batches)[-1:], edges), "one_batch"),
        (lambda batches, edges: bucketized(list(batches)[:1], edges), "one_batch"),
        (inner, "lost_outside"),
        (between_each_two_edges, "lost_outside"),
        (just_below_the_last_edge, "one_unit"),
        (lambda batches, edges: sum(torch.histc(batch, len(edges) - 1) for batch in batches), "own_range"),
        (lambda batches, edges: bucketized(batches, edges) / 101, "shares"),
        (lambda batches, edges: bucketized(batches, edges).tolist(), "wrong_type"),
        (lambda batches, edges: torch.bincount(torch.bucketize(torch.cat(list(batches)), edges)), "shape"),
        (by_python, "waits"),
        (by_list, "waits"),
        (on_the_cpu, "waits"),
        (left_bins, "on_the_edge"),
        (evenly, "equal_bins"),
        (lambda batches, edges: bucketized([torch.cat(list(batches))], edges), "all_in_memory"),
        (lambda batches, edges: bucketized(batches, edges).float(), "dtype"),
        (lambda batches, edges: bucketized((batch.float() for batch in batches), edges.float()), "single_precision"),
        (keeping_places, "results_kept"),
        (keeping_views, "all_in_memory"),
        (once_for_a_batch, "once_per_batch"),
        (lambda batches, edges: bucketized(batches, edges).int(), "dtype"),
        (clamping_in_place, "inputs_changed"),
        (widening_the_edges, "inputs_changed"),
        (none_on_the_last_edge, "last_edge"),
        (lambda batches, edges: bucketized(batches, edges).flip(0), "wrong_value"),
    ],
)
def test_fixed_histogram_refuses(learner, symptom):
    refused(check.fixed_histogram(learner), symptom)


def test_a_batch_that_goes_to_the_cpu_is_not_said_to_become_numbers_alone():
    assert "or took it to the CPU" in check.fixed_histogram(on_the_cpu).message


def test_the_hint_about_the_type_of_counts_speaks_of_float32_where_it_is_one():
    for kind, says in ((torch.float32, True), (torch.int32, False), (torch.float64, False)):
        message = check.fixed_histogram(lambda batches, edges, kind=kind: bucketized(batches, edges).to(kind)).message
        assert ("16,777,216" in message) == says


# dead_share


def relu_outputs(model, batches, remove=True):
    """The outputs of each ReLU: a list over batches, by name."""
    seen, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            hook = module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.setdefault(name, []).append(output.detach())
            )
            hooks.append(hook)
    for batch in batches:
        model(batch)
    for hook in hooks if remove else []:
        hook.remove()
    return seen


def shares(model, batches, remove=True):
    seen = relu_outputs(model, batches, remove)
    return {name: (torch.cat(rows) <= 0).all(dim=0).float().mean().item() for name, rows in seen.items()}


@torch.no_grad()
def summed_outputs(model, batches):
    awake, hooks = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.ReLU):
            awake[name] = torch.zeros(())

            def add(layer, inputs, output, name=name):
                awake[name] = awake[name] + output.sum(dim=0)

            hooks.append(layer.register_forward_hook(add))
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: (total == 0).double().mean() for name, total in awake.items()}


@pytest.mark.parametrize("learner", [shares, summed_outputs])
def test_dead_share_accepts(learner):
    accepted(check.dead_share(learner))


@torch.no_grad()
def layer_by_layer(model, batches):
    awake = {}
    for batch in batches:
        for name, layer in model.named_children():
            batch = layer(batch)
            if isinstance(layer, nn.ReLU):
                awake[name] = awake.get(name, 0) + batch.sum(dim=0)
    return {name: (total == 0).double().mean() for name, total in awake.items()}


def judged(share):
    """Apply `share` to the outputs of each ReLU, a list of tensors [N, units]."""
    return lambda model, batches: {name: share(rows) for name, rows in relu_outputs(model, batches).items()}


def dead_in(output):
    return (output == 0).all(dim=0).float().mean().item()


def after_changing(change):
    def learner(model, batches):
        change(model)
        return judged(lambda rows: dead_in(torch.cat(rows)))(model, batches)

    return learner


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (judged(lambda rows: dead_in(rows[-1])), "one_batch"),
        (judged(lambda rows: sum(map(dead_in, rows)) / len(rows)), "mean_over_batches"),
        (judged(lambda rows: (torch.cat(rows) == 0).float().mean().item()), "zeros_not_units"),
        (judged(lambda rows: (torch.cat(rows) == 0).any(dim=0).float().mean().item()), "any_zero"),
        (judged(lambda rows: 1 - dead_in(torch.cat(rows))), "alive_share"),
        (judged(lambda rows: 100 * dead_in(torch.cat(rows))), "percent"),
        (judged(lambda rows: dead_in(rows[0])), "one_batch"),
        (judged(lambda rows: 0.0), "inputs_not_outputs"),
        (after_changing(nn.Module.eval), "mode_left_changed"),
        (after_changing(nn.Module.train), "mode_left_changed"),  # the second network comes in evaluation mode
        (after_changing(lambda model: model[1]._forward_hooks.clear()), "hooks_changed"),
        (after_changing(lambda model: model.requires_grad_(False)), "mode_left_changed"),
        (judged(lambda rows: (torch.cat(rows) == 0).all(dim=0).sum().item()), "count_not_share"),
        (judged(lambda rows: (torch.cat(rows) == 0).all(dim=1).float().mean().item()), "samples_not_units"),
        (judged(lambda rows: 0.123), "wrong_value"),
        (lambda model, batches: shares(model, batches, remove=False), "hooks_changed"),
        (lambda model, batches: 0.5, "wrong_type"),
        (lambda model, batches: {"0": 0.5, "2": 0.5}, "names"),
        (layer_by_layer, "names"),  # of one level: the ReLUs may lie deeper
        (judged(lambda rows: (torch.cat(rows) < 1e-3).all(dim=0).float().mean().item()), "threshold"),
        (after_changing(nn.Module.zero_grad), "mode_left_changed"),
        (judged(lambda rows: (torch.cat(rows).std(dim=0) == 0).float().mean().item()), "constant"),
        (after_changing(lambda model: model[1].register_forward_pre_hook(lambda *_: None)), "hooks_changed"),
    ],
)
def test_dead_share_refuses(learner, symptom):
    refused(check.dead_share(learner), symptom)


# names_of_runs

NAMES = {letter: kind for letter, (kind, _, _) in naming._UNKNOWN.items()}


def test_the_names_of_the_recipes_are_accepted_in_any_order():
    accepted(naming.names_of_runs(NAMES))
    accepted(naming.names_of_runs(dict(reversed(NAMES.items()))))


def test_names_that_are_written_otherwise_are_accepted():
    accepted(naming.names_of_runs(NAMES | {"A": " Vanishing", "B": "over-fitting", "E": "dead_units"}))


def test_names_that_are_not_filled_in_are_not_done_yet():
    assert naming.names_of_runs(dict.fromkeys(NAMES, ...)).state == "not done"
    assert naming.names_of_runs(...).state == "not done"


@pytest.mark.parametrize(
    ("change", "symptom"),
    [
        ({"B": "exploding"}, "exploding_for_overfitting"),
        ({"F": "vanishing"}, "vanishing_for_underfitting"),
        ({"D": "overfitting"}, "overfitting_for_healthy"),
        ({"E": "saturated", "G": "dead units"}, "saturated_for_dead_units"),
        ({"A": "sick"}, "no_such_name"),
        ({"A": ["vanishing"]}, "no_such_name"),
        ({"H": "healthy"}, "letters"),
    ],
)
def test_a_wrong_name_is_refused_without_the_right_one(change, symptom):
    checked = naming.names_of_runs(NAMES | change)
    refused(checked, symptom)
    if symptom not in ("letters", "no_such_name"):
        assert not any(kind in checked.message for kind in NAMES.values())
        assert ("1 of 7 is not" in checked.message) == (len(change) == 1)
        assert "?." not in checked.message


@pytest.mark.slow
def test_the_runs_show_what_they_are_named_for(tmp_path):
    for letter, run in naming.train_unknown(tmp_path).items():
        found = {diagnose(run).name} | ({judge_fit(run).name} if "loss/val" in run.scalars else set())
        assert NAMES[letter] in found, letter


# gradient_factor


def looped(scale, layers):
    factor = 1.0
    for _ in range(layers - 1):
        factor *= scale
    return torch.tensor(factor, dtype=torch.float64)


@pytest.mark.parametrize("learner", [lambda scale, layers: scale ** (layers - 1), looped])
def test_gradient_factor_accepts(learner):
    accepted(check.gradient_factor(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda scale, layers: scale**layers, "own_layer_counted"),
        (lambda scale, layers: scale * (layers - 1), "layers_add_up"),
        (lambda scale, layers: 0.7, "wrong_value"),
        (lambda scale, layers: scale * layers, "layers_add_up"),
        (lambda scale, layers: scale ** (layers - 2), "wrong_value"),  # in one case 8, as of a sum
        (lambda scale, layers: scale, "one_layer"),
        (lambda scale, layers: scale ** (1 - layers), "upside_down"),
        (lambda scale, layers: layers**scale, "power_of_layers"),
        (lambda scale, layers: None, "no_number"),
    ],
)
def test_gradient_factor_refuses(learner, symptom):
    refused(check.gradient_factor(learner), symptom)
