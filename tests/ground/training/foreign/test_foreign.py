"""Every shape of checkpoint that is met in the wild loads the right tensors, or fails with cause and remedy."""

import copy
import json
import os
import pickle
import re
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ground.training.foreign import shapes
from ground.training.foreign.shapes import Net, Tied, trained
from torchcourse.lessons.monitoring.foreign_examples import save_as_from, zoo
from torchcourse.ranks import run_ranks
from torchcourse.training import CheckpointError, checkpoint
from torchcourse.training.foreign import gather, load_any

MODEL, OPTIMIZER = trained()
GOOD, BAD = shapes.good(MODEL, OPTIMIZER), shapes.bad(MODEL)


def new():
    torch.manual_seed(99)
    return Net()


def assert_loaded(model, weights, tolerance=0.0, but=()):
    for name, tensor in model.state_dict().items():
        if not name.endswith(tuple(but)) if but else True:
            torch.testing.assert_close(tensor, weights[name].to(tensor.dtype), rtol=tolerance, atol=tolerance)


def refused(path, model=None, **options):
    """Return the sentence; the model must be as it was, and the sentence no longer than one can read."""
    model = new() if model is None else model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_any(path, model, quiet=True, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "something was loaded"
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("shape", GOOD)
def test_what_holds_the_weights_loads(tmp_path, shape):
    torch.save(GOOD[shape], tmp_path / "file.pth")
    model = new()
    load_any(tmp_path / "file.pth", model, quiet=True)
    if shape == "half":
        assert_loaded(model, MODEL.state_dict(), 1e-3)
    else:
        assert_loaded(model, MODEL.state_dict(), but=["num_batches_tracked"] if "counters" in shape else ())


@pytest.mark.parametrize("shape", BAD)
def test_what_does_not_hold_them_is_explained_and_changes_nothing(tmp_path, shape):
    content, sentence = BAD[shape]
    torch.save(content, tmp_path / "file.pth")
    assert re.search(sentence, refused(tmp_path / "file.pth"))


def test_it_says_what_it_did(tmp_path, capsys):
    content = {"state_dict": GOOD["DataParallel"] | {"module.loss.weight": torch.ones(2)}, "epoch": 4}
    content["state_dict"] = {f"model.{n}": t for n, t in GOOD["DataParallel"].items()} | {"loss.weight": torch.ones(2)}
    save_as_from("cuda:3", content, tmp_path / "file.ckpt")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "file.ckpt", weights_only=True)  # so the file really is as a GPU leaves it
    report = load_any(tmp_path / "file.ckpt", new())
    said = capsys.readouterr().out
    assert "9 tensors loaded" in said
    assert "moved tensors that were saved on cuda:3 to cpu" in said
    assert "took the weights from 'state_dict/model.'" in said
    assert 'took "module." of DataParallel or DistributedDataParallel off 9 names' in said
    assert "did not use loss.weight" in said
    assert report.rest == {"epoch": 4}
    assert report.unused == ["loss.weight"]


def test_a_wrapped_model_is_loaded_inside(tmp_path):
    torch.save(GOOD["compiled"], tmp_path / "file.pt")
    for wrap in (nn.DataParallel, shapes.compiled):
        model = new()
        load_any(tmp_path / "file.pt", wrap(model), quiet=True)
        assert_loaded(model, MODEL.state_dict())


def test_which_of_several_weights_is_yours_to_say(tmp_path):
    torch.save(BAD["several"][0], tmp_path / "file.pt")
    torch.save(BAD["student and teacher"][0], tmp_path / "both.pt")
    for path, part in ((tmp_path / "file.pt", "ema"), (tmp_path / "both.pt", "teacher")):
        model = new()
        load_any(path, model, part=part, quiet=True)
        ema = BAD["several"][0]["ema"]
        expected = ema if part == "ema" else {name: tensor + 1 for name, tensor in MODEL.state_dict().items()}
        assert_loaded(model, expected)
    assert re.search(r"has no part 'best'.* in model, ema\.", refused(tmp_path / "file.pt", part="best"))


