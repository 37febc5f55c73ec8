"""What the cards and pages say around a question, in English and in Korean, and which of the two is shown now."""

from torchcourse import journal

LANGUAGES = {"en": "EN", "ko": "한국어"}

_chosen: str | None = None


def current() -> str:
    """Return the language last chosen, `en` or `ko`; it is kept in the journal."""
    global _chosen
    if _chosen is None:
        choices = [entry.get("value") for entry in journal.read() if entry["kind"] == "language"]
        _chosen = choices[-1] if choices and choices[-1] in LANGUAGES else "en"
    return _chosen


def choose(language: str) -> None:
    """Show everything in this language from now on."""
    global _chosen
    if language not in LANGUAGES:
        raise ValueError(f"'{language}' is not a language of this course; choose 'en' or 'ko'.")
    if language != current():
        _chosen = language
        journal.record("language", value=language)


def say(name: str, /, language: str | None = None, **values: object) -> str:
    """Return one of the sentences below in the language, with its gaps filled."""
    english, korean = SENTENCES[name]
    return (korean if (language or current()) == "ko" else english).format(**values)


SENTENCES: dict[str, tuple[str, str]] = {
    # What kind of answer a question takes.
    "kind_one": ("Choose one", "하나를 고르세요"),
    "kind_several": ("Choose all that apply", "해당하는 것을 모두 고르세요"),
    "kind_number": ("Type a number", "숫자를 입력하세요"),
    "kind_text": ("Type a word or two", "한두 단어를 입력하세요"),
    "kind_order": ("Type the letters in order", "순서대로 글자를 입력하세요"),
    "kind_open": ("Write a few sentences", "몇 문장으로 쓰세요"),
    "points": ("{points} points", "{points}점"),
    "point": ("1 point", "1점"),
    "question": ("Question {number}", "문제 {number}"),
    "again": ("The same idea, asked differently", "같은 내용을 다르게 묻는 문제"),
    # Answering.
    "your_answer": ("Your answer", "내 답"),
    "how_sure": ("How sure are you?", "얼마나 확신하나요?"),
    "sure_1": ("Guessing", "찍음"),
    "sure_2": ("Fairly sure", "꽤 확신"),
    "sure_3": ("Certain", "확실함"),
    "check": ("Check", "확인"),
    "compare": ("Compare with the model answer", "모범 답안과 비교"),
    "first": (
        "Answer and say how sure you are; then the button works.",
        "답과 확신의 정도를 고르면 버튼을 누를 수 있습니다.",
    ),
    "to_grade": ("For the grade, type in the cell below:", "채점을 받으려면 아래 셀에 입력하세요:"),
    "to_grade_open": ("For the grade, write your answer in the cell below.", "채점을 받으려면 아래 셀에 답을 쓰세요."),
    "by_code": ("Without buttons, answer by code: {how}", "버튼이 없으면 코드로 답하세요: {how}"),
    "tick_by_code": (
        "Now answer again with the numbers that you tick, such as said=[1, 2], thought=[1].",
        "표시할 번호와 함께 다시 답하세요. 예: said=[1, 2], thought=[1]",
    ),
    # Feedback.
    "right": ("Right.", "맞았습니다."),
    "partly": ("Partly right: {percent} % of the points.", "부분적으로 맞았습니다. 점수의 {percent}%입니다."),
    "wrong": ("Not right yet.", "아직 맞지 않습니다."),
    "kept": ("Your answer is kept. Your teacher grades it.", "답을 저장했습니다. 채점은 선생님이 합니다."),
    "one_right": ("right", "정답"),
    "one_wrong": ("not right", "오답"),
    "several_right": ("belongs to the answer", "정답에 해당"),
    "several_wrong": ("does not belong", "해당하지 않음"),
    "missing_1": ("One more belongs to the answer.", "정답이 하나 더 있습니다."),
    "missing": ("{count} more belong to the answer.", "정답이 {count}개 더 있습니다."),
    "rest": ("Show the other choices", "나머지 선택지 해설 보기"),
    "solution": ("Show the answer", "정답 보기"),
    "answer_is": ("The answer: {answer}", "정답: {answer}"),
    "what_thought": (
        "Before you read why: what made you choose this? It is kept for your review.",
        "해설을 보기 전에, 왜 그렇게 골랐는지 적어 두세요. 복습할 때 쓰입니다.",
    ),
    "because": ("I thought that …", "이렇게 생각했다 …"),
    "show_why": ("Keep it and show why", "저장하고 해설 보기"),
    "your_reasoning": ("Your reasoning", "내 생각"),
    "retry": ("Change your answer and check again, if you like.", "답을 바꾸어 다시 확인해도 됩니다."),
    # Open questions.
    "model_answer": ("Model answer", "모범 답안"),
    "self_check": ("Tick what your answer says.", "내 답에 들어 있는 것에 표시하세요."),
    "traps": ("Tick what you thought too.", "나도 그렇게 생각했다면 표시하세요."),
    "done": ("Done", "완료"),
    "said": ("Your answer says {count} of {total} points.", "내 답은 {total}가지 중 {count}가지를 담고 있습니다."),
    # Predictions.
    "predict": ("Predict before you run: what will come out?", "실행하기 전에 예측해 보세요. 결과는 어떨까요?"),
    "prediction_kept": ("Kept. Now run on and see.", "저장했습니다. 이제 실행해 확인하세요."),
    "predicted": ("You predicted: {choice}.", "예측: {choice}."),
    "no_prediction": (
        "You made no prediction this time. Try one before you run: it makes the outcome stick.",
        "이번에는 예측하지 않았습니다. 실행하기 전에 예측해 보면 결과가 더 잘 기억됩니다.",
    ),
    "came_true": ("So it came.", "예측대로 되었습니다."),
    "came_different": ("It came out differently.", "결과는 달랐습니다."),
    "outcome": ("Outcome", "결과"),
    # Review.
    "due_1": ("One review is due.", "복습할 문제가 하나 있습니다."),
    "due": ("{count} reviews are due.", "복습할 문제가 {count}개 있습니다."),
    "nothing_due": (
        "Nothing is due today. The next review is on {day}.",
        "오늘 복습할 문제가 없습니다. 다음 복습은 {day}입니다.",
    ),
    "nothing_yet": (
        "Nothing to review yet: answer a quiz question first, and it comes back here when it is time.",
        "아직 복습할 것이 없습니다. 퀴즈를 풀면 때가 되었을 때 여기에 다시 나옵니다.",
    ),
    "recall": ("Before you begin: what do you still know?", "시작하기 전에, 아직 기억하고 있나요?"),
    "nothing_to_recall": ("Nothing to recall today. Read on.", "오늘은 되짚을 것이 없습니다. 계속 읽으세요."),
    # Progress and the daily page.
    "progress": ("Your progress", "나의 진도"),
    "lesson": ("Lesson", "단원"),
    "exercises": ("Exercises", "연습문제"),
    "quiz": ("Quiz", "퀴즈"),
    "open_ideas": ("Open misconceptions", "남은 오해"),
    "reviews": ("Reviews due", "복습할 문제"),
    "not_begun": ("not begun", "시작 전"),
    "nothing_done": (
        "Nothing recorded yet. Check an exercise or answer a quiz question, and it shows here.",
        "아직 기록이 없습니다. 연습문제를 확인하거나 퀴즈를 풀면 여기에 나타납니다.",
    ),
    "kept_in": ("Your record: {path}", "기록이 저장되는 곳: {path}"),
    "page_title": ("Daily retrospective", "일일 회고"),
    "page_progress": ("Progress today", "일일 진도 현황"),
    "page_learned": ("What I learned", "배운 것"),
    "page_wrong": ("Wrong answers", "오답"),
    "page_questions": ("Open questions", "궁금한 점"),
    "page_references": ("References", "참고자료"),
    "page_plan": ("To do", "할 일 및 계획"),
    "passed": ("Exercises passed: {names}", "통과한 연습문제: {names}"),
    "answered_right": ("Questions answered rightly: {count}", "맞힌 문제: {count}개"),
    "surprise": (
        "I predicted “{predicted}”; it came out differently: {text}",
        "예측은 ‘{predicted}’, 결과는 달랐다: {text}",
    ),
    "my_answer": ("My answer: {answer}", "내 답: {answer}"),
    "my_reasoning": ("My reasoning: {text}", "내 생각: {text}"),
    "correction": ("Correction: {text}", "바로잡기: {text}"),
    "later_right": ("Answered rightly afterwards", "다시 풀어 맞힘"),
    "think_again": ("“{idea}” Why is that not so?", "‘{idea}’ 왜 그렇지 않을까?"),
    "review_on": ("Review on {day}: {count}", "{day} 복습: {count}개"),
    "finish": ("Finish the exercise {name}", "연습문제 {name} 끝내기"),
    "page_kept": ("Kept in {path}", "저장한 곳: {path}"),
    "page_not_kept": (
        "Not kept: {path} cannot be written ({reason}).",
        "저장하지 못함: {path}에 쓸 수 없습니다 ({reason}).",
    ),
    # A typed answer in the quiz notebook.
    "not_answered": (
        "Not answered yet. Replace the dots in the cell above.",
        "아직 답하지 않았습니다. 위 셀의 점 세 개를 답으로 바꾸세요.",
    ),
    "received": ("Kept: {answer}. It is graded when you hand in.", "저장됨: {answer}. 제출하면 채점됩니다."),
    "graded": ("Graded: {score} of {points}.", "채점 결과: {points}점 중 {score}점."),
    "not_understood": ("Not understood yet. {reason}", "아직 이해할 수 없는 답입니다. {reason}"),
}  # fmt: skip
