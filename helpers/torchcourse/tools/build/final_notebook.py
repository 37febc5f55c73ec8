"""The final of a class as the source of a notebook: ten drawn questions, answered by typing, without cards.

A card tells the answer as soon as it is checked; this one is an exam. Keys stand in the solution and in the hidden
tests alone, as in a quiz notebook.
"""

from torchcourse.lessons.start_here.final_results import Asked
from torchcourse.quiz import bank, choice_order
from torchcourse.quiz.questions import Question
from torchcourse.tools.build.quiz_notebook import in_korean, markdown_cell, question_cells

HOW_EN = """\
Type each answer in the cell below its question and run both cells: the second says what was read. Save, then hand in \
this notebook. For several choices you get the share of the right ones that you ticked minus the share of the wrong \
ones, so ticking everything earns nothing."""

HOW_KO = """\
문제 아래 셀에 답을 입력하고 두 셀을 실행하세요. 둘째 셀은 어떤 답으로 읽혔는지 알려 줍니다. 저장한 뒤 이 노트북을 \
제출하세요. 여러 개를 고르는 문제는 맞는 것을 고른 비율에서 틀린 것을 고른 비율을 뺀 만큼 점수를 받으므로, 모두 \
고르면 점수가 없습니다."""


def final_source(drawn: list[Asked]) -> str:
    """Return the percent-format source of the notebook. Each question is worth one point.

    Args:
        drawn: the questions, such as `final_draw.for_class` gives.

    Raises:
        BankError: for a question that no bank has.
    """
    shown = [bank.lesson(asked.lesson).question(asked.wording)[1] for asked in drawn]
    ordered = [choice_order.redrawn(question, asked.draw) for question, asked in zip(shown, drawn, strict=True)]
    return exam_source([(asked.lesson, question) for asked, question in zip(drawn, ordered, strict=True)])


def exam_source(questions: list[tuple[str, Question]]) -> str:
    """Return the percent-format source of a notebook of these questions, each with its lesson and worth one point."""
    title = f"# Final: {len(questions)} questions\n\n최종 퀴즈 · about 30 minutes · any computer"
    head = f"{title}\n\n{HOW_EN}\n\n{in_korean(HOW_KO)}"
    cells = [markdown_cell(head), "# %% setup\n", "# %%\nfrom torchcourse import quiz\n"]
    for place, (lesson, question) in enumerate(questions, start=1):
        cells += question_cells(lesson, place, question.model_copy(update={"points": 1}))
    return "\n".join(cells)
