"""No kind of tensor, and no structure around it, ends a healthy run because a watcher is on."""

import contextlib
import dataclasses
import gc
import types

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.testing._internal.two_tensor import TwoTensor

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.lessons.troubleshooting.leaks import find_leaks
from torchcourse.lessons.troubleshooting.probes import NanProbe
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.tensor_parts import dense_parts, magnitudes, tensors_in
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder

# Nested, CSR, quantized and masked tensors call themselves prototypes, or old.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Own(torch.Tensor):
    """A subclass of a user's own."""


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    more: dict


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    gc.freeze()  # a search for holders then takes a tenth of the time
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    gc.unfreeze()


def shard(x):
    return DTensor.from_local(x, init_device_mesh("cpu", (1,)), [Shard(0)])


def beside(make):
    """The tensor itself, and another of a kind that no gradient flows through."""
    return lambda x: (x, make(x.detach())), lambda pair: pair[0]


KINDS = {
    "nested": (lambda x: torch.nested.as_nested_tensor([x[:1], x[1:]]), lambda n: torch.cat(n.unbind())),
    "jagged": (lambda x: torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 1, 3])), lambda n: n.values()),
    "sparse": (lambda x: x.to_sparse(), lambda s: s.to_dense()),
    "CSR": (lambda x: x.to_sparse_csr(), lambda s: s.to_dense()),
    "complex": (torch.fft.fft, torch.abs),
    "own subclass": (lambda x: x.as_subclass(Own), lambda o: o.as_subclass(torch.Tensor)),
    "DTensor": (shard, lambda d: d.to_local()),
    "vmap": (torch.vmap(lambda row: row * 2), lambda x: x),
    "quantized": beside(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
    "float8": beside(lambda x: x.to(torch.float8_e4m3fn)),
    "nested view": beside(lambda x: torch.nested.as_nested_tensor([x, x]).view(2, -1, 4)),
    "meta": beside(lambda x: x.to("meta")),
    "wrapper": beside(lambda x: TwoTensor(x, x)),
    "MKL-DNN": beside(lambda x: x.to_mkldnn()),
    "masked": beside(lambda x: torch.masked.masked_tensor(x, x > 0)),
    "nothing": beside(lambda x: None),
    "dataclass": (lambda x: Output(x, {"states": [x, (None, 3)]}), lambda out: out.logits),
    "namespace": (lambda x: types.SimpleNamespace(last={"set": {x}}), lambda out: next(iter(out.last["set"]))),
}


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def parts(kind):
    """A model whose second layer gives out this kind of tensor, and a step of training."""
    torch.manual_seed(0)
    give, take = KINDS[kind]
    model = nn.Sequential(nn.Linear(4, 4), Call(give), Call(take), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())

    def step(look=lambda loss: None):
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        look(loss)
        optimizer.step()

    return model, optimizer, step


def nan_probe(model, optimizer, step):
    with NanProbe(model) as probe:
        step(probe.check)


def tracker(model, optimizer, step, of=MemoryTracker):
    with of() as memory:
        memory.watch(model, optimizer)
        step()
    assert memory.peak_by_kind()["gradients"] > 0
    assert all(map(str, memory.live_at_peak()))


def device(model, optimizer, step):
    tracker(model, optimizer, step, of=lambda: SimulatedDevice("1 MiB"))


def sanity_probe(model, optimizer, step):
    with SanityProbe(model, optimizer) as probe:
        step()
    probe.alarms()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("watch", [nan_probe, tracker, device, sanity_probe])
def test_no_kind_of_tensor_ends_a_healthy_run(watch, kind):
    watch(*parts(kind))


@pytest.mark.slow
def test_a_search_for_leaks_meets_every_kind_of_tensor_and_accuses_none():
    steps = [parts(kind)[-1] for kind in KINDS]
    assert find_leaks(lambda: [step() for step in steps], steps=5).leaks == []


def test_the_memory_of_a_special_tensor_is_that_of_its_parts():
    with MemoryTracker() as memory:
        sparse = torch.eye(100).to_sparse()
        assert memory.current == 100 * (4 + 2 * 8)
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
        assert memory.current == 100 * 20 + 4 * 18
        assert (sparse.is_sparse, nested.is_nested) == (True, True)


def test_gradients_of_a_sparse_embedding_are_counted_and_looked_at():
    model = nn.Embedding(50, 8, sparse=True)
    with MemoryTracker() as memory:
        memory.watch(model)
        model(torch.tensor([1, 2, 3])).sum().backward()
        assert memory.by_kind()["gradients"] == 3 * (8 * 4 + 8)
    probe = NanProbe(model)
    loss = model(torch.tensor([1, 2, 3])).sum()
    loss.backward()
    model.weight.grad._values()[0, 0] = torch.inf
    assert probe.look(loss).what == "the gradient of `weight`"


