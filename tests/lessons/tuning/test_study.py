"""A study kept in a database: killed and resumed, shared by workers, and what it says of bad input."""

import contextlib
import enum
import gc
import math
import random
import sqlite3
import time
import weakref

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from optuna.trial import TrialState

from torchcourse.lessons.tuning import _database
from torchcourse.lessons.tuning import study as study_module
from torchcourse.lessons.tuning.checks import studies as check
from torchcourse.lessons.tuning.search import Search, SearchError, grid_settings, random_search, random_settings
from torchcourse.lessons.tuning.study import StudyError, open_study, run, run_workers, settings_of, tell
from torchcourse.lessons.tuning.study_picture import draw_history, history_finding
from torchcourse.training.crash import run_and_kill
from verdicts import accepted

SPACE = {"lr": (0.001, 0.01, 0.1, 1.0), "width": (8, 16, 32), "optimizer": ("sgd", "adamw")}


def planted(settings):
    """Nine epochs; the best setting is lr 0.1, width 16, adamw."""
    height = (
        1 - 0.2 * abs(SPACE["lr"].index(settings["lr"]) - 2) - 0.1 * abs(SPACE["width"].index(settings["width"]) - 1)
    )
    height -= 0.05 * (settings["optimizer"] == "sgd")
    for epoch in range(1, 10):
        yield height * epoch / 9


def slow(settings):
    import time

    for value in planted(settings):
        time.sleep(0.02)
        yield value


def finished(study):
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def test_a_search_finds_the_planted_setting_and_prunes():
    study = run(open_study(None, SPACE), planted, 40)
    assert settings_of(study.best_trial, SPACE) == {"lr": 0.1, "width": 16, "optimizer": "adamw"}
    assert len(finished(study)) == 40
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    assert epochs < 0.7 * 40 * 9


@pytest.mark.slow
def test_going_on_is_the_same_as_never_stopping(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    run(open_study(url, SPACE), planted, 6)
    resumed = run(open_study(url, SPACE), planted, 14)
    whole = run(open_study(None, SPACE), planted, 14)
    assert [trial.params for trial in resumed.trials] == [trial.params for trial in whole.trials]
    assert resumed.best_value == whole.best_value
    assert len({tuple(trial.params.values()) for trial in whole.trials}) > 8


def test_each_worker_draws_numbers_of_its_own():
    accepted(check.sampler_of(study_module._sampler))


def search(url, trials):
    run(open_study(url, SPACE), slow, trials)


def in_state(study, state):
    return study.get_trials(states=(state,))


def kill_until_a_trial_is_cut(url):
    """Kill searches at random moments; return how often, and how many trials are finished, none of them lost."""
    kept, kills, cut, after = {}, 0, False, 2.0
    while kills < 3 or not kept or not cut:  # a slow machine needs longer until there is anything to lose
        assert kills < 9
        assert run_and_kill(search, url, 1000, after=after * random.uniform(1.0, 1.5))
        kills += 1
        study = open_study(url, SPACE)
        before, kept = kept, {trial.number: (trial.params, trial.value) for trial in finished(study)}
        assert kept.items() >= before.items()
        cut = cut or bool(in_state(study, TrialState.RUNNING))
        after *= 1 if kept else 2
    return kills, len(kept)


@pytest.mark.slow
def test_a_killed_study_goes_on_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_database, "GRACE", 1)
    url = f"sqlite:///{tmp_path}/study.db"
    open_study(url, SPACE)
    kills, kept = kill_until_a_trial_is_cut(url)
    study = run(open_study(url, SPACE), planted, kept + 6)
    assert len(finished(study)) == kept + 6
    assert not in_state(study, TrialState.RUNNING)
    killed = in_state(study, TrialState.FAIL)
    again = {trial.user_attrs["again"]: trial for trial in study.trials if "again" in trial.user_attrs}
    assert 1 <= len(killed) <= kills
    for trial in killed:
        last = again[trial.number]
        while last.number in again:  # killed once more, maybe before it had drawn anything
            last = again[last.number]
        assert last.params.items() >= trial.params.items(), last.state


@pytest.mark.slow
def test_a_trial_killed_before_its_first_sign_of_life_is_run_again(tmp_path, monkeypatch):
    study = open_study(f"sqlite:///{tmp_path}/study.db", SPACE)
    monkeypatch.setattr(_database, "GRACE", 0)
    study.enqueue_trial({"lr": 1.0, "width": 32, "optimizer": "sgd"})
    study.ask()  # runs for ever, and gives no sign of life
    run(study, planted, 2)
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[1].user_attrs["again"] == 0
    assert settings_of(study.trials[1], SPACE) == {"lr": 1.0, "width": 32, "optimizer": "sgd"}


