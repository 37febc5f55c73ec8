"""What the checks compare with is computed in the notebook's own process, on the CPU."""

import pytest

from torchcourse.lessons.data_parallelism.checks import accumulation, buckets, rank_0_log, together
from torchcourse.lessons.data_parallelism.checks.reference import classifier, copies, one_process

START = copies(classifier().parameters())
TRAINED = {
    "accumulation": lambda: one_process(
        classifier(), START, 0.5, [lambda model: accumulation._loss(model, count=2, step=0, n=2)]
    ),
    "buckets": lambda: one_process(
        buckets._Tied(), copies(buckets._Tied().parameters()), 0.5, [lambda model: buckets._loss(model, 0, range(2))]
    ),
    "log": lambda: rank_0_log._trained_by_one(START, 2),
    "together": lambda: together._trained_by_one(START, 1),
}


@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_one_process_trains_on_the_cpu_also_beside_a_gpu(monkeypatch, trained):
    """The device at hand is a GPU, which is not there: what asks for it fails."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    trained()