def test_the_gradient_of_a_sparse_embedding_is_recorded_like_a_dense_one():
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Embedding(5, 4, sparse=sparse)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with TrainingRecorder(gradients=True) as record:
            model(torch.tensor([1, 2, 1])).square().sum().backward()
            optimizer.step()
        found.append(record.steps[0].gradient)
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["nested", "jagged", "sparse", "CSR", "complex", "DTensor", "own subclass"])
def test_a_nan_in_any_kind_of_tensor_is_found_in_the_layer_that_gives_it_out(kind):
    model, _, _ = parts(kind)
    give = model[1].function
    model[1].function = lambda x: give(x / 0)
    probe = NanProbe(model)
    loss = model(X).square().mean()
    found = probe.look(loss)
    assert (found.phase, found.layer) == ("forward", "1")


@pytest.mark.slow
def test_a_leak_of_sparse_tensors_is_found_with_its_holder():
    kept = []
    report = find_leaks(lambda: kept.append(torch.eye(20).to_sparse()), steps=5)
    assert [(leak.bytes_a_step, "`kept`" in leak.holder) for leak in report.leaks] == [(400, True)]


@pytest.mark.slow
def test_an_encoders_fast_path_is_evaluated_under_every_watcher():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    padding = torch.tensor([[0, 0, 1], [0, 0, 0]]).bool()

    def step():
        with torch.no_grad():
            return model(torch.ones(2, 3, 8), src_key_padding_mask=padding).sum()

    with MemoryTracker(), NanProbe(model) as probe:
        probe.check(step())
    assert find_leaks(step, steps=5).leaks == []


def test_fake_tensors_and_tensors_inside_vmap_have_no_numbers_to_look_at():
    model = nn.Linear(4, 4)
    probe = NanProbe(model)
    torch.vmap(torch.func.grad(lambda w, x: torch.func.functional_call(model, {"weight": w}, x).sum()), (None, 0))(
        model.weight, X
    )
    assert probe.look() is None
    with FakeTensorMode():
        fake = nn.Linear(4, 4)
        probe = NanProbe(fake)
        (loss := fake(torch.ones(2, 4)).sum()).backward()
        assert probe.look(loss) is None


def test_tensors_are_found_in_what_holds_itself_too():
    held = [X]
    held.append(held)
    assert len(list(tensors_in(held))) > 0
    assert list(tensors_in([Output(X, {"a": X}), "text", None, 3]))[1] is X


def test_the_largest_magnitude_of_any_format():
    assert magnitudes(torch.tensor([3 + 4j]))[0].item() == 4
    assert magnitudes(torch.tensor([1.0, torch.nan]).to(torch.float8_e5m2))[0].isnan()
    assert (
        magnitudes(torch.tensor([1, 2])) == magnitudes(torch.ones(0)) == magnitudes(torch.ones(2, device="meta")) == []
    )
    assert dense_parts(nn.LazyLinear(3).weight) == []


class Reader(nn.Module):
    """A recurrence whose last state is read."""

    def __init__(self):
        super().__init__()
        self.recurrence, self.head = nn.RNN(4, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.recurrence(x)[0][:, -1])


@pytest.mark.parametrize("reader", [False, True])
def test_many_gradients_at_once_have_no_numbers_to_look_at(reader):
    model = Reader() if reader else nn.Linear(4, 4)
    optimizer, x = torch.optim.Adam(model.parameters()), torch.randn(16, 5, 4) if reader else torch.randn(16, 4)
    with SanityProbe(model, optimizer) as probe, NanProbe(model) as nans:
        for _ in range(3):
            squares = model(x).square()
            loss = nn.functional.mse_loss(squares, torch.ones(16, 4))
            weight = next(model.parameters())
            rows = torch.autograd.grad(squares, weight, torch.randn(3, 16, 4), retain_graph=True, is_grads_batched=True)
            torch.autograd.grad(loss, weight, torch.ones(3), retain_graph=True, is_grads_batched=True)
            assert rows[0].shape == (3, *weight.shape)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert nans.look() is None
    probe.alarms()


