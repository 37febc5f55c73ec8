"""Folders as Hugging Face, accelerate and Lightning write them, and damaged files of all kinds."""

import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ground.training.foreign.shapes import Net, trained
from torchcourse.training import CheckpointError, checkpoint
from torchcourse.training.foreign import export_safetensors, load_any

MODEL, OPTIMIZER = trained()
WEIGHTS = {name: tensor.contiguous() for name, tensor in MODEL.state_dict().items()}


def assert_loaded(source: Path, **options: Any) -> Any:
    model = Net()
    report = load_any(source, model, quiet=True, **options)
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in model.state_dict().items())
    return report


def refused(source: Path) -> str:
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_any(source, model, quiet=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


def spread(folder: Path, name: str, kind: str) -> None:
    """Write the weights as two files with an index."""
    folder.mkdir(exist_ok=True)
    halves = [dict(list(WEIGHTS.items())[:3]), dict(list(WEIGHTS.items())[3:])]
    where: dict[str, str] = {}
    for number, half in enumerate(halves):
        file = f"{name}-{number}.{kind}"
        save_file(half, folder / file) if kind == "safetensors" else torch.save(half, folder / file)
        where |= dict.fromkeys(half, file)
    (folder / f"{name}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_an_index_by_itself_and_two_of_them(tmp_path):
    spread(tmp_path, "model", "safetensors")
    assert_loaded(tmp_path / "model.safetensors.index.json")
    spread(tmp_path, "pytorch_model", "bin")
    report = assert_loaded(tmp_path)
    assert (
        "took the files of model.safetensors.index.json and not those of pytorch_model.bin.index.json" in report.steps
    )
    spread(tmp_path, "ema", "bin")
    assert "has several indexes: ema.bin.index.json" in refused(tmp_path)
    assert_loaded(tmp_path / "ema.bin.index.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": null}',
        '{"weight_map": {}}',
        "{",
    ],
)
def test_a_malformed_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    for source in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert "is not the index of a model" in refused(source)


def test_each_tensor_comes_from_the_file_that_the_index_names(tmp_path):
    spread(tmp_path, "model", "bin")
    last = torch.load(tmp_path / "model-1.bin")
    torch.save(last | {"body.0.weight": torch.zeros(8, 6), "extra": torch.ones(1)}, tmp_path / "model-1.bin")
    report = assert_loaded(tmp_path)
    assert any("did not use extra, which model.bin.index.json does not list" in step for step in report.steps)
    (tmp_path / "model-1.bin").unlink()
    assert "There is no file model-1.bin in" in refused(tmp_path)


def test_a_file_of_any_name_is_found_in_its_folder(tmp_path):
    torch.save({"state_dict": WEIGHTS}, tmp_path / "model_best.pth.tar")
    (tmp_path / "notes.txt").write_text("a note")
    (tmp_path / "config.json").write_text("{}")
    assert_loaded(tmp_path)
    torch.save({"state_dict": WEIGHTS}, tmp_path / "checkpoint.pth.tar")
    assert "is a folder with checkpoint.pth.tar, model_best.pth.tar. Give one of the files" in refused(tmp_path)


@pytest.mark.parametrize("program", ["trainer", "accelerate"])
def test_folders_of_hugging_faces_trainer_and_of_accelerate(tmp_path, program):
    end = "pt" if program == "trainer" else "bin"
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    torch.save(OPTIMIZER.state_dict(), tmp_path / f"optimizer.{end}")
    schedule = torch.optim.lr_scheduler.LambdaLR(OPTIMIZER, lambda step: 1.0)
    torch.save(schedule.state_dict(), tmp_path / f"scheduler.{end}")
    if program == "trainer":
        torch.save({"arguments": Path("x")}, tmp_path / "training_args.bin")
        (tmp_path / "trainer_state.json").write_text('{"global_step": 7}')
        torch.save({"python": random.getstate()}, tmp_path / "rng_state.pth")
    else:
        torch.save({"python": random.getstate()}, tmp_path / "random_states_0.pkl")
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    report = load_any(tmp_path, model, optimizer=optimizer, scheduler=theirs, quiet=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, WEIGHTS[name])
        saved = OPTIMIZER.state[MODEL.get_parameter(name)]
        assert torch.equal(optimizer.state[parameter]["exp_avg"], saved["exp_avg"])
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert any(step.startswith("did not read") for step in report.steps)
    assert report.rest.get("trainer_state") == ({"global_step": 7} if program == "trainer" else None)


def test_accelerates_folder_of_two_models(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "model_1.safetensors")
    torch.save(OPTIMIZER.state_dict(), tmp_path / "optimizer.bin")
    assert_loaded(tmp_path)
    other = nn.Linear(2, 2)
    load_any(tmp_path, other, quiet=True)
    assert torch.equal(other.weight, torch.ones(2, 2))


def test_a_folder_of_folders_says_where_the_checkpoints_are(tmp_path):
    deep = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    deep.mkdir(parents=True)
    torch.save({"state_dict": WEIGHTS}, deep / "epoch=1-step=2.ckpt")
    assert str(Path("version_0", "checkpoints", "epoch=1-step=2.ckpt")) in refused(tmp_path / "lightning_logs")
    assert_loaded(deep)


def test_deepspeeds_folder_is_called_so(tmp_path):
    (tmp_path / "zero_to_fp32.py").write_text("")
    torch.save(WEIGHTS, tmp_path / "mp_rank_00_model_states.pt")
    assert "is DeepSpeed's" in refused(tmp_path)


