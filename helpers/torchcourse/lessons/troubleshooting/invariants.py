"""Silent bugs (조용한 버그): a training run that runs, learns a little, and is wrong. Cheap checks in its first steps.

    with SanityProbe(model, optimizer) as probe:
        train(model, optimizer, loader, steps=20)  # your own loop, as it is
        validate(model, val_loader)
    for alarm in probe.alarms():
        print(alarm)

An accuracy does not show them: a run without `zero_grad()` loses a point or two, and nobody knows what it should have
been. An invariant (불변 조건) does: it holds in every healthy run, whatever the model and the data are. An example: all
gradients are 0 before the first backward pass of a step.

Source of the idea, and of some of the checks: A. Karpathy, A Recipe for Training Neural Networks, 2019,
https://karpathy.github.io/2019/04/25/recipe/.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.troubleshooting import (
    answers_invariants,
    beside_invariants,
    chance_invariants,
    data_invariants,
    image_invariants,
    loss_invariants,
    output_invariants,
    program_invariants,
    schedule_invariants,
    sequence_invariants,
    training_invariants,
    usage_invariants,
)
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, rules_of


class SanityProbe:
    """Watches a loop of your own for its first 20 or 30 steps; says which invariants it breaks.

    Let the loop run as it would, with its own loader, loss, accumulation and schedule, and with a validation if it has
    one. With and without the probe it computes the same numbers. It takes longer, since the probe waits for the device
    and copies each batch: take it off after the first steps.

    Args:
        model: as the loop calls it (inside a DistributedDataParallel, the wrapper).
        optimizer: the one that the loop steps.
        frozen: beginnings of the names of the parameters that are meant not to learn, though the optimizer has them.

    Losses are recognized if they come from torch.nn or torch.nn.functional; rules about labels need cross-entropy with
    class numbers.

    Not seen is what is wrong by its meaning alone: labels of which some are wrong; anchors whose positive and negative
    are swapped; a divergence with its two sides swapped; a return that is made small as if it were a cost; a kept
    average of the weights that is evaluated and never updated, or leaves out the buffers; inputs that are mixed while
    their labels are not; a sample in the middle of a model (as in a VAE) that carries no gradient back; a schedule in
    batches that is stepped once per epoch; a return that goes on past the end of an episode; images cut down to zeros
    and ones; different samples of one person on both sides of a split; answers that are counted outside torch. Nor is
    what happens before the probe is entered, such as a state of which nothing was loaded.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, frozen: Iterable[str] = ()) -> None:
        self._run = WatchedRun(model, optimizer, tuple(frozen))

    def __enter__(self) -> "SanityProbe":
        self._run.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._run.__exit__(*error)

    def alarms(self) -> list[Alarm]:
        """Return the invariants that are broken, the plainest first; an empty list for a healthy run.

        Raises:
            ValueError: if no call of the model was seen, so that nothing can be said.
        """
        if not self._run.passes:
            raise ValueError(self._why_nothing_was_seen())
        parts = [training_invariants, loss_invariants, sequence_invariants, schedule_invariants, program_invariants]
        parts += [data_invariants, image_invariants, output_invariants, usage_invariants]
        parts += [chance_invariants, beside_invariants, answers_invariants]
        with torch.no_grad():
            return [alarm for part in parts for rule in rules_of(part) for alarm in rule(self._run)]

    def _why_nothing_was_seen(self) -> str:
        if isinstance(self._run.model, torch.jit.ScriptModule):
            return "TorchScript runs the model past its hooks, so nothing was seen. Watch it before torch.jit.script."
        if self._run.unseen:
            return _UNSEEN[self._run.unseen]
        return (
            "The model that the probe watches was never called. Is a different one being trained, or one that "
            "torch.compile made of it before?"
        )


_UNSEEN = {
    "compiled": "torch.compile runs the model past its hooks, so nothing was seen. Train without it while you look, or "
    'within `torch.compiler.set_stance("force_eager")`.',
    "transformed": "The model that the probe watches was only called inside a transform of torch.func (vmap, grad …): "
    "its numbers cannot be read there.",
}
