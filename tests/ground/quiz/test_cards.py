"""The card: by code, and by clicks on its widgets."""

import re
from pathlib import Path

import pytest

import example_bank as example
from torchcourse import journal, notice
from torchcourse.quiz import bank, card, texts
from torchcourse.quiz.bank import BankError
from torchcourse.quiz.render import answer_line
from torchcourse.quiz.widget import CardWidget

pytestmark = pytest.mark.usefixtures("banks")


def open_card(question: str) -> CardWidget:
    return CardWidget(card(example.LESSON, question))


def logged(kind: str = "quiz") -> list[dict]:
    return [entry for entry in journal.read() if entry["kind"] == kind]


def visible(box: CardWidget, part: str) -> bool:
    return getattr(box, part).layout.display != "none"


# By code


def test_a_wrong_answer_by_code_is_explained_and_logged_with_its_reasoning() -> None:
    feedback = card(example.LESSON, "pick-several").answer("ab", sure=3, reasoning="I added them up.")
    assert feedback.right is False
    text = repr(feedback)
    assert "Partly" not in text
    assert "One more belongs to the answer." in text
    assert "Why three." in text
    assert "Why two." in text
    assert "Why five." not in text, "only the choices made are explained"
    assert "I added them up." in text
    [entry] = logged()
    assert entry | {"time": 0} == {
        "time": 0,
        "kind": "quiz",
        "lesson": example.LESSON,
        "question": "pick-several",
        "asked": "pick-several",
        "form": "several",
        "answer": "AB",
        "sure": 3,
        "right": False,
        "score": 0.0,
        "misconceptions": ["odd"],
    }
    [reason] = logged("reasoning")
    assert (reason["question"], reason["answer"], reason["text"]) == ("pick-several", "AB", "I added them up.")


@pytest.mark.parametrize(
    ("question", "answer", "right", "misconceptions", "said"),
    [
        ("pick-one", "B", True, [], "Why two."),
        ("pick-one", "A", False, ["odd"], "Why one."),
        ("pick-one-again", "B", False, ["odd"], "Why three."),
        ("pick-several", "AC", True, [], "Right."),
        ("pick-several", "A", False, [], "Partly right: 50 % of the points."),
        ("type-number", 4.05, True, [], "Four."),
        ("type-number", "8", False, ["slip"], "Look again."),
        ("type-number", 5, False, [], "Not right yet."),
        ("type-text", "All-Reduce", True, [], "That one."),
        ("type-text", "reduce", False, ["slip"], "Look again."),
        ("put-in-order", "BCA", True, [], "So."),
        ("put-in-order", "ABC", False, ["slip"], "Look again."),
    ],
)
def test_each_kind_by_code(question, answer, right, misconceptions, said) -> None:
    feedback = card(example.LESSON, question).answer(answer, sure=2)
    assert feedback.right is right
    assert said in repr(feedback)
    assert said in str(feedback._repr_html_())
    [entry] = logged()
    assert (entry["right"], entry["misconceptions"]) == (right, misconceptions)
    assert entry["question"] == question.removesuffix("-again")


def test_an_open_question_by_code() -> None:
    open_question = card(example.LESSON, "write")
    first = open_question.answer("It is big.", sure=1)
    assert "Because of this and that." in repr(first)
    assert "1  Says this." in repr(first)
    assert logged() == []
    assert logged("written")[0]["answer"] == "It is big."
    second = open_question.answer("It is big.", sure=1, said=[2], thought=[1])
    assert second.right is False
    assert "Your answer says 1 of 2 points." in repr(second)
    assert "Look again." in repr(second)
    [entry] = logged()
    assert entry["misconceptions"] == ["odd", "slip"]
    assert card(example.LESSON, "write").answer("This and that.", sure=3, said=[1, 2]).right is True
    assert card(example.LESSON, "write").answer("All, but …", sure=3, said=[1, 2], thought=[1]).right is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"answer": "AX", "sure": 1}, "no choice X"),
        ({"answer": "A", "sure": 7}, "'sure' is 1"),
        ({"answer": "", "sure": 1}, "Answer and say how sure"),
    ],
)
def test_what_is_no_answer_gets_a_sentence_and_no_entry(arguments, said) -> None:
    feedback = card(example.LESSON, "pick-several").answer(**arguments)
    assert said in repr(feedback)
    assert feedback._repr_html_() is None
    assert journal.read() == []


