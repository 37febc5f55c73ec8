"""Studies by Optuna: kept in a database, resumed after a kill, shared by several workers.

    study = open_study("sqlite:///digits.db", SPACE)
    run(study, accuracies, trials=30)              # until 30 trials are finished, those of earlier runs included
    run_workers("sqlite:///digits.db", SPACE, accuracies, trials=60, workers=2)

The objective is a generator: `accuracies(settings)` yields a value after each epoch, and training stops when nobody
asks for the next one. So early stopping (pruning) needs no code in it, and Ray Tune (`ray_tune`) takes the same one.

A study remembers its space. A trial that was cut short, by a kill or by Ctrl-C, is run again with the same settings.
A trial that raises, or whose value is NaN or infinitely good, has failed: it keeps why (`trial.user_attrs["error"]`),
and the study goes on.
"""

import collections
import contextlib
import math
import random
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from torchcourse.interrupts import stopped
from torchcourse.lessons.tuning import _database
from torchcourse.lessons.tuning._database import StudyError
from torchcourse.lessons.tuning._pruning import FairPruner, LearnsFromFailures
from torchcourse.lessons.tuning.search import GIVE_UP, Objective, begin, number
from torchcourse.lessons.tuning.space import Space, categories, is_ordered, place_of, plain_space
from torchcourse.lessons.tuning.trial_progress import TrialProgress
from torchcourse.ranks import who
from torchcourse.units import is_whole_number

Direction = Literal["maximize", "minimize"]
_LONGEST_NAME = 512  # in the databases of Optuna

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class CourseStudy(optuna.Study):
    """A study over a space, asked and answered in values of the space; `open_study` opens one.

    Only `trial.params` holds what Optuna stores, such as the position of a number: see `settings_of`.

    Attributes:
        space: hyperparameter → its values.
        stopped: whether `stop()` was called since `run` began.
    """

    space: Mapping[str, tuple]
    stopped = False

    def stop(self) -> None:
        """End `run` after this trial; for an objective or a callback."""
        super().stop()
        self.stopped = True

    def enqueue_trial(
        self, params: dict[str, Any], user_attrs: dict[str, Any] | None = None, skip_if_exists: bool = False
    ) -> None:
        """Have a setting run next. What it leaves open is drawn.

        Args:
            params: hyperparameter → a value of the space.

        Raises:
            ValueError: for a hyperparameter or a value that is not in the space.
        """
        stored = {name: _stored(value, name, self.space) for name, value in params.items()}
        super().enqueue_trial(stored, user_attrs, skip_if_exists)

    @property
    def best_params(self) -> dict[str, Any]:
        """The setting of the best trial, in values of the space.

        Raises:
            StudyError: when no trial is complete.
        """
        if not self.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            states = collections.Counter(trial.state.name.lower() for trial in self.get_trials(deepcopy=False))
            seen = ", ".join(f"{count} {state}" for state, count in states.items()) or "no trial yet"
            raise StudyError(f"No trial of the study is complete ({seen}), so none is the best: run more trials.")
        return settings_of(self.best_trial, self.space)


