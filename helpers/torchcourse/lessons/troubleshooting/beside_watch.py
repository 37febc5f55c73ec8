"""What stands beside the model: an average of its weights, a replica, an adversary, a loss that learns."""

import math
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import Optimizer

from torchcourse.lessons.troubleshooting.autograd_graph import end_of_graph, nodes
from torchcourse.lessons.troubleshooting.makers import PRODUCTS, near
from torchcourse.lessons.troubleshooting.model_calls import is_plain
from torchcourse.lessons.troubleshooting.tensor_parts import share_memory
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.training_step import gradient_vector, numbers_of, parameters_of
from torchcourse.lessons.troubleshooting.watcher import Loop, Watcher
from torchcourse.source_lines import hide

hide(__file__)

_SIZES = range(8, 100_000)  # numbers of a weight that is compared with its average
_MAKING = {"add", "__add__", "lerp"}
_UPDATES = _MAKING | {"add_", "__iadd__", "lerp_", "copy_", "__set__", "_foreach_add_", "_foreach_lerp_"}
ROUNDING = 1e-6  # of a weight's size
_COPIES = {"clone", "__deepcopy__"}
AVERAGES_AT_MOST = 8  # of one shape, that are kept of a step
LOOKS = 3  # backward passes whose graph is looked through
NEAR_A_LOSS = 200  # nodes behind a loss, before the layers of a model
OF_A_LOSS = 16  # numbers of a parameter that weighs or scales losses, at most
SAME_MODEL = 2  # parameters, at least, for two models to be replicas


