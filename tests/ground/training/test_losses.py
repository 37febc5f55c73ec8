"""Whatever a loss divides by, many small batches train as one big batch does; what cannot is refused."""

import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from torchcourse.ranks import run_ranks
from torchcourse.training import OverAll, Trainer, losses
from torchcourse.training.losses import Loss

WIDTH, CLASSES, PLACES = 5, 4, 6
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 9.0], dtype=torch.float64)


class Tagger(nn.Module):
    """Scores at each place: [N, T, width] → [N, classes, T]; without T, [N, width] → [N, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs):
        scores = self.score(inputs)
        return scores if inputs.dim() == 2 else scores.transpose(1, 2)


def labels(targets, ignored):
    """Ignore ever more of them, so that the parts of a batch count very unlike; all of the first few."""
    generator = torch.Generator().manual_seed(5)
    chance = torch.linspace(1.0, 0.0, len(targets)).reshape(-1, *[1] * (targets.dim() - 1)).expand(targets.shape)
    left_out = torch.rand(targets.shape, generator=generator) < chance
    left_out[:4] = True
    return targets.masked_fill(left_out, ignored)


def samples(kind):
    generator = torch.Generator().manual_seed(1)
    places = (PLACES,) if "tokens" in kind else ()
    inputs = torch.randn(20, *places, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (20, *places), generator=generator).sort(dim=0).values
    if "ignored" in kind:
        targets = labels(targets, -100)
    if "padded" in kind:
        targets = labels(targets, 0)
    if "numbers" in kind:
        targets = torch.randn(20, CLASSES, generator=generator, dtype=torch.float64)
    if "soft" in kind:
        targets = torch.rand(20, CLASSES, generator=generator, dtype=torch.float64).softmax(dim=1)
    return inputs, targets


def by_sum_and_count(outputs, targets):
    return F.cross_entropy(outputs, targets, ignore_index=0, reduction="sum"), (targets != 0).sum()


def by_sum_and_number(outputs, targets):
    valid = targets != -100
    return F.cross_entropy(outputs, targets, reduction="sum"), int(valid.sum())


class Own(nn.Module):
    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none").mean()


PARTS = [3, 1, 8, 6, 2]  # the first one may count nothing

LOSSES: dict[str, Any] = {
    "labels": nn.CrossEntropyLoss(),
    "weights": nn.CrossEntropyLoss(weight=WEIGHTS),
    "weights, a partial": functools.partial(F.cross_entropy, weight=WEIGHTS),
    "ignored": nn.CrossEntropyLoss(),
    "ignored, a function": F.cross_entropy,
    "ignored tokens, smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "padded tokens": nn.CrossEntropyLoss(ignore_index=0),
    "padded tokens, weights, smoothed": nn.CrossEntropyLoss(ignore_index=0, weight=WEIGHTS, label_smoothing=0.1),
    "padded tokens, sum and count": by_sum_and_count,
    "ignored, sum and number": by_sum_and_number,
    "soft": nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1),
    "numbers": nn.MSELoss(),
    "numbers, each": nn.L1Loss(reduction="none"),
    "numbers, a function": F.smooth_l1_loss,
    "tokens, each": functools.partial(F.cross_entropy, reduction="none"),
    "labels, an own module": Own(),
}


def trained(kind, sizes, accumulate=1, rank=0, ranks=1, metrics=None, **options):
    """Take one step on the samples, in batches of these sizes; return the Trainer."""
    torch.manual_seed(0)
    model = Tagger().double()
    inputs, targets = samples(kind)
    loader = list(zip(inputs.split(sizes)[rank::ranks], targets.split(sizes)[rank::ranks], strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    options = {"progress": False, "metrics": {} if metrics is None else metrics} | options
    trainer = Trainer(model, optimizer, LOSSES[kind], accumulate=accumulate, **options)
    trainer.fit(loader, 1)
    return trainer


@pytest.mark.parametrize("sizes", [[4] * 5, PARTS], ids=["alike", "unequal"])
@pytest.mark.parametrize("kind", [kind for kind in LOSSES if "numbers" not in kind])
def test_the_mean_of_an_epoch_of_single_batches_counts_what_the_loss_counts(kind, sizes):
    torch.manual_seed(0)
    model, loss = Tagger().double(), LOSSES[kind]
    inputs, targets = samples(kind)
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.0), loss, metrics={}, progress=False)
    batches = [pair for pair in zip(inputs.split(sizes), targets.split(sizes), strict=True) if counts(kind, *pair)]
    history = trainer.fit(batches, 1)
    whole = trained(kind, [20]).history["loss"]
    assert history["loss"] == pytest.approx(whole, rel=1e-12)


def counts(kind, inputs, targets):
    """Whether a batch has a target that is not ignored: the mean of none is not a number."""
    ignored = 0 if "padded" in kind else -100
    return targets.is_floating_point() or (targets != ignored).any()


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("kind", LOSSES)
def test_small_batches_make_the_gradient_and_the_mean_of_one_big_batch(kind):
    big, small = trained(kind, [20]), trained(kind, PARTS, accumulate=5)
    assert small.position.step == big.position.step == 1
    assert torch.allclose(weights(small), weights(big), rtol=0, atol=1e-13)
    assert small.history["loss"] == pytest.approx(big.history["loss"], rel=1e-12)
    inputs, targets = samples(kind)
    parts = list(zip(inputs.split(PARTS), targets.split(PARTS), strict=True))
    assert small.evaluate(parts) == pytest.approx(big.evaluate([(inputs, targets)]), rel=1e-12)


def on_ranks():
    rank = dist.get_rank()
    found = {kind: weights(trained(kind, [3, 5, 8, 4], accumulate=2, rank=rank, ranks=2)) for kind in LOSSES}
    return found | {f"{kind}, one each": weights(trained(kind, [4, 16], 1, rank, 2)) for kind in LOSSES}


@pytest.mark.slow
def test_ranks_make_the_gradient_of_one_big_batch():
    first, second = run_ranks(on_ranks, world_size=2)
    for kind in LOSSES:
        expected = weights(trained(kind, [20]))
        for name in (kind, f"{kind}, one each"):
            assert torch.allclose(first[name], expected, rtol=0, atol=1e-13), name
            assert torch.equal(first[name], second[name])


def ignoring(outputs, targets):
    return F.cross_entropy(outputs, targets)


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss(weight=WEIGHTS)

    def forward(self, outputs, targets):
        return self.inner(outputs, targets)


class Subclass(nn.CrossEntropyLoss):
    def forward(self, outputs, targets):
        return super().forward(outputs, targets)


REFUSED = {
    "ignored tokens": ignoring,
    "padded tokens": lambda outputs, targets: F.cross_entropy(outputs, targets, ignore_index=0),
    "labels": Weighted(),
    "labels ": Subclass(weight=WEIGHTS),
    "numbers": lambda outputs, targets: ((outputs - targets) ** 2).mean().sqrt(),
    "ignored": lambda outputs, targets: (
        F.cross_entropy(outputs, targets, reduction="none").sum() / (targets != -100).sum().clamp_min(1)
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("sizes", [[10, 10], [1] * 20])
def test_an_own_loss_that_is_no_mean_over_samples_is_refused_where_batches_make_up_a_step(kind, sizes, monkeypatch):
    monkeypatch.setitem(LOSSES, kind, REFUSED[kind])
    with pytest.raises(ValueError, match=r"is not the mean over its samples.*return \(sum, count\)"):
        trained(kind, sizes, accumulate=len(sizes))
    if "ignored" not in kind:  # a batch of one that is ignored has no loss at all
        assert trained(kind, [20]).position.step == 1


def test_what_the_first_batches_do_not_show_is_noticed_later(monkeypatch, tmp_path):
    monkeypatch.setitem(LOSSES, "tokens", ignoring)
    model = Tagger().double()
    inputs, targets = samples("tokens")
    late = labels(targets, -100)
    loader = [(inputs, targets)] * 8 + [(inputs, targets), (inputs, late)]
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        ignoring,
        accumulate=2,
        checkpoint_dir=tmp_path,
        save_every=1,
        progress=False,
    )
    with pytest.raises(ValueError, match="is not the mean over its samples"):
        trainer.fit(loader, 1)
    assert trainer.position.step == 5
    assert torch.load(tmp_path / "last.pt")["position"]["step"] == 4


def test_means_over_tokens_of_batches_of_unequal_lengths_are_refused_from_an_own_loss():
    inputs, targets = samples("tokens")
    model = Tagger().double()
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), ignoring, accumulate=2, progress=False)
    with pytest.raises(ValueError, match=r"targets of shapes \[10, 6\] and \[10, 3\]"):
        trainer.fit([(inputs[:10], targets[:10]), (inputs[10:, :3], targets[10:, :3])], 1)


class LossInside(Tagger):
    """Computes a number for the whole batch itself, as models with a `loss` among their outputs do."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return {"outputs": outputs, "loss": outputs.square().mean()}


