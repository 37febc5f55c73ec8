"""On a GPU: mixed precision with loss scaling, and checkpoints that any machine can read."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import make_loader
from torchcourse.gpu_errors import STOPPED
from torchcourse.ranks import RankError, run_ranks
from torchcourse.training import Trainer, checkpoint
from torchcourse.training.foreign import load_any

pytestmark = pytest.mark.gpu


class Crash(Exception):
    """Stands for whatever ends a run without warning."""


def fit(folder, precision, epochs, resume=False, save_every=None, crash_at=None):
    torch.manual_seed(0)
    inputs = torch.randn(512, 16, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(inputs, inputs[:, :4].argmax(1))
    model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4))
    trainer = Trainer(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.01),
        nn.CrossEntropyLoss(),
        clip_norm=1.0,
        precision=precision,
        checkpoint_dir=folder,
        save_every=save_every,
        progress=False,
    )

    def crash(*_):
        if trainer.position.step == crash_at:
            raise Crash

    model.register_forward_hook(crash)
    return trainer, trainer.fit(make_loader(dataset, 32), epochs, resume=resume)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_and_keeps_full_weights(tmp_path, precision):
    trainer, history = fit(tmp_path, precision, 6)
    assert trainer.device.type == "cuda"
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert history["accuracy"][-1] > 0.8
    assert (trainer.scaler.get_scale() > 1) == (precision == "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resuming_continues_dropout_optimizer_and_loss_scale(tmp_path, precision):
    whole, history = fit(tmp_path / "whole", precision, 4)
    fit(tmp_path / "parts", precision, 2)
    resumed, other = fit(tmp_path / "parts", precision, 4, resume=True)
    assert other["loss"] == pytest.approx(history["loss"], rel=1e-4)
    assert resumed.scaler.get_scale() == whole.scaler.get_scale()


def test_a_checkpoint_from_a_gpu_holds_cpu_tensors(tmp_path):
    fit(tmp_path, "fp32", 1)
    plain = torch.load(tmp_path / "last.pt", weights_only=True)
    assert {tensor.device.type for tensor in plain["model"].values()} == {"cpu"}
    states = checkpoint.load(tmp_path / "last.pt")["optimizer"]["state"].values()
    assert {tensor.device.type for state in states for tensor in state.values()} == {"cpu"}


def test_a_run_that_saves_within_an_epoch_resumes_there(tmp_path):
    _, history = fit(tmp_path / "whole", "fp32", 2)
    with pytest.raises(Crash):
        fit(tmp_path / "parts", "fp32", 2, save_every=5, crash_at=23)
    assert checkpoint.load(tmp_path / "parts" / "last.pt")["position"]["step"] == 20
    _, other = fit(tmp_path / "parts", "fp32", 2, resume=True)
    assert other["loss"] == pytest.approx(history["loss"], rel=1e-4)


def test_weights_saved_on_a_gpu_load_wherever_the_model_is(tmp_path, capsys):
    saved = nn.Linear(4, 3).cuda()
    torch.save({f"module.{name}": tensor for name, tensor in saved.state_dict().items()}, tmp_path / "file.pt")
    for device in ("cpu", "cuda"):
        model = nn.Linear(4, 3).to(device)
        load_any(tmp_path / "file.pt", model)
        assert model.weight.device.type == device
        assert torch.equal(model.weight.cpu(), saved.weight.cpu())
        assert ("saved on cuda:0 to cpu" in capsys.readouterr().out) == (device == "cpu")


def classify(labels):
    """Train on batches of four samples of three classes with these labels."""
    model = nn.Linear(8, 3)
    batches = [(torch.ones(4, 8), torch.tensor(each)) for each in labels]
    Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), progress=False).fit(batches, 1)


def test_a_wrong_label_in_the_first_batch_is_told_and_the_gpu_goes_on():
    with pytest.raises(ValueError, match="Target 3 is out of bounds"):
        classify([[0, 1, 2, 3]])
    classify([[0, 1, 2, 0]])


def test_a_wrong_label_later_stops_the_gpu_with_a_sentence():
    with pytest.raises(RankError) as caught:
        run_ranks(classify, [[0, 1, 2, 0], [0, 1, 2, 3]], world_size=1)
    assert STOPPED in caught.value.message
