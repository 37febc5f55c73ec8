"""The check of milestone M2: a study that is killed and resumed."""

import contextlib
import io
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from torchcourse.checks import Wrong, check
from torchcourse.checks.limits import TimeIsUp, time_limit
from torchcourse.lessons.capstone.delivery import deliver
from torchcourse.lessons.datasets.folder import read_table
from torchcourse.ranks.run import RankError, run_ranks
from torchcourse.training.crash import KILL
from torchcourse.units import counted

IMAGES, TRIALS = 160, 3
SECONDS = 80
"""For the search until it is killed."""

EMPTY_SECONDS = 20
"""For the search on a folder with nothing in it."""

TOO_GOOD = 0.6
"""An accuracy that chance does not reach, on a tenth of the pictures or more."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@check
def study(learner: Callable[[str, Path, int], Any]) -> str:
    """Kill the search in its second trial, call it again, and look at what the file holds.

    Then call it where nothing is left to do, where labels are dealt out by chance, and where no pictures are.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its log goes where a grader sees errors
    with tempfile.TemporaryDirectory() as place:
        folder, file = deliver(Path(place) / "delivery", IMAGES, seed=12), Path(place) / "study.db"
        url = f"sqlite:///{file}"
        _kill_in_the_second_trial(learner, url, folder, file)
        before = _trials(url)
        first = {trial.number: (trial.params, trial.value) for trial in before if trial.state in FINISHED}
        returned = learner(url, folder, TRIALS)
        after = _trials(url)
        killed = {trial.number for trial in before if trial.state == TrialState.RUNNING}
        _judge(first, killed, after)
        _judge_values(after)
        _judge_study(_study(url).direction, returned)
        _judge_finished(learner, url, folder)
        _judge_measure(learner, Path(place))
        _judge_memory(learner, Path(place))
    return (
        f"Killed with {counted(len(first), 'trial')} finished and {len(killed)} under way, called again: {TRIALS} are "
        "finished, and those from before are as they were."
    )


def _kill_in_the_second_trial(learner: Callable, url: str, folder: Path, file: Path) -> None:
    try:
        run_ranks(_search_and_die, learner, url, folder, file, world_size=1, timeout=SECONDS)
    except RankError as error:
        if error.kind == "ProcessDied":
            return
        raise
    if not file.exists():
        raise Wrong(
            "not_stored", f"Your search ended, and there is no file at {url.split('/')[-1]}: where is the study?"
        )
    raise Wrong(
        "too_early",
        f"Your search ended before its second trial: asked for {TRIALS + 1}, the file holds "
        f"{sum(trial.state in FINISHED for trial in _trials(url))} finished trials.",
    )


