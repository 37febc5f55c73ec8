"""The keys of lesson 07's bank, computed again or tried out: what a question says happens is what happens."""

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from keys import Keys, close
from torchcourse.error_bars import paired
from torchcourse.lessons.transfer import few_labels
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Classifier, Scaling, mnist_cnn
from torchcourse.lessons.transfer.features import extract, norm_gap, train_head
from torchcourse.lessons.transfer.finetune import falling_rates, fine_tune, freeze, freeze_norms
from torchcourse.lessons.transfer.forgetting import blend, curves, learn, mnist_reader, results
from torchcourse.lessons.transfer.lora import LoRAConv2d, LoRALinear, adapter_state, add_lora, load_adapters, merge
from torchcourse.ranks import run_ranks
from torchcourse.ranks.who import ON_CPU

LESSON = "07_transfer_learning"
keys = Keys(LESSON)
asked, key, mistakes, program = keys.asked, keys.key, keys.mistakes, keys.program


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pixels():
    return few_labels.digit_pixels("train")[0][:128]


@pytest.fixture(scope="module")
def labels():
    return few_labels.digit_pixels("train")[1][:128]


def rows(name: str) -> list[tuple[str, list[float]]]:
    """The lines of a question's table that hold numbers, each with what stands before them."""
    lines = [re.fullmatch(r"(.*?)((?:\s+±?\s*\d+(?:\.\d+)?)+)\s*", line) for line in program(name).splitlines()]
    return [(line[1].strip(), [float(n) for n in re.findall(r"\d+(?:\.\d+)?", line[2])]) for line in lines if line]


