"""Padding, attention and recurrences: each misuse raises its alarm, and what is right raises none."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from torchcourse.lessons.troubleshooting.invariants import SanityProbe

SIZE = 8


def padded(samples: int = 96, length: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words 2 to 9, in sentences of different lengths that 0 fills up; whether more of them are even than odd."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(2, 10, (samples, length), generator=generator)
    lengths = torch.randint(3, length + 1, (samples,), generator=generator)
    words[torch.arange(length) >= lengths[:, None]] = 0
    return words, lengths, ((words % 2 == 1).sum(1) > lengths / 2).long()


def names(model: nn.Module, steps: int = 6) -> list[str]:
    words, lengths, labels = padded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(96).split(96 // steps):
            optimizer.zero_grad()
            F.cross_entropy(model(words[rows], lengths[rows]), labels[rows]).backward()
            optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


class Reader(nn.Module):
    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, SIZE, padding_idx=padding), nn.Linear(SIZE, 2)

    def mean(self, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        kept = (words > 0)[..., None]
        return self.head((states * kept).sum(1) / kept.sum(1))

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.mean(self.embed(words), words)


class Attending(Reader):
    """Attention by hand, with two heads; `weigh` makes weights of scores [N, 2, T, T], `add` sums the values."""

    def __init__(self, weigh: Callable, add: Callable = torch.matmul, mask_of: Callable = torch.logical_not) -> None:
        super().__init__()
        self.project, self.weigh, self.add, self.mask_of = nn.Linear(SIZE, 3 * SIZE), weigh, add, mask_of

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        parts = self.project(self.embed(words)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(2, 3)).masked_fill(self.mask_of(words > 0)[:, None, None], -math.inf)
        states = self.add(self.weigh(scores), v)
        return self.mean(torch.nan_to_num(states).transpose(1, 2).flatten(2), words)


def by_einsum(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bhqk,bhkd->bhqd", weights, values)


def in_other_order(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (values.transpose(2, 3) @ weights.transpose(2, 3)).transpose(2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (lambda: Attending(lambda s: s.softmax(-1)), []),
        (lambda: Attending(lambda s: F.dropout(F.softmax(s, dim=3), 0.1, training=False)), []),
        (lambda: Attending(lambda s: s.softmax(-1), by_einsum), []),
        (lambda: Attending(lambda s: s.softmax(-1), in_other_order), []),
        (lambda: Attending(lambda s: s.relu().softmax(1)), ["softmax_over_other_axis"]),
        (lambda: Attending(lambda s: torch.softmax(s.relu(), dim=2)), ["softmax_over_other_axis"]),
        (lambda: Attending(lambda s: s.relu().softmax(1), by_einsum), ["softmax_over_other_axis"]),
        (lambda: Attending(lambda s: s.relu().softmax(2), in_other_order), ["softmax_over_other_axis"]),
    ],
)
def test_the_weights_of_attention_add_up_to_1_over_what_is_summed(model: Callable, alarms: list[str]) -> None:
    torch.manual_seed(0)
    assert names(model()) == alarms


class Pooling(Reader):
    """Each word is shared out among 4 groups, which are then averaged: softmax over groups, sum over words."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Linear(SIZE, 4)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states = self.embed(words)
        return self.head((self.share(states).softmax(-1).transpose(1, 2) @ states).mean(1) / lengths[:, None])


class Routing(Reader):
    """Each word votes on 3 groups, and shares itself out among them: softmax over groups, sum over words."""

    def __init__(self, by_letters: bool) -> None:
        super().__init__()
        self.votes, self.share, self.by_letters = nn.Linear(SIZE, 3 * SIZE), nn.Linear(SIZE, 3), by_letters

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states = self.embed(words)
        votes = self.votes(states).unflatten(2, (3, SIZE)).transpose(1, 2)  # [N, 3, T, SIZE]
        shares = self.share(states).transpose(1, 2).softmax(1)  # [N, 3, T]
        if self.by_letters:
            return self.head(torch.einsum("bgt,bgtd->bgd", shares, votes).mean(1))
        return self.head((shares[:, :, None] @ votes).mean((1, 2)))


class Twice(Reader):
    """Attention to what attends, as between a question and a text of the same length."""

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states = self.embed(words)
        scores = states @ states.transpose(1, 2)
        there, back = scores.softmax(2), scores.softmax(1)
        return self.mean(there @ back.transpose(1, 2) @ states, words)


@pytest.mark.parametrize("model", [Pooling, lambda: Routing(False), lambda: Routing(True), Twice])
def test_places_that_are_shared_out_among_groups_raise_no_alarm(model: Callable[[], Reader]) -> None:
    torch.manual_seed(0)
    assert names(model()) == []


class Layer(Reader):
    """PyTorch's layer; `mask_of` makes its mask of where words are."""

    def __init__(self, mask_of: Callable) -> None:
        super().__init__()
        self.layer, self.mask_of = nn.TransformerEncoderLayer(SIZE, 2, SIZE, 0.0, batch_first=True), mask_of

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states = self.layer(self.embed(words), src_key_padding_mask=self.mask_of(words > 0))
        return self.mean(torch.nan_to_num(states), words)