def test_a_number_that_the_model_returns_for_a_batch_is_named():
    inputs, targets = samples("tokens")
    model = LossInside().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    own = Trainer(model, optimizer, lambda outputs, _: outputs["loss"], metrics={}, accumulate=2, progress=False)
    with pytest.raises(ValueError, match="let the model return one for each sample"):
        own.fit([(inputs[:10], targets[:10]), (inputs[10:], targets[10:])], 1)


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.MSELoss(reduction="sum"),
        functools.partial(F.mse_loss, reduction="sum"),
        lambda outputs, targets: F.mse_loss(outputs, targets, reduction="sum"),
    ],
)
def test_sums_over_the_batch_are_refused(loss_fn, monkeypatch):
    monkeypatch.setitem(LOSSES, "numbers", loss_fn)
    with pytest.raises(ValueError, match="adds up over the batch"):
        trained("numbers", [10, 10])


def test_a_loss_may_return_a_pair_only_of_a_sum_and_a_count(monkeypatch):
    monkeypatch.setitem(LOSSES, "numbers", lambda outputs, targets: (outputs - targets, 3))
    with pytest.raises(ValueError, match="the sum and the count that it returned have to be one number each"):
        trained("numbers", [20])
    monkeypatch.setitem(LOSSES, "numbers", lambda outputs, targets: ((outputs - targets).sum(), 3, 4))
    with pytest.raises(ValueError, match=r"it returned a tuple of 3 instead of a tensor or \(sum, count\)"):
        trained("numbers", [20])


