"""On several ranks the Trainer does what it does in one process."""

import errno
import inspect
import math
import os
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from torchcourse.data import SeededSamples, make_loader
from torchcourse.lessons.data_parallelism import data_parallel
from torchcourse.models import mlp
from torchcourse.ranks import RankError, run_ranks
from torchcourse.training import Trainer, checkpoint, lockstep, read_scalars

WIDTH, CLASSES = 6, 3


def data(samples, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, WIDTH, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, torch.randint(CLASSES, (samples,), generator=generator))


def model_and_optimizer(layers=None, seed=0):
    torch.manual_seed(seed)
    model = (mlp(WIDTH, 8, CLASSES) if layers is None else nn.Sequential(*layers())).double()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(folder, accumulate=1, wrap=None):
    """Train for two epochs on 48 samples, evaluating on 15; return what came out."""
    model, optimizer = model_and_optimizer(seed=dist.get_rank() if dist.is_initialized() else 0)
    trainer = Trainer(
        model if wrap is None else wrap(model),
        optimizer,
        nn.CrossEntropyLoss(),
        accumulate=accumulate,
        log_every=4,
        log_dir=folder / "log",
        checkpoint_dir=folder,
        progress=False,
    )
    history = trainer.fit(make_loader(data(48), 8), 2, val_loader=make_loader(data(15, seed=2), 4, shuffle=False))
    files = sorted(path.name for path in folder.iterdir())
    return history, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, files


def assert_same_training(one, other):
    for row, other_row in zip(one[0].rows + one[0].steps, other[0].rows + other[0].steps, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**other_row, "seconds": 0}, rel=1e-12)
    for name, weights in one[1].items():
        assert torch.allclose(weights, other[1][name], rtol=0, atol=1e-14)


def static(model):
    return DistributedDataParallel(model, static_graph=True)


WRAPPERS = {
    "no wrapper": None,
    "torch's wrapper": DistributedDataParallel,
    "the wrapper made by hand": data_parallel.DistributedDataParallel,
}
STATIC = "a static graph"  # whose no_sync fails in torch 2.13


@pytest.mark.slow
@pytest.mark.parametrize(("wrapper", "accumulate"), [*((name, 1) for name in WRAPPERS), ("no wrapper", 4), (STATIC, 4)])
def test_two_ranks_train_the_model_that_one_process_trains(tmp_path, wrapper, accumulate):
    alone = train(tmp_path / "alone", accumulate)
    first, second = run_ranks(train, tmp_path / "ranks", accumulate, WRAPPERS.get(wrapper, static), world_size=2)
    assert_same_training(first, alone)
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])
    for row, other in zip(first[0].rows, second[0].rows, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.slow
def test_one_rank_writes_and_all_see_plain_files(tmp_path):
    first, second = run_ranks(train, tmp_path, world_size=2)
    assert first[2] == second[2] == ["best.pt", "last.pt", "log"]
    assert len(list((tmp_path / "log").iterdir())) == 1
    assert read_scalars(tmp_path / "log")["loss/val"][1] == pytest.approx(first[0]["val_loss"], rel=1e-6)
    model, _ = model_and_optimizer()
    checkpoint.load_weights(model, checkpoint.load(tmp_path / "last.pt")["model"])
    assert all(torch.equal(tensor, first[1][name]) for name, tensor in model.state_dict().items())


def count_syncs(accumulate):
    model, optimizer = model_and_optimizer()
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), accumulate=accumulate, progress=False)
    syncs = []

    def hook(state, bucket):
        syncs.append(1)
        return torch.futures.collect_all([dist.all_reduce(bucket.buffer(), async_op=True).get_future()]).then(
            lambda done: done.value()[0].value()[0] / dist.get_world_size()
        )

    cast(DistributedDataParallel, trainer.replica).register_comm_hook(None, hook)
    trainer.fit(make_loader(data(48), 8), 1)
    return len(syncs), trainer.position.step


def test_gradients_are_averaged_once_a_step_and_not_once_a_batch():
    for syncs, steps in run_ranks(count_syncs, 4, world_size=2):
        assert steps == 2
        assert syncs == steps


def noisy():
    return [nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES)]


def jitter(sample):
    return sample[0] + 0.1 * torch.randn_like(sample[0]), sample[1]


