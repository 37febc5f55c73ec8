"""Weights that would lose something on the way are converted with a note, or refused; names to leave are checked."""

import contextlib
import random
import re
from typing import Any

import pytest
import torch
from torch import nn

from torchcourse.training import CheckpointError
from torchcourse.training.foreign import load_any


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(inputs))


class Gain(nn.Module):
    """A model with a parameter that has no dot in its name."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.gain, self.body = nn.Parameter(torch.ones(width)), nn.Linear(3, 3)


def values(*targets: Any) -> list[Any]:
    """Return copies of all tensors in models, optimizers and other things that have a state_dict."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        if isinstance(value, list):
            return [copied(item) for item in value]
        return value.tolist() if isinstance(value, torch.Tensor) and not value.is_meta else str(value)

    return [copied(target.state_dict()) for target in targets]


def refused(path: Any, model: nn.Module, **options: Any) -> str:
    """Return the sentence; all has to be as it was before."""
    targets = [model, *(options[name] for name in ("optimizer", "scheduler", "scaler") if name in options)]
    before = values(*targets)
    with pytest.raises(CheckpointError) as caught:
        load_any(path, model, quiet=True, **options)
    assert values(*targets) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_lazy_layer_gets_the_shape_of_the_file(tmp_path):
    saved = nn.Sequential(nn.Linear(4, 3))
    torch.save(saved.state_dict(), tmp_path / "a.pth")
    model = nn.Sequential(nn.LazyLinear(3))
    load_any(tmp_path / "a.pth", model, quiet=True)
    assert torch.equal(model(torch.ones(2, 4)), saved(torch.ones(2, 4)))


def test_sparse_weights_are_made_dense(tmp_path, capsys):
    torch.save({"weight": torch.eye(3).to_sparse(), "bias": torch.zeros(3)}, tmp_path / "a.pth")
    model = nn.Linear(3, 3)
    load_any(tmp_path / "a.pth", model)
    assert torch.equal(model.weight, torch.eye(3))
    assert "weight was saved as a sparse tensor, and was made dense" in capsys.readouterr().out
    torch.save({"weight": torch.eye(3).long().to_sparse(), "bias": torch.zeros(3)}, tmp_path / "a.pth")
    assert "weight as sparse int64 where the model has float32" in refused(tmp_path / "a.pth", model)


def test_names_without_values_are_refused_on_either_side(tmp_path):
    with torch.device("meta"):
        empty = nn.Linear(3, 3)
    torch.save(empty.state_dict(), tmp_path / "empty.pth")
    assert "names without values (of the meta device): weight, bias" in refused(tmp_path / "empty.pth", nn.Linear(3, 3))
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "full.pth")
    assert "call model.to_empty(device=…) first" in refused(tmp_path / "full.pth", empty)


@pytest.mark.parametrize(
    ("saved", "dtype", "words"),
    [
        (torch.tensor([1, 300]), torch.uint8, "values beyond the range of uint8"),
        (torch.tensor([2, 0]), torch.bool, "values beyond the range of bool"),
        (torch.tensor([1e9, 1.0]), torch.float16, "values beyond the range of float16"),
        (torch.tensor([1j, 1.0]), torch.float32, "as complex64 where the model has float32"),
    ],
    ids=str,
)
def test_values_that_do_not_fit_into_the_models_numbers_are_refused(tmp_path, saved, dtype, words):
    model = nn.Module()
    model.register_buffer("b", torch.zeros(2, dtype=dtype))
    torch.save({"b": saved}, tmp_path / "a.pth")
    assert words in refused(tmp_path / "a.pth", model)


def test_the_advice_for_a_name_without_a_dot_works(tmp_path):
    torch.save(Gain(5).state_dict(), tmp_path / "a.pth")
    model = Gain()
    advice = re.search(r"leave=\('(.*)',\)", refused(tmp_path / "a.pth", model))
    assert advice is not None
    load_any(tmp_path / "a.pth", model, leave=(advice[1],), quiet=True)
    assert model.gain.shape == (3,)


def test_names_to_leave_are_checked(tmp_path):
    torch.save(Gain(5).state_dict(), tmp_path / "a.pth")
    load_any(tmp_path / "a.pth", Gain(), leave="gain", quiet=True)  # one name, not its letters
    load_any(tmp_path / "a.pth", Gain(), leave=["gain"], quiet=True)
    sentence = refused(tmp_path / "a.pth", Gain(), leave=("gian",))
    assert "begins with leave='gian', so nothing was loaded. The model's names begin with gain, body" in sentence
    assert "nothing to load" in refused(tmp_path / "a.pth", Gain(), leave="")


def adam(model: Encoder, *first: str) -> torch.optim.Adam:
    order = [*first, *(name for name, _ in model.named_children() if name not in first)]
    parameters: list[nn.Parameter] = []
    for name in order:
        parameters += model.get_submodule(name).parameters()
    return torch.optim.Adam(parameters, lr=0.02)


