"""What a failed call of `run_ranks` raises: which rank failed, how, and where it was."""


class RankError(RuntimeError):
    """A rank failed. If several did, this is the root cause, not the "connection closed" that it caused elsewhere.

    Attributes:
        rank: the rank that failed.
        kind: the name of the exception's class, "ProcessDied" for a process that ended without an exception, or
            "TimeoutError".
        message: the exception's text.
        traceback: that rank's traceback with the source lines of the cell, or its stack.
        note: what else is known, for example which other ranks failed.
    """

    def __init__(self, rank: int, kind: str, message: str, traceback: str = "", note: str = "") -> None:
        super().__init__(rank, kind, message, traceback, note)
        self.rank, self.kind, self.message, self.traceback, self.note = rank, kind, message, traceback, note

    def __str__(self) -> str:
        headline = f"rank {self.rank}: {self.message if self.kind == 'ProcessDied' else f'{self.kind}: {self.message}'}"
        traceback = self.traceback.removesuffix(f"{self.kind}: {self.message}".rstrip()).rstrip()  # the headline has it
        return "\n".join(part for part in (headline, self.note, traceback) if part)

    @property
    def left_alone(self) -> bool:
        """Whether the rank met no error of its own: the one that it waited for was gone, returned or failed."""
        return is_victim(self.message)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the rank's traceback without the launcher's own."""
        return f"{type(self).__name__}: {self}".splitlines()


class RankTimeout(RankError, TimeoutError):
    """Some ranks were still running at the time limit; `traceback` shows where each of them was."""

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.note, self.traceback) if part)


def is_victim(message: str) -> bool:
    """Whether an error's text says that this rank only lost its connection to another one."""
    return any(text in message for text in _VICTIM)


# Texts of the errors that a rank meets because another rank is gone.
_VICTIM = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "connectFullMesh failed")
