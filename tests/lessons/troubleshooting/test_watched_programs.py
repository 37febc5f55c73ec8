"""Loops that are built differently: healthy ones raise no alarm, and each silent bug raises its own."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchcourse.tools.bench.programs import (
    Watch,
    batches,
    clouds,
    dense,
    healthy_epochs,
    healthy_loops,
    healthy_models,
    healthy_pairs,
    held_back_bugs,
    judge,
    programs_of,
    sentences,
    silent_bugs,
)

MODULES = (healthy_loops, healthy_epochs, healthy_models, healthy_pairs)
HEALTHY = {name: program for module in MODULES for name, program in programs_of(module).items()}
# The most expensive of them are left to `make bench`.
CHEAP = (
    *("lbfgs", "one_cycle_of_25_steps", "steps_of_epochs", "warm_up_from_zero", "tiny_learning_rate", "sum_reduction"),
    *("accumulated_sums", "sharpness_aware", "scaler_with_clipping", "validation_at_the_end", "tiny_data"),
    *("one_epoch_and_a_last_test", "accuracy_on_the_training_batch", "saved_each_epoch", "gradients_by_hand"),
    *("adversarial_images", "weights_averaged_at_the_end", "class_that_never_comes", "rare_classes", "one_hot_words"),
    *("raw_numbers_into_batch_norm", "noise_in_evaluation", "adversary_that_judges", "gradient_penalty"),
    *(
        "experts_without_work",
        "several_tasks",
        "pseudo_labels",
        "embedding_bag_with_two_optimizers",
        "answers_before_lessons",
        "scatter_by_dropout",
    ),
)
ALARMS = {
    "eval_mode_from_the_middle": "eval_in_training",
    "eval_mode_left_at_the_end": "eval_left_on",
    "zero_grad_forgotten": "gradients_kept",
    "loss_made_anew": "gradients_empty",
    "state_is_no_copy": "state_is_no_copy",
    "epoch_never_set": "epoch_not_set",
    "padding_is_counted": "padding_counted",
    "clipped_before_unscaling": "clipped_before_unscaling",
    "head_not_in_the_optimizer": "not_in_optimizer",
    "labels_shuffled_apart": "labels_unrelated",
    "optimizer_made_anew": "optimizer_anew",
    "clipped_to_nothing": "clipped_to_nothing",
    "softmax_over_the_wrong_dimension": "no_log_probabilities",
    "layers_in_a_list": "not_registered",
    "future_is_seen": "future_seen",
    "statistics_stand_still": "statistics_still",
    "validation_from_the_training_data": "validated_on_training_data",
    "sorted_without_shuffle": "not_mixed",
    "validation_is_augmented": "validation_changes",
    "schedule_of_epochs_by_batch": "rate_collapses",
    "stepped_past_the_scaler": "gradients_scaled",
    "zero_grad_for_each_part": "gradients_lost",
    "seeded_in_each_step": "same_random_numbers",
    "frozen_by_mistake": "frozen",
    "targets_broadcast_by_hand": "broadcast",
    "workers_draw_alike": "workers_alike",
}


@pytest.mark.parametrize("name", CHEAP)
def test_a_healthy_loop_raises_no_alarm(name: str) -> None:
    assert [str(alarm) for alarm in judge(HEALTHY[name])] == []


@pytest.mark.parametrize("name", [name for name in ALARMS if name != "workers_draw_alike"])
def test_a_silent_bug_raises_its_alarm(name: str) -> None:
    program = {**programs_of(silent_bugs), **programs_of(held_back_bugs)}[name]
    assert ALARMS[name] in [alarm.name for alarm in judge(program)]


@pytest.mark.slow
def test_workers_that_draw_alike_are_found() -> None:
    assert [alarm.name for alarm in judge(held_back_bugs.workers_draw_alike)] == ["workers_alike"]


def test_each_bug_of_the_bench_has_its_alarm_here() -> None:
    assert set(ALARMS) == {*programs_of(silent_bugs), *programs_of(held_back_bugs)}


@pytest.mark.parametrize(
    ("loss_of", "alarm"),
    [
        (lambda scores, y: -F.cross_entropy(scores, y), "loss_negated"),
        (lambda scores, y: F.binary_cross_entropy_with_logits(scores, 2.0 * F.one_hot(y, 4) - 1), "targets_outside"),
        (lambda scores, y: F.kl_div(scores.softmax(dim=1), F.one_hot(y, 4).float()), "no_log_probabilities"),
        (lambda scores, y: F.cross_entropy(scores * math.inf, y), "not_finite"),
    ],
)
def test_what_a_loss_gets(loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], alarm: str) -> None:
    def program(watch: Watch) -> None:
        model, (x, y) = dense(), clouds(100)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with watch(model, optimizer):
            for xb, yb in batches(x, y, steps=4):
                optimizer.zero_grad()
                loss_of(model(xb), yb).backward()
                optimizer.step()

    assert alarm in [found.name for found in judge(program)]


def test_a_step_taken_twice_and_parts_that_count_different_numbers_of_tokens() -> None:
    def twice(watch: Watch) -> None:
        model, (x, y) = dense(), clouds(100)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with watch(model, optimizer):
            for xb, yb in batches(x, y, steps=4):
                optimizer.zero_grad()
                F.cross_entropy(model(xb), yb).backward()
                optimizer.step()
                optimizer.step()

    def parts(watch: Watch) -> None:
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with watch(model, optimizer):
            for length in (2, 3, 4):
                for size in (length, 9 * length):
                    words = torch.randint(20, (8, 10))
                    targets = torch.where(torch.arange(80).view(8, 10) < size, words, -100)
                    (F.cross_entropy(model(words).flatten(0, 1), targets.flatten()) / 2).backward()
                optimizer.step()
                optimizer.zero_grad()

    assert [alarm.name for alarm in judge(twice)] == ["stepped_twice"]
    assert "means_of_means" in [alarm.name for alarm in judge(parts)]


def steps(watch: Watch, after: Callable[[nn.Module, torch.optim.Optimizer], object], model: nn.Module) -> None:
    """Train, and do something after each step that belongs elsewhere."""
    x, y = clouds(100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, steps=8):
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()
            after(model, optimizer)


def test_clipping_after_the_step_and_a_cosine_stepped_past_its_end() -> None:
    def clip(model: nn.Module, _: torch.optim.Optimizer) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)

    schedulers: list[torch.optim.lr_scheduler.LRScheduler] = []

    def schedule(_: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        schedulers[:] = schedulers or [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]
        schedulers[0].step()

    assert [alarm.name for alarm in judge(lambda watch: steps(watch, clip, dense()))] == ["clipped_late"]
    assert [alarm.name for alarm in judge(lambda watch: steps(watch, schedule, dense()))] == ["schedule_outrun"]


def test_batch_norms_with_the_wrong_momentum_and_units_that_start_alike() -> None:
    alike = dense()
    for layer in (alike[0], alike[2]):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    models = {
        "statistics_short": dense(12, 4, nn.BatchNorm1d(24, momentum=0.99)),
        "statistics_drift": dense(12, 4, nn.BatchNorm1d(24).requires_grad_(False)),
        "units_alike": alike,
    }
    for name, model in models.items():
        found = judge(lambda watch, model=model: steps(watch, lambda *_: None, model))
        assert name in [alarm.name for alarm in found]


@pytest.mark.slow
def test_orders_streams_and_targets_that_repeat() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            yield from zip(*rows, strict=True)

    torch.manual_seed(0)
    rows = clouds(96)
    again = [
        DataLoader(TensorDataset(*rows), 16, shuffle=True, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    ]

    def program(loaders: list[DataLoader], watch: Watch) -> None:
        model = dense()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for loader in loaders:
                for xb, yb in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(xb), yb).backward()
                    optimizer.step()

    def unshifted(watch: Watch) -> None:
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for (words,) in batches(sentences(), steps=4):
                optimizer.zero_grad()
                F.cross_entropy(model(words).flatten(0, 1), words.flatten()).backward()
                optimizer.step()

    assert [alarm.name for alarm in judge(partial(program, again))] == ["same_order"]
    assert [alarm.name for alarm in judge(unshifted)] == ["target_is_input"]
    twice = judge(partial(program, [DataLoader(Stream(), 16, num_workers=2)]))
    assert "stream_repeated" in [alarm.name for alarm in twice]


def fit(
    watch: Watch, model: nn.Module, loss_of: Callable[..., torch.Tensor], *tensors: torch.Tensor, lr: float = 0.01
) -> None:
    """Train with what `loss_of` makes of a batch, clipping being left out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with watch(model, optimizer):
        for parts in batches(*tensors, size=16, steps=8):
            optimizer.zero_grad()
            loss_of(model, *parts).backward()
            optimizer.step()


