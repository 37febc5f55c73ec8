"""A resumed run is the run that was never broken off, also where parts of it keep numbers of their own."""

import functools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler, StackDataset, TensorDataset

from torchcourse.models import mlp
from torchcourse.training import CheckpointError, Trainer, checkpoint
from torchcourse.training.generators import Generator, generators_of, random_state, set_random_state

WIDTH, CLASSES, SAMPLES = 4, 3, 24


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, WIDTH, generator=generator), torch.randint(CLASSES, (SAMPLES,), generator=generator)


def data_set():
    return TensorDataset(*data())


def batches():
    inputs, targets = data()
    return list(zip(inputs.split(8), targets.split(8), strict=True))


def trainer(folder=None, seed=0, loss_fn=None, make=None, optimizer=None, **options):
    torch.manual_seed(seed)
    model = mlp(WIDTH, 8, CLASSES) if make is None else make()
    made = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer(model.parameters())
    loss_fn = nn.CrossEntropyLoss() if loss_fn is None else loss_fn()
    return Trainer(model, made, loss_fn, checkpoint_dir=folder, progress=False, **options)


def ends_alike(tmp_path, loader=batches, stop_at=None, **parts):
    """Whether a run of 4 epochs ends as one that was broken off, after 2 epochs or at a step, and resumed."""
    runs = [("whole", 0), ("begun", 0), ("begun", 9)]
    whole, begun, resumed = (trainer(tmp_path / name, seed, **parts) for name, seed in runs)
    whole.fit(loader(), 4)
    begun.fit(loader(), 2, **({} if stop_at is None else {"max_steps": stop_at}))
    resumed.fit(loader(), 4, resume=True)
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


GENERATORS: dict[str, Callable[[], Generator]] = {
    "NumPy": lambda: np.random.default_rng(1),
    "NumPy, MT19937": lambda: np.random.Generator(np.random.MT19937(1)),
    "NumPy, old": lambda: np.random.RandomState(1),
    "NumPy, old, PCG64": lambda: np.random.RandomState(np.random.PCG64(1)),
    "Python": lambda: random.Random(1),
    "torch": lambda: torch.Generator().manual_seed(1),
}


def draw(rng, count):
    if isinstance(rng, torch.Generator):
        return torch.rand(count, generator=rng).tolist()
    return [rng.random() if isinstance(rng, random.Random) else rng.uniform() for _ in range(count)]


class Drawn(Sampler):
    def __init__(self, rng):
        self.rng = rng

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        return iter(np.argsort(draw(self.rng, SAMPLES)).tolist())


class Noisy(Dataset):
    def __init__(self, rng):
        self.rng, (self.inputs, self.targets) = rng, data()

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return self.inputs[index] + torch.tensor(draw(self.rng, WIDTH)), self.targets[index]


class Changed(TensorDataset):
    def __init__(self, transforms):
        super().__init__(*data())
        self.transforms = transforms


class Collate:
    def __init__(self, rng):
        self.rng = rng

    def __call__(self, samples):
        inputs, targets = torch.utils.data.default_collate(samples)
        return inputs + draw(self.rng, 1)[0], targets


