"""What ends, begins and resumes a run: nothing spoiled is saved, nothing is overwritten, and what differs is said."""

import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchcourse.data import make_loader
from torchcourse.models import mlp
from torchcourse.ranks import RankError, run_ranks
from torchcourse.training import CheckpointError, Trainer, checkpoint, explanations

WIDTH, CLASSES = 6, 3


def loader(samples=32, size=8):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, WIDTH, generator=generator)
    return DataLoader(TensorDataset(inputs, torch.randint(CLASSES, (samples,), generator=generator)), size)


def trainer(folder=None, loss_fn=None, schedule=None, optimizer=torch.optim.SGD, **options):
    torch.manual_seed(0)
    model = mlp(WIDTH, 8, CLASSES)
    made = optimizer(model.parameters(), lr=0.1)
    scheduler = None if schedule is None else schedule(made)
    options = {"checkpoint_dir": folder, "progress": False} | options
    return Trainer(model, made, loss_fn or nn.CrossEntropyLoss(), scheduler=scheduler, **options)


class BadAt:
    """A loss that is a number, and whose gradient is none from a step on: that of sqrt(0)."""

    def __init__(self, step):
        self.left = step

    def __call__(self, outputs, targets):
        self.left -= outputs.requires_grad and torch.is_grad_enabled()
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss + (outputs.sum() * 0).abs().sqrt() if self.left <= 0 else loss


@pytest.mark.parametrize("options", [{}, {"save_every": 1}, {"clip_norm": 1.0, "keep": 2}])
def test_a_gradient_that_is_no_number_reaches_no_file(tmp_path, options):
    ours = trainer(tmp_path, BadAt(step=8), optimizer=torch.optim.Adam, **options)
    with pytest.raises(FloatingPointError, match=r"became nan or infinite.*though the losses are"):
        ours.fit(loader(), 2)
    for path in tmp_path.glob("*.pt"):
        state = checkpoint.load(path)
        assert all(value.isfinite().all() for value in state["model"].values()), path


def test_loss_scaling_that_leaves_out_every_step_is_told():
    ours = trainer(loss_fn=BadAt(step=1), log_every=10)
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    with pytest.raises(FloatingPointError, match="at any loss scale"):
        ours.fit([next(iter(loader()))] * 40, 1)
    assert all(parameter.isfinite().all() for parameter in ours.model.parameters())


def test_a_second_start_overwrites_no_run_unasked(tmp_path):
    trainer(tmp_path).fit(loader(), 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"resume=True.*different checkpoint_dir.*overwrite=True"):
        trainer(tmp_path).fit(loader(), 1)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = trainer(tmp_path)
    again.fit(loader(), 1, overwrite=True)
    again.fit(loader(), 1)  # its own run
    assert checkpoint.load(tmp_path / "last.pt")["position"]["epoch"] == 2


class Dies(list):
    def __iter__(self):
        if len(self) == 0:
            raise OSError("the disk is gone")
        return super().__iter__()


def test_an_evaluation_that_dies_loses_no_epoch(tmp_path):
    validation = Dies(loader())
    ours = trainer(tmp_path, after_step=lambda ours: validation.clear() if ours.position.step == 4 else None)
    with pytest.raises(OSError, match="the disk is gone"):
        ours.fit(loader(), 2, validation)
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 4


def test_a_validation_batch_is_tried_before_training_and_changes_nothing():
    wrong = [(torch.ones(4, WIDTH + 1), torch.zeros(4, dtype=torch.long))]
    ours = trainer()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ours.fit(loader(), 1, wrong)
    assert ours.position.step == 0


SCHEDULES = {
    "OneCycleLR has total_steps=15, but this fit ends after 16": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 15),
    "with T_max=4 its rate would fall, and rise again": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "with step_size=4 the rate would be multiplied by 0.0001": lambda o: lr_scheduler.StepLR(o, 4),
    "with gamma=0.5 the rate would be multiplied by": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "and with T_max=5 its rate would fall, and rise again": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 5)]
    ),
}


@pytest.mark.parametrize("sentence", SCHEDULES)
def test_schedules_that_do_not_fit_are_refused_before_training(sentence):
    ours = trainer(schedule=SCHEDULES[sentence])
    with pytest.raises(ValueError, match=sentence):
        ours.fit(loader(), 4)
    assert ours.position.step == 0
    assert len(trainer(schedule=SCHEDULES[sentence], schedule_by="epoch").fit(loader(), 4)) == 4


