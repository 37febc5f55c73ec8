"""What a loop compares a model's answers with when it counts the right ones, or measures how far off they are.

A comparison counts if one side is the answers of the last forward passes: the
classes with the largest scores, or, with one score per sample, those above 0 or a half. Of outputs as they are, it is
noted at which number they were cut, and what they were subtracted from.
"""

import weakref
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.model_calls import is_plain
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.training_records import Pass
from torchcourse.lessons.troubleshooting.watcher import Loop, Watcher
from torchcourse.source_lines import hide

hide(__file__)

_EQUALITIES = {"eq", "__eq__"}
_CUTS = {"gt", "__gt__", "ge", "__ge__", "greater", "greater_equal"}
_CUTS |= {"lt", "__lt__", "le", "__le__", "less", "less_equal"}
_DIFFERENCES, _SIZES = {"sub", "__sub__", "subtract"}, {"abs", "square", "pow", "__pow__"}
_CHOICES = {"argmax", "max"}
_MEASURES = {"l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"}
COMPARED_AT_MOST = 100  # times


class Answers(Watcher):
    """Notes what the answers of a model are compared with."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.validated: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Answers and labels [N], of passes without a graph."""
        self.crossed: list[tuple[list[int], list[int]]] = []
        """The shapes of answers and labels that were compared each with every other."""
        self.cut: list[tuple[float, bool]] = []
        """The numbers at which outputs without a graph were cut, and whether all outputs lay between 0 and 1."""
        self.measured: list[tuple[torch.Tensor, Pass]] = []
        """What outputs without a graph were compared with as numbers, and the last pass that they came from."""
        self.chosen_of_one = 0
        """How often the class with the largest of one score was chosen."""
        self.chosen_of_batch = 0
        """How often a sample was chosen for each class, and the numbers of these samples compared as answers."""
        self._chosen: tuple[Any, bool] = object(), False
        self._difference: tuple[weakref.ref[torch.Tensor], tuple[torch.Tensor, Pass]] | None = None

    def on_call(self, call: TorchCall) -> None:
        """Note a comparison, a cut or a difference, and a choice that may be compared."""
        name, args = call.name, call.args
        if len(args) > 1 and name in _CUTS:
            self._on_cut(*args[:2])
        elif args and name == "round" and not call.kwargs:
            self._on_cut(args[0], 0.5)
        elif len(args) > 1 and name in _DIFFERENCES | _MEASURES:
            measured = self._compared(*args[:2])
            if measured is not None and name in _MEASURES:
                self.measured.append(measured)
            elif measured is not None:
                self._difference = weakref.ref(call.out), measured
        elif args and name in _CHOICES:
            self._on_choice(call)
        elif args and name in _SIZES and self._difference is not None and self._difference[0]() is args[0]:
            self.measured.append(self._difference[1])
        loss = name == "cross_entropy" and not torch.is_grad_enabled()
        if not (loss or name in _EQUALITIES) or len(args) < 2 or self.loop.inside:
            return
        one, other = args[:2]
        if self._chosen[0] is one or self._chosen[0] is other:
            self.chosen_of_batch += self._chosen[1]
            self.chosen_of_one += not self._chosen[1]
        if not _readable(one) or not _readable(other):
            return
        one = one.argmax(dim=1) if loss and one.dim() == 2 and other.dim() == 1 else one
        output, recorded = self._output(max(one.numel(), other.numel()))
        if output is None or one.numel() != other.numel() or len(self.validated) >= COMPARED_AT_MOST:
            return
        if one.data_ptr() == other.data_ptr():
            return  # labels with themselves
        for answers, labels in ((one, other), (other, one)):
            if _answers(answers, output):
                self._note(answers.cpu(), labels.cpu(), recorded)
                return

    def _on_choice(self, call: TorchCall) -> None:
        """Note a choice of the class with the largest of one score, or of a sample: most count once compared."""
        along, scores = call.get(1, "dim"), call.first
        if not isinstance(along, int):
            return
        of_batch = along in (0, -2) and self._is_output(scores) and scores.dim() == 2 and scores.size(1) > 1
        if of_batch or (along in (1, -1) and self._is_one_score(scores)):
            if call.name == "argmax" and not of_batch:
                self.chosen_of_one += 1
            else:
                self._chosen = call.out if call.name == "argmax" else call.out[1], of_batch

    def _is_one_score(self, given: Any) -> bool:
        """Whether these are outputs [N, 1] of the last passes, without a graph, or their sigmoid or softmax."""
        output = self._evaluated(given)
        if output is None or given.shape[1:] != (1,):
            return False
        scores, numbers = output.float(), given.detach().cpu().flatten().float()
        return torch.equal(numbers, scores) or torch.allclose(numbers, scores.sigmoid()) or bool((numbers == 1).all())

    def _on_cut(self, scores: Any, border: Any) -> None:
        if isinstance(border, int | float) and len(self.cut) < COMPARED_AT_MOST and self._is_output(scores):
            within = bool(((scores >= 0) & (scores <= 1)).all())
            self.cut.append((float(border), within))

    def _compared(self, one: Any, other: Any) -> tuple[torch.Tensor, Pass] | None:
        """Return what the last outputs are compared with, and the last pass; None if it is none of these two."""
        if len(self.measured) >= COMPARED_AT_MOST or not _readable(one) or not _readable(other):
            return None
        for scores, target in ((one, other), (other, one)):
            if scores.numel() == target.numel() and self._is_output(scores) and not self._is_output(target):
                return target.detach().cpu().flatten().double(), self.loop.passes[-1]
        return None

    def _is_output(self, given: Any) -> bool:
        """Whether these are the outputs of the last passes as they were, and none of the training."""
        output = self._evaluated(given)
        return output is not None and torch.equal(given.cpu().flatten(), output.to(given.dtype))

    def _evaluated(self, given: Any) -> torch.Tensor | None:
        """Return the numbers of the last passes, if they had no graph and put out as many as there are given."""
        if torch.is_grad_enabled() or self.loop.inside or not _readable(given) or not given.is_floating_point():
            return None
        output, recorded = self._output(len(given))
        return None if output is None or recorded or output.numel() != given.numel() else output.flatten()

    def _output(self, samples: int) -> tuple[torch.Tensor | None, bool]:
        """Return what the last passes put out for so many samples, and whether the first of them had a graph."""
        found: list[torch.Tensor] = []
        recorded = True
        for seen in reversed(self.loop.passes):
            if seen.output is None or not seen.output.dim() or (found and found[0].shape[1:] != seen.output.shape[1:]):
                break
            found.insert(0, seen.output)
            recorded = seen.recorded
            if sum(map(len, found)) >= samples:
                break
        return (torch.cat(found) if samples > 1 and sum(map(len, found)) == samples else None), recorded

    def _note(self, answers: torch.Tensor, labels: torch.Tensor, recorded: bool) -> None:
        if {answers.dim(), labels.dim()} == {1, 2} and len(answers) == len(labels):
            self.crossed.append((list(answers.shape), list(labels.shape)))
        elif answers.shape == labels.shape and not recorded and not labels.is_floating_point():
            self.validated.append((answers.flatten().long(), labels.flatten().long()))


def _readable(given: Any) -> bool:
    """Whether this is a tensor of some dimensions whose numbers can be read."""
    return is_plain(given) and given.dim() > 0


def _answers(given: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether these numbers are the answers that an output [N, C], [N, 1] or [N] stands for."""
    flat = given.detach().cpu().flatten()
    if output.dim() == 2 and output.size(1) > 1:
        return not flat.is_floating_point() and torch.equal(flat, output.argmax(dim=1))
    if output.numel() != len(flat):
        return False
    return any(torch.equal(flat.float(), (output.flatten() > least).float()) for least in (0.0, 0.5))
