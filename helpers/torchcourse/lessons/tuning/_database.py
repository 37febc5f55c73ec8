"""The database of a study: signs of life, trials that were cut short, and errors in words."""

import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

HEARTBEAT = 1
"""Seconds between two signs of life of a running trial."""

GRACE = 4
"""Seconds without a sign of life after which a running trial counts as killed."""

ATTEMPTS = 10
"""How often a worker tries to make the tables of an empty database, when others make them at the same moment."""

LOCK_SECONDS = 20
"""How long a worker waits for another one that writes into the same file."""

ERRORS = (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError)


class StudyError(RuntimeError):
    """A study cannot be opened or cannot go on. The message says what happened, where, and what to do."""


def storage(url: str) -> optuna.storages.RDBStorage:
    """Return the storage at `url`, in which running trials give signs of life and killed ones are run again.

    Raises:
        StudyError: for what is no address, an SQLite file that holds something else, or a database without its driver.
    """
    if url in ("", "sqlite://", "sqlite:///", "sqlite:///:memory:"):
        raise StudyError(
            f"{url!r} names no file, so that the study would be gone with this process. Write 'sqlite:///study.db'; "
            "None keeps it in memory, for a single worker."
        )
    options: dict = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE}
    if url.startswith("sqlite:///"):
        _refuse_foreign(Path(url.removeprefix("sqlite:///")))
        options["engine_kwargs"] = {"connect_args": {"timeout": LOCK_SECONDS}}
    for _ in range(ATTEMPTS - 1):
        try:
            return _connected(url, options)
        except (
            sqlalchemy.exc.IntegrityError,
            sqlalchemy.exc.OperationalError,
            sqlalchemy.exc.ProgrammingError,
        ) as error:
            # Two workers that begin at the same moment both find an empty database, and one comes second.
            if not isinstance(error, sqlalchemy.exc.IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(0.2)
    return _connected(url, options)


def _connected(url: str, options: dict) -> optuna.storages.RDBStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its heartbeat experimental
        try:
            return optuna.storages.RDBStorage(url, heartbeat_stale_trial_callback=run_again, **options)
        except TypeError:  # before Optuna 4.9
            return optuna.storages.RDBStorage(url, failed_trial_callback=run_again, **options)
        except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
            raise StudyError(
                f"Python cannot speak to a database whose address begins with {url.partition(':')[0]}:// here. For "
                'PostgreSQL run pip install "psycopg[binary]", and let the address begin with postgresql+psycopg://.'
            ) from error
        except sqlalchemy.exc.ArgumentError as error:
            name = url.rpartition("/")[2].rpartition(":")[2] or "study.db"
            raise StudyError(
                f"{url!r} is no address of a database. For a file in this folder write 'sqlite:///{name}', with three "
                "slashes; before a path that begins with a slash, too."
            ) from error


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put the settings of a trial that was cut short in front of the queue, for the next worker that asks."""
    settings = trial.system_attrs.get("fixed_params", {}) | trial.params  # what was queued, and what was drawn
    optuna.Study.enqueue_trial(study, settings, user_attrs={"again": trial.number})


def cut_short(study: optuna.Study, numbers: Iterable[int]) -> None:
    """Have trials run again that something else than an error ended: Ctrl-C, sys.exit(), a task that was canceled."""
    with suppress(*ERRORS):  # then they are found by their silence, as after a kill
        for number in numbers:
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)  # Optuna does that for Ctrl-C alone
            run_again(study, study.get_trials(deepcopy=False)[number])


def revive(study: optuna.Study) -> None:
    """End the trials whose workers died, and have them run again."""
    stored = study._storage
    stored = getattr(stored, "_backend", stored)  # a cache stands before the database
    if not isinstance(stored, optuna.storages.RDBStorage):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        optuna.storages.fail_stale_trials(study)
    # Optuna overlooks a trial that was killed before its first sign of life.
    query = (
        "SELECT number FROM trials JOIN studies USING (study_id) LEFT JOIN trial_heartbeats USING (trial_id) "
        "WHERE state = 'RUNNING' AND study_name = :name AND heartbeat IS NULL"
    )
    with stored.engine.connect() as connection:
        silent = {row[0] for row in connection.execute(sqlalchemy.text(query), {"name": study.study_name})}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        started = trial.datetime_start
        if trial.number in silent and started and datetime.now() - started > timedelta(seconds=GRACE):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            run_again(study, trial)


@contextmanager
def errors_explained(where: str) -> Iterator[None]:
    """Turn what the database raises into one sentence.

    Raises:
        StudyError: instead of it.
    """
    try:
        yield
    except (*ERRORS, AssertionError, UnboundLocalError) as raised:
        # Where a trial's end can be written no more, Optuna raises one of the last two on top of the reason.
        error = raised if isinstance(raised, ERRORS) else raised.__context__
        if not isinstance(error, ERRORS):
            raise
        causes = (getattr(each, "orig", None) for each in (error, error.__cause__))
        reason = str(next(filter(None, causes), error.__cause__ or error))
        if "locked" in reason:
            raise StudyError(
                f"Another program has held the database {where} locked for {LOCK_SECONDS} seconds: close it, then run "
                "the study again. The finished trials are kept."
            ) from error
        raise StudyError(
            f"The database {where} does not answer as a study's does ({reason}): look at its address, whether its "
            "folder exists and has room, and whether this program may write there."
        ) from error


def _refuse_foreign(path: Path) -> None:
    """Optuna would add its own tables to any database."""
    try:
        if not path.exists() or path.stat().st_size == 0:
            return
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (OSError, sqlite3.OperationalError):
        return  # locked, or not to be read: said when the study is opened
    except sqlite3.DatabaseError as error:
        raise StudyError(
            f"{path} cannot be read as an SQLite database ({error}): give the study a new file, or put a copy back."
        ) from error
    if tables and "studies" not in tables:
        raise StudyError(
            f"{path} is a database of another program (table {min(tables)!r}): give the study a file of its own."
        )