def train_noisily(folder, epochs, resume=False, crash_at=None, **options):
    model, optimizer = model_and_optimizer(noisy)
    torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)  # each rank its own dropout
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    options = {"checkpoint_dir": folder, "progress": False, "log_every": 4} | options
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), scheduler=schedule, **options)
    if crash_at is not None:
        model.register_forward_hook(lambda *_: os.kill(os.getpid(), 9) if trainer.position.step == crash_at else None)
    validation = make_loader(data(15, seed=2), 4, shuffle=False)
    history = trainer.fit(make_loader(SeededSamples(data(48), jitter), 8), epochs, validation, resume=resume)
    rows = [{**row, "seconds": 0} for row in history.rows + history.steps]
    return rows, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
def test_resuming_on_two_ranks_is_bit_for_bit_with_dropout_and_batch_norm(tmp_path):
    whole = run_ranks(train_noisily, tmp_path / "whole", 3, world_size=2)
    run_ranks(train_noisily, tmp_path / "parts", 2, world_size=2)
    resumed = run_ranks(train_noisily, tmp_path / "parts", 3, True, world_size=2)
    for (rows, weights), (other_rows, other_weights) in zip(whole, resumed, strict=True):
        assert rows == other_rows
        assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.slow
def test_two_ranks_that_are_killed_within_an_epoch_go_on_bit_for_bit(tmp_path):
    whole = run_ranks(train_noisily, tmp_path / "whole", 2, world_size=2)
    with pytest.raises(RankError):
        run_ranks(partial(train_noisily, crash_at=11, save_every=2), tmp_path / "parts", 2, world_size=2)
    assert checkpoint.load(tmp_path / "parts" / "last.pt")["position"]["step"] == 10
    resumed = run_ranks(train_noisily, tmp_path / "parts", 2, True, world_size=2)
    for (rows, weights), (other_rows, other_weights) in zip(whole, resumed, strict=True):
        assert rows == other_rows
        assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def train_onto_a_full_disk(folder):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if dist.get_rank() == 0:
        os.fsync = full
    try:
        train_noisily(folder, 1, save_every=2)
    except checkpoint.CheckpointError as error:
        return str(error)


def test_a_full_disk_stops_all_ranks_with_one_sentence(tmp_path):
    first, second = run_ranks(train_onto_a_full_disk, tmp_path, world_size=2)
    assert "No space left on device" in first
    assert first == second


def test_a_run_of_two_ranks_goes_on_in_one_process_and_says_what_differs(tmp_path, capsys):
    run_ranks(train_noisily, tmp_path, 1, world_size=2)
    rows, _ = train_noisily(tmp_path, 2, resume=True)
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert "saved by 2 rank(s), and now there are 1: training goes on, but with different" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_two_ranks_that_was_killed_within_an_epoch_goes_on_in_one_process(tmp_path, capsys):
    with pytest.raises(RankError):
        run_ranks(partial(train_noisily, crash_at=11, save_every=2), tmp_path, 2, world_size=2)
    rows, _ = train_noisily(tmp_path, 2, resume=True)
    assert [row["step"] for row in rows if "epoch" in row] == [6, 12]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert "training goes on, but with different random numbers" in capsys.readouterr().out


def evaluate(samples):
    model, optimizer = model_and_optimizer(noisy)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), progress=False)
    for buffer in model.buffers():
        buffer += dist.get_rank() if dist.is_initialized() else 0  # as BatchNorm's statistics differ after training
    return trainer.evaluate(make_loader(data(samples), 2, shuffle=False))


@pytest.mark.parametrize("samples", [1, 7])
def test_evaluation_counts_every_sample_once_with_the_same_model_everywhere(samples):
    alone = evaluate(samples)
    assert run_ranks(evaluate, samples, world_size=2) == [pytest.approx(alone, rel=1e-12)] * 2


def fit_on(loader_of):
    model, optimizer = model_and_optimizer()
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), log_every=3, progress=False)
    return trainer.fit(loader_of(dist.get_rank()), 1)


