"""The card: by code, and by what is clicked in its form."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

import example_bank as example
from torchcourse import journal, notice
from torchcourse.quiz import bank, card, texts
from torchcourse.quiz.bank import BankError
from torchcourse.quiz.render import answer_line
from torchcourse.quiz.widget import CardForm

pytestmark = pytest.mark.usefixtures("banks")


def open_card(question: str) -> CardForm:
    return CardForm(card(example.LESSON, question))


def able(form: CardForm) -> bool:
    """Whether the button that checks works."""
    return "disabled" not in form.parts["actions"]


def logged(kind: str = "quiz") -> list[dict]:
    return [entry for entry in journal.read() if entry["kind"] == kind]


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
        ("pick-several", "A", False, [], "Partly right: 50% of the points."),
        ("type-number", 4.05, True, [], "Four."),
        ("type-number", "8", False, ["slip"], "Look again."),
        ("type-number", 5.2, False, [], "Not right yet."),
        ("type-number", -4, False, [], "the sign is not"),
        ("type-number", 400, False, [], "is a share asked for, or percent?"),
        ("type-number", 4000, False, [], "the power of ten is not"),
        ("type-number", 0.25, False, [], "upside down"),
        ("type-number", 4.11, False, [], "keep more digits"),
        ("type-text", "All-Reduce", True, [], "That one."),
        ("type-text", "reduce", False, ["slip"], "Look again."),
        ("put-in-order", "BCA", True, [], "So."),
        ("put-in-order", "ABC", False, ["slip"], "Look again."),
        ("put-in-order", "CBA", False, [], "Take these two alone"),
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


def test_a_card_is_read_where_nothing_can_be_clicked() -> None:
    shown = card(example.LESSON, "pick-several")
    forms = shown._repr_html_(), repr(shown)
    for form in forms:
        assert "Pick several" in form
        assert "four" in form
        assert "<input" not in form
    assert "  B  three" in forms[1]
    assert "Question 2 · Choose all that apply · 2 points · new to you" in forms[1]
    html = card(example.LESSON, "pick-one")._repr_html_().split("</style>")[1]
    assert "&lt;b&gt;" in html
    assert "<b> <" not in html


def test_the_line_that_a_card_gives_runs_as_it_stands() -> None:
    for question in ("pick-one", "type-number", "type-text", "put-in-order", "write"):
        line = repr(card(example.LESSON, question)).rpartition(": ")[2]
        exec(line, {})
    assert [entry["question"] for entry in logged()] == ["pick-one", "type-number", "type-text", "put-in-order"]


def test_the_next_day_a_card_tells_what_was_answered_and_why() -> None:
    card(example.LESSON, "pick-several").answer("ab", sure=3)
    [entry] = logged()
    yesterday = journal.when(entry) - timedelta(days=1)
    old = json.dumps(entry | {"time": yesterday.isoformat()}) + "\n"
    journal.path().write_text(old, encoding="utf-8")
    shown = card(example.LESSON, "pick-several")._repr_html_()
    assert re.search(rf"On {yesterday.date()} \d\d:\d\d you answered: A, B", shown)
    assert '<details class="tc-below">' in shown, "to be answered once more, not read"
    assert "Not right yet." in shown
    assert "Why three." in shown
    card(example.LESSON, "write").answer("Big.", sure=1, said=[1])
    assert "Because of this and that." in card(example.LESSON, "write")._repr_html_()


def test_the_head_of_a_card_says_whether_it_was_asked_before() -> None:
    def head(question: str) -> str:
        return repr(card(example.LESSON, question)).splitlines()[0]

    assert head("pick-one-again") == "Example · Choose one · new to you"
    card(example.LESSON, "pick-one").answer("A", sure=2)
    day = logged()[0]["time"][:10]
    assert head("pick-one-again") == f"Example · Choose one · asked differently on {day}: you answered A, not right"
    assert head("pick-one") == f"Question 1 · Choose one · 1 point · asked on {day}: you answered A, not right"
    card(example.LESSON, "pick-one").answer("B", sure=2)
    assert head("pick-one").endswith(f"asked on {day}: you were right"), "not what the right answer is"


# By clicks


def test_check_waits_for_an_answer_and_a_confidence() -> None:
    form = open_card("pick-several")
    assert not able(form)
    form.do("input", answer=["A"])
    assert not able(form)
    assert "say how sure" in form.parts["actions"]
    form.do("input", sure=["2"])
    assert able(form)
    form.do("input", answer=[])
    assert not able(form)
    assert form.do("check") is False
    assert journal.read() == []


def test_a_wrong_click_asks_for_the_reasoning_before_it_shows_why() -> None:
    form = open_card("pick-several")
    form.do("input", answer=["A", "B"], sure=["3"])
    assert form.parts["reason"] == ""
    assert form.do("check") is True, "the focus goes to the verdict"
    assert "<textarea" in form.parts["reason"]
    assert "Not right yet" in form.parts["feedback"]
    assert "Why three." not in form.parts["feedback"]
    assert not able(form), "the same answer is not logged twice"
    assert form.do("check") is False
    assert form.do("why", reason=["<i>odd</i> looked fine"]) is True
    assert form.parts["reason"] == ""
    own = form.parts["feedback"].split("<details>")[0]
    assert "Why three." in own
    assert "Why five." not in own
    assert "&lt;i&gt;odd&lt;/i&gt; looked fine" in own
    assert [entry["text"] for entry in logged("reasoning")] == ["<i>odd</i> looked fine"]
    assert [(entry["answer"], entry["sure"], entry["right"]) for entry in logged()] == [("AB", 3, False)]


def test_no_reasoning_is_needed_to_see_why() -> None:
    form = open_card("pick-one")
    form.do("check", answer=["A"], sure=["1"])
    form.do("why")
    assert "Why one." in form.parts["feedback"]
    assert logged("reasoning") == []


def test_a_card_that_is_shown_again_keeps_a_reasoning_that_was_begun() -> None:
    form = open_card("pick-one")
    form.do("check", answer=["A"], sure=["3"])
    form.do("input", reason=["half a thought"])
    again = open_card("pick-one")
    assert [(entry["answer"], entry["text"]) for entry in logged("reasoning")] == [("A", "half a thought")]
    assert again.values == {}
    open_card("pick-one")
    assert len(logged("reasoning")) == 1


def test_a_card_that_is_shown_again_has_the_text_that_was_not_checked() -> None:
    form = open_card("write")
    form.do("input", answer=["Half an answer"], sure=["2"])
    again = open_card("write")
    assert again.values == {"answer": ["Half an answer"], "sure": ["2"]}
    again.do("check")
    assert open_card("write").values == {}


def test_a_second_try_replaces_the_feedback_and_keeps_a_reasoning_that_was_begun() -> None:
    form = open_card("pick-one")
    form.do("check", answer=["A"], sure=["1"])
    form.do("input", answer=["B"], reason=["half a thought"])
    assert form.parts["feedback"] == ""
    assert [(entry["answer"], entry["text"]) for entry in logged("reasoning")] == [("A", "half a thought")]
    form.do("check")
    assert "Right." in form.parts["feedback"]
    assert "Why two." in form.parts["feedback"]
    assert form.parts["reason"] == ""
    assert [entry["right"] for entry in logged()] == [False, True]


def test_what_stays_of_a_card_follows_each_answer() -> None:
    shown = card(example.LESSON, "pick-one")
    kept: list[str] = []
    form = CardForm(shown, lambda _form: kept.append(shown._repr_html_()))
    form.do("check", answer=["A"], sure=["1"])
    form.do("input", answer=["B"])
    form.do("check")
    assert ["you answered: A" in kept[0], "you answered: B" in kept[1], len(kept)] == [True, True, 2]
    assert all('<details class="tc-below" open>' in each for each in kept), "just answered: to be read"


def test_the_line_for_the_grade_follows_the_choice() -> None:
    form = open_card("pick-several")
    assert "answer_q2 = ..." in form.parts["grade"]
    form.do("input", answer=["A", "C"])
    assert "answer_q2 = &quot;AC&quot;" in form.parts["grade"]
    number = open_card("type-number")
    number.do("input", answer=["4"])
    assert "answer_q3 = 4<" in number.parts["grade"]
    assert open_card("pick-one-again").parts["grade"] == ""
    numbered = CardForm(card(example.LESSON, "pick-one-again", number=1), lambda _form: None)
    assert "answer_q1 = ..." in numbered.parts["grade"]
    assert "write your answer in the cell below" in open_card("write").parts["grade"]
    for answer, line in ((None, "..."), ('say "it"', '"say \\"it\\""'), (0.25, "0.25")):
        assert answer_line(4, answer) == f"answer_q4 = {line}"
        assert answer is None or eval(answer_line(4, answer).partition(" = ")[2]) == answer


@pytest.mark.parametrize(
    ("question", "typed", "refused", "sentence"),
    [
        ("type-number", "4", "0.4.1", "with a point"),
        ("type-text", "allreduce", "", ""),
        ("put-in-order", "bca", "BC", "each letter"),
    ],
)
def test_a_typed_answer(question, typed, refused, sentence) -> None:
    form = open_card(question)
    form.do("input", sure=["2"], answer=[refused])
    assert not able(form)
    assert sentence in form.parts["actions"]
    assert ("tc-error" in form.parts["actions"]) is bool(sentence)
    form.do("input", answer=[typed])
    assert able(form)
    form.do("check")
    assert "Right." in form.parts["feedback"]
    assert logged()[0]["right"] is True


def test_an_open_question_shows_the_model_answer_only_after_writing() -> None:
    form = open_card("write")
    assert "this and that" not in form.parts["feedback"]
    assert form.parts["ticks"] == ""
    form.do("check", answer=["Because of size."], sure=["2"])
    assert "Because of this and that." in form.parts["feedback"]
    assert form.parts["ticks"].count("<input") == 3
    assert logged("written")[0]["answer"] == "Because of size."
    assert form.do("done", thought=["1"], said=["2"]) is True
    assert "Your answer says 1 of 2 points." in form.parts["result"]
    assert "Look again." in form.parts["result"]
    [entry] = logged()
    assert (entry["score"], entry["misconceptions"]) == (0.5, ["odd", "slip"])


def test_the_language_switch_keeps_everything_and_is_remembered() -> None:
    form = open_card("pick-several")
    form.do("check", answer=["B"], sure=["3"])
    form.do("language", "ko", reason=["왜냐하면"])
    assert "한국어 Pick several" in form.parts["answer"]
    assert "한국어 three" in form.parts["answer"]
    assert "아직 정답이 아닙니다" in form.parts["feedback"]
    assert 'lang="ko" aria-pressed="true"' in form.parts["head"]
    assert form.values == {"answer": ["B"], "sure": ["3"], "reason": ["왜냐하면"]}
    assert all(label in form.parts["sure"] for label in ["찍음", "꽤 확신", "확실함"])
    form.do("why")
    assert "한국어 Why three." in form.parts["feedback"]
    assert texts.current() == "ko"
    texts._chosen = None
    assert texts.current() == "ko", "a new kernel finds it in the journal"
    assert "한국어 Pick" in open_card("pick-one").parts["answer"]


@pytest.mark.parametrize("question", [question["id"] for question in example.bank()["questions"]])
def test_every_control_of_a_card_has_a_name_and_belongs_to_a_group(question: str) -> None:
    """What a screen reader reads out: the question for its choices, a label for each field."""
    form = open_card(question)
    form.do(
        "check",
        answer=["4"] if question == "type-number" else ["ABC" if question == "put-in-order" else "A"],
        sure=["1"],
    )
    page = "".join(form.parts.values())
    for control in re.finditer(r"<(?:input|textarea)", page):
        before = page[: control.start()]
        assert before.count("<label") == before.count("</label>") + 1, control
    groups = re.findall(r"<fieldset.*?</fieldset>", page)
    assert all(re.search(r"<legend>.*\w.*</legend>", group) for group in groups)
    loose = re.sub(r"<fieldset.*?</fieldset>", "", page)
    assert 'type="radio"' not in loose
    assert 'type="checkbox"' not in loose
    for name in re.findall(r'aria-describedby="([^"]+)"', page):
        assert all(f'id="{each}"' in page for each in name.split())


@pytest.mark.parametrize("question", ["pick-one", "type-number", "put-in-order", "write"])
def test_a_card_of_a_stripped_bank_keeps_the_answer_for_the_teacher(banks: Path, question: str) -> None:
    example.write(banks, bank.strip(bank.lesson(example.LESSON)))
    answer = {"type-number": 4, "put-in-order": "ABC"}.get(question, "A")
    feedback = card(example.LESSON, question).answer(answer, sure=2, reasoning="so")
    assert feedback.right is None
    assert "Your teacher grades it." in repr(feedback)
    assert "Your teacher grades it." in str(feedback._repr_html_())
    form = open_card(question)
    form.do("check", answer=[str(answer)], sure=["2"])
    assert "Your teacher grades it." in form.parts["feedback"]
    assert form.parts["reason"] == form.parts["ticks"] == ""
    assert "Your answer is kept." in card(example.LESSON, question)._repr_html_() or question == "write"
    assert [entry["right"] for entry in logged()] == [None, None]


def test_a_verdict_has_the_colour_of_the_courses_boxes() -> None:
    html = str(card(example.LESSON, "pick-one").answer("B", sure=3)._repr_html_())
    assert f"--tc-right:{notice.color('right')};" in html
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