@pytest.mark.slow
def test_two_workers_share_a_study_and_run_nothing_twice(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study = run_workers(url, SPACE, slow, trials=20)
    done = finished(study)
    assert 20 <= len(done) <= 21
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    overlaps = sum(
        later.datetime_start < earlier.datetime_complete
        for earlier, later in zip(study.trials, study.trials[1:], strict=False)
    )
    assert overlaps > 5
    assert {trial.user_attrs["worker"] for trial in done} == {0, 1}


@pytest.mark.slow
def test_ctrl_c_has_the_trial_run_again(tmp_path):
    study = open_study(f"sqlite:///{tmp_path}/study.db", SPACE)

    def interrupted(settings):
        yield 0.1
        if len(study.trials) == 3:
            raise KeyboardInterrupt
        yield 0.2

    with pytest.raises(KeyboardInterrupt, match="stopped with 2 of 10 trials finished, and they are kept") as caught:
        run(study, interrupted, 10)
    shown = vars(caught.value)["_render_traceback_"]()  # what a notebook shows
    assert len(shown) == 1
    assert len(finished(study)) == 2
    run(study, planted, 3)
    assert study.trials[3].params == study.trials[2].params


def raises(settings):
    yield 0.5
    raise RuntimeError("no such file: digits.npz")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (raises, "RuntimeError: no such file: digits.npz"),
        (lambda settings: iter([0.5, float("nan")]), "NaN"),
        (lambda settings: iter([]), "yielded nothing"),
        (lambda settings: iter(["high"]), "one number, and the objective yielded 'high'"),
    ],
)
def test_a_bad_objective_costs_no_finished_trial(tmp_path, objective, words):
    study = run(open_study(f"sqlite:///{tmp_path}/study.db", SPACE), planted, 4)
    with pytest.raises(StudyError, match=r"10 trials in .* trial 13 with .*'lr'.* The 4 finished trials are") as caught:
        run(study, objective, 10)
    assert words in str(caught.value)
    assert all(words in trial.user_attrs["error"] for trial in in_state(study, TrialState.FAIL))
    assert len(finished(run(study, planted, 6))) == 6


def test_a_reason_that_ends_in_a_full_stop_has_one():
    def ends(settings):
        raise ValueError("Pictures are [N, 1, height, width].")

    with pytest.raises(StudyError, match=r"height, width\]\. The 0 finished"):
        run(open_study(None, SPACE), ends, 3, progress=False)


def falls_apart(settings):
    """The largest rate yields NaN, the smallest raises; the others train."""
    for epoch, value in enumerate(planted(settings), 1):
        if settings["lr"] == 0.001 and epoch == 2:
            raise RuntimeError("out of memory")
        yield float("nan") if settings["lr"] == 1.0 else value


@pytest.mark.slow
def test_trials_that_fall_apart_end_no_study_and_are_shown(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/study.db"
    run(open_study(url, SPACE), falls_apart, 5, on_trial=tell)
    study = run(open_study(url, SPACE), falls_apart, 14, on_trial=tell)
    failed = in_state(study, TrialState.FAIL)
    assert len(finished(study)) == 14
    assert {settings_of(trial, SPACE)["lr"] for trial in failed} <= {0.001, 1.0}
    assert {settings_of(trial, SPACE)["lr"] for trial in finished(study)} <= {0.01, 0.1, 0.001}
    assert study.best_params["lr"] == 0.1
    assert 14 < len(study.trials) == 14 + len(failed) < 22  # the sampler keeps away from what has failed
    assert capsys.readouterr().out.count("failed, ") == len(failed)
    whole = run(open_study(None, SPACE), falls_apart, 14)
    assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]
    assert f", {len(failed)} failed;" in history_finding(study)
    assert sum(line.get_marker() == "x" for line in draw_history(study).axes[0].lines) == len(failed)


@pytest.mark.slow
def test_a_locked_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(_database, "LOCK_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path}/study.db"
    study = run(open_study(url, SPACE), planted, 2)
    holder = sqlite3.connect(tmp_path / "study.db")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudyError, match=r"held .*study\.db locked"):
        open_study(url, SPACE)
    with pytest.raises(StudyError, match="held the database of the study locked"):
        run(study, planted, 3)
    monkeypatch.setattr(_database, "LOCK_SECONDS", 60)
    begun = time.monotonic()
    _database._refuse_foreign(tmp_path / "study.db")
    assert time.monotonic() - begun < 30  # who opens the study waits, and once
    holder.rollback()
    holder.close()
    assert len(finished(open_study(url, SPACE))) == 2


