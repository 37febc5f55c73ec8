"""A checkpoint is whole or refused, survives a crash while it is written, and brings everything back by name."""

import enum
import errno
import os
import random
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from torchcourse.models import mlp
from torchcourse.training import CheckpointError, checkpoint
from torchcourse.training.generators import generators_of, random_state, set_random_state


def test_everything_comes_back_as_it_was(tmp_path):
    state: dict[str, Any] = {
        "tensor": torch.randn(3, 4),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "numbers": [1, 2.5, True, None, float("inf")],
        "text": "한국어",
        "nested": {"tuple": (1, (2, "three")), 7: "integer key"},
        "counter": Counter({3: 1}),
        "ordered": OrderedDict(b=1, a=2),
        "numpy": np.float64(0.5),
    }
    checkpoint.save(state, tmp_path / "new folder" / "a.pt")
    loaded = checkpoint.load(tmp_path / "new folder" / "a.pt")
    assert torch.equal(loaded.pop("tensor"), state.pop("tensor"))
    assert torch.equal(loaded.pop("half"), state.pop("half"))
    assert loaded == state
    assert isinstance(loaded["counter"], Counter)
    assert type(loaded["numpy"]) is float


def test_any_program_that_reads_pytorch_files_reads_it(tmp_path):
    checkpoint.save({"weight": torch.arange(5)}, tmp_path / "a.pt")
    for memory_mapped in (False, True):
        loaded = torch.load(tmp_path / "a.pt", weights_only=True, mmap=memory_mapped)
        assert torch.equal(loaded["weight"], torch.arange(5))


def test_what_could_not_be_read_back_is_refused_when_saving_and_named(tmp_path):
    checkpoint.save({"epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(TypeError, match=r"state\['scheduler'\]\['rule'\], which is a function"):
        checkpoint.save({"scheduler": {"rule": lambda epoch: 0.1}}, tmp_path / "a.pt")
    assert checkpoint.load(tmp_path / "a.pt") == {"epoch": 1}


class Phase(enum.StrEnum):
    WARM = "warm"


class Level(enum.IntEnum):
    HIGH = 2


class Rate(float):
    pass


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        (Phase.WARM, "warm"),
        (Level.HIGH, 2),
        (Rate(-0.0), -0.0),
        ({Phase.WARM: 1}, {"warm": 1}),
        ({np.int64(3): 1}, {3: 1}),
        ({(Level.HIGH, np.str_("a")): 1}, {(2, "a"): 1}),
        (np.complex64(1 + 2j), 1 + 2j),
        (defaultdict(list, a=[1]), {"a": [1]}),
    ],
    ids=repr,
)
def test_kinds_of_numbers_and_strings_come_back_as_what_they_equal(tmp_path, value, comes_back):
    checkpoint.save({"x": value}, tmp_path / "a.pt")
    loaded = checkpoint.load(tmp_path / "a.pt")["x"]
    assert loaded == comes_back
    assert type(loaded) is type(comes_back)


