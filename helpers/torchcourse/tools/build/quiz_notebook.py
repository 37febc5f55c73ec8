"""A question bank as the source of its quiz notebook, in the marking that `tools.build.source` reads.

Each question can be read without running anything. Its key stands in the solution and in the hidden test alone, so
the release that nbgrader makes holds no key, no feedback and no model answer.
"""

import json

from torchcourse.quiz import choice_order, markup
from torchcourse.quiz.questions import Bank, BankError, NumberQuestion, OpenQuestion, Question, required
from torchcourse.quiz.texts import say

HOW_EN = """\
Read a question, choose in its card, say how sure you are, and check. A wrong answer is worth more than a lucky one: \
write down what you thought before you read why, and it comes back to you until it sits. Nothing leaves your machine.

On your own you need only the cards. In a class, what is graded is the line that you type in the cell below the \
card. The card shows it ready to copy. For several \
choices you get the share of the right ones that you ticked minus the share of the wrong ones, so ticking everything \
earns nothing."""

HOW_KO = """\
문제를 읽고 카드에서 답을 고른 뒤, 얼마나 확신하는지 표시하고 확인하세요. 틀린 답은 운 좋게 맞힌 답보다 \
값집니다. 해설을 읽기 전에 어떻게 생각했는지 적어 두세요. 문제는 완전히 익힐 때까지 다시 나옵니다. 기록은 이 \
컴퓨터에만 남습니다.

혼자 공부한다면 카드만 풀면 됩니다. 수업에서 채점 대상은 카드 아래 셀에 입력한 줄입니다. 카드가 그 줄을 그대로 \
보여 줍니다. 여러 개를 고르는 문제는 맞는 것을 고른 비율에서 틀린 것을 고른 비율을 뺀 만큼 점수를 받으므로, \
모두 고르면 점수가 없습니다."""

PROMPTS = {
    "one": "# One letter between quotes.",
    "several": "# The letters of all that you choose, between quotes.",
    "number": "# A number.",
    "text": "# A word or two between quotes.",
    "order": "# All letters in your order, between quotes.",
}


def quiz_source(bank: Bank, numbered: bool = False) -> str:
    """Return the percent-format source of the bank's quiz notebook.

    Args:
        bank: the bank.
        numbered: whether each card is told its number, since the notebook asks in wordings that have none in the bank.

    Raises:
        BankError: for a stripped bank, which has no keys to grade with.
    """
    if bank.stripped:
        raise BankError(f"The bank {bank.lesson} has been stripped of its keys; build the quiz from the full bank.")
    number = bank.lesson.partition("_")[0]
    minutes = round(sum(5 if question.kind == "open" else 1.5 for question in bank.questions) + 2)
    head = (
        f"# Quiz {number}: {bank.title.en}\n\n"
        f"{bank.title.ko} · about {minutes} minutes · any computer · after the notebooks of lesson {number}\n\n"
        f"{HOW_EN}\n\n{in_korean(HOW_KO)}"
    )
    cells = [markdown_cell(head), "# %% setup\n", "# %%\nfrom torchcourse import quiz\n"]
    for place, question in enumerate(bank.questions, start=1):
        order = choice_order.moved(question)
        given = f', order="{order}"' if order else ""
        given += f", number={place}" if numbered else ""
        card = f'# %%\nquiz.card("{bank.lesson}", "{question.id}"{given})\n'
        text, *graded = question_cells(bank.lesson, place, question)
        cells += [text, card, *graded]
    return "\n".join(cells)


def question_cells(lesson: str, place: int, question: Question) -> list[str]:
    """Return the source of a question's cells: what is read, then what is graded."""
    text = markdown_cell(_read(place, question))
    if isinstance(question, OpenQuestion):
        return [text, markdown_cell(_model_answer(question), f"written: q{place}, {worth(question.points, 'en')} ")]
    exercise = (
        f"# %% exercise: q{place}\n{PROMPTS[question.kind]}\nanswer_q{place} = {_literal(question)}  ### SOLUTION\n"
    )
    return [text, exercise, f"# %% check: q{place}\n{check_code(lesson, place, question)}"]


def check_code(lesson: str, place: int, question: Question) -> str:
    """Return the code of the cell that grades a question, with its key in a hidden test."""
    tolerance = f", tolerance={question.tolerance!r}" if isinstance(question, NumberQuestion) else ""
    letters = f', letters="{question.letters}"' if question.letters else ""
    return (
        f"received = quiz.received(\n"
        f'    "{lesson}", "{question.id}", answer_q{place}, kind="{question.kind}"{letters}, points={question.points}\n'
        f")\n"
        f"### BEGIN HIDDEN TESTS\n"
        f"received.grade(key={_python(question.key)}{tolerance})\n"
        f"### END HIDDEN TESTS\n"
        f"received\n"
    )


def in_korean(text: str) -> str:
    """Return the text folded away under the word for Korean."""
    return f'<details lang="ko"><summary>한국어</summary>\n\n{text}\n\n</details>'


def markdown_cell(text: str, title: str = "") -> str:
    """Return the source of a cell of prose."""
    lines = "\n".join(f"# {line}".rstrip() for line in text.splitlines())
    return f"# %% {title}[markdown]\n{lines}\n"


def _read(place: int, question: Question) -> str:
    head = f"## Question {place}\n\n*{say(f'kind_{question.kind}', 'en')} · {worth(question.points, 'en')}*"
    return f"{head}\n\n{_asked(question, 'en')}\n\n{in_korean(_asked(question, 'ko'))}"


def _asked(question: Question, language: str) -> str:
    lines = [markup.to_markdown(question.text[language])]
    if question.options:
        listed = zip(question.letters, question.options, strict=True)
        lines.append("\n".join(f"- **{letter}.** {markup.to_markdown(text[language])}" for letter, text in listed))
    if isinstance(question, NumberQuestion) and question.unit:
        lines.append(f"({markup.to_markdown(question.unit[language])})")
    return "\n\n".join(lines)


def _model_answer(question: OpenQuestion) -> str:
    parts = []
    for language in ("en", "ko"):
        rubric = "\n".join(
            f"- {worth(line.points, language)}: {markup.to_markdown(line.text[language])}" for line in question.rubric
        )
        parts.append(f"{markup.to_markdown(required(question.model_answer)[language])}\n\n{rubric}")
    return f"{parts[0]}\n\n{in_korean(parts[1])}"


def worth(points: int, language: str) -> str:
    """Return how many points a question has, in words."""
    return say("point", language) if points == 1 else say("points", language, points=points)


def _literal(question: Question) -> str:
    return _python(question.key[0] if isinstance(question.key, list) else question.key)


def _python(value: str | float | list[str] | None) -> str:
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return json.dumps(value, ensure_ascii=False)
