"""Checks of lesson 03, notebook 2, studies: pruning, a study after a crash, samplers of workers, honest scores."""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import other_text_hashes, result_of, same
from torchcourse.lessons.tuning.checks.scores import honest, main_effect
from torchcourse.units import counted

__all__ = ["honest", "main_effect", "objective", "revive", "sampler_of"]

EPOCHS = 9


class _Pruner(optuna.pruners.SuccessiveHalvingPruner):
    """A strict pruner that notes after how many reports each trial asks it, and which trials it ended."""

    def __init__(self) -> None:
        super().__init__(min_resource=1, reduction_factor=3)
        self.asked: defaultdict[int, set[int]] = defaultdict(set)
        self.ended: set[int] = set()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.asked[trial.number].add(len(trial.intermediate_values))
        if ends := super().prune(study, trial):
            self.ended.add(trial.number)
        return ends


@check
def objective(learner: Callable[..., float]) -> str:
    """Run 30 trials on planted curves with a strict pruner; count the epochs that were trained."""
    trained, pruned, total, pruner = 0, 0, 0, _Pruner()
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=3),
        pruner=pruner,
    )
    for _ in range(30):
        trial = study.ask()
        seen: list[float] = []
        rates: list[float] = []
        epochs = EPOCHS + (-1, 0, 0, 2)[trial.number % 4]  # so that nobody counts to nine
        try:
            value = learner(trial, partial(_planted, rates=rates, seen=seen, epochs=epochs))
            if value is None:
                raise Wrong("nothing_returned", "A trial that was not ended early returned None: return an accuracy.")
        except optuna.TrialPruned:
            value = None
        _judge_rate(study.trials[-1], rates)
        reported = list(study.trials[-1].intermediate_values.values())
        _judge_reports(reported, seen, value, epochs, trial.number in pruner.ended)
        asked = pruner.asked[trial.number]
        if asked and (left_out := set(range(1, len(seen))) - asked):
            raise Wrong(
                "not_asked",
                f"After epoch {min(left_out)} of a trial the pruner was not asked. It may end a trial after any epoch.",
            )
        study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
        trained, pruned, total = trained + len(seen), pruned + (value is None), total + epochs
    if not pruned:
        raise Wrong("never_pruned", f"30 trials, {trained} epochs: no trial was ended early. Who asks the pruner?")
    if pruned == 30:
        times = sum(map(len, pruner.asked.values()))
        raise Wrong("all_pruned", f"All 30 trials were ended early, and the pruner was asked {times} times. By what?")
    if abs(math.log10(study.best_params["lr"]) + 2) > 0.5:
        raise Wrong("not_found", f"The best learning rate found is {study.best_params['lr']:.2g}; 0.01 is best here.")
    return f"The planted optimum was found in {trained} epochs; {total} without pruning."


def _planted(rate: float, rates: list[float], seen: list[float], epochs: int) -> Iterator[float]:
    """Yield the accuracies of a made-up training, best at a rate of 0.01, and a little worse in the last epoch.

    The rate is put into `rates`, and each epoch that is trained into `seen`.
    """
    rates.append(rate)
    height = 0.95 - 0.25 * abs(math.log10(rate) + 2)
    for epoch in range(1, epochs + 1):
        seen.append(height * (1 - 0.5**epoch) - 0.01 * (epoch == epochs))
        yield seen[-1]


def _judge_rate(trial: FrozenTrial, rates: list[float]) -> None:
    if "lr" not in trial.params:
        others = f" It has {', '.join(trial.params)}." if trial.params else ""
        raise Wrong("no_lr", f"The trial has no hyperparameter named lr: ask it to suggest one of that name.{others}")
    kind = trial.distributions["lr"]
    if isinstance(kind, FloatDistribution) and (kind.low, kind.high) == (-4.0, 0.0):
        raise Wrong(
            "exponent",
            "The trial's lr goes from -4 to 0: that is its exponent, and the study would note it as the rate. Let the "
            "trial suggest the rate itself, on a log scale.",
        )
    if not isinstance(kind, FloatDistribution):
        raise Wrong(
            "few_values",
            f"The trial's lr comes from a {type(kind).__name__}. Any rate from 1e-4 to 1 should be possible, evenly "
            "on a log scale.",
        )
    if not kind.log:
        raise Wrong("not_log", "The learning rate is not drawn on a log scale: nine of ten draws would be above 0.1.")
    if (kind.low, kind.high) != (1e-4, 1.0):
        raise Wrong("range", f"The learning rate goes from {kind.low:g} to {kind.high:g}, not from 1e-4 to 1.")
    if more := [name for name in trial.params if name != "lr"]:
        raise Wrong("more_parameters", f"Only lr is searched here, and the trial also has {', '.join(more)}.")
    if rates and not same(rates[0], trial.params["lr"]):
        raise Wrong("other_rate", f"The trial suggests lr = {trial.params['lr']:.4g}, and you train with {rates[0]!r}.")


