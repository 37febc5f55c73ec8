"""A copy of a watched model, and a file of it, are not watched."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.lessons.troubleshooting.probes import NanProbe
from torchcourse.tools.bench.programs import clouds, dense


def from_file(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert b"torchcourse" not in buffer.getvalue()
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, from_file])
def test_what_a_copy_computes_is_not_the_models(copied) -> None:
    model, (x, y) = dense(), clouds(32)
    with NanProbe(model) as probe:
        other = copied(model)
        F.cross_entropy(model(x), y).backward()
        assert other(x / 0).isnan().any()
        assert probe.look() is None
        model(x / 0)
        assert "`0` (Linear)" in str(probe.look())


@pytest.mark.parametrize("copied", [copy.deepcopy, from_file])
def test_a_copy_trains_unwatched(copied) -> None:
    torch.manual_seed(0)
    model, (x, y) = dense(), clouds(192)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(32), y.split(32), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()
        other = copied(model)
        other(100 * x)
        model(x)
    assert [alarm.name for alarm in probe.alarms()] == []
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0