def trained(tmp_path, *first: str, make: Any = adam) -> tuple[Encoder, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Encoder()
    optimizer = make(model, *first)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pth")
    return model, optimizer


def assert_same_moments(one: tuple[nn.Module, torch.optim.Optimizer], two: tuple[nn.Module, torch.optim.Optimizer]):
    for name, parameter in one[0].named_parameters():
        other = two[1].state[two[0].get_parameter(name)]
        for key, value in one[1].state[parameter].items():
            assert torch.equal(torch.as_tensor(other[key]), torch.as_tensor(value)), (name, key)


def in_groups(model: Encoder) -> torch.optim.Adam:
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": decayed, "weight_decay": 0.1}]
    return torch.optim.Adam(groups, lr=0.02)


def only_decoder(model: Encoder) -> torch.optim.Adam:
    return torch.optim.Adam(model.decoder.parameters(), lr=0.02)


@pytest.mark.parametrize("make", [lambda model: adam(model, "decoder"), adam, in_groups, only_decoder])
def test_numbers_mean_the_parameters_in_the_order_of_the_optimizer(tmp_path, make, capsys):
    model, optimizer = trained(tmp_path, make=make)
    other = Encoder()
    theirs = make(other)
    for group in theirs.param_groups:
        group["lr"] = 1.0
    load_any(tmp_path / "a.pth", other, optimizer=theirs)
    for name in dict(model.named_parameters()):
        if model.get_parameter(name) in optimizer.state:
            own = optimizer.state[model.get_parameter(name)]
            assert torch.equal(theirs.state[other.get_parameter(name)]["exp_avg"], own["exp_avg"])
    assert theirs.param_groups[0]["lr"] == 0.02
    assert "set the optimizer's lr" in capsys.readouterr().out


def test_numbers_that_may_mean_either_of_two_orders_are_refused(tmp_path):
    model = nn.ModuleDict({"b": nn.Linear(2, 2, bias=False), "a": nn.Linear(2, 2, bias=False)})
    optimizer = torch.optim.Adam(model.parameters())
    model["b"](model["a"](torch.ones(2))).sum().backward()
    optimizer.step()
    weights = dict(sorted(model.state_dict().items()))  # as safetensors sorts them, and no model lists them
    torch.save({"model": weights, "optimizer": optimizer.state_dict()}, tmp_path / "a.pth")
    other = nn.ModuleDict({"b": nn.Linear(2, 2, bias=False), "a": nn.Linear(2, 2, bias=False)})
    sentence = refused(tmp_path / "a.pth", other, optimizer=torch.optim.Adam(other.parameters()))
    assert "which is which cannot be told" in sentence


def test_adafactors_rows_and_columns_are_no_wrong_shapes(tmp_path):
    def make(model):
        return torch.optim.Adafactor(model.parameters())

    one = trained(tmp_path, make=make)
    other = Encoder()
    theirs = make(other)
    load_any(tmp_path / "a.pth", other, optimizer=theirs, quiet=True)
    assert_same_moments(one, (other, theirs))


@pytest.mark.parametrize("state", [{"state": {}, "param_groups": [3]}, {"state": 3, "param_groups": [{}]}, {"a": 1}])
def test_what_is_no_state_of_an_optimizer_is_refused(tmp_path, state):
    torch.save({"model": Encoder().state_dict(), "optimizer": state}, tmp_path / "a.pth")
    other = Encoder()
    assert "not the state of a torch optimizer" in refused(tmp_path / "a.pth", other, optimizer=adam(other))


def test_after_a_refusal_all_is_as_it_was(tmp_path):
    _, optimizer = trained(tmp_path)
    file = torch.load(tmp_path / "a.pth")
    file["scheduler"] = torch.optim.lr_scheduler.StepLR(optimizer, 5).state_dict()
    torch.save(file, tmp_path / "a.pth")
    other = Encoder()
    theirs = adam(other)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 10)
    sentence = refused(tmp_path / "a.pth", other, optimizer=theirs, scheduler=cosine)
    assert "of a different kind from CosineAnnealingLR" in sentence
    steps = torch.optim.lr_scheduler.StepLR(theirs, 5)

    class Grumpy(torch.amp.GradScaler):
        def load_state_dict(self, state):
            if "wrong" in state:
                raise RuntimeError("not this one")

    file["scaler"] = {"wrong": True}
    torch.save(file, tmp_path / "a.pth")
    scaler = Grumpy("cpu", enabled=False)
    sentence = refused(tmp_path / "a.pth", other, optimizer=theirs, scheduler=steps, scaler=scaler)
    assert "(not this one), and everything is as it was" in sentence
    assert not theirs.state


