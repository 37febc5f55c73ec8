"""The keys of lesson 03's bank, computed again or tried out: what a question says happens is what happens."""

import functools
import inspect
import itertools
import math
import random
import re
import statistics
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from keys import Keys, close
from torchcourse.error_bars import paired
from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import SPACE
from torchcourse.lessons.tuning.lr_range import RangeTest
from torchcourse.lessons.tuning.search import even_settings

LESSON = "03_hyperparameter_tuning"
keys = Keys(LESSON)
asked, key, mistakes = keys.asked, keys.key, keys.mistakes
close = functools.partial(close, rel=3e-3)


@pytest.fixture(autouse=True)
def _quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def numbers_of(name: str, row: str) -> list[float]:
    """Return the numbers in the row of a question's table that begins with `row`."""
    line = next(line for line in asked(name).text.en.splitlines() if line.startswith(row))
    return [float(number) for number in line.removeprefix(row).split()]


def test_the_rate_at_which_the_loss_falls_fastest():
    rates, losses = (numbers_of("rate-from-a-curve", row) for row in ("rate", "loss"))
    pairs = list(itertools.pairwise(zip(rates, losses, strict=True)))
    falls = [(a[1] - b[1]) / math.log(b[0] / a[0]) for a, b in pairs if math.isfinite(b[1])]
    steepest = falls.index(max(falls))
    choice = asked("rate-from-a-curve").choices["ABCD".index(str(key("rate-from-a-curve")))]
    assert float(choice.text.en) == rates[steepest + 1]
    assert min(losses[:-1]) == losses[rates.index(0.1)]
    curve = RangeTest(np.array(rates), np.array(losses), np.nan_to_num(losses, nan=9.0))
    assert float(choice.text.en) == pytest.approx(curve.suggestion)
    assert losses[rates.index(0.3)] > losses[rates.index(0.1)]


def test_steps_and_draws_on_a_log_scale():
    rates = torch.logspace(-6, 0, 61, dtype=torch.float64)
    assert [key("factor-of-sixty-steps")] == close(float(rates[1] / rates[0]))
    assert mistakes("factor-of-sixty-steps") == close((1 - 1e-6) / 60, 10)
    assert [key("below-a-hundredth")] == close(100 * (0.01 - 0.0001) / (1 - 0.0001))
    assert mistakes("below-a-hundredth") == close(100 * math.log(0.01 / 0.0001) / math.log(1 / 0.0001))


def loss_of(weight: torch.Tensor) -> torch.Tensor:
    return weight.square().mean()


def test_a_range_test_throws_the_weights_away():
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], 1e-3)
    for rate in torch.logspace(-3, 2, 60).tolist():
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss_of(weight).backward()
        optimizer.step()
    assert loss_of(weight) > 50 * loss_of(torch.ones(4))
    assert key("after-the-range-test") == "B"


def test_trials_of_random_search_and_of_a_grid():
    enough = next(n for n in range(1, 200) if 0.95**n <= 0.05)
    assert enough == key("trials-for-ninety-five-per-cent")
    assert pytest.approx(0.36, abs=0.005) == 0.95**20
    grid = list(itertools.product(range(5), repeat=3))
    assert len({trial[0] for trial in grid}) == key("as-many-rates-as-a-grid")
    assert mistakes("as-many-rates-as-a-grid") == [len(grid) / 5, len(grid)]
    threes = list(itertools.product(range(3), repeat=3))
    assert sum(len(set(draw)) == 3 for draw in threes) / len(threes) == 2 / 9
    assert (key("where-random-gains"), key("where-a-grid-is-fine")) == ("B", "B")


def test_values_of_a_latin_hypercube():
    space = {"lr": tuple(range(160)), "width": tuple(range(16)), "depth": (1, 2), "decay": (0, 1)}
    assert len({setting["lr"] for setting in even_settings(space, 16)}) == key("rates-of-a-latin-hypercube")
    assert mistakes("rates-of-a-latin-hypercube") == [16 ** (1 / len(space)), len(space)]


