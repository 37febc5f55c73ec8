"""Healthy training programs: models, data and tasks that are built differently."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.tools.bench.programs import Watch, batches, clouds, dense, fit, fit_tokens, images, sentences, step


class _Recurrent(nn.Module):
    """A GRU over [time, samples, features], as PyTorch's layers take it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 16, bidirectional=True), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0].mean(dim=0))


class _Language(nn.Module):
    """A small causal transformer; with `tied`, the output layer shares the embedding's weights."""

    def __init__(self, vocabulary: int = 20, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, 16), nn.Parameter(0.1 * torch.randn(32, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.size(1))
        return self.head(self.layer(self.embed(tokens) + self.place[: tokens.size(1)], src_mask=mask, is_causal=True))


class _Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 8), nn.Linear(4, 12)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        return self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp()), mean, log_variance


class _Noisy(nn.Module):
    """Draws in evaluation too, since its noise is part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 4), nn.Linear(4, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.encode(x)
        return self.decode(hidden + 0.1 * torch.randn_like(hidden))


class _Experts(nn.Module):
    """Each sample goes to one of eight experts; some may get none."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(12, 8)
        self.experts = nn.ModuleList(nn.Linear(12, 4) for _ in range(8))
        with torch.no_grad():
            self.router.bias[3:] -= 10

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates, chosen = self.router(x).softmax(dim=1).max(dim=1)
        out = torch.zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                out = out.index_add(0, rows, gates[rows, None] * expert(x[rows]))
        return out


class _TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.body(x).relu()
        return {"kind": self.kind(hidden), "size": self.size(hidden)}


def class_that_never_comes(watch: Watch) -> None:
    x, y = clouds()
    fit(watch, dense(), batches(x, torch.where(y == 2, 1, y), steps=30))


def rare_classes(watch: Watch) -> None:
    x, y = clouds(600, 12, 10)
    keep = (y < 2) | (torch.rand(600) < 0.02)
    fit(watch, dense(12, 10), batches(x[keep], y[keep], steps=30))


def images_with_batch_norm(watch: Watch) -> None:
    layers = [nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    fit(watch, nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(96, 3)), batches(*images(), steps=20), lr=1e-2)


def raw_numbers_into_batch_norm(watch: Watch) -> None:
    """The model prepares its inputs itself."""
    x, y = clouds()
    fit(watch, nn.Sequential(nn.BatchNorm1d(12), dense()), batches(40 * x + 300, y, steps=20))


def one_hot_words(watch: Watch) -> None:
    words = torch.randint(600, (300,))
    model = nn.Sequential(nn.Linear(600, 24), nn.ReLU(), nn.Linear(24, 4))
    fit(watch, model, batches(F.one_hot(words, 600).float(), words % 4, steps=20))


