"""Say with which data a judge called a learner's part, where the part ends in an error."""

import contextlib
from collections.abc import Iterator

from torchcourse.checks import NotDone, Wrong


@contextlib.contextmanager
def called_with(data: str) -> Iterator[None]:
    """Inside, an error that is no verdict gets a note of what the part was given: sizes that are not the program's.

    Args:
        data: in a few words, such as "5 batches of 8 samples". `judging.examine` shows it below the learner's line.
    """
    try:
        yield
    except (NotDone, Wrong):
        raise
    except (Exception, SystemExit) as error:
        error.add_note(f"The check called it with {data}.")
        raise
