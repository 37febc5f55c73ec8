"""LoRA changes nothing at first, then only what its two thin weights can; merging and switching off are exact."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import identity
from torch.utils.data import TensorDataset

from torchcourse.data import make_loader
from torchcourse.lessons.data_parallelism.sharding import full_parameters, shard_parameters
from torchcourse.lessons.transfer.backbones import Classifier, efficientnet_lite0, mnist_cnn
from torchcourse.lessons.transfer.finetune import freeze, freeze_norms, trainable_bytes, unfreeze
from torchcourse.lessons.transfer.lora import (
    LoRAConv2d,
    LoRALinear,
    adapter_state,
    add_lora,
    load_adapters,
    merge,
    without_adapters,
)
from torchcourse.models import row_transformer
from torchcourse.ranks import run_ranks
from torchcourse.training import Trainer


def adapted(rank=3, alpha=6.0, seed=0):
    """A pretrained classifier with adapters that do something."""
    torch.manual_seed(seed)
    model = Classifier(mnist_cnn(), num_classes=10)
    freeze(model)
    assert add_lora(model, "body.dense", "body.conv*", rank=rank, alpha=alpha) == [
        "body.dense",
        "body.conv1",
        "body.conv2",
    ]
    unfreeze(model, "head")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up") or name == "head.weight":
                parameter.normal_(std=0.1)
    return model.eval()


def images(n=6):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))


LAYERS = [
    (nn.Linear(7, 5), (4, 7)),
    (nn.Linear(7, 5, bias=False), (2, 3, 7)),
    (nn.Conv2d(3, 5, (3, 2), stride=2, padding=1), (2, 3, 9, 8)),
    (nn.Conv2d(3, 4, 3, padding=2, dilation=2, padding_mode="circular", bias=False), (2, 3, 9, 8)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_an_adapter_starts_as_nothing_and_merges_to_rounding(layer, shape):
    layer, x = copy.deepcopy(layer).double(), torch.randn(shape, dtype=torch.float64)
    should = layer(x)
    lora = (LoRALinear if isinstance(layer, nn.Linear) else LoRAConv2d)(layer, rank=2, alpha=5)
    assert [name for name, parameter in lora.named_parameters() if parameter.requires_grad] == ["down", "up"]
    assert torch.equal(lora(x), should)
    nn.init.normal_(lora.up)
    out = lora(x)
    assert not torch.allclose(out, should)
    merged = lora.merged()
    assert type(merged) is type(layer)
    torch.testing.assert_close(merged(x), out, rtol=1e-12, atol=1e-12)
    # By the definition, with loops instead of one product.
    assert lora.scale == 2.5
    first = sum(lora.up[0, r].squeeze() * lora.down[r] for r in range(2))
    torch.testing.assert_close(lora.change()[0], 2.5 * first.detach(), rtol=1e-12, atol=1e-12)


def test_only_adapters_and_what_was_let_free_learn():
    model = adapted()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"body.{layer}.{part}" for layer in ("dense", "conv1", "conv2") for part in ("down", "up")} | {
        "head.weight",
        "head.bias",
    }
    sizes = 3 * (1568 + 64) + 3 * (9 + 16) + 3 * (16 * 9 + 32) + 650
    assert trainable_bytes(model) == 4 * sizes


def test_merging_a_model_gives_plain_layers_that_compute_the_same():
    model = adapted()
    with torch.no_grad():
        should = model(images())
        assert merge(model) == ["body.conv1", "body.conv2", "body.dense"]
        torch.testing.assert_close(model(images()), should, rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == Classifier(mnist_cnn(), 10).state_dict().keys()
    assert not model.body.dense.weight.requires_grad
    with pytest.raises(ValueError, match="no adapters"):
        merge(model)


def test_switched_off_the_model_is_as_it_was():
    model = adapted()
    original = Classifier(mnist_cnn(), 10).eval()
    original.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        on = model(images())
        with without_adapters(model):
            assert torch.equal(model(images()), original(images()))
        assert torch.equal(model(images()), on)


def test_adapters_are_saved_apart_and_loaded_whole_or_not_at_all():
    model, other = adapted(), adapted(seed=1)
    other.head.load_state_dict(model.head.state_dict())
    state = adapter_state(model)
    weights = [tensor for name, tensor in state.items() if not name.endswith(".scale")]
    assert sum(t.numel() for t in weights) * 4 == trainable_bytes(model) - 650 * 4
    load_adapters(other, state)
    with torch.no_grad():
        assert torch.equal(other(images()), model(images()))
    before = adapter_state(adapted(rank=2))
    with pytest.raises(ValueError, match=r"body\.conv1\.down has the shape \[3, 1, 3, 3\], and \[2, 1, 3, 3\]"):
        load_adapters(model, before)
    del state["body.dense.up"]
    with pytest.raises(ValueError, match=r"Only the model has body\.dense\.up"):
        load_adapters(model, {name: torch.zeros_like(t) for name, t in state.items()})
    assert all(torch.equal(adapter_state(model)[name], t) for name, t in state.items())


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (None, r"has no body\.dense\.scale.*alpha / rank"),
        (torch.ones(2), r"body\.dense\.scale is \[1.0, 1.0\] in the file"),
        (torch.tensor(float("nan")), "scale is nan in the file"),
        (torch.tensor(1j), r"dense\.scale is complex in the file"),
    ],
)
def test_a_state_with_another_scale_is_refused_before_anything_is_loaded(scale, sentence):
    model = adapted()
    before = adapter_state(model)
    state = {name: torch.zeros_like(t) for name, t in before.items()} | {"body.dense.scale": scale}
    if scale is None:
        del state["body.dense.scale"]
    with pytest.raises(ValueError, match=sentence):
        load_adapters(model, state)
    assert all(torch.equal(adapter_state(model)[name], t) for name, t in before.items())


def test_complex_weights_are_refused_before_anything_is_loaded():
    model = adapted()
    before = adapter_state(model)
    state = {name: t if name.endswith(".scale") else t + 1j for name, t in before.items()}
    with pytest.raises(ValueError, match="down is complex in the file"):
        load_adapters(model, state)
    assert all(torch.equal(adapter_state(model)[name], t) for name, t in before.items())


def tied():
    model = nn.ModuleDict({"read": nn.Embedding(5, 3), "write": nn.Linear(3, 5, bias=False)})
    model.write.weight = model.read.weight
    return model


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: add_lora(Classifier(mnist_cnn(), 10), "body.norm1"), r"under 'body\.norm1'.*body\.conv1, body\.conv2"),
        (lambda: add_lora(adapted(), "body"), r"under 'body'.*There are: head\."),
        *(
            (lambda rank=rank: add_lora(Classifier(mnist_cnn(), 10), "head", rank=rank), f"rank={rank!r}: ")
            for rank in (0, -1, 1.5, True, "4")
        ),
        *(
            (lambda alpha=alpha: add_lora(Classifier(mnist_cnn(), 10), "head", alpha=alpha), f"alpha={alpha!r} is no")
            for alpha in (float("nan"), float("inf"), "8")
        ),
        (lambda: add_lora(nn.Sequential(nn.Conv1d(3, 3, 3))), "no nn.Conv2d without groups"),
        (lambda: add_lora(tied(), "write"), "write is used in another place"),
        (lambda: add_lora(nn.Sequential(nn.ReLU())), "There are: none"),
        (lambda: add_lora(nn.Sequential(nn.LazyLinear(3))), "weight of 0 is not made yet"),
        (lambda: add_lora(nn.Sequential(weight_norm(nn.Linear(3, 3)))), "weight of 0 is computed"),
        (lambda: add_lora(nn.Sequential(identity(nn.Linear(3, 3), "weight"))), "weight of 0 is computed"),
        (lambda: LoRAConv2d(nn.Conv2d(4, 4, 3, groups=2)), "2 groups"),
        (lambda: adapter_state(mnist_cnn()), "no adapters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_refused_call_leaves_the_model_as_it_was():
    model = Classifier(mnist_cnn(), 10)
    with pytest.raises(ValueError, match="nothing"):
        add_lora(model, "body.dense", "nothing")
    assert isinstance(model.body.dense, nn.Linear)
    assert model.body.dense.weight.requires_grad


@pytest.mark.parametrize("make", [efficientnet_lite0, row_transformer])
def test_other_networks_take_adapters_too(make):
    model = make().eval()
    freeze(model)
    names = add_lora(model, rank=2)
    assert len(names) == {efficientnet_lite0: 33, row_transformer: 18}[make]  # depthwise convolutions left out
    x = torch.randn(2, 3, 32, 32) if make is efficientnet_lite0 else torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        before = model(x)
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.02)
        changed = model(x)
        assert not torch.allclose(changed, before)
        merge(model)
        torch.testing.assert_close(model(x), changed, rtol=1e-3, atol=1e-3)


def test_attention_of_pytorch_keeps_the_layer_that_it_does_not_call():
    assert add_lora(nn.TransformerEncoderLayer(8, 2, 16)) == ["linear1", "linear2"]


def fine_tune():
    """Train adapters and a head; return all weights. Each rank draws other numbers for its adapters."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(40, 1, 28, 28, generator=generator), torch.arange(40) % 10)
    model = Classifier(mnist_cnn(), 10)
    freeze(model)
    torch.manual_seed(0)
    add_lora(model, "body", rank=2)
    unfreeze(model, "head")
    freeze_norms(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    Trainer(model, optimizer, F.cross_entropy, progress=False, device="cpu").fit(make_loader(data, 10), 2)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
def test_ranks_train_adapters_as_one_process_does():
    alone = fine_tune()
    first, second = run_ranks(fine_tune, world_size=2)
    original = mnist_cnn().state_dict()
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)
        kept = original.get(name.removeprefix("body.").replace("base.", ""))
        assert kept is None or torch.equal(tensor, kept)
    assert alone["body.conv2.up"].abs().max() > 0


