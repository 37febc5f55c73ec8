"""Checks of lesson 05, notebook 2: leaks, NaN, silent bugs, and processes that hang."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.troubleshooting.leaks import LeakReport, LeakWatch
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
from torchcourse.ranks.who import device
from torchcourse.units import format_bytes

TIME_LIMIT = 10.0  # seconds for a call on ranks

# 1 mean_loss


@check
def mean_loss(learner: Callable) -> str:
    """Compare with the loss of all samples at once; watch the memory from batch to batch."""
    for training in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4))
        model(3 * torch.randn(50, 8))
        model.train(training)
        statistics = model[1].running_mean.clone()
        x, y = torch.randn(16 * 8 + 4, 8), torch.randint(4, (16 * 8 + 4,))
        if training:
            value, report = _watched(learner, model, x, y)
            _refuse_leaks(report)
        else:
            value = learner(model, zip(x.split(16), y.split(16), strict=True))
        if not isinstance(value, float):
            raise Wrong(
                "not_a_number",
                f"It returned a {type(value).__name__}. A tensor keeps its memory, perhaps a graph too; a Python "
                "number does not.",
            )
        if not torch.equal(statistics, model[1].running_mean):
            raise Wrong(
                "training_mode",
                "The running statistics of BatchNorm have changed: the model was evaluated in training mode, and has "
                "learnt from the validation data.",
            )
        if model.training is not training:
            raise Wrong(
                "mode_left_changed",
                f"The model came in {_mode(training)} mode and was left in {_mode(not training)} mode.",
            )
        _judge_mean(value, model.eval(), x, y)
    return "The mean over all samples, in evaluation mode, and not a byte more with each batch."


def _watched(learner: Callable, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[object, LeakReport]:
    with LeakWatch() as watch:

        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for inputs, targets in zip(x.split(16), y.split(16), strict=True):
                yield inputs, targets
                watch.step()

        value = learner(model, batches())
    return value, watch.report()


def _refuse_leaks(report: LeakReport) -> None:
    if not report.bytes_a_step and not report.leaks:
        return
    if report.bytes_a_step > 1000:
        raise Wrong(
            "graph_kept",
            f"Memory grows by {format_bytes(report.bytes_a_step)} with each batch: what the layers put out stays. Which "
            "variable outlives a batch and knows from what it was computed?",
        )
    raise Wrong(
        "tensors_kept",
        f"After each batch a little more is alive ({format_bytes(report.bytes_a_step)}): you collect tensors. What do you need "
        "of them?",
    )


def _judge_mean(value: float, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    with torch.no_grad():
        losses = F.cross_entropy(model(x), y, reduction="none")
    right = losses.mean().item()
    if _close(value, right):
        return
    if _close(value, sum(part.mean().item() for part in losses.split(16)) / 9):
        raise Wrong(
            "mean_of_means",
            "The last batch is smaller, and counts as much as a whole one: a mean of means is no mean over samples.",
        )
    for factor, what in ((9, "batches"), (len(y), "samples")):
        if _close(value, right * factor, 1e-3) or _close(value, right / factor, 1e-3):
            raise Wrong("wrong_divisor", f"The value is off by a factor of {factor}, and there are {factor} {what}.")
    raise Wrong("wrong_value", f"The mean loss of these samples in evaluation mode is {right:.4f}, not {value:.4f}.")


def _close(value: float, other: float, tolerance: float = 1e-5) -> bool:
    return math.isclose(value, other, rel_tol=tolerance)


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


# 2 first_bad_layer


class _Crossed(nn.Module):
    """Layers that are called in another order than they are listed in, one of them inside a block."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.end = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.late(self.block(x)))