class Beside(Watcher):
    """Notes what other weights have to do with those of the model. It is told of steps of other optimizers too."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.left: dict[int, float] = {}
        """By step, how far an average of a weight was from it, as a share of what the weight had moved since."""
        self.against: list[float] = []
        """The cosine between a gradient that was kept while a different optimizer stepped and what was added then."""
        self.twins: dict[int, int] = {}
        """By id of a different optimizer, how often it stepped with the very gradients that this model has."""
        self.summed = 0
        """In how many steps the gradient was the sum of what the replicas' losses had given each of them."""
        self.averaged: set[int] = set()
        """After how many steps an average of a weight was updated."""
        self.overwritten: set[int] = set()
        """Before which steps a weight was its average, while the one that had been trained was kept."""
        own = filter(is_plain, loop.model.parameters())
        self._shapes = {parameter.shape for parameter in own if parameter.numel() in _SIZES}
        self._partner: torch.Tensor | None = None
        self._before = self._last = torch.zeros(0)
        self._at = self._kept_at = -1
        self._averages: list[torch.Tensor] = []
        self._memory: StorageWeakRef | None = None
        self._of_losses: dict[int, tuple[nn.Parameter, torch.Tensor]] = {}
        self._of_others: set[int] = set()
        self._pulled: dict[int, int] = {}
        self._looks = 0
        self._carried: torch.Tensor | None = None
        self._local: torch.Tensor | None = None
        self._replicas: dict[int, list[weakref.ref[torch.Tensor]]] = {}
        self._far: dict[int, float] = {}

    def on_step(self) -> None:
        """Look at the gradient that a step uses, and forget those before."""
        if self._local is not None:
            self.summed += int(torch.allclose(gradient_vector(self.loop.optimizer), self._local, rtol=1e-3, atol=0))
        self._carried = self._local = None
        for key, (parameter, _) in self._of_losses.items():
            pulled = parameter.grad is not None and bool(numbers_of(parameter.grad).count_nonzero())
            self._pulled[key] = self._pulled.get(key, 0) + pulled
        if self._partner is not None and self._at == self.loop.step and self._is_overwritten(self._partner.detach()):
            self.overwritten.add(self._at)

    def on_backward(self, kept: bool, roots: list[torch.Tensor]) -> None:
        """Note that a backward pass is over.

        Args:
            kept: whether there was a gradient before it.
            roots: what `backward()` was called on.
        """
        if self._carried is not None and kept:
            now = gradient_vector(self.loop.optimizer)
            if now.shape == self._carried.shape:
                added = now - self._carried
                self.against.append(torch.nn.functional.cosine_similarity(added, self._carried, dim=0).item())
        self._carried = None
        if self._looks < LOOKS:
            self._looks += 1
            self._look_through(roots)
        if self._replicas:
            self._measure()
            self._local = self._sum_of_replicas()

    def on_other_step(self, optimizer: Optimizer, reached: bool) -> None:
        """Note that an optimizer without a parameter of the model is about to step.

        Args:
            optimizer: the other one.
            reached: whether a backward pass has been called since the last step of the model's own.
        """
        gradient = gradient_vector(self.loop.optimizer)
        self._carried = gradient if reached and gradient.count_nonzero() else None
        own, others = parameters_of(self.loop.optimizer), parameters_of(optimizer)
        if len(own) < SAME_MODEL or [p.shape for p in own] != [p.shape for p in others]:
            return
        pairs = [(p.grad, q.grad) for p, q in zip(own, others, strict=True)]
        same = all(a is not None and b is not None and a.dtype == b.dtype and a.equal(b) for a, b in pairs)
        if same and any(a is not None and a.count_nonzero() for a, _ in pairs):
            self.twins[id(optimizer)] = self.twins.get(id(optimizer), 0) + 1
            self._replicas[id(optimizer)] = [weakref.ref(q) for q in others]

    def apart(self) -> tuple[int, float]:
        """Return in how many steps a replica had the same gradients, and how far its weights were from the model's."""
        return max(((self.twins[key], far) for key, far in self._far.items()), key=lambda one: one[1], default=(0, 0.0))

    def _measure(self) -> None:
        """Note how far the replicas are; when gradients are made, all have stepped equally often."""
        own = parameters_of(self.loop.optimizer)
        for key, replica in self._replicas.items():
            pairs = [
                (p.detach(), q.detach()) for p, kept in zip(own, replica, strict=True) if (q := kept()) is not None
            ]
            if len(pairs) == len(own):
                far = sum((p - q).square().sum().item() for p, q in pairs)
                self._far[key] = math.sqrt(far / max(sum(p.square().sum().item() for p, _ in pairs), 1e-12))

    def on_call(self, call: TorchCall) -> None:
        """Note what may be an average of weights, or a copy of one."""
        name, args, out = call.name, call.args, call.out
        if name in _COPIES and self._partner is not None and share_memory(call.first, self._partner):
            self._kept_at = self.loop.step
        if name not in _UPDATES or not args:
            return
        written = out if name in _MAKING else args[0]
        one, other = (part[0] if isinstance(part, list | tuple) and part else part for part in (written, *args[1:2]))
        if not is_plain(one) or not is_plain(other) or one.shape not in self._shapes or one.grad_fn is not None:
            return
        set_data = name != "__set__" or _place(one) == _place(other)
        if set_data and self._is_beside(one, args if name in _MAKING else ()):
            self._on_update(one.detach())

    def _is_beside(self, average: torch.Tensor, operands: tuple) -> bool:
        """Whether this is no parameter of the model, no gradient, and no parameter to which something was added."""
        kind = average.shape, average.dtype, average.device
        own = [p for p in self.loop.model.parameters() if is_plain(p) and (p.shape, p.dtype, p.device) == kind]
        places = {_place(part) for p in own for part in (p, p.grad) if part is not None}
        taken = {_place(part) for part in (average, *operands) if isinstance(part, torch.Tensor)}
        if not own or places & taken:
            return False
        if self._partner is None:
            near = min(own, key=lambda p: (p.detach() - average).square().sum().item())
            self._partner = near
            self._before = self._last = near.detach().clone()
        return average.shape == self._partner.shape and average.device == self._partner.device

    def _on_update(self, average: torch.Tensor) -> None:
        assert self._partner is not None
        weight, step = self._partner.detach(), self.loop.step
        if step != self._at:
            self._before, self._last, self._at = self._last, weight.clone(), step
            self._averages, self._memory = [], StorageWeakRef(weight.untyped_storage())
        if len(self._averages) < AVERAGES_AT_MOST:
            self._averages.append(average.clone())
        self.averaged.add(step)
        way, moved = (average - weight).norm().item(), (self._last - self._before).norm().item()
        if moved > 0 and way > ROUNDING * weight.norm().item():  # a plain copy is no average
            self.left[step] = min(self.left.get(step, math.inf), way / moved)

    def _is_overwritten(self, weight: torch.Tensor) -> bool:
        """Whether the weight has become its average since that was updated, and what it was before is still kept."""
        if torch.equal(weight, self._last) or not any(torch.equal(weight, one) for one in self._averages):
            return False
        moved = self._memory is not None and self._memory.cdata != StorageWeakRef(weight.untyped_storage()).cdata
        return self._kept_at == self._at or (moved and self._memory is not None and not self._memory.expired())

    def loose(self, owned: set[int]) -> list[tuple[list[int], int]]:
        """Return the shapes of parameters of a loss that nothing has changed, and in how many steps they had gradients.

        Empty where gradients reach a parameter of a different kind that no optimizer has: then a model stands there
        that is not to learn.

        Args:
            owned: the ids of the parameters of all optimizers.
        """
        if self._of_others - owned:
            return []
        kept = [(p, self._pulled.get(key, 0)) for key, (p, was) in self._of_losses.items() if torch.equal(p, was)]
        return [(list(p.shape), steps) for p, steps in kept if steps and id(p) not in owned]

    def _look_through(self, roots: list[torch.Tensor]) -> None:
        """Note the parameters behind a loss that are not the model's, and which of them are part of the loss itself."""
        own = {id(p) for p in self.loop.model.parameters()}
        ends = [end_of_graph(root) for root in roots]
        near_it = {id(leaf) for leaf in _leaves(near(*ends, stops=_of_a_layer, at_most=NEAR_A_LOSS))}
        for leaf in _leaves(nodes(*ends)):
            if not isinstance(leaf, nn.Parameter) or id(leaf) in own or id(leaf) in self._of_losses:
                continue
            plain = type(leaf) is nn.Parameter and leaf.layout == torch.strided and not leaf.is_meta
            if id(leaf) in near_it and plain and leaf.numel() <= OF_A_LOSS:
                self._of_losses[id(leaf)] = leaf, leaf.detach().clone()
            else:
                self._of_others.add(id(leaf))

    def _sum_of_replicas(self) -> torch.Tensor | None:
        """Return the sum of the model's gradient and those of its replicas; None where a parameter has none."""
        replicas = [[q for kept in replica if (q := kept()) is not None] for replica in self._replicas.values()]
        own = parameters_of(self.loop.optimizer)
        gradients = [[p.grad for p in one if p.grad is not None] for one in (own, *replicas)]
        if any(len(found) != len(own) for found in gradients):
            return None
        return torch.stack([torch.cat([grad.to_dense().flatten() for grad in found]) for found in gradients]).sum(0)


def _leaves(graph: Iterable[Any]) -> Iterator[torch.Tensor]:
    return (node.variable for node in graph if hasattr(node, "variable"))


def _of_a_layer(name: str) -> bool:
    """Whether an operation is the product or the norm of a layer, by its name."""
    return name in PRODUCTS or "Norm" in name or "Embedding" in name


def _place(tensor: torch.Tensor) -> int:
    """Return where a tensor's numbers are; what is sparse has no place of its own, and is known by itself."""
    return tensor.data_ptr() if tensor.layout == torch.strided else id(tensor)
