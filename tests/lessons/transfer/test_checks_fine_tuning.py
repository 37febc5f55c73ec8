"""The checks of 07's first notebook accept right answers built in different ways, and name wrong ones' symptoms."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD, MNIST_MEAN, MNIST_STD
from torchcourse.error_bars import paired, t95
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, mnist_cnn
from torchcourse.lessons.transfer.checks import fine_tuning as check
from torchcourse.lessons.transfer.features import extract
from torchcourse.lessons.transfer.finetune import freeze, freeze_norms, rate_groups
from verdicts import accepted, refused, todo

BODY = mnist_cnn()


@pytest.mark.parametrize("name", ["features", "freeze_body", "two_rates", "prepare", "choose"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


def one_by_one(body, pixels, top):
    frozen = copy.deepcopy(body).eval()
    return torch.cat([frozen(body.scaling(pixel[None] * 1.0, top)).detach() for pixel in pixels])


def by_the_package(body, pixels, top):
    return extract(body, body.scaling(pixels, top))


@pytest.mark.parametrize("answer", [one_by_one, by_the_package])
def test_right_features(answer, monkeypatch):
    accepted(check.features(answer))


def through_a_hook(body, pixels, top):
    seen = {}
    body.eval().register_forward_hook(lambda *passed: seen.update(out=passed[-1].detach()))
    body(body.scaling(pixels, top))
    return seen["out"]


def without_tracking(body, pixels, top):
    for module in body.modules():
        module.track_running_stats = False
    return by_the_package(body.eval(), pixels, top)


def after_a_backward_pass(body, pixels, top):
    out = body.eval()(body.scaling(pixels, top))
    out.sum().backward()
    return out.detach()


def with_frozen_norms(body, pixels, top):
    freeze_norms(body)
    return by_the_package(body, pixels, top)


def with_the_constants_of_mnist(body, pixels, top):
    return extract(body, MNIST_SCALING(pixels, top))


@torch.no_grad()
def in_half_precision(body, pixels, top):
    return body.eval().half()(body.scaling(pixels, top).half()).float()


def then_in_training_mode(body, pixels, top):
    out = by_the_package(body, pixels, top)
    body.train()
    return out


@torch.inference_mode()
def as_inference(body, pixels, top):
    return body.eval()(body.scaling(pixels, top))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda body, pixels, top: body(body.scaling(pixels, top)).detach(), "statistics"),
        (lambda body, pixels, top: copy.deepcopy(body)(body.scaling(pixels, top)).detach(), "training_mode"),
        (lambda body, pixels, top: body.eval()(body.scaling(pixels, top)), "graph"),
        (lambda body, pixels, top: body.eval().requires_grad_(False)(body.scaling(pixels, top)), "frozen_for_ever"),
        (lambda body, pixels, top: extract(body, body.scaling(pixels, pixels.max().item())), "white_measured"),
        (as_inference, "inference"),
        (lambda body, pixels, top: (by_the_package(body, pixels, top), pixels.zero_())[0], "inputs_changed"),
        (
            lambda body, pixels, top: extract(body, F.interpolate(pixels, size=(28, 28), mode="bilinear") / 255),
            "scaling",
        ),
        (with_the_constants_of_mnist, "scaling"),
        (then_in_training_mode, "left_in_training_mode"),
        (in_half_precision, "weights_changed"),
        (lambda body, pixels, top: extract(body[:-1], body.scaling(pixels, top)), "wrong_value"),
        (lambda *given: (lambda out: (out - out.mean(0)) / out.std(0))(by_the_package(*given)), "not_finite"),
        (lambda *given: 1.0005 * by_the_package(*given), "wrong_value"),  # nearly right in any of the known scalings
        (lambda body, pixels, top: extract(body[:3], body.scaling(pixels, top)), "shape"),
        (lambda body, pixels, top: by_the_package(body, pixels, top).half(), "dtype"),
        (lambda body, pixels, top: by_the_package(body, pixels, top).double(), "dtype"),
        (lambda body, pixels, top: extract(mnist_cnn(), body.scaling(pixels, top)), "loaded_anew"),
        (through_a_hook, "backbone_changed"),
        (without_tracking, "backbone_changed"),
        (with_frozen_norms, "backbone_changed"),
        (after_a_backward_pass, "backbone_changed"),
    ],
)
def test_wrong_features(answer, symptom):
    refused(check.features(answer), symptom)


def test_features_that_ask_for_gradients_are_not_said_to_hang_on_a_graph():
    verdict = check.features(lambda *given: by_the_package(*given).requires_grad_())
    refused(verdict, "graph")
    assert "or of their own" in verdict.message


def with_the_package(model):
    freeze(model, "body")
    freeze_norms(model.body)


def with_an_own_train(model):
    model.body.requires_grad_(False).eval()
    model.body.train = lambda mode=True: model.body


def only_gradients(model):
    model.body.requires_grad_(False)


def eval_once(model):
    model.body.requires_grad_(False).eval()


def no_momentum(model):
    model.body.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
            module.num_batches_tracked = None


def norms_only(model):
    freeze_norms(model)


def everything(model):
    model.requires_grad_(False)


def zeros(model):
    with_the_package(model)
    nn.init.ones_(model.head.weight)


def with_an_own_class(model):
    class Frozen(type(model.body)):
        def train(self, mode=True):
            return super().train(False)

    model.body.__class__ = Frozen
    model.body.requires_grad_(False).eval()


def before_each_pass(model):
    model.body.requires_grad_(False)
    model.body.register_forward_pre_hook(lambda body, _: body.eval() and None)


def with_a_hook_that_returns(model):
    model.register_forward_pre_hook(lambda whole, _: whole.body.eval())


def for_every_backbone(model):
    model.body.requires_grad_(False).eval()
    type(model.body).train = lambda self, mode=True: self


def for_every_norm(model):
    model.body.requires_grad_(False).eval()
    nn.BatchNorm2d.train = lambda self, mode=True: self


def always_with_a_mode(model):
    model.body.requires_grad_(False).eval()
    model.body.train = lambda mode: model.body


def in_inference_mode(model):
    forward = model.body.forward
    model.body.forward = torch.inference_mode()(lambda x: (model.body.eval(), forward(x))[1])


def as_buffers(model):
    for module in model.body.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    with_an_own_train(model)


def the_outer_norms(model):
    model.body.requires_grad_(False)
    for module in model.body.children():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda mode=True, norm=module: norm


def for_the_head_too(model):
    model.eval().body.requires_grad_(False)
    model.train = lambda mode=True: model


def loaded_anew(model):
    model.body = mnist_cnn()
    with_the_package(model)


def without_a_mode(model):
    model.body.requires_grad_(False).eval()
    model.body.train = lambda: model.body


def eval_too_late(model):
    model.body.requires_grad_(False)
    model.body.train = lambda mode=True: model.body
    model.body.eval()


def train_that_calls_eval(model):
    model.body.requires_grad_(False)
    model.body.train = lambda mode=True: model.body.eval()


def train_and_then_eval(model):
    train_that_calls_eval(model)
    model.body.eval()


def in_a_box(model):
    model.body = nn.Sequential(model.body)


def zero_gradients(model):
    freeze_norms(model.body)
    for parameter in model.body.parameters():
        parameter.register_hook(torch.zeros_like)


def not_tracking(model):
    model.body.requires_grad_(False)
    for module in model.body.modules():
        module.track_running_stats = False


@pytest.mark.parametrize("answer", [with_the_package, with_an_own_train, with_an_own_class, before_each_pass])
def test_right_freezing(answer):
    accepted(check.freeze_body(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (only_gradients, "statistics_move"),
        (eval_once, "statistics_move"),
        (the_outer_norms, "statistics_move"),
        (norms_only, "weights_move"),
        (everything, "head_frozen"),
        (zeros, "changed_at_once"),
        (lambda model: None, "weights_move"),
        (with_a_hook_that_returns, "hook_returns"),
        (for_every_backbone, "all_models"),
        (for_every_norm, "all_models"),
        (without_a_mode, "train_call"),
        (always_with_a_mode, "train_call"),
        (for_the_head_too, "head_not_training"),
        (in_inference_mode, "inference"),
        (as_buffers, "no_parameters"),
        (loaded_anew, "body_replaced"),
        (eval_too_late, "eval_after_train"),
        (train_that_calls_eval, "train_calls_itself"),
        (train_and_then_eval, "train_calls_itself"),
        (in_a_box, "body_replaced"),
        (zero_gradients, "weights_move"),
        (not_tracking, "batch_statistics"),
    ],
)
def test_wrong_freezing(answer, symptom):
    refused(check.freeze_body(answer), symptom)
    assert all(module.training for module in copy.deepcopy(BODY).train().modules())  # no class is left changed


def test_frozen_statistics_that_are_not_used_are_refused():
    def stops_tracking(model):
        model.body.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = lambda x, m=module: F.batch_norm(x, None, None, m.weight, m.bias, training=True)

    refused(check.freeze_body(stops_tracking), "batch_statistics")


def groups(model, body_rate, head_rate, body=None, head=None):
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    body = [p for name, p in learning.items() if name.startswith("body")] if body is None else body
    head = [p for name, p in learning.items() if name.startswith("head")] if head is None else head
    return [{"params": body, "lr": body_rate}, {"params": head, "lr": head_rate}]


def learning(model):
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def of_the_outer_layers(model):
    return [p for layer in model.body.children() for p in layer.parameters(recurse=False) if p.requires_grad]


def a_group_each(model, body_rate, head_rate):
    return [
        {"params": p, "lr": head_rate if name.startswith("head.") else body_rate}
        for name, p in model.named_parameters()
        if p.requires_grad
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        groups,
        a_group_each,
        lambda *a: tuple(groups(*a)),
        lambda model, body, head: groups(model, torch.tensor(body), torch.tensor(head)),
        lambda m, b, h: groups(
            m,
            b,
            h,
            *([named for named in part.named_parameters() if named[1].requires_grad] for part in (m.body, m.head)),
        ),
        lambda model, body, head: rate_groups(model, {"body": body, "head": head}),
    ],
)
def test_right_rates(answer):
    verdict = check.two_rates(answer)
    accepted(verdict)
    assert "beats scratch by +0." in verdict.message


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda m, b, h: groups(m, b, h, body=list(m.body.parameters())), "frozen_included"),
        (lambda m, b, h: groups(m, b, h, head=list(m.head.parameters())), "frozen_included"),
        (lambda m, b, h: groups(m, b, h)[1:], "missing"),
        (lambda m, b, h: groups(m, b, h, head=[m.head.weight]), "missing"),
        (lambda m, b, h: groups(m, b, h, body=of_the_outer_layers(m)), "missing"),
        (lambda m, b, h: groups(m, b, h, body=[p for p in m.parameters() if p.requires_grad]), "twice"),
        (lambda m, b, h: groups(m, h, b), "swapped"),
        (lambda m, b, h: groups(m, h, h), "one_rate"),
        (lambda m, b, h: groups(m, b / 2, h), "rate"),
        (
            lambda m, b, h: [{"params": [p], "lr": h if "head" in n else b} for n, p in learning(m)],
            "head_in_the_name",
        ),
        (lambda m, b, h: groups(m, 1e-3, 1e-2), "rate"),
        (lambda m, b, h: groups(m.requires_grad_(True), b, h), "frozen_changed"),
        (lambda m, b, h: groups(m, b, h, body=[*m.body.requires_grad_(False).parameters()]), "frozen_changed"),
        (lambda m, b, h: nn.init.ones_(m.head.weight) is not None and groups(m, b, h), "weights_changed"),
        (lambda m, b, h: groups(m, str(b), h), "wrong_type"),
        (lambda m, b, h: groups(m, [b], h), "wrong_type"),
        (lambda m, b, h: {"body": b, "head": h}, "wrong_type"),
        (lambda m, b, h: [{"params": g["params"], "rate": g["lr"]} for g in groups(m, b, h)], "wrong_type"),
        (lambda m, b, h: [*groups(m, b, h)[:1], {"params": [*m.head.parameters()]}], "wrong_type"),
        (lambda m, b, h: groups(m, b, h, head=set(m.head.parameters())), "wrong_type"),
        (lambda m, b, h: groups(m, b, h, head=m.head.parameters), "wrong_type"),
        (lambda m, b, h: [{"params": ["body"], "lr": b}, {"params": ["head"], "lr": h}], "foreign"),
    ],
)
def test_wrong_rates(answer, symptom):
    refused(check.two_rates(answer), symptom)


def test_groups_that_learn_nothing_gain_nothing(monkeypatch):
    monkeypatch.setattr(check, "SEEDS", 2)
    monkeypatch.setattr(check, "accuracy", lambda *_: 0.1)
    refused(check.two_rates(groups), "no_gain")


def resized(pixels):
    return F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)


def in_whites(pixels):
    return (resized(pixels) - 16 * MNIST_MEAN) / (16 * MNIST_STD)


@pytest.mark.parametrize("answer", [in_whites, lambda pixels: resized((pixels / 16 - MNIST_MEAN) / MNIST_STD)])
def test_right_scalings(answer):
    accepted(check.prepare(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda pixels: (resized(pixels) / 255 - MNIST_MEAN) / MNIST_STD, "still_255"),
        (lambda pixels: resized(pixels) / 16, "no_mean"),
        (lambda pixels: (resized(pixels) - DIGITS_MEAN) / DIGITS_STD, "own_statistics"),
        (lambda pixels: (resized(pixels) / 16 - DIGITS_MEAN) / DIGITS_STD, "own_statistics"),
        (lambda pixels: resized(pixels) / 16 - MNIST_MEAN, "no_deviation"),
        (lambda pixels: (resized(pixels) - MNIST_MEAN) / MNIST_STD, "white_left_out"),
        (lambda pixels: resized(pixels) / 16 - MNIST_MEAN / MNIST_STD, "mean_divided"),
        (lambda pixels: resized(pixels) / 16 / MNIST_STD - MNIST_MEAN, "wrong_way_round"),
        (lambda pixels: (resized(pixels) / 16 - MNIST_STD) / MNIST_MEAN, "wrong_way_round"),
        (resized, "not_scaled"),
        (lambda pixels: (resized(pixels) - resized(pixels).mean()) / resized(pixels).std(), "per_batch"),
        (lambda pixels: (resized(pixels) / pixels.max() - MNIST_MEAN) / MNIST_STD, "white_measured"),
        (lambda p: (resized(p / p.amax((1, 2, 3), True)) - MNIST_MEAN) / MNIST_STD, "white_measured"),
        (
            lambda p: (resized(p) - resized(p).mean((1, 2, 3), True)) / resized(p).std((1, 2, 3), keepdim=True),
            "per_picture",
        ),
        (lambda pixels: (resized(pixels) / 16 - 0.13) / 0.31, "wrong_value"),
        (lambda pixels: (resized(pixels) / 16 - MNIST_MEAN) / 0.31, "wrong_value"),  # the lightest pixel is white
        (lambda pixels: (resized(pixels) // 16 - MNIST_MEAN) / MNIST_STD, "wrong_value"),
        (lambda pixels: (pixels / 16 - MNIST_MEAN) / MNIST_STD, "shape"),
        (lambda pixels: (resized(pixels.div_(16)) - MNIST_MEAN) / MNIST_STD, "inputs_changed"),
        (lambda pixels: in_whites(pixels).half(), "dtype"),
    ],
)
def test_wrong_scalings(answer, symptom):
    refused(check.prepare(answer), symptom)


def test_a_pixel_that_is_wrong_within_the_range_is_said_to_be():
    verdict = check.prepare(lambda pixels: (resized(pixels).round() / 16 - MNIST_MEAN) / MNIST_STD)
    refused(verdict, "wrong_value")
    assert "as they should, and yet a pixel differs by up to 0.10" in verdict.message


def best_of(accuracies):
    return max(accuracies, key=lambda name: np.mean(accuracies[name]))


def by_pairs(accuracies, seconds, margin):
    best = accuracies[best_of(accuracies)]
    for name in sorted(seconds, key=seconds.get):
        if paired(best, accuracies[name]).high < margin:
            return name


def by_hand(accuracies, seconds, margin):
    best, level = best_of(accuracies), []
    for name, values in accuracies.items():
        d = [a - b for a, b in zip(accuracies[best], values, strict=True)]
        mean = sum(d) / len(d)
        variance = sum((x - mean) ** 2 for x in d) / (len(d) - 1)
        if mean + t95(len(d) - 1) * (variance / len(d)) ** 0.5 < margin:
            level.append(name)
    return min(level, key=lambda name: seconds[name])


def by_margin(accuracies, seconds, margin):
    best = accuracies[best_of(accuracies)]
    level = [name for name, values in accuracies.items() if paired(values, best).at_most_below(margin)]
    return min(level, key=seconds.get)


@pytest.mark.parametrize("answer", [by_pairs, by_hand, by_margin])
def test_right_choices(answer):
    accepted(check.choose(answer))


def ends(at):
    """Choose by an interval that ends `at(best, values)`, which may be wrong."""

    def answer(accuracies, seconds, margin):
        best = accuracies[best_of(accuracies)]
        level = [n for n, v in accuracies.items() if v is best or at(np.array(best), np.array(v)) < margin]
        return min(level, key=seconds.get)

    return answer


def not_clearly_below(accuracies, seconds, margin):
    best = accuracies[best_of(accuracies)]
    level = [n for n, v in accuracies.items() if paired(best, v).within(margin) or not paired(best, v).clear]
    return min(level, key=seconds.get)


def any_level(accuracies, seconds, margin):
    best = accuracies[best_of(accuracies)]
    level = [n for n in accuracies if paired(best, accuracies[n]).high < margin]
    return sorted(level, key=seconds.get)[min(1, len(level) - 1)] if len(level) > 2 else min(level, key=seconds.get)


def luckiest(accuracies, seconds, margin):
    best = max(accuracies.values(), key=max)
    return min((name for name in accuracies if paired(best, accuracies[name]).high < margin), key=seconds.get)


def steadiest(accuracies, seconds, margin):
    best = max(accuracies.values(), key=np.median)
    return min((name for name in accuracies if paired(best, accuracies[name]).high < margin), key=seconds.get)


def without_the_best(accuracies, seconds, margin):
    best = best_of(accuracies)
    level = [n for n, v in accuracies.items() if n != best and paired(accuracies[best], v).high < margin]
    return min(level, key=seconds.get, default=best)


def step_by_step(accuracies, seconds, margin):
    kept, *others = sorted(accuracies, key=lambda name: -np.mean(accuracies[name]))
    for name in others:
        if paired(accuracies[kept], accuracies[name]).high < margin and seconds[name] < seconds[kept]:
            kept = name
    return kept


def takes_the_best_out(accuracies, seconds, margin):
    name = best_of(accuracies)
    best = accuracies.pop(name)
    return min([name, *(n for n, v in accuracies.items() if paired(best, v).high < margin)], key=seconds.get)


def in_order(accuracies, seconds, margin):
    return by_pairs({name: sorted(values) for name, values in accuracies.items()}, seconds, margin)


def apart(one, other):
    return (one.var(ddof=1) / 16 + other.var(ddof=1) / 16) ** 0.5


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda accuracies, seconds, margin: best_of(accuracies), "highest_mean"),
        (lambda accuracies, seconds, margin: min(seconds, key=seconds.get), "cheapest"),
        (ends(lambda best, v: (best - v).mean() + 2.13 * apart(best, v)), "unpaired"),
        (ends(lambda best, v: (best - v).mean() + 2.13 * (best - v).std(ddof=1)), "deviation"),
        (not_clearly_below, "open"),
        (ends(lambda best, v: (best - v).mean()), "mean_only"),
        (ends(lambda best, v: (best - v).mean() + 2 * (best - v).std(ddof=1) / 4), "short_interval"),
        (ends(lambda best, v: (best - v).mean() + 2.131 * (best - v).std() / 4), "short_interval"),
        (lambda accuracies, seconds, margin: by_pairs(accuracies, seconds, 0.01), "other_margin"),
        (any_level, "not_cheapest"),
        (lambda accuracies, seconds, margin: 0.9, "no_method"),
        (lambda accuracies, seconds, margin: [*accuracies], "no_method"),
        (luckiest, "luckiest_seed"),
        (steadiest, "median"),
        (without_the_best, "best_left_out"),
        (step_by_step, "step_by_step"),
        (lambda a, s, m: min((n for n in a if paired(a[max(s, key=s.get)], a[n]).high < m), key=s.get), "dearest"),
        (takes_the_best_out, "inputs_changed"),
        (in_order, "sorted"),
        (ends(lambda best, v: abs(best - v).mean() + 2.1315 * abs(best - v).std(ddof=1) / 4), "absolute"),
        (ends(lambda best, v: (best - v).mean() + 2.95 * (best - v).std(ddof=1) / 4), "wide_interval"),
        (ends(lambda best, v: (best - v).mean() + t95(14) * (best - v).std(ddof=1) / 4), "wide_interval"),
        (ends(lambda best, v: (best - v).mean() + t95(16) * (best - v).std(ddof=1) / 4), "short_interval"),
    ],
)
def test_wrong_choices(answer, symptom):
    refused(check.choose(answer), symptom)