class Renaming(nn.Module):
    """A model that once called its layer differently, and says so when it loads."""

    def __init__(self, turns: bool = False) -> None:
        super().__init__()
        self.layer, self.turns = nn.Linear(4, 4), turns
        self.register_load_state_dict_pre_hook(self._rename)

    def _rename(self, _module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}old.")]:
            state[name.replace("old.", "layer.")] = state.pop(name)
        if self.turns:  # each time that it is called
            state[f"{prefix}layer.weight"] = state[f"{prefix}layer.weight"].t()


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_names_that_the_model_itself_renames_are_read(tmp_path, prefix):
    theirs = Renaming()
    state = {prefix + name.replace("layer", "old"): value for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "old.pth")
    ours = Renaming()
    report = load_any(tmp_path / "old.pth", ours, quiet=True)
    assert torch.equal(ours.layer.weight, theirs.layer.weight)
    assert "read old names as the model renames them" in str(report)
    before = values(turning := Renaming(turns=True))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_any(tmp_path / "old.pth", turning, quiet=True)
    assert values(turning) == before


def test_the_old_weight_normalization_loads_into_the_new(tmp_path):
    with pytest.warns(FutureWarning):
        theirs = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    torch.save(theirs.state_dict(), tmp_path / "old.pth")
    ours = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    load_any(tmp_path / "old.pth", ours, quiet=True)
    inputs = torch.randn(2, 4)
    torch.testing.assert_close(ours(inputs), theirs(inputs))


@pytest.mark.parametrize(
    ("drop", "add", "advice"),
    [
        ((), ("head.weight", "head.bias"), r"take the rest: leave=\('head\.',\)"),
        ((), ("encoder.position_ids",), r"take the rest: leave=\('encoder\.position_ids',\)"),
        (("decoder.weight", "decoder.bias"), (), r"take the rest: leave=\('decoder\.',\)"),
        (("decoder.weight",), (), r"take the rest: leave=\('decoder\.weight',\)"),
        (("decoder.weight", "decoder.bias"), ("head.weight",), r"leave=\('decoder\.', 'head\.'\)"),
        (("decoder.weight", "decoder.bias"), ("decoder.gamma", "decoder.beta"), r"Within decoder\. the names differ"),
        (("decoder.weight", "decoder.bias", "encoder.weight"), (), r"Build the model exactly as it was built"),
    ],
)
def test_the_advice_is_to_leave_what_is_in_one_of_both_alone(tmp_path, drop, add, advice):
    state = {name: value for name, value in Encoder().state_dict().items() if name not in drop}
    torch.save(state | {name: torch.zeros(4) for name in add}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=advice):
        load_any(tmp_path / "file.pth", Encoder(), quiet=True)
    if leave := re.findall(r"'([\w.]+)'", advice.replace("\\", "")):
        model, theirs = Encoder(), dict(state)
        load_any(tmp_path / "file.pth", model, leave=leave, quiet=True)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("kind", [torch.optim.Adamax, torch.optim.NAdam])
def test_an_optimizer_gets_no_state_that_lacks_what_it_keeps(tmp_path, kind):
    theirs = nn.Linear(3, 2)
    adam = torch.optim.Adam(theirs.parameters())
    theirs(torch.ones(1, 3)).sum().backward()
    adam.step()
    torch.save({"model": theirs.state_dict(), "optimizer": adam.state_dict()}, tmp_path / "adam.pth")
    ours = nn.Linear(3, 2)
    optimizer = kind(ours.parameters())
    before = values(ours, optimizer)
    with pytest.raises(CheckpointError, match=rf"lacks (exp_inf|mu_product), which {kind.__name__} keeps"):
        load_any(tmp_path / "adam.pth", ours, optimizer=optimizer, quiet=True)
    assert values(ours, optimizer) == before


@pytest.mark.slow
def test_a_bit_that_changed_in_the_head_of_an_old_file_ends_in_one_sentence(tmp_path):
    chance, path, model = random.Random(1), tmp_path / "old.pth", nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for _ in range(250):
        damaged = bytearray(whole)
        damaged[chance.randrange(900)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):  # and no other; a name of a device may be any
            load_any(path, model, quiet=True)


class Queue(nn.Module):
    """A lazy layer and a queue that becomes as long as the file's when weights are loaded."""

    queue: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LazyLinear(2)
        self.register_buffer("queue", torch.zeros(0, 2))
        self.register_load_state_dict_pre_hook(self._make_room)

    def _make_room(self, _module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
        self.queue = torch.zeros_like(state[f"{prefix}queue"])


def test_a_model_keeps_its_shapes_when_nothing_fits(tmp_path):
    model = Queue()
    weights = {"body.weight": torch.zeros(2, 3), "body.bias": torch.zeros(2), "queue": torch.ones(5, 2)}
    torch.save(weights | {"other": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="nothing was loaded"):
        load_any(tmp_path / "file.pth", model, quiet=True)
    assert isinstance(model.body.weight, nn.parameter.UninitializedParameter)
    assert model.queue.shape == (0, 2)