class Fused(Attending):
    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(self.embed(words))[:, None].chunk(3, dim=-1)
        mask = self.mask_of(words > 0)[:, None, None]
        return self.mean(torch.nan_to_num(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))[:, 0], words)


def as_it_is(where: torch.Tensor) -> torch.Tensor:
    return where


@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (lambda: Layer(torch.logical_not), []),
        (lambda: Layer(as_it_is), ["mask_inverted"]),
        (lambda: Attending(lambda s: s.softmax(-1), mask_of=as_it_is), ["mask_inverted"]),
        (lambda: Fused(as_it_is, mask_of=as_it_is), []),
        (lambda: Fused(as_it_is, mask_of=torch.logical_not), ["mask_inverted"]),
    ],
)
def test_a_mask_leaves_out_the_padding(model: Callable, alarms: list[str]) -> None:
    torch.manual_seed(0)
    assert [name for name in names(model()) if name == "mask_inverted"] == alarms


@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (lambda: Layer(lambda where: torch.zeros(where.shape).masked_fill(~where, -math.inf)), []),
        (lambda: Layer(lambda where: (~where).float()), ["mask_of_numbers"]),
        (lambda: Fused(as_it_is, mask_of=lambda where: where.float()), ["mask_of_numbers"]),
    ],
)
def test_a_mask_is_not_added_to_the_scores(model: Callable[[], Reader], alarms: list[str]) -> None:
    torch.manual_seed(0)
    assert [name for name in names(model()) if name == "mask_of_numbers"] == alarms


@pytest.mark.parametrize(("padding", "alarms"), [(0, []), (1, []), (3, ["padding_is_a_word"])])
def test_the_padding_of_an_embedding_is_no_word(padding: int, alarms: list[str]) -> None:
    torch.manual_seed(0)
    assert names(Reader(padding)) == alarms


class Recurrent(Reader):
    def __init__(self, read: Callable) -> None:
        super().__init__()
        self.cell, self.read = nn.GRU(SIZE, SIZE, batch_first=True), read

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.head(self.read(self, self.embed(words), lengths))


def packed(model: Recurrent, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.cell(pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False))[1][0]