@pytest.mark.parametrize("kind", ["sparse", "bfloat16", "fake", "meta", "DTensor"])
def test_an_average_and_a_loss_with_parameters_may_be_of_any_kind(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    if kind == "bfloat16":
        model = model.to(torch.bfloat16)
    if kind == "DTensor":
        for layer in model:
            for name, p in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(shard(p.detach())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = [p.detach().clone() for p in model.parameters()]
    x = X.to(torch.bfloat16) if kind == "bfloat16" else shard(X) if kind == "DTensor" else X
    scale = nn.Parameter(torch.ones(3, 1, device="meta" if kind == "meta" else "cpu"))
    with SanityProbe(model, optimizer) as probe:
        for _ in range(6):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                for kept, p in zip(average, model.parameters(), strict=True):
                    kept.lerp_(p, 0.1)
                    p.copy_(kept)
                out = model(x)
                _ = (out > 0.5, (out - x).abs(), out.round())
            if kind == "meta":
                nn.functional.mse_loss(
                    scale * torch.ones(3, 4, device="meta"), torch.ones(3, 4, device="meta")
                ).backward()
            if kind == "sparse":
                (scale * X.to_sparse()).to_dense().sum().backward()
            if kind == "fake":
                with FakeTensorMode():
                    nn.functional.l1_loss(nn.Linear(4, 2)(torch.ones(3, 4)), torch.zeros(3, 2)).backward()
                    torch.ones(4, 4).clone()
            torch.exp(input=torch.randn(4, 8, requires_grad=True)).clone().sum().backward()
            torch.clone(input=X)
    probe.alarms()


@pytest.mark.parametrize("kind", ["plain", "meta", "fake", "sparse", "nested", "float8", "batched", "quantized"])
def test_stored_samples_and_a_second_network_may_be_of_any_kind(kind):
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    device = "meta" if kind == "meta" else "cpu"
    teacher = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3, device=device))
    with SanityProbe(model, optimizer) as probe:
        for _ in range(6):
            with FakeTensorMode() if kind == "fake" else contextlib.nullcontext():
                stored = torch.ones(8, 4, device=device)
                stored[:2].mul_(2)
                stored[:2].add_(torch.randn(2, 4, device=device))
                _ = (stored.split(2), torch.zeros(4, 1, device=device).argmax(1))
                if kind != "fake":
                    teacher(stored)
            if kind == "sparse":
                nn.functional.dropout(torch.ones(4, 4)).to_sparse().sum()
            if kind == "nested":
                nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
                nn.functional.linear(nn.functional.dropout(nested), torch.ones(3, 4))
                nested.unbind()[0].mul_(2)
            if kind == "float8":
                torch.ones(8, 4).to(torch.float8_e4m3fn)[:2].copy_(torch.ones(2, 4))
            if kind == "quantized":
                torch.quantize_per_tensor(torch.ones(8, 4), 0.1, 0, torch.qint8)[:2].copy_(torch.ones(2, 4))
            optimizer.zero_grad()
            loss = model(X).square().mean()
            if kind == "batched":
                weight, out = model[0].weight, Halved.apply(model(X))
                torch.autograd.grad(out, weight, torch.randn(3, *out.shape), is_grads_batched=True)
            loss.backward()
            optimizer.step()
    probe.alarms()


def fake(x):
    with FakeTensorMode():
        return torch.empty(x.shape)


ODD = {name: KINDS[name][0] for name in ("nested", "jagged", "sparse", "CSR", "DTensor", "MKL-DNN")}
ODD |= {"quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "meta": lambda x: x.to("meta")}
ODD |= {"masked": lambda x: torch.masked.masked_tensor(x, x > 0), "empty": lambda x: x[:0], "fake": fake}
ODD |= {"lazy": lambda x: nn.UninitializedBuffer()}
CALLS = {
    "written": lambda x: x.copy_(x.clone()),
    "added to": lambda x: x.__iadd__(x),
    "averaged": lambda x: x.lerp_(x.clone(), 0.5),
    "drawn": torch.randn_like,
    "resized": lambda x: nn.functional.avg_pool2d(x[None, None], 2),
    "attended": lambda x: nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 3, 4), attn_mask=x[:3, :3]),
    "left out": lambda x: x.masked_fill(x > 0, -1e9),
    "converted": lambda x: x.float(),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_works_with_a_kind_of_tensor_works_under_the_probe(kind):
    def works(call):
        with contextlib.suppress(Exception):
            call(ODD[kind](X.clone().repeat(2, 1)[:4]))
            return True

    model = nn.Linear(4, 4)
    optimizer, possible = torch.optim.SGD(model.parameters(), lr=0.1), [name for name in CALLS if works(CALLS[name])]
    with SanityProbe(model, optimizer):
        model(X).square().mean().backward()
        assert [name for name in CALLS if works(CALLS[name])] == possible


def test_a_layer_that_is_made_by_its_first_call_is_healthy():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(4):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
    assert probe.alarms() == []


class Halved(torch.autograd.Function):
    """Its backward pass writes in place into a part of a tensor."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        whole = gradient.clone()
        whole[:1].mul_(0.5)
        return nn.functional.linear(whole, torch.eye(whole.size(1)))
