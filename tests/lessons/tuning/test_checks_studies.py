"""The checks of notebook 2 of lesson 03 accept right answers built in different ways and name wrong ones' symptoms."""

import itertools
import random
import re

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from torchcourse.lessons.tuning.checks import studies as check
from verdicts import accepted, refused, todo

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("name", ["objective", "revive", "sampler_of", "honest", "main_effect"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# objective


def right(trial, train):
    for epoch, accuracy in enumerate(train(trial.suggest_float("lr", 1e-4, 1, log=True)), 1):
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


def by_hand(trial, train):
    run, step = train(trial.suggest_float("lr", 1e-4, 1.0, log=True)), 1
    seen = []
    while (accuracy := next(run, None)) is not None:
        seen.append(accuracy)
        trial.report(accuracy, step)
        step += 1
        if trial.should_prune():
            raise optuna.exceptions.TrialPruned(f"at {step}")
    return seen[-1]


@pytest.mark.parametrize("learner", [right, by_hand])
def test_objective_accepts(learner):
    accepted(check.objective(learner))


class Rounding:
    """A trial to which an accuracy is reported with three digits."""

    def __init__(self, trial):
        self.suggest_float, self.should_prune = trial.suggest_float, trial.should_prune
        self.report = lambda value, step: trial.report(round(value, 3), step)


def test_a_value_that_was_rounded_is_not_shown_equal_to_the_right_one():
    message = check.objective(lambda trial, train: right(Rounding(trial), train)).message
    reported, accuracy = re.findall(r"0\.\d+", message)
    assert reported != accuracy


def variant(
    name="lr", log=True, low=1e-4, report=True, ask=True, raises=True, ahead=False, step=None, sign=1, result=None
):
    def learner(trial, train):
        epochs = train(trial.suggest_float(name, low, 1, log=log))
        for epoch, accuracy in enumerate(list(epochs) if ahead else epochs, 1):
            if report:
                trial.report(sign * accuracy, step or epoch)
            if ask and trial.should_prune():
                if raises:
                    raise optuna.TrialPruned
                return accuracy
        return accuracy if result is None else result(accuracy)

    return learner


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (variant(name="rate"), "no_lr"),
        (variant(log=False), "not_log"),
        (variant(low=1e-3), "range"),
        (lambda trial, train: [*train(trial.suggest_categorical("lr", [1e-4, 1e-2, 1.0]))][-1], "few_values"),
        (variant(report=False, ask=False), "no_report"),
        (variant(ask=False), "never_pruned"),
        (variant(raises=False), "not_pruned"),
        (variant(ahead=True), "trained_already"),
        (variant(sign=-1), "other_value"),
        (lambda trial, train: right(Rounding(trial), train), "other_value"),
        (lambda trial, train: train(10 ** trial.suggest_float("lr", -4, 0)), "exponent"),
        (variant(result=lambda accuracy: 1 - accuracy), "wrong_value"),
        (lambda trial, train: trial.suggest_float("lr", 1e-4, 1, log=True), "not_trained"),
    ],
)
def test_objective_refuses(learner, symptom):
    refused(check.objective(learner), symptom)


def with_the_best(trial, train):
    seen = []
    for epoch, accuracy in enumerate(train(trial.suggest_float("lr", 1e-4, 1, log=True)), 1):
        seen.append(accuracy)
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return max(seen)


def asking_late(trial, train):
    for epoch, accuracy in enumerate(train(trial.suggest_float("lr", 1e-4, 1, log=True)), 1):
        trial.report(accuracy, epoch)
        if epoch > 1 and trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


def nine_times(trial, train):
    run = train(trial.suggest_float("lr", 1e-4, 1, log=True))
    for epoch in range(9):
        accuracy = next(run)
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


def nine_at_most(trial, train):
    return right(trial, lambda rate: itertools.islice(train(rate), 9))


def reporting_every_second(trial, train):
    for epoch, accuracy in enumerate(train(trial.suggest_float("lr", 1e-4, 1, log=True))):
        if epoch % 2 == 0:
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
    return accuracy


def never_calls_it(trial, train):
    for epoch, accuracy in enumerate(train(trial.suggest_float("lr", 1e-4, 1, log=True)), 1):
        trial.report(accuracy, epoch)
        if trial.should_prune:
            raise optuna.TrialPruned
    return accuracy


def asking_before_the_report(trial, train):
    for epoch, accuracy in enumerate(train(trial.suggest_float("lr", 1e-4, 1, log=True)), 1):
        if trial.should_prune():
            raise optuna.TrialPruned
        trial.report(accuracy, epoch)
    return accuracy