def test_the_scale_travels_with_the_adapters():
    model, other = adapted(rank=3, alpha=32), adapted(rank=3, alpha=None, seed=1)
    whole = adapted(rank=3, alpha=None, seed=2)
    other.head.load_state_dict(model.head.state_dict())
    load_adapters(other, adapter_state(model))
    whole.bfloat16().float().load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(images()), model(images()))
        assert torch.equal(whole(images()), model(images()))
    assert adapter_state(other)["body.dense.scale"].item() == 32 / 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: list(state.items()), "a dict of tensors, as adapter_state"),
        (
            lambda state: state | {"body.dense.up": state["body.dense.up"].numpy()},
            r"body\.dense\.up is no dense tensor",
        ),
        (
            lambda state: state | {"body.dense.up": state["body.dense.up"].to("meta")},
            "up is no dense tensor with values",
        ),
        (lambda state: state | {"body.dense.up": state["body.dense.up"].to_sparse()}, "up is no dense tensor"),
    ],
)
def test_a_state_that_is_none_is_refused_before_anything_is_loaded(change, sentence):
    model = adapted()
    before = adapter_state(model)
    with pytest.raises(ValueError, match=sentence):
        load_adapters(model, change({name: torch.zeros_like(t) for name, t in before.items()}))
    assert all(torch.equal(adapter_state(model)[name], t) for name, t in before.items())


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_layer_keeps_what_others_read_of_it(layer, shape):
    lora = (LoRALinear if isinstance(layer, nn.Linear) else LoRAConv2d)(copy.deepcopy(layer).double(), 2, 5)
    nn.init.normal_(lora.up)
    x = torch.randn(shape, dtype=torch.float64)
    plain = copy.deepcopy(layer).double().requires_grad_(False)
    plain.weight.copy_(lora.weight.detach())
    torch.testing.assert_close(plain(x), lora(x), rtol=1e-12, atol=1e-12)
    own = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
    assert own.keys() > {"training"}
    assert all(getattr(copy.deepcopy(lora), name) == value for name, value in own.items())
    assert (lora.bias is None) == (layer.bias is None)
    with without_adapters(nn.Sequential(lora)):
        assert torch.equal(lora.weight, lora.base.weight)
    with pytest.raises(AttributeError, match="nothing_of_it"):
        lora.nothing_of_it  # noqa: B018  # reading it is the test


