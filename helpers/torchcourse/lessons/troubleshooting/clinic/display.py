"""What the notebook shows of a patient: the complaint with a fresh log, the evidence, hints one by one, the board."""

import html
from collections.abc import Callable
from typing import Any

from torchcourse import controls, journal, live, notice
from torchcourse.checks.kit import one_thread
from torchcourse.lessons.troubleshooting.clinic.case import Case, find
from torchcourse.lessons.troubleshooting.clinic.cases import WARDS
from torchcourse.lessons.troubleshooting.clinic.program import Program, named
from torchcourse.quiz import markup


class Sheet:
    """A piece of HTML with the same words as plain text."""

    def __init__(self, body: str, text: str) -> None:
        self._body, self._text = body, text

    def _repr_html_(self) -> str:
        return self._body

    def __repr__(self) -> str:
        return self._text


def admit(slug: str) -> Sheet:
    """Run the broken program now; return the complaint, the log of that run, and the program to unfold."""
    case, program = find(slug), Program(slug)
    log = case.log(program)
    journal.record("clinic", case=slug, event="admitted")
    count = program.source.count("\n")
    complaint = f"<b>{html.escape(case.title)}</b>{markup.to_html(case.complaint)}"
    body = (
        f"{notice.box('info', complaint, live=False)}"
        f"<p>The log of a run, made now:</p><pre>{html.escape(log)}</pre>"
        f"<details><summary>The whole program ({count} lines)</summary>"
        f"<pre>{html.escape(_numbered(program.source))}</pre></details>"
    )
    return Sheet(body, f"{case.title}\n\n{markup.to_plain(case.complaint)}\n\n{log}\n\n{_numbered(program.source)}")


def evidence(slug: str) -> dict[str, float] | None:
    """Measure the broken program and show what there is to see; return the numbers that a lesson speaks of, if any."""
    with Program(slug).lend_names() as program, one_thread():
        return find(slug).evidence(program)


def discharge(slug: str) -> Sheet:
    """Return what it was, for a patient who is healed; for the others, that there is something left to do."""
    case = find(slug)
    if _state(slug, journal.read()) != "healed":
        text = "Still in the ward. When the check above accepts your repair, run this cell again: it says what it was."
    else:
        text = f"**What it was.** {case.diagnosis}"
    return Sheet(notice.box("info", markup.to_html(text)), markup.to_plain(text))


def run(slug: str, *parts: Callable, **arguments: Any) -> Sheet:
    """Run the whole program with your parts in the place of the broken ones, and return what it prints."""
    case = find(slug)
    log = case.log(Program(slug, *named(case.parts, parts)), **arguments)
    return Sheet(f"<pre>{html.escape(log)}</pre>", log)


def hint(slug: str) -> str:
    """Open the next hint of this patient and return it; after the third, the third again."""
    case = find(slug)
    number = min(_opened(slug) + 1, len(case.hints))
    if number > _opened(slug):
        journal.record("clinic", case=slug, event="hint", number=number)
    return f"Hint {number} of {len(case.hints)}: {markup.to_plain(case.hints[number - 1])}"


def hints(slug: str) -> "Hints":
    """Return a button that opens one hint after another; those that were opened before stay open."""
    return Hints(find(slug))


class Hints:
    """The hints of a patient as a widget; as text, how to open one by code."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.renew: live.Replace = live.unseen

    def __repr__(self) -> str:
        line = f'from torchcourse.lessons.troubleshooting import clinic; clinic.hint("{self.case.slug}")'
        return f"{len(self.case.hints)} hints. This line opens the next one by code: {line}"

    def _repr_html_(self) -> str:
        """Return what stays when nothing can be clicked: the opened hints, and how to open one by code."""
        return f"{self._opened_html()}<p>{html.escape(repr(self))}</p>"

    def _ipython_display_(self) -> None:
        self.renew = live.show(lambda: controls.with_keys(self.widget()), self._repr_html_(), repr(self))

    def _opened_html(self) -> str:
        shown = enumerate(self.case.hints[: _opened(self.case.slug)], start=1)
        return "".join(f"<p><b>Hint {place}.</b> {markup.to_inline(text)}</p>" for place, text in shown)

    def widget(self) -> Any:
        """Return the button and the opened hints as an ipywidget."""
        import ipywidgets as widgets

        button = widgets.Button(layout=widgets.Layout(width="auto"))
        opened = widgets.HTML()

        def show() -> None:
            number, total = _opened(self.case.slug), len(self.case.hints)
            button.description = f"Open hint {number + 1} of {total}" if number < total else "All hints are open"
            button.disabled = number >= total
            opened.value = self._opened_html()

        def click(_button: Any) -> None:
            hint(self.case.slug)
            show()
            self.renew(self._repr_html_(), repr(self))

        button.on_click(click)
        show()
        return widgets.VBox([button, opened])


def board(*wards: str) -> Sheet:
    """Return who is healed and who is not, with the hints that it took; of these wards, or of all.

    Raises:
        ValueError: if there is no such ward; names those that there are.
    """
    for ward in wards:
        if ward not in WARDS:
            raise ValueError(f"The clinic has no ward '{ward}'. It has: {', '.join(WARDS)}.")
    entries = [entry for entry in journal.read() if entry["kind"] in ("check", "clinic")]
    rows, healed, total = [], 0, 0
    for ward in wards or WARDS:
        for slug in WARDS[ward]:
            state = _state(slug, entries)
            total, healed = total + 1, healed + (state == "healed")
            rows.append((ward, find(slug).title, state, str(_opened(slug, entries))))
    headline = f"{healed} of {total} patients are healed."
    kinds: dict[str, notice.Kind] = {"healed": "right", "not yet": "wrong", "waiting": "open"}
    cells = "".join(
        f'<tr><td>{ward}</td><td style="text-align:left">{html.escape(title)}</td>'
        f'<td style="border-left:5px solid {notice.color(kinds[state])}"><b>{state}</b></td><td>{used}</td></tr>'
        for ward, title, state, used in rows
    )
    head = "<tr><th>ward</th><th>patient</th><th>state</th><th>hints opened</th></tr>"
    text = "\n".join([headline, *(" · ".join(row) for row in rows)])
    return Sheet(f'<p role="status"><b>{headline}</b></p><table>{head}{cells}</table>', text)


def _state(slug: str, entries: list[dict[str, Any]]) -> str:
    """A patient that was healed once stays healed: a later experiment with the cell is none of its business."""
    states = {entry.get("state") for entry in entries if str(entry.get("exercise")).partition(".")[2] == slug}
    return "healed" if "right" in states else "not yet" if "wrong" in states else "waiting"


def _opened(slug: str, entries: list[dict[str, Any]] | None = None) -> int:
    entries = journal.read() if entries is None else entries
    return max(
        (entry["number"] for entry in entries if entry.get("event") == "hint" and entry["case"] == slug), default=0
    )


def _numbered(source: str) -> str:
    return "\n".join(f"{number:3}  {line}".rstrip() for number, line in enumerate(source.splitlines(), start=1))