@pytest.mark.parametrize(
    ("learner", "symptom", "words"),
    [
        (with_the_best, "wrong_value", "of the last epoch"),
        (asking_late, "not_asked", "After epoch 1 of a trial"),
        (never_calls_it, "all_pruned", "the pruner was asked 0 times"),
        (asking_before_the_report, "trained_already", "epochs were trained already"),
        (lambda *given: print(right(*given)), "nothing_returned", "returned None"),
        (lambda trial, train: right(trial, lambda rate: [*train(rate), *train(rate)]), "trained_twice", "16 epochs"),
        (variant(name="log_lr"), "no_lr", "It has log_lr."),
        (nine_times, "raised_StopIteration", "accuracy = next(run)"),
        (nine_at_most, "ended_by_itself", "has 11 epochs, and your trial ended after 9"),
        (lambda trial, train: right(trial, lambda rate: train(0.01)), "other_rate", "and you train with 0.01"),
        (lambda trial, train: right(trial, train) - trial.suggest_int("n", 0, 1), "more_parameters", "also has n."),
        (reporting_every_second, "not_reported", "You trained 8 epochs, and the pruner has 4 of them"),
    ],
)
def test_the_hint_on_an_objective_names_what_was_seen(learner, symptom, words):
    checked = check.objective(learner)
    assert (checked.state, checked.symptom) == ("wrong", symptom), checked.message
    assert words in checked.message


@pytest.mark.filterwarnings("ignore:The reported value is ignored")
def test_objective_refuses_one_step_for_all():
    refused(check.objective(variant(step=1)), "not_reported")


# revive


def mend(study, alive):
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.number not in alive:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def mend_by_adding(study, alive):
    dead = [trial for trial in study.trials if trial.state == TrialState.RUNNING and trial.number not in alive]
    for trial in reversed(dead):
        study.add_trial(
            optuna.create_trial(state=TrialState.WAITING, params=trial.params, distributions=trial.distributions)
        )
        study.tell(trial.number, state=TrialState.FAIL)


@pytest.mark.parametrize("learner", [mend, mend_by_adding])
def test_revive_accepts(learner):
    accepted(check.revive(learner))


def mends(states=(TrialState.RUNNING,), spare=True, tell=TrialState.FAIL, params=lambda params: params):
    def learner(study, alive):
        for trial in study.get_trials(states=states):
            if spare and trial.number in alive:
                continue
            if tell and trial.state == TrialState.RUNNING:
                study.tell(trial.number, 0.0 if tell == TrialState.COMPLETE else None, state=tell)
            if params:
                study.enqueue_trial(params(trial.params))

    return learner


def queued_twice(study, alive):
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.number not in alive:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
            study.enqueue_trial(trial.params)


def once_per_number(study, alive, done=set()):  # noqa: B006 - what it remembers is the fault
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.number not in alive | done:
            done.add(trial.number)
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def queues_distributions(study, alive):
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.number not in alive:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.distributions)


def mend_failed(study, alive):
    mends(params=None)(study, alive)
    if not any(trial.state == TrialState.WAITING for trial in study.trials):
        for trial in study.get_trials(states=(TrialState.FAIL,)):
            study.enqueue_trial(trial.params)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (mends(spare=False), "killed_the_living"),
        (mends(tell=None), "left_running"),
        (mends(tell=TrialState.COMPLETE), "left_running"),
        (mends(params=None), "not_again"),
        (mends(states=(TrialState.RUNNING, TrialState.FAIL)), "twice"),
        (mend_failed, "not_dead"),
        (mends(params=lambda params: params | {"width": 5}), "other_settings"),
        (queued_twice, "other_settings"),
        (lambda study, alive: (mend(study, alive), alive.clear()), "inputs_changed"),
        (queues_distributions, "other_settings"),
        (once_per_number, "left_running"),
    ],
)
def test_revive_refuses(learner, symptom):
    refused(check.revive(learner), symptom)


# sampler_of


def named(seed, worker, before):
    return TPESampler(seed=random.Random(f"{seed}-{worker}-{before}").getrandbits(31))


def spawned(seed, worker, before):
    return RandomSampler(seed=int(np.random.SeedSequence([seed, worker, before]).generate_state(1)[0]))


def seeding_all(seed, worker, before):
    random.seed(f"{seed}-{worker}-{before}")
    return TPESampler(seed=random.getrandbits(31))


def seeding_numpy(seed, worker, before):
    np.random.seed([seed, worker, before])
    return TPESampler(seed=np.random.randint(2**31))