@check
def first_bad_layer(learner: Callable) -> str:
    """Spoil one layer after another, with NaN and with infinity."""
    for value in (math.nan, math.inf):
        for name in ("block.2", "block.0", "late", "end"):
            model, x = _spoilt(name, value)
            answer = learner(model, x)
            if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
                raise Wrong("hooks_left", "Hooks are still on the model: they would run in every later forward pass.")
            _judge_name(answer, name, value)
    model, x = _spoilt(None, 0.0)
    if (answer := learner(model, x)) is not None:
        raise Wrong("healthy_accused", f"All outputs are finite, and your function returned {answer!r}.")
    return "The first layer, by NaN and by infinity, in the order of the calls, and no hook left behind."


def _spoilt(name: str | None, value: float) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = _Crossed()
    if name is not None:
        model.get_submodule(name).bias.data[0] = value
    return model, torch.randn(6, 4)


def _judge_name(answer: object, name: str, value: float) -> None:
    if answer == name:
        return
    if math.isinf(value):  # all is right with NaN
        raise Wrong("infinity_missed", f"Right for NaN. An infinity made in {name!r} is missed: isnan() alone?")
    if answer is None:
        raise Wrong("nothing_found", f"Layer {name!r} puts out a NaN, and your function returned None.")
    if answer in ("", "block"):
        raise Wrong("container", f"{answer!r} is a module with children: the layer inside it is what is asked for.")
    if answer == "late" and name.startswith("block"):
        raise Wrong(
            "order_of_listing",
            f"The NaN is made in {name!r} and passes through 'late'. 'late' is listed first and called later: go by "
            "the order of the calls.",
        )
    if answer == "end":
        raise Wrong(
            "last_not_first",
            f"You returned 'end', the last layer; the NaN was made in {name!r}. Does each hook know its own name, "
            "and do you keep the first?",
        )
    if isinstance(answer, str):
        raise Wrong("wrong_layer", f"The NaN is made in {name!r}, and your function returned {answer!r}.")
    raise Wrong("no_name", f"Return a name as in named_modules(), or None; this is a {type(answer).__name__}.")


# 3 safe_distance


@check
def safe_distance(learner: Callable) -> str:
    """Compare values and gradients with the exact ones, where a row is 0 too."""
    torch.manual_seed(0)
    target = torch.randn(6, 4)
    output = (target + torch.randn(6, 4)).detach()
    output[2] = target[2]
    output.requires_grad_()
    value = learner(output, target)
    exact = (output - target).detach().norm(dim=1)
    if not isinstance(value, torch.Tensor) or value.shape != (6,):
        raise Wrong("shape", "Six rows have six distances: return a tensor of shape [6].")
    if not value.requires_grad:
        raise Wrong("no_gradient", "No gradient flows through your distance, so nothing can be learnt from it.")
    if not value.isfinite().all():
        raise Wrong("value_not_finite", "A distance itself is not finite now.")
    far = exact > 0
    if (value - exact).abs()[far].max() > 1e-3:
        raise Wrong(
            "distance_changed",
            f"For a distance of {exact[0]:.4f} you return {value[0].item():.4f}. Change as little as is needed: 0.001.",
        )
    if value[2].abs() > 1e-3:
        raise Wrong("zero_changed", f"For two equal rows you return {value[2].item():.3g}; at most 0.001 is asked for.")
    value.sum().backward()
    if not output.grad[2].isfinite().all():
        raise Wrong(
            "gradient_not_finite",
            "The values are right, and the gradient of the row at distance 0 is not finite. The root must not be taken "
            "of 0, whatever you do with the result afterwards.",
        )
    unit = (output - target).detach()[far] / exact[far, None]
    if (output.grad[far] - unit).abs().max() > 1e-2:
        raise Wrong(
            "gradient_changed",
            "The gradients of the other rows have changed: each should have length 1 and point away from the target.",
        )
    return "The same distances, and a finite gradient everywhere."


# 4 invariants


