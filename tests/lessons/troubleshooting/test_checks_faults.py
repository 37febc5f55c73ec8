"""The checks of the notebook on faults accept different right answers and name the symptom of each wrong one."""

import math
import re

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting import checks as check
from verdicts import accepted, refused, todo

# first_bad_layer


def by_hooks(test=lambda out: not out.isfinite().all(), leaves=True, first=True, remove=True, bound=True):
    def answer(model, inputs):
        bad, handles = [], []
        for name, module in model.named_modules():
            if leaves and list(module.children()):
                continue

            def own(module, args, output, name=name):
                if test(output):
                    bad.append(name)

            def shared(module, args, output):
                if test(output):
                    bad.append(name)  # noqa: B023

            handles.append(module.register_forward_hook(own if bound else shared))
        model(inputs)
        for handle in handles if remove else []:
            handle.remove()
        return (bad[0] if first else bad[-1]) if bad else None

    return answer


def by_listing(model, inputs):
    outputs = {}
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
    ]
    model(inputs)
    for handle in handles:
        handle.remove()
    for name, module in model.named_modules():
        if not list(module.children()) and not outputs[name].isfinite().all():
            return name
    return None


def by_names_of_modules(model, inputs):
    names = {module: name for name, module in model.named_modules()}
    found = []

    def look(module, args, output):
        if not list(module.children()) and not math.isfinite(output.abs().max().item()):
            found.append(names[module])

    handles = [module.register_forward_hook(look) for module in model.modules()]
    model(inputs)
    [handle.remove() for handle in handles]
    return next(iter(found), None)


def by_what_goes_in(model, inputs):
    bad, handles = [], []
    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(
                module.register_forward_hook(
                    lambda module, args, output, name=name: None if args[0].isfinite().all() else bad.append(name)
                )
            )
    model(inputs)
    for handle in handles:
        handle.remove()
    return bad[0] if bad else None


def without_any_hook(model, inputs):
    found = by_hooks(remove=False)(model, inputs)
    for module in model.modules():
        module._forward_hooks.clear()
    return found


def by_parameters(model, inputs):
    names = [name.rpartition(".")[0] for name, value in model.named_parameters() if not value.isfinite().all()]
    return names[0] if names else None


