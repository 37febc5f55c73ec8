"""The three questions of the study log go the whole way: built, answered wrongly, logged, told, answered, graded.

The wrong answers and the reasoning are the learner's own, as the log has them.
"""

import re
from typing import Any

import pytest

from keys import now
from torchcourse import journal
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.progress_report import progress
from torchcourse.quiz import bank, card
from torchcourse.quiz.questions import OpenQuestion, Question, SeveralQuestion, required
from torchcourse.tools.build import quiz_notebook

LESSON = "04_monitoring_and_checkpoints"
TOO_BIG = "단순히 multi GPU model이니 모델 크기가 클거라 생각했다..."
FITTING = "overfitting이나 underfitting의 경우도 분포의 극단적 변화나 변화가 없음에 문제라 생각했는데"
SPEED = (
    "여러 GPU로 데이터 병렬처리, 학습속도 향상이 맞다고 생각했고, "
    "모든 에포크마다 가중치 변화를 출력하면 성능에는 무리가 될 것이라 생각했다."
)

# Over- and underfitting, as in the study log, and what is right: by the bank's file, and in the quiz notebook.
FITS, GRADIENTS = "AE", "BD"
QUIZ_FITS, QUIZ_GRADIENTS = (now(LESSON, "extremes-in-histograms", letters) for letters in (FITS, GRADIENTS))

RECORDED: list[tuple[str, str, dict[str, Any], str]] = [
    ("load-on-one-device", TOO_BIG, {"said": [], "thought": [1]}, "saved-model-is-bigger"),
    ("extremes-in-histograms", FITS, {"reasoning": FITTING}, "histogram-shows-fit"),
    ("manage-training", "ACD", {"reasoning": SPEED}, "performance-is-speed"),
]


def recorded(number: int) -> Question:
    """The question that comes from the wrong answer of that number."""
    [found] = [
        question
        for question in bank.lesson(LESSON).questions
        if question.source is not None and question.source.wrong_answer == number
    ]
    return found


def test_each_recorded_question_has_variants() -> None:
    sources = [question.source for question in bank.lesson(LESSON).questions if question.source]
    assert sorted(source.wrong_answer for source in sources if source.wrong_answer is not None) == [1, 2, 3]
    assert all(len(recorded(number).variants) >= 3 for number in (1, 2, 3))


def test_the_bank_keeps_the_open_question() -> None:
    question = recorded(1)
    assert isinstance(question, OpenQuestion)
    for part in ("map_location", "module.", "cuda:3"):
        assert part in required(question.model_answer).en
        assert part in required(question.model_answer).ko
    assert "크기가 클" in question.mistakes[0].reasoning.ko


def test_the_bank_keeps_the_questions_with_several_answers() -> None:
    second, third = recorded(2), recorded(3)
    assert isinstance(second, SeveralQuestion)
    assert isinstance(third, SeveralQuestion)
    assert "learning rate aside" in second.text.en
    chosen = {choice.text.en: choice.right for choice in second.choices}
    assert {text for text, right in chosen.items() if right} == {"Exploding gradients", "Vanishing gradients"}
    assert {"Overfitting", "Underfitting"} <= set(chosen)
    assert (third.key, third.letters) == ("ACE", "ABCDE")
    assert "성능" in required(third.choices[3].why).en
    assert "every n epochs is a fair compromise" in required(third.choices[4].why).en


def answer_as_recorded() -> None:
    """Give the three wrong answers; each names the misconception behind it."""
    for question, answer, how, misconception in RECORDED:
        feedback = card(LESSON, question).answer(answer, sure=2, **how)
        assert feedback.right is False
        entry = [entry for entry in journal.read() if entry["kind"] == "quiz"][-1]
        assert misconception in entry["misconceptions"]
    reasons = [entry["text"] for entry in journal.read() if entry["kind"] == "reasoning"]
    assert reasons == [FITTING, SPEED]


def test_the_whole_loop() -> None:
    answer_as_recorded()
    page = retrospective().text
    for told in (
        "#### 오답",
        f"내 답: {TOO_BIG}",
        f"내 생각: {FITTING}",
        f"내 생각: {SPEED}",
        "`map_location",
        "`module.`",
        "**A. 과적합 (overfitting)** 지나치게",
        "**B. 기울기 폭주 (exploding gradients)**",
        "**D. 여러 GPU에서 데이터 병렬화를 사용해 학습 속도를 높인다.** 함정은",
        "n 에포크에 한 번도 합리적인 절충입니다",
        "‘모델을 모니터링할 때의 성능은 속도를 뜻한다.’",
    ):
        assert told in page, told
    assert page.count("- [ ] 다시 풀어 맞힘") == 3
    assert "Open misconceptions 5" in repr(progress())

    card(LESSON, "load-on-one-device").answer("장치와 module. 접두사", sure=3, said=[1, 2, 3])
    card(LESSON, "extremes-in-histograms").answer(GRADIENTS, sure=3)
    card(LESSON, "manage-training").answer("ACE", sure=3)
    page = retrospective().text
    assert page.count("- [x] 다시 풀어 맞힘") == 3
    for told in ("- [ ] 04 모니터링과 체크포인트", f"- [ ] 퀴즈 (3/{len(bank.lesson(LESSON).questions)})"):
        assert told in page, told


@pytest.mark.parametrize(
    ("answers", "earned"), [((QUIZ_GRADIENTS, "ACE"), [2, 2]), ((QUIZ_FITS, "ACD"), [0, 1 / 3]), ((..., ...), [0, 0])]
)
def test_they_are_graded_in_the_quiz_notebook(answers, earned) -> None:
    text = quiz_notebook.quiz_source(bank.lesson(LESSON))
    assert text.count("# %% written: q1, 3 points [markdown]") == 1
    cells = dict(re.findall(r"^# %% check: (q\d)\n(.*?)(?=^# %%|\Z)", text, flags=re.MULTILINE | re.DOTALL))
    names = {"quiz": __import__("torchcourse.quiz").quiz, "answer_q2": answers[0], "answer_q3": answers[1]}
    scores = []
    for name in ("q2", "q3"):
        exec(cells[name], names)
        scores.append(float(repr(names["received"])))
    assert scores == pytest.approx(earned, abs=1e-5)