def at_own_length(model: Recurrent, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.cell(states)[0][torch.arange(len(lengths)), lengths - 1]


def last_step(model: Recurrent, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.cell(states)[0][:, -1]


def last_state(model: Recurrent, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.cell(states)[1][0]


@pytest.mark.parametrize(
    ("read", "alarms"),
    [(packed, []), (at_own_length, []), (last_step, ["state_after_padding"]), (last_state, ["state_after_padding"])],
)
def test_the_state_after_the_last_word_is_read(read: Callable, alarms: list[str]) -> None:
    torch.manual_seed(0)
    assert names(Recurrent(read)) == alarms


def begun_at_random(model: Recurrent, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.cell(states, torch.randn(1, len(states), SIZE))[0].mean(1)


def begun_by_the_words(model: Recurrent, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.cell(states, states.mean(1).detach()[None])[0].mean(1)


@pytest.mark.parametrize(("read", "alarms"), [(begun_by_the_words, []), (begun_at_random, ["random_first_state"])])
def test_a_recurrence_does_not_begin_at_random(read: Callable, alarms: list[str]) -> None:
    torch.manual_seed(0)
    assert names(Recurrent(read)) == alarms


@pytest.mark.parametrize(
    ("split", "alarms"),
    [
        (lambda number: torch.randperm(number, generator=torch.Generator().manual_seed(0)), ["windows_overlap"]),
        (torch.arange, []),
    ],
)
@pytest.mark.parametrize("channels", [0, 2])
def test_windows_are_split_by_time(split: Callable[[int], torch.Tensor], alarms: list[str], channels: int) -> None:
    torch.manual_seed(0)
    series = (torch.arange(240.0) / 5).sin() + 0.1 * torch.randn(240)
    windows = series.unfold(0, 13, 1)  # [228, 13]
    order = split(len(windows))
    if channels:
        windows = windows[..., None].expand(-1, -1, channels)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12 * max(channels, 1), 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for rows in order[:160].split(32):
            optimizer.zero_grad()
            F.mse_loss(model(windows[rows, :12]).flatten(), windows[rows, 12].reshape(len(rows), -1).mean(1)).backward()
            optimizer.step()
        with torch.no_grad():
            model(windows[order[164:], :12])
    assert [alarm.name for alarm in probe.alarms()] == alarms


def test_rows_of_flags_are_no_windows() -> None:
    torch.manual_seed(0)
    flags = (torch.rand(320, 20) < 0.4).float()
    model = nn.Linear(20, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(256).split(32):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(
                model(flags[rows])[:, 0], flags[rows, ::2].sum(1).gt(2).float()
            ).backward()
            optimizer.step()
        with torch.no_grad():
            model(flags[256:])
    assert [alarm.name for alarm in probe.alarms()] == []


@pytest.mark.parametrize("seldom", [False, True])
def test_foretelling_before_learning_is_no_overlap(seldom: bool) -> None:
    torch.manual_seed(0)
    series = (torch.arange(240.0) / 5).sin() + 0.1 * torch.randn(240)
    series[::2] *= 1 - seldom
    series[40::] *= torch.arange(200) % 30 < (10 if seldom else 30)  # most of the time nothing happens
    windows = series.unfold(0, 13, 1)
    model = nn.Linear(12, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(160).split(8):
            optimizer.zero_grad()
            F.mse_loss(model(windows[rows, :12])[:, 0], windows[rows, 12]).backward()
            optimizer.step()
            if rows[0] % 40 == 0:
                with torch.no_grad():
                    model(windows[rows + 8, :12])
    assert [alarm.name for alarm in probe.alarms()] == []


class Carrying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.state = nn.Embedding(20, SIZE), nn.Linear(SIZE, 20), None
        self.cell = nn.GRU(SIZE, SIZE, batch_first=True)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        states, state = self.cell(self.embed(words), self.state)
        self.state = state.detach()
        return self.head(states)


@pytest.mark.parametrize(("mixed", "alarms"), [(False, []), (True, ["state_of_others"])])
def test_a_state_is_carried_within_one_text(mixed: bool, alarms: list[str]) -> None:
    torch.manual_seed(0)
    text = ((torch.arange(8 * 61).view(8, 61) * 7) % 19) + (torch.rand(8, 61) < 0.2).long()
    model = Carrying()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with SanityProbe(model, optimizer) as probe:
        for start in torch.randperm(6) if mixed else range(6):
            rows = text[:, 10 * start : 10 * start + 11]
            optimizer.zero_grad()
            F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


class Placed(nn.Module):
    """Foretells a running sum at each place; `along` is the dimension whose places have a vector of their own."""

    def __init__(self, along: int, batch_first: bool, looks_back: bool = True) -> None:
        super().__init__()
        self.enter, self.places = nn.Linear(3, SIZE), nn.Parameter(0.3 * torch.randn(32, SIZE))
        self.read = nn.GRU(SIZE, SIZE, batch_first=batch_first) if looks_back else nn.Linear(SIZE, SIZE)
        self.leave, self.along = nn.Linear(SIZE, 1), along

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.places[: x.size(self.along)].unsqueeze(1 - self.along)
        states = self.read(self.enter(x) + places)
        return self.leave(states[0] if isinstance(states, tuple) else states)[..., 0]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (lambda: Placed(along=0, batch_first=True), ["place_in_batch"]),
        (lambda: Placed(along=1, batch_first=True), []),
        (lambda: Placed(along=0, batch_first=False), []),  # [time, samples, 3]
        (lambda: Placed(along=0, batch_first=False, looks_back=False), []),
    ],
)
def test_positions_lie_along_the_time(model: Callable[[], Placed], alarms: list[str], flat: bool) -> None:
    torch.manual_seed(0)
    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.02)
    with SanityProbe(trained, optimizer) as probe:
        for samples in (12, 12, 12, 12, 12, 7):
            x = torch.randn(*((samples, 9, 3) if alarms or trained.along else (9, samples, 3)))
            optimizer.zero_grad()
            sums = x[..., 0].cumsum(1 if alarms or trained.along else 0)
            outputs, sums = (part.flatten() if flat else part for part in (trained(x), sums / 3))
            F.mse_loss(outputs, sums).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


class Steps(nn.Module):
    """Reads a sequence by a cell, and lets no gradient back over each `cut` steps."""

    def __init__(self, cut: int) -> None:
        super().__init__()
        self.cell, self.head, self.cut = nn.LSTMCell(3, SIZE), nn.Linear(SIZE, 2), cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = (x.new_zeros(len(x), SIZE), x.new_zeros(len(x), SIZE))
        for time in range(x.size(1)):
            if self.cut and time % self.cut == 0:
                state = (state[0].detach(), state[1].detach())
            state = self.cell(x[:, time], state)
        return self.head(state[0])


@pytest.mark.parametrize(("cut", "alarms"), [(1, ["state_cut"]), (3, []), (0, [])])
def test_a_cell_learns_from_earlier_steps(cut: int, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model, x = Steps(cut), torch.randn(96, 7, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(96).split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), (x[rows, 0, 0] > 0).long()).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


def test_nodes_of_a_graph_may_have_vectors_of_their_own() -> None:
    torch.manual_seed(0)
    model = Placed(along=0, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(6):
            x = torch.randn(12, 9, 3)  # [nodes, time, 3]
            optimizer.zero_grad()
            F.mse_loss(model(x), x[..., 0].cumsum(1) / 3).backward()
            optimizer.step()
    assert probe.alarms() == []