def _search_and_die(learner: Callable, url: str, folder: Path, file: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    threading.Thread(target=_watch, args=(file,), daemon=True).start()
    learner(url, folder, TRIALS + 1)  # a different number than afterwards: it is the same study


def _watch(file: Path) -> None:
    """Kill this process once the file tells of a finished trial and of one under way."""
    while True:
        time.sleep(0.02)
        if not file.exists():
            continue
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
                states = Counter(row[0] for row in database.execute("SELECT state FROM trials"))
        except sqlite3.Error:
            continue  # its tables are being made
        if states["RUNNING"] and states["COMPLETE"] + states["PRUNED"]:
            os.kill(os.getpid(), KILL)


def _trials(url: str) -> list[FrozenTrial]:
    return _study(url).get_trials(deepcopy=False)


def _study(url: str) -> optuna.Study:
    """Return the one study in the file."""
    found = optuna.get_all_study_summaries(url)
    if len(found) != 1:
        raise Wrong(
            "many_studies",
            f"The file holds {len(found)} studies: a search that is called again has to find its own. "
            "Give it one name, and open it by that name.",
        )
    return optuna.load_study(study_name=found[0].study_name, storage=url)


def _judge(first: dict[int, tuple[dict, float | None]], killed: set[int], after: list[FrozenTrial]) -> None:
    now = {trial.number: (trial.params, trial.value) for trial in after}
    if any(now.get(number) != trial for number, trial in first.items()):
        raise Wrong(
            "began_anew", "The trials that were finished before the kill are gone: the search began again from nothing."
        )
    finished = sum(trial.state in FINISHED for trial in after)
    if finished != TRIALS:
        why = "Are those from before the kill counted?" if finished > TRIALS else "Is the trial that died counted?"
        raise Wrong("trials", f"Asked for {TRIALS} trials in all, the file holds {finished} finished ones. {why}")
    running = [trial.number for trial in after if trial.state == TrialState.RUNNING]
    if running:
        raise Wrong(
            "left_running",
            f"Trial {running[0]} died with its process, and the file still says RUNNING. Who looks for signs of life?",
        )

    dead = [trial for trial in after if trial.number in killed and trial.state in FINISHED and not trial.value]
    if dead:
        raise Wrong(
            "dead_finished",
            f"Trial {dead[0].number} died with its process, and the file says that it is finished, with the value "
            f"{dead[0].value}. Nobody measured that: it has failed.",
        )


def _judge_values(after: list[FrozenTrial]) -> None:
    of_one = {name for trial in after for name, values in trial.distributions.items() if values.single()}
    tuned = {name for trial in after for name in trial.params} - of_one
    if len(tuned) < 2:
        rest = f" (There is one value only of {', '.join(sorted(of_one))}.)" if of_one else ""
        raise Wrong(
            "one_axis", f"The study tunes {', '.join(tuned) or 'nothing'}: tune two hyperparameters or more.{rest}"
        )
    values = [trial.value for trial in after if trial.state in FINISHED and trial.value is not None]
    if outside := [value for value in values if not 0 <= value <= 1]:
        raise Wrong("no_accuracy", f"A trial has the value {outside[0]:g}: an accuracy is from 0 to 1.")
    if max(values, default=0) < 0.2:
        raise Wrong(
            "chance",
            f"The best of {TRIALS} trials reads {max(values, default=0):.0%} of the validation part, and guessing 10%. "
            f"Does a trial train, and for more than a few steps? The check's delivery has {IMAGES} pictures: an epoch "
            "is short.",
        )
    _refuse_same_draws([trial for trial in after if trial.state in FINISHED])


def _judge_finished(learner: Callable[[str, Path, int], Any], url: str, folder: Path) -> None:
    learner(url, folder, TRIALS)
    finished = sum(trial.state in FINISHED for trial in _trials(url))
    if finished != TRIALS:
        raise Wrong(
            "goes_on",
            f"Called once more when all {TRIALS} trials were finished, your search leaves {finished} in the file. "
            "There was nothing left to do.",
        )


def _judge_memory(learner: Callable[[str, Path, int], Any], place: Path) -> None:
    """Refuse a search that finishes a trial on a folder with nothing in it: it has pictures of an earlier call."""
    empty, url = place / "empty", f"sqlite:///{place / 'empty.db'}"
    empty.mkdir()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # its trials are to fail
    try:
        # A search may try again until a trial is finished, which none will be.
        with (
            time_limit(EMPTY_SECONDS),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            learner(url, empty, 1)
    except (Exception, TimeIsUp):
        return
    finally:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    if any(trial.state in FINISHED for trial in _trials(url)):
        raise Wrong(
            "remembered",
            "On a folder with nothing in it, your search finishes a trial, with the pictures of an earlier call. Your "
            "own search would train on those of the check. Keep nothing, or keep it by folder.",
        )


def _judge_measure(learner: Callable[[str, Path, int], Any], place: Path) -> None:
    """Refuse values that do not come from reading pictures that a trial has not trained on.

    One more trial, on a delivery whose labels are dealt out by chance: nobody reads more than some 10% of these.
    """
    url = f"sqlite:///{place / 'chance.db'}"
    learner(url, _with_labels_by_chance(place / "chance"), 1)
    values = [trial.value for trial in _trials(url) if trial.state in FINISHED and trial.value is not None]
    if values and max(values) > TOO_GOOD:
        raise Wrong(
            "no_measure",
            f"On a delivery whose labels were dealt out by chance, a trial has the value {max(values):.2f}. Nobody can "
            "read such labels, and guessing gives 0.1. Is the value the share of pictures that are read wrongly, or of "
            "those that were trained on?",
        )


def _with_labels_by_chance(place: Path) -> Path:
    folder = deliver(place, IMAGES, seed=13)
    rows = read_table(folder / "labels.csv", ("file", "card", "label"))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    lines = [f"{row['file']},{row['card']},{rows[other]['label']}" for row, other in zip(rows, order, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,card,label", *lines]) + "\n")
    return folder


def _judge_study(direction: StudyDirection, returned: object) -> None:
    if direction != StudyDirection.MAXIMIZE:
        raise Wrong(
            "direction",
            "A trial's value is an accuracy, and your study minimizes: its best trial is the worst one. What is the "
            "`direction` of a study that nobody names?",
        )
    if not isinstance(returned, optuna.Study):
        raise Wrong("no_study", f"Return the study. You return a value of type {type(returned).__name__}.")


def _refuse_same_draws(finished: list[FrozenTrial]) -> None:
    """Refuse trials that agree in a number that is drawn from a whole range: by chance they do not."""
    seen: dict[tuple[str, float], int] = {}
    for trial in finished:
        for name, values in trial.distributions.items():
            if not isinstance(values, FloatDistribution) or values.step is not None or values.single():
                continue
            first = seen.setdefault((name, trial.params[name]), trial.number)
            if first != trial.number:
                raise Wrong(
                    "same_draws",
                    f"Trials {first} and {trial.number} have the same {name}, {trial.params[name]:.4g}, to the last "
                    "digit. Is it set by hand, or does a sampler with a fixed seed begin from the start again?",
                )
