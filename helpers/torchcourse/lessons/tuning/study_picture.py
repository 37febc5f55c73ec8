"""Pictures of a study: its history, the importance of hyperparameters, parallel coordinates, and slices."""

import copy
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning.space import Space, place_of, plain_space

_ON_WHITE = {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}, "zorder": 5, "fontsize": 8}


def draw_history(study: optuna.Study) -> Figure:
    """Draw each finished trial's value in the order of the trials, and the best so far; a cross where one failed."""
    complete, pruned = _trials(study, TrialState.COMPLETE), _trials(study, TrialState.PRUNED)
    figure, axis = figures.new(height=3.0)
    for trials, color, name in ((complete, "blue", "complete"), (pruned, "gray", "pruned: the last value seen")):
        axis.plot([t.number for t in trials], [t.value for t in trials], "o", color=COLORS[color], ms=4, label=name)
    failed = _trials(study, TrialState.FAIL)
    for number, trial in enumerate(failed):
        label = None if number else "failed"
        axis.plot(trial.number, 0, "x", color=COLORS["vermillion"], ms=6, transform=axis.get_xaxis_transform(),
                  clip_on=False, label=label)  # fmt: skip
    best = np.maximum if study.direction.name == "MAXIMIZE" else np.minimum
    if complete:
        so_far = best.accumulate([_value(trial) for trial in complete])
        numbers = [*(trial.number for trial in complete), len(study.get_trials(deepcopy=False)) - 1]
        axis.step(numbers, [*so_far, so_far[-1]], where="post", color=COLORS["vermillion"], label="best so far")
    axis.set(xlabel="trial", ylabel="value")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    axis.set_title(history_finding(study))
    return figure


def history_finding(study: optuna.Study) -> str:
    """Say what the history shows."""
    complete, pruned = _trials(study, TrialState.COMPLETE), _trials(study, TrialState.PRUNED)
    failed = len(_trials(study, TrialState.FAIL))
    failures = f", {failed} failed" if failed else ""
    if not complete:
        return f"No trial is complete yet, {len(pruned)} were pruned{failures}"
    best = study.best_trial
    return (
        f"{len(complete)} complete, {len(pruned)} pruned{failures}; the best, {best.value:.3f}, is trial {best.number}"
    )


def importances(study: optuna.Study, space: Space) -> dict[str, float]:
    """Return the share of each hyperparameter by PED-ANOVA; they add up to 1.

    It compares where the best tenth of the trials lies with where all of them lie, and needs no model of the space. A
    trial that failed counts as the worst. A pruner has taken the bad values out of "all of them", so that they look
    harmless: the trials of a pruned study are refused. Source: Watanabe, Bansal and Hutter 2023,
    https://arxiv.org/abs/2304.10255.

    Raises:
        ValueError: for a study with pruned trials, or with fewer than two complete ones.
    """
    if pruned := len(_trials(study, TrialState.PRUNED)):
        raise ValueError(
            f"{pruned} trials of this study were pruned, the bad ones, and importance sees only complete ones: it "
            "would come out too small for what they had in common. Open a study with pruner=optuna.pruners.NopPruner()."
        )
    complete = _from_worst(study)
    if len(complete) < 2:
        raise ValueError("Importance needs two complete trials or more: run the study further.")
    failed = [copy.copy(trial) for trial in _trials(study, TrialState.FAIL) if "error" in trial.user_attrs]
    for trial in failed:
        trial.state, trial.values = TrialState.COMPLETE, complete[0].values
    counted = optuna.create_study(direction=study.direction)
    counted.add_trials([*complete, *failed])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # marked experimental before Optuna 5
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(counted, evaluator=evaluator)
    return {name: found.get(name, 0.0) for name in space}


def draw_importance(shares: Sequence[dict[str, float]]) -> Figure:
    """Draw the mean importance over several studies, and each study as a dot."""
    names = list(shares[0])
    figure, axis = figures.new(height=0.9 + 0.45 * len(names))
    table = np.array([[study[name] for name in names] for study in shares])
    rows = np.arange(len(names))
    axis.barh(rows, table.mean(axis=0), height=0.6, color=COLORS["sky"])
    for study in table:
        axis.plot(study, rows, "o", color=COLORS["black"], ms=3, alpha=0.6)
    axis.set_yticks(rows, names)
    axis.invert_yaxis()
    axis.set(xlabel=f"importance (share); a dot is one of {len(shares)} studies", xlim=(0, 1))
    axis.set_title(importance_finding(shares))
    return figure