@pytest.mark.parametrize("kind", [AssertionError, UnboundLocalError])
def test_a_trial_whose_end_cannot_be_written_names_the_reason(kind):
    """Optuna then raises one of these on top of it, by whether it can still read. Another one is the learner's own."""
    reason, on_top = optuna.exceptions.StorageInternalError(), kind("Optuna's")
    reason.__cause__, on_top.__context__ = sqlite3.OperationalError("database or disk is full"), reason
    with pytest.raises(StudyError, match=r"of the study .*disk is full"), _database.errors_explained("of the study"):
        raise on_top
    with pytest.raises(kind, match="mine"), _database.errors_explained("of the study"):
        raise kind("mine")


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(StudyError, match="cannot be read as an SQLite database"):
        open_study(f"sqlite:///{tmp_path}/text.db", SPACE)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE invoices (id INTEGER)")
    other.commit()
    other.close()
    size = (tmp_path / "other.db").stat().st_size
    with pytest.raises(StudyError, match="table 'invoices'"):
        open_study(f"sqlite:///{tmp_path}/other.db", SPACE)
    assert (tmp_path / "other.db").stat().st_size == size
    with pytest.raises(StudyError, match="address"):
        open_study(f"sqlite:///{tmp_path}/no/such/folder.db", SPACE)


@pytest.mark.slow
def test_another_space_or_direction_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    run(open_study(url, SPACE), planted, 2)
    with pytest.raises(StudyError, match=r"a different space \(lr was .*0\.001.* now \[0\.1, 1\.0\]\)"):
        open_study(url, SPACE | {"lr": (0.1, 1.0)})
    with pytest.raises(StudyError, match="maximize, but you asked to minimize"):
        open_study(url, SPACE, direction="minimize")
    optuna.create_study(storage=url, study_name="by hand").optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    with pytest.raises(StudyError, match="lr was absent"):
        open_study(url, SPACE, name="by hand")


class Phase(enum.IntEnum):
    WARM, COOL = 1, 2


def one(settings):
    yield 1.0


def test_a_setting_is_asked_for_and_answered_by_value():
    space = {"a": (1, 2, 3, 4), "b": (3, 1, 2), "c": ("x", "y")}
    study, seen = open_study(None, space), []
    study.enqueue_trial({"a": 3, "b": 1, "c": "y"})
    study.enqueue_trial({"a": 3, "b": 1, "c": "y"}, skip_if_exists=True)
    run(study, lambda settings: seen.append(settings) or one(settings), 1)
    assert seen == [{"a": 3, "b": 1, "c": "y"}] == [study.best_params]
    assert len(study.trials) == 1
    with pytest.raises(ValueError, match=r"a = 5 is not in the space .* \(1, 2, 3, 4\)"):
        study.enqueue_trial({"a": 5})
    with pytest.raises(ValueError, match="'d' is not in the space of the study, which has a, b, c"):
        study.enqueue_trial({"d": 5})


@pytest.mark.parametrize("by_callback", [True, False])
def test_stop_ends_the_run_and_the_next_one_goes_on(by_callback):
    study = open_study(None, SPACE)

    def stops(settings):
        if not by_callback and len(study.trials) == 5:
            study.stop()
        yield 1.0

    five = optuna.study.MaxTrialsCallback(5, states=None) if by_callback else None
    assert len(run(study, stops, 20, on_trial=five).trials) == 5
    assert len(run(study, one, 7).trials) == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "digits.db"}, "'digits.db' is no address of a database.*'sqlite:///digits.db'"),
        ({"url": "sqlite:digits.db"}, "is no address of a database.*'sqlite:///digits.db'"),
        ({"url": "sqlite://digits.db"}, "is no address of a database.*'sqlite:///digits.db'"),
        *(({"url": url}, "names no file") for url in ("", "sqlite://", "sqlite:///", "sqlite:///:memory:")),
        *(({"url": None, "name": name}, "a text of 1 to 512 characters") for name in (None, "", 3, "x" * 513)),
        ({"url": None, "direction": "max"}, "'maximize' or 'minimize', but this one is 'max'"),
        ({"url": None, "space": {}}, "no hyperparameter"),
        ({"url": None, "pruner": "median"}, "A pruner is one of Optuna's.* not 'median'"),
        ({"url": None, "pruner": optuna.pruners.NopPruner}, "A pruner is one of Optuna's"),
        ({"url": None, "space": [("lr", (0.1, 0.01))]}, "A space maps each hyperparameter to its values"),
    ],
)
def test_what_opens_no_study_is_refused_in_a_sentence(arguments, words):
    with pytest.raises((StudyError, ValueError), match=words):
        open_study(**{"space": SPACE} | arguments)


