"""Whatever container a model takes and returns its tensors in, it trains as the plain tensor does."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from torchcourse.training import OverAll, Trainer
from torchcourse.training.containers import mapped, tensors

Pair = namedtuple("Pair", "scores twice")


@dataclass(frozen=True)
class Output:
    scores: torch.Tensor
    twice: torch.Tensor


CONTAINERS = {
    "a named tuple": (Pair, lambda out: out.scores),
    "a dataclass": (Output, lambda out: out.scores),
    "a tuple": (lambda *both: both, lambda out: out[0]),
    "a list in a dict": (lambda *both: {"in": list(both)}, lambda out: out["in"][0]),
    "a dict of its own kind": (lambda *both: defaultdict(list, zip("ab", both, strict=True)), lambda out: out["a"]),
    "a mapping": (lambda *both: UserDict(zip("ab", both, strict=True)), lambda out: out["a"]),
}


class Model(nn.Module):
    def __init__(self, container):
        super().__init__()
        self.layer, self.container = nn.Linear(3, 2), container

    def forward(self, inputs):
        scores = self.layer(inputs)
        return self.container(scores, 2 * scores)


def trained(container, scores, accumulate):
    torch.manual_seed(0)
    model = Model(container)
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    targets = inputs[:, 0].gt(0).long()
    parts = list(zip(inputs.split(4), targets.split(4), strict=True))
    right = lambda outputs, targets: (scores(outputs).argmax(1) == targets).float().mean()  # noqa: E731
    history = Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.5),
        lambda outputs, targets: nn.functional.cross_entropy(scores(outputs), targets),
        accumulate=accumulate,
        metrics={"right": right, "all": OverAll(right)},
        progress=False,
    ).fit(parts, 2, parts)
    return model.layer.weight, [{**row, "seconds": 0} for row in history.rows]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("container", CONTAINERS)
def test_outputs_in_a_container_train_as_without(container, accumulate):
    weight, rows = trained(*CONTAINERS[container], accumulate)
    plain_weight, plain_rows = trained(lambda scores, _twice: scores, lambda outputs: outputs, accumulate)
    assert torch.equal(weight, plain_weight)
    assert rows == [pytest.approx(row, rel=1e-6) for row in plain_rows]


def test_a_batch_may_be_a_named_tuple_and_targets_in_a_container_are_refused():
    model = nn.Linear(3, 2)
    ours = Trainer(model, torch.optim.SGD(model.parameters(), 0.5), nn.CrossEntropyLoss(), progress=False)
    assert ours.fit([Pair(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))], 1)["step"] == [1]
    with pytest.raises(ValueError, match="The loader yields a Pair with 2 parts, but the Trainer needs pairs"):
        ours.fit([Pair(torch.randn(4, 3), {"label": torch.tensor([0, 1, 0, 1])})], 1)


def test_a_container_keeps_its_kind_and_what_is_none_is_one_value():
    packed, other = pack_sequence([torch.ones(2), torch.ones(1)]), SimpleNamespace(a=torch.ones(1))
    whole = OrderedDict(a=Output(torch.ones(1), torch.ones(2)), b=(packed, [other, None, "text"]))
    same = mapped(lambda item: item, whole)
    assert [type(one) for one in (same, same["a"], same["b"])] == [OrderedDict, Output, tuple]
    assert same["b"][0] is packed
    assert same["b"][1] == [other, None, "text"]
    assert [tensor.numel() for tensor in tensors(whole)] == [1, 2]
    assert mapped(lambda one, two: one + two, [1, (2,)], [3, (4,)]) == [4, (6,)]