def test_a_random_own_loss_draws_as_without_being_looked_at(monkeypatch):
    def noisy(outputs, targets):
        return F.cross_entropy(F.dropout(outputs, 0.5), targets)

    monkeypatch.setitem(LOSSES, "labels", noisy)
    torch.manual_seed(0)
    model = Tagger().double()
    inputs, targets = samples("labels")
    loss = noisy(model(inputs), targets).item()
    assert trained("labels", [20]).history["loss"] == [pytest.approx(loss, rel=1e-12)]


def test_ignored_targets_are_left_out_of_metrics_of_their_shape():
    def own(outputs, targets):
        return outputs.argmax(1) == targets

    for kind, ignored in (("ignored tokens, smoothed", -100), ("padded tokens", 0)):
        inputs, targets = samples(kind)
        trainer = trained(kind, PARTS, accumulate=5, metrics={"own": own})
        default = Trainer(trainer.model, trainer.optimizer, LOSSES[kind], progress=False)
        scores = trainer.model(inputs).argmax(1)
        right = (scores == targets)[targets != ignored].double().mean().item()
        parts = list(zip(inputs.split(PARTS), targets.split(PARTS), strict=True))
        assert trainer.evaluate(parts)["own"] == pytest.approx(right, rel=1e-12)
        assert default.evaluate(parts)["accuracy"] == pytest.approx(right, rel=1e-12)
    own_loss = Trainer(trainer.model, trainer.optimizer, ignoring, progress=False)
    inputs, targets = samples("ignored")
    right = (trainer.model(inputs).argmax(1) == targets)[targets != -100].double().mean().item()
    assert own_loss.evaluate([(inputs, targets)])["accuracy"] == pytest.approx(right)


def macro_f1(outputs, targets):
    guesses, scores = outputs.argmax(1), []
    for label in range(CLASSES):
        hits = ((guesses == label) & (targets == label)).sum()
        scores.append(2 * hits / ((guesses == label).sum() + (targets == label).sum()).clamp_min(1))
    return torch.stack(scores).mean()