@check
def unchanged(learner: Callable) -> str:
    """Train a model in which some parameters learn, some never, some only now and then, and one must not."""
    for steps in (4, 1):
        model, step = _partly_training()
        answer = learner(model, step, steps)
        right = {"detached.weight", "detached.bias", "left_out.weight", "left_out.bias"}
        right |= {"rare.weight", "rare.bias"} if steps == 1 else set()
        if step.calls != steps:
            raise Wrong("steps_ignored", f"step() was to be called {steps} times, and was called {step.calls} times.")
        _judge_names(set(answer), right, steps)
    return "Left out of the optimizer, cut off by detach(): both found, and what is frozen on purpose is not accused."


class _Step:
    """A training step that counts its calls."""

    def __init__(self, model: nn.ModuleDict) -> None:
        self.model, self.calls = model, 0
        owned = [p for name, p in model.named_parameters() if not name.startswith("left_out")]
        self.optimizer = torch.optim.SGD([p for p in owned if p.requires_grad], lr=0.1)

    def __call__(self) -> None:
        self.calls += 1
        model, x = self.model, torch.ones(4, 3)
        self.optimizer.zero_grad()
        out = model["left_out"](model["learns"](model["detached"](model["frozen"](x)).detach()))
        out = out + (model["rare"](x) if self.calls == 3 else 0)
        out.square().mean().backward()
        self.optimizer.step()


def _partly_training() -> tuple[nn.ModuleDict, _Step]:
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("frozen", "detached", "learns", "left_out", "rare")})
    model["frozen"].requires_grad_(False)
    return model, _Step(model)


def _judge_names(answer: set, right: set, steps: int) -> None:
    if answer == right:
        return
    if "learns.weight" in answer:
        raise Wrong(
            "no_copy",
            "You list parameters that did change. The optimizer changes them in place: what you kept from before is "
            "the same tensor.",
        )
    if answer - right and all(name.startswith("frozen") for name in answer - right):
        raise Wrong("frozen_listed", "Parameters that are not trainable are frozen on purpose: leave them out.")
    if any(name.startswith("rare") for name in answer - right):
        raise Wrong(
            "one_step_only", f"'rare' learnt in step 3 of {steps}: compare after the last step, and not after one."
        )
    if right - answer and all(name.startswith("left_out") for name in right - answer):
        raise Wrong(
            "gradients_only",
            "'left_out' has a gradient in every step, and never changes: no optimizer has it. Look at the values.",
        )
    raise Wrong(
        "wrong_names", f"Missing: {sorted(right - answer) or 'none'}. Too many: {sorted(answer - right) or 'none'}."
    )


class _MixesRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0)


class _SumToOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(dim=0)


@check
def mixes_samples(learner: Callable) -> str:
    """Judge models that mix their samples and models that do not, one of them with BatchNorm and dropout."""
    torch.manual_seed(0)
    x = torch.randn(12, 6)
    healthy = {
        "dropout": nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
        "BatchNorm": nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        "large numbers": nn.Sequential(nn.Linear(6, 64), nn.Tanh(), _scaled(nn.Linear(64, 3), 1e5), _Rounds()),
    }
    for what, model in healthy.items():
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        answer = learner(model, x)
        if not all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers()):
            raise Wrong("statistics_changed", "The model's running statistics have changed: it was in training mode.")
        if not model.training:
            raise Wrong("mode_left_changed", "The model came in training mode and was left in evaluation mode.")
        if answer:
            raise Wrong(
                "healthy_accused",
                f"A healthy model ({what}) is accused. In training mode, dropout and BatchNorm may do what they do; "
                "and rounding grows with the size of the outputs.",
            )
    for model in (nn.Sequential(nn.Linear(6, 3), _MixesRows()), nn.Sequential(nn.Linear(6, 3), _SumToOne())):
        if not learner(model, x):
            raise Wrong("mixing_missed", "A model that mixes the samples of a batch was called healthy.")
    last = nn.Sequential(nn.Linear(6, 3), _OnlyLast())
    if not learner(last, x):
        raise Wrong("first_sample_only", "In this model only the last sample depends on others: compare all of them.")
    return "Mixed samples are found, wherever they are, and dropout, BatchNorm and rounding are not accused."