def test_an_unknown_card_is_one_sentence() -> None:
    with pytest.raises(BankError, match="There are: 07_example"):
        card("99_x", "pick-one")
    with pytest.raises(BankError, match="It has: pick-one"):
        card(example.LESSON, "x")


def test_a_card_shows_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    bundle = card(example.LESSON, "pick-several")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    for form in bundle.values():
        assert "Pick several" in form
        assert "four" in form
        assert "answer(" in form
    assert "  B  three" in bundle["text/plain"]
    assert "Question 2 · Choose all that apply · 2 points" in bundle["text/plain"]


def test_a_card_offers_a_widget_and_both_fallbacks() -> None:
    bundle = card(example.LESSON, "pick-one")._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert "&lt;b&gt;" in bundle["text/html"]
    assert "<b> <" not in bundle["text/html"].split("</style>")[1]


# By clicks


def test_check_waits_for_an_answer_and_a_confidence() -> None:
    box = open_card("pick-several")
    assert box.check.disabled
    box.choices[0].value = True
    assert box.check.disabled
    assert "say how sure" in box.hint.value
    box.sure.value = 2
    assert not box.check.disabled
    box.choices[0].value = False
    assert box.check.disabled
    box.check.click()
    assert journal.read() == []


def test_a_wrong_click_asks_for_the_reasoning_before_it_shows_why() -> None:
    box = open_card("pick-several")
    box.choices[0].value = box.choices[1].value = True
    box.sure.value = 3
    assert not visible(box, "reason_box")
    box.check.click()
    assert visible(box, "reason_box")
    assert "Not right yet" in box.feedback.value
    assert "Why three." not in box.feedback.value
    assert box.check.disabled, "the same answer is not logged twice"
    box.reason.value = "<i>odd</i> looked fine"
    box.show_why.click()
    assert not visible(box, "reason_box")
    own = box.feedback.value.split("<details>")[0]
    assert "Why three." in own
    assert "Why five." not in own
    assert "&lt;i&gt;odd&lt;/i&gt; looked fine" in own
    assert [entry["text"] for entry in logged("reasoning")] == ["<i>odd</i> looked fine"]
    assert [(entry["answer"], entry["sure"], entry["right"]) for entry in logged()] == [("AB", 3, False)]


def test_no_reasoning_is_needed_to_see_why() -> None:
    box = open_card("pick-one")
    box.choices[0].value = True
    box.sure.value = 1
    box.check.click()
    box.show_why.click()
    assert "Why one." in box.feedback.value
    assert logged("reasoning") == []


def test_a_second_try_replaces_the_feedback_and_keeps_a_reasoning_that_was_begun() -> None:
    box = open_card("pick-one")
    box.choices[0].value = True
    box.sure.value = 1
    box.check.click()
    box.reason.value = "half a thought"
    box.choices[1].value = True
    assert [choice.value for choice in box.choices] == [False, True], "one choice only"
    assert box.feedback.value == ""
    assert [(entry["answer"], entry["text"]) for entry in logged("reasoning")] == [("A", "half a thought")]
    box.check.click()
    assert "Right." in box.feedback.value
    assert "Why two." in box.feedback.value
    assert not visible(box, "reason_box")
    assert [entry["right"] for entry in logged()] == [False, True]


def test_the_line_for_the_grade_follows_the_choice() -> None:
    box = open_card("pick-several")
    assert "answer_q2 = ..." in box.grade.value
    box.choices[2].value = True
    box.choices[0].value = True
    assert "answer_q2 = &quot;AC&quot;" in box.grade.value
    number = open_card("type-number")
    number.typed.value = "4"
    assert "answer_q3 = 4<" in number.grade.value
    assert open_card("pick-one-again").grade.value == ""
    assert "write your answer in the cell below" in open_card("write").grade.value
    for answer, line in ((None, "..."), ('say "it"', '"say \\"it\\""'), (0.25, "0.25")):
        assert answer_line(4, answer) == f"answer_q4 = {line}"
        assert answer is None or eval(answer_line(4, answer).partition(" = ")[2]) == answer