class Reads(nn.Module):
    """Reads a sentence by an LSTM; [samples, time] or, without `batch_first`, [time, samples] by mistake."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(16, 4)
        self.lstm = nn.LSTM(8, 16, batch_first=batch_first)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


class Foretells(nn.Module):
    """Foretells the next token; whether it may look at those after is said in the call."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, tokens: torch.Tensor, causal: bool = True) -> torch.Tensor:
        length = tokens.size(1)
        mask = torch.full((length, length), -math.inf).triu(1) if causal else None
        return self.head(self.layer(self.embed(tokens), src_mask=mask))


@pytest.mark.parametrize("right", [True, False])
def test_what_looks_backward_along_the_batch_mixes_samples(right: bool) -> None:
    tokens = sentences(64)
    found = judge(lambda w: fit(w, Reads(right), lambda m, t: F.cross_entropy(m(t), t[:, 0] % 4), tokens))
    assert [alarm.name for alarm in found] == ([] if right else ["samples_mixed"])


@pytest.mark.parametrize("causal", [True, False])
def test_a_model_is_judged_as_it_was_called(causal: bool) -> None:
    def loss_of(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(rows[:, :-1], causal=causal).flatten(0, 1), rows[:, 1:].flatten())

    found = judge(lambda watch: fit(watch, Foretells(), loss_of, sentences(64)))
    assert [alarm.name for alarm in found] == ([] if causal else ["future_seen"])