class Counting(lr_scheduler.LRScheduler):
    """A schedule with a count of its own beside torch's."""

    def __init__(self, optimizer):
        self.calls = 0
        super().__init__(optimizer)

    def step(self, *epoch):
        self.calls += 1
        super().step(*epoch)

    def get_lr(self):
        return [rate / self.calls for rate in self.base_lrs]


class Bare:
    """A schedule that has nothing of torch's."""

    def __init__(self, optimizer):
        self.of, self.moves = optimizer, 0

    def step(self):
        self.moves += 1
        self.of.param_groups[0]["lr"] = 0.1 / (1 + self.moves)

    def state_dict(self):
        return {"moves": self.moves}

    def load_state_dict(self, state):
        self.moves = state["moves"]


KINDS = {
    "of one's own": Counting,
    "of one's own, without torch's count": Bare,
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 8),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 11]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=11),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=11),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 16),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 16),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 16),
    "SWALR": lambda o: SWALR(o, 0.01, 6),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 13)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_schedule_goes_on_where_it_was(tmp_path, kind, capsys):
    whole = trainer(schedule=KINDS[kind], log_every=1).fit(loader(), 4)
    trainer(tmp_path, schedule=KINDS[kind], log_every=1).fit(loader(), max_steps=5)
    capsys.readouterr()
    resumed = trainer(tmp_path, schedule=KINDS[kind], log_every=1).fit(loader(), 4, resume=True)
    assert [row["lr"] for row in resumed.steps] == [row["lr"] for row in whole.steps]
    assert resumed["loss"][-1] == whole["loss"][-1]
    assert "schedule" not in capsys.readouterr().out  # none of its settings is new


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
        lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, n),
        lambda o, n: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o), lr_scheduler.CosineAnnealingLR(o, n)]),
    ],
)
def test_a_schedule_that_is_lengthened_on_resume_is_the_longer_one(tmp_path, schedule, capsys):
    whole = trainer(schedule=lambda o: schedule(o, 16), log_every=1).fit(loader(), 4)
    trainer(tmp_path, schedule=lambda o: schedule(o, 8), log_every=1).fit(loader(), 2)
    ours = trainer(tmp_path, schedule=lambda o: schedule(o, 16), log_every=1).fit(loader(), 4, resume=True)
    rates = [row["lr"] for row in ours.steps]
    assert rates[8:] == pytest.approx([row["lr"] for row in whole.steps][8:])
    assert "From here on the new schedule holds" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind",
    [
        lambda o, factor: lr_scheduler.LambdaLR(o, lambda step: factor / (step + 1)),
        lambda o, factor: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o), lr_scheduler.LambdaLR(o, lambda step: factor / (step + 1))], [2]
        ),
    ],
)
def test_a_new_function_holds_from_the_first_step_on_and_is_named(tmp_path, kind, capsys):
    whole = trainer(schedule=lambda o: kind(o, 3.0), log_every=1).fit(loader(), 4)
    trainer(tmp_path, schedule=lambda o: kind(o, 1.0), log_every=1).fit(loader(), 2)
    ours = trainer(tmp_path, schedule=lambda o: kind(o, 3.0), log_every=1)
    ours.fit(loader(), 2, resume=True)  # nothing is left: this is the rate that the next step will take
    assert ours.optimizer.param_groups[0]["lr"] == pytest.approx(whole.steps[7]["lr"])
    ours.fit(loader(), 4, resume=True)
    assert [row["lr"] for row in ours.history.steps][8:] == pytest.approx([row["lr"] for row in whole.steps][8:])
    assert "From here on the new schedule holds: the function of the LambdaLR" in capsys.readouterr().out


class WarmUp:
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return min(1.0, (step + 1) / self.steps)


def test_what_the_object_of_a_schedule_holds_comes_from_the_checkpoint_and_that_is_said(tmp_path, capsys):
    whole = trainer(schedule=lambda o: lr_scheduler.LambdaLR(o, WarmUp(12)), log_every=1).fit(loader(), 4)
    trainer(tmp_path, schedule=lambda o: lr_scheduler.LambdaLR(o, WarmUp(12))).fit(loader(), 2)
    ours = trainer(tmp_path, schedule=lambda o: lr_scheduler.LambdaLR(o, WarmUp(50)), log_every=1)
    assert ours.fit(loader(), 4, resume=True).steps[-1]["lr"] == whole.steps[-1]["lr"]
    assert "steps of the schedule's function 12 (not 50)" in capsys.readouterr().out