@pytest.mark.parametrize("trials", ["3", 2.5, None, -1, True])
def test_trials_are_a_whole_number(trials):
    with pytest.raises(ValueError, match="trials has to be a whole number"):
        run(open_study(None, SPACE), lambda _: [0.5], trials, progress=False)


def test_a_whole_number_may_be_numpys():
    assert len(run(open_study(None, SPACE), lambda _: [0.5], np.int64(2), progress=False).trials) == 2


def test_a_study_that_open_study_did_not_open_is_refused():
    with pytest.raises(StudyError, match="not opened by open_study"):
        run(optuna.create_study(), one, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "plain"),
    [
        (np.logspace(-2, 0, 3), (0.01, 0.1, 1.0)),
        ((np.int64(4), np.int64(8)), (4, 8)),
        (range(3), (0, 1, 2)),
        ((torch.optim.SGD, torch.optim.Adam), None),
        ([torch.float32, torch.bfloat16], None),
        ((Phase.COOL, Phase.WARM), None),
        (((64,), (64, 64)), None),
        (("sgd", None, True), None),
    ],
)
def test_the_objective_gets_the_values_of_any_space_and_a_database_keeps_them(tmp_path, values, plain):
    url, seen = f"sqlite:///{tmp_path}/study.db", []
    for value in plain or values:
        open_study(url, {"a": values}).enqueue_trial({"a": value})
    study = run(
        open_study(url, {"a": values}), lambda settings: seen.append(settings["a"]) or one(settings), len(values)
    )
    assert seen == list(plain or values)
    assert [type(value) for value in seen] == [type(value) for value in plain or values]
    assert [settings_of(trial, {"a": values})["a"] for trial in study.trials] == seen


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("adam", "are a str, 'adam': write a tuple"),
        (0.1, "are a float"),
        ({"sgd", "adam"}, "are a set"),
        (iter([1, 2]), "are a list_iterator"),
        ((), "no values"),
        ((0.1, float("nan")), "NaN"),
        ((object(), 1), "no name of its own"),
        ((lambda: 1, 1), "no name of its own"),
        ((1, 2, True), "True equals an earlier value"),
        ((0.0, -0.0), r"-0\.0 equals an earlier value"),
        (("adam", "sgd", "adam"), "'adam' equals an earlier value"),
    ],
)
def test_a_space_that_no_study_can_keep_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        open_study(None, {"a": values})
    with pytest.raises(ValueError, match=words):
        next(random_settings({"a": values}, seed=0))
    with pytest.raises(ValueError, match=words):
        grid_settings({"a": values}, trials=2)


@pytest.mark.parametrize("progress", [True, False])
def test_a_study_shows_a_bar_unless_it_is_told_not_to(monkeypatch, progress):
    bars = []
    monkeypatch.setattr(study_module, "TrialProgress", lambda *counts: bars.append(counts) or contextlib.nullcontext())
    run(open_study(None, SPACE), planted, 1, progress=progress)
    assert bars == [(1, 0)] * progress


def test_progress_is_told_of_each_trial(capsys):
    values = iter((0.3, 0.2, 0.7))

    def rising(settings):
        yield next(values)

    study = run(open_study(None, SPACE), rising, 3, on_trial=tell)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0].split()[1] for line in lines] == ["0", "1", "2"]
    assert [line.rpartition(" ")[2] for line in lines] == ["0.300", "0.300", "0.700"]
    for trial in study.trials:
        tell(study, trial)
    assert capsys.readouterr().out.splitlines() == lines  # "so far" is up to that trial, whenever it is told of