def _judge_reports(reported: list[float], seen: list[float], value: Any, whole: int, ended: bool) -> None:
    """Compare what the pruner heard with the epochs that were trained, and with `value`: None of a pruned trial.

    `whole` is how many epochs a training run has, `ended` whether the pruner said that it should end.
    """
    epochs = f"You trained {counted(len(seen), 'epoch')}"
    if not seen:
        raise Wrong("not_trained", "Nothing was trained: `train(lr)` gives an accuracy for each epoch.")
    if not reported:
        raise Wrong("no_report", f"{epochs}, and the pruner heard of none of them.")
    if len(seen) > whole:
        raise Wrong("trained_twice", f"{epochs} in one trial. A training run has {whole}: call `train` once.")
    if value is not None and len(seen) > len(reported):
        raise Wrong(
            "not_reported",
            f"{epochs}, and the pruner has {len(reported)} of them. It needs each, with a step of its own: "
            "report(value, step).",
        )
    if value is None and len(seen) > len(reported):
        raise Wrong(
            "trained_already",
            f"Pruned after report {len(reported)}, when {len(seen)} epochs were trained already. Report each epoch, "
            "and ask, before the next one is trained.",
        )
    if not same(reported, seen[: len(reported)]):
        place = next(place for place, one in enumerate(reported) if not same(one, seen[place]))
        raise Wrong(
            "other_value",
            f"Reported after epoch {place + 1}: {reported[place]:.6g}. Its accuracy is {seen[place]:.6g}.",
        )
    if value is not None and len(seen) < whole and not ended:
        raise Wrong(
            "ended_by_itself",
            f"This training run has {whole} epochs, and your trial ended after {len(seen)}, though the pruner let it "
            "go on. A loop over the generator ends with it.",
        )
    if value is not None and len(seen) < whole:
        raise Wrong(
            "not_pruned", "A trial that was ended early returned a value: it counts as complete, and it is not."
        )
    if value is not None and not same(value, seen[-1]):
        raise Wrong("wrong_value", f"Return the accuracy of the last epoch ({seen[-1]:.3f}). You returned {value!r}.")


@check
def revive(learner: Callable[..., None]) -> str:
    """Let it mend studies with finished, failed, living and dead trials; then ask for the next ones; then once more."""
    for seed in (1, 2):  # two studies, whose trials have the same numbers
        study, alive, dead = _study_after_a_crash(seed)
        settings = [trial.params for trial in study.trials]
        result_of(partial(learner, study), alive, what="the set `alive`")
        _judge_states(study, alive, dead, "In a second study: " if seed == 2 else "")
        once = _waiting(study)
        learner(study, alive)
        twice = _waiting(study)
        if twice > once:
            raise Wrong(
                "twice", f"Called a second time, it puts trials into the queue again: first {once}, then {twice}."
            )
        _judge_queue(study, dead, settings)
    return f"{len(dead)} dead trials wait to be run again; finished, failed and living ones are as they were."


def _judge_states(study: optuna.Study, alive: set[int], dead: list[int], where: str) -> None:
    for place, trial in enumerate(study.trials):
        state = trial.state.name
        if place in alive and trial.state != TrialState.RUNNING:
            raise Wrong("killed_the_living", f"A worker is still training trial {place}, and you made it {state}.")
        if place in dead and trial.state != TrialState.FAIL:
            raise Wrong(
                "left_running",
                f"{where}Nobody trains trial {place} any more, and it is {state}. It has failed, for good.",
            )


