"""The checks of lesson 07, notebook 2, accept right answers built in different ways and name wrong ones' symptoms."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.lessons.data_parallelism.data_parallel import average_gradients
from torchcourse.lessons.transfer.checks import lora as check
from torchcourse.lessons.transfer.finetune import freeze, trainable_bytes, unfreeze
from torchcourse.lessons.transfer.lora import LoRALinear
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["own_lora", "merged", "training_bytes", "forgetting", "unfreeze_in_stages"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


class Own(nn.Module):
    """A right answer; each flag is a mistake."""

    def __init__(self, base, rank, alpha, **mistakes):
        super().__init__()
        self.base = (lambda x: base(x)) if "hidden" in mistakes else base
        self.mistakes, self.scale = mistakes, mistakes.get("scale", lambda a, r: a / r)(alpha, rank)
        if "not_frozen" not in mistakes:
            base.requires_grad_(False)
        down, up = torch.randn(rank, base.in_features), torch.zeros(base.out_features, rank)
        if "zeros" in mistakes:
            down.zero_()
        if "seeded" in mistakes:
            torch.manual_seed(0)
        if "capped" in mistakes:
            down, up = down[:4], up[:, :4]
        if "ones" in mistakes:
            down.fill_(1.0)
        if "small" in mistakes:
            down *= 1e-20
        if "random_up" in mistakes:
            up.normal_()
        if "plain" in mistakes:
            self.down, self.up = down, up
        else:
            self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        if "down_frozen" in mistakes:
            self.down.requires_grad_(False)
        if "turned" in mistakes:
            self.down = nn.Parameter(down.T.clone())

    def forward(self, x):
        added = self.scale * (x @ self.down.T @ self.up.T)
        if "alone" in self.mistakes:
            return added + (self.base(x) if self.up.abs().sum() == 0 else 0)
        if "no_graph" in self.mistakes:
            added = added.detach()
        if "into_base" in self.mistakes:
            with torch.no_grad():
                self.base.weight += 1e-3
        if "base_without_graph" in self.mistakes:
            return self.base(x).detach() + added
        return self.base(x) + added


class Product(nn.Module):
    """Another right answer: the product of both matrices is added to the weight on the way."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.register_parameter("down", nn.Parameter(torch.rand(rank, base.in_features)))
        self.register_parameter("up", nn.Parameter(torch.zeros(base.out_features, rank)))
        self.inner, self.alpha = base.requires_grad_(False), alpha

    def forward(self, x):
        weight = self.inner.weight + self.alpha * (self.up / len(self.down)) @ self.down
        return nn.functional.linear(x, weight, self.inner.bias)


class Kept(nn.Module):
    """And one that keeps the old numbers in buffers."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.register_buffer("weight", base.weight.detach().clone())
        self.register_buffer("bias", None if base.bias is None else base.bias.detach().clone())
        self.down = nn.Parameter(torch.zeros(rank, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x):
        added = torch.einsum("...i,ri,or->...o", x, self.down, self.up)
        return nn.functional.linear(x, self.weight, self.bias) + self.scale * added


class Listed(Own):
    """Holds its two parameters in a list, where no module looks for any."""

    def __init__(self, *args):
        super().__init__(*args)
        self.parts = [self.__dict__["_parameters"].pop(name) for name in ("down", "up")]

    down, up = (property(lambda self, at=at: self.parts[at], lambda self, part: None) for at in (0, 1))


class Boxed(nn.Module):
    """The package's layer inside."""

    def __init__(self, *args):
        super().__init__()
        self.inner = LoRALinear(*args)
        self.down, self.up, self.forward = self.inner.down, self.inner.up, self.inner.forward


@pytest.mark.parametrize("answer", [LoRALinear, type("OwnLoRA", (LoRALinear,), {}), Boxed])
def test_an_adapter_of_the_package_is_not_the_learners_own(answer):
    refused(check.own_lora(answer), "library_call")