def test_features_need_evaluation_mode(pixels):
    assert "eval" in key("which-call-is-missing")
    inputs = MNIST_SCALING(pixels, 16)
    names: dict[str, Any] = {"torch": torch, "backbone": mnist_cnn().train(), "pixels": inputs}
    exec(program("which-call-is-missing"), names)
    with torch.inference_mode():
        assert names["backbone"].training
        tens = torch.cat([names["backbone"](part) for part in inputs.split(10)])
    together = names["features"]
    assert (tens - together).abs().max() > 0.1 * together.abs().mean()
    body = names["backbone"].eval()
    torch.testing.assert_close(extract(body, inputs, 10), extract(body, inputs, 64), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(body(inputs), extract(body, inputs), rtol=1e-4, atol=1e-4)  # with gradients and without
    assert key("batches-of-ten") == "B"


def test_three_quarters_of_white():
    scaling = Scaling((127 / 255,), (128 / 255,), channels=3, side=2)
    scaled = scaling(torch.full((1, 1, 2, 2), 0.75), top=1)
    assert [key("three-quarters-of-white")] == close(scaled.unique().item())
    assert pytest.approx(-1.5) == (0.12 - 0.45) / 0.22  # "a pixel of 0.12 was −1.5"
    assert mistakes("three-quarters-of-white") == close((0.75 - 127) / 128, 0.75, (0.75 - 0.485) / 0.229, 0.75 * 255)


def test_only_the_first_norm_tells_a_wrong_scaling(pixels, labels):
    right = MNIST_SCALING(pixels, 16)
    dim, noise = right / 16, torch.rand(100)
    body = mnist_cnn()
    assert (dim.shape, dim.dtype) == (right.shape, right.dtype)
    first, last = (
        F.cross_entropy(train_head(extract(body, dim), labels, 10, steps=steps)(extract(body, dim)), labels)
        for steps in (1, 100)
    )
    assert last < first  # the loss falls on wrong inputs, too
    scaled = (noise - noise.mean()) / noise.std()
    torch.testing.assert_close([scaled.mean(), scaled.std()], [torch.tensor(0.0), torch.tensor(1.0)])
    assert norm_gap(body, dim).stretch > 5 * norm_gap(body, right).stretch
    assert key("an-alarm-without-labels") == "D"


def test_what_moved_in_a_frozen_body(pixels, labels):
    model = Classifier(mnist_cnn(), num_classes=10)
    before = copy.deepcopy(model.state_dict())
    inputs = MNIST_SCALING(pixels, 16)
    exec(program("what-moved"), {"torch": torch, "F": F, "model": model, "loader": [(inputs, labels)] * 2})
    for choice in asked("what-moved").choices:
        name = choice.text.en.strip("`")
        assert torch.equal(model.state_dict()[name], before[name]) != bool(choice.right), name


def test_the_running_mean_after_a_batch():
    norm = nn.BatchNorm1d(1).requires_grad_(False).train()
    norm.running_mean.fill_(2)
    norm(torch.tensor([[6.0], [8.0]]))
    assert norm.running_mean.item() == pytest.approx(key("running-mean-after-a-batch"))
    assert mistakes("running-mean-after-a-batch") == close(2, 0.1 * 2 + 0.9 * 7, 7)


def test_a_mode_lasts_until_the_next_call():
    model = Classifier(mnist_cnn(), num_classes=10)
    model.body.eval()
    model(torch.zeros(2, 1, 28, 28)).sum().backward()
    assert model.body.norm1.weight.grad is not None  # no mode stops gradients
    model.train()
    assert model.body.training
    assert key("eval-before-the-loop") == "C"


def test_rates_that_fall():
    rates = falling_rates(["head", "layer3", "layer2", "layer1"], top=0.01)
    assert [key("rate-of-the-fourth")] == close(rates["layer1"])
    assert mistakes("rate-of-the-fourth") == close(0.01 / 2.6**4, 0.01 * 2.6**3, 0.01 / (3 * 2.6))


@pytest.mark.slow
def test_good_weights_want_the_lower_rate():
    pixels, labels = few_labels.digit_pixels("train")
    inputs, found = MNIST_SCALING(pixels, 16), {}
    for name, rates in {"as it was": (0.01, 0.001), "turned around": (0.001, 0.01)}.items():
        for seed in range(3):
            chosen, model = few_labels.pick(labels, 5, seed), Classifier(mnist_cnn(), num_classes=10)
            data = TensorDataset(inputs[chosen], labels[chosen])
            fine_tune(model, data, dict(zip(("body", "head"), rates, strict=True)), epochs=5, batch_size=10, seed=seed)
            found.setdefault(name, []).append(few_labels.accuracy(model, inputs[-500:], labels[-500:]))
    assert np.mean(found["turned around"]) > np.mean(found["as it was"])
    assert key("rates-upside-down") == "C"


def test_an_old_optimizer_never_finds_new_parameters(pixels, labels):
    model = Classifier(mnist_cnn(), num_classes=10).eval()
    inputs, seen = MNIST_SCALING(pixels, 16), []

    def train(model, optimizer, epochs):
        for _ in range(epochs):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            gradient = model.body.dense.weight.grad
            seen.append(0.0 if gradient is None else gradient.norm().item())
            optimizer.step()

    exec(program("the-old-optimizer"), {"torch": torch, "model": model, "train": train})
    assert torch.equal(model.body.dense.weight, mnist_cnn().dense.weight)
    assert seen[:2] == [0, 0]
    assert seen[3] > seen[2] > 0  # gradients pile up
    assert key("the-old-optimizer") == "B"

    optimizer = torch.optim.AdamW(model.head.parameters())
    getattr(optimizer, key("into-the-same-optimizer")[0])({"params": model.body.dense.parameters(), "lr": 1e-4})
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]


def test_errors_of_paired_seeds():
    values = {name: np.array(numbers) for name, numbers in rows("errors-above-zero") if name != "seed"}
    tuned, frozen = values["fine-tuned"], values["frozen"]
    difference, apart = paired(tuned, frozen), tuned - frozen
    assert [key("errors-above-zero")] == close(difference.mean / difference.error)
    unpaired = ((tuned.var(ddof=1) + frozen.var(ddof=1)) / 5) ** 0.5
    assert mistakes("errors-above-zero") == close(
        apart.mean() / apart.std(ddof=1), apart.mean() / unpaired, apart.mean() / apart.std() * 5**0.5
    )
    deviation = 0.012 * 4**0.5
    assert key("seeds-for-a-third") == pytest.approx((deviation / 0.004) ** 2)
    assert mistakes("seeds-for-a-third") == [3**2, 3 * 4]