def importance_finding(shares: Sequence[dict[str, float]]) -> str:
    """Say what is most important on average, and how far single studies are apart."""
    means = {name: np.mean([study[name] for study in shares]) for name in shares[0]}
    top = max(means, key=means.__getitem__)
    values = [study[top] for study in shares]
    agree = sum(max(study, key=study.__getitem__) == top for study in shares)
    return f"{top} comes first in {agree} of {len(shares)} studies; its share is {min(values):.2f} to {max(values):.2f}"


def draw_parallel(study: optuna.Study, space: Space) -> Figure:
    """Draw a line for each trial through its choices: the darker, the better; gray where it was pruned."""
    trials = _from_worst(study)
    figure, axis = figures.new(height=3.4)
    shades = colormaps["viridis_r"](np.linspace(0, 1, len(trials)))
    best = trials[-max(len(trials) // 5, 1) :]
    for trial in _trials(study, TrialState.PRUNED):
        axis.plot(range(len(space)), _heights(trial, space), color=COLORS["light gray"], linewidth=0.8)
    for shade, trial in zip(shades, trials, strict=True):
        axis.plot(range(len(space)), _heights(trial, space), color=shade, linewidth=2.2 if trial in best else 1)
    for column, values in enumerate(space.values()):
        for place in {0, len(values) // 2, len(values) - 1}:
            height = place / max(len(values) - 1, 1)
            axis.annotate(_text(values[place]), (column, height), (4, 0), textcoords="offset points", **_ON_WHITE)
    axis.set_xticks(range(len(space)), list(space))
    axis.set(ylabel="place in the space", yticks=[], xlabel="hyperparameter", xlim=(-0.1, len(space) - 0.7))
    axis.set_title(parallel_finding(study, space))
    return figure


def parallel_finding(study: optuna.Study, space: Space) -> str:
    """Say which values of the first hyperparameter the best fifth of the complete trials has."""
    trials = _from_worst(study)
    best = trials[-max(len(trials) // 5, 1) :]
    if not best:
        return "No trial is complete yet"
    name = next(iter(space))
    places = sorted({_place(trial, name, space) for trial in best})
    values = " to ".join(_text(space[name][place]) for place in dict.fromkeys((places[0], places[-1])))
    return f"{len(trials)} complete; the best {len(best)}: {name} {values}"


def draw_slices(study: optuna.Study, space: Space) -> Figure:
    """Draw each finished trial's value over each hyperparameter by itself; gray where it was pruned."""
    figure, axes = figures.new(9.0, 2.8, ncols=len(space), sharey=True)
    for axis, name in zip(np.atleast_1d(axes), space, strict=True):
        for state, color in ((TrialState.PRUNED, "light gray"), (TrialState.COMPLETE, "blue")):
            trials = _trials(study, state)
            axis.scatter([_place(t, name, space) for t in trials], [t.value for t in trials], s=12, color=COLORS[color])
        _label(axis, space[name])
        axis.set_xlabel(name)
    np.atleast_1d(axes)[0].set_ylabel("value")
    figure.suptitle(parallel_finding(study, space))
    return figure


def _heights(trial: FrozenTrial, space: Space) -> list[float]:
    return [_place(trial, name, space) / max(len(values) - 1, 1) for name, values in space.items()]


def _label(axis: Axes, values: tuple) -> None:
    places = range(0, len(values), max(1, len(values) // 4))
    axis.set_xticks(list(places), [_text(values[place]) for place in places])
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlim(-0.5, len(values) - 0.5)


def _text(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, int | float) else str(value)


def _place(trial: FrozenTrial, name: str, space: Space) -> int:
    return place_of(trial.params[name], name, plain_space(space)[name])


def _value(trial: FrozenTrial) -> float:
    return cast(float, trial.value)  # a finished trial has one


def _from_worst(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials, the best at the end."""
    minimized = study.direction.name == "MINIMIZE"
    return sorted(_trials(study, TrialState.COMPLETE), key=_value, reverse=minimized)


def _trials(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(state,))