def test_a_head_for_other_classes_is_left_when_you_say_so(tmp_path, capsys):
    torch.save(BAD["another head"][0], tmp_path / "file.pt")
    model, before = new(), new().head.weight
    load_any(tmp_path / "file.pt", model, leave=("head.",))
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.body[0].weight, BAD["another head"][0]["body.0.weight"])
    assert "head.weight, head.bias kept the values of the model" in capsys.readouterr().out


def test_values_that_are_no_numbers_and_lost_precision_are_named(tmp_path, capsys):
    weights = {name: tensor.clone() for name, tensor in GOOD["half"].items()}
    weights["head.bias"][1] = float("nan")
    torch.save(weights, tmp_path / "file.pt")
    load_any(tmp_path / "file.pt", new())
    said = capsys.readouterr().out
    assert "CAUTION: head.bias holds values that are not numbers" in said
    assert "converted 8 tensors from float16 to float32" in said


def test_tied_weights_come_under_one_name_or_two_but_not_torn(tmp_path):
    tied = Tied()
    torch.save(tied.state_dict(), tmp_path / "both.pt")
    save_file({"embedding.weight": tied.embedding.weight.data}, tmp_path / "one.safetensors")
    for name in ("both.pt", "one.safetensors"):
        model = Tied()
        load_any(tmp_path / name, model, quiet=True)
        assert torch.equal(model.output.weight, tied.embedding.weight)
        assert model.output.weight is model.embedding.weight
    torn = {"embedding.weight": torch.zeros(5, 4), "output.weight": torch.ones(5, 4)}
    torch.save(torn, tmp_path / "torn.pt")
    sentence = refused(tmp_path / "torn.pt", Tied())
    assert re.search(r"embedding\.weight, output\.weight are one tensor, but the file has different values", sentence)


