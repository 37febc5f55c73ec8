"""The page of completion says what was passed, and which journal says so."""

import hashlib
from pathlib import Path

import pytest

import example_bank as example
from torchcourse import journal
from torchcourse.lessons.final.completion_page import completion
from torchcourse.lessons.final.final_quiz import final_elsewhere
from torchcourse.quiz import card

RIGHT = {"pick-one": "B", "pick-several": "AC", "type-number": 4, "type-text": "all_reduce", "put-in-order": "BCA"}


@pytest.mark.usefixtures("banks")
def test_what_was_passed_and_the_digest_of_the_journal() -> None:
    journal.record("check", exercise="lesson07.a", state="right")
    for name, answer in RIGHT.items():
        card(example.LESSON, name).answer(answer, sure=2)
    final_elsewhere(9, 10, day="2023-09-14")
    page = completion("en")
    assert "| 07 Example | 1/1 | 5/6 | – |" in page.text
    assert "No final is finished yet." in page.text, "an exam taken elsewhere is not passed here"
    card(example.LESSON, "write").answer("Because.", sure=2, said=[1, 2])
    before = journal.content()
    page = completion("en")
    assert "| 07 Example | 1/1 | 6/6 | passed |" in page.text
    assert f"`{hashlib.sha256(before).hexdigest()}`" in page.text
    assert f"`head -c {len(before)} journal.jsonl | sha256sum`" in page.text
    assert journal.content() == before, "the page changes nothing in the journal"
    assert page.path.read_text(encoding="utf-8") == page.text
    assert "통과" in completion("ko").text


@pytest.mark.usefixtures("banks")
def test_without_a_journal_and_where_nothing_can_be_written(work: Path) -> None:
    assert f"`{hashlib.sha256(b'').hexdigest()}`" in completion("en").text
    (work / "completion.md").unlink()
    (work / "completion.md").mkdir()
    assert completion("en").note.startswith("Not kept:")
    with pytest.raises(ValueError, match="'fr' is not a language"):
        completion("fr")
