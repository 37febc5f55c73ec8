"""The questions of a bank as a page to read: each choice with its explanation folded under it, in both languages.

The question can be found by the search of the site; what is folded can be read, and is not found by the way.
"""

from torchcourse.quiz import markup
from torchcourse.quiz.questions import (
    Bank,
    NumberMistake,
    NumberQuestion,
    OneQuestion,
    OpenQuestion,
    OrderMistake,
    OrderQuestion,
    Question,
    SeveralQuestion,
    Text,
    TextMistake,
    TextQuestion,
)
from torchcourse.quiz.texts import say
from torchcourse.tools.build.quiz_notebook import worth
from torchcourse.tools.site.lesson_pages import to_open

READING = (
    "Choose first, then open what you chose: the explanation says what speaks for it or against it. In the notebook, "
    "each question is a card that keeps your answers and asks again later, often in different words."
)


def question_page(bank: Bank, path: str, repository: str = "") -> str:
    """Return the page of a bank as Markdown.

    Args:
        path: of its quiz notebook in the repository. repository: where the course is published, if it is.
    """
    number = bank.lesson.partition("_")[0]
    head = f"# Quiz {number}: {bank.title.en}\n\n<p lang='ko'>{markup.to_inline(bank.title.ko)}</p>\n\n"
    parts = [_question(bank, place, question) for place, question in enumerate(bank.questions, start=1)]
    return f"{head}{to_open(path, repository)}\n\n<p class='tc-note'>{READING}</p>\n\n" + "\n\n".join(parts) + "\n"


def _question(bank: Bank, place: int, question: Question) -> str:
    english = _asked_and_answered(bank, question, "en")
    korean = (
        f"<details lang='ko'><summary>한국어</summary>\n\n{_asked_and_answered(bank, question, 'ko')}\n\n</details>"
    )
    return f"## Question {place}\n\n{english}\n\n{korean}"


def _asked_and_answered(bank: Bank, question: Question, language: str) -> str:
    head = f"*{say(f'kind_{question.kind}', language)} · {worth(question.points, language)}*"
    lines = [head, markup.to_markdown(question.text[language])]
    match question:
        case OneQuestion() | SeveralQuestion():
            lines += _choices(bank, question, language)
        case NumberQuestion() | TextQuestion() | OrderQuestion():
            lines += _typed(bank, question, language)
        case OpenQuestion():
            lines += _open(bank, question, language)
    return "\n\n".join(lines)


def _choices(bank: Bank, question: OneQuestion | SeveralQuestion, language: str) -> list[str]:
    """Return each choice as the line on which its explanation opens."""
    kind, parts = "one" if question.kind == "one" else "several", []
    for letter, choice in zip(question.letters, question.choices, strict=True):
        verdict = say(f"{kind}_{'right' if choice.right else 'wrong'}", language)
        why = f"**{verdict}**\n\n{_text(choice.why, language)}{_belief(bank, choice.misconception, language)}"
        parts.append(_folded(f"<b>{letter}.</b> {markup.to_inline(choice.text[language])}", why))
    return parts


def _typed(bank: Bank, question: NumberQuestion | TextQuestion | OrderQuestion, language: str) -> list[str]:
    """Return what a typed answer is compared with, and what the mistakes say that the bank knows."""
    parts = []
    if isinstance(question, OrderQuestion):
        listed = zip(question.letters, question.items, strict=True)
        parts.append("\n".join(f"- **{letter}.** {markup.to_markdown(text[language])}" for letter, text in listed))
    answer = say("answer_is", language, answer=f"**{markup.to_markdown(_key(question, language))}**")
    parts.append(_folded(say("solution", language), f"{answer}\n\n{_text(question.why, language)}"))
    for mistake in question.mistakes:
        given = _given(mistake)
        why = f"{markup.to_markdown(mistake.why[language])}{_belief(bank, mistake.misconception, language)}"
        parts.append(_folded(f"{markup.to_inline(given)}: {say('one_wrong', language)}", why))
    return parts


def _given(mistake: NumberMistake | TextMistake | OrderMistake) -> str:
    if isinstance(mistake, NumberMistake):
        return f"{mistake.answer:g}"
    return ", ".join(mistake.answers) if isinstance(mistake, TextMistake) else mistake.swapped


def _key(question: NumberQuestion | TextQuestion | OrderQuestion, language: str) -> str:
    if isinstance(question, NumberQuestion):
        unit = f" {question.unit[language]}" if question.unit else ""
        return f"{question.answer:g}{unit}"
    if isinstance(question, TextQuestion):
        return " / ".join(question.accepted)
    return " / ".join([str(question.answer), *question.also_right])


def _open(bank: Bank, question: OpenQuestion, language: str) -> list[str]:
    rubric = "\n".join(
        f"- {say('points', language, points=line.points)}: {markup.to_markdown(line.text[language])}"
        for line in question.rubric
    )
    parts = [_folded(say("model_answer", language), f"{_text(question.model_answer, language)}\n\n{rubric}")]
    for mistake in question.mistakes:
        why = f"{markup.to_markdown(mistake.why[language])}{_belief(bank, mistake.misconception, language)}"
        parts.append(_folded(f"“{markup.to_inline(mistake.reasoning[language])}”", why))
    return parts


def _belief(bank: Bank, misconception: str | None, language: str) -> str:
    """Return the misconception behind an answer, as its holder would say it."""
    if misconception is None or misconception not in bank.misconceptions:
        return ""
    belief = markup.to_markdown(bank.misconceptions[misconception][language])
    return f"\n\n{markup.to_markdown(say('think_again', language, idea='{idea}')).replace('{idea}', belief)}"


def _folded(summary: str, text: str) -> str:
    return f"<details class='tc-answer'><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _text(text: Text | None, language: str) -> str:
    return markup.to_markdown(text[language]) if text else ""