def _study_after_a_crash(seed: int) -> tuple[optuna.Study, set[int], list[int]]:
    """Return a study, the trials that workers still train, and the trials whose workers died."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(7):
        _suggest(study.ask())
    study.tell(0, 0.91)
    study.tell(2, state=TrialState.PRUNED)
    study.tell(5, state=TrialState.FAIL)  # its objective raised: to run it again would raise again
    return study, {3, 6}, [1, 4]


def _suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"lr": trial.suggest_float("lr", 1e-4, 1, log=True), "width": trial.suggest_int("width", 4, 64)}


def _waiting(study: optuna.Study) -> int:
    return sum(trial.state == TrialState.WAITING for trial in study.trials)


def _judge_queue(study: optuna.Study, dead: list[int], settings: list[dict]) -> None:
    if not _waiting(study):
        raise Wrong(
            "not_again", "The dead trials are marked, and nothing waits to be run again: their settings are lost."
        )
    for trial in study.trials:
        queued = trial.system_attrs.get("fixed_params", {})
        if trial.state == TrialState.WAITING and not all(isinstance(value, int | float) for value in queued.values()):
            raise Wrong("other_settings", f"What waits in the queue is {queued}: no setting. A trial has its `params`.")
    asked = [_suggest(study.ask()) for _ in range(_waiting(study))]
    if again := [place for place, setting in enumerate(settings) if setting in asked and place not in dead]:
        raise Wrong(
            "not_dead",
            f"Trial {again[0]} waits to be run again, and no worker of it had died: it is still trained, or it had "
            "ended by itself.",
        )
    wanted = sorted(str(settings[place]) for place in dead)
    if sorted(map(str, asked)) != wanted:
        raise Wrong(
            "other_settings",
            f"There were {counted(len(dead), 'dead trial')}, and {len(asked)} in the queue now: {asked}. Queue the "
            "settings of each dead trial once.",
        )


@check
def sampler_of(learner: Callable[[int, int, int], optuna.samplers.BaseSampler]) -> str:
    """Draw the first settings of several workers, and of a worker that comes back."""
    before = _global_streams()
    if not isinstance(learner(0, 0, 0), optuna.samplers.BaseSampler):
        raise Wrong("wrong_type", "Return a sampler of Optuna, such as TPESampler(seed=…).")
    if changed := [name for name, state in _global_streams().items() if state != before[name]]:
        raise Wrong(
            "global_stream",
            f"Your function draws from `{changed[0]}`, or seeds it, and everything in the process shares that: what a "
            "training draws there changes with it. Make a generator of your own.",
        )

    def draw(*key: int) -> float:
        return optuna.create_study(sampler=learner(*key)).ask().suggest_float("lr", 0, 1)

    if any(draw(*key) != draw(*key) for key in ((7, 1, 3), (0, 0, 0))):
        raise Wrong("not_repeatable", "The same seed, worker and count draw something else the second time.")
    for symptom, one, other, hint in (
        (
            "same_for_workers",
            (7, 0, 0),
            (7, 1, 0),
            "Workers 0 and 1 draw the same setting: every trial would be run twice.",
        ),
        (
            "same_on_resume",
            (7, 0, 0),
            (7, 0, 12),
            "A worker that comes back after 12 trials draws what it drew first: a resumed study repeats.",
        ),
        ("seed_ignored", (7, 1, 5), (8, 1, 5), "Two searches with the seeds 7 and 8 draw the same."),
    ):
        if draw(*one) == draw(*other):
            raise Wrong(symptom, hint)
    draws: dict[float, tuple] = {}
    few = itertools.product((0, 1), (0, 1, 2, 10, 11), (*range(12), 100, 1000))
    for key in (*few, (10, 0, 0), (100, 0, 0), (1000, 0, 0)):
        first = draws.setdefault(draw(*key), key)
        if first != key:
            same_draw = f"(seed, worker, count) = {first} and {key} draw the same."
            raise Wrong("collide", f"{same_draw} Put the three together so that none can stand in for another.")
    keys = list(draws.values())[::7]
    with other_text_hashes():
        elsewhere = [draw(*key) for key in keys]
    if elsewhere != [draw(*key) for key in keys]:
        raise Wrong(
            "other_process",
            "In a different process the same three numbers give other draws, and each worker is a process of its own. "
            "What goes into your seed? hash() of a text is different in each process.",
        )
    return f"{len(draws)} combinations of seed, worker and count draw {len(draws)} different settings, repeatably."


def _global_streams() -> dict[str, str]:
    """The state of the random numbers that a whole process shares, as text that can be compared."""
    return {"random": repr(random.getstate()), "np.random": repr(np.random.get_state(legacy=False)["state"])}