def test_a_resume_that_does_not_fit_says_so_and_changes_nothing(tmp_path, capsys):
    trainer(tmp_path, monitor="loss").fit(loader(), 1)
    trainer(tmp_path, monitor="accuracy", mode="max").fit(loader(size=16), 2, resume=True)
    said = capsys.readouterr().out
    assert "samples per batch 16 (was 8)" in said
    assert "monitor accuracy (was loss), mode max (was min)" in said
    trainer(tmp_path, save_every=3).fit(loader(), max_steps=3, overwrite=True)
    other = trainer(tmp_path)
    with pytest.raises(CheckpointError, match="the rest of the epoch cannot be told"):
        other.fit(loader(size=16), 2, resume=True)
    assert other.position.step == 0


def test_a_plateau_and_the_trainer_have_one_mode():
    with pytest.raises(ValueError, match="Give both the same mode"):
        trainer(schedule=lr_scheduler.ReduceLROnPlateau, monitor="val_accuracy", mode="max")
    with pytest.raises(ValueError, match="would keep the worst epoch"):
        trainer(mode="max")


def test_an_optimizer_that_was_made_too_early_is_refused():
    model = mlp(WIDTH, 8, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.requires_grad_(False)
    model.adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"made before the model was changed.*adapter\.weight.*Make it last"):
        Trainer(model, optimizer, nn.CrossEntropyLoss())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(loader().dataset)


def test_an_optimizer_of_parts_of_parameters_is_refused_by_what_it_is():
    model = nn.Linear(WIDTH, CLASSES)
    part = nn.Parameter(model.weight.detach().view(-1)[:4])
    with pytest.raises(ValueError, match="The SGD holds parts of parameters, such as one of weight"):
        Trainer(model, torch.optim.SGD([part], 0.1), nn.CrossEntropyLoss())


def test_a_stream_that_every_worker_repeats_is_refused():
    with pytest.raises(ValueError, match=r"each of the 2 workers goes through the whole stream.*get_worker_info"):
        trainer().fit(DataLoader(Stream(), 8, num_workers=2, multiprocessing_context="fork"), 1)


def unequal_streams():
    rank = int(os.environ["RANK"])
    ours = trainer()
    torch.manual_seed(rank)
    stream = ((torch.randn(4, WIDTH), torch.zeros(4, dtype=torch.long)) for _ in range(5 - 2 * rank))
    ours.fit(stream, 1)


def test_streams_of_unequal_length_end_in_one_sentence():
    with pytest.raises(RankError, match="after 3 steps of this epoch 1 of 2 ranks had a batch left") as caught:
        run_ranks(unequal_streams, world_size=2)
    assert caught.value.kind == "ValueError"


def test_max_steps_end_within_an_epoch_and_a_longer_fit_goes_on_there(tmp_path):
    whole = trainer().fit(loader(), 2)
    history = trainer(tmp_path).fit(loader(), max_steps=6)
    assert history["step"] == [4, 6]
    longer = trainer(tmp_path).fit(loader(), max_steps=8, resume=True)
    assert longer["step"] == [4, 6, 8]
    assert longer["loss"][-1] == whole["loss"][-1]


def test_patience_and_callbacks_end_training():
    worse = trainer(monitor="loss", patience=2, after_epoch=lambda ours: ours.optimizer.param_groups[0].update(lr=-1.0))
    assert len(worse.fit(loader(), 50)) < 10
    assert trainer(after_step=lambda ours: ours.position.step == 3).fit(loader(), 5)["step"] == [3]


def test_a_validation_that_gives_no_number_is_said_to(capsys):
    model = nn.Linear(2, 2)
    patient = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), patience=2)
    batch = torch.ones(4, 2), torch.zeros(4, dtype=torch.long)
    broken = batch[0] * math.nan, batch[1]
    assert len(patient.fit([batch], 9, [broken])) == 2
    assert "Stopped early: val_loss was no finite number in any epoch (nan)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "waited", "said"),
    [
        ([2.0, math.nan, math.nan], 2, "no finite number since epoch 1"),
        ([2.0, math.nan, 3.0], 2, "better since epoch 1"),
    ],
)
def test_what_is_said_of_an_early_stop(values, waited, said):
    rows = [{"epoch": epoch, "val_loss": value} for epoch, value in enumerate(values, 1)]
    assert said in explanations.why_stopped_early("val_loss", rows, waited)