@pytest.mark.parametrize(
    ("seed", "sentence"), [(0, "got the same first batch"), (1, "shuffle the same dataset, each for itself")]
)
def test_training_on_the_same_data_on_all_ranks_is_refused(seed, sentence):
    def loader(rank):
        torch.manual_seed(seed * rank)
        return DataLoader(data(48), 8, shuffle=True)

    with pytest.raises(RankError, match=rf"All 2 ranks {sentence}.*make_loader") as caught:
        run_ranks(fit_on, loader, world_size=2)
    assert caught.value.kind == "ValueError"


def fit_with(options, validated):
    model, optimizer = model_and_optimizer()
    chosen = options if dist.get_rank() == 0 else {}
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), progress=False, **chosen)
    trainer.fit(make_loader(data(48), 8), 1, make_loader(data(8), 4) if validated and dist.get_rank() == 0 else None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"checkpoint_dir": "run"}, "checkpoint_dir is given on rank 0, and None on rank 1"),
        ({"after_epoch": print}, "after_epoch is given on rank 0"),
        ({"log_every": 2}, "log_every is 2 on rank 0, and 50 on rank 1"),
        ({"metrics": {}}, r"metrics is \[\] on rank 0"),
        ({}, "val_loader is given on rank 0"),
    ],
)
def test_what_one_rank_alone_was_given_is_refused(options, sentence):
    with pytest.raises(RankError, match=f"{sentence}.*Give all ranks the same"):
        run_ranks(fit_with, options, not options, world_size=2)


# Without `overwrite`, a rank ends at the run that it finds.
OF_A_RANKS_OWN = {"log_dir", "watch_every", "keep", "after_step", "progress", "device", "overwrite"}
LOOKED_AT = {"model", "optimizer", "loss_fn", "scheduler", "metrics", "train_loader", "self"}  # by what they hold


def test_every_argument_is_compared_over_the_ranks_or_may_be_different():
    arguments = {*inspect.signature(Trainer).parameters, *inspect.signature(Trainer.fit).parameters}
    assert arguments == {*lockstep._ALIKE, *lockstep._GIVEN, *OF_A_RANKS_OWN, *LOOKED_AT}


def fit_with_ranks_own(folder):
    first = {"watch_every": 1, "keep": 2, "after_step": lambda trainer: None, "log_dir": folder / "log"}
    model, optimizer = model_and_optimizer()
    options = first | {"device": "cpu"} if dist.get_rank() == 0 else {}
    Trainer(model, optimizer, nn.CrossEntropyLoss(), checkpoint_dir=folder, progress=False, **options).fit(
        make_loader(data(32), 8), 2
    )
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_what_may_be_different_is_trained_with(tmp_path):
    first, second = run_ranks(fit_with_ranks_own, tmp_path, world_size=2)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("samples", [[48, 40], [48, 47]])
def test_unequal_shares_are_refused(samples):
    with pytest.raises(RankError, match=rf"of \[{samples[0]}, {samples[1]}\] samples.*deals equally"):
        run_ranks(fit_on, lambda rank: DataLoader(data(samples[rank], seed=rank), 8), world_size=2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_shares_that_were_made_by_hand_are_trained_on(shuffle):
    def loader(rank):
        share = data(24, seed=rank)
        for tensor in share.tensors:
            tensor[0] = 0  # as the first file of each share may be blank, and of the first class
        return DataLoader(share, 8, shuffle=shuffle)

    shares = run_ranks(fit_on, loader, world_size=2)
    assert [history["step"] for history in shares] == [[3], [3]]


def test_a_loss_that_is_no_number_on_one_rank_stops_all_at_the_step():
    def loader(rank):
        inputs, targets = data(32, seed=rank).tensors
        if rank == 1:
            inputs[11, 2] = math.nan  # in the second batch of 8
        return DataLoader(TensorDataset(inputs, targets), 8)

    def messages():
        try:
            fit_on(loader)
        except FloatingPointError as error:
            return str(error)

    first, second = run_ranks(messages, world_size=2)
    assert first == second
    assert "at step 2 (epoch 1)" in first


@pytest.mark.slow
def test_a_damaged_checkpoint_stops_all_ranks_with_its_sentence(tmp_path):
    run_ranks(train_noisily, tmp_path, 1, world_size=2)
    for name in ("last.pt", "best.pt"):
        os.truncate(tmp_path / name, 1000)
    with pytest.raises(RankError, match=r"last\.pt is not a whole checkpoint.*best\.pt is not a whole") as caught:
        run_ranks(train_noisily, tmp_path, 2, True, world_size=2)
    assert caught.value.kind == "CheckpointError"


class WithASpare(nn.Module):
    """A model with a layer that takes no part, or in the first step only."""

    def __init__(self, at_first: bool) -> None:
        super().__init__()
        self.used, self.spare, self.at_first = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES), at_first

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.used(inputs)
        if self.at_first:
            self.at_first = False
            outputs = outputs + self.spare(inputs)
        return outputs