def contains_itself():
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.datetime64("2026-01-01", "ns"), "a datetime64"),
        (np.longdouble(1), "a longdouble"),
        (10**1000, "so many digits"),
        ({frozenset(): 1}, "the key frozenset"),
        (contains_itself(), "contains itself"),
        (nn.LazyLinear(2).weight, "lazy layer that has no shape yet"),
        (torch.ones(2, device="meta"), "has no values"),
        (torch.ones(2, 2).to_mkldnn(), r"MKL-DNN's form\. Call to_dense\(\) first"),
        (torch.Size([1]), "is a Size"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_come_back_is_refused_at_once(tmp_path, value, words):
    with pytest.raises(TypeError, match=rf"state\['x'\].*{words}|{words}.*state\['x'\]"):
        checkpoint.save({"x": value}, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


class Tagged(torch.Tensor):
    pass


def test_tensors_of_all_kinds_come_back_with_their_values(tmp_path):
    numbers = torch.tensor([1 + 2j, 3 - 1j])
    tensors = {
        "conjugate": numbers.conj(),
        "imaginary": numbers.conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "subclass": torch.ones(2).as_subclass(Tagged),
        "every second": torch.arange(10)[::2],
        "turned": torch.arange(6).view(2, 3).T,
        "one for all": torch.ones(1).expand(5),
    }
    checkpoint.save(tensors, tmp_path / "a.pt")
    loaded = checkpoint.load(tmp_path / "a.pt")
    for name, tensor in tensors.items():
        assert type(loaded[name]) is torch.Tensor
        assert loaded[name].to_dense().tolist() == tensor.to_dense().tolist(), name


def test_a_part_of_a_large_tensor_takes_the_space_of_the_part(tmp_path):
    large = torch.randn(1_000_000)
    loss = nn.functional.mse_loss(large, large * 2)  # PyTorch lets this number keep the memory of all differences
    checkpoint.save({"x": large[:10], "twice": large[:10], "loss": loss}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 5000
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded["x"], large[:10])
    assert loaded["x"].data_ptr() == loaded["twice"].data_ptr()
    assert loaded["loss"] == loss


def test_tied_weights_stay_one_tensor_in_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 300, bias=False))
    model[1].weight = model[0].weight
    checkpoint.save(model.state_dict(), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 1.1 * 300 * 300 * 4


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path, failed = tmp_path / "a.pt", []

    def save_again_and_again(number):
        try:
            for _ in range(15):
                checkpoint.save({"w": torch.full((50_000,), float(number))}, path)
                assert len(checkpoint.load(path)["w"].unique()) == 1
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=save_again_and_again, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_two_writers_of_a_second_name_do_not_disturb_each_other(tmp_path):
    checkpoint.save({"epoch": 1}, tmp_path / "last.pt")
    (tmp_path / "step-1.pt.tmp").write_text("of the other writer")
    for _ in range(2):
        checkpoint.save_as_well(tmp_path / "last.pt", "step-1.pt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "step-1.pt", "step-1.pt.tmp"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, used = (checkpoint._temporary(tmp_path / "a.pt") for _ in range(2))
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    for file in (left, used):
        file.write_text("unfinished")
        os.utime(file, (0, 0))
    checkpoint.save({"epoch": 1}, tmp_path / "a.pt")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["a.pt", used.name])


def test_whatever_ends_a_save_leaves_nothing_half_done(tmp_path):
    def save_until_interrupted():
        with checkpoint.replacing(tmp_path / "a.pt") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_until_interrupted()
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "big disk").mkdir()
    target = tmp_path / "big disk" / "a.pt"
    link = tmp_path / "a.pt"
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("links are not allowed here")
    checkpoint.save({"epoch": 1}, link)
    assert link.is_symlink()
    assert checkpoint.load(target) == {"epoch": 1}


def test_a_path_that_cannot_be_written_is_told_apart_from_a_full_disk(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path / "folder", "the name of a file, not of a folder"),
        (tmp_path / "file" / "a.pt", "choose a different folder"),
        (tmp_path / ("long" * 100), "a shorter name"),
    ):
        with pytest.raises(CheckpointError, match=words):
            checkpoint.save({"epoch": 1}, path)


def test_a_long_name_is_no_hindrance(tmp_path):
    checkpoint.save({"epoch": 1}, tmp_path / ("가" * 80 + ".pt"))
    assert checkpoint.load(tmp_path / ("가" * 80 + ".pt")) == {"epoch": 1}