def test_parameters_that_no_module_has_are_not_found():
    refused(check.own_lora(Listed), "no_parameters")


@pytest.mark.parametrize("answer", [Own, Product, Kept])
def test_right_adapters(answer):
    accepted(check.own_lora(answer))


@pytest.mark.parametrize(
    ("mistakes", "symptom"),
    [
        ({"not_frozen": 1}, "not_frozen"),
        ({"zeros": 1}, "never_learns"),
        ({"random_up": 1}, "not_at_start"),
        ({"plain": 1}, "no_parameters"),
        ({"down_frozen": 1}, "not_frozen"),
        ({"turned": 1}, "shape"),
        ({"scale": lambda alpha, rank: 1}, "no_scale"),
        ({"scale": lambda alpha, rank: alpha}, "alpha_only"),
        ({"scale": lambda alpha, rank: rank / alpha}, "scale_inverted"),
        ({"alone": 1}, "no_base"),
        ({"scale": lambda alpha, rank: alpha // rank}, "never_learns"),
        ({"no_graph": 1}, "no_graph"),
        ({"hidden": 1}, "base_not_kept"),
        ({"into_base": 1}, "base_changed"),
        ({"ones": 1}, "equal_rows"),
        ({"small": 1}, "too_small"),
        ({"seeded": 1}, "global_seed"),
        ({"capped": 1}, "shape"),
        ({"base_without_graph": 1}, "input_gradient"),
    ],
)
def test_wrong_adapters(mistakes, symptom):
    refused(check.own_lora(lambda base, rank, alpha: Own(base, rank, alpha, **mistakes)), symptom)


def test_other_wrong_adapters():
    refused(check.own_lora(lambda base, rank, alpha: base.weight), "no_module")
    verdict = check.own_lora(lambda base, rank, alpha: Own(base, rank, alpha, scale=lambda alpha, rank: alpha // rank))
    assert "both are zero" not in verdict.message  # one of them is not


def new_layer(layer, factor=None, base=1.0, bias=True):
    plain = copy.deepcopy(layer.base)
    scale = layer.scale if factor is None else factor
    plain.weight.data = base * layer.base.weight.data + scale * (layer.up @ layer.down).detach()
    if plain.bias is not None and not bias:
        plain.bias.data.zero_()
    return plain


def by_the_unit_vectors(layer):
    inputs, kind = layer.base.in_features, layer.base.weight.dtype
    plain = nn.Linear(inputs, layer.base.out_features, dtype=kind)
    with torch.no_grad():
        plain.bias.copy_(layer(torch.zeros(inputs, dtype=kind)))
        plain.weight.copy_((layer(torch.eye(inputs, dtype=kind)) - plain.bias).T)
    return plain


def in_single_precision(layer):
    return new_layer(layer).float()


def emptying_the_adapter(layer):
    plain = new_layer(layer)
    layer.up.data.zero_()
    return plain


def thawing(layer):
    plain = new_layer(layer)
    layer.base.requires_grad_(True)
    return plain


kept: dict[int, nn.Linear] = {}


def added_to_the_kept(layer):
    plain = kept.setdefault(id(layer), new_layer(layer, factor=0))
    plain.weight.data += layer.scale * (layer.up @ layer.down).detach()
    return plain


def as_a_subclass(layer):
    kind = type("Plain", (nn.Linear,), {"forward": lambda self, x: layer(x)})
    return kind(layer.base.in_features, layer.base.out_features)


def turned_sizes(layer):
    plain, right = nn.Linear(layer.base.out_features, layer.base.in_features), new_layer(layer)
    plain.weight, plain.bias = right.weight, right.bias
    return plain


def with_the_old_bias(layer):
    plain = new_layer(layer)
    plain.bias = layer.base.bias
    return plain


def with_a_plain_tensor(layer):
    plain = new_layer(layer)
    weight = plain.weight.detach().clone()
    del plain.weight
    plain.weight = weight
    return plain


def that_asks_the_old_layer(layer):
    plain = new_layer(layer, factor=0)
    plain.forward = layer.forward
    return plain


def switching_off(layer):
    plain = new_layer(layer)
    layer.enabled = False
    return plain


def with_a_drawn_bias(layer):
    """Where the base has no bias, the new layer's is left as it was drawn."""
    plain = nn.Linear(layer.base.in_features, layer.base.out_features).to(layer.base.weight.dtype)
    with torch.no_grad():
        plain.weight.copy_(layer.base.weight + layer.scale * layer.up @ layer.down)
        if layer.base.bias is not None:
            plain.bias.copy_(layer.base.bias)
    return plain


@pytest.mark.parametrize("answer", [new_layer, by_the_unit_vectors, lambda layer: copy.deepcopy(layer).merged()])
def test_right_merges(answer):
    accepted(check.merged(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda layer: new_layer(layer, factor=0), "no_adapter"),
        (lambda layer: new_layer(layer, factor=1), "no_scale"),
        (lambda layer: new_layer(layer, bias=False), "no_bias"),
        (lambda layer: new_layer(layer, base=0.0), "no_base"),
        (lambda layer: new_layer(layer, base=2.0), "wrong_value"),
        (lambda layer: layer.merged(), "in_place"),
        (lambda layer: layer, "not_linear"),
        (lambda layer: layer.change(), "not_linear"),
        (as_a_subclass, "not_linear"),
        (turned_sizes, "sizes"),
        (switching_off, "layer_changed"),
        (with_the_old_bias, "shared"),
        (with_a_plain_tensor, "no_parameters"),
        (that_asks_the_old_layer, "forward_replaced"),
        (in_single_precision, "dtype"),
        (emptying_the_adapter, "layer_changed"),
        (thawing, "layer_changed"),
        (added_to_the_kept, "remembered"),
        (with_a_drawn_bias, "extra_bias"),
    ],
)
def test_wrong_merges(answer, symptom):
    refused(check.merged(answer), symptom)


def total(parameters):
    return sum(parameter.nbytes for parameter in parameters)


def learning(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def by_hand(model):
    return total(model.parameters()), 3 * total(learning(model))


def with_gradients(model):
    for parameter in learning(model):
        parameter.grad = torch.zeros_like(parameter)
    return by_hand(model)


def as_the_first_number(model):
    size = next(model.parameters()).element_size()
    count = [sum(p.numel() for p in some) * size for some in (model.parameters(), learning(model))]
    return count[0], 3 * count[1]


def of_layers_that_learn(model):
    """Takes a layer for learning as a whole where its first parameter learns."""
    learn = {}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        learn |= {id(p): p.nbytes for p in own if own[0].requires_grad}
    return 3 * sum(learn.values())


def with_the_package(model):
    storages = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    return sum(storages.values()), 3 * trainable_bytes(model)


@pytest.mark.parametrize("answer", [by_hand, with_the_package, lambda model: list(by_hand(model))])
def test_right_bytes(answer):
    accepted(check.training_bytes(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda m: by_hand(m)[::-1], "swapped"),
        (lambda m: (sum(p.numel() for p in m.parameters()), by_hand(m)[1]), "not_bytes"),
        (lambda m: (4 * sum(p.numel() for p in m.parameters()), by_hand(m)[1]), "four_bytes"),
        (lambda m: (total(learning(m)), by_hand(m)[1]), "frozen_left_out"),
        (lambda m: (total(p for _, p in m.named_parameters(remove_duplicate=False)), by_hand(m)[1]), "counted_twice"),
        (lambda m: (total(m.parameters()), 3 * total(m.parameters())), "frozen_counted"),
        (lambda m: (total(m.parameters()), total(learning(m))), "no_optimizer"),
        (lambda m: (total(m.parameters()), 2 * total(learning(m))), "one_moment"),
        (lambda m: (total(m.parameters()), 4 * total(learning(m))), "weights_again"),
        (lambda m: sum(by_hand(m)), "wrong_type"),
        (lambda m: by_hand(m.requires_grad_(True)), "model_changed"),
        (lambda m: by_hand(m.requires_grad_(False)), "model_changed"),
        (lambda m: (0, 0), "wrong_value"),
        (lambda m: ([total(m.parameters())], [3 * total(learning(m))]), "wrong_type"),
        (with_gradients, "gradients_made"),
        (lambda m: (total([*m.parameters(), *m.buffers()]), by_hand(m)[1]), "buffers_counted"),
        (lambda m: (total(m.parameters()), of_layers_that_learn(m)), "frozen_counted"),
        (as_the_first_number, "four_bytes"),
    ],
)
def test_wrong_bytes(answer, symptom):
    refused(check.training_bytes(answer), symptom)


def from_the_best(accuracy):
    return (accuracy[:-1, :-1].max(dim=0).values - accuracy[-1, :-1]).mean()


def by_loops(accuracy):
    tasks = len(accuracy)
    return sum(max(accuracy[i][j] for i in range(tasks - 1)) - accuracy[-1][j] for j in range(tasks - 1)) / (tasks - 1)


@pytest.mark.parametrize("answer", [from_the_best, by_loops, lambda a: from_the_best(a.float()).item()])
def test_right_measures(answer):
    accepted(check.forgetting(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda a: -from_the_best(a), "sign"),
        (lambda a: (a.max(dim=0).values - a[-1]).mean(), "newest_counted"),
        (lambda a: (a.diagonal()[:-1] - a[-1, :-1]).mean(), "from_another_moment"),
        (lambda a: (a[0, :-1] - a[-1, :-1]).mean(), "from_another_moment"),
        (lambda a: from_the_best(a.T), "transposed"),
        (lambda a: from_the_best(a) * (len(a) - 1), "sum"),
        (lambda a: (a[:-1].max(dim=0).values - a[-1]).mean(), "newest_counted"),
        (lambda a: a[-1], "no_number"),
        (lambda a: 100 * from_the_best(a), "percent"),
        (lambda a: 0.5, "wrong_value"),
        (lambda a: from_the_best(a).item() + 0 * a.zero_().sum().item(), "inputs_changed"),
        (lambda a: from_the_best(a) * (len(a) - 1) / len(a), "newest_counted"),
        (lambda a: (a.max(dim=0).values - a[-1])[:-1].mean(), "last_counted"),
        (lambda a: (a[:-1, :-1].max(dim=0).values - a[-1, :-1]).clamp(min=0).mean(), "last_counted"),
        (lambda a: (a[-2, :-1] - a[-1, :-1]).mean(), "from_another_moment"),
        (lambda a: (a[:-1, :-1].max(dim=1).values - a[-1, :-1]).mean(), "transposed"),
        (lambda a: (a.tril()[:-1, :-1].max(dim=0).values - a[-1, :-1]).mean(), "from_another_moment"),
        (lambda a: (a[:-1, :-1].max(dim=0).values - a[-1, :-1]).abs().mean(), "wrong_value"),
    ],
)
def test_wrong_measures(answer, symptom):
    refused(check.forgetting(answer), symptom)


def wrapped_anew(model, stages, train_stage):
    freeze(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(DistributedDataParallel(model))


def unused_found(model, stages, train_stage):
    replica = DistributedDataParallel(model, find_unused_parameters=True)
    freeze(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(replica)


class ByHand(nn.Module):
    """Averages gradients as soon as the last of them is there."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        learning = [p for p in self.model.parameters() if p.requires_grad]
        handles, left = [], len(learning)

        def ready(_):
            nonlocal left
            left -= 1
            if left == 0:
                average_gradients(self.model)
                for handle in handles:
                    handle.remove()

        handles += [p.register_post_accumulate_grad_hook(ready) for p in learning]
        return self.model(x)


def by_hand_in_stages(model, stages, train_stage):
    freeze(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(ByHand(model))


@pytest.mark.slow
@pytest.mark.parametrize("answer", [wrapped_anew, unused_found, by_hand_in_stages])
def test_right_stages(answer):
    accepted(check.unfreeze_in_stages(answer))


def wrapped_once(model, stages, train_stage):
    freeze(model)
    unfreeze(model, stages[0])
    replica = DistributedDataParallel(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(replica)


def not_wrapped(model, stages, train_stage):
    freeze(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(model)


def nothing_frozen(model, stages, train_stage):
    for _ in stages:
        train_stage(DistributedDataParallel(model))


def all_at_once(model, stages, train_stage):
    freeze(model)
    unfreeze(model, *stages)
    replica = DistributedDataParallel(model)
    for _ in stages:
        train_stage(replica)


def weights_averaged(model, stages, train_stage):
    not_wrapped(model, stages, train_stage)
    for parameter in model.parameters():
        dist.all_reduce(parameter.data)
        parameter.data /= dist.get_world_size()


def one_at_a_time(model, stages, train_stage):
    for name in stages:
        freeze(model)
        unfreeze(model, name)
        train_stage(DistributedDataParallel(model))


def by_the_beginning_of_names(model, stages, train_stage):
    freeze(model)
    for stage in stages:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name.startswith(stage))
        train_stage(DistributedDataParallel(model))


def as_the_colleague_freezes(model, stages, train_stage):
    freeze(model, "body")
    for name in stages:
        unfreeze(model, name)
        train_stage(DistributedDataParallel(model))


def weights_without_biases(model, stages, train_stage):
    freeze(model)
    for name in stages:
        model.get_submodule(name).weight.requires_grad_(True)
        train_stage(DistributedDataParallel(model))


def by_attributes(model, stages, train_stage):
    freeze(model)
    for name in stages:
        getattr(model, name).requires_grad_(True)
        train_stage(DistributedDataParallel(model))


def taking_stages_off(model, stages, train_stage):
    wrapped_anew(model, [stages.pop(0) for _ in list(stages)], train_stage)


def first_stage_only(model, stages, train_stage):
    freeze(model)
    unfreeze(model, stages[0])
    for _ in stages:
        train_stage(DistributedDataParallel(model))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (wrapped_once, "ranks_disagree"),
        (not_wrapped, "ranks_disagree"),
        (nothing_frozen, "frozen_moved"),
        (all_at_once, "all_at_once"),
        (weights_averaged, "not_one_process"),
        (first_stage_only, "stage_left_out"),
        (lambda model, stages, train_stage: None, "nothing_learned"),
        (lambda model, stages, train_stage: wrapped_anew(copy.deepcopy(model), stages, train_stage), "nothing_learned"),
        (lambda model, stages, train_stage: wrapped_anew(model, stages[::-1], train_stage), "other_stages"),
        (one_at_a_time, "other_stages"),
        (by_the_beginning_of_names, "other_stages"),
        (taking_stages_off, "left_changed"),
        (as_the_colleague_freezes, "two_stages_only"),
        (weights_without_biases, "other_stages"),
        (lambda model, stages, train_stage: wrapped_anew(model, stages[:2], train_stage), "two_stages_only"),
        (lambda model, stages, train_stage: wrapped_anew(model.eval(), stages, train_stage), "left_changed"),
    ],
)
def test_wrong_stages(answer, symptom):
    refused(check.unfreeze_in_stages(answer), symptom)


def frozen_too_late(model, stages, train_stage):
    replica = DistributedDataParallel(model)
    freeze(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(replica)


def test_freezing_after_wrapping_is_told_with_the_error():
    refused_with = check.unfreeze_in_stages(frozen_too_late)
    assert (refused_with.state, refused_with.symptom) == ("wrong", "raised_RuntimeError")
    assert "Expected to have finished reduction" in refused_with.message


def test_a_stage_may_lie_within_a_layer():
    refused_with = check.unfreeze_in_stages(by_attributes)
    assert (refused_with.state, refused_with.symptom) == ("wrong", "raised_AttributeError")
    assert "body.middle" in refused_with.message