@pytest.mark.parametrize("learner", [named, spawned])
def test_sampler_of_accepts(learner):
    accepted(check.sampler_of(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda seed, worker, before: RandomSampler(seed=seed), "same_for_workers"),
        (lambda seed, worker, before: RandomSampler(), "not_repeatable"),
        (lambda seed, worker, before: named(seed, worker, before) if seed else TPESampler(), "not_repeatable"),
        (lambda seed, worker, before: RandomSampler(seed=1000 * seed + worker), "same_on_resume"),
        (lambda seed, worker, before: RandomSampler(seed=100 * worker + before), "seed_ignored"),
        (lambda seed, worker, before: RandomSampler(seed=seed + worker + before), "collide"),
        (lambda seed, worker, before: seed, "wrong_type"),
        (lambda seed, worker, before: RandomSampler(seed=1000 * seed + 100 * worker + before), "collide"),
        (seeding_all, "global_stream"),
        (seeding_numpy, "global_stream"),
        (lambda *key: RandomSampler(seed=hash(str(key)) % 2**32), "other_process"),
        (lambda *key: RandomSampler(seed=random.Random("".join(map(str, key))).getrandbits(31)), "collide"),
        (lambda seed, worker, before: named(seed + 1000 * worker, 0, before), "collide"),
    ],
)
def test_sampler_of_refuses(learner, symptom):
    refused(check.sampler_of(learner), symptom)


# honest


@pytest.mark.parametrize(
    "learner",
    [
        lambda val, test: test[np.unravel_index(val.argmax(), val.shape)],
        lambda val, test: float(test.ravel()[val.ravel().argmax()]),
        lambda val, test: test.T[val.max() == val.T][-1],
        lambda val, test: float(test[val == val.max()].mean()),
    ],
)
def test_honest_accepts(learner):
    accepted(check.honest(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda val, test: val.max(), "validation"),
        (lambda val, test: min(val.max(), test.flat[val.argmax()]), "validation"),
        (lambda val, test: test.max(), "test_chose"),
        (lambda val, test: test[val[:, -1].argmax(), -1], "last_epoch"),
        (lambda val, test: test[val.max(axis=1).argmax()].max(), "test_chose_epoch"),
        (lambda val, test: test[val == val.max()].max(), "test_chose_among_equals"),
        (lambda val, test: max(zip(val.flat, test.flat, strict=True))[1], "test_chose_among_equals"),
        (lambda val, test: test[place := val[:, -1].argmax(), val[place].argmax()], "trial_by_its_last"),
        (lambda val, test: float(test.mean()), "wrong_value"),
        (lambda val, test: val.flat[test.argmax()], "roles_swapped"),
        (lambda val, test: test[val.max(axis=1).argmax()], "no_number"),
        (lambda val, test: (test.flat[val.argmax()], val.sort())[0], "inputs_changed"),
    ],
)
def test_honest_refuses(learner, symptom):
    refused(check.honest(learner), symptom)


# main_effect


def effect(table, axis):
    return table.mean(axis=tuple(other for other in range(table.ndim) if other != axis)).var() / table.var()


def effect_by_slices(table, axis):
    rows = np.moveaxis(table, axis, 0)
    means = [row.mean() for row in rows]
    return float(np.mean((np.array(means) - table.mean()) ** 2) / np.mean((table - table.mean()) ** 2))


@pytest.mark.parametrize("learner", [effect, effect_by_slices])
def test_main_effect_accepts(learner):
    accepted(check.main_effect(learner))


def in_place(table, axis):
    table -= table.mean()
    return (means_of(table, axis) ** 2).mean() / (table**2).mean()


def means_of(table, axis):
    return table.mean(axis=tuple(other for other in range(table.ndim) if other != axis))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda table, axis: means_of(table, axis).var(), "no_share"),
        (lambda table, axis: means_of(table, axis).std() / table.std(), "deviation"),
        (lambda table, axis: table.mean(axis=axis).var() / table.var(), "wrong_axis"),
        (lambda table, axis: np.ptp(means_of(table, axis)) / np.ptp(table), "wrong_value"),
        (lambda table, axis: means_of(table, axis).var(ddof=1) / table.var(), "ddof"),
        (lambda table, axis: means_of(table, axis).var(ddof=1) / table.var(ddof=1), "ddof"),
        (lambda table, axis: 100 * effect(table, axis), "percent"),
        (lambda table, axis: 1 / effect(table, axis), "upside_down"),
        (lambda table, axis: effect(table, axis) * table.shape[axis] / table.size, "sums"),
        (lambda table, axis: 1 - effect(table, axis), "the_rest"),
        (lambda table, axis: table.reshape(table.shape[axis], -1).mean(axis=1).var() / table.var(), "reshaped"),
        (lambda table, axis: table.var(axis=axis).mean() / table.var(), "total_effect"),
        (
            lambda table, axis: effect(table, axis) / sum(effect(table, other) for other in range(table.ndim)),
            "of_main_effects",
        ),
        (lambda table, axis: np.median(table, axis).var() / table.var(), "wrong_value"),
        (lambda table, axis: None, "no_number"),
        (lambda table, axis: means_of(table, axis) / table.var(), "no_number"),
        (in_place, "inputs_changed"),
    ],
)
def test_main_effect_refuses(learner, symptom):
    refused(check.main_effect(learner), symptom)