@pytest.mark.parametrize("options", [{}, {"save_every": 6}], ids=["after_epoch", "after_step"])
def test_what_a_callback_changes_is_in_the_checkpoint(tmp_path, options):
    """Killed right after it, the run goes on as if it had not been."""
    step = options.get("save_every", 8)

    def change(ours):
        if ours.position.step == step:
            ours.optimizer.param_groups[0]["lr"] = 0.001

    def die(*_):
        if killed.position.step == step:
            raise ZeroDivisionError

    options = {"after_step" if options else "after_epoch": change, **options}
    whole = trainer(**options | {"save_every": None}).fit(loader(), 4)
    killed = trainer(tmp_path, **options)
    killed.model.register_forward_pre_hook(die)
    with pytest.raises(ZeroDivisionError):
        killed.fit(loader(), 4)
    resumed = trainer(tmp_path, **options).fit(loader(), 4, resume=True)
    assert resumed["lr"] == whole["lr"]
    assert resumed["loss"] == whole["loss"]


def test_a_fit_after_one_that_was_cut_short_has_an_order_of_its_own():
    seen = []
    ours, shuffled = trainer(), make_loader(loader().dataset, 8)
    ours.model.register_forward_pre_hook(lambda _model, inputs: seen.append(inputs[0].sum().item()))
    for _ in range(3):
        ours.fit(shuffled, max_steps=2)
    assert len(set(seen)) == 6
    assert ours.history["epoch"] == [1, 2, 3]
    assert ours.fit(shuffled, 2)["epoch"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("kind", "by", "schedule"),
    [
        ("OneCycleLR", None, lambda one: lr_scheduler.OneCycleLR(one, 0.1, total_steps=8)),
        ("LambdaLR", "epoch", lambda one: lr_scheduler.LambdaLR(one, lambda epoch: 0.9**epoch)),
        (
            "ReduceLROnPlateau",
            None,
            lambda one: lr_scheduler.ReduceLROnPlateau(one, patience=0, threshold=9, min_lr=[0.0]),
        ),
    ],
)
def test_a_schedule_that_does_not_know_a_group_says_how_to_make_it(kind, by, schedule):
    ours = trainer(schedule=schedule, schedule_by=by)
    bias = ours.optimizer.param_groups[0]["params"].pop()
    ours.after_epoch = lambda ours: ours.optimizer.add_param_group({"params": [bias]})
    with pytest.raises(ValueError, match=f"has 2 groups of parameters, but {kind} was made when it had 1"):
        ours.fit(loader(), 3 if kind != "OneCycleLR" else 2)


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_in_one_folder_do_not_replace_each_others_files(tmp_path, resume):
    """The second one to save ends, whether both began there or both went on from one file."""
    if resume:
        trainer(tmp_path).fit(loader(), 1)
    other, step = trainer(tmp_path), 6 if resume else 2
    one = trainer(
        tmp_path, after_step=lambda ours: ours.position.step == step and other.fit(loader(), 3, resume=resume)
    )
    with pytest.raises(CheckpointError, match=r"last\.pt was written by a different run while this one trained"):
        one.fit(loader(), 3, resume=resume)
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 12
    assert other.fit(loader(), 4, resume=True)["epoch"] == [1, 2, 3, 4]


def test_a_run_may_save_where_somebody_has_removed_its_files(tmp_path):
    def remove(ours):
        (tmp_path / "last.pt").unlink()

    assert len(trainer(tmp_path, after_epoch=remove).fit(loader(), 3)) == 3


def test_a_run_that_early_stopping_has_ended_is_not_begun_again(tmp_path, capsys):
    def patient(patience, **options):
        return trainer(tmp_path, monitor="loss", mode="min", patience=patience, after_epoch=worsen, **options)

    def worsen(ours):
        ours.optimizer.param_groups[0]["lr"] = -1.0

    ended = patient(2).fit(loader(), 50)
    assert len(ended) == ended.best["epoch"] + 2
    again = patient(2)
    assert again.fit(loader(), 50, resume=True).rows == ended.rows
    assert "Early stopping has ended this run: nothing better in 2 epochs" in capsys.readouterr().out
    assert again.position.step == ended["step"][-1]
    longer = patient(3).fit(loader(), 50, resume=True)
    assert len(longer) == len(ended) + 1
    assert len(trainer(tmp_path, monitor="accuracy", mode="max", patience=1).fit(loader(), 50, resume=True)) > 3


def test_sigterm_saves_and_ends_the_process(tmp_path):
    def end(ours):
        if ours.position.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        trainer(tmp_path, after_step=end).fit(loader(), 5)
    assert caught.value.code == 143
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 6
    whole, resumed = trainer(), trainer(tmp_path)
    whole.fit(loader(), 2)
    resumed.fit(loader(), 2, resume=True)
    for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert math.isfinite(resumed.history["loss"][-1])


def end_one_rank(folder):
    def end(ours):
        if ours.position.step == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    ours = trainer(folder, after_step=end)
    try:
        ours.fit(make_loader(loader().dataset, 8), 3)
    except SystemExit as error:
        return error.code, ours.position.step


