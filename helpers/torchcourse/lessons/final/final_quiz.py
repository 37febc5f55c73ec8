"""The final: ten questions from all lessons, and how they went, beside earlier tries.

    final()                                  # the ten cards of a try; a new try when none is open
    final_result()                           # how the last try went, and what it was before
    final_elsewhere(5, 10, day="2023-09-14")  # an exam taken elsewhere, to compare with

The first answer to each question counts. What is drawn and how it went are lines of the journal.
"""

import html
import os
import secrets
from datetime import date, timedelta
from typing import Any, cast

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.start_here.final_results import Result, Sitting, result_lines, results, sittings
from torchcourse.quiz import texts
from torchcourse.quiz.cards import Card, NotShown
from torchcourse.units import is_whole_number


def final(*, again: bool = False) -> "Final":
    """Show the final that is open, or else begin one; after a finished one, only if asked `again`.

    Args:
        again: whether to begin a new one where the last one is finished. An open one always goes on.
    """
    if "NBGRADER_EXECUTION" in os.environ:
        return cast(Final, NotShown())
    from torchcourse.lessons.final import final_draw

    entries = journal.read()
    tries = sittings(entries)
    if not tries or (again and not tries[-1].waiting):
        drawn = final_draw.for_learner(entries)
        rows = [[each.lesson, each.question, each.wording, each.draw] for each in drawn]
        journal.record("final", state="begun", final=secrets.token_hex(4), questions=rows)
        tries = sittings(journal.read())
    return Final(tries[-1])


def final_result() -> "FinalResult":
    """Show how the finals went: right answers, time, how sure against how right, and the tries before."""
    entries = journal.read()
    tries = sittings(entries)
    waiting = len(tries[-1].waiting) if tries else 0
    return FinalResult(results(entries), waiting)


def final_elsewhere(right: int, total: int, day: str | date) -> "FinalResult":
    """Write down an exam that was taken elsewhere, once, and show it beside the tries of this course.

    Args:
        right: how many answers were right.
        total: how many questions there were.
        day: the day of the exam, such as "2023-09-14".

    Raises:
        ValueError: for numbers that no exam gives, or a day that the calendar does not know, or that has not come yet.
    """
    if not (is_whole_number(right) and is_whole_number(total) and 0 <= right <= total and total > 0):
        raise ValueError(
            f"{right!r} of {total!r} is no result: give the right answers, then the number of questions, as whole "
            "numbers."
        )
    try:
        # A moment has a time of day, which would keep it from being equal to the day that the journal keeps.
        exam = date.fromisoformat(str(day)[:10] if isinstance(day, date) else day)
    except (TypeError, ValueError):
        raise ValueError(f"{day!r} is no day: write it as year, month and day, such as '2023-09-14'.") from None
    if exam > date.today() + timedelta(days=1):  # it may be tomorrow already where the exam was
        raise ValueError(f"{exam} is no day on which an exam was: it has not come yet.")
    if Result(exam, int(right), int(total)) not in results(journal.read()):
        journal.record("final", state="elsewhere", right=int(right), total=int(total), day=exam.isoformat())
    return final_result()