def train_with_a_spare(at_first, find_unused=False):
    model = WithASpare(at_first).double()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if find_unused else model
    trainer = Trainer(wrapped, torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), progress=False)
    trainer.fit(make_loader(data(64), 8), 1)
    return trainer.position.step


@pytest.mark.slow
def test_layers_that_take_no_part_are_named_on_several_ranks():
    with pytest.raises(RankError, match=r"does not depend on spare\.weight, spare\.bias.*find_unused_parameters=True"):
        run_ranks(train_with_a_spare, False, world_size=2)
    with pytest.raises(RankError, match=r"A step before this one left parameters out.*find_unused_parameters=True"):
        run_ranks(train_with_a_spare, True, world_size=2)
    assert run_ranks(train_with_a_spare, False, True, world_size=2) == [8, 8]


def train_with_changes(by):
    """Train with the first layer frozen at first and the last one later; return the weights."""
    model, optimizer = model_and_optimizer(lambda: [nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES)])
    model[0].requires_grad_(False)

    def change(trainer):
        if (trainer.position.step if by == "after_step" else trainer.position.epoch) == 1:
            trainer.model[0].requires_grad_(True)
            trainer.model[-1].requires_grad_(False)

    wrapped = DistributedDataParallel(model) if by == "given" else model
    callback: dict[str, Any] = {} if by in ("two fits", "given") else {by: change}
    trainer = Trainer(wrapped, optimizer, nn.CrossEntropyLoss(), progress=False, **callback)
    trainer.fit(make_loader(data(32), 8), 1)
    if not callback:
        change(trainer)
    trainer.fit(make_loader(data(32), 8), 2)
    return torch.cat([weight.detach().flatten() for weight in model.state_dict().values()])


def train_with_each_change():
    return [train_with_changes(by) for by in ("after_epoch", "after_step", "two fits")]


@pytest.mark.slow
def test_what_learns_from_a_later_step_on_is_averaged_over_the_ranks_too():
    left, right = run_ranks(train_with_each_change, world_size=2)
    for one, other, alone in zip(left, right, train_with_each_change(), strict=True):
        assert torch.equal(one, other)
        assert torch.allclose(one, alone, rtol=0, atol=1e-14)


def test_a_wrapper_of_ones_own_is_not_left_behind_by_what_learns():
    with pytest.raises(RankError, match=r"What learns has changed since the model was wrapped: .*0\.weight"):
        run_ranks(train_with_changes, "given", world_size=2)


def train_with_shared_numbers(folder, epochs, resume):
    from torch.distributed.optim import ZeroRedundancyOptimizer  # takes seconds to import

    model, _ = model_and_optimizer()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), checkpoint_dir=folder, progress=False)
    trainer.fit(make_loader(data(32), 8), epochs, resume=resume)
    return torch.cat([weight.detach().flatten() for weight in model.state_dict().values()])


@pytest.mark.slow
def test_an_optimizer_whose_numbers_are_shared_out_goes_on_with_all_of_them(tmp_path):
    whole, _ = run_ranks(train_with_shared_numbers, tmp_path / "whole", 4, False, world_size=2)
    run_ranks(train_with_shared_numbers, tmp_path / "killed", 2, False, world_size=2)
    resumed = run_ranks(train_with_shared_numbers, tmp_path / "killed", 4, True, world_size=2)
    assert torch.equal(resumed[0], whole)
    assert torch.equal(resumed[1], whole)


def train_sharded():
    model, optimizer = model_and_optimizer()
    Trainer(fully_shard(model), optimizer, nn.CrossEntropyLoss(), progress=False)


def test_a_model_whose_parameters_are_shared_out_is_refused_by_what_it_is():
    with pytest.raises(RankError, match=r"Each rank has a part of 1\.weight .*in a loop of your own"):
        run_ranks(train_sharded, world_size=2)
