"""What a training loop of somebody else does in its first steps: passes, losses, gradients and steps of one model.

    with TrainingWatch(model, optimizer) as watch:
        train(model, optimizer, loader)      # the loop, as it is
    watch.steps[0].rates, watch.passes[-1].training, watch.losses[0].value

It tells which forward passes a step has learned from: those whose gradients were still there when the step came. The
numbers of the training stay the same. What happens outside the steps is in `surroundings`.
"""

import contextlib
import math
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torchcourse.lessons.troubleshooting.answers_watch import Answers
from torchcourse.lessons.troubleshooting.beside_watch import Beside
from torchcourse.lessons.troubleshooting.chance_watch import Chance
from torchcourse.lessons.troubleshooting.makers import bootstrapped, from_directions, maker
from torchcourse.lessons.troubleshooting.model_calls import (
    can_be_kept,
    first_tensor,
    has_numbers,
    has_weights,
    random_state,
    tensors_of,
)
from torchcourse.lessons.troubleshooting.own_hooks import OwnHook
from torchcourse.lessons.troubleshooting.sequence_watch import SequenceWatch
from torchcourse.lessons.troubleshooting.stored_watch import Stored
from torchcourse.lessons.troubleshooting.surroundings import Surroundings
from torchcourse.lessons.troubleshooting.target_watch import Origins
from torchcourse.lessons.troubleshooting.teacher_watch import Teachers
from torchcourse.lessons.troubleshooting.torch_calls import TorchCalls, transforming, why_unseen
from torchcourse.lessons.troubleshooting.training_records import Call, Loss, Pass, Step
from torchcourse.lessons.troubleshooting.training_step import (
    gradients_of,
    has_closure,
    norm_of,
    state_of_gradient,
    with_gradient,
)
from torchcourse.lessons.troubleshooting.usage import Usage
from torchcourse.source_lines import hide

hide(__file__)

ROWS = 4096  # samples whose inputs are kept, at most
_RESULTS = (torch.Tensor, list, tuple)
_SHRINKING = {"mul_", "_foreach_mul_", "clamp_", "_foreach_clamp_min_", "_foreach_clamp_max_"}


@dataclass
class _Since:
    """What has happened since the last step."""

    backwards: list[float] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    cleared: list[tuple[int, tuple[Pass, ...]]] = field(default_factory=list)
    kept: set[int] | None = None
    """The ids of the parameters that had a gradient before each backward pass; None before the first one."""
    added: set[int] = field(default_factory=set)
    """The ids of those to whose gradient a backward pass has added."""
    made: float = 0.0
    versions: int = 0
    before_unscaling: float | None = None
    scale: float = 0.0