class _OnlyLast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:-1], x[-1:] + x[:1] - (x[-1:] if len(x) == 1 else 0)])


class _Rounds(nn.Module):
    """Rounds otherwise in a batch of another size, as matrix products do on some machines."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + len(x) % 5 * 2.0**-22)


def _scaled(layer: nn.Linear, factor: float) -> nn.Linear:
    layer.weight.data *= factor
    return layer


@check
def bad_start(learner: Callable) -> str:
    """Judge starts of models with few and with many classes."""
    for classes in (3, 10, 200):
        torch.manual_seed(classes)
        targets, scores = torch.randint(classes, (64,)), torch.randn(64, classes)
        large = F.one_hot((targets + 1) % classes, classes) * 40.0
        half = torch.cat([scores[:32].softmax(dim=1), scores[32:]])
        positive = scores.abs() + 1
        cases = (
            (0.5 * scores, [], "a fresh model"),
            (scores.softmax(dim=1), ["softmax twice"], "probabilities"),
            (scores - large.roll(1, 0) * 0 + large, ["no guess"], "sure and wrong"),
            (half, [], "probabilities in half of the rows"),
            (0.2 * positive, [], "positive scores that do not add up to 1"),
        )
        for table, right, what in cases:
            _judge_start(list(learner(table, targets)), right, what, classes)
    return "Probabilities are told from logits, and a guess from a wrong certainty, for 3, 10 and 200 classes."


def _judge_start(answer: list, right: list, what: str, classes: int) -> None:
    if answer == right:
        return
    if what == "a fresh model" and "no guess" in answer:
        raise Wrong(
            "limit_without_classes",
            f"A new model of {classes} classes is accused: its loss is near log({classes}) = {math.log(classes):.2f}. "
            "The limit must depend on the number of classes.",
        )
    if "softmax twice" in answer and not right:
        raise Wrong(
            "half_looked_at",
            f"There are {what}, and you call it a softmax. All rows, none below 0, each adding up to 1.",
        )
    if right == ["softmax twice"]:
        raise Wrong(
            "softmax_missed",
            f"Rows of probabilities over {classes} classes were not recognised, or something else was found. The "
            "sum of 200 rounded numbers is not exactly 1.",
        )
    if right == ["no guess"]:
        raise Wrong("no_guess_missed", f"The loss is far above log({classes}), and you found {answer}.")
    raise Wrong("wrong_answer", f"For {what} with {classes} classes you found {answer}; right is {right}.")


# 5 odd_ones_out


@check
def odd_ones_out(learner: Callable) -> str:
    """Judge stacks in which many ranks, few ranks or none are elsewhere."""
    reduce, wait = "dist.all_reduce(gradient)", "work.wait()"
    cases = (
        ({0: ["step()", reduce, wait], 1: [], 2: ["step()", reduce, wait]}, [1], "returned"),
        ({0: ["a()", wait], 1: ["a()", wait], 2: ["b()", wait]}, [2], "innermost"),
        ({0: ["log()", reduce], 1: ["step()", reduce], 2: ["step()", reduce], 3: ["step()", reduce]}, [0], "first"),
        ({rank: [reduce, wait] for rank in range(4)}, [], "none"),
        ({5: ["a()"], 3: ["b()"], 1: ["a()"], 4: ["c()"], 0: ["a()"], 2: ["a()"]}, [3, 4], "several"),
    )
    for stacks, right, kind in cases:
        given = {rank: list(lines) for rank, lines in stacks.items()}
        answer = learner(given)
        if list(answer) != right:
            _judge_ranks(list(answer), right, kind, stacks)
    return "Those that have returned and those that wait elsewhere are named, one or several."


def _judge_ranks(answer: list, right: list, kind: str, stacks: dict) -> None:
    if sorted(answer) == right:
        raise Wrong("order", f"The right ranks, in the order {answer}: ascending is asked for.")
    if set(answer) == set(stacks) - set(right) and right and kind != "first":
        raise Wrong("the_many", f"You named {answer}: these stand together. Whoever is not with them is asked for.")
    if kind == "returned":
        raise Wrong("returned_missed", "Rank 1 has an empty stack: it has returned, and the others wait for it.")
    if kind == "innermost":
        raise Wrong(
            "innermost_only",
            "Ranks 0 and 2 end in the same line and got there by different calls: compare whole stacks.",
        )
    if kind == "first":
        raise Wrong(
            "rank_0_is_the_measure", "Here rank 0 itself is the odd one: the measure is where *most* ranks are."
        )
    if kind == "several":
        raise Wrong("one_only", f"Two ranks are elsewhere, each in its own place: {right}. You named {answer}.")
    raise Wrong("nobody_is_odd", f"All ranks stand at the same place, and you named {answer}.")


# 6 any_rank_bad

_LOSSES = (
    (0.5, 1.0, 2.0),
    (0.5, math.nan, 1.0),
    (math.nan, 1.0, 2.0),
    (1.0, 2.0, math.inf),
    (1.0, math.inf, -math.inf),
    (3.0, 2.0, 1.0),
)


def _ask(learner: Callable) -> list:
    """Call the learner's function once for each row of losses; run by each rank."""
    answers = []
    for row in _LOSSES:
        loss = torch.tensor(row[dist.get_rank()], device=device(), requires_grad=True)
        answer = learner(loss * 1.0)
        answers.append(answer.item() if isinstance(answer, torch.Tensor) else answer)
    return answers


