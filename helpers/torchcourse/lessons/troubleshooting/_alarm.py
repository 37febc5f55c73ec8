"""An invariant that is broken."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """One broken invariant: its name, and a sentence with what was seen and where to look."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