def time_first_recurrence(watch: Watch) -> None:
    labels = torch.randint(2, (200,))
    x = torch.sin(torch.arange(15)[:, None, None] * (0.3 + 0.5 * labels[None, :, None])) + 0.3 * torch.randn(15, 200, 3)
    model = _Recurrent()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with watch(model, optimizer):
        for _ in range(20):
            rows = torch.randperm(200)[:24]
            optimizer.zero_grad()
            F.cross_entropy(model(x[:, rows]), labels[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def language_model(watch: Watch) -> None:
    tokens, model = sentences(200), _Language()
    fit_tokens(watch, model, batches(tokens[:, :-1], tokens[:, 1:], size=16))


def rare_tokens(watch: Watch) -> None:
    """Words as they come in a language: few often, most hardly ever."""
    words = torch.multinomial(1 / torch.arange(1.0, 501.0), 200 * 13, replacement=True).view(200, 13)
    model = _Language(500)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for (rows,) in batches(words, size=64):
            logits = model(rows[:, :-1])
            step(optimizer, F.cross_entropy(logits.transpose(1, 2), rows[:, 1:]))


def tied_weights(watch: Watch) -> None:
    tokens, model = sentences(200), _Language(tied=True)
    fit_tokens(watch, model, batches(tokens[:, :-1], tokens[:, 1:], size=16))


def padded_tokens_left_out(watch: Watch) -> None:
    tokens, model = sentences(200), _Language()
    lengths = torch.randint(3, 13, (200, 1))
    targets = torch.where(torch.arange(12) < lengths, tokens[:, 1:], 0)
    fit_tokens(watch, model, batches(tokens[:, :-1], targets, size=16), ignored=0)


def contrastive_pairs(watch: Watch) -> None:
    x, _ = clouds()
    model = dense(12, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for (xb,) in batches(x):
            views = [F.normalize(model(xb + 0.2 * torch.randn_like(xb)), dim=1) for _ in range(2)]
            step(optimizer, F.cross_entropy(views[0] @ views[1].T / 0.1, torch.arange(len(xb))))


def variational_autoencoder(watch: Watch) -> None:
    x, _ = clouds()
    model = _Variational()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for (xb,) in batches(x):
            again, mean, log_variance = model(xb)
            apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
            step(optimizer, F.mse_loss(again, xb) + 0.01 * apart)


def noise_in_evaluation(watch: Watch) -> None:
    x, _ = clouds()
    model = _Noisy()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for (xb,) in batches(x):
            step(optimizer, F.mse_loss(model(xb), xb))


def constant_targets(watch: Watch) -> None:
    x, _ = clouds()
    model = dense(12, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    fit(watch, model, batches(x, torch.ones(len(x), 1)), F.mse_loss, optimizer)


def many_labels_per_sample(watch: Watch) -> None:
    x, _ = clouds()
    y = (x[:, :5] > 0.3).float()
    fit(watch, dense(12, 5), batches(x, y), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2, 3, 1, 1])))


def segmentation(watch: Watch) -> None:
    x, _ = images()
    fit(watch, nn.Conv2d(1, 2, 3, padding=1), batches(x, (x[:, 0] > 0.8).long(), steps=20), lr=1e-2)


def frozen_backbone(watch: Watch) -> None:
    x, y = clouds()
    model = nn.ModuleDict({"backbone": nn.Linear(12, 24), "head": nn.Linear(24, 4)})
    model["backbone"].requires_grad_(False)
    whole = nn.Sequential(model["backbone"], nn.ReLU(), model["head"])
    optimizer = torch.optim.Adam(model["head"].parameters(), lr=1e-2)
    with watch(whole, optimizer, frozen=["0."]):
        for xb, yb in batches(x, y):
            step(optimizer, F.cross_entropy(whole(xb), yb))


def experts_without_work(watch: Watch) -> None:
    fit(watch, _Experts(), batches(*clouds(), steps=20))


def several_tasks(watch: Watch) -> None:
    """One step classifies, the next one measures, in turn; the second loss is much the larger."""
    x, y = clouds()
    sizes = 5 * x[:, :1] + 9
    model = _TwoHeads()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for number, (xb, yb, sb) in enumerate(batches(x, y, sizes)):
            out = model(xb)
            step(optimizer, F.mse_loss(out["size"], sb) if number % 2 else F.cross_entropy(out["kind"], yb))


def embedding_bag_with_two_optimizers(watch: Watch) -> None:
    words = torch.randint(1, 50, (300, 6))
    y = (words.sum(dim=1) > 150).long()
    model = nn.Sequential(nn.EmbeddingBag(50, 16, sparse=True), nn.Linear(16, 2))
    sparse, plain = torch.optim.SparseAdam(model[0].parameters()), torch.optim.SGD(model[1].parameters(), lr=0.1)
    with watch(model, plain):
        for xb, yb in batches(words, y):
            sparse.zero_grad()
            plain.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            sparse.step()
            plain.step()


def ranking(watch: Watch) -> None:
    """Every score is compared with every other one."""
    x, _ = clouds()
    y = x[:, 0] + 0.5 * x[:, 1]
    model = dense(12, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with watch(model, optimizer):
        for xb, yb in batches(x, y):
            scores = model(xb)
            right = (yb[:, None] - yb > 0).float()
            step(optimizer, F.binary_cross_entropy_with_logits(scores - scores.T, right))
