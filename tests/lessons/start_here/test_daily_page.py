"""The daily page has the learner's shape, and loses nothing that was written into it."""

import random
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import example_bank as example
from torchcourse import journal
from torchcourse.lessons.start_here.daily_page import merge, retrospective
from torchcourse.quiz import card, outcome, predict

KOREAN = ["# 일일 회고", "## 일일 진도 현황", "## 배운 것", "## 궁금한 점", "## 참고자료", "## 할 일 및 계획"]
ENGLISH = [
    "# Daily retrospective",
    "## Progress today",
    "## What I learned",
    "## Open questions",
    "## References",
    "## To do",
]


@pytest.fixture
def study(banks: Path) -> None:
    journal.record("check", exercise="lesson07.a", state="right")
    journal.record("check", exercise="lesson07.b", state="wrong")
    card(example.LESSON, "pick-one").answer("B", sure=3)
    card(example.LESSON, "pick-several").answer("AB", sure=3, reasoning="홀수도\n세었다")
    predict("07-1.x", "?", ["up", "down"]).choose("up")
    outcome("07-1.x", "It went *down*.", right="down")


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("# ", "## "))]


@pytest.mark.usefixtures("study")
def test_the_page_in_the_shape_of_the_study_log() -> None:
    page = retrospective()
    assert page.path == journal.path().parent / "retrospectives" / f"{date.today()}.md"
    text = page.path.read_text(encoding="utf-8")
    assert page.text == text
    assert headings(text) == KOREAN
    for line in (
        "- [ ] 07 한국어 Example",
        "  - [ ] 연습문제 (1/2)",
        "  - [ ] 퀴즈 (1/6)",
        "### 07 한국어 Example",
        "- 통과한 연습문제: `a`",
        "- 맞힌 문제: 1개",
        "#### 오답",
        "1. 한국어 Pick several",
        "   - 내 답: A, B (확실함)",
        "   - 내 생각: 홀수도 세었다",
        "   - 바로잡기: **B. 한국어 three** 한국어 Why three.",
        "   - 바로잡기: **C. 한국어 four** 한국어 Why four.",
        "   - [ ] 다시 풀어 맞힘",
        "- 예측은 ‘up’, 결과는 달랐다: It went *down*.",
        "- [ ] ‘한국어 Odd ones count.’ 왜 그렇지 않을까?",
        f"- [ ] {date.today() + timedelta(days=1)} 복습: 1개",
        "- [ ] 연습문제 `b` 끝내기",
    ):
        assert line in text.splitlines(), line
    assert "Why two" not in text, "what was right is not corrected"
    assert headings(retrospective(language="en").text)[: len(ENGLISH)] == ENGLISH


@pytest.mark.usefixtures("study")
def test_text_written_by_hand_stays_when_the_page_is_made_again() -> None:
    page = retrospective()
    mine = page.text.replace("## 참고자료\n", "## 참고자료\n\n- [conv](https://example.org)\n")
    mine = mine.replace("## 궁금한 점\n\n", "## 궁금한 점\n\n- [ ] conv 정리하기\n")
    mine = mine.replace("   - 내 생각: 홀수도 세었다", "   - 내 생각: 홀수도 세었다 (왜 그랬을까)")
    page.path.write_text(mine + "\n## 메모\n\n끝", encoding="utf-8")
    card(example.LESSON, "pick-several").answer("AC", sure=3)
    journal.record("check", exercise="lesson07.b", state="right")
    text = retrospective().text
    for line in ("- [conv](https://example.org)", "- [ ] conv 정리하기", "## 메모", "끝"):
        assert text.splitlines().count(line) == 1
    assert "   - 내 생각: 홀수도 세었다 (왜 그랬을까)" in text
    assert "   - [x] 다시 풀어 맞힘" in text
    assert "  - [x] 연습문제 (2/2)" in text
    assert "(1/2)" not in text
    assert text.index("## 참고자료") < text.index("- [conv]") < text.index("## 할 일 및 계획")
    assert retrospective().text == text, "made again without news, it is the same"


@pytest.mark.usefixtures("study")
def test_a_page_begun_by_hand_before_the_first_time_is_kept() -> None:
    path = journal.path().parent / "retrospectives" / f"{date.today()}.md"
    path.parent.mkdir()
    path.write_text("# 일일 회고\n\n## 배운 것\n\n- GPU\n\n## 궁금한 점\n\n- [ ] conv 정리하기\n", encoding="utf-8")
    text = retrospective().text
    assert headings(text) == KOREAN
    assert text.index("## 배운 것") < text.index("- GPU") < text.index("## 궁금한 점") < text.index("- [ ] conv")


@pytest.mark.usefixtures("study")
def test_a_page_that_is_not_utf8_keeps_its_bytes() -> None:
    path = retrospective().path
    path.write_bytes(path.read_bytes() + "메모".encode("euc-kr"))
    journal.record("check", exercise="lesson07.b", state="right")
    retrospective()
    assert path.read_bytes().endswith("메모".encode("euc-kr"))
    assert b"(2/2)" in path.read_bytes()


