"""What tests of a lesson's keys ask of its bank."""

import re

import pytest

from torchcourse.quiz import bank, choice_order


class Keys:
    """The questions of one lesson, and of their variants, by name."""

    def __init__(self, lesson: str) -> None:
        self.lesson = lesson

    def asked(self, name: str):
        """Return a question with its choices as the file lists them, whatever order was drawn for learners."""
        return choice_order.in_file_order(bank.lesson(self.lesson).question(name)[1])

    def key(self, name: str) -> float | str:
        return self.asked(name).key

    def mistakes(self, name: str) -> list[float]:
        """Return the wrong numbers that the question expects, from the smallest."""
        return sorted(mistake.answer for mistake in self.asked(name).mistakes)

    def program(self, name: str) -> str:
        """Return the first block of code in the question's English text."""
        return re.search(r"```\n(.*?)```", self.asked(name).text.en, re.DOTALL)[1]


def now(lesson: str, name: str, letters: str) -> str:
    """Return the letters that some choices have today, given the letters that the bank's file gives them."""
    return str(choice_order.answer_now(bank.lesson(lesson).question(name)[1], {"answer": letters}))


def close(*numbers: float, rel: float = 2e-3) -> list:
    """Return the numbers, from the smallest, to be compared with what a bank has rounded."""
    return [pytest.approx(number, rel=rel, abs=1e-9) for number in sorted(numbers)]