def of_linear_layers(model, inputs):
    names = {module: name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = []

    def look(module, args, output):
        if not output.isfinite().all():
            found.append(names[module])

    handles = [module.register_forward_hook(look) for module in names]
    model(inputs)
    for handle in handles:
        handle.remove()
    return found[0] if found else None


def with_one_hook_for_all(model, inputs):
    names = {module: name for name, module in model.named_modules() if not list(module.children())}
    found = []

    def look(module, args, output):
        if module in names and not output.isfinite().all():
            found.append(names[module])

    torch.nn.modules.module.register_module_forward_hook(look)
    model(inputs)
    return found[0] if found else None


def removing_what_it_needed(model, inputs):
    found = by_hooks(remove=False)(model, inputs)
    for module in model.modules() if found else []:
        module._forward_hooks.clear()
    return found


@pytest.mark.parametrize("answer", [by_hooks(), by_names_of_modules])
def test_first_bad_layer_accepts(answer):
    accepted(check.first_bad_layer(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (by_hooks(test=lambda out: out.isnan().any()), "infinity_missed"),
        (by_hooks(first=False), "last_not_first"),
        (by_hooks(bound=False), "last_not_first"),
        (by_hooks(leaves=False, first=False), "container"),
        (by_hooks(remove=False), "hooks_left"),
        (by_listing, "order_of_listing"),
        (by_parameters, "calls"),
        (lambda model, inputs: model(inputs) is None or by_parameters(model, inputs), "overflow_missed"),
        (by_hooks(test=lambda out: not out[0].isfinite().all()), "overflow_missed"),
        (by_hooks(leaves=False), "container"),
        (of_linear_layers, "layer_without_weights"),
        (removing_what_it_needed, "hooks_left"),
        (with_one_hook_for_all, "hooks_left"),
        (lambda model, inputs: by_hooks()(model.requires_grad_(False), inputs), "model_changed"),
        (lambda model, inputs: (by_hooks()(model, inputs), inputs.zero_())[0], "inputs_changed"),
        (by_hooks(test=lambda out: (out == float("inf")).any() or out.isnan().any()), "infinity_missed"),
        (lambda model, inputs: None, "calls"),
        (lambda model, inputs: (model(inputs), None)[1], "nothing_found"),
        (lambda model, inputs: [by_hooks()(model, inputs)], "wrong_type"),
        (by_what_goes_in, "inputs_looked_at"),
        (by_hooks(test=lambda out: not out.isfinite().any()), "one_is_enough"),
        (by_hooks(test=lambda out: not out.square().sum().isfinite()), "large_accused"),
        (by_hooks(test=lambda out: not out.sum().isfinite()), "large_accused"),
        (lambda model, inputs: (model(inputs), by_hooks()(model, inputs))[1], "calls"),
        (without_any_hook, "others_hooks_gone"),
        (lambda model, inputs: by_hooks()(model.eval(), inputs), "mode_left_changed"),
    ],
)
def test_first_bad_layer_refuses(answer, symptom):
    refused(check.first_bad_layer(answer), symptom)


def test_the_hint_on_a_distance_names_the_row_that_is_off():
    def off_in_one_row(output, target):
        return torch.linalg.vector_norm(output - target, dim=1) + 0.1 * torch.eye(6)[3]

    checked = check.safe_distance(off_in_one_row)
    refused(checked, "distance_changed")
    said, returned = re.findall(r"\d+\.\d{4}", checked.message)
    assert float(returned) - float(said) == pytest.approx(0.1, abs=1e-3)


def test_first_bad_layer_refuses_a_name_for_a_healthy_model():
    refused(check.first_bad_layer(lambda model, inputs: by_hooks()(model, inputs) or "end"), "healthy_accused")


# safe_distance


def squares(output, target):
    return (output - target).square().sum(dim=1)


def masked(output, target):
    far = squares(output, target) > 0
    inside = torch.where(far, squares(output, target), torch.ones(()))
    return torch.where(far, inside.sqrt(), torch.zeros(()))


def hooked(output, target):
    """What the backward pass gives is overwritten for one of the two."""
    output.register_hook(torch.nan_to_num)
    return squares(output, target).sqrt()


def zero_where_near(output, target):
    near = squares(output, target) < 0.25
    return squares(output, target).masked_fill(near, 1).sqrt() * ~near


@pytest.mark.parametrize(
    "answer",
    [
        lambda output, target: (squares(output, target) + 1e-8).sqrt(),
        lambda output, target: squares(output, target).clamp(min=1e-8).sqrt(),
        lambda output, target: (output - target).norm(dim=1),  # PyTorch's own has gradient 0 there
        masked,
    ],
)
def test_safe_distance_accepts(answer):
    accepted(check.safe_distance(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda output, target: squares(output, target).sqrt(), "gradient_not_finite"),
        (lambda output, target: squares(output, target).sqrt() + 1e-8, "gradient_not_finite"),
        (
            lambda output, target: torch.where(
                squares(output, target) > 0, squares(output, target).sqrt(), torch.zeros(())
            ),
            "gradient_not_finite",
        ),
        (lambda output, target: squares(output, target), "distance_changed"),
        (lambda output, target: (squares(output, target) + 1e-3).sqrt(), "distance_changed"),
        (lambda output, target: (squares(output, target) + 1e-5).sqrt(), "zero_changed"),
        (hooked, "gradient_not_finite"),
        (zero_where_near, "distance_changed"),
        (lambda output, target: squares(output, target).sqrt().detach(), "no_gradient"),
        (lambda output, target: (squares(output, target) + 1e-8).sqrt().mean(), "shape"),
        (lambda output, target: (squares(output, target) / 0).sqrt(), "value_not_finite"),
    ],
)
def test_safe_distance_refuses(answer, symptom):
    refused(check.safe_distance(answer), symptom)


# unchanged


def compared(keep=lambda p: p.detach().clone(), trainable=True, calls=None, same=torch.equal):
    def answer(model, step, steps=5):
        before = {name: keep(p) for name, p in model.named_parameters()}
        for _ in range(calls or steps):
            step()
        names = [name for name, p in model.named_parameters() if same(before[name], p)]
        return [name for name in names if not trainable or model.get_parameter(name).requires_grad]

    return answer


def by_state_dict(model, step, steps=5):
    import copy

    before = copy.deepcopy(model.state_dict())
    for _ in range(steps):
        step()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    return [
        name for name, value in model.state_dict().items() if name in trainable and torch.equal(value, before[name])
    ]