def test_a_model_that_returns_its_loss_is_judged_without_a_word() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(self.layer(x), x)

    assert (
        judge(lambda watch: fit(watch, Own(), lambda model, x: model(x) - torch.zeros(()), torch.randn(64, 12))) == []
    )


@pytest.mark.parametrize("masked", [True, False])
def test_a_sample_is_not_to_be_told_from_others_by_itself(masked: bool) -> None:
    def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        views = F.normalize(torch.cat([model(x + 0.1 * torch.randn_like(x)) for _ in range(2)]), dim=1)
        likeness, count = views @ views.T / 0.2, len(x)
        if not masked:
            return F.cross_entropy(likeness, torch.arange(2 * count))
        likeness = likeness.masked_fill(torch.eye(2 * count, dtype=torch.bool), -1e9)
        return F.cross_entropy(likeness, torch.arange(2 * count).roll(count))

    found = judge(lambda watch: fit(watch, dense(), loss_of, torch.randn(64, 12)))
    assert [alarm.name for alarm in found] == ([] if masked else ["compared_with_itself"])


@pytest.mark.parametrize(
    ("last", "least", "reached"),
    [(nn.ReLU(), -2.0, False), (nn.ReLU(), 0.0, True), (nn.Sigmoid(), -2.0, False), (nn.Tanh(), -2.0, False)],
)
def test_targets_where_the_last_layer_cannot_get(last: nn.Module, least: float, reached: bool) -> None:
    x = torch.randn(64, 12)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12), last, nn.Flatten(0))
    found = judge(lambda w: fit(w, model, lambda m, x: F.mse_loss(m(x), x.clamp(min=least).flatten()), x))
    assert [alarm.name for alarm in found] == ([] if reached else ["targets_out_of_reach"])


