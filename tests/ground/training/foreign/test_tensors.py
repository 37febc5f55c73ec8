"""A whole checkpoint goes through a safetensors file and comes back as it was."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ground.training.foreign.shapes import Net, Tied, trained
from torchcourse.training import CheckpointError, checkpoint
from torchcourse.training.foreign import export_safetensors, import_safetensors, load_any


def test_a_whole_checkpoint_comes_back(tmp_path):
    model, optimizer = trained()
    state: dict[Any, Any] = {  # a key that is a number is kept too
        "model": model.state_dict(),
        "optimizer": checkpoint.optimizer_state(model, optimizer),
        "numbers": [1, 2.5, None, True, float("inf"), (3, "text")],
        7: {"half": torch.ones(2, dtype=torch.bfloat16), "empty": torch.zeros(0), "transposed": torch.rand(3, 2).T},
    }
    export_safetensors(state, tmp_path / "state.safetensors")
    loaded: dict[Any, Any] = import_safetensors(tmp_path / "state.safetensors")
    assert loaded["numbers"] == state["numbers"]
    assert loaded["optimizer"]["groups"] == state["optimizer"]["groups"]
    for name, tensor in state[7].items():
        assert torch.equal(loaded[7][name], tensor)
    other = Net()
    theirs = torch.optim.AdamW(other.parameters(), lr=1.0)
    load_any(tmp_path / "state.safetensors", other, optimizer=theirs, quiet=True)
    own = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, own[name])
        assert torch.equal(theirs.state[parameter]["exp_avg"], optimizer.state[own[name]]["exp_avg"])


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    tied = Tied()
    with pytest.raises(RuntimeError, match="share memory"):
        save_file(tied.state_dict(), tmp_path / "refused.safetensors")
    export_safetensors(tied.state_dict(), tmp_path / "tied.safetensors")
    assert list(load_file(tmp_path / "tied.safetensors")) == ["embedding.weight"]
    model = Tied()
    load_any(tmp_path / "tied.safetensors", model, quiet=True)
    assert torch.equal(model.output.weight, tied.embedding.weight)


def test_a_flat_dict_is_a_file_for_any_program(tmp_path):
    weights = trained()[0].state_dict()
    export_safetensors(weights, tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_what_cannot_be_written_or_does_not_fit_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"cannot hold a\.b, which is bytes"):
        export_safetensors({"a": {"b": b"bytes"}}, tmp_path / "x.safetensors")
    with pytest.raises(TypeError, match=r"state\['f'\], which is a function"):
        export_safetensors({"f": trained}, tmp_path / "x.safetensors")
    tree = {"dict": [["model", {"tensor": "gone"}]]}
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"torchcourse.tree": json.dumps(tree)})
    with pytest.raises(CheckpointError, match="do not fit its tensors"):
        load_any(tmp_path / "x.safetensors", Net())


def test_views_of_one_memory_that_hold_other_numbers_stay_apart(tmp_path):
    numbers, real = torch.randn(4, dtype=torch.complex64), torch.randn(4)
    state = {
        "conjugate": numbers.conj(),
        "numbers": numbers,
        "negative": numbers.conj().imag,
        "imaginary": numbers.imag,
        "bits": real.view(torch.int32),
        "real": real,
    }
    export_safetensors(state, tmp_path / "views.safetensors")
    checkpoint.save(state, tmp_path / "views.pt")
    for found in (import_safetensors(tmp_path / "views.safetensors"), checkpoint.load(tmp_path / "views.pt")):
        for name, value in state.items():
            assert torch.equal(found[name], value.resolve_conj().resolve_neg()), name
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"state\['a'\], a nested tensor of layout jagged"):
        checkpoint.save({"a": jagged}, tmp_path / "jagged.pt")