class NoisyModel(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.rng, self.body = rng, mlp(WIDTH, 8, CLASSES)

    def forward(self, inputs):
        return self.body(inputs + draw(self.rng, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [None, 4])
@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_that_the_parts_of_a_run_have_for_themselves_go_on(tmp_path, kind, stop_at):
    make = GENERATORS[kind]

    def of_sampler():
        return DataLoader(data_set(), 8, sampler=Drawn(make()))

    def of_dataset():
        return DataLoader(Noisy(make()), 8)

    def of_collate():
        return DataLoader(data_set(), 8, collate_fn=Collate(make()))

    for number, loader in enumerate([of_sampler, of_dataset, of_collate]):
        assert ends_alike(tmp_path / str(number), loader, stop_at), loader.__name__
    assert ends_alike(tmp_path / "model", batches, stop_at, make=lambda: NoisyModel(make()))


def test_generators_are_found_in_lists_of_transforms_and_each_is_put_back(tmp_path):
    made = [make() for make in GENERATORS.values()]
    loader = DataLoader(Changed([Collate(rng) for rng in made]), 8)
    assert {id(one) for one in generators_of(loader)} == {id(one) for one in made}
    checkpoint.save(random_state(made), tmp_path / "random.pt")
    expected = [draw(rng, 3) for rng in made]
    set_random_state(checkpoint.load(tmp_path / "random.pt"), made)
    assert [draw(rng, 3) for rng in made] == expected


class Centered(nn.Module):
    """A loss with a running center, as self-distillation has one."""

    center: torch.Tensor
    weight: torch.Tensor

    def __init__(self, size=CLASSES, each=False):
        super().__init__()
        self.each = each
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("weight", torch.ones(CLASSES))

    def forward(self, outputs, targets):
        reduction = "none" if self.each else "mean"
        loss = F.cross_entropy(outputs - self.center, targets, weight=self.weight, reduction=reduction)
        with torch.no_grad():
            self.center.mul_(0.9).add_(outputs.detach().mean(0), alpha=0.1)
        return loss


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("stop_at", [None, 4])
def test_what_a_loss_function_keeps_goes_on(tmp_path, each, stop_at):
    assert ends_alike(tmp_path, stop_at=stop_at, loss_fn=lambda: Centered(each=each))


def test_a_loss_function_that_keeps_something_sees_each_batch_once():
    ours, loss_fn = trainer(loss_fn=Centered), Centered()
    torch.manual_seed(0)
    model = mlp(WIDTH, 8, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
    ours.fit(batches(), 1)
    assert torch.equal(ours.loss.fn.center, loss_fn.center)
    assert torch.equal(next(ours.model.parameters()), next(model.parameters()))


def test_class_weights_of_a_new_loss_function_hold_and_a_missing_center_is_refused(tmp_path):
    weights = torch.tensor([1.0, 2.0, 3.0])
    trainer(tmp_path, loss_fn=Centered).fit(batches(), 1)
    new = trainer(tmp_path, loss_fn=Centered)
    new.loss.fn.weight.copy_(weights)
    new.fit(batches(), 2, resume=True)
    assert torch.equal(new.loss.fn.weight, weights)
    other = trainer(tmp_path, seed=3, loss_fn=lambda: Centered(size=2))
    before = next(other.model.parameters()).clone()
    with pytest.raises(CheckpointError, match=r"the loss function's center \[3\], which this one lacks"):
        other.fit(batches(), 3, resume=True)
    assert torch.equal(next(other.model.parameters()), before)


class Counting(nn.Module):
    """A model that saves more than tensors."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = mlp(WIDTH, 8, CLASSES), 0

    def forward(self, inputs):
        self.calls += 1
        return self.body(inputs)

    def get_extra_state(self):
        return {"calls": self.calls, "kind": "a"}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_a_model_that_saves_more_than_tensors_goes_on(tmp_path):
    trainer(tmp_path, make=Counting).fit(batches(), 2)
    resumed = trainer(tmp_path, make=Counting)
    resumed.fit(batches(), 2, resume=True)
    assert resumed.model.calls == 6
    trainer(tmp_path, make=Counting).restore("last")


def test_how_a_machine_computes_does_not_travel_with_the_optimizer(tmp_path):
    trainer(tmp_path, optimizer=lambda parameters: torch.optim.AdamW(parameters, fused=True)).fit(batches(), 1)
    state = checkpoint.load(tmp_path / "last.pt")
    state["optimizer"]["groups"][0]["capturable"] = True  # as on a GPU, where a CPU refuses it
    checkpoint.save(state, tmp_path / "last.pt")
    resumed = trainer(tmp_path, optimizer=lambda parameters: torch.optim.AdamW(parameters, foreach=True))
    resumed.fit(batches(), 2, resume=True)
    (group,) = resumed.optimizer.param_groups
    assert (group["foreach"], group["fused"], group["capturable"]) == (True, None, False)


class Cached(nn.Module):
    """A model that keeps what it has computed for the longest sequence so far."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.waves = torch.zeros(0, 8)

    def forward(self, tokens):
        length = tokens.size(1)
        if len(self.waves) < length:
            self.waves = torch.cos(torch.arange(length)[:, None] * torch.arange(8) * 0.1)
        return self.head(self.embedding(tokens) * self.waves[:length]).transpose(1, 2)


def test_what_a_model_keeps_of_an_evaluation_may_be_trained_with():
    short, long = torch.randint(9, (4, 5)), torch.randint(9, (4, 8))
    ours = trainer(make=Cached)
    ours.fit([(short, short)], 2, [(short, short), (long, long)])
    assert len(ours.history) == 2


SHARED = np.random.default_rng(5)


def shaken(samples):
    """A collate function that draws from a generator of its module, as functions in notebooks do."""
    inputs, targets = torch.utils.data.default_collate(samples)
    return inputs + SHARED.normal(), targets


def test_generators_around_functions_go_on(tmp_path):
    def drawn_with(samples, rng):
        inputs, targets = torch.utils.data.default_collate(samples)
        return inputs + rng.normal(), targets

    def of_closure():
        rng = np.random.default_rng(1)
        return lambda samples: drawn_with(samples, rng)

    def of_partial():
        return functools.partial(drawn_with, rng=np.random.default_rng(1))

    for make in (of_closure, of_partial):
        assert ends_alike(tmp_path / make.__name__, lambda make=make: DataLoader(data_set(), 8, collate_fn=make()))
    assert generators_of(DataLoader(data_set(), 8, collate_fn=shaken)) == [SHARED]
    assert generators_of(DataLoader(data_set(), 8), lambda *_: SHARED.normal()) == [SHARED]


def test_a_loader_that_draws_from_another_generator_is_told(tmp_path, capsys):
    trainer(tmp_path).fit(DataLoader(data_set(), 8, sampler=Drawn(np.random.default_rng(1))), 1)
    other = DataLoader(data_set(), 8, shuffle=True, generator=torch.Generator().manual_seed(1))
    trainer(tmp_path).fit(other, 2, resume=True)
    assert "draw from other generators than the run did" in capsys.readouterr().out
    trainer(tmp_path).fit(other, 3, resume=True)
    assert "draw from other" not in capsys.readouterr().out
    assert generators_of(Collate(random.SystemRandom())) == []  # it has no state


@pytest.mark.parametrize("stop_at", [None, 4])
def test_what_a_loss_function_keeps_goes_on_beside_an_evaluation(tmp_path, stop_at):
    whole, broken = (trainer(tmp_path / name, loss_fn=Centered) for name in ("whole", "broken"))
    whole.fit(batches(), 3, batches())
    broken.fit(batches(), None if stop_at else 2, batches(), max_steps=stop_at)
    resumed = trainer(tmp_path / "broken", seed=9, loss_fn=Centered)
    resumed.fit(batches(), 3, batches(), resume=True)
    assert torch.equal(resumed.loss.fn.center, whole.loss.fn.center)


class Growing(nn.Module):
    """A loss that learns from its first batch how large its center is, and saves its state in a way of its own."""

    center: torch.Tensor | None
    passing: torch.Tensor

    def __init__(self, first):
        super().__init__()
        self.register_buffer("center", first)
        self.register_buffer("links", torch.eye(CLASSES).to_sparse())
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def state_dict(self):  # type: ignore[override]  # as people write it
        return {}

    def forward(self, outputs, targets):
        mean = outputs.detach().mean(0)
        old = torch.zeros(1) if self.center is None or not self.center.numel() else self.center
        loss = F.cross_entropy(outputs - old, targets, reduction="none")
        self.center = 0.9 * old + 0.1 * mean
        self.passing = self.passing + 1
        return loss


@pytest.mark.parametrize("first", [None, torch.zeros(0), torch.zeros(()), torch.zeros(1)])
def test_what_a_loss_function_makes_on_its_first_batch_goes_on(tmp_path, first):
    assert ends_alike(tmp_path, loss_fn=lambda: Growing(first))
    resumed = trainer(tmp_path / "again", loss_fn=lambda: Growing(first))
    resumed.fit(batches(), 1)
    saved = checkpoint.load(tmp_path / "again" / "last.pt")["loss"][0]
    assert saved.keys() == {"center"}
    again = trainer(tmp_path / "again", loss_fn=lambda: Growing(first))
    again.fit(batches(), 1, resume=True)
    assert torch.equal(again.loss.fn.center, resumed.loss.fn.center)


def test_a_loss_function_with_a_lazy_norm_is_trained_with(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LazyBatchNorm1d(affine=False)

        def forward(self, outputs, targets):
            return F.cross_entropy(self.norm(outputs), targets, reduction="none")

    assert trainer(tmp_path, loss_fn=Normed).fit(batches(), 1, batches())["loss"]


def test_a_checkpoint_from_before_there_could_be_several_generators_is_no_other_run(tmp_path, capsys):
    def loader():
        return DataLoader(data_set(), 8, shuffle=True, generator=torch.Generator().manual_seed(1))

    whole, begun = (trainer(tmp_path / name) for name in ("whole", "begun"))
    whole.fit(loader(), 4)
    begun.fit(loader(), 2)
    state = checkpoint.load(tmp_path / "begun" / "last.pt")
    (state["random"][0]["epoch"]["loader"],) = state["random"][0]["epoch"]["loader"]
    checkpoint.save(state, tmp_path / "begun" / "last.pt")
    resumed = trainer(tmp_path / "begun", seed=9)
    resumed.fit(loader(), 4, resume=True)
    assert "other generators" not in capsys.readouterr().out
    assert torch.equal(next(resumed.model.parameters()), next(whole.model.parameters()))


class Unasked(TensorDataset):
    """A dataset that some of what parts usually have cannot be asked of."""

    @property
    def transform(self):
        raise NotImplementedError("nothing is changed here")

    datasets = transform


def test_a_dataset_with_a_property_that_raises_is_trained_on():
    assert trainer().fit(DataLoader(Unasked(*data()), 8), 1)["loss"]


@pytest.mark.parametrize("kind", [StackDataset, lambda noisy: StackDataset(image=noisy)])
def test_generators_of_stacked_datasets_are_found(kind):
    noisy = Noisy(np.random.default_rng(0))
    assert generators_of(DataLoader(kind(noisy), 8)) == [noisy.rng]


def test_generators_of_a_dataset_that_another_holds_are_found():
    class Transformed(Dataset):
        def __init__(self, base):
            self.base = base

    noisy = Noisy(np.random.default_rng(0))
    assert generators_of(DataLoader(Transformed(Transformed(noisy)), 8, sampler=range(8))) == [noisy.rng]