def needs_all_classes(outputs, targets):
    if len(targets.unique()) < CLASSES:
        raise ValueError("Only some classes are there")
    return float(macro_f1(outputs, targets))


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (macro_f1, "is .* its mean over two parts"),
        (needs_all_classes, "fails on a part"),
        (lambda outputs, _: outputs.std().item(), "is .* its mean over two parts"),
    ],
)
def test_a_metric_that_is_no_mean_is_refused(metric, says):
    with pytest.raises(ValueError, match=rf"The metric 'f1' {says}.*OverAll\(metric\)"):
        trained("labels", [20], metrics={"f1": metric})
    model = Tagger().double()
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), metrics={"f1": metric})
    with pytest.raises(ValueError, match="The metric 'f1' "):
        trainer.evaluate([samples("labels")])


def over_all(rank=0, ranks=1):
    trainer = trained("labels", [20], metrics={"f1": OverAll(macro_f1)}, monitor="loss")
    inputs, targets = samples("labels")
    parts = list(zip(inputs.split(PARTS)[rank::ranks], targets.split(PARTS)[rank::ranks], strict=True))
    return trainer.evaluate(parts)["f1"], float(macro_f1(trainer.model(inputs), targets))


def test_a_metric_over_all_is_that_of_all_samples_also_on_ranks():
    found, expected = over_all()
    assert found == pytest.approx(expected, rel=1e-12)
    inputs, targets = samples("labels")
    history = Trainer(
        model := Tagger().double(),
        torch.optim.SGD(model.parameters(), 0.1),
        nn.CrossEntropyLoss(),
        metrics={"f1": OverAll(macro_f1)},
        monitor="val_f1",
        mode="max",
        progress=False,
    ).fit([(inputs, targets)], 2, val_loader=[(inputs[:7], targets[:7]), (inputs[7:], targets[7:])])
    assert history.best is not None
    assert history.best["val_f1"] == max(history["val_f1"])


def test_losses_of_torch_divide_as_torch_does():
    outputs = torch.randn(6, CLASSES, 3, dtype=torch.float64)
    targets = torch.randint(CLASSES, (6, 3))
    fn: Any
    for fn in (LOSSES["weights"], LOSSES["padded tokens, weights, smoothed"], nn.NLLLoss(WEIGHTS), F.nll_loss):
        total, count = Loss(fn).total(outputs, targets)
        assert total / count == pytest.approx(fn(outputs, targets))
    scores, numbers = outputs[..., 0], torch.rand(6, CLASSES, dtype=torch.float64)
    for fn in (
        nn.KLDivLoss(reduction="batchmean"),
        nn.BCEWithLogitsLoss(weight=WEIGHTS, pos_weight=WEIGHTS),
        nn.HuberLoss(),
    ):
        whole = Loss(fn).total(scores, numbers)
        parts = [Loss(fn).total(scores[part], numbers[part]) for part in (slice(2), slice(2, 6))]
        assert sum(total for total, _ in parts) / sum(count for _, count in parts) == pytest.approx(fn(scores, numbers))
        assert whole[1] == sum(count for _, count in parts)