class FinalCard(Card):
    """A card of a final: its first answer counts, and the answer that completes the final writes the result down."""

    after_wrong = "first_counts"

    def __init__(self, sitting: Sitting, number: int, *parts: Any, draw: int) -> None:
        from torchcourse.quiz.questions import Text

        super().__init__(*parts, draw=draw)
        self.sitting, self.place = sitting.name, number
        self.counted = sitting.answers.get((self.lesson, self.question.id))
        """The answer that counts, None where there is none yet."""
        place = {
            language: texts.say("final_place", language, number=number, total=sitting.total)
            for language in texts.LANGUAGES
        }
        self.title = Text(**{language: f"{place[language]} · {self.title[language]}" for language in place})

    def check(self, answer: str | float, sure: int | None) -> Any:
        verdict = super().check(answer, sure)
        [sitting] = [each for each in sittings(journal.read()) if each.name == self.sitting]
        if not sitting.waiting and not _is_told(self.sitting):
            journal.record(
                "final",
                state="done",
                final=self.sitting,
                right=sitting.right,
                total=sitting.total,
                seconds=sitting.seconds,
            )
        return verdict

    def note(self, language: str) -> str:
        [sitting] = [each for each in sittings(journal.read()) if each.name == self.sitting]
        waiting = len(sitting.waiting)
        return texts.say("final_left" if waiting else "final_all_answered", language, count=waiting)

    def _ipython_display_(self) -> None:
        if self.counted is None:
            super()._ipython_display_()
        else:
            from IPython.display import HTML, display

            display(HTML(self._counted_html(self.counted)))

    def _counted_html(self, counted: Entry) -> str:
        """Return the question with the answer that counts; the explanation is folded on a later day."""
        from torchcourse.quiz import render

        language = texts.current()
        head = render.heading(self.title, self.question, self.number, language)
        fresh = journal.when(counted).date() == self.begun.date()
        told = render.told_html(self.question, counted, language, fresh=fresh)
        return render.static_html(self.question, head, language, texts.say("final_counted", language), told)

    def _names(self) -> dict[str, str]:
        return super()._names() | {"final": self.sitting}

    def _line(self) -> str:
        call = f"final()[{self.place}].answer({self._example()}, sure=2)"
        return f"from torchcourse.lessons.final.final_quiz import final; {call}"


class Final:
    """The cards of one final. `final()[3]` is the third."""

    def __init__(self, sitting: Sitting) -> None:
        from torchcourse.quiz import bank, choice_order

        self.sitting = sitting
        self.cards: list[FinalCard] = []
        for each in sitting.asked:
            try:
                found = bank.lesson(each.lesson)
                first, shown = found.question(each.wording)
            except bank.BankError:
                continue
            parts = (found, first, choice_order.redrawn(shown, each.draw))
            self.cards.append(FinalCard(sitting, len(self.cards) + 1, *parts, draw=each.draw))

    def __getitem__(self, number: int) -> FinalCard:
        if not 1 <= number <= len(self.cards):
            raise IndexError(f"This final has the questions 1 to {len(self.cards)}; there is no question {number}.")
        return self.cards[number - 1]

    def __len__(self) -> int:
        return len(self.cards)

    @property
    def lines(self) -> list[str]:
        """What is said above the cards."""
        waiting, gone = self.sitting.waiting, [each.wording for each in self.sitting.gone]
        lines = [texts.say("final_head", count=len(self.cards), waiting=len(waiting))]
        if gone:
            lines.append(texts.say("final_gone", names=", ".join(gone)))
        if not waiting:
            lines.append(texts.say("final_again"))
        return lines

    def __repr__(self) -> str:
        return "\n\n".join([*self.lines, *map(repr, self.cards)])

    def _head_html(self) -> str:
        return f'<div class="tc-page">{"".join(f"<p>{html.escape(line)}</p>" for line in self.lines)}</div>'

    def _repr_html_(self) -> str:
        return self._head_html() + "".join(card._repr_html_() for card in self.cards)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self._head_html()), *self.cards)


class FinalResult:
    """How the finals went, in words."""

    def __init__(self, tries: list[Result], waiting: int) -> None:
        self.tries, self.waiting = tries, waiting

    def lines(self, language: str | None = None) -> list[str]:
        """Return a sentence for each thing that there is to say; see `result_lines`."""
        language = language or texts.current()
        waiting = [texts.say("final_waiting", language, count=self.waiting)] if self.waiting else []
        return waiting + (result_lines(self.tries, language) or [texts.say("final_none", language)])

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        from torchcourse.quiz.render import STYLE

        lines = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines())
        return f'{STYLE}<div class="tc-page" lang="{texts.current()}">{lines}</div>'


def _is_told(name: str) -> bool:
    return any(
        entry["kind"] == "final" and entry.get("state") == "done" and entry.get("final") == name
        for entry in journal.read()
    )
