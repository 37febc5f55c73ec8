"""What a training loop of somebody else does in its first steps: passes, losses, gradients and steps of one model.

    with TrainingWatch(model, optimizer) as watch:
        train(model, optimizer, loader)      # the loop, as it is
    watch.steps[0].rates, watch.passes[-1].training, watch.losses[0].value

It tells which forward passes a step has learned from: those whose gradients were still there when the step came. The
numbers of the training stay the same. What happens outside the steps is in `surroundings`.
"""

import contextlib
import math
from collections.abc import Iterator
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
from torchcourse.lessons.troubleshooting.torch_calls import (
    LOSSES,
    TorchCall,
    TorchCalls,
    readable,
    transforming,
    why_unseen,
)
from torchcourse.lessons.troubleshooting.training_records import Call, Loss, Pass, Step
from torchcourse.lessons.troubleshooting.training_step import (
    gradients_of,
    has_closure,
    norm_of,
    parameters_of,
    state_of_gradient,
    with_gradient,
)
from torchcourse.lessons.troubleshooting.usage import Usage
from torchcourse.lessons.troubleshooting.watcher import Loop, Notes, Watcher
from torchcourse.source_lines import hide

hide(__file__)

ROWS = 4096  # samples whose inputs are kept, at most
_RESULTS = (torch.Tensor, list, tuple)
_SETTING = {"__set__", "__setitem__"}  # which have no result
_DIFFERENCES = {"sub", "__sub__", "rsub", "__rsub__", "subtract"}
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


