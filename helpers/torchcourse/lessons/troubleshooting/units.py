"""Units (유닛) that have stopped working: dead ones give 0 for every sample, saturated ones stick to their limits."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

RECTIFIERS = (nn.ReLU, nn.ReLU6)
SQUASHERS = {nn.Tanh: (-1.0, 1.0), nn.Sigmoid: (0.0, 1.0), nn.Hardtanh: (-1.0, 1.0), nn.Hardsigmoid: (0.0, 1.0)}


@dataclass(frozen=True)
class UnitReport:
    """One activation layer.

    Attributes:
        layer: the module's name.
        kind: "dead" for layers that can die, "saturated" for those that can saturate.
        share: of all units, from 0 to 1: dead ones are 0 for every sample, saturated ones within 1.5 % of the range of
            one of their limits for at least nine samples in ten. A channel counts as one unit.
        units: how many units there are.
    """

    layer: str
    kind: str
    share: float
    units: int

    def __str__(self) -> str:
        return f"{self.layer}: {self.share:.0%} of {self.units} units {self.kind}"


@torch.no_grad()
def unit_health(model: nn.Module, batches: Iterable[torch.Tensor]) -> list[UnitReport]:
    """Run batches of inputs through the model and return the share of dead or saturated units a layer.

    The model's mode is left as it is. A few hundred samples are needed: a unit that fires for one digit in fifty is not
    dead.
    """
    stuck: dict[str, torch.Tensor] = {}
    counted: dict[str, int] = {}
    kinds: dict[str, str] = {}
    handles = []
    for name, module in model.named_modules():
        limits = next((limits for kind, limits in SQUASHERS.items() if isinstance(module, kind)), None)
        if limits is None and not isinstance(module, RECTIFIERS):
            continue
        kinds[name] = "dead" if limits is None else "saturated"

        def count(_module, _inputs, output, name=name, limits=limits):
            rows = (
                output.movedim(1, -1).flatten(0, -2) if output.dim() > 1 else output[:, None]
            )  # [samples·places, units]
            if limits is None:
                at_rest = rows == 0
            else:
                near = 0.015 * (limits[1] - limits[0])
                at_rest = (rows - limits[0] < near) | (limits[1] - rows < near)
            stuck[name] = stuck.get(name, 0) + at_rest.sum(dim=0)
            counted[name] = counted.get(name, 0) + rows.size(0)

        handles.append(module.register_forward_hook(count))
    try:
        for inputs in batches:
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    reports = []
    for name, count in stuck.items():
        enough = counted[name] if kinds[name] == "dead" else 0.9 * counted[name]
        reports.append(UnitReport(name, kinds[name], (count >= enough).float().mean().item(), count.numel()))
    return reports
