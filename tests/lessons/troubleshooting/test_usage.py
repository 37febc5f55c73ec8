"""How PyTorch is used: each misuse raises its alarm, and what looks like it and is meant raises none."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations
from torch.optim.lr_scheduler import LambdaLR

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.tools.bench.programs import clouds, dense

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def names(model: nn.Module, loss_of: Loss, steps: int = 6, batch: int = 32, after: Callable[[], object] = int) -> list:
    """Train on clouds in four classes, and return the names of the alarms."""
    x, y = clouds(steps * batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(batch), y.split(batch), strict=True):
            optimizer.zero_grad()
            loss_of(model(xb), yb).backward()
            optimizer.step()
            after()
    return [alarm.name for alarm in probe.alarms()]


SIGNS = torch.tensor([1.0, -1.0]).repeat(8)


@pytest.mark.parametrize(
    ("loss_of", "alarms"),
    [
        (lambda out, y: F.cosine_embedding_loss(out[:16], out[16:], SIGNS), []),
        (lambda out, y: F.cosine_embedding_loss(out[:16], out[16:], SIGNS.relu()), ["targets_one_sided"]),
        (lambda out, y: F.margin_ranking_loss(out[:16, 0], out[16:, 0], SIGNS.relu()), ["targets_one_sided"]),
        (lambda out, y: F.soft_margin_loss(out[:16, 0], SIGNS.relu()), ["targets_one_sided"]),
        (lambda out, y: F.poisson_nll_loss(out, F.one_hot(y, 4)), []),
        (lambda out, y: F.poisson_nll_loss(F.softplus(out), F.one_hot(y, 4), log_input=False), []),
        (lambda out, y: F.poisson_nll_loss(F.softplus(out), F.one_hot(y, 4)), ["rate_is_no_logarithm"]),
        (lambda out, y: F.binary_cross_entropy(out.softmax(1), F.one_hot(y, 4).float()), []),
        (lambda out, y: F.binary_cross_entropy(out.sigmoid(), (y[:, None] > torch.arange(4)).float()), []),
        (
            lambda out, y: F.binary_cross_entropy(out.softmax(1), (y[:, None] > torch.arange(4)).float()),
            ["softmax_for_several_labels"],
        ),
    ],
)
def test_a_loss_gets_what_it_is_made_for(loss_of: Loss, alarms: list[str]) -> None:
    assert names(dense(), loss_of) == alarms


@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (nn.Sequential(dense(), nn.Dropout(0.5)), ["scores_dropped"]),
        (nn.Sequential(dense(), nn.Dropout(0.1)), ["scores_dropped"]),
        (nn.Sequential(nn.Dropout(0.5), dense()), []),
    ],
)
def test_scores_are_not_dropped(model: nn.Module, alarms: list[str]) -> None:
    assert names(model, F.cross_entropy) == alarms


@pytest.mark.parametrize(("over", "alarms"), [(-1, []), (0, ["no_log_probabilities"])])
def test_ctc_gets_log_probabilities_over_its_classes(over: int, alarms: list[str]) -> None:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores = out.view(8, 4, 4).log_softmax(over)  # [time, samples, classes]
        return F.ctc_loss(scores, torch.ones(4, 2, dtype=torch.long), torch.full((4,), 8), torch.full((4,), 2))

    assert names(dense(), loss) == alarms


@pytest.mark.parametrize(("power", "alarms"), [(-1, []), (0, []), (1, ["class_weights_inverted"])])
def test_the_weights_of_classes_favor_the_rare_ones(power: int, alarms: list[str]) -> None:
    def rare(y: torch.Tensor) -> torch.Tensor:
        return (y == 0).long() * (torch.arange(len(y)) % 2)  # an eighth

    weights = torch.tensor([7.0, 1.0]) ** power
    found = names(dense(), lambda out, y: F.cross_entropy(out[:, :2], rare(y), weight=weights))
    found_of_one = names(
        dense(),
        lambda out, y: F.binary_cross_entropy_with_logits(
            out[:, 0], rare(y).float(), pos_weight=torch.tensor(7.0) ** -power
        ),
    )
    assert found == found_of_one == alarms


def test_freezing_by_an_attribute_that_nobody_looks_at() -> None:
    parameter, module, right = dense(), dense(), dense()
    next(parameter.parameters()).require_grad = False  # type: ignore[attr-defined]
    module[0].requires_grad = False  # type: ignore[assignment]
    right[0].requires_grad_(False)
    found = [names(model, F.cross_entropy) for model in (parameter, module)]
    assert found == 2 * [["frozen_in_name_only"]]
    assert names(right, F.cross_entropy) == ["frozen"]


class Scaled(nn.Module):
    """A model with a factor of its own, and a layer that is made in its forward pass if `make` makes one."""

    def __init__(self, factor: Callable[[nn.Parameter], torch.Tensor], make: Callable[[], nn.Module] = nn.Identity):
        super().__init__()
        self.model, self.scale, self.factor, self.make = dense(), nn.Parameter(torch.ones(4)), factor, make

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.make()(self.model(x))
        return out * self.factor(self.scale)


@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (Scaled(lambda scale: scale), []),
        (Scaled(lambda scale: scale.data), ["used_without_graph"]),
        (Scaled(lambda scale: scale.detach()), ["used_without_graph"]),
        (Scaled(lambda scale: scale * scale.detach()), []),
        (Scaled(lambda scale: scale, lambda: nn.LayerNorm(4)), []),
        (Scaled(lambda scale: scale, lambda: nn.Linear(4, 4)), ["layer_made_in_forward"]),
    ],
)
def test_what_a_forward_pass_uses_learns(model: nn.Module, alarms: list[str]) -> None:
    assert names(model, F.cross_entropy) == alarms


@pytest.mark.parametrize("graph", [True, False])
def test_a_penalty_on_a_derivative_has_a_graph(graph: bool) -> None:
    model = dense()

    def penalized(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(out.sum(), model[0].weight, retain_graph=True, create_graph=graph)
        return F.cross_entropy(out, y) + 1e-5 * slope.square().sum()

    def weighed(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        one, two = F.cross_entropy(out, y), out.square().mean()
        (slope,) = torch.autograd.grad(one, out, retain_graph=True)
        return one + slope.norm() * two

    assert names(model, penalized) == ([] if graph else ["penalty_without_graph"])
    assert names(dense(), weighed) == []


@pytest.mark.parametrize("shared", [True, False])
def test_slow_weights_are_copies(shared: bool) -> None:
    model = dense()
    slow = [p.data if shared else p.detach().clone() for p in model.parameters()]

    def pull() -> None:
        with torch.no_grad():
            for weight, kept in zip(model.parameters(), slow, strict=True):
                weight.copy_(kept.lerp_(weight, 0.5))

    assert names(model, F.cross_entropy, after=pull) == (["copied_onto_itself"] if shared else [])


@pytest.mark.parametrize("cleared", [True, False])
def test_an_epoch_leaves_no_gradients_to_the_next(cleared: bool) -> None:
    model, (x, y) = dense(), clouds(40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 4, shuffle=True)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(4):
            for number, (xb, yb) in enumerate(loader, start=1):
                (F.cross_entropy(model(xb), yb) / 4).backward()
                if number % 4 == 0 or (cleared and number == len(loader)):
                    optimizer.step()
                    optimizer.zero_grad()
    assert [alarm.name for alarm in probe.alarms()] == ([] if cleared else ["batches_left_over"])


@pytest.mark.parametrize(("made", "alarms"), [(0.0, []), (1.0, ["one_answer"])])
def test_a_judge_is_told_which_is_which(made: float, alarms: list[str]) -> None:
    judge = nn.Linear(12, 1)
    answers = torch.full((32, 1), made)

    def loss(out: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        real = F.binary_cross_entropy_with_logits(out, torch.ones(32, 1))
        return real + F.binary_cross_entropy_with_logits(judge(torch.randn(32, 12)), answers)

    assert names(judge, loss) == alarms


@pytest.mark.parametrize(("floor", "alarms"), [(False, []), (True, ["rate_stands_at_0"])])
def test_a_warm_up_rises(floor: bool, alarms: list[str]) -> None:
    model, (x, y) = dense(), clouds(320)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = LambdaLR(optimizer, lambda step: min(1, step // 8 if floor else step / 8))
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(16), y.split(16), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()
            rates.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


# Tokens


class Tokens(nn.Module):
    """Looks back, or everywhere; takes tokens, or what is to be answered too."""

    def __init__(self, everywhere: bool = False, two: bool = False) -> None:
        super().__init__()
        self.embed, self.head, self.two = nn.Embedding(21, 16), nn.Linear(32 if everywhere else 16, 21), two
        self.layer = nn.GRU(16, 16, batch_first=True, bidirectional=everywhere)

    def forward(self, tokens: torch.Tensor, answers: torch.Tensor | None = None) -> torch.Tensor:
        source = answers if self.two and answers is not None else tokens
        return self.head(self.layer(self.embed(source))[0])


def texts(ordered: bool = True) -> Iterator[torch.Tensor]:
    """Yield batches [8, 12] of a language in which each token has two that may follow, or of tokens without order."""
    for _ in range(6):
        table = torch.randint(20, (8, 12))
        for place in range(1, 12) if ordered else ():
            table[:, place] = (3 * table[:, place - 1] + torch.randint(2, (8,))) % 20
        yield table


def told(model: nn.Module, tables: Iterator[torch.Tensor], arrange: Callable[[torch.Tensor], tuple]) -> list[str]:
    """Train on `arrange(table)`: the arguments of the model, and the targets; return the names of the alarms."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for table in tables:
            optimizer.zero_grad()
            *given, target = arrange(table)
            F.cross_entropy(model(*given).flatten(0, 1), target.flatten()).backward()
            optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