@pytest.mark.usefixtures("study")
def test_another_day_has_a_page_of_its_own() -> None:
    yesterday = date.today() - timedelta(days=1)
    page = retrospective(yesterday)
    assert page.path.name == f"{yesterday}.md"
    assert headings(page.text) == KOREAN
    assert "오답" not in page.text
    tomorrow = retrospective(date.today() + timedelta(days=1)).text
    assert "(1/2)" in tomorrow
    assert "오답" not in tomorrow


@pytest.mark.usefixtures("banks")
def test_a_day_without_anything() -> None:
    assert headings(retrospective().text) == KOREAN


@pytest.mark.usefixtures("study")
def test_a_folder_that_cannot_be_written_costs_one_sentence(work: Path) -> None:
    (work / "retrospectives").write_text("in the way")
    page = retrospective()
    assert "#### 오답" in page.text
    assert page.note.startswith("저장하지 못함:")
    with pytest.raises(ValueError, match="'fr' is not a language"):
        retrospective(language="fr")


def test_a_question_whose_bank_has_gone_is_told_by_its_name(banks: Path) -> None:
    card(example.LESSON, "pick-one").answer("A", sure=1)
    card(example.LESSON, "put-in-order").answer("ABC", sure=1)
    changed = example.bank()
    changed["questions"][4] = changed["questions"][2] | {"id": "put-in-order"}
    example.write(banks, changed)
    assert "1. 한국어 Pick `one`" in retrospective().text
    (banks / f"{example.LESSON}.yaml").unlink()
    text = retrospective().text
    assert "1. pick-one" in text
    assert "   - 내 답: A (찍음)" in text


LINES = st.lists(st.sampled_from(["", "## a", "## b", "- x", "- y", "- z", "1. q"]), max_size=8)


@given(LINES, LINES, st.integers(0, 10**6))
def test_merging_keeps_every_line_that_was_added(base: list[str], theirs: list[str], seed: int) -> None:
    pick = random.Random(seed)
    mine = [line for line in base if pick.random() > 0.2]
    added = [f"mine {number}" for number in range(4)]
    for line in added:
        mine.insert(pick.randint(0, len(mine)), line)
    merged = merge(base, mine, theirs)
    assert sorted(line for line in merged if line.startswith("mine")) == added
    assert merge(base, base, theirs) == theirs
    assert merge(base, mine, base) == mine
    assert merge(theirs, merged, theirs) == merged


def test_right_and_then_wrong_is_not_mended_and_a_changed_question_is_not_judged(banks: Path) -> None:
    for answer in ("A", "B", "A"):
        card(example.LESSON, "pick-one").answer(answer, sure=1)
    assert "   - [ ] 다시 풀어 맞힘" in retrospective().text
    card(example.LESSON, "type-text").answer("reduce", sure=1)
    changed = example.bank()
    changed["questions"][3] = changed["questions"][4] | {"id": "type-text"}
    example.write(banks, changed)
    assert "reduce" in retrospective().text
    assert "reduce" in repr(card(example.LESSON, "type-text"))
    assert "order" in card(example.LESSON, "type-text")._repr_html_()


def test_lessons_with_right_answers_alone_share_a_line(banks: Path) -> None:
    for lesson in ("05_before", "08_after"):
        example.write(banks, example.bank(), lesson)
        card(lesson, "pick-one").answer("B", sure=3)
    card("05_before", "type-number").answer(4, sure=3)
    card(example.LESSON, "pick-one").answer("A", sure=3)
    text = retrospective(language="en").text
    assert (
        "- Questions answered correctly: 05 Example 2, 08 Example 1\n\n### 07 Example\n\n#### Wrong answers\n" in text
    )
    assert "### 05" not in text


def test_letters_are_told_as_they_were_shown(banks: Path) -> None:
    data = example.bank()
    del data["questions"][1]["fixed_order"]
    example.write(banks, data)
    card(example.LESSON, "pick-several", order="DCBA").answer("AC", sure=2, reasoning="It looked so.")
    page = retrospective(language="en").text
    for told in ("My answer: A, C", "It looked so.", "**A. five**", "**C. three**", "**B. four**", "**D. two**"):
        assert told in page, told
    names = {"lesson": example.LESSON, "question": "pick-several", "asked": "pick-several", "form": "several"}
    journal.record("quiz", **names, answer="AB", sure=2, right=False, misconceptions=["odd"])
    page = retrospective(language="en").text
    assert "My answer: A, B" in page
    assert "**B. three**" in page, "from a time when all choices stood as in the file"
    assert "**C. four**" in page
    journal.record("quiz", **names, answer="A", order=["A", "B"], sure=2, right=False, misconceptions=[])
    assert "3. Pick several" in retrospective(language="en").text, "nobody can say what the letter meant"


@pytest.mark.usefixtures("banks")
def test_what_was_a_text_and_is_a_number_now_is_corrected() -> None:
    names = {"lesson": example.LESSON, "question": "type-number", "asked": "type-number", "form": "text"}
    journal.record("quiz", **names, answer="7.5", sure=2, right=False, misconceptions=[])
    page = retrospective(language="en").text
    assert "My answer: 7.5" in page
    assert "Correction" in page