class TrainingWatch(Loop):
    """Records one model's training while it is entered.

    Args:
        model: as the loop calls it.
        optimizer: the one that steps it. Another one with a parameter of it counts as the same.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        self.called: dict[str, int] = {}
        """How often each layer was called with samples, while autograd was on."""
        self.owned = set(map(id, parameters_of(optimizer)))
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
        self.around = Surroundings(self, self._on_load)
        self.usage, self.chance, self.sequences = Usage(self), Chance(self), SequenceWatch(self)
        self.origins, self.beside, self.answers = Origins(self), Beside(self), Answers(self)
        self.teachers, self.stored = Teachers(self), Stored(self, self.origins.is_drawn)
        self._parts = [part for part in vars(self).values() if isinstance(part, Watcher) and part is not self.around]
        self._outputs = Notes()  # since the last step, and of each the pass that it came from
        self._open = contextlib.ExitStack()
        self._own, self._rows, self._random, self._begun = set(self.owned), 0, 0, 0
        self._entered = self._in_step = False
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
        now = dict(self.model.named_parameters())
        pairs = [(now[name].detach(), start) for name, start in self.start.items() if name in now]
        pairs = [(end.to(start), start) for end, start in pairs if end.shape == start.shape and has_numbers(end)]
        way = math.sqrt(sum((end - start).double().square().sum().item() for end, start in pairs))
        return way / max(math.sqrt(sum(start.double().square().sum().item() for _, start in pairs)), 1e-12)

    def __enter__(self) -> "TrainingWatch":
        self.start = {name: p.detach().clone() for name, p in self.model.named_parameters() if has_numbers(p)}
        self.start_buffers = {name: b.detach().clone() for name, b in self.model.named_buffers() if has_numbers(b)}
        self.start_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        handles: list[Any] = [register_optimizer_step_pre_hook(self._before_step)]
        handles.append(register_optimizer_step_post_hook(self._after_step))
        compiled = hasattr(self.model, "_orig_mod")  # its parts run without their hooks
        modules = [("", self.model)] if compiled else self.model.named_modules()
        for name, module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(OwnHook(self._on_call), with_kwargs=True))
                hook = OwnHook(partial(self._on_return, name))
                handles.append(module.register_forward_hook(hook, with_kwargs=True, always_call=True))
        for handle in handles:
            self._open.callback(handle.remove)
        self._open.enter_context(TorchCalls(self))
        for part in (self.around, *self._parts):
            self._open.enter_context(part)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    # Calls of the model

    def _on_load(self) -> None:
        self.reloaded.add(self.step)
        with torch._C.DisableTorchFunction():  # it is no call of the loop
            self._begun += self.moved() == 0

    def _on_call(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.depth += 1
        self.unseen = self.unseen or why_unseen()
        if self.in_backward or transforming():  # a checkpointed part is computed once more
            return
        if self.depth == 1:
            self._entered, self._entry = False, None
            for part in self._parts:
                part.on_pass((args, kwargs))
            self._random = random_state(self.model)
        if not self._entered and has_weights(module):
            self._entered = True
            first = first_tensor(args, kwargs)
            if first is not None and first.is_floating_point() and first.numel() > 1 and has_numbers(first):
                flat = first.detach().double()
                bits = bool(((flat == 0) | (flat == 1)).all())
                self._entry = None if bits else (flat.mean().item(), flat.std().item())

    def _on_return(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.depth -= 1
        if self.in_backward or transforming() or output is None:  # always called: without an output after an error
            return
        first = first_tensor(args, kwargs)
        if torch.is_grad_enabled() and (first is None or first.numel()):
            self.called[name] = self.called.get(name, 0) + 1
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self.sequences.on_recurrence(name, module, args, output)
        if self.depth == 0:
            self._on_pass(first, output, (args, kwargs), whole=module is self.model)

    def _on_pass(self, first: torch.Tensor | None, output: Any, arguments: tuple[tuple, dict], whole: bool) -> None:
        out = list(tensors_of(output))
        with_graph = [tensor for tensor in out if tensor.requires_grad]
        samples = 0 if first is None else len(first)
        kept = first if first is not None and samples and self._rows < ROWS and can_be_kept(first) else None
        self._rows += 0 if kept is None else samples
        readable = isinstance(output, torch.Tensor) and output.dim() > 0 and can_be_kept(output)
        seen = Pass(
            training=self.model.training,
            recorded=torch.is_grad_enabled() and (bool(with_graph) or not out),
            samples=samples,
            step=self.step,
            inputs=None if kept is None else kept.detach().cpu().clone(),
            output=output.detach().cpu() if readable else None,
            random_state=self._random,
            cumulative=any(getattr(m, "momentum", 0) is None and m.training for m in self.model.modules()),
            entry=self._entry,
            call=None if kept is None else Call.of(*arguments, kept),
            whole=whole,
            for_inputs=whole and first is not None and first.requires_grad,
            begun=self._begun,
        )
        for tensor in with_graph:
            tensor.register_hook(partial(self._on_flow, seen))
            self._outputs[tensor] = seen
        self.passes.append(seen)

    def _on_flow(self, seen: Pass, _gradient: torch.Tensor) -> None:
        if self.in_backward and all(seen is not other for other in self._since.passes):
            self._since.passes.append(seen)

    # Calls of torch, told by TorchCalls

    def on_call(self, call: TorchCall) -> None:
        """Note a call that is over: what the parts want to know, losses, differences, and gradients made smaller."""
        name, out = call.name, call.out
        if self.around.states:
            self.around.on_call(call)
        if self._in_step:
            return
        if isinstance(out, _RESULTS) or name in _SETTING:
            for part in self._parts:
                part.on_call(call)
        if call.drops:
            self.dropped.add(self.model.training)
        if call.function in LOSSES and isinstance(out, torch.Tensor) and out.requires_grad and readable(out):
            self._on_loss(call)
        if name in _DIFFERENCES:
            sides = [side for side in call.args[:2] if isinstance(side, torch.Tensor)]
            if len(sides) == 2:
                self._on_difference(*sides)
        if name in _SHRINKING:
            first = call.first
            first = first[0] if isinstance(first, list | tuple) and first else first
            if any(first is gradient for gradient in gradients_of(self.optimizer)):
                self.shrunk_in_time += bool(self._since.backwards)
                self.shrunk_late += bool(self.steps and not self._since.backwards)

    def _on_loss(self, call: TorchCall) -> None:
        scores, target, reduction = call.first, call.get(1, "target"), call.kwargs.get("reduction", "mean")
        last = self.passes[-1] if self.passes else None
        for part in self._parts:
            part.on_target(target)
        self.chance.on_losses(call.out, len(scores) if scores.dim() else 0, reduction)
        seen = self._outputs.of(scores)
        if seen is not None and has_numbers(target) and target.numel() > 1:
            seen.answered = seen.answered or bool((target != target.flatten()[0]).any())
        weight = call.kwargs.get("weight") if call.kwargs.get("pos_weight") is None else call.kwargs["pos_weight"]
        self.losses.append(
            Loss(
                function=call.function,
                scores=scores.detach().cpu().clone(),
                target=target.detach().cpu().clone(),
                value=call.out.detach().float().mean().item(),
                reduction=reduction,
                ignored=call.kwargs.get("ignore_index", -100),
                seen=last if last is not None and target.dim() and last.samples == len(target) else None,
                step=self.step,
                maker=maker(scores),
                directions=from_directions(scores),
                bootstrapped=scores.requires_grad and bootstrapped(target) and not bootstrapped(scores),
                weight=None if weight is None else weight.detach().cpu().clone(),
            )
        )

    def _on_difference(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Note an output [N, 1] and targets [N], or the reverse, whose difference is [N, N]."""
        output = self.passes[-1].output if self.passes else None
        for scores, target in ((one, other), (other, one)):
            of_model = output is not None and scores.numel() == len(output) and scores.requires_grad
            of_model = of_model or scores in self._outputs  # one of several
            crossed = {scores.dim(), target.dim()} == {1, 2} and scores.shape[1:] in ((), (1,))
            column = crossed and target.shape[1:] in ((), (1,)) and len(target) == len(scores) > 1
            if of_model and column and not target.requires_grad:
                self.broadcast = list(scores.shape), list(target.shape)

    @contextlib.contextmanager
    def on_backward(self, roots: list[torch.Tensor]) -> Iterator[None]:
        """Note a backward pass from these, which is about to begin."""
        since, self.backward_seen = self._since, True
        there = with_gradient(self.optimizer)
        before = {key: state_of_gradient(p) for key, p in there.items()}
        since.kept = set(there) if since.kept is None else since.kept & set(there)
        if not there:
            if since.backwards and since.before_unscaling is None:  # a scaler skips steps that overflow
                since.cleared.append((since.versions, tuple(since.passes)))
            since.backwards, since.passes = [], []
        self.in_backward = True
        try:
            yield
        finally:
            self.in_backward = False
        since.added |= {key for key, p in there.items() if state_of_gradient(p) != before[key]}
        value = sum(root.detach().double().sum().item() for root in roots)
        since.backwards.append(value)
        since.made = norm_of(self.optimizer)
        self.beside.on_backward(bool(there), roots)
        since.versions = self._versions()
        since.before_unscaling = None
        last = self.losses[-1].value if self.losses else 0.0
        since.scale = value / last if last else 0.0

    def on_unscale(self) -> None:
        self._since.before_unscaling = norm_of(self.optimizer)

    def _versions(self) -> int:
        """Return a number that grows when a weight is written to."""
        return sum(parameter._version for parameter in self.model.parameters())

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
        ids = set(map(id, parameters_of(optimizer)))
        self.owned |= ids
        self.stepping |= {id(group) for group in optimizer.param_groups}
        if optimizer is not self.optimizer and not ids & self._own:
            self.others += 1
            self.beside.on_other_step(optimizer, bool(self._since.backwards))
            return
        for part in (self.around, *self._parts):
            part.on_step()
        self._outputs.clear()
        since, self._since = self._since, _Since()
        learning = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
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