def by_gradients(model, step, steps=5):
    seen = set()
    for _ in range(steps):
        step()
        seen |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return [name for name, p in model.named_parameters() if p.requires_grad and name not in seen]


def with_buffers(model, step, steps=5):
    before = {name: value.clone() for name, value in model.named_buffers()}
    names = compared()(model, step, steps)
    return names + [name for name, value in model.named_buffers() if torch.equal(before[name], value)]


def by_versions(model, step, steps=5):
    before = {name: p._version for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(steps):
        step()
    return [name for name in before if model.get_parameter(name)._version == before[name]]


def thawing(model, step, steps=5):
    names = compared()(model, step, steps)
    model.requires_grad_(True)
    return names


def after_one(model, step, steps=5):
    names = compared(calls=1)(model, step)
    for _ in range(steps - 1):
        step()
    return names


@pytest.mark.parametrize("answer", [compared(), by_state_dict])
def test_unchanged_accepts(answer):
    accepted(check.unchanged(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (compared(keep=lambda p: p), "no_copy"),
        (compared(keep=lambda p: p.detach()), "no_copy"),
        (compared(trainable=False), "frozen_listed"),
        (by_gradients, "gradients_only"),
        (after_one, "one_step_only"),
        (compared(calls=5), "steps_ignored"),
        (lambda model, step, steps: [step() for _ in range(steps)] and [], "wrong_names"),
        (compared(same=lambda a, b: torch.allclose(a, b, atol=1e-2)), "small_changes"),
        (compared(same=torch.allclose), "small_changes"),
        (compared(same=lambda a, b: a.sum() == b.sum()), "sums_compared"),
        (compared(same=lambda a, b: a.norm() == b.norm()), "sizes_compared"),
        (compared(same=lambda a, b: a.abs().sum() == b.abs().sum()), "sizes_compared"),
        (thawing, "thawed"),
        (compared(same=lambda a, b: not torch.equal(a, b)), "no_copy"),
        (compared(same=lambda a, b: (a == b).any()), "partly_changed"),
        (with_buffers, "buffer_listed"),
        (by_versions, "zero_gradients"),
        (lambda *given: len(compared()(*given)), "wrong_type"),
        (lambda *given: ", ".join(compared()(*given)), "wrong_type"),
        (lambda model, *given: [model.get_parameter(name) for name in compared()(model, *given)], "wrong_type"),
    ],
)
def test_unchanged_refuses(answer, symptom):
    refused(check.unchanged(answer), symptom)


# mixes_samples


def mixing(part=lambda x: [x[: len(x) // 2], x[len(x) // 2 :]], evaluation=True, restore=True, off=None):
    def answer(model, batch):
        was = model.training
        if evaluation:
            model.eval()
        with torch.no_grad():
            together, alone = model(batch), torch.cat([model(rows) for rows in part(batch)])
        if restore:
            model.train(was)
        difference = (together[: len(alone)] - alone).abs().max()
        return bool(difference > (off if off is not None else 1e-3 * together.abs().max()))

    return answer


def by_sums_of_outputs(model, batch):
    was, half = model.training, len(batch) // 2
    model.eval()
    with torch.no_grad():
        whole, alone = model(batch)[:half].sum(), model(batch[:half]).sum()
    model.train(was)
    return bool((whole - alone).abs() > 1e-3 * whole.abs())


def by_the_last_row(model, batch):
    was, half = model.training, len(batch) // 2
    model.eval()
    with torch.no_grad():
        whole, alone = model(batch), model(batch[half:])
    model.train(was)
    return bool((whole[-1] - alone[-1]).abs().max() > 1e-3 * whole.abs().max())


def mixing_of_the_outer_mode(model, batch):
    was = model.training
    answer = mixing(restore=False)(model, batch)
    model.training = was
    return answer


def by_relative_differences(model, batch):
    was, half = model.training, len(batch) // 2
    model.eval()
    with torch.no_grad():
        whole, parts = model(batch), torch.cat([model(batch[:half]), model(batch[half:])])
    model.train(was)
    return not torch.allclose(whole, parts, rtol=1e-3, atol=0)


def by_permutation(model, batch):
    was = model.training
    model.eval()
    other = batch.clone()
    with torch.no_grad():
        whole = model(batch)
        apart = 0.0
        for row in range(len(batch)):
            other = torch.cat([batch[row : row + 1], torch.randn_like(batch)[1:]])
            other = other.roll(row, dims=0)
            apart = max(apart, (model(other)[row] - whole[row]).abs().max().item())
    model.train(was)
    return apart > 1e-3 * whole.abs().max().item()


@pytest.mark.parametrize(
    "answer",
    [mixing(), lambda *given: torch.tensor(mixing()(*given)), mixing(part=lambda x: x.split(1)), by_permutation],
)
def test_mixes_samples_accepts(answer):
    accepted(check.mixes_samples(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (mixing(evaluation=False), "healthy_accused"),
        (mixing(restore=False), "mode_left_changed"),
        (mixing(off=1e-7), "healthy_accused"),
        (mixing(part=lambda x: [x[:1]]), "first_sample_only"),
        (mixing(part=lambda x: [x]), "mixing_missed"),
        (lambda model, batch: False, "mixing_missed"),
        (by_sums_of_outputs, "mixing_missed"),
        (mixing(part=lambda x: [x[:4]]), "mixing_missed"),
        (by_the_last_row, "last_sample_only"),
        (mixing_of_the_outer_mode, "mode_left_changed"),
        (by_relative_differences, "healthy_accused"),
        (lambda model, batch: not mixing()(model, batch), "healthy_accused"),
        (lambda model, batch: mixing()(model.requires_grad_(False), batch), "gradients_off"),
        (lambda model, batch: model(batch).detach() > 0, "wrong_type"),
        (mixing(part=lambda x: x.view(2, len(x) // 2, -1)), "raised_RuntimeError"),
        (lambda model, batch: True, "healthy_accused"),
        (lambda model, batch: mixing()(model, batch) or bool(model.train() and False), "mode_left_changed"),
        (lambda model, batch: str(mixing()(model, batch)), "wrong_type"),
        (lambda model, batch: print(mixing()(model, batch)), "wrong_type"),
    ],
)
def test_mixes_samples_refuses(answer, symptom):
    checked = check.mixes_samples(answer)
    assert (checked.state, checked.symptom, checked.score) == ("wrong", symptom, 0), checked.message


def test_mixes_samples_refuses_a_batch_that_was_changed():
    def in_place(model, batch):
        batch[6:] = 0
        return False

    refused(check.mixes_samples(in_place), "inputs_changed")


def test_mixes_samples_refuses_a_model_whose_statistics_were_changed():
    def in_training_mode_with_a_generous_limit(model, batch):
        with torch.no_grad():
            model(batch)
        return False

    refused(check.mixes_samples(in_training_mode_with_a_generous_limit), "statistics_changed")


# bad_start


def judged(softmax=lambda s: (s >= 0).all() and torch.allclose(s.sum(1), torch.ones(len(s)), atol=1e-3), limit=None):
    def answer(scores, targets):
        found = ["softmax twice"] if softmax(scores) else []
        loss = F.cross_entropy(scores, targets).item()
        above = loss > (math.log(scores.size(1)) + 1.5 if limit is None else limit(scores))
        return found + (["no guess"] if above else [])

    return answer


def distributions(scores):
    return bool((scores >= 0).all() and (scores.sum(1) - 1).abs().max() < 1e-3)


kept: list[str] = []


def perfect(scores, targets):
    return F.cross_entropy(scores, targets) < math.log(scores.size(1)) - 1.5


@pytest.mark.parametrize(
    "answer",
    [
        judged(),
        lambda scores, targets: set(judged()(scores, targets)),
        lambda scores, targets: tuple(judged()(scores, targets)),
    ],
)
def test_bad_start_accepts(answer):
    accepted(check.bad_start(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (judged(limit=lambda scores: math.log(scores.size(1))), "fresh_accused"),
        (judged(limit=lambda scores: 2.8), "wrong_limit"),
        (judged(limit=lambda scores: math.log(len(scores)) + 1.5), "wrong_limit"),
        (judged(limit=lambda scores: 1.5 * math.log(scores.size(1))), "wrong_limit"),
        (judged(limit=lambda scores: math.log10(scores.size(1)) + 1.5), "wrong_limit"),
        (judged(softmax=lambda s: (s.sum(1) - 1).abs().max() < 1e-3), "half_looked_at"),
        (judged(softmax=lambda s: (s >= 0).all() and abs(s.sum() - len(s)) < 1e-3), "half_looked_at"),
        (
            lambda scores, targets: judged()(scores, targets) or (["no guess"] if perfect(scores, targets) else []),
            "below_accused",
        ),
        (lambda scores, targets: ", ".join(judged()(scores, targets)), "wrong_type"),
        (lambda scores, targets: print(judged()(scores, targets)), "wrong_type"),
        (lambda scores, targets: [name.replace(" ", "_") for name in judged()(scores, targets)], "wrong_type"),
        (judged(limit=lambda scores: math.log(scores.size(0)) + 40), "no_guess_missed"),
        (judged(softmax=lambda s: (s >= 0).any() and abs(s[0].sum() - 1) < 1e-3), "half_looked_at"),
        (judged(softmax=lambda s: (s >= 0).all()), "half_looked_at"),
        (judged(softmax=lambda s: (s >= 0).all() and (s.sum(1) - 1).max() < 1e-3), "half_looked_at"),
        (judged(softmax=lambda s: (s > 0).all() and (s.sum(1) - 1).abs().max() < 1e-3), "softmax_missed"),
        (judged(softmax=lambda s: (s >= 0).all() and (s.sum(1) - 1).abs().max() < 0.1), "half_looked_at"),
        (judged(softmax=lambda s: distributions(s) or distributions(s.exp())), "half_looked_at"),
        (judged(softmax=lambda s: (s.abs().sum(1) - 1).abs().max() < 1e-3), "half_looked_at"),
        (lambda scores, targets: kept.extend(judged()(scores, targets)) or set(kept), "half_looked_at"),
        (lambda scores, targets: (judged()(scores, targets), scores.zero_())[0], "inputs_changed"),
        (judged(softmax=lambda s: (s >= 0).all() and (s.sum(1) == 1).all()), "softmax_missed"),
        (judged(softmax=lambda s: (s.sum(0) - 1).abs().max() < 1e-3), "softmax_missed"),
    ],
)
def test_bad_start_refuses(answer, symptom):
    refused(check.bad_start(answer), symptom)


# odd_ones_out


def by_counter(stacks):
    from collections import Counter

    common = Counter(map(tuple, stacks.values())).most_common(1)[0][0]
    return [rank for rank in sorted(stacks) if tuple(stacks[rank]) != common]


def by_text(stacks):
    texts = {rank: "\n".join(lines) for rank, lines in stacks.items()}
    values = sorted(texts.values(), key=list(texts.values()).count)
    return sorted(rank for rank in texts if texts[rank] != values[-1])


def where_some_still_are(stacks):
    """Takes for the measure what is most frequent among the ranks that have not returned."""
    lines = [stack for stack in stacks.values() if stack]
    return [rank for rank in sorted(stacks) if stacks[rank] != max(lines, key=lines.count)]


def of_a_majority(stacks):
    lines = list(stacks.values())
    most = [stack for stack in lines if lines.count(stack) > len(lines) / 2]
    return [rank for rank in by_counter(stacks) if most]


@pytest.mark.parametrize("answer", [by_counter, by_text])
def test_odd_ones_out_accepts(answer):
    accepted(check.odd_ones_out(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda stacks: by_counter({rank: lines[-1:] for rank, lines in stacks.items()}), "innermost_only"),
        (lambda stacks: by_counter({rank: lines for rank, lines in stacks.items() if lines}), "returned_missed"),
        (lambda stacks: sorted(rank for rank in stacks if stacks[rank] != stacks[0]), "rank_0_is_the_measure"),
        (lambda stacks: by_counter(stacks)[:1], "one_only"),
        (lambda stacks: by_counter(stacks)[::-1], "order"),
        (lambda stacks: sorted(set(stacks) - set(by_counter(stacks))), "the_many"),
        (lambda stacks: by_counter(stacks) or [0], "nobody_is_odd"),
        (lambda stacks: sorted(r for r in stacks if list(stacks.values()).count(stacks[r]) == 1), "two_together"),
        (lambda stacks: by_counter({rank: lines[:1] + lines[-1:] for rank, lines in stacks.items()}), "ends_only"),
        (lambda stacks: by_counter({rank: lines[-2:] for rank, lines in stacks.items()}), "ends_only"),
        (lambda stacks: by_counter({rank: sorted(lines) for rank, lines in stacks.items()}), "lines_without_order"),
        (lambda stacks: [rank for rank in stacks if rank in by_counter(stacks)], "order"),
        (lambda stacks: len(by_counter(stacks)), "wrong_type"),
        (lambda stacks: sorted(by_counter(stacks), key=str), "order"),
        (where_some_still_are, "the_many"),
        (of_a_majority, "no_majority"),
        (lambda stacks: [rank for rank in range(len(stacks)) if rank in by_counter(stacks)], "some_ranks"),
        (lambda stacks: (by_counter(stacks), stacks.clear())[0], "inputs_changed"),
        (lambda stacks: [str(rank) for rank in by_counter(stacks)], "wrong_type"),
    ],
)
def test_odd_ones_out_refuses(answer, symptom):
    refused(check.odd_ones_out(answer), symptom)


# any_rank_bad


def flag(loss):
    return (~loss.detach().isfinite()).float()


def by_sum_of_flags(loss):
    bad = flag(loss)
    dist.all_reduce(bad)
    return bool(bad > 0)


def by_gathering(loss):
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, math.isfinite(loss.item()))
    return not all(everyone)


@pytest.mark.parametrize("answer", [by_sum_of_flags, by_gathering])
def test_any_rank_bad_accepts(answer):
    accepted(check.any_rank_bad(answer))


def own_only(loss):
    return not loss.isfinite().item()


def told_by_rank_0(loss):
    bad = flag(loss)
    dist.broadcast(bad, src=0)
    return bool(bad)


def reduced_to_rank_0(loss):
    bad = flag(loss)
    dist.reduce(bad, dst=0)
    return bool(bad)


def nan_alone(loss):
    bad = loss.detach().isnan().float()
    dist.all_reduce(bad)
    return bool(bad)


def without_minus_infinity(loss):
    bad = (loss.detach().isnan() | (loss == math.inf)).float()
    dist.all_reduce(bad)
    return bool(bad)


def all_bad(loss):
    bad = flag(loss)
    dist.all_reduce(bad, op=dist.ReduceOp.MIN)
    return bool(bad)


def only_if_bad(loss):
    if own_only(loss):
        dist.all_reduce(flag(loss))
        return True
    return False


def sum_of_losses(loss):
    total = loss.detach().clone()
    dist.all_reduce(total)
    return not bool(total.isfinite())


def negative_too(loss):
    bad = 1 - (loss.detach().isfinite() & (loss >= 0)).float()
    dist.all_reduce(bad)
    return bool(bad)


def count_of_good(loss):
    good = 1 - flag(loss)
    dist.all_reduce(good)
    return bool(good)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (own_only, "own_loss_only"),
        (told_by_rank_0, "rank_0_decides"),
        (reduced_to_rank_0, "ranks_disagree"),
        (nan_alone, "nan_only"),
        (without_minus_infinity, "minus_infinity_missed"),
        (lambda loss: (by_sum_of_flags(loss), loss.backward())[0], "backward_called"),
        (all_bad, "all_not_any"),
        (lambda loss: False, "never"),
        (lambda loss: (by_sum_of_flags(loss), loss.detach_())[0], "inputs_changed"),
        (lambda loss: (by_sum_of_flags(loss), loss.data.zero_())[0], "inputs_changed"),
        (lambda loss: print(by_gathering(loss)), "wrong_type"),
        (lambda loss: str(by_gathering(loss)), "wrong_type"),
        (count_of_good, "good_accused"),
        (sum_of_losses, "good_accused"),
        (negative_too, "good_accused"),
    ],
)
def test_any_rank_bad_refuses(answer, symptom):
    refused(check.any_rank_bad(answer), symptom)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1.0, 20.0], ids=["hangs", "is left alone"])
def test_any_rank_bad_refuses_a_collective_that_only_some_call(monkeypatch, limit):
    monkeypatch.setattr(check.hangs, "TIME_LIMIT", limit)
    refused(check.any_rank_bad(only_if_bad), "hang")


@pytest.mark.parametrize(
    "name",
    [
        "first_bad_layer",
        "safe_distance",
        "unchanged",
        "mixes_samples",
        "bad_start",
        "odd_ones_out",
        "any_rank_bad",
    ],
)
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"