def test_which_method_is_within_the_margin_and_cheap():
    table = dict(rows("cheapest-that-is-level"))
    best = max(table, key=lambda name: table[name][0])
    enough = [name for name, row in table.items() if name == best or row[1] + row[2] < 0.010]
    assert best == "all layers tuned"
    assert len(enough) == 3
    cheapest = min(enough, key=lambda name: table[name][-1])
    texts = [choice.text.en.lower() for choice in asked("cheapest-that-is-level").choices]
    assert texts["ABCDE".index(str(key("cheapest-that-is-level")))] == cheapest
    frozen = table["frozen"]
    assert frozen[1] < frozen[2]  # open, and not within the margin
    for name, row in table.items():
        assert name == best or table[best][0] - row[0] == pytest.approx(row[1])


@pytest.mark.slow
def test_a_head_that_is_stopped_looks_like_features_that_stop():
    (_, counts), (_, frozen), (_, nearest) = rows("features-that-stop")
    measured = few_labels.results().accuracy
    places = [few_labels.LABELS.index(int(count)) for count in counts]
    assert nearest == [pytest.approx(measured["nearest neighbor"][place, :10].mean(), abs=6e-4) for place in places]
    ended = [measured["frozen"][few_labels.LABELS.index(count), :10].mean() for count in (50, 100)]
    assert ended == [pytest.approx(0.979, abs=6e-4), pytest.approx(0.985, abs=6e-4)]
    features = {
        part: extract(mnist_cnn(), few_labels.MNIST_SCALING(few_labels.digit_pixels(part)[0], 16))
        for part in ("train", "test")
    }
    labels, stopped, losses = few_labels.digit_pixels("train")[1], [], []
    for seed in range(10):
        chosen, head = few_labels.pick(labels, 50, seed), nn.Linear(64, 10)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            loss = F.cross_entropy(head(features["train"][chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        stopped.append(few_labels.accuracy(head, features["test"], few_labels.digit_pixels("test")[1]))
    assert np.mean(stopped) == pytest.approx(frozen[counts.index(50)], abs=2e-3)
    assert min(losses) > 0.04  # not at its end
    assert frozen[3] - frozen[2] == pytest.approx(0.005)  # "half a point"
    assert key("features-that-stop") == "A"


def test_how_adapters_begin():
    x, makers = torch.randn(5, 6), {"random": torch.randn, "zero": torch.zeros}
    for choice in asked("how-adapters-may-begin").choices:
        kinds = re.findall("random|zero", choice.text.en)
        layer = LoRALinear(nn.Linear(6, 4), rank=2)
        with torch.no_grad():
            layer.down.copy_(makers[kinds[0]](2, 6) * 1e-2)
            layer.up.copy_(makers[kinds[-1]](4, 2) * 1e-2)
        out = layer(x)
        out.square().mean().backward()
        same, learns = torch.equal(out, layer.base(x)), bool(layer.down.grad.any() or layer.up.grad.any())
        assert (same and learns) == bool(choice.right), choice.text.en


def test_the_first_step_moves_up_alone():
    layer = LoRALinear(nn.Linear(6, 4), rank=2, alpha=8)
    before = copy.deepcopy(layer.state_dict())
    layer(torch.randn(5, 6)).square().mean().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    assert [n for n, t in layer.state_dict().items() if not torch.equal(t, before[n])] == ["up"]
    assert key("the-first-step") == "B"


def test_sizes_of_adapters():
    layer = nn.Linear(4096, 11008, bias=False, device="meta", dtype=torch.bfloat16)
    adapter = LoRALinear(layer, rank=8)
    kilobytes = [t.nbytes / 1e3 for t in (adapter.down, adapter.up, layer.weight)]
    assert [key("kilobytes-of-an-adapter")] == close(sum(kilobytes[:2]))
    assert mistakes("kilobytes-of-an-adapter") == close(2 * sum(kilobytes[:2]), kilobytes[0], kilobytes[2])

    convolution: Any = nn.Conv2d(64, 128, 3, bias=False)
    of_convolution = LoRAConv2d(convolution, rank=4)
    assert of_convolution.down.numel() + of_convolution.up.numel() == key("adapter-of-a-convolution")
    assert mistakes("adapter-of-a-convolution") == [4 * (64 + 128), 9 * 4 * (64 + 128), convolution.weight.numel()]
    assert next(r for r in range(1, 513) if r * 1024 >= 512 * 512) == key("rank-that-saves-nothing")


def test_the_weight_after_merging():
    names = {}
    exec(program("weight-after-merging"), names)
    layer = LoRALinear(nn.Linear(1, 1, bias=False), rank=2, alpha=6)
    with torch.no_grad():
        layer.base.weight.fill_(2)
        layer.down.copy_(torch.tensor(names["down"]))
        layer.up.copy_(torch.tensor(names["up"]))
    adapter = (layer.up @ layer.down).item()
    assert layer.merged().weight.item() == pytest.approx(key("weight-after-merging"))
    assert mistakes("weight-after-merging") == close(2 + adapter, 2 + 6 * adapter, 3 * adapter)


def test_merged_networks_are_alike_whatever_the_rank():
    networks = []
    for rank in (4, 64):
        model = mnist_reader()
        add_lora(model, rank=rank)
        merge(model)
        networks.append(str(model))
    assert networks == [str(mnist_reader())] * 2
    assert key("ranks-that-are-served") == "B"


def test_what_adapters_save():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    whole = sum(p.nbytes for p in model.parameters())
    add_lora(model, rank=2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        loss = model(torch.randn(8, 64)).sum()
    loss.backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    assert sum(p.nbytes for p in model.parameters()) > whole
    assert len(optimizer.state) == len([p for p in model.parameters() if p.grad is not None]) == 4
    assert (8, 64) in kept  # activations
    assert key("what-lora-saves") == "ACE"
    frozen, adapters = 3e9 * 2 / 1e9, 3e9 * 0.005 * 2 / 1e9
    assert [key("gigabytes-with-adapters")] == close(frozen + 4 * adapters)
    assert mistakes("gigabytes-with-adapters") == close(4 * (frozen + adapters), 4 * adapters, frozen + 3 * adapters)


def test_forgetting_after_three_tasks():
    lines = [numbers for name, numbers in rows("forgetting-after-three")]
    table = np.array([numbers[-3:] for numbers in lines if len(numbers) == 4])
    lost = table[:-1, :-1].max(axis=0) - table[-1, :-1]
    assert [key("forgetting-after-three")] == close(lost.mean())
    diagonal = np.diag(table)[:-1] - table[-1, :-1]
    assert mistakes("forgetting-after-three") == close(diagonal.mean(), lost.sum() / 3, lost.max())


def test_a_lower_rate_keeps_as_much_where_it_learns_as_much():
    """What the question asks for was measured: at the same rate LoRA keeps more of MNIST, and learns less."""
    same = results()
    assert (same["LoRA"].mean(axis=0) > same["fine-tuned"].mean(axis=0)).tolist() == [True, False]
    lora, tuned = curves()["LoRA"][0], curves()["fine-tuned"]
    equal = min(tuned, key=lambda values: abs(values[:, 1].mean() - lora[:, 1].mean()))
    assert equal[:, 0].mean() > lora[:, 0].mean()
    assert key("which-way-forgets-less") == "B"


def test_ways_that_need_old_images(pixels, labels):
    new, reader = TensorDataset(MNIST_SCALING(pixels[:20], 16), labels[:20]), mnist_reader()
    ways = {"A": "distillation", "B": "rehearsal", "C": "lower rate", "D": "EWC"}
    possible = ""
    for letter, way in ways.items():
        try:
            tuned = learn(reader, new, way, epochs=1)
        except ValueError:
            continue
        possible += letter
    blend(reader, tuned, 0.5)
    assert possible + "E" == key("without-old-images")


@pytest.mark.parametrize("keep_norms", [False, True])
def test_a_file_of_adapters_lacks_the_statistics(pixels, labels, keep_norms):
    inputs = MNIST_SCALING(pixels, 16)
    tuned = learn(mnist_reader(), TensorDataset(inputs, labels), "LoRA", epochs=2, keep_norms=keep_norms)
    fresh = mnist_reader()
    add_lora(fresh, rank=8)
    load_adapters(fresh, adapter_state(tuned))
    off = (extract(fresh, inputs) - extract(tuned, inputs)).abs().max().item()
    assert off < 1e-3 if keep_norms else off > 0.1
    assert key("a-file-of-adapters") == "B"


def on_two_ranks():
    """What a rank hands to the all-reduce, with a frozen body and without, and its running mean; what DDP refuses."""
    sent = []

    def count(_, bucket):
        sent.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)

    def step(body_learns):
        model = nn.ModuleDict({"body": nn.Linear(8, 1280), "norm": nn.BatchNorm1d(1280), "head": nn.Linear(1280, 10)})
        model.forward = lambda x: model["head"](model["norm"](model["body"](x)))
        model["body"].requires_grad_(body_learns)
        model["norm"].requires_grad_(False)
        nn.init.zeros_(model["body"].weight)
        nn.init.zeros_(model["body"].bias)
        replica = DistributedDataParallel(model)
        replica.register_comm_hook(None, count)
        model["body"].bias.data.fill_(1 if dist.get_rank() == 0 else 100)  # other "pictures" on the other rank
        sent.clear()
        replica(torch.zeros(4, 8)).sum().backward()
        replica(torch.zeros(4, 8))  # brings rank 0's statistics to all
        return sum(sent), model["norm"].running_mean[0].item()

    frozen = freeze_everything()
    with pytest.raises(RuntimeError, match="any parameter that requires a gradient"):
        DistributedDataParallel(frozen)
    assert frozen_and_wrapped("freeze") is None
    return step(False), step(True), frozen_and_wrapped("wrap")


def freeze_everything() -> nn.Module:
    model = Classifier(mnist_cnn(), num_classes=10)
    add_lora(model, "head")
    freeze(model)  # spares no adapter
    return model


def frozen_and_wrapped(first: str) -> str | None:
    """Two steps of a model whose first layer is frozen, before or after it was wrapped; return DDP's complaint."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    if first == "freeze":
        model[0].requires_grad_(False)
    replica = DistributedDataParallel(model)
    model[0].requires_grad_(False)
    try:
        for _ in range(2):
            replica(torch.ones(2, 3)).sum().backward()
    except RuntimeError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(on_two_ranks, world_size=2, env=ON_CPU)


def test_what_travels_between_ranks(ranks):
    head = 1280 * 10 + 10
    (frozen, _), (learning, _), _ = ranks[0]
    assert (frozen, learning) == (head, head + 9 * 1280)  # the body's weights travel if they get gradients
    assert [key("kilobytes-between-ranks")] == close(4 * frozen / 1e3)
    assert mistakes("kilobytes-between-ranks") == close(4 * (3.4e6 + head) / 1e3, 4 * 1280 * 10 / 1e3, rel=1e-5)
    assert [key("a-rate-of-zero")] == close(4 * (3.4e6 + head) / 1e6)
    assert mistakes("a-rate-of-zero") == close(4 * head / 1e6)


def test_statistics_of_rank_0(ranks):
    # Two batches whose mean is 1 on rank 0 and 100 on rank 1, from a running mean of 0.
    means = [of_rank[0][1] for of_rank in ranks]
    assert means == [pytest.approx(0.9 * 0.1 + 0.1), pytest.approx(0.9 * 0.1 + 0.1 * 100)]
    assert key("whose-statistics") == "B"


def test_freezing_comes_before_wrapping(ranks):
    said = re.search(r"`(Expected.*?)`", asked("a-message-about-reduction").text.en)[1]
    assert all(said in complaint for *_, complaint in ranks)
    assert key("a-message-about-reduction") == "B"


def test_the_order_of_adapters_on_ranks(pixels):
    assert key("adapters-on-two-ranks") == ["CEBDA", "ECBDA"]  # freezing the network spares adapters that are there
    model = freeze_everything()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    reader = mnist_reader()
    add_lora(reader)
    merge(reader)  # before training: nothing to merge, and the adapters are gone
    assert str(reader) == str(mnist_reader())
    inputs = MNIST_SCALING(pixels, 16)
    torch.testing.assert_close(extract(reader, inputs), extract(mnist_reader(), inputs))
    assert freeze_norms(model) == 2