@pytest.mark.parametrize(
    "error",
    [
        sqlalchemy.exc.IntegrityError("CREATE TYPE", {}, Exception("duplicate key value violates a constraint")),
        sqlalchemy.exc.ProgrammingError("CREATE TABLE", {}, Exception('relation "studies" already exists')),
        sqlalchemy.exc.OperationalError("CREATE TABLE", {}, Exception("table studies already exists")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_worker_that_comes_second_to_an_empty_database_tries_again(monkeypatch, error):
    answers = [error, error, "the storage"]

    def connect(*arguments, **options):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(optuna.storages, "RDBStorage", connect)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert _database.storage("postgresql+psycopg://USER@HOST/studies") == "the storage"


def test_a_database_that_refuses_for_good_is_asked_no_second_time(monkeypatch):
    asked = []

    def connect(*arguments, **options):
        asked.append(1)
        raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr(optuna.storages, "RDBStorage", connect)
    with pytest.raises(StudyError, match="connection refused"):
        open_study("postgresql+psycopg://USER@HOST/studies", {"lr": (0.1,)})
    assert len(asked) == 1


@pytest.mark.parametrize("url", ["postgres://USER@HOST/studies", "oracle+none://HOST/studies"])
def test_a_database_without_a_driver_is_told_what_to_install(url):
    with pytest.raises(StudyError, match=r'pip install "psycopg\[binary\]"'):
        open_study(url, {"lr": (0.1,)})


class Canceled(BaseException):
    """As asyncio.CancelledError and SystemExit are: no Exception."""


@pytest.mark.parametrize("end", [SystemExit(3), Canceled(), KeyboardInterrupt()], ids=lambda end: type(end).__name__)
def test_a_trial_that_no_error_ended_is_run_again_in_a_study_in_memory_too(end):
    study = open_study(None, SPACE)

    def ends(settings):
        yield 0.1
        raise end

    with pytest.raises(type(end)):
        run(study, ends, 2, progress=False)
    run(study, planted, 2, progress=False)
    assert study.trials[0].state.name == "FAIL"
    assert study.trials[1].params == study.trials[0].params
    assert len(finished(study)) == 2


def test_a_stop_between_two_trials_has_none_run_again():
    study = open_study(None, SPACE)

    def stopped(study, trial):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"with 1 of 3 trials finished, and they are kept\. .* it goes on\."):
        run(study, planted, 3, on_trial=stopped, progress=False)
    run(study, planted, 3, progress=False)
    assert len(study.trials) == 3


def test_workers_do_not_search_each_in_a_memory_of_its_own():
    with pytest.raises(StudyError, match="each worker would have its own"):
        run_workers(None, SPACE, planted, 2)


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"workers": 1.5}, {"trials": 2.5}])
def test_workers_are_not_started_for_half_a_trial(numbers):
    with pytest.raises(ValueError, match=f"^{next(iter(numbers))} has to be a whole number"):
        run_workers("sqlite:////no/folder/study.db", SPACE, planted, **{"trials": 2} | numbers)


class Weights:
    """As large as a GPU."""


@pytest.mark.parametrize(
    "search",
    [
        lambda objective: random_search(Search(objective, 99), random_settings(SPACE, 0), 2),
        lambda objective: run(open_study(None, SPACE), objective, 9, progress=False),
    ],
    ids=["by hand", "study"],
)
@pytest.mark.parametrize("fails", ["raises", "raises on top", "NaN"])
def test_a_failed_trial_leaves_its_memory_to_the_next_one(fails, search):
    weights, alive = [], []

    def full(of):
        raise MemoryError

    def objective(settings):
        alive.append(sum(each() is not None for each in weights))
        mine = Weights()
        weights.append(weakref.ref(mine))
        yield math.nan if fails == "NaN" else 0.5
        try:
            full(mine)
        except MemoryError as error:
            if fails == "raises":
                raise
            raise RuntimeError(fails) from error

    gc.disable()
    try:
        with pytest.raises((SearchError, StudyError), match="10 trials in a row"):
            search(objective)
    finally:
        gc.enable()
    assert alive == [0] * 10


def test_an_error_that_is_its_own_cause_ends_its_trial():
    def objective(settings):
        yield 0.5
        try:
            raise RuntimeError("of itself")
        except RuntimeError as error:
            raise error from error

    with pytest.raises(StudyError, match="of itself"):
        run(open_study(None, SPACE), objective, 9, progress=False)


def test_what_an_objective_does_to_its_settings_stays_in_its_trial():
    """Optuna refused the second trial, since the values of the space had changed."""
    space, seen = {"layers": ([8], [16])}, []

    def grows(settings):
        settings["layers"].append(10)
        seen.append(settings.pop("layers"))
        yield 1.0

    study = run(open_study(None, space), grows, 4, progress=False)
    assert {len(layers) for layers in seen} == {2}
    assert study.best_params["layers"] in ([8], [16])