@pytest.mark.parametrize(
    ("names", "whose"),
    [
        (["consolidated.00.pth", "consolidated.01.pth"], "a Llama as Meta gives it"),
        (["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"], "Megatron's"),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "DeepSpeed's"),
    ],
)
def test_parts_that_were_cut_for_several_gpus_are_named(tmp_path, names, whose):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(WEIGHTS, tmp_path / name)
    assert f"is {whose}: " in refused(tmp_path)
    (tmp_path / names[1]).unlink()
    if Path(names[0]).parent == Path():
        assert_loaded(tmp_path)


def test_a_module_among_lightnings_hyperparameters_is_not_called_a_pickled_model(tmp_path):
    file = {"state_dict": WEIGHTS, "pytorch-lightning_version": "2.5", "hyper_parameters": {"net": nn.Linear(1, 1)}}
    torch.save(file, tmp_path / "a.ckpt")
    sentence = refused(tmp_path / "a.ckpt")
    assert "is a Lightning checkpoint with torch.nn.modules.linear.Linear" in sentence
    assert "save_hyperparameters(ignore=[…])" in sentence


def write(kind: str, path: Path) -> None:
    state = {"model": {"w": torch.arange(4.0)}, "epoch": 3, "name": "a", "more": (1, [2.5, None])}
    if kind == "safetensors":
        export_safetensors(state, path)
    elif kind == "sealed":
        checkpoint.save(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")


def complaint_of_loading(path: Path, model: nn.Module) -> str:
    try:
        load_any(path, model, quiet=True)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "sealed"])
def test_damage_of_any_kind_is_refused_or_harmless(tmp_path, kind):
    path = tmp_path / "a.pth"
    write(kind, path)
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])]))
        model = nn.Module()
        model.register_buffer("w", torch.zeros(4))
        sentence = complaint_of_loading(path, model)
        assert "\n" not in sentence
        if sentence:
            assert model.state_dict()["w"].tolist() == [0.0] * 4


def test_numbered_files_are_put_together_where_their_index_is_missing(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"model-0000{n}-of-0000{k}.safetensors" for n, k in ((1, 2), (2, 2), (2, 3)))
    save_file(dict(list(WEIGHTS.items())[:3]), first)
    save_file(dict(list(WEIGHTS.items())[3:]), second)
    assert "2 files without their index" in assert_loaded(tmp_path).kind
    second.rename(third)
    assert "not all parts of one model" in refused(tmp_path)
    save_file(dict(list(WEIGHTS.items())[2:]), third)
    third.rename(second)
    assert "in two of its files" in refused(tmp_path)


def test_a_file_that_a_browser_unpacked_is_called_so(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        archive.extractall(tmp_path / "out")
    assert "was unpacked" in refused(tmp_path / "out" / "model")
    assert "its folders have model/data.pkl" in refused(tmp_path / "out")


def test_pickles_of_others_and_files_sent_as_text(tmp_path: Path) -> None:
    for content in (WEIGHTS, {"model": {name: tensor.numpy() for name, tensor in WEIGHTS.items()}}):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=2))
        assert "was written by pickle and not by torch.save" in refused(tmp_path / "model.pkl")
    torch.save(WEIGHTS, tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert "is damaged" in refused(tmp_path / "model.pt")


def test_addresses_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="is an address and not a path"):
        load_any("https://example.org/model.pt", Net())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    torch.save(WEIGHTS, tmp_path / "model.pt")
    assert_loaded(Path("~/model.pt"))


def test_what_all_names_begin_with_is_found_however_deep_and_modules_as_dicts_are_read(tmp_path: Path) -> None:
    torch.save({f"a.trainer.model.net.{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path / "deep.pt")
    assert_loaded(tmp_path / "deep.pt")
    nested: dict[str, Any] = {}
    for name, tensor in WEIGHTS.items():
        *modules, last = name.split(".")
        inside = nested
        for module in modules:
            inside = inside.setdefault(module, {})
        inside[last] = tensor
    torch.save({"model": {"language_model": nested}, "iteration": 100}, tmp_path / "nested.pt")
    assert_loaded(tmp_path / "nested.pt")


@pytest.mark.parametrize("write", [lambda name: name.replace(".", "/"), lambda name: name.encode()])
def test_names_of_other_programs_are_read_and_it_is_said(tmp_path: Path, write: Callable[[str], str | bytes]) -> None:
    torch.save({"params": {write(name): tensor for name, tensor in WEIGHTS.items()}}, tmp_path / "other.pt")
    assert_loaded(tmp_path / "other.pt")
    first = next(iter(WEIGHTS))
    report = str(load_any(tmp_path / "other.pt", Net(), quiet=True))
    assert f"read names such as {write(first)!s} as {first}" in report


def test_places_without_numbers_and_infinite_weights(tmp_path: Path) -> None:
    torch.save({name: tensor[:0] if tensor.dim() else tensor for name, tensor in WEIGHTS.items()}, tmp_path / "zero.pt")
    said = refused(tmp_path / "zero.pt")
    assert "the file has no numbers for" in said
    assert "zero_to_fp32.py" in said
    torch.save({**WEIGHTS, "head.bias": torch.full((3,), float("inf"))}, tmp_path / "endless.pt")
    assert "head.bias holds infinite values" in str(load_any(tmp_path / "endless.pt", Net(), quiet=True))