def open_study(
    url: str | None,
    space: Space,
    name: str = "study",
    direction: Direction = "maximize",
    pruner: optuna.pruners.BasePruner | None = None,
) -> CourseStudy:
    """Open the study `name` in the database `url`: a new one, or the one that is there, with all its trials.

    Args:
        url: such as `sqlite:///file.db`, or of any database that SQLAlchemy reaches; None keeps the study in memory.
            An empty one is refused, since all trials would be lost.
        space: hyperparameter → its values; `digits_task.SPACE` is one.
        direction: what to do with the value that the objective yields last.
        pruner: None for successive halving, which keeps a third at epochs 1, 3, 9 …

    Raises:
        StudyError: for a file that is not a study, that is locked, or a study with a different space or direction.
        ValueError: for a space whose values are no sequence, or that a study cannot keep; for a name or a direction
            that is none.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"The name of a study is a text of 1 to {_LONGEST_NAME} characters, but this one is {name!r}.")
    if direction not in get_args(Direction):
        raise ValueError(f"direction is 'maximize' or 'minimize', but this one is {direction!r}.")
    space = plain_space(space)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it would log, `run` says in one sentence
    pruner = FairPruner(pruner or optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3))
    description = {name: list(categories(name, values)) for name, values in space.items()}
    with _database.errors_explained("memory" if url is None else url):
        storage = optuna.storages.InMemoryStorage() if url is None else _database.storage(url)
        optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        study = CourseStudy(name, storage, pruner=pruner)
        study.space = space
        if "space" not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr("space", description)
        known = study.user_attrs.get("space", {})
    if known != description:
        raise StudyError(
            f"The study {name!r} in {url} has a different space ({_difference(known, description)}): its trials would "
            "mean something else. Give the study of the new space a different name."
        )
    if study.direction.name.lower() != direction:
        raise StudyError(
            f"The study {name!r} in {url} is there to {study.direction.name.lower()}, but you asked to {direction}: "
            "give the study of the other direction a different name."
        )
    return study


@_database.errors_explained("of the study")
def run(
    study: optuna.Study,
    objective: Objective,
    trials: int,
    *,
    seed: int = 0,
    worker: int = 0,
    on_trial: Callable[[optuna.Study, FrozenTrial], None] | None = None,
    progress: bool = True,
) -> optuna.Study:
    """Run trials by TPE until `trials` of the study are finished, those of earlier runs and other workers included.

    A trial that fails is not finished, and does not end the run. Each trial draws from its own random numbers, made
    of seed, worker and the number of trials before it. A worker that waits for the last trials of others takes over
    when one of them dies. With W workers, up to W − 1 trials more than asked for may be finished. `study.stop()`,
    called by the objective or by `on_trial`, ends the run early.

    Args:
        study: from `open_study`.
        seed: of the search.
        worker: a different number for each worker, or they draw the same settings. Each trial keeps it as `worker`.
        on_trial: called after each trial with the study and the trial.
        progress: whether to show a bar.

    Raises:
        StudyError: when `GIVE_UP` trials in a row have failed, and for a study that `open_study` did not open. What
            is finished is kept.
        ValueError: for trials that are no whole number.
    """
    study = _opened(study)
    _check_whole("trials", trials, least=0)
    in_a_row, under_way = list[_Failure](), list[int]()
    followed = _counting_failures(objective, study, worker, in_a_row, under_way)
    study.stopped = False
    with TrialProgress(trials, _finished(study)) if progress else contextlib.nullcontext() as shown:
        while not study.stopped and _finished(study) < trials:
            _database.revive(study)
            states = [trial.state for trial in study.get_trials(deepcopy=False)]
            if sum(state in (*_FINISHED, TrialState.RUNNING) for state in states) >= trials:
                time.sleep(0.1)  # enough are on their way; be there if one of them dies
                continue
            study.sampler = _sampler(seed, worker, len(states))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
                try:
                    study.optimize(followed, n_trials=1, callbacks=[on_trial] if on_trial else [], catch=(_Failure,))
                except BaseException as error:
                    _database.cut_short(study, under_way)
                    if not isinstance(error, KeyboardInterrupt):
                        raise
                    raise stopped(
                        f"The study was stopped with {_finished(study)} of {trials} trials finished, and they are "
                        f"kept. Run it again: it goes on{' with the trial that was cut short' if under_way else ''}."
                    ) from None
            if shown:
                shown.show(_finished(study), _best(study))
            if len(in_a_row) == GIVE_UP:
                raise _given_up(study, in_a_row[-1])
    return study


def _check_whole(name: str, number: object, least: int) -> None:
    if not is_whole_number(number) or number < least:
        raise ValueError(f"{name} has to be a whole number, {least} or more, but is {number!r}.")


def _opened(study: optuna.Study) -> CourseStudy:
    if not isinstance(study, CourseStudy):
        raise StudyError(
            f"The study {study.study_name!r} was not opened by open_study, so its space is not known here: open it "
            "with open_study(url, SPACE, name), or run it with study.optimize."
        )
    return study


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=_FINISHED))


def _best(study: optuna.Study) -> float | None:
    return study.best_value if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def run_workers(
    url: str,
    space: Space,
    objective: Objective,
    trials: int,
    workers: int = 2,
    name: str = "study",
    direction: Direction = "maximize",
    seed: int = 0,
) -> optuna.Study:
    """Run one study by several processes of this machine at once; return it. See `run`.

    On several machines, start a script on each that calls `open_study` with the same address, then `run` with a
    worker number of its own. SQLite is for one machine; take PostgreSQL or MySQL for several.
    """
    from torchcourse.ranks.run import run_ranks

    _check_whole("trials", trials, least=0)
    _check_whole("workers", workers, least=1)
    if url is None:
        raise StudyError("None is a study in memory, and each worker would have its own: write 'sqlite:///study.db'.")
    study = open_study(url, space, name, direction)  # make the tables once, before the workers meet
    work = (url, dict(space), objective, trials, name, direction, seed)
    with TrialProgress(trials, _finished(study)) as shown:
        with shown.following(lambda: (_finished(study), _best(study))):
            run_ranks(_work, *work, world_size=workers, timeout=None)
        shown.show(_finished(study), _best(study))
    return open_study(url, space, name, direction)


def tell(study: optuna.Study, trial: FrozenTrial) -> None:
    """Print a line on a trial that has ended, just now or long ago; `run(…, on_trial=tell)` shows a search going on."""
    epochs, state = len(trial.intermediate_values), trial.state.name.lower()
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    until_then = [each.value for each in complete if each.value is not None and _end(each) <= _end(trial)]
    better = max if study.direction == StudyDirection.MAXIMIZE else min
    best = f", best so far {better(until_then):.3f}" if until_then else ""
    if trial.state == TrialState.FAIL:
        print(f"trial {trial.number:3d}: failed, {trial.user_attrs.get('error', 'cut short')}{best}", flush=True)
        return
    print(f"trial {trial.number:3d}: {trial.value:.3f} after {epochs} epochs, {state}{best}", flush=True)


def _end(trial: FrozenTrial) -> float:
    """When a trial ended; in a time to come where it is still running."""
    return trial.datetime_complete.timestamp() if trial.datetime_complete else math.inf


def settings_of(trial: FrozenTrial | optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the values of a trial: Optuna keeps the position of a number in the space, which has an order."""
    space = plain_space(space)
    return {name: space[name][place_of(value, name, space[name])] for name, value in trial.params.items()}


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Let the sampler choose a value for each hyperparameter: a position among ordered numbers, else a category."""
    space = plain_space(space)
    for name, values in space.items():
        if is_ordered(values):
            trial.suggest_int(name, 0, len(values) - 1)
        else:
            trial.suggest_categorical(name, categories(name, values))
    return settings_of(trial, space)


def _stored(value: Any, name: str, space: Space) -> Any:
    """Return what a trial stores for a value of the space."""
    values = space.get(name, ())
    if value not in values:
        raise ValueError(
            f"{name} = {value!r} is not in the space of the study, whose values are {space[name]}."
            if name in space
            else f"{name!r} is not in the space of the study, which has {', '.join(space)}."
        )
    place = values.index(value)
    return place if is_ordered(values) else categories(name, values)[place]


def _work(
    url: str, space: Space, objective: Objective, trials: int, name: str, direction: Direction, seed: int
) -> None:
    run(open_study(url, space, name, direction), objective, trials, seed=seed, worker=who.rank())


def _difference(known: Mapping[str, list], asked: Mapping[str, list]) -> str:
    lines = [
        f"{name} was {known.get(name, 'absent')}, now {asked.get(name, 'absent')}"
        for name in sorted({*known, *asked})
        if known.get(name) != asked.get(name)
    ]
    return "; ".join(lines)


class _Failure(Exception):
    """A trial raised, or yielded no number: the text says which one, and why."""


def _given_up(study: CourseStudy, last: _Failure) -> StudyError:
    kept = len(study.get_trials(deepcopy=False, states=_FINISHED))
    why = str(last).rstrip(".")
    error = StudyError(
        f"{GIVE_UP} trials in a row have failed, the last one, {why}. The {kept} finished trials are kept; mend the "
        "objective, then run the study again."
    )
    error.__cause__ = last.__cause__
    return error


def _counting_failures(
    objective: Objective, study: CourseStudy, worker: int, in_a_row: list[_Failure], under_way: list[int]
) -> Callable[[optuna.Trial], float]:
    """Return the function that runs a trial.

    It keeps in `in_a_row` the failures since the last trial that held, and in `under_way` the trial that has no end.
    """

    def followed(trial: optuna.Trial) -> float:
        under_way[:] = [trial.number]
        try:
            value = _follow(trial, objective, study, worker)
        except Exception as end:
            under_way.clear()
            in_a_row[:] = [*in_a_row, end] if isinstance(end, _Failure) else []
            error: BaseException | None = end
            cleared: set[int] = set()
            while error and id(error) not in cleared:  # an error may be its own cause
                cleared.add(id(error))
                traceback.clear_frames(error.__traceback__)  # they hold what filled the memory, which the next needs
                error = error.__cause__ or error.__context__
            raise
        under_way.clear()
        in_a_row.clear()
        return value

    return followed


def _follow(trial: optuna.Trial, objective: Objective, study: CourseStudy, worker: int) -> float:
    """Ask for epoch after epoch; report each value, and stop where the pruner says so.

    Raises:
        _Failure: instead of what the objective raises.
    """
    trial.set_user_attr("worker", worker)
    settings = suggest(trial, study.space)
    value, best = None, math.inf if study.direction == StudyDirection.MAXIMIZE else -math.inf
    try:
        for epoch, yielded in enumerate(begin(objective, settings), 1):
            value = number(yielded, best)
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        if value is None:
            raise ValueError("the objective yielded nothing")
    except (optuna.TrialPruned, *_database.ERRORS):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        trial.set_user_attr("error", reason)
        raise _Failure(f"trial {trial.number} with {settings}, by {reason}") from error
    return value


def _sampler(seed: int, worker: int, before: int) -> optuna.samplers.TPESampler:
    own = random.Random(f"{seed} {worker} {before}").getrandbits(31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate TPE, the default since Optuna 5, was experimental before
        return LearnsFromFailures(seed=own, multivariate=True, constant_liar=True)