def delayed(table: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full((8, 1), 20), table[:, :-1]], dim=1)


def test_targets_shifted_the_wrong_way() -> None:
    assert told(Tokens(), texts(), lambda t: (t[:, :-1], t[:, 1:])) == []
    assert told(Tokens(), texts(), lambda t: (t, delayed(t).clamp(max=19))) == ["target_is_input"]
    assert told(Tokens(), texts(ordered=False), lambda t: (t, delayed(t).clamp(max=19))) == []  # to be remembered


def test_only_hidden_tokens_count() -> None:
    def hidden(table: torch.Tensor, counted: bool, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.rand(table.shape) < 0.15
        return torch.where(mask, tokens, table), table if counted else table.masked_fill(~mask, -100)

    mask, mistakes = torch.full((8, 12), 20), torch.randint(20, (8, 12))
    assert told(Tokens(True), texts(), lambda t: hidden(t, True, mask)) == ["shown_tokens_count"]
    assert told(Tokens(True), texts(), lambda t: hidden(t, False, mask)) == []
    assert told(Tokens(True), texts(), lambda t: hidden(t, True, mistakes)) == []  # spelling


@pytest.mark.slow
def test_a_decoder_does_not_see_its_answer() -> None:
    assert told(Tokens(two=True), texts(), lambda t: (t[:, :5], t, t)) == ["target_is_input"]
    assert told(Tokens(two=True), texts(), lambda t: (t[:, :5], delayed(t), t)) == []
    assert told(Tokens(True, two=True), texts(), lambda t: (t[:, :5], delayed(t), t)) == ["future_seen"]
    assert told(Tokens(two=False), texts(), lambda t: (delayed(t), t, t)) == []  # answers that no output depends on


# What is healthy


def test_layers_whose_weights_are_computed_from_others() -> None:
    judge = parametrizations.spectral_norm(nn.Linear(12, 1))  # for equal parts, the bias's gradient is exactly 0

    def hinge(out: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        return (1 - 0.1 * out[:16]).relu().mean() + (1 + 0.1 * out[16:]).relu().mean()

    assert names(judge, hinge) == []


def test_a_model_inside_a_transform_is_left_alone() -> None:
    model, (x, y) = dense(), clouds(96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(weights: dict, one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, weights, (one[None],)), label[None])

    probe = SanityProbe(model, optimizer)
    with probe:
        for xb, yb in zip(x.split(32), y.split(32), strict=True):
            weights = {name: p.detach() for name, p in model.named_parameters()}
            slopes = vmap(grad(loss), in_dims=(None, 0, 0))(weights, xb, yb)
            for name, parameter in model.named_parameters():
                parameter.grad = slopes[name].mean(dim=0)
            optimizer.step()
    with pytest.raises(ValueError, match=r"inside a transform of torch\.func"):
        probe.alarms()


def test_parts_in_torchscript_are_passed_by_and_a_whole_one_is_said() -> None:
    script = torch.jit.script(nn.Sequential(nn.Linear(12, 12), nn.ReLU()))
    assert names(nn.Sequential(script, nn.Linear(12, 4)), F.cross_entropy) == []
    with pytest.raises(ValueError, match="TorchScript runs the model past its hooks"):
        names(torch.jit.script(dense()), F.cross_entropy)


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_what_is_compiled_is_said_with_a_remedy_that_works(before: bool) -> None:
    torch._dynamo.reset()
    model, (x, y) = dense(), clouds(32)
    compiled, optimizer = torch.compile(model, backend="eager"), torch.optim.SGD(model.parameters(), lr=0.1)
    if before:
        compiled(x)
    probe = SanityProbe(model, optimizer)
    with probe:
        F.cross_entropy(compiled(x), y).backward()
        optimizer.step()
    with pytest.raises(ValueError, match=r"torch\.compile runs the model past its hooks.*force_eager"):
        probe.alarms()
    with torch.compiler.set_stance("force_eager"), SanityProbe(model, optimizer) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(compiled(x), y).backward()
            optimizer.step()
    assert len(probe._run.steps) == 5
    assert probe.alarms() == []


def test_windows_of_a_series_that_goes_on() -> None:
    series = torch.arange(400.0) * 0.1 + torch.randn(400)
    windows = series.unfold(0, 24, 2)
    model = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def differs(train: torch.Tensor, last: torch.Tensor) -> list[str]:
        with SanityProbe(model, optimizer) as probe:
            for rows in train.split(24):
                optimizer.zero_grad()
                F.mse_loss(model.train()(rows[:, :16]), rows[:, 16:]).backward()
                optimizer.step()
            with torch.no_grad():
                model.eval()(last[:, :16])
        return [alarm.name for alarm in probe.alarms()]

    assert "validation_differs" not in differs(windows[:120], windows[150:])
    assert "validation_differs" in differs(torch.randn(120, 24), torch.randn(40, 24) + 3)


def test_gradients_of_weights_that_a_step_does_not_take_may_stay() -> None:
    coder, decoder, (x, _) = nn.Linear(12, 4), nn.Linear(4, 12), clouds(160)
    both = torch.optim.SGD([*coder.parameters(), *decoder.parameters()], lr=0.01)
    one = torch.optim.SGD(coder.parameters(), lr=0.01)
    with SanityProbe(coder, both) as probe:
        for rows in x.split(16):
            for optimizer in (both, one):
                optimizer.zero_grad()
                code = coder(rows)
                (F.mse_loss(decoder(code), rows) if optimizer is both else code.square().mean()).backward()
                optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == []


@pytest.mark.parametrize("anew", [True, False])
def test_folds_are_learned_by_models_of_their_own(anew: bool) -> None:
    x, y = clouds(120)
    folds, first = torch.randperm(120).chunk(3), dense()
    model, optimizer = first, torch.optim.SGD(first.parameters(), lr=0.05)
    with SanityProbe(first, optimizer) as probe:
        for held in folds:
            for rows in torch.cat([fold for fold in folds if fold is not held]).split(16):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                model(x[held])
            if anew:
                model = copy.deepcopy(dense())
                optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    assert [alarm.name for alarm in probe.alarms()] == ([] if anew else ["validated_on_training_data"])


class Domains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.domain = nn.Linear(12, 8), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.classes(self.body(x)), self.domain(self.body(x))


@pytest.mark.parametrize("labels", [False, True])
def test_samples_may_be_learned_from_without_their_labels_and_validated_on(labels: bool) -> None:
    (x, y), (other, answers), model = clouds(128), clouds(128), Domains()
    other = other + 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.randperm(128).split(16):
            optimizer.zero_grad()
            (scores, here), (others, there) = model(x[rows]), model(other[rows])
            loss = F.cross_entropy(scores, y[rows]) + F.softplus(torch.cat([here, -there])).mean()
            (loss + F.cross_entropy(others, answers[rows]) if labels else loss).backward()
            optimizer.step()
        with torch.no_grad():
            model(other[:100])
    assert [alarm.name for alarm in probe.alarms()] == (["validated_on_training_data"] if labels else [])


def test_one_task_after_another_may_start_with_a_high_loss() -> None:
    x, y = clouds(400)
    order = (y > 1).long().argsort(stable=True)
    model = nn.Linear(12, 4)
    with torch.no_grad():
        model.bias[2:] -= 2 * math.log(50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for rows in order.split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    assert "diverges" not in [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize("stack", [nn.Sequential, lambda *layers: nn.Sequential(*nn.ModuleList(layers))])
@pytest.mark.parametrize(("again", "alarms"), [(False, []), (True, ["one_layer_repeated"])])
def test_the_layers_of_a_stack_are_different(stack: Callable, again: bool, alarms: list[str]) -> None:
    act, layers = nn.ReLU(), [nn.Linear(12, 12) for _ in range(3)]
    layers = [layers[0]] * 3 if again else layers
    model = stack(layers[0], act, layers[1], act, layers[2], act, nn.Linear(12, 4))
    assert names(model, F.cross_entropy) == alarms


@pytest.mark.parametrize(("share", "alarms"), [(0.8, []), (0.9, ["drops_nearly_all"])])
def test_a_dropout_drops_the_smaller_part(share: float, alarms: list[str]) -> None:
    assert names(dense(12, 4, nn.Dropout(share)), F.cross_entropy) == alarms


def test_an_embedding_may_be_called_by_keywords() -> None:
    class Looks(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.embedding(weight=self.weight, indices=x.argmax(dim=1), padding_idx=0)

    assert names(Looks(4, 12), F.cross_entropy) == []


@pytest.mark.parametrize(("own", "alarms"), [(True, []), (False, ["clipped_nothing"])])
def test_it_is_the_model_that_is_clipped(own: bool, alarms: list[str]) -> None:
    model, (x, y) = dense(), clouds(192)
    clipped = model if own else copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(32), y.split(32), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            nn.utils.clip_grad_norm_(clipped.parameters(), 0.5)
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


class Placed(nn.Module):
    """Adds a place to what it gets; `make` makes the places of numbers in float64."""

    def __init__(self, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.places, self.head = make(torch.randn(12, dtype=torch.float64)), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.places)


@pytest.mark.parametrize(
    ("make", "alarms"),
    [
        (lambda numbers: nn.Parameter(numbers.float()), []),
        (lambda numbers: numbers.float(), []),
        (lambda numbers: nn.Parameter(numbers).float(), ["computed_once"]),
    ],
)
def test_a_parameter_is_kept_itself(make: Callable[[torch.Tensor], torch.Tensor], alarms: list[str]) -> None:
    assert names(Placed(make), F.cross_entropy) == alarms


@pytest.mark.parametrize(("by_data", "alarms"), [(False, []), (True, ["tied_by_memory"])])
def test_tied_weights_are_one_parameter(by_data: bool, alarms: list[str]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
            if by_data:
                self.out.weight.data = self.into.weight.data
            else:
                self.out.weight = self.into.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.out(torch.tanh(self.into(x))))

    assert names(Tied(), F.cross_entropy) == alarms


@pytest.mark.parametrize(("prefix", "alarms"), [("", []), ("module.", ["nothing_loaded"])])
def test_something_of_a_state_is_loaded(prefix: str, alarms: list[str]) -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        model.load_state_dict({prefix + key: value for key, value in dense().state_dict().items()}, strict=False)
        F.cross_entropy(model(torch.randn(8, 12)), torch.randint(4, (8,))).backward()
        optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


@pytest.mark.parametrize(("written_back", "alarms"), [(True, []), (False, ["not_in_optimizer"])])
def test_an_optimizer_may_step_a_copy_in_more_digits(written_back: bool, alarms: list[str]) -> None:
    model, (x, y) = dense().bfloat16(), clouds(192)
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(masters, lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(32), y.split(32), strict=True):
            model.zero_grad()
            F.cross_entropy(model(xb.bfloat16()).float(), yb).backward()
            for master, p in zip(masters, model.parameters(), strict=True):
                master.grad = p.grad.float()
            optimizer.step()
            with torch.no_grad():
                for master, p in zip(masters, model.parameters(), strict=True):
                    p.copy_(master if written_back else p)
    found = [alarm.name for alarm in probe.alarms()]
    assert [name for name in found if name in ("not_in_optimizer", "gradients_kept")] == alarms


def test_sparse_gradients_and_copies_are_no_obstacle() -> None:
    words, head = nn.EmbeddingBag(20, 4, sparse=True), nn.Linear(4, 4)
    model = nn.Sequential(words, head)
    sparse, plain = torch.optim.SparseAdam(words.parameters()), torch.optim.SGD(head.parameters(), lr=0.1)
    buffer, average = torch.eye(4).to_sparse(), copy.deepcopy(model).requires_grad_(False)
    with SanityProbe(model, plain) as probe:
        for _ in range(4):
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight.detach(), 0.1)
            model.zero_grad()
            F.cross_entropy(model(torch.randint(20, (16, 3))), torch.randint(4, (16,))).backward()
            plain.step()
            sparse.step()
            buffer.copy_(buffer)
    assert [alarm.name for alarm in probe.alarms()] == []
