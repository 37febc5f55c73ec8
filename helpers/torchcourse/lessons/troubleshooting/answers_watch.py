"""What a loop compares a model's answers with when it counts the right ones.

Told by `torch_calls` of each call. A comparison counts if one side is the answers of the last forward passes: the
classes with the largest scores, or, with one score per sample, those above 0 or a half.
"""

from collections.abc import Callable
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.training_records import Pass
from torchcourse.source_lines import hide

hide(__file__)

_EQUALITIES = {"eq", "__eq__"}
COMPARED_AT_MOST = 100  # times


class Answers:
    """Notes what the answers of a model are compared with.

    Args:
        passes: those of the model so far, a list that grows.
        inside: says whether a forward pass of the model is under way.
    """

    def __init__(self, passes: list[Pass], inside: Callable[[], bool]) -> None:
        self.validated: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Answers and labels [N], of passes without a graph."""
        self.crossed: list[tuple[list[int], list[int]]] = []
        """The shapes of answers and labels that were compared each with every other."""
        self._passes, self._inside = passes, inside

    def on_call(self, name: str, args: tuple, _kwargs: dict, _out: Any) -> None:
        """Note that a function of torch got these arguments."""
        loss = name == "cross_entropy" and not torch.is_grad_enabled()
        if not (loss or name in _EQUALITIES) or len(args) < 2 or self._inside():
            return
        one, other = args[:2]
        if not _readable(one) or not _readable(other):
            return
        if loss:
            one = one.argmax(dim=1) if one.dim() == 2 and other.dim() == 1 else one
        output, recorded = self._output(max(one.numel(), other.numel()))
        if output is None or one.numel() != other.numel() or len(self.validated) >= COMPARED_AT_MOST:
            return
        if one.data_ptr() == other.data_ptr():
            return  # labels with themselves
        for answers, labels in ((one, other), (other, one)):
            if _answers(answers, output):
                self._note(answers.cpu(), labels.cpu(), recorded)
                return

    def _output(self, samples: int) -> tuple[torch.Tensor | None, bool]:
        """Return what the last passes put out for so many samples, and whether the first of them had a graph."""
        found: list[torch.Tensor] = []
        recorded = True
        for seen in reversed(self._passes):
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
    """Whether this is a tensor of some dimensions whose numbers can be read: a plain one, neither sparse nor meta."""
    return type(given) is torch.Tensor and given.dim() > 0 and given.layout == torch.strided and not given.is_meta


def _answers(given: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether these numbers are the answers that an output [N, C], [N, 1] or [N] stands for."""
    flat = given.detach().cpu().flatten()
    if output.dim() == 2 and output.size(1) > 1:
        return not flat.is_floating_point() and torch.equal(flat, output.argmax(dim=1))
    if output.numel() != len(flat):
        return False
    return any(torch.equal(flat.float(), (output.flatten() > least).float()) for least in (0.0, 0.5))