class NoFloat64(TorchDispatchMode):
    """A device that lacks float64, as Apple's MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError(f"{func} makes float64")
        return result


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), by_sum_and_count, Own()], ids=["torch", "pair", "own"])
def test_a_device_without_float64_trains_and_evaluates(loss, monkeypatch):
    monkeypatch.setattr(losses, "widest", lambda _: torch.float32)
    model = Tagger()
    batches = [(torch.randn(4, WIDTH), torch.randint(1, CLASSES, (4,))) for _ in range(4)]
    metrics = {"right": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()}
    options: dict[str, Any] = {"metrics": metrics, "accumulate": 2, "progress": False, "device": "cpu"}
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, **options)
    with NoFloat64():
        history = trainer.fit(batches, 1, batches)
    assert history["loss"][0] > 0
    assert 0 <= history["val_right"][0] <= 1


LABELS = torch.tensor([0, 2, -100, 1])


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(ignore_index=7), nn.NLLLoss()])
@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_without_a_class_is_named_before_a_gpu_meets_it(loss, wrong):
    ignored = Loss(loss).ignored
    assert ignored is not None
    targets = torch.where(LABELS == -100, ignored, LABELS)
    Loss(loss).check_labels(torch.zeros(4, 3), targets)
    Loss(loss).check_labels(torch.zeros(2, 3, 2), targets.view(2, 2))
    with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
        Loss(loss).check_labels(torch.zeros(4, 3), torch.where(targets == 2, wrong, targets))


def test_other_targets_than_labels_are_not_looked_at():
    Loss(nn.MSELoss()).check_labels(torch.zeros(4, 3), torch.full((4, 3), 9.0))
    Loss(F.cross_entropy).check_labels(torch.zeros(4, 3), torch.full((4, 3), 9.0))  # shares of classes


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda outputs, targets: (F.cross_entropy(outputs, targets), len(targets)),
        lambda outputs, targets: (F.cross_entropy(outputs, targets, ignore_index=0), (targets != 0).sum()),
        lambda outputs, targets: (F.cross_entropy(outputs, targets), outputs.square().mean()),
    ],
    ids=["mean and count", "mean and count of the valid", "two losses"],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_mean_where_a_sum_belongs_is_refused(loss_fn, accumulate):
    model = nn.Linear(4, 3)
    ours = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), loss_fn, accumulate=accumulate, progress=False)
    batch = torch.randn(8, 4), torch.randint(3, (8,))
    with pytest.raises(ValueError, match=r"takes for \(sum, count\), but the first is the mean"):
        ours.fit([batch] * 2, 1)


@pytest.mark.parametrize(
    ("loss_fn", "refused"),
    [
        (lambda outputs, targets: ((outputs - targets) ** 2).mean(), True),
        (lambda outputs, targets: (outputs - targets) ** 2, True),
        (lambda outputs, targets: (outputs.squeeze(1) - targets) ** 2, False),
        (lambda outputs, targets: ((outputs.squeeze(1) - targets) ** 2).mean(), False),
        (lambda outputs, targets: ((outputs - targets[:, None]) ** 2).mean(), False),
        (lambda outputs, targets: outputs.exp().mean(), False),
        (nn.PoissonNLLLoss(), True),
        (nn.KLDivLoss(reduction="batchmean"), True),
    ],
)
def test_a_loss_of_one_s_own_that_compares_every_pair_is_refused(loss_fn, refused):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    ours = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), loss_fn, metrics={}, progress=False)
    for _ in range(5):
        batch = torch.randn(8, 4), torch.rand(8)
        if refused:
            with pytest.raises(ValueError, match="it compares each output with each target"):
                ours.fit([batch], 1)
        else:
            ours.fit([batch], 1)


def test_targets_of_one_column_are_not_compared_with_each_output_either():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    for loss_fn in (
        lambda outputs, targets: ((outputs - targets) ** 2).mean(),
        lambda outputs, targets: (outputs - targets) ** 2,
    ):
        ours = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), loss_fn, metrics={}, progress=False)
        with pytest.raises(ValueError, match="it compares each output with each target"):
            ours.fit([(torch.randn(8, 4), torch.randn(8, 1))], 1)


def flat_error(outputs, targets):
    return ((outputs.squeeze(1) - targets) ** 2).sum() / len(targets)


@pytest.mark.parametrize("loss_fn", [flat_error, lambda outputs, targets: (flat_error(outputs, targets), 1)])
@pytest.mark.parametrize("size", [1.0, 1e-6, 0.0])
@pytest.mark.parametrize("targets", [[0.0, 1.0, 1.0, 0.0], [1.0] * 4, [0.3, 0.1, 0.9, 0.5]])
def test_a_right_loss_of_one_column_is_accepted_of_any_first_batch(loss_fn, size, targets):
    """Of labels that read the same backward, or are all alike, and of a last layer that begins at zero, too."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.mul_(size)
        model.bias.zero_()
    ours = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), loss_fn, metrics={}, progress=False)
    ours.fit([(torch.randn(4, 4), torch.tensor(targets))], 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_of_which_nothing_counts_are_named(accumulate):
    def masked(outputs, targets):
        counts = targets > 0
        return (F.cross_entropy(outputs, targets, reduction="none") * counts).sum(), counts.sum()

    model = nn.Linear(WIDTH, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ours = Trainer(model, optimizer, masked, metrics={}, progress=False, log_every=2, accumulate=accumulate)
    some, none = ((torch.randn(4, WIDTH), torch.full((4,), label)) for label in (1, 0))
    with pytest.raises(FloatingPointError, match="Nothing counts in the steps from 3 to 4"):
        ours.fit([one for one in (some, none, none, none) for _ in range(accumulate)], 1)