class TrainingWatch:
    """Records one model's training while it is entered.

    Args:
        model: as the loop calls it.
        optimizer: the one that steps it. Another one with a parameter of it counts as the same.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.passes: list[Pass] = []
        self.losses: list[Loss] = []
        self.steps: list[Step] = []
        self.called: dict[str, int] = {}
        """How often each layer was called with samples, while autograd was on."""
        self.owned: set[int] = {id(p) for group in optimizer.param_groups for p in group["params"]}
        """The ids of the parameters of each optimizer that has stepped, and of this one."""
        self.stepping: set[int] = set()
        """The ids of the parameter groups of each optimizer that has stepped."""
        self.unseen = ""
        """Why nothing is recorded of some calls of the model (`why_unseen`)."""
        self.others = 0
        """Steps of optimizers that share no parameter with this one."""
        self.backward_seen = False
        self.dropped: set[bool] = set()
        """The modes of the model in which a dropout function has dropped."""
        self.broadcast: tuple[list[int], list[int]] | None = None
        """The shapes of an output and a target whose difference was taken for each pair of samples."""
        self.shrunk_in_time = self.shrunk_late = 0
        """How often gradients were made smaller between backward() and step(), and after it."""
        self.pulled: dict[str, torch.Tensor] = {}
        """Of each parameter in 16 bits, in how many steps its numbers had a gradient."""
        self.reloaded: set[int] = set()
        """After how many steps the model was given a state."""
        self.start: dict[str, torch.Tensor] = {}
        self.start_buffers: dict[str, torch.Tensor] = {}
        self.start_rates: list[float] = []
        self.around = Surroundings(model, lambda: len(self.steps), self._on_load)
        told = (lambda: len(self.steps)), self._inside
        self.usage, self.chance, self.sequences = Usage(model, *told), Chance(*told), SequenceWatch(*told, self.passes)
        self.origins, self.beside = Origins(*told), Beside(model, optimizer, told[0])
        self.answers, self.teachers = Answers(self.passes, self._inside), Teachers(model, *told)
        self.stored = Stored(*told, self.origins.is_drawn)
        self._model, self._optimizer = model, optimizer
        self._outputs: list[tuple[weakref.ref[torch.Tensor], Pass]] = []  # since the last step
        self._open = contextlib.ExitStack()
        self._own, self._depth, self._rows, self._random, self._begun = set(self.owned), 0, 0, 0, 0
        self._in_backward = self._entered = self._in_step = False
        self._entry: tuple[float, float] | None = None
        self._since = _Since()

    @property
    def trained(self) -> list[Pass]:
        """The passes that steps have learned from; those with a graph, where `backward()` is not called."""
        if not self.backward_seen:
            return [seen for seen in self.passes if seen.recorded]
        return [seen for seen in self.passes if seen.used]

    @property
    def evaluated(self) -> list[Pass]:
        """The passes without a graph, and those in evaluation mode that nothing was learned from."""
        return [p for p in self.passes if not p.recorded or (not p.training and not p.used and self.backward_seen)]

    def moved(self) -> float:
        """Return how far the weights have come, as a share of their length."""
        now = dict(self._model.named_parameters())
        pairs = [(now[name].detach(), start) for name, start in self.start.items() if name in now]
        pairs = [(end.to(start), start) for end, start in pairs if end.shape == start.shape and has_numbers(end)]
        way = math.sqrt(sum((end - start).double().square().sum().item() for end, start in pairs))
        return way / max(math.sqrt(sum(start.double().square().sum().item() for _, start in pairs)), 1e-12)

    def __enter__(self) -> "TrainingWatch":
        self.start = {name: p.detach().clone() for name, p in self._model.named_parameters() if has_numbers(p)}
        self.start_buffers = {name: b.detach().clone() for name, b in self._model.named_buffers() if has_numbers(b)}
        self.start_rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        handles: list[Any] = [register_optimizer_step_pre_hook(self._before_step)]
        handles.append(register_optimizer_step_post_hook(self._after_step))
        compiled = hasattr(self._model, "_orig_mod")  # its parts run without their hooks
        modules = [("", self._model)] if compiled else self._model.named_modules()
        for name, module in ((n, m) for n, m in modules if not isinstance(m, torch.jit.ScriptModule)):
            handles.append(module.register_forward_pre_hook(OwnHook(self._on_call), with_kwargs=True))
            hook = OwnHook(partial(self._on_return, name))
            handles.append(module.register_forward_hook(hook, with_kwargs=True, always_call=True))
        for handle in handles:
            self._open.callback(handle.remove)
        self._open.enter_context(TorchCalls(self))
        self._open.enter_context(self.around)
        self._open.enter_context(self.usage)
        self._open.enter_context(self.chance)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    # Calls of the model

    def _on_load(self) -> None:
        self.reloaded.add(len(self.steps))
        with torch._C.DisableTorchFunction():  # it is no call of the loop
            self._begun += self.moved() == 0

    def _inside(self) -> bool:
        return self._depth > 0 and not self._in_backward

    def _on_call(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._depth += 1
        self.unseen = self.unseen or why_unseen()
        if self._in_backward or transforming():  # a checkpointed part is computed once more
            return
        if self._depth == 1:
            self._entered, self._entry = False, None
            self.origins.on_pass((args, kwargs))
            self.stored.on_pass((args, kwargs))
            self._random = random_state(self._model)
        if not self._entered and has_weights(module):
            self._entered = True
            first = first_tensor(args, kwargs)
            if first is not None and first.is_floating_point() and first.numel() > 1 and has_numbers(first):
                flat = first.detach().double()
                bits = bool(((flat == 0) | (flat == 1)).all())
                self._entry = None if bits else (flat.mean().item(), flat.std().item())

    def _on_return(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self._depth -= 1
        if self._in_backward or transforming() or output is None:  # always called: without an output after an error
            return
        first = first_tensor(args, kwargs)
        if torch.is_grad_enabled() and (first is None or first.numel()):
            self.called[name] = self.called.get(name, 0) + 1
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self.sequences.on_recurrence(name, module, args, output)
        if self._depth == 0:
            self._on_pass(first, output, (args, kwargs), whole=module is self._model)

    def _on_pass(self, first: torch.Tensor | None, output: Any, arguments: tuple[tuple, dict], whole: bool) -> None:
        out = list(tensors_of(output))
        with_graph = [tensor for tensor in out if tensor.requires_grad]
        samples = len(first) if first is not None and first.dim() else 0
        keep = first is not None and samples > 0 and self._rows < ROWS and can_be_kept(first)
        self._rows += samples if keep else 0
        readable = isinstance(output, torch.Tensor) and output.dim() > 0 and can_be_kept(output)
        norms = [m for m in self._model.modules() if getattr(m, "momentum", 0) is None and m.training]
        seen = Pass(
            training=self._model.training,
            recorded=torch.is_grad_enabled() and (bool(with_graph) or not out),
            samples=samples,
            step=len(self.steps),
            inputs=first.detach().cpu().clone() if keep and first is not None else None,
            output=output.detach().cpu() if readable else None,
            random_state=self._random,
            cumulative=bool(norms),
            entry=self._entry,
            call=Call.of(*arguments, first) if keep and first is not None else None,
            whole=whole,
            for_inputs=whole and first is not None and first.requires_grad,
            begun=self._begun,
        )
        for tensor in with_graph:
            tensor.register_hook(partial(self._on_flow, seen))
            self._outputs.append((weakref.ref(tensor), seen))
        self.passes.append(seen)

    def _on_flow(self, seen: Pass, _gradient: torch.Tensor) -> None:
        if self._in_backward and all(seen is not other for other in self._since.passes):
            self._since.passes.append(seen)

    # Calls of torch, told by TorchCalls

    def on_loss(self, function: Any, scores: torch.Tensor, target: torch.Tensor, out: torch.Tensor, how: dict) -> None:
        last = self.passes[-1] if self.passes else None
        self.origins.on_target(target)
        self.teachers.on_target(target)
        self.chance.on_losses(out, len(scores) if scores.dim() else 0, how.get("reduction", "mean"))
        answers = has_numbers(target) and target.numel() > 1 and bool((target != target.flatten()[0]).any())
        for kept, seen in self._outputs:
            seen.answered = seen.answered or (answers and kept() is scores)
        self.losses.append(
            Loss(
                function,
                scores.detach().cpu().clone(),
                target.detach().cpu().clone(),
                out.detach().float().mean().item(),
                how.get("reduction", "mean"),
                how.get("ignore_index", -100),
                last if last is not None and target.dim() and last.samples == len(target) else None,
                len(self.steps),
                maker(scores),
                from_directions(scores),
                scores.requires_grad and bootstrapped(target) and not bootstrapped(scores),
                _weight(how),
            )
        )

    def on_call(self, name: str, args: tuple, kwargs: dict, out: Any) -> None:
        if self.around.states:
            self.around.on_call(name, args, out)
        if not self._in_step and (isinstance(out, _RESULTS) or name == "__set__"):
            self.usage.on_call(name, args, kwargs, out)
            self.chance.on_call(name, args, out)
            for part in (self.sequences, self.origins, self.beside, self.answers, self.stored, self.teachers):
                part.on_call(name, args, kwargs, out)
        elif not self._in_step and name == "__setitem__":
            self.stored.on_call(name, args, kwargs, out)
        if name not in _SHRINKING or self._in_step:
            return
        first = args[0] if args else None
        first = first[0] if isinstance(first, list | tuple) and first else first
        if any(first is g for g in gradients_of(self._optimizer)):
            if self._since.backwards:
                self.shrunk_in_time += 1
            elif self.steps:
                self.shrunk_late += 1

    def on_dropout(self) -> None:
        self.dropped.add(self._model.training)

    def on_difference(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Note an output [N, 1] and targets [N], or the reverse, whose difference is [N, N]."""
        output = self.passes[-1].output if self.passes else None
        for scores, target in ((one, other), (other, one)):
            of_model = output is not None and scores.numel() == len(output) and scores.requires_grad
            of_model = of_model or any(kept() is scores for kept, _ in self._outputs)  # one of several
            crossed = {scores.dim(), target.dim()} == {1, 2} and scores.shape[1:] in ((), (1,))
            column = crossed and target.shape[1:] in ((), (1,)) and len(target) == len(scores) > 1
            if of_model and column and not target.requires_grad:
                self.broadcast = list(scores.shape), list(target.shape)

    @contextlib.contextmanager
    def on_backward(self, roots: Iterable[torch.Tensor]) -> Iterator[None]:
        since, self.backward_seen = self._since, True
        roots = list(roots)
        there = with_gradient(self._optimizer)
        before = {key: state_of_gradient(p) for key, p in there.items()}
        since.kept = set(there) if since.kept is None else since.kept & set(there)
        if not there:
            if since.backwards and since.before_unscaling is None:  # a scaler skips steps that overflow
                since.cleared.append((since.versions, tuple(since.passes)))
            since.backwards, since.passes = [], []
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = False
        since.added |= {
            key for key, p in there.items() if p.grad is None or (id(p.grad), p.grad._version) != before[key]
        }
        value = sum(root.detach().double().sum().item() for root in roots)
        since.backwards.append(value)
        since.made = norm_of(self._optimizer)
        self.beside.on_backward(bool(there), roots)
        since.versions = self._versions()
        since.before_unscaling = None
        last = self.losses[-1].value if self.losses else 0.0
        since.scale = value / last if last else 0.0

    def on_unscale(self) -> None:
        self._since.before_unscaling = norm_of(self._optimizer)

    def _versions(self) -> int:
        """Return a number that grows when a weight is written to."""
        return sum(parameter._version for parameter in self._model.parameters())

    # Steps

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if not has_closure(args, kwargs):
            self._in_step = True  # what follows is no call of the loop
            self._on_step(optimizer, closure=False)

    def _after_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        self._in_step = False
        if has_closure(args, kwargs):  # its gradient was made inside the step
            self._on_step(optimizer, closure=True)

    def _on_step(self, optimizer: Optimizer, closure: bool) -> None:
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self.owned |= ids
        self.stepping |= {id(group) for group in optimizer.param_groups}
        if optimizer is not self._optimizer and not ids & self._own:
            self.others += 1
            self.beside.on_other_step(optimizer, bool(self._since.backwards))
            return
        self.around.on_step()
        for part in (self.usage, self.chance, self.sequences, self.origins, self.beside, self.stored, self.teachers):
            part.on_step()
        self._outputs.clear()
        since, self._since = self._since, _Since()
        learning = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        for seen in since.passes:
            seen.used = True
        for name, p in learning:
            if p.dtype in (torch.float16, torch.bfloat16) and p.grad is not None and not p.grad.is_sparse:
                self.pulled[name] = self.pulled.get(name, 0) + (p.grad != 0).cpu().int()
        self.steps.append(
            Step(
                rates=tuple(float(group["lr"]) for group in optimizer.param_groups),
                norms={name: None if p.grad is None else p.grad.norm().item() for name, p in learning},
                backwards=tuple(since.backwards),
                passes=tuple(since.passes),
                lost=tuple(passes for versions, passes in since.cleared if versions == since.versions),
                stale=bool(since.kept and since.kept & since.added & ids),
                made=since.made,
                norm=norm_of(optimizer),
                before_unscaling=since.before_unscaling,
                scale=since.scale,
                closure=closure,
                optimizer=optimizer,
            )
        )


def _weight(how: dict) -> torch.Tensor | None:
    given = how.get("weight") if how.get("pos_weight") is None else how["pos_weight"]
    return None if given is None else given.detach().cpu().clone()