def test_defaults_are_level_after_forty_epochs():
    default, tuned = 100 * replay.accuracies("longer", "test")
    verdicts = [paired(tuned[:, epochs - 1], default[:, epochs - 1]).verdict(margin=1.0) for epochs in (9, 40)]
    assert verdicts == ["clearly above", "level"]
    assert key("level-after-forty-epochs") == "C"


def test_epochs_of_successive_halving():
    trials, until = [27, 9, 3, 1], [1, 3, 9, 27]
    more = [later - earlier for earlier, later in itertools.pairwise([0, *until])]
    assert sum(map(math.prod, zip(trials, more, strict=True))) == key("epochs-of-twenty-seven-trials")
    anew = sum(map(math.prod, zip(trials, until, strict=True)))
    assert mistakes("epochs-of-twenty-seven-trials") == sorted([sum(trials), anew, 27 * 27])


def test_what_stopping_costs():
    rows = [numbers_of("what-stopping-cost", f"lr {rate} ") for rate in ("0.5", "0.05", "0.02", "0.005")]
    left = sorted(rows, key=lambda row: -row[0])[:2]
    last = max(left, key=lambda row: row[1])
    best = max(row[2] for row in rows)
    assert best - last[2] == key("what-stopping-cost")
    assert best - max(rows)[2] in mistakes("what-stopping-cost")


def test_early_order_is_like_the_final_one_unless_the_warm_up_differs():
    table = replay.accuracies().reshape(780, -1)
    order = [np.argsort(np.argsort(table[:, epoch])) for epoch in (0, 2, 8)]
    early, later = (np.corrcoef(ranks, order[2])[0, 1] for ranks in order[:2])
    assert 0.6 < early < later
    assert 0.25 < (table[:, -1] < 0.15).mean() < 0.3
    # Two runs that differ in the warm-up alone: the longer one is behind after a tenth, and ahead at the end.
    weights = {}
    for warm_up in (1, 50):
        weight, losses = torch.tensor([1.0, 1.0]), []
        for step in range(100):
            rate = 0.05 * min(1, (step + 1) / warm_up) if warm_up > 1 else 0.02
            weight = weight - rate * torch.tensor([1.0, 2.0]) * weight
            losses.append(weight.square().sum().item())
        weights[warm_up] = losses
    assert weights[50][9] > weights[1][9]
    assert weights[50][99] < weights[1][99]
    assert key("where-early-stopping-misleads") == "B"


def test_one_of_many_comparisons_is_clear_by_luck():
    assert [key("twenty-comparisons")] == close(100 * (1 - 0.95**20))
    assert mistakes("twenty-comparisons") == [5, 20 * 5]
    for_all_together = 1 - (1 - 0.05 / 20) ** 20
    assert for_all_together == pytest.approx(0.05, abs=0.002)  # "again 5% for all together"


def test_standard_errors():
    assert key("standard-error-of-sixteen") == 2 / math.sqrt(16)
    assert mistakes("standard-error-of-sixteen") == [2 / 16, 2]
    a, b = (numbers_of("five-pairs", row)[:5] for row in ("A ", "B "))
    for values, mean in ((a, 91.9), (b, 92.5)):
        assert statistics.mean(values) == pytest.approx(mean, abs=0.05)
        assert statistics.stdev(values) / math.sqrt(5) == pytest.approx(0.75, abs=0.05)
    differences = [y - x for x, y in zip(a, b, strict=True)]
    assert min(differences) > 0
    assert statistics.mean(differences) == pytest.approx(0.6, abs=0.05)
    assert statistics.stdev(differences) / math.sqrt(5) == pytest.approx(0.06, abs=0.005)
    assert sum(max(a) > value for value in b) == 4  # "more than four of B's five"
    assert key("five-pairs") == "B"


def test_the_best_of_more_draws_is_higher():
    runs = 100 * replay.accuracies("seeds", "val")[0, :, -1]
    generator = np.random.default_rng(0)
    best = {n: np.mean([generator.choice(runs, n, replace=False).max() for _ in range(300)]) for n in (5, 20)}
    assert best[20] > best[5]
    assert key("which-comparisons-are-fair") == "AD"