def test_the_fast_path_of_an_encoder_layer_counts_the_adapters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0))
    add_lora(model)
    for layer in (model[0].linear1, model[0].linear2):
        nn.init.normal_(layer.up)
    x = torch.randn(3, 5, 8)
    should = model(x).detach()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), should, rtol=1e-4, atol=1e-4)


class Masked(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mask", (torch.rand(self.weight.shape) > 0.5).float())

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight * 0.1, self.bias)


class Standardized(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


def with_hook():
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    return layer


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Masked(4, 4), (3, 4)),
        (lambda: Scaled(2, 3, 3), (2, 2, 5, 5)),
        (lambda: Standardized(2, 3, 3), (2, 2, 5, 5)),
        (with_hook, (3, 4)),
    ],
    ids=["masked", "scaled", "standardized", "hook"],
)
def test_what_a_layer_does_with_its_weight_it_does_with_the_adapters_too(make, shape):
    torch.manual_seed(0)
    model, x = nn.Sequential(make()).double(), torch.randn(shape, dtype=torch.float64)
    before = model(x)
    add_lora(model)
    assert torch.equal(model(x), before)
    nn.init.normal_(model[0].up)
    out = model(x)
    out.sum().backward()
    assert model[0].down.grad is not None
    assert not torch.allclose(out, before)
    with without_adapters(model):
        assert torch.equal(model(x), before)
    torch.testing.assert_close(copy.deepcopy(model)(x), out)
    merge(model)
    torch.testing.assert_close(model(x), out)


def test_a_hook_of_the_layer_sees_one_call_and_the_layers_output():
    model, seen = nn.Sequential(nn.Conv2d(1, 4, 3)), []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    add_lora(model)
    nn.init.ones_(model[0].up)
    out = model(torch.randn(1, 1, 5, 5))
    assert [each.shape for each in seen] == [out.shape]
    assert torch.equal(seen[0], out)


def two_steps_with_a_mask(sharded):
    torch.manual_seed(0)
    model = nn.Sequential(Masked(4, 4), nn.Linear(4, 2)).double()
    add_lora(model, "0")
    if sharded:
        shard_parameters(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 4, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return full_parameters(model)


def test_the_adapter_of_a_masked_layer_is_sharded_with_it():
    alone = two_steps_with_a_mask(sharded=False)
    for found in run_ranks(two_steps_with_a_mask, True, world_size=2):
        for name, parameter in alone.items():
            torch.testing.assert_close(found[name], parameter)