def test_safetensors_one_file_and_several(tmp_path):
    weights = {name: tensor.contiguous() for name, tensor in MODEL.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    body = {name: tensor for name, tensor in weights.items() if name.startswith("body")}
    head = {name: tensor for name, tensor in weights.items() if name.startswith("head")}
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_file(body, folder / "model-1.safetensors")
    torch.save(head, folder / "model-2.bin")
    where = dict.fromkeys(body, "model-1.safetensors") | dict.fromkeys(head, "model-2.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for source in (tmp_path / "model.safetensors", folder):
        model = new()
        load_any(source, model, quiet=True)
        assert_loaded(model, weights)
    (folder / "model-2.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no file .*model-2\.bin"):
        load_any(folder, new())
    cut = (tmp_path / "model.safetensors").read_bytes()[:-50]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    assert "damaged or cut off" in refused(tmp_path / "cut.safetensors")


def test_an_index_that_points_elsewhere_is_not_followed(tmp_path):
    torch.save(MODEL.state_dict(), tmp_path / "secret.pt")
    (tmp_path / "in").mkdir()
    index = {"weight_map": dict.fromkeys(MODEL.state_dict(), "../secret.pt")}
    (tmp_path / "in" / "model.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="points out of its folder"):
        load_any(tmp_path / "in", new())


def test_the_trainers_own_files_and_old_files_load(tmp_path):
    state = {"model": MODEL.state_dict(), "optimizer": checkpoint.optimizer_state(MODEL, OPTIMIZER), "random": []}
    checkpoint.save(state, tmp_path / "own.pt")
    torch.save(MODEL.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("own.pt", "old.pt"):
        model = new()
        load_any(tmp_path / name, model, quiet=True)
        assert_loaded(model, MODEL.state_dict())
    damaged = bytearray((tmp_path / "own.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "own.pt").write_bytes(damaged)
    assert "is damaged: its SHA-256" in refused(tmp_path / "own.pt")


NO_CHECKPOINT = {
    "an empty file": b"",
    "a web page": b"\n<!DOCTYPE html><html>404</html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n",
    "packed with gzip": b"\x1f\x8b\x08\x00",
    "packed with xz": b"\xfd7zXZ\x00",
    "packed with zstd": b"\x28\xb5\x2f\xfd",
    "a tar archive": b"model.pth".ljust(257, b"\0") + b"ustar",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "JSON text": b'{"a": 1}',
    "Which program wrote it?": b"GIF89a not at all a checkpoint",
}


@pytest.mark.parametrize("sentence", NO_CHECKPOINT)
def test_files_of_other_kinds_are_recognised(tmp_path, sentence):
    (tmp_path / "model.pth").write_bytes(NO_CHECKPOINT[sentence])
    assert sentence in refused(tmp_path / "model.pth")


def test_paths_that_lead_nowhere(tmp_path):
    assert "There is no file" in refused(tmp_path / "none.pt")
    assert "nothing that looks like a checkpoint" in refused(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(MODEL.state_dict(), tmp_path / name)
    assert "is a folder with a.pt, b.pt" in refused(tmp_path)


def test_truncated_and_foreign_zip_files(tmp_path):
    torch.save(MODEL.state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in (30, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        assert "is cut off" in refused(tmp_path / "cut.pt")
    torch.save(MODEL.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    os.truncate(tmp_path / "old.pt", 400)
    assert "Use a different copy" in refused(tmp_path / "old.pt")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    assert "TorchScript" in refused(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("model.pt", b"")
    assert "zip archive, but not of torch.save" in refused(tmp_path / "archive.pt")
    for name, inside in (("arrays.npz", "head.bias.npy"), ("program.pt2", "program/models/model.json")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, b"")
    assert "1 arrays of NumPy. Load them with numpy.load" in refused(tmp_path / "arrays.npz")
    assert "a program of torch.export" in refused(tmp_path / "program.pt2")


@pytest.mark.parametrize("with_checksums", [True, False])
def test_a_number_that_changed_in_a_file_of_torch_save_is_noticed_by_the_files_own_checksums(tmp_path, with_checksums):
    torch.serialization.set_crc32_options(with_checksums)
    try:
        torch.save(MODEL.state_dict(), tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    whole = bytearray((tmp_path / "file.pt").read_bytes())
    numbers = MODEL.head.weight.detach().numpy().tobytes()
    whole[whole.index(numbers)] ^= 1
    load_any(tmp_path / "file.pt", new(), quiet=True)
    (tmp_path / "file.pt").write_bytes(whole)
    if with_checksums:
        assert re.search(r"is damaged: file/data/\d+ in it is not what was saved", refused(tmp_path / "file.pt"))
    else:
        load_any(tmp_path / "file.pt", new(), quiet=True)


def test_a_part_is_found_where_its_names_have_a_prefix_within_it(tmp_path):
    parts = {"teacher": MODEL, "student": trained(2)[0]}
    nested = {part: {f"net.{n}": t for n, t in model.state_dict().items()} for part, model in parts.items()}
    torch.save(nested, tmp_path / "nested.pt")
    save_file({f"{part}.{n}": t for part, names in nested.items() for n, t in names.items()}, tmp_path / "flat.pt")
    for file in ("nested.pt", "flat.pt"):
        for part, source in parts.items():
            model = new()
            load_any(tmp_path / file, model, part=part, quiet=True)
            assert_loaded(model, source.state_dict())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("writer", ["zip", "old", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    content = {"model": MODEL.state_dict(), "extra": Evil()}
    if writer == "pickle":
        (tmp_path / "evil.pt").write_bytes(pickle.dumps({"extra": Evil()}))
    else:
        torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=writer == "zip")
    assert "could run code, so weights_only refuses it" in refused(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "step-2"
    weights, moments = run_ranks(shapes.save_from_four_ranks, folder, world_size=4)[0]
    return folder, weights, moments


@pytest.mark.slow
def test_the_shares_of_four_ranks_gather_into_one_file_in_one_process(four_ranks, tmp_path, capsys):
    folder, weights, moments = four_ranks
    assert len(list(folder.glob("*.distcp"))) == 4
    model = new()
    optimizer = torch.optim.AdamW(list(model.parameters())[::-1], lr=1.0)
    report = load_any(folder, model, optimizer=optimizer)
    assert_loaded(model, weights)
    assert (report.rest["epoch"], report.rest["note"]) == (7, "four ranks")
    assert "folder with the shares of 4 rank(s)" in capsys.readouterr().out
    for name, parameter in model.named_parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[name])
    gather(folder, tmp_path / "whole.pt")
    other = new()
    load_any(tmp_path / "whole.pt", other, quiet=True)
    assert_loaded(other, weights)


@pytest.mark.slow
def test_folders_of_ranks_that_are_not_whole(four_ranks, tmp_path):
    folder = tmp_path / "copy"
    share = next(four_ranks[0].glob("__2*"))
    shutil.copytree(four_ranks[0], folder)
    (folder / share.name).unlink()
    assert f"lacks {share.name}, one of 4 shares" in refused(folder)
    (folder / share.name).write_bytes(share.read_bytes()[:100])
    assert "is damaged or cut off" in refused(folder)
    (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:100])
    assert ".metadata is damaged" in refused(folder)
    (folder / ".metadata").unlink()
    assert "no .metadata, which is written last" in refused(folder)


def test_the_description_of_a_folder_runs_nothing(four_ranks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(four_ranks[0], folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    assert "asks for more than a description needs" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_one_ranks_share_of_the_weights_is_not_taken_for_the_whole(four_ranks):
    sentence = refused(four_ranks[0].with_name("rank1.pt"))
    assert re.search(
        r"one rank's share of body\.0\.weight \(\[2, 6\] of \[8, 6\]\).*torch\.distributed\.checkpoint", sentence
    )


@pytest.fixture(scope="module")
def lightning(tmp_path_factory):
    model, _ = trained(5)
    path = tmp_path_factory.mktemp("lightning") / "epoch=0.ckpt"
    shapes.lightning_file(model, path)
    return path, model


@pytest.mark.slow
def test_a_lightning_checkpoint_with_its_optimizer(lightning, capsys):
    path, trained_there = lightning
    model = new()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    load_any(path, model, optimizer=optimizer)
    assert_loaded(model, trained_there.state_dict())
    saved = torch.load(path, weights_only=True)["optimizer_states"][0]["state"]
    for number, parameter in enumerate(model.parameters()):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], saved[number]["exp_avg"])
    said = capsys.readouterr().out
    assert "took the weights from 'state_dict/model.'" in said
    assert "found no state of random numbers" in said


class Reordered(Net):
    """The same parameters, made in a different order."""

    def __init__(self):
        super().__init__()
        body = self.body
        del self.body
        self.body = body  # the head now comes first


@pytest.mark.parametrize("named", [False, True])
def test_counted_optimizer_states_find_their_parameters_in_whatever_order(tmp_path, named):
    model, _ = trained()
    parameters = list(model.named_parameters())[::-1] if named else list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "file.pt")
    other = Reordered()
    theirs = torch.optim.AdamW(other.parameters(), lr=1.0)
    load_any(tmp_path / "file.pt", other, optimizer=theirs, quiet=True)
    own = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(theirs.state[parameter]["exp_avg"], optimizer.state[own[name]]["exp_avg"])
    assert theirs.param_groups[0]["lr"] == 0.02


def test_optimizer_states_that_do_not_fit_are_refused(tmp_path):
    model, optimizer = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "file.pt")

    def said(make, path=tmp_path / "file.pt"):
        other = new()
        return refused(path, other, optimizer=make(other))

    assert "of a different kind from SGD" in said(lambda other: torch.optim.SGD(other.parameters(), lr=0.1))
    assert "hold different parameters" in said(lambda other: torch.optim.AdamW(other.head.parameters()))
    two = torch.optim.AdamW([{"params": model.head.parameters()}, {"params": model.body.parameters()}])
    torch.save({"model": model.state_dict(), "optimizer": two.state_dict()}, tmp_path / "two.pt")
    sentence = said(lambda other: torch.optim.AdamW(other.parameters()), tmp_path / "two.pt")
    assert "counts 6 parameters in 2 group(s)" in sentence
    torch.save({"model": model.state_dict()}, tmp_path / "none.pt")
    assert "no state of one optimizer in it" in said(lambda o: torch.optim.AdamW(o.parameters()), tmp_path / "none.pt")
    backwards = torch.optim.AdamW(list(model.parameters())[::-1])
    model(torch.randn(4, 6)).sum().backward()
    backwards.step()
    torch.save({"model": model.state_dict(), "optimizer": backwards.state_dict()}, tmp_path / "backwards.pt")
    sentence = said(lambda other: torch.optim.AdamW(other.parameters()), tmp_path / "backwards.pt")
    assert "its parameters came in a different order" in sentence


WRONG: tuple[object, ...] = (None, "x", b"x", [], {}, (1, 2, 3), torch.ones(5), {"state": 1}, [None])


@pytest.mark.parametrize(
    ("where", "key"),
    [
        *(("state", key) for key in ("exp_avg", "exp_avg_sq")),
        *(("group", key) for key in ("lr", "betas", "eps", "weight_decay", "maximize")),
        *(("schedule", key) for key in ("step_size", "last_epoch", "gamma", "_last_lr")),
    ],
)
def test_a_state_that_the_next_step_would_break_on_is_refused(tmp_path, where, key):
    model, optimizer = trained()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    for number, wrong in enumerate(WRONG):
        if key == "maximize" and wrong is None:
            continue  # torch itself writes None for a switch
        content = copy.deepcopy({"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()})
        places = {"group": content["optimizer"]["param_groups"][0], "state": content["optimizer"]["state"][0]}
        (places | {"schedule": content["scheduler"]})[where][key] = wrong
        torch.save(content | {"model": model.state_dict()}, tmp_path / f"{number}.pt")
        other = new()
        theirs = torch.optim.AdamW(other.parameters())
        step = torch.optim.lr_scheduler.StepLR(theirs, 3)
        before = str((theirs.state_dict(), step.state_dict()))
        refused(tmp_path / f"{number}.pt", other, optimizer=theirs, scheduler=step)
        assert str((theirs.state_dict(), step.state_dict())) == before


def test_settings_of_the_machine_stay_its_own(tmp_path):
    """What was trained on a GPU with capturable=True goes on here; the file's says nothing about this machine."""
    model, optimizer = trained()
    optimizer.param_groups[0] |= {"capturable": True, "foreach": True, "lr": 0.5}
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "gpu.pt")
    other = new()
    theirs = torch.optim.AdamW(other.parameters())
    load_any(tmp_path / "gpu.pt", other, optimizer=theirs, quiet=True)
    assert [theirs.param_groups[0][key] for key in ("capturable", "foreach", "lr")] == [False, None, 0.5]
    other(torch.randn(4, 6)).sum().backward()
    theirs.step()


def test_odd_tensors_load_or_are_named(tmp_path):
    weights = MODEL.state_dict()
    name = next(iter(weights))
    eight = {key: value.to(torch.float8_e5m2) for key, value in weights.items() if value.is_floating_point()}
    torch.save(weights | eight, tmp_path / "eight.pt")
    load_any(tmp_path / "eight.pt", new(), quiet=True)
    torch.save(weights | {name: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, tmp_path / "nested.pt")
    assert "nested" in refused(tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match="no path"):
        load_any("weights\0.pt", new())


def test_scheduler_and_scaler_come_along_or_are_missed(tmp_path):
    model, optimizer = trained()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    optimizer.step()
    schedule.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    torch.save(content, tmp_path / "file.pt")
    other = new()
    theirs = torch.optim.AdamW(other.parameters())
    another = torch.optim.lr_scheduler.StepLR(theirs, 5)
    load_any(tmp_path / "file.pt", other, optimizer=theirs, scheduler=another, quiet=True)
    assert another.state_dict() == schedule.state_dict()
    sentence = refused(tmp_path / "file.pt", scaler=torch.amp.GradScaler("cpu"))
    assert "no state of one scaler in it, so nothing was loaded. Load without scaler=" in sentence


def test_the_zoo_of_the_lesson_has_files_that_load_and_files_that_do_not(tmp_path):
    loads = set()
    for path in zoo(MODEL, tmp_path):
        try:
            load_any(path, new(), quiet=True)
            loads.add(path.name)
        except CheckpointError:
            pass
    assert loads == {
        *("plain.pth", "compiled_on_4_gpus.pth", "lightning_style.ckpt", "half_precision.pth", "ddp_on_a_gpu.pth"),
        "with_nan.pth",
    }