def seeds(deviation: float, error: float, variances: int) -> int:
    return next(n for n in range(1, 1000) if math.sqrt(variances * deviation**2 / n) <= error + 1e-12)


def test_how_many_seeds():
    assert seeds(1, 0.25, variances=2) == key("seeds-for-a-quarter-point")
    assert seeds(1, 0.25, variances=1) in mistakes("seeds-for-a-quarter-point")
    assert seeds(1, 0.25, variances=2) / seeds(1, 0.5, variances=2) == key("half-the-difference")
    assert seeds(0.5, 0.25, variances=1) == key("seeds-in-pairs")
    assert mistakes("seeds-in-pairs") == [seeds(0.5, 0.25, variances=2), seeds(1, 0.25, variances=2)]


def test_looking_often_finds_differences_that_are_not_there():
    differences = np.random.default_rng(0).normal(size=(2000, 30))
    found = np.zeros(2000, dtype=bool)
    for n in range(3, 31, 3):
        part = differences[:, :n]
        found |= abs(part.mean(axis=1)) > 2 * part.std(axis=1, ddof=1) / math.sqrt(n)
    assert found.mean() > 0.25  # "more than 20%"
    assert key("looking-until-it-shows") == "B"


def test_the_table_says_what_the_question_prints():
    final = 100 * replay.accuracies()[..., -1]
    adamw = final[:, :, SPACE["optimizer"].index("adamw")]
    assert adamw.size == 260
    printed = numbers_of("adamw-over-the-whole-space", "have an accuracy of at most")
    assert printed == close(*np.quantile(adamw, [0.1, 0.25, 0.5, 0.75, 0.9]))
    rates = np.array(SPACE["lr"])
    assert (adamw[rates <= 0.1] < 15).mean() < (adamw < 15).mean() / 2  # "leave out the rates above 0.1"
    assert adamw[rates == 1].max() < adamw[rates == 0.001].min()
    assert (final < 15).mean() > 0.25
    assert final.max() == pytest.approx(97.6)
    assert "97.6%" in asked("correct-the-log-on-tuning").model_answer.en
    assert key("adamw-over-the-whole-space") == "B"


@pytest.mark.slow
def test_what_is_in_the_file_of_a_killed_search(tmp_path):
    url = f"sqlite:///{tmp_path / 'digits.db'}"
    killed = optuna.create_study(study_name="digits", storage=url)
    killed.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=2)
    trial = killed.ask()
    trial.suggest_float("lr", 0, 1)
    for epoch in range(1, 8):
        trial.report(epoch / 10, epoch)
    found = optuna.load_study(study_name="digits", storage=url).trials
    assert [trial.state.name for trial in found] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert list(found[2].intermediate_values) == list(range(1, 8))
    assert key("after-the-power-cut") == "A"

    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="digits", storage=url)
    option: Any = {key("open-what-is-there")[0]: True}
    again = optuna.create_study(study_name="digits", storage=url, **option)
    assert len(again.trials) == 3
    wrong = {name for mistake in asked("open-what-is-there").mistakes[1:] for name in mistake.answers}
    assert not wrong & set(inspect.signature(optuna.create_study).parameters)


def test_which_trials_are_finished():
    text = asked("trials-still-to-finish").text.en
    complete, pruned, failed, running = (
        int(re.search(rf"(\d+) {state}", text)[1]) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")
    )
    assert 50 - complete - pruned == key("trials-still-to-finish")
    assert mistakes("trials-still-to-finish") == sorted(
        [50 - complete, 50 - complete - pruned - failed, 50 - complete - pruned - failed - running]
    )


def test_an_objective_that_prunes_or_returns():
    def objective(trial):
        trial.report(0.5, 1)
        if trial.number == 0:
            raise getattr(optuna, key("how-a-trial-says-pruned")[0])
        return 0.5

    study = optuna.create_study()
    study.optimize(objective, n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert study.trials[0].value == 0.5


def test_workers_with_one_seed_draw_the_same():
    study = optuna.create_study()
    for _ in range(4):
        study.sampler = optuna.samplers.RandomSampler(seed=1)
        study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=25)
    assert len(study.trials) == 100
    assert len({trial.params["lr"] for trial in study.trials}) == key("settings-of-four-workers")