@pytest.mark.parametrize("early", [True, False])
def test_clipping_before_there_are_gradients(early: bool) -> None:
    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(model(x), y)
        if early:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        return loss

    found = judge(lambda watch: fit(watch, dense(), loss_of, *clouds(64)))
    assert [alarm.name for alarm in found] == (["clipped_nothing"] if early else [])


@pytest.mark.parametrize(
    ("lr", "alarms"), [(1e-4, ["updates_rounded_away"]), (0.004, ["updates_rounded_away"]), (0.01, []), (0.1, [])]
)
def test_updates_that_16_bits_cannot_hold(lr: float, alarms: list[str]) -> None:
    x, y = clouds(64)
    found = judge(
        lambda watch: fit(watch, dense().bfloat16(), lambda m, x, y: F.cross_entropy(m(x), y), x.bfloat16(), y, lr=lr)
    )
    assert [alarm.name for alarm in found] == alarms


def test_weights_in_16_bits_may_be_copies_of_those_that_are_stepped() -> None:
    def program(watch: Watch) -> None:
        model, (x, y) = dense().bfloat16(), clouds(64)
        full = [p.detach().float().requires_grad_() for p in model.parameters()]
        optimizer = torch.optim.SGD(full, lr=0.0005)
        with watch(model, optimizer):
            for xb, yb in batches(x.bfloat16(), y, size=16, steps=8):
                model.zero_grad()
                F.cross_entropy(model(xb).float(), yb).backward()
                for kept, p in zip(full, model.parameters(), strict=True):
                    assert p.grad is not None
                    kept.grad = p.grad.float()
                optimizer.step()
                with torch.no_grad():
                    for kept, p in zip(full, model.parameters(), strict=True):
                        p.copy_(kept)

    assert [alarm.name for alarm in judge(program)] == []


@pytest.mark.parametrize("copies", [True, False])
def test_augmentation_in_place_changes_what_a_dataset_keeps(copies: bool) -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            x, y = super().__getitem__(index)
            return (x.clone() if copies else x).add_(0.1 * torch.randn_like(x)), y

    def program(watch: Watch) -> None:
        model = dense()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for xb, yb in DataLoader(Noisy(*clouds(96)), 16, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(model(xb), yb).backward()
                optimizer.step()

    assert [alarm.name for alarm in judge(program)] == ([] if copies else ["dataset_changed"])


def test_the_smaller_part_of_a_mixed_loss_may_grow() -> None:
    """A model that knows its classes is far from the label that counts a tenth."""

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores = 40 * model(x)
        return 0.98 * F.cross_entropy(scores, y) + 0.02 * F.cross_entropy(scores, y.roll(1))

    def program(watch: Watch) -> None:
        model, (x, y) = dense(), clouds(64)
        nn.init.zeros_(model[-1].weight)
        nn.init.zeros_(model[-1].bias)
        fit(watch, model, loss_of, x, y, lr=0.001)

    assert [alarm.name for alarm in judge(program)] == []


@pytest.mark.parametrize("to_inputs", [True, False])
def test_a_gradient_that_is_wanted_for_the_inputs_alone_is_not_lost(to_inputs: bool) -> None:
    def program(watch: Watch) -> None:
        model, (x, y) = dense(), clouds(128)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for xb, yb in batches(x, y, size=16, steps=8):
                change = torch.zeros_like(xb, requires_grad=to_inputs)
                F.cross_entropy(model(xb + change), yb).backward()
                sign = torch.ones_like(xb) if change.grad is None else change.grad.sign()
                optimizer.zero_grad()
                F.cross_entropy(model(xb + 0.1 * sign), yb).backward()
                optimizer.step()
                optimizer.zero_grad()

    assert [alarm.name for alarm in judge(program)] == ([] if to_inputs else ["gradients_lost"])
