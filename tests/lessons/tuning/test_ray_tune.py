"""Ray Tune takes the same space and objective; without Ray, one sentence says how to get it."""

import importlib.util

import pytest

from torchcourse.lessons.tuning import ray_tune
from torchcourse.lessons.tuning.study import StudyError

SPACE = {"lr": (0.001, 0.01, 0.1), "optimizer": ("sgd", "adamw")}


def planted(settings):
    for epoch in range(1, 4):
        yield (0.8 if settings == {"lr": 0.01, "optimizer": "adamw"} else 0.3) + epoch / 100


def raises(settings):
    raise RuntimeError("no data here")


if importlib.util.find_spec("ray"):

    @pytest.fixture
    def cluster(monkeypatch, tmp_path):
        import ray

        monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()

    @pytest.mark.slow
    def test_the_planted_setting_is_found(cluster):
        settings, value = ray_tune.run(SPACE, planted, trials=16, epochs=3)
        assert settings == {"lr": 0.01, "optimizer": "adamw"}
        assert value == pytest.approx(0.83)
        with pytest.raises(StudyError, match="None of 2 trials"):
            ray_tune.run(SPACE, raises, trials=2, epochs=3)

else:

    def test_without_ray_the_command_is_said():
        with pytest.raises(ImportError, match=r"pip install .*\[ray\]"):
            ray_tune.run(SPACE, planted, trials=1, epochs=1)