@pytest.mark.parametrize(
    ("question", "typed", "refused", "sentence"),
    [
        ("type-number", "4", "0,4", "with a point"),
        ("type-text", "allreduce", "", ""),
        ("put-in-order", "bca", "BC", "each letter"),
    ],
)
def test_a_typed_answer(question, typed, refused, sentence) -> None:
    box = open_card(question)
    box.sure.value = 2
    box.typed.value = refused
    assert box.check.disabled
    assert sentence in box.hint.value
    box.typed.value = typed
    assert not box.check.disabled
    box.check.click()
    assert "Right." in box.feedback.value
    assert logged()[0]["right"] is True


def test_an_open_question_shows_the_model_answer_only_after_writing() -> None:
    box = open_card("write")
    assert "this and that" not in box.feedback.value
    assert not visible(box, "tick_box")
    box.typed.value = "Because of size."
    box.sure.value = 2
    box.check.click()
    assert "Because of this and that." in box.feedback.value
    assert visible(box, "tick_box")
    assert logged("written")[0]["answer"] == "Because of size."
    box.thought[0].value = True
    box.said[1].value = True
    box.done.click()
    assert "Your answer says 1 of 2 points." in box.result.value
    assert "Look again." in box.result.value
    [entry] = logged()
    assert (entry["score"], entry["misconceptions"]) == (0.5, ["odd", "slip"])


def test_the_language_switch_keeps_everything_and_is_remembered() -> None:
    box = open_card("pick-several")
    box.choices[1].value = True
    box.sure.value = 3
    box.check.click()
    box.reason.value = "왜냐하면"
    box.language.value = "ko"
    assert "한국어 Pick several" in box.text.value
    assert "한국어 three" in box.choices[1].description
    assert "아직 맞지 않습니다" in box.feedback.value
    assert (box.choices[1].value, box.sure.value, box.reason.value) == (True, 3, "왜냐하면")
    assert [label for label, _sure in box.sure.options] == ["찍음", "꽤 확신", "확실함"]
    box.show_why.click()
    assert "한국어 Why three." in box.feedback.value
    assert texts.current() == "ko"
    texts._chosen = None
    assert texts.current() == "ko", "a new kernel finds it in the journal"
    assert "한국어 Pick" in open_card("pick-one").text.value


@pytest.mark.parametrize("question", ["pick-one", "type-number", "put-in-order", "write"])
def test_a_card_of_a_stripped_bank_keeps_the_answer_for_the_teacher(banks: Path, question: str) -> None:
    example.write(banks, bank.strip(bank.lesson(example.LESSON)))
    answer = {"type-number": 4, "put-in-order": "ABC"}.get(question, "A")
    feedback = card(example.LESSON, question).answer(answer, sure=2, reasoning="so")
    assert feedback.right is None
    assert "Your teacher grades it." in repr(feedback)
    assert "Your teacher grades it." in str(feedback._repr_html_())
    box = open_card(question)
    if box.typed:
        box.typed.value = str(answer)
    else:
        box.choices[0].value = True
    box.sure.value = 2
    box.check.click()
    assert "Your teacher grades it." in box.feedback.value
    assert not visible(box, "reason_box")
    assert not visible(box, "tick_box")
    assert [entry["right"] for entry in logged()] == [None, None]


def test_a_verdict_has_the_colour_of_the_courses_boxes() -> None:
    html = str(card(example.LESSON, "pick-one").answer("B", sure=3)._repr_html_())
    assert f"--tc-right:{notice.colour('right')};" in html
    used = set(re.findall(r"var\((--tc-\w+)\)", html))
    assert used - set(re.findall(r"(--tc-\w+):", html)) == set()


def test_every_sentence_exists_in_both_languages() -> None:
    for name, said in texts.sentences().items():
        assert list(said) == list(texts.LANGUAGES), name
        english, korean = said.values()
        assert english != korean, name
        gaps = [{part.split("}")[0] for part in text.split("{")[1:]} for text in (english, korean)]
        assert gaps[0] == gaps[1], name
    with pytest.raises(ValueError, match="'fr' is not a language"):
        texts.choose("fr")