def test_which_seeds_keep_workers_and_starts_apart():
    def draws(choice: str, **numbers: int) -> float:
        code = re.search(r"`(.*?)`", choice)[1]
        found = eval(code, {"numpy": np}, numbers)
        if isinstance(found, np.random.SeedSequence):
            return float(np.random.default_rng(found).random())
        return random.Random(found).random()

    starts = list(itertools.product((0, 1), (0, 1, 8, 9)))
    for choice in asked("seeds-that-keep-apart").choices:
        drawn = [draws(choice.text.en, seed=3, worker=worker, before=before) for worker, before in starts]
        again = [draws(choice.text.en, seed=3, worker=worker, before=before) for worker, before in starts]
        assert drawn == again
        assert (len(set(drawn)) == len(starts)) == choice.right, choice.text.en


@pytest.mark.slow
def test_files_of_one_name_are_different_studies(tmp_path, monkeypatch):
    call = re.search(r"`(create_study\(.*?\))`", asked("four-files-of-one-name").text.en)[1]
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        study = eval(call, {"create_study": optuna.create_study})
        study.add_trial(optuna.trial.create_trial(value=1.0))
        assert len(study.trials) == 1
    assert key("four-files-of-one-name") == "B"


def test_what_may_be_reported():
    validation, test = (numbers_of("what-to-report", row) for row in ("validation", "test"))
    assert test[validation.index(max(validation))] == key("what-to-report")
    assert mistakes("what-to-report") == sorted([max(test), max(validation)])


def test_the_best_of_a_hundred_equals():
    right = np.random.default_rng(0).binomial(400, 0.9, size=(500, 100)) / 4
    assert 93 < right.max(axis=1).mean() < 94
    error = math.sqrt(0.9 * 0.1 / 400)
    assert right.std() == pytest.approx(100 * error, rel=0.1)
    assert [key("error-of-four-hundred-images")] == close(100 * error)
    assert mistakes("error-of-four-hundred-images") == close(100 * error**2, 100 * math.sqrt(0.9 * 0.1))
    assert key("best-of-a-hundred-equals") == "C"


def test_rates_for_larger_batches():
    assert key("rate-for-a-larger-batch") == 0.02 * 64 / 16
    assert mistakes("rate-for-a-larger-batch") == close(0.02 / 4, 0.02, 0.02 * math.sqrt(4))
    assert [key("adam-rate-for-a-larger-batch")] == close(0.0003 * math.sqrt(512 / 32))
    assert mistakes("adam-rate-for-a-larger-batch") == close(0.0003, 0.0003 * 512 / 32)


def test_the_rate_that_is_best_for_32_is_not_best_for_every_batch():
    table = replay.accuracies("batches", "val")[..., -1]  # batch sizes 8 to 256 × learning rates
    at_32 = table[2].argmax()
    assert [row.argmax() for row in table] != [at_32] * len(table)
    assert table[0, at_32] < table[0].max()
    assert key("thirty-two-is-best") == "B"


def main_effect(name: str, rows: list[str]) -> float:
    table = np.array([numbers_of(name, row) for row in rows])
    return 100 * table.mean(axis=1).var() / table.var()


def test_main_effects():
    assert main_effect("a-crossed-table", ["lr 0.01 ", "lr 0.1 "]) == key("a-crossed-table")
    share = main_effect("a-straight-table", ["lr 0.0001 ", "lr 0.01 "])
    assert share == pytest.approx(key("a-straight-table"), abs=0.05)
    assert mistakes("a-straight-table") == [pytest.approx(100 - share, abs=0.05), 100 * 40 / 50]


def test_a_narrow_range_makes_an_important_rate_look_unimportant():
    table = replay.accuracies()[..., -1]
    rates = np.array(SPACE["lr"])

    def share_of_the_rate(part: np.ndarray) -> float:
        return part.mean(axis=(1, 2, 3)).var() / part.var()

    narrow = table[(rates > 0.004) & (rates < 0.011)]
    assert share_of_the_rate(narrow) < 0.1 < 0.5 < share_of_the_rate(table)
    assert key("a-narrow-range") == "B"