def test_ranks_of_which_one_gets_sigterm_end_together_after_saving(tmp_path):
    assert run_ranks(end_one_rank, tmp_path, world_size=2) == [(143, 3), (143, 3)]
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 3


class Masked(nn.Module):
    """A model that makes its mask of -inf when it knows the length, and anew for a greater one."""

    mask: torch.Tensor | None

    def __init__(self, start=None):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.register_buffer("mask", start, persistent=False)

    def forward(self, tokens):
        length = tokens.size(1)
        if self.mask is None or len(self.mask) < length:
            self.mask = torch.full((length, length), -math.inf).triu(1)
        hidden = self.embedding(tokens)
        scores = hidden @ hidden.transpose(1, 2) + self.mask[:length, :length]
        return self.head(scores.softmax(-1) @ hidden).transpose(1, 2)


@pytest.mark.parametrize("start", [None, torch.zeros(2, 2)])
def test_a_mask_that_a_model_makes_on_the_way_is_no_fault(tmp_path, start):
    model = Masked(start)
    ours = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), progress=False)
    batches = [(tokens, tokens) for tokens in (torch.randint(9, (4, 5)), torch.randint(9, (4, 7)))]
    assert len(ours.fit(batches, 2, batches).rows) == 2


class Warmup(lr_scheduler.LRScheduler):
    """A schedule of one's own, with a function and a schedule of functions in it."""

    def __init__(self, optimizer, factor):
        self.factor, self.factors = factor, [factor, {"later": factor}]
        super().__init__(optimizer)

    def get_lr(self):
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


def test_a_schedule_of_one_s_own_may_hold_functions(tmp_path):
    def schedule(optimizer):
        own = Warmup(optimizer, lambda step: 1 / (1 + step))
        return lr_scheduler.SequentialLR(optimizer, [lr_scheduler.ConstantLR(optimizer, 0.5, 3), own], [3])

    whole = trainer(schedule=schedule)
    whole.fit(loader(), 3)
    trainer(tmp_path, schedule=schedule).fit(loader(), 2)
    resumed = trainer(tmp_path, schedule=schedule)
    resumed.fit(loader(), 3, resume=True)
    assert resumed.history["lr"] == whole.history["lr"]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Saves(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.body, self.extra = mlp(WIDTH, 8, CLASSES), extra

    def forward(self, inputs):
        return self.body(inputs)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_what_could_not_be_saved_is_told_before_training(tmp_path):
    steps: list[Trainer] = []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"could not be saved .*choose a different"):
            trainer(folder, after_step=steps.append).fit(loader(), 1)
    model = Saves({"names": {"a", "b"}})
    ours = Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        nn.CrossEntropyLoss(),
        checkpoint_dir=tmp_path / "run",
        after_step=steps.append,
        progress=False,
    )
    with pytest.raises(TypeError, match=r"cannot hold state\['model'\].*names.*which is a set"):
        ours.fit(loader(), 1)
    assert not steps


def test_a_finished_run_in_a_folder_that_cannot_be_written_is_still_shown(tmp_path, monkeypatch, capsys):
    trainer(tmp_path).fit(loader(), 2)
    monkeypatch.setattr(checkpoint, "try_folder", lambda folder: pytest.fail("nothing is going to be saved"))
    assert len(trainer(tmp_path).fit(loader(), 2, resume=True)) == 2
    assert "nothing is left to train" in capsys.readouterr().out


def with_another_head(ours):
    ours.model[-1] = nn.Linear(8, CLASSES)


def with_another_optimizer(ours):
    ours.optimizer = torch.optim.Adam(ours.model.parameters())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(with_another_head, "Was a layer replaced"), (with_another_optimizer, "made for a different optimizer")],
)
def test_what_is_replaced_between_two_fits_has_to_fit_too(change, sentence):
    ours = trainer(schedule=KINDS["StepLR"])
    ours.fit(loader(), 1)
    change(ours)
    with pytest.raises(ValueError, match=sentence):
        ours.fit(loader(), 1)


def test_a_schedule_and_its_optimizer_may_be_replaced_between_two_fits():
    ours = trainer(schedule=KINDS["StepLR"], log_every=1)
    ours.fit(loader(), 1)
    with_another_optimizer(ours)
    ours.scheduler = lr_scheduler.ExponentialLR(ours.optimizer, 0.5)
    rates = [row["lr"] for row in ours.fit(loader(), max_steps=3).steps]
    assert rates[4:] == pytest.approx([0.5e-3, 0.25e-3, 0.125e-3])