def test_a_whole_file_that_cannot_be_read_back_says_so(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(checkpoint, "plain", lambda state: state)
        checkpoint.save({"path": tmp_path}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt is whole, but holds what cannot be read back safely"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save({"weight": torch.randn(100)}, path)
    whole = path.read_bytes()
    for length in [0, 1, 30, len(whole) // 2, len(whole) - 74, len(whole) - 73, len(whole) - 71, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="checksum at its end is missing"):
            checkpoint.load(path)


def test_a_single_flipped_bit_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save({"weight": torch.randn(50)}, path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"a\.pt (is damaged|is not a whole checkpoint)"):
            checkpoint.load(path)


def test_files_of_other_kinds_get_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path)
    (tmp_path / "page.pt").write_text("<html>404 Not Found</html>")
    torch.save({"weight": torch.ones(2)}, tmp_path / "plain.pt")
    for name in ("page.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="or another program wrote it"):
            checkpoint.load(tmp_path / name)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    checkpoint.save({"epoch": 1}, tmp_path / "last.pt")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the last\.pt from before is unharmed"):
        checkpoint.save({"epoch": 2}, tmp_path / "last.pt")
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_disk_that_fills_up_during_a_save_is_named(tmp_path):
    resource = pytest.importorskip("resource")  # Windows has no such limit
    checkpoint.save({"epoch": 1}, tmp_path / "last.pt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not be saved \(File too large\); the last\.pt from before"):
            checkpoint.save({"weights": torch.ones(1_000_000)}, tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


SAVE_UNTIL_KILLED = """
import os, random, signal, sys, time, torch
from torchcourse.training import checkpoint
torch.set_num_threads(1)
weights = {str(i): torch.full((200_000,), float(i)) for i in range(5)}
chance = random.Random(0)
for _ in range(5):
    told, tell = os.pipe()
    saver = os.fork()
    if saver == 0:
        for count in range(1_000_000):
            checkpoint.save({"count": count, "weights": weights}, sys.argv[1])
            os.write(tell, b".")
    os.close(tell)
    os.read(told, 1)
    time.sleep(chance.uniform(0.05, 0.3))
    os.kill(saver, signal.SIGKILL)
    os.waitpid(saver, 0)
    saved = 1 + sum(len(part) for part in iter(lambda: os.read(told, 1000), b""))
    loaded = checkpoint.load(sys.argv[1])
    assert loaded["count"] >= saved - 1, "what was reported as saved was lost"
    assert all(torch.equal(loaded["weights"][name], tensor) for name, tensor in weights.items())
    os.remove(sys.argv[1])
    print("whole")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_while_saving_never_costs_a_checkpoint(tmp_path):
    command = [sys.executable, "-c", SAVE_UNTIL_KILLED, tmp_path / "last.pt"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.stdout.split() == ["whole"] * 5, ended.stderr


def trained(optimizer_class, **options):
    torch.manual_seed(0)
    model = mlp(4, 6, 3)
    optimizer = optimizer_class(model.parameters(), lr=0.01, **options)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("named", [False, True])
def test_optimizer_state_finds_its_parameters_by_name_in_whatever_order(tmp_path, named):
    model, optimizer = trained(torch.optim.AdamW)
    checkpoint.save(checkpoint.optimizer_state(model, optimizer), tmp_path / "optimizer.pt")
    parameters = list(model.named_parameters())[::-1]
    other = torch.optim.AdamW(parameters if named else [parameter for _, parameter in parameters], lr=1.0)
    checkpoint.load_optimizer_state(model, other, checkpoint.load(tmp_path / "optimizer.pt"))
    assert other.param_groups[0]["lr"] == 0.01
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(other.state[parameter][key], value)


def test_optimizers_that_do_not_fit_are_refused():
    model, optimizer = trained(torch.optim.AdamW)
    saved = checkpoint.optimizer_state(model, optimizer)
    with pytest.raises(CheckpointError, match="trained with AdamW, but the optimizer is SGD"):
        checkpoint.load_optimizer_state(model, torch.optim.SGD(model.parameters(), lr=0.1), saved)
    head = torch.optim.AdamW(model[-1].parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match="hold different parameters"):
        checkpoint.load_optimizer_state(model, head, saved)


def test_an_optimizer_made_before_a_layer_was_replaced_is_found():
    model, optimizer = trained(torch.optim.SGD)
    model[-1] = nn.Linear(6, 5)
    with pytest.raises(ValueError, match=r"shape \[3, 6\], not a parameter of the model"):
        checkpoint.optimizer_state(model, optimizer)


def test_weights_of_another_architecture_are_named_and_nothing_is_loaded():
    model = nn.ModuleDict({"body": nn.Linear(4, 6), "head": nn.Linear(6, 5)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = nn.ModuleDict({"body": nn.Linear(4, 6), "head": nn.Linear(6, 3), "extra": nn.Linear(1, 1)}).state_dict()
    del weights["body.bias"]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_weights(model, weights)
    message = str(caught.value)
    assert "it lacks body.bias" in message
    assert "it has extra.weight, extra.bias, which the model lacks" in message
    assert "head.weight [3, 6] where the model has [5, 6]" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_lazy_layer_gets_the_shape_of_its_weights():
    saved = nn.Sequential(nn.Linear(4, 3))
    model = nn.Sequential(nn.LazyLinear(3))
    checkpoint.load_weights(model, saved.state_dict())
    assert torch.equal(model(torch.ones(2, 4)), saved(torch.ones(2, 4)))


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (torch.ones(3, device="meta"), "b without values"),
        ([1.0, 2.0, 3.0], "b a list where the model has a tensor"),
        (torch.ones(3, dtype=torch.complex64), "b as complex64 where the model has uint8"),
        (torch.ones(3) * 0.5, "b as float32 where the model has uint8"),
        (torch.tensor([1, 2, 300]), "b as int64, with values beyond the range of uint8"),
    ],
    ids=str,
)
def test_weights_that_would_lose_values_on_the_way_are_refused(saved, words):
    model = nn.Module()
    model.register_buffer("b", torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load_weights(model, {"b": saved})
    assert model.state_dict()["b"].tolist() == [0, 0, 0]


def test_weights_for_a_model_without_memory_are_not_lost_in_silence():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"call model\.to_empty"):
        checkpoint.load_weights(model, nn.Linear(2, 2).state_dict())


def test_sparse_weights_are_copied_into_dense_ones():
    model = nn.Linear(3, 3, bias=False)
    checkpoint.load_weights(model, {"weight": torch.eye(3).to_sparse()})
    assert torch.equal(model.weight, torch.eye(3))


def test_a_long_list_of_names_is_cut():
    with pytest.raises(CheckpointError, match=r"0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight and 3 more"):
        checkpoint.load_weights(nn.Sequential(*[nn.Linear(1, 1) for _ in range(4)]), {})


def test_random_numbers_go_on_where_they_were(tmp_path):
    generator = torch.Generator().manual_seed(5)

    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand(), torch.rand(2, generator=generator).tolist()

    draw()
    checkpoint.save(random_state([generator]), tmp_path / "random.pt")
    expected = draw()
    state = checkpoint.load(tmp_path / "random.pt")
    set_random_state(state, [generator])
    assert draw() == expected
    set_random_state(state | {"loader": state["loader"][0]}, [generator])  # as files were written once
    assert draw() == expected
    set_random_state(state | {"loader": None}, [generator])
    assert draw()[:3] == expected[:3]


def test_the_generators_of_a_loader_are_found_in_its_parts_each_once() -> None:
    one, other = torch.Generator(), torch.Generator()
    data = torch.utils.data.TensorDataset(torch.zeros(8))
    sampler = torch.utils.data.RandomSampler(data, generator=other)
    loader = torch.utils.data.DataLoader(data, sampler=sampler, generator=one)
    assert generators_of(loader) == [one, other]
    assert generators_of([torch.zeros(2)]) == []
    assert generators_of(mock.MagicMock()) == []  # it has parts without end