@check
def any_rank_bad(learner: Callable) -> str:
    """Ask three ranks about good and bad losses on different ranks."""
    right = [any(not math.isfinite(value) for value in row) for row in _LOSSES]
    try:
        answers = run_ranks(_ask, learner, world_size=3, timeout=TIME_LIMIT)
    except RankError as error:
        if error.kind == "NotImplementedError":
            raise NotImplementedError from None
        if isinstance(error, RankTimeout) or error.left_alone:
            raise Wrong(
                "ranks_wait",
                "The ranks wait for one another: not all of them make the same calls. Is the collective inside an if?",
            ) from None
        raise
    if any([bool(value) for value in rank] != right for rank in answers):
        _judge_answers([[bool(value) for value in rank] for rank in answers], right)
    return "One bad loss on any rank, NaN or infinite, and all ranks know."


def _judge_answers(answers: list[list[bool]], right: list[bool]) -> None:
    own = [[not math.isfinite(row[rank]) for row in _LOSSES] for rank in range(3)]
    if answers == own:
        raise Wrong("own_loss_only", "Each rank judges its own loss only: a bad one on rank 1 is no news to rank 0.")
    if all(rank == own[0] for rank in answers):
        raise Wrong("rank_0_decides", "All ranks agree, and only the loss of rank 0 counts.")
    if not all(rank == answers[0] for rank in answers):
        raise Wrong(
            "ranks_disagree",
            "The ranks come to different answers, so some will skip the step and some not. Who gets the result of your "
            "collective?",
        )
    if not any(answers[0]):
        raise Wrong("never", "A bad loss was never noticed.")
    if answers[0] == [any(math.isnan(value) for value in row) for row in _LOSSES]:
        raise Wrong("nan_only", "NaN is noticed and infinity is not.")
    if answers[0] == [all(not math.isfinite(value) for value in row) for row in _LOSSES]:
        raise Wrong("all_not_any", "You say True only if all ranks are bad. One is enough.")
    if answers[0][0] or answers[0][-1]:
        raise Wrong("good_accused", "All losses were finite, and you said True.")
    missed = _LOSSES[next(number for number, value in enumerate(right) if answers[0][number] != value)]
    raise Wrong("wrong_answer", f"With the losses {missed} on the three ranks you said False.")
