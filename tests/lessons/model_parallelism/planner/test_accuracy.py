"""The planner beside published runs: constants set on some, judged on the others."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from torchcourse.lessons.model_parallelism.planner import published
from torchcourse.lessons.model_parallelism.planner.accuracy import (
    Judgement,
    candidates,
    constant_error,
    judge,
    mean_error,
)
from torchcourse.lessons.model_parallelism.planner.published import RUNS

AGGREGATE = (4.4, 8.8, 18.2, 34.6, 70.8, 143.8, 227.1, 297.4, 410.2, 502.0)
"""PFLOP/s of all GPUs: the last column of Narayanan et al. 2021, table 1."""

UTILISATION = {"22B": (41.5, 43.7), "175B": (51.4, 52.8), "530B": (56.0, 57.0), "1T": (56.3, 57.0)}
"""MFU and HFU in per cent of Korthikanti et al. 2022, table 5, "present work"."""


MPT_PARAMETERS = {
    "70B": 64862437376,
    "30B": 29975214080,
    "13B": 12853954560,
    "7B": 6658859008,
    "3B": 2651837440,
    "1B": 1315950592,
    "760M": 760470528,
    "350M": 355985408,
    "125M": 125311488,
}
"""The last column of MosaicML's table."""


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    return judge()


@pytest.fixture(scope="module")
def judged(judgements: list[Judgement]) -> list[Judgement]:
    return [each for each in judgements if not each.run.calibrates]


# The tables against their own arithmetic


def test_the_weak_scaling_table_agrees_with_itself() -> None:
    table = [run for run in RUNS if "2104.04473, table 1" in run.source]
    assert len(table) == len(AGGREGATE)
    for run, petaflops in zip(table, AGGREGATE, strict=True):
        assert run.flops * run.cluster.gpus / 1e15 == pytest.approx(petaflops, rel=0.01)
        assert run.model.parameters / 1e9 == pytest.approx(float(run.model.name.split()[1][:-1]), abs=0.06)
        assert run.layout.gpus == run.cluster.gpus


def test_the_models_of_mosaicml_have_the_parameters_that_it_counts() -> None:
    for run in RUNS:
        if run.source.startswith("MosaicML"):
            assert run.model.parameters == pytest.approx(MPT_PARAMETERS[run.model.name.split()[1]], rel=1e-3)


def test_published_seconds_and_utilisations_agree() -> None:
    """Our FLOP turn the paper's seconds into the paper's MFU; its equation 8, which counts thrice, into its HFU."""
    seen = 0
    for run in RUNS:
        if run.seconds and run.layout.recomputation == "selective":
            mfu, hfu = UTILISATION[run.model.name.split()[1]]
            done = run.layout.batch / run.seconds / run.cluster.gpus / 312e12
            assert 100 * done * run.model.model_flop == pytest.approx(mfu, abs=0.3)
            thrice = run.model.model_flop + 3 * run.model.layers * run.model.score_flop
            assert 100 * done * thrice == pytest.approx(hfu, abs=0.3)
            assert mfu - 0.3 < 100 * done * run.model.hardware_flop("selective") < hfu
            seen += 1
    assert seen == 4


# The planner against the tables


def test_the_planner_beats_the_best_constant(judged: list[Judgement]) -> None:
    assert len(judged) > 30
    assert mean_error(judged) < 0.06
    assert mean_error(judged) < constant_error(judged) / 4


def test_it_beats_the_best_constant_of_each_table(judged: list[Judgement]) -> None:
    tables: dict[tuple, list[Judgement]] = {}
    for each in judged:
        tables.setdefault((each.run.source, each.run.layout.stage), []).append(each)
    several = [rows for rows in tables.values() if len(rows) > 1]
    assert len(several) == 5
    for rows in several:
        assert mean_error(rows) < constant_error(rows), rows[0].run.source


def test_step_times_are_within_15_per_cent(judged: list[Judgement]) -> None:
    for each in judged:
        planned = each.plan.seconds.total
        published = each.run.seconds or planned * each.flops / each.run.flops
        assert planned == pytest.approx(published, rel=0.15), each.run.name


def test_only_memory_of_these_runs_is_said_to_be_too_small(judgements: list[Judgement]) -> None:
    """They ran, so they fitted. The planner is up to 7 % too pessimistic for three of them."""
    wrong = {each.run.name: each.plan for each in judgements if not each.plan.fits}
    assert set(wrong) == {"GPT 529.6B, 640 GPUs, ZeRO-3", "MPT 760M, 8 GPUs", "MPT 350M, 8 GPUs"}
    for each in wrong.values():
        assert each.bytes.total < 1.08 * each.cluster.gpu.memory


def test_hardware_and_model_flop_are_kept_apart(judgements: list[Judgement]) -> None:
    for each in judgements:
        counted = each.plan.hfu if each.run.counts == "hardware" else each.plan.mfu
        assert each.flops == pytest.approx(counted * each.run.cluster.gpu.flops)


# What a source leaves open


def test_what_does_not_fit_was_not_run() -> None:
    """Llama 3 on 8,192 GPUs: more pieces a rank keep more, until each piece is one layer."""
    (run,) = (run for run in RUNS if run.name == "Llama 3 405B, 8192 GPUs")
    assert [layout.interleaving for layout in candidates(run)] == [1, 8]


def test_only_what_the_source_leaves_open_is_chosen() -> None:
    for run in RUNS:
        for layout in candidates(run):
            assert replace(layout, **{name: getattr(run.layout, name) for name in run.unstated}) == run.layout


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("hardware TFLOP/s,137", "petaFLOP/s,137", "there is no quantity 'petaFLOP/s'"),
        ('GPUs",GPT 1.7B', 'GPUs",GPT 7B', "'GPT 7B'"),
        ("DGX A100,32,512", "DGX A100,32,", "missing 1 required positional argument: 'batch'"),
    ],
)
def test_a_row_that_is_not_understood_is_named(
    monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, said: str
) -> None:
    def text(name: str, read: Callable[[str], str] = published._text) -> str:
        return read(name).replace(right, wrong, 1) if name == "published.csv" else read(name)

    monkeypatch.setattr(published, "_text", text)
    with pytest.raises(ValueError, match=r"published\.csv, line 2, 'GPT 1\.7B, 32 GPUs' is not understood") as error:
        published._published()
    assert said in str(error.value)
