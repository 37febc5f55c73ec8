"""What is drawn by chance: each misuse raises its alarm, and what is right raises none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.tools.bench.programs import clouds


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actions, self.value = nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.tanh(self.body(x))
        return self.actions(states), self.value(states)[:, 0]


def names(
    model: nn.Module,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    times: int = 1,
    rate: float = 0.01,
) -> list[str]:
    x, y = clouds(6 * 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(len(x)).split(32):
            for _ in range(times):
                optimizer.zero_grad()
                loss_of(x[rows], y[rows]).backward()
                optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize(("detached", "alarms"), [(True, []), (False, ["weight_with_gradient"])])
def test_an_advantage_carries_no_gradient(normal: bool, detached: bool, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model = ActorCritic()

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores, value = model(x)
        actions = Normal(scores[:, 0], 1.0) if normal else Categorical(logits=scores)
        drawn = actions.sample()
        reward = (drawn - y).abs().float()
        better = reward - (value.detach() if detached else value)
        return -(better * actions.log_prob(drawn)).mean() + (value - reward).square().mean()

    assert names(model, loss) == alarms


@pytest.mark.parametrize(
    ("logs", "weights", "alarms"),
    [((-1,), (-1, 1), ["broadcast"]), ((-1, 1), (-1,), ["broadcast"]), ((-1,), (-1,), []), ((-1, 1), (-1, 1), [])],
)
def test_an_action_has_one_weight(logs: tuple[int, ...], weights: tuple[int, ...], alarms: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 4)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        actions = Categorical(logits=model(x))
        drawn = actions.sample()
        return -(actions.log_prob(drawn).view(logs) * ((drawn == y).float() - 0.25).view(weights)).mean()

    assert names(model, loss) == alarms


class Columns(ActorCritic):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.tanh(self.body(x))
        return self.actions(states), self.value(states)


@pytest.mark.parametrize(("column", "alarms"), [(False, ["broadcast"]), (True, [])])
def test_what_was_expected_is_compared_with_one_return(column: bool, alarms: list[str]) -> None:
    torch.manual_seed(0)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores, value = model(x)
        returns = y.float()[:, None] if column else y.float()
        better = (returns - value).detach().mean(dim=1)
        return -(better * Categorical(logits=scores).log_prob(y)).mean() + F.mse_loss(value[:, 0], y.float())

    model = Columns()
    assert names(model, loss) == alarms


@pytest.mark.parametrize(("anew", "alarms"), [(False, []), (True, ["ratio_is_1"])])
def test_a_ratio_compares_with_the_policy_that_acted(anew: bool, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model, acted = nn.Linear(12, 4), {}

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        actions = Categorical(logits=model(x))
        key = x[0, 0].item()
        drawn, before = acted.setdefault(key, (kept := actions.sample(), actions.log_prob(kept).detach()))
        before = actions.log_prob(drawn).detach() if anew else before
        ratio = (actions.log_prob(drawn) - before).exp()
        return -(ratio * ((drawn == y).float() - 0.25)).mean()

    assert names(model, loss, times=3) == alarms


@pytest.mark.parametrize(("seeded", "alarms"), [(False, []), (True, ["same_noise"])])
def test_each_step_draws_other_noise(seeded: bool, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model, generator = nn.Linear(12, 12), torch.Generator().manual_seed(0)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if seeded:
            generator.manual_seed(1)
        return F.mse_loss(model(x + 0.3 * torch.randn(x.shape, generator=generator)), x)

    assert names(model, loss) == alarms


def test_a_projection_that_a_seed_stands_for_is_no_noise() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 4)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        projection = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
        return F.cross_entropy(model(x @ projection / 5), y)

    assert names(model, loss) == []


def test_noise_is_told_from_other_noise_where_an_input_begins_with_zeros() -> None:
    torch.manual_seed(0)
    model, generator = nn.Linear(24, 24), torch.Generator()

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        clean = F.pad(x, (12, 0))  # as the rim of a picture
        return F.mse_loss(model(clean + 0.3 * torch.randn(clean.shape, generator=generator.manual_seed(1))), clean)

    assert names(model, loss) == ["same_noise"]


def test_data_that_is_made_the_same_for_each_step_raises_no_alarm() -> None:
    torch.manual_seed(0)
    model, generator = nn.Linear(4, 4), torch.Generator()

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        given = torch.randn(32, 4, generator=generator.manual_seed(1))
        return F.mse_loss(model(given), given.flip(1) + 0.1 * torch.randn(32, 4, generator=generator))

    assert names(model, loss) == []


@pytest.mark.parametrize(
    ("kind", "alarms"),
    [("drawn again", ["noise_not_shown"]), ("drawn in place", ["noise_not_shown"])]
    + [(kind, []) for kind in ("added", "clean", "velocity", "two noisy copies", "nothing but noise")],
)
def test_noise_that_is_to_be_foretold_is_shown(kind: str, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(13, 12)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        angle, noise = torch.rand(32, 1), torch.randn_like(x)
        given = torch.randn(32, 12) if kind == "nothing but noise" else torch.cos(angle) * x + torch.sin(angle) * noise
        target = {
            "drawn again": lambda: torch.randn_like(x),
            "drawn in place": lambda: torch.empty(32, 12).normal_().data,
            "added": lambda: noise,
            "clean": lambda: x,
            "velocity": lambda: torch.cos(angle) * noise - torch.sin(angle) * x,
            "two noisy copies": lambda: x + torch.randn_like(x),
            "nothing but noise": lambda: torch.randn(32, 12),
        }[kind]()
        return F.mse_loss(model(torch.cat([given, angle], dim=1)), target)

    assert names(model, loss) == alarms


def test_a_code_that_was_made_into_a_sample_is_shown() -> None:
    torch.manual_seed(0)
    model, make = nn.Linear(12, 4), nn.Linear(6, 12)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        noise, code = torch.randn(32, 2), torch.randn(32, 4)
        return F.mse_loss(model(x + make(torch.cat([noise, code], dim=1))), code)

    assert names(model, loss) == []


@pytest.mark.parametrize("form", ["logarithm", "product", "softplus", "library"])
@pytest.mark.parametrize(("sign", "alarms"), [(1, []), (-1, ["divergence_subtracted"])])
def test_a_divergence_is_made_small(form: str, sign: int, alarms: list[str]) -> None:
    torch.manual_seed(0)
    encode, decode = nn.Linear(12, 8), nn.Linear(4, 12)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mean, free = encode(x).chunk(2, dim=1)
        spread = F.softplus(free) + 1e-3 if form == "softplus" else (0.5 * free).exp()
        if form == "logarithm":
            divergence = -0.5 * (1 + free - mean.pow(2) - free.exp()).sum(dim=1).mean()
        elif form == "product":
            divergence = -0.5 * torch.sum(1 + free - mean * mean - torch.exp(free))
        elif form == "softplus":
            divergence = (0.5 * (spread**2 + mean**2 - 1) - spread.log()).sum(dim=1).mean()
        else:
            standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
            divergence = kl_divergence(Normal(mean, spread), standard).sum(dim=1).mean()
        return F.mse_loss(decode(mean + spread * torch.randn_like(mean)), x) + 0.1 * sign * divergence

    assert names(encode, loss) == alarms


def test_a_policy_of_normal_actions_may_like_to_be_uncertain() -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 8)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mean, spread = model(x).chunk(2, dim=1)
        actions = Normal(mean, spread.exp())
        drawn = actions.sample()
        return -(actions.log_prob(drawn) * -drawn.square()).mean() - 0.1 * actions.entropy().mean()

    assert names(model, loss) == []


@pytest.mark.parametrize(
    ("terms", "alarms"),
    [
        (lambda out, x, kl: F.mse_loss(out, x, reduction="sum") + kl.mean(), ["terms_reduced_apart"]),
        (lambda out, x, kl: F.mse_loss(out, x, reduction="sum") + kl.sum(dim=1).mean(), ["terms_reduced_apart"]),
        (lambda out, x, kl: F.mse_loss(out, x) + kl.sum(), ["terms_reduced_apart"]),
        (lambda out, x, kl: (F.mse_loss(out, x) + kl.sum()) / 4, ["terms_reduced_apart"]),  # accumulated
        (lambda out, x, kl: F.mse_loss(out, x, reduction="sum") + kl.sum(), []),
        (lambda out, x, kl: (F.mse_loss(out, x, reduction="sum") + kl.sum()) / len(x), []),
        (lambda out, x, kl: F.mse_loss(out, x, reduction="sum") / len(x) + kl.sum(dim=1).mean(), []),
        (lambda out, x, kl: F.mse_loss(out, x) + kl.mean(), []),
        (lambda out, x, kl: F.mse_loss(out, x) + 0.00025 * kl.sum(dim=1).mean(), []),
        (lambda out, x, kl: F.mse_loss(out, x, reduction="sum") + 4 * kl.sum(), []),
    ],
)
@pytest.mark.parametrize("from_torch", [False, True])
def test_a_divergence_is_reduced_as_the_loss_beside_it(terms: Callable, alarms: list[str], from_torch: bool) -> None:
    torch.manual_seed(0)
    encode, decode = nn.Linear(12, 8), nn.Linear(4, 12)
    standard = Normal(torch.zeros(4), torch.ones(4))

    def loss(x: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        mean, free = encode(x).chunk(2, dim=1)
        spread = torch.exp(0.5 * free)
        divergence = -0.5 * (1 + free - mean.pow(2) - free.exp())
        if from_torch:
            divergence = kl_divergence(Normal(mean, spread), standard)
        return terms(decode(mean + spread * torch.randn_like(mean)), x, divergence)

    found = names(nn.ModuleList([encode, decode]), loss, rate=1e-5)
    assert [name for name in found if name == "terms_reduced_apart"] == alarms


def _code(kl: torch.Tensor) -> torch.Tensor:
    return kl.sum(dim=1).mean()


@pytest.mark.parametrize(
    ("terms", "size", "alarms"),
    [
        (lambda out, x, kl: F.mse_loss(out, x) + _code(kl), 24, ["divergence_outweighs"]),
        (lambda out, x, kl: F.mse_loss(out, x) + kl.sum() / len(x), 24, ["divergence_outweighs"]),
        (lambda out, x, kl: F.mse_loss(out.sigmoid(), x) + _code(kl), 24, ["divergence_outweighs"]),
        (lambda out, x, kl: F.mse_loss(out, x) + _code(kl) / 24, 24, []),
        (lambda out, x, kl: F.mse_loss(out, x, reduction="sum") / len(x) + _code(kl), 24, []),
        (lambda out, x, kl: F.mse_loss(10 * out, 10 * x) + _code(kl), 24, []),  # of numbers that are large
        (lambda out, x, kl: F.mse_loss(out, x) + 0.1 * _code(kl), 24, []),
        (lambda out, x, kl: F.mse_loss(out, x) + kl.mean(), 24, []),
        (lambda out, x, kl: F.mse_loss(out, x) + _code(kl), 6, []),  # few numbers
        (lambda out, x, kl: F.mse_loss(out, x.roll(1, 0)) + _code(kl), 24, []),  # no reconstruction
    ],
)
def test_a_code_is_worth_its_divergence(terms: Callable, size: int, alarms: list[str]) -> None:
    torch.manual_seed(0)
    encode, decode = nn.Linear(size, 8), nn.Linear(4, size)
    kinds = torch.rand(4, size, generator=torch.Generator().manual_seed(0))

    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = encode, decode

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            mean, free = self.encode(x).chunk(2, dim=1)
            return self.decode(mean + torch.exp(0.5 * free) * torch.randn_like(mean)), mean, free

    model = Coder()

    def loss(_x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = kinds[y] * torch.rand(len(y), 1)
        out, mean, free = model(x)
        return terms(out, x, -0.5 * (1 + free - mean.pow(2) - free.exp()))

    assert [name for name in names(model, loss) if name == "divergence_outweighs"] == alarms


def test_weights_that_are_random_have_a_divergence_of_their_own() -> None:
    """A Bayesian layer with as many units as there are samples in a batch: its divergence is no matter of the batch."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 32)
    free, head = nn.Parameter(torch.full((32, 12), -6.0)), nn.Linear(32, 4)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight = layer.weight + torch.exp(0.5 * free) * torch.randn_like(free)
        divergence = -0.5 * (1 + free - layer.weight.pow(2) - free.exp())
        return F.cross_entropy(head(F.linear(x, weight)), y, reduction="sum") + divergence.mean()

    model = nn.ModuleList([layer, head])
    model.register_parameter("free", free)
    assert "terms_reduced_apart" not in names(model, loss)
