"""Who guesses does not pass: neither place nor length nor a strong word tells the right choice, in any bank."""

import functools
import random
import re
from collections.abc import Callable
from statistics import mean

import pytest

from torchcourse.quiz import bank
from torchcourse.quiz.answers import score
from torchcourse.quiz.questions import Choice, ChoiceQuestion, NumberQuestion, Question, versions

# Words that a wrong choice claims too much with. Code does not count.
ABSOLUTE = re.compile(
    r"\b(always|never|only|none|nothing|all|every|everything|everybody|nobody|any|impossible|cannot)\b"
    r"|항상|언제나|절대|모두|모든|전혀|아무|반드시",
    re.IGNORECASE,
)
SEEDS = range(20)

Player = Callable[[Question, random.Random], object]


def letters(wanted: Callable[[ChoiceQuestion], str]) -> Player:
    """A player who chooses the wanted letters, and answers nothing else."""
    return lambda question, _random: wanted(question) if isinstance(question, ChoiceQuestion) else None


def always(letter: str, question: ChoiceQuestion) -> str:
    return letter if letter in question.letters else ""


def by_length(question: ChoiceQuestion, language: str, sign: int) -> str:
    """The letter of the longest choice (sign 1) or of the shortest (sign -1); the first of equals."""
    lengths = [sign * len(choice.text[language]) for choice in question.choices]
    return question.letters[lengths.index(max(lengths))]


def is_absolute(choice: Choice, language: str) -> bool:
    return bool(ABSOLUTE.search(re.sub(r"`[^`]*`", "", choice.text[language])))


def without_absolutes(language: str, question: Question, chance: random.Random) -> object:
    """Rule out what claims too much, and guess among the rest."""
    if not isinstance(question, ChoiceQuestion):
        return None
    paired = zip(question.letters, question.choices, strict=True)
    meek = [letter for letter, choice in paired if not is_absolute(choice, language)]
    return chance.choice(meek or list(question.letters))


def at_random(question: Question, chance: random.Random) -> object:
    if question.kind == "order":
        return "".join(chance.sample(question.letters, len(question.letters)))
    if question.kind == "number":
        return float(chance.choice([0, 1, 2, 3, 4, 5, 8, 10, 16, 100]))
    if question.kind == "several":
        return "".join(letter for letter in question.letters if chance.random() < 0.5) or None
    return chance.choice(question.letters) if question.letters else None


def in_order(question: Question, step: int) -> object:
    if question.kind == "number":
        return 1.0
    return question.letters[::step] if question.kind == "order" else question.letters[::step][:1] or None


PLAYERS: dict[str, Player] = {
    **{f"always {letter}": letters(functools.partial(always, letter)) for letter in "ABCD"},
    "B of three, C of more": letters(lambda asked: {2: "A", 3: "B"}.get(len(asked.letters), "C")),
    "first": lambda question, _random: in_order(question, 1),
    "last": lambda question, _random: in_order(question, -1),
    "all": letters(lambda asked: asked.letters if asked.kind == "several" else "A"),
    "random": at_random,
    **{f"longest, {lang}": letters(functools.partial(by_length, language=lang, sign=1)) for lang in ("en", "ko")},
    **{f"shortest, {lang}": letters(functools.partial(by_length, language=lang, sign=-1)) for lang in ("en", "ko")},
    **{f"no strong words, {lang}": functools.partial(without_absolutes, lang) for lang in ("en", "ko")},
}


def earned(lesson: str, player: Player) -> float:
    """Return the share of a quiz's points that a player gets, on average over some seeds."""
    questions, shares = bank.lesson(lesson).questions, []
    for seed in SEEDS:
        chance, points = random.Random(seed), 0.0
        for question in questions:
            answer = player(question, chance)
            if answer and question.kind not in ("text", "open"):
                tolerance = question.tolerance if isinstance(question, NumberQuestion) else 0.0
                share = score(question.kind, answer, question.key, question.letters, tolerance)
                points += question.points * share
        shares.append(points)
    return mean(shares) / sum(question.points for question in questions)


@pytest.mark.parametrize("lesson", bank.lessons())
def test_no_player_gets_a_third_of_the_points(lesson: str) -> None:
    found = {name: earned(lesson, player) for name, player in PLAYERS.items()}
    assert {name: round(share, 2) for name, share in found.items() if share >= 1 / 3} == {}


def choice_questions(lesson: str) -> list[ChoiceQuestion]:
    """The questions with choices, variants too. One whose order is fixed is quoted, and stays as it is."""
    asked = [version for first in bank.lesson(lesson).questions for version in versions(first)]
    return [each for each in asked if isinstance(each, ChoiceQuestion) and not each.fixed_order]


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("lesson", bank.lessons())
def test_the_length_of_a_choice_does_not_tell_that_it_is_right(lesson: str, language: str) -> None:
    asked = choice_questions(lesson)
    by_chance = sum(len(each.key) / len(each.letters) for each in asked)
    longest = [each.id for each in asked if by_length(each, language, 1) in each.key]
    shortest = [each.id for each in asked if by_length(each, language, -1) in each.key]
    assert len(longest) <= by_chance + 1, f"right is longest: shorten it, or give a wrong one its reason: {longest}"
    assert len(shortest) <= by_chance + 3, f"right is shortest: {shortest}"
    lengths = {
        is_right: mean(
            mean(len(choice.text[language]) for choice in each.choices if choice.right == is_right) for each in asked
        )
        for is_right in (True, False)
    }
    assert lengths[True] <= lengths[False] + 0.5, "right choices are longer than wrong ones on average"


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("lesson", bank.lessons())
def test_strong_words_do_not_tell_that_a_choice_is_wrong(lesson: str, language: str) -> None:
    choices = [choice for each in choice_questions(lesson) for choice in each.choices]
    share = {
        is_right: mean(is_absolute(choice, language) for choice in choices if choice.right == is_right)
        for is_right in (True, False)
    }
    strong = [choice.text[language] for choice in choices if is_absolute(choice, language) and not choice.right]
    assert share[False] <= share[True] + 0.15, f"words such as always and never give these away: {strong}"
