"""What a training run has reported: one row per epoch, and the loss along the way."""

import html
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """The rows of a fit, oldest first.

    `history["val_loss"]` is one column as a list; `history.rows` has all of it; `history.best` is the row of the best
    epoch. `history.steps` holds a row every `log_every` steps, for curves within an epoch.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None

    def __getitem__(self, column: str) -> list[float]:
        """Return one value per epoch, for example of "loss", "val_accuracy", "lr" or "seconds".

        Raises:
            KeyError: for a column that there is not; the message names those that there are.
        """
        if column not in self._columns():
            raise KeyError(f"There is no column {column!r}; there is: {', '.join(self._columns()) or '–'}.")
        return [row.get(column, float("nan")) for row in self.rows]

    def __len__(self) -> int:
        """The number of epochs."""
        return len(self.rows)

    def since_best(self) -> int:
        """The epochs since the best one; of a run without any, since its beginning."""
        return (self.rows[-1]["epoch"] if self.rows else 0) - (self.best["epoch"] if self.best else 0)

    def __repr__(self) -> str:
        return "\n".join(describe(row) for row in self.rows) or "No epoch has been finished."

    def _repr_html_(self) -> str:
        if not self.rows:
            return html.escape(repr(self))
        columns = self._columns()
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_number(row.get(column))}</td>" for column in columns) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _columns(self) -> list[str]:
        """All columns, also those that only some epochs have, such as the ones of a validation."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


def describe(row: dict[str, Any]) -> str:
    """Return an epoch's row as one line of text."""
    return "  ".join(f"{name} {_number(value)}" for name, value in row.items())


def _number(value: Any) -> str:
    if value is None:  # an epoch without validation
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
