"""The final: ten questions from all lessons, and how they went, beside earlier tries.

    final()                                  # the ten cards of a try; a new try when none is open
    final_result()                           # how the last try went, and what it was before
    final_elsewhere(5, 10, day="2023-09-14")  # an exam taken elsewhere, to compare with

The first answer to each question counts. What is drawn, and each answer, is a line of the journal.
"""

import os
import secrets
from dataclasses import astuple
from datetime import date, timedelta
from typing import Any, cast

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.final import final_draw
from torchcourse.lessons.start_here.final_results import Result, Sitting, result_lines, results, sittings
from torchcourse.quiz import bank, choice_order, render
from torchcourse.quiz.cards import Card, Deck, NotShown
from torchcourse.quiz.questions import Text
from torchcourse.quiz.texts import LANGUAGES, say
from torchcourse.units import is_whole_number


def final(*, again: bool = False) -> "Final":
    """Show the final that is open, or else begin one; after a finished one, only if asked `again`.

    Args:
        again: whether to begin a new one where the last one is finished. An open one always goes on.
    """
    if "NBGRADER_EXECUTION" in os.environ:
        return cast(Final, NotShown())
    entries = journal.read()
    tries = sittings(entries)
    if not tries or (again and not tries[-1].waiting):
        drawn = [list(astuple(asked)) for asked in final_draw.for_learner(entries)]
        journal.record("final", state="begun", final=secrets.token_hex(4), questions=drawn)
        tries = sittings(journal.read())
    return Final(tries[-1])


def final_result() -> Deck:
    """Show how the finals went: right answers, time, how sure against how right, and the tries before."""
    entries = journal.read()
    tries = sittings(entries)
    waiting = len(tries[-1].waiting) if tries else 0
    lines = result_lines(results(entries)) or [say("final_none")]
    return Deck([say("final_waiting", count=waiting), *lines] if waiting else lines)


def final_elsewhere(right: int, total: int, day: str | date) -> Deck:
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
    """A card of a final: its first answer counts."""

    after_wrong = "first_counts"

    def __init__(self, sitting: Sitting, number: int, *parts: Any, draw: int) -> None:
        super().__init__(*parts, draw=draw)
        self.name, self.place = sitting.name, number
        self.counted = sitting.answers.get((self.lesson, self.question.id))
        """The answer that counts, None where there is none yet."""
        place = {language: say("final_place", language, number=number, total=sitting.total) for language in LANGUAGES}
        self.title = Text(**{language: f"{place[language]} · {self.title[language]}" for language in LANGUAGES})

    def note(self) -> str:
        [sitting] = [each for each in sittings(journal.read()) if each.name == self.name]
        waiting = len(sitting.waiting)
        return say("final_left" if waiting else "final_all_answered", count=waiting)

    def _ipython_display_(self) -> None:
        if self.counted is None:
            super()._ipython_display_()
        else:
            from IPython.display import HTML, display

            display(HTML(self._counted_html(self.counted)))

    def _counted_html(self, counted: Entry) -> str:
        """Return the question with the answer that counts; the explanation is folded on a later day."""
        fresh = journal.when(counted).date() == self.begun.date()
        told = render.told_html(self.question, counted, fresh=fresh)
        return render.static_html(self.question, self.heading(), say("final_counted"), told)

    def _names(self) -> dict[str, str]:
        return super()._names() | {"final": self.name}

    def _line(self) -> str:
        call = f"final()[{self.place}].answer({self._example()}, sure=2)"
        return f"from torchcourse.lessons.final.final_quiz import final; {call}"


class Final(Deck):
    """The cards of one final. `final()[3]` is the third."""

    def __init__(self, sitting: Sitting) -> None:
        self.sitting = sitting
        cards: list[FinalCard] = []
        for each in sitting.asked:
            if found := bank.find(each.lesson, each.wording):
                lesson, first, shown = found
                shown = choice_order.redrawn(shown, each.draw)
                cards.append(FinalCard(sitting, len(cards) + 1, lesson, first, shown, draw=each.draw))
        lines = [say("final_head", count=len(cards), waiting=len(sitting.waiting))]
        if gone := [each.wording for each in sitting.gone]:
            lines.append(say("final_gone", names=", ".join(gone)))
        if not sitting.waiting:
            lines.append(say("final_again"))
        super().__init__(lines, cards)

    def __getitem__(self, number: int) -> Card:
        if not 1 <= number <= len(self.cards):
            raise IndexError(f"This final has the questions 1 to {len(self.cards)}; there is no question {number}.")
        return self.cards[number - 1]
