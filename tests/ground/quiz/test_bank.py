"""A bank is read, or refused with one sentence for each fault that names the file, the question and the field."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import example_bank as example
from torchcourse.quiz import bank, yaml_text
from torchcourse.quiz.bank import BankError
from torchcourse.quiz.questions import versions


def faults(folder: Path, data: Any) -> list[str]:
    with pytest.raises(BankError) as caught:
        bank.load(example.write(folder, data))
    return [line.strip() for line in str(caught.value).splitlines()]


def test_the_example_is_read(banks: Path) -> None:
    found = bank.lesson(example.LESSON)
    assert [question.kind for question in found.questions] == ["one", "several", "number", "text", "order", "open"]
    assert [question.key for question in found.questions[:3]] == ["B", "AC", 4]
    assert found.lesson == example.LESSON
    assert found.questions[0].text["ko"] == "한국어 Pick `one` <b>"
    first, shown = found.question("pick-one-again")
    assert (first.id, shown.id) == ("pick-one", "pick-one-again")
    assert (found.number(first), found.number(shown)) == (1, None)


BREAK = {
    "unknown key": (lambda b: b["questions"][0].update(hint="x"), "pick-one, field hint: is not known"),
    "unknown key in a choice": (
        lambda b: b["questions"][0]["choices"][1].update(correct=True),
        "pick-one, field choices, B, correct: is not known",
    ),
    "missing Korean": (lambda b: b["questions"][1]["text"].pop("ko"), "pick-several, field text, ko: is missing"),
    "empty text": (
        lambda b: b["questions"][1]["text"].update(ko=" "),
        "pick-several, field text, ko: must not be empty",
    ),
    "text that YAML took for a truth value": (
        lambda b: b["questions"][0]["choices"][0]["text"].update(en=True),
        "pick-one, field choices, A, text, en: must be text; put True between quotes",
    ),
    "no such kind": (
        lambda b: b["questions"][2].update(kind="essay"),
        "type-number: 'essay' is no kind; the",
    ),
    "no kind": (lambda b: b["questions"][2].pop("kind"), "type-number: 'kind' is missing"),
    "a field of a different kind": (
        lambda b: b["questions"][2].update(accepted=["4"]),
        "type-number, field accepted: is not known",
    ),
    "no id": (lambda b: b["questions"][3].pop("id"), "number 4 of the questions, field id: is missing"),
    "id in capitals": (
        lambda b: b["questions"][3].update(id="Type It"),
        "id: 'Type It' must be lower-case words",
    ),
    "id twice": (lambda b: b["questions"][3].update(id="pick-one-again"), "pick-one-again, field id: another question"),
    "no points": (lambda b: b["questions"][0].update(points=0), "pick-one, field points: "),
    "number as text": (lambda b: b["questions"][2].update(answer="4"), "type-number, field answer: "),
    "negative tolerance": (lambda b: b["questions"][2].update(tolerance=-1), "type-number, field tolerance: "),
    "one choice only": (lambda b: b["questions"][0]["choices"].pop(), "pick-one, field choices: needs at least 2"),
    "two right ones": (
        lambda b: b["questions"][0]["choices"].append(example.choice("four")),
        "pick-one, field choices: exactly one must be 'right: true'; 2 are",
    ),
    "all right": (
        lambda b: b["questions"][1].update(choices=[example.choice("two"), example.choice("four")]),
        "pick-several, field choices: at least one must be 'right: true' and at least one must not",
    ),
    "a wrong choice without its misconception": (
        lambda b: b["questions"][1]["choices"][1].pop("misconception"),
        "pick-several, field choices, B, misconception: is missing",
    ),
    "a right choice with a misconception": (
        lambda b: b["questions"][1]["choices"][0].update(misconception="odd"),
        "pick-several, field choices, A, misconception: a right choice has none",
    ),
    "a choice without its why": (
        lambda b: b["questions"][1]["choices"][0].pop("why"),
        "pick-several, field choices, A, why: is missing",
    ),
    "a choice of two paragraphs": (
        lambda b: b["questions"][0]["choices"][0]["text"].update(en="a\n\nb"),
        "pick-one, field choices, A, text: a choice is one paragraph",
    ),
    "no answer": (lambda b: b["questions"][2].pop("answer"), "type-number, field answer: is missing"),
    "no mistakes": (lambda b: b["questions"][3].pop("mistakes"), "type-text, field mistakes: is missing"),
    "a mistake that is right": (
        lambda b: b["questions"][2]["mistakes"][0].update(answer=4.05),
        "type-number, field mistakes: 4.05 is within the tolerance",
    ),
    "an accepted text that is a mistake": (
        lambda b: b["questions"][3]["mistakes"][0].update(answers=["All Reduce"]),
        "type-text, field mistakes: 'allreduce' is also an accepted answer",
    ),
    "an accepted text of signs only": (
        lambda b: b["questions"][3].update(accepted=["%"]),
        "type-text, field accepted: '%' has neither a letter nor a digit",
    ),
    "another right order that is in order already": (
        lambda b: b["questions"][4].update(also_right=["ABC"]),
        "put-in-order, field items: they stand in the right order already",
    ),
    "another right order with a letter missing": (
        lambda b: b["questions"][4].update(also_right=["CB"]),
        "put-in-order, field also_right: must hold each letter from A to C once, not 'CB'",
    ),
    "a mistake that another right order makes": (
        lambda b: b["questions"][4].update(also_right=["ACB"]),
        "put-in-order, field mistakes: 'AB' is no mistake",
    ),
    "an order with a letter missing": (
        lambda b: b["questions"][4].update(answer="BA"),
        "put-in-order, field answer: must hold each letter from A to C once, not 'BA'",
    ),
    "items that are in order already": (
        lambda b: b["questions"][4].update(
            answer="ABC", mistakes=[b["questions"][4]["mistakes"][0] | {"swapped": "BA"}]
        ),
        "put-in-order, field items: they stand in the right order already",
    ),
    "a swap that is no mistake": (
        lambda b: b["questions"][4]["mistakes"][0].update(swapped="BA"),
        "put-in-order, field mistakes: 'BA' is no mistake",
    ),
    "rubric and points": (
        lambda b: b["questions"][5].update(points=3),
        "write, field rubric: its points add up to 2, but the question has 3",
    ),
    "no model answer": (lambda b: b["questions"][5].pop("model_answer"), "write, field model_answer: is missing"),
    "no source": (
        lambda b: b["questions"][0].pop("source"),
        "pick-one, field source: say where",
    ),
    "two sources": (
        lambda b: b["questions"][0].update(source={"objective": "know-it", "wrong_answer": 1}),
        "pick-one, field source: say where",
    ),
    "unknown objective": (
        lambda b: b["questions"][0].update(source={"objective": "know-all"}),
        "pick-one, field source: there is no objective 'know-all'; this bank has: know-it",
    ),
    "too few variants of a recorded wrong answer": (
        lambda b: b["questions"][0].update(source={"wrong_answer": 1}),
        "pick-one, field variants: a recorded wrong answer needs at least three",
    ),
    "a variant with points": (
        lambda b: b["questions"][0]["variants"][0].update(points=2),
        "pick-one, field variants, pick-one-again: a variant has no points of its own",
    ),
    "a fault inside a variant": (
        lambda b: b["questions"][0]["variants"][0]["choices"][0].pop("text"),
        "pick-one-again, field choices, A, text: is missing",
    ),
    "a misconception that is not described": (
        lambda b: b["misconceptions"].pop("odd"),
        "field misconceptions: 'odd' is used by a question but not described",
    ),
    "a misconception that nobody holds": (
        lambda b: b["misconceptions"].update(new=example.both("x")),
        "field misconceptions, new: no question uses it",
    ),
    "no questions": (lambda b: b.update(questions=[]), "field questions: needs at least 1"),
    "no title": (lambda b: b.pop("title"), "field title: is missing"),
    "a title in one language": (lambda b: b.update(title="Example"), "field title: must be a group of fields"),
}


@pytest.mark.parametrize("name", BREAK)
def test_a_broken_bank_is_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    damage, sentence = BREAK[name]
    data = example.bank()
    damage(data)
    said = faults(tmp_path, data)
    assert any(f"{example.LESSON}.yaml, " in line and sentence in line for line in said[1:]), said


def test_several_faults_are_listed_at_once(tmp_path: Path) -> None:
    data = example.bank()
    for question in data["questions"][:3]:
        question["hint"] = "x"
    said = faults(tmp_path, data)
    assert said[0] == f"{example.LESSON}.yaml has 3 faults:"
    assert len(said) == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title: [", "is not valid YAML: line 2, column 1"),
        ("title: {en: a, ko: b}\ntitle: {en: a, ko: b}", "line 2, column 1: the key 'title' is here twice"),
        ("- a\n- b", "is no question bank"),
        ("", "is no question bank"),
    ],
)
def test_what_is_no_yaml_or_no_bank(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in faults(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("010", 10), ("0", 0), ("1e-3", 0.001), ("1E3", 1000), ("-2.5e3", -2500), (".5", 0.5), ("0x1F", 31), ("+7", 7)],
)
def test_a_number_is_what_its_writer_meant(tmp_path: Path, written: str, meant: float) -> None:
    text = yaml.safe_dump(example.bank(), allow_unicode=True, sort_keys=False)
    assert text.count("\n  answer: 4\n") == 1
    found = bank.load(example.write(tmp_path, text.replace("\n  answer: 4\n", f"\n  answer: {written}\n")))
    assert found.questions[2].key == meant


@pytest.mark.parametrize("written", ["1:30", "1_000", "2026-01-02", "yes", "1,5", "0o17", ".nan", "1e999"])
def test_what_may_be_two_numbers_is_none(tmp_path: Path, written: str) -> None:
    text = yaml.safe_dump(example.bank(), allow_unicode=True, sort_keys=False)
    [_, fault] = faults(tmp_path, text.replace("\n  answer: 4\n", f"\n  answer: {written}\n"))
    assert "type-number, field answer: " in fault
    assert "number" in fault


@pytest.mark.parametrize("written", ["No", "on", "2026-01-02", "1:30", "1_000"])
def test_a_text_that_older_yaml_reads_as_something_else_stays_a_text(written: str) -> None:
    assert yaml_text.parse(f"en: {written}") == {"en": written}


@pytest.mark.parametrize(
    "value", ["1e-3", "010", "09", "No", "1:30", "0x1F", "~", "<<", "=", "a: b", "", 1e-5, 10, True]
)
def test_what_is_written_as_yaml_is_read_back_by_old_and_new_readers(value: object) -> None:
    text = yaml_text.write({"en": value})
    assert yaml_text.parse(text) == yaml.safe_load(text) == {"en": value}


@pytest.mark.parametrize(
    "text",
    [
        "accepted: [add, add(a, b)]",
        "accepted: [x(1, 2)]",
        "text: {en: Yes, it does, ko: 네}",
        "text: {en: f(a, b), ko: 네}",
        "accepted: [yes, it is]",
        "accepted: [first this, then that]",
        "accepted: [1,000]",
        "accepted: [reduce,scatter]",
    ],
)
def test_a_text_that_yaml_cuts_off_at_a_comma_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="between quotes"):
        yaml_text.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "accepted: [f(), (a), 'f(a, b)', f(a)]",
        "accepted: [reduce, 'all reduce']",
        "accepted: [all reduce]",
        'text: {en: "Yes, it does", ko: 네}',
        "en: f(a, b",
    ],
)
def test_a_comma_between_quotes_cuts_nothing(text: str) -> None:
    assert yaml_text.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int x",
        "a: !!float x",
        "a: !!timestamp x",
        "a: !!binary é",
        "[" * 5000,
        f"a: {'1' * 5000}",
        "? {a: b}\n: c",
    ],
)
def test_nothing_that_is_no_yaml_ends_in_an_error_of_python(tmp_path: Path, text: str) -> None:
    [line] = faults(tmp_path, text)
    assert "is not valid YAML: " in line


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(BankError, match=r"no\.yaml cannot be read"):
        bank.load(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes("title: é".encode("latin-1"))
    with pytest.raises(BankError, match=r"latin\.yaml is not UTF-8"):
        bank.load(tmp_path / "latin.yaml")


def test_an_unknown_lesson_or_question_lists_what_there_is(banks: Path) -> None:
    with pytest.raises(BankError, match=f"no quiz for a lesson '99_x'. There are: {example.LESSON}"):
        bank.lesson("99_x")
    with pytest.raises(BankError, match=r"has no question 'x'. It has: pick-one, pick-several"):
        bank.lesson(example.LESSON).question("x")
    with pytest.raises(BankError) as caught:
        bank.lesson("../secret")
    assert caught.value._render_traceback_() == [f"BankError: {caught.value}"]


def test_a_changed_file_is_read_again(banks: Path) -> None:
    assert bank.lesson(example.LESSON).title.en == "Example"
    example.write(banks, example.bank() | {"title": example.both("Another title")})
    assert bank.lesson(example.LESSON).title.en == "Another title"


def test_a_stripped_bank_holds_neither_key_nor_feedback(banks: Path) -> None:
    text = bank.strip(bank.lesson(example.LESSON))
    for word in (
        "right",
        "why",
        "misconception",
        "Look again",
        "all_reduce",
        "Because",
        "BCA",
        "rubric",
        "pick-one-again",
    ):
        assert word not in text
    found = bank.load(example.write(banks, text))
    assert found.stripped
    assert [question.id for question in found.questions] == [q["id"] for q in example.bank()["questions"]]
    assert found.questions[1].letters == "ABCD"
    assert bank.strip(found) == text


def test_a_stripped_bank_holds_the_variants_without_their_keys_where_quizzes_are_drawn(banks: Path) -> None:
    full = bank.lesson(example.LESSON)
    text = bank.strip(full, variants=True)
    assert not any(word in text for word in ("right", "why", "misconception", "Look again", "rubric", "answer"))
    found = bank.load(example.write(banks, text))
    for first in full.questions:
        assert [one.id for one in found.question(first.id)[0].variants] == [one.id for one in first.variants]
        for variant in first.variants:
            assert [one.en for one in found.question(variant.id)[1].options] == [one.en for one in variant.options]
    assert bank.strip(found, variants=True) == text


@pytest.mark.parametrize(
    ("place", "extra", "sentence"),
    [
        (
            0,
            {"choices": [example.choice("two"), example.choice("x")]},
            "pick-one, field choices, A: a choice of",
        ),
        (2, {"answer": 4}, "type-number, field answer: a stripped bank must not hold it"),
    ],
)
def test_a_stripped_bank_with_a_key_is_refused(banks: Path, place: int, extra: dict, sentence: str) -> None:
    data = yaml.safe_load(bank.strip(bank.lesson(example.LESSON)))
    data["questions"][place] |= extra
    assert any(sentence in line for line in faults(banks, data))


def test_banks_are_found_beside_the_package_or_in_the_repository(tmp_path: Path, monkeypatch) -> None:
    assert bank.folder().name == "quizzes"
    assert "04_monitoring_and_checkpoints" in bank.lessons()
    installed = tmp_path / "torchcourse" / "quiz"
    shutil.copytree(bank.folder(), installed / "banks")
    monkeypatch.setattr(bank, "__file__", str(installed / "bank.py"))
    assert bank.folder() == installed / "banks"


def test_the_course_has_banks_without_faults() -> None:
    for name in bank.lessons():
        found = bank.lesson(name)
        for question in [version for first in found.questions for version in versions(first)]:
            assert any("가" <= sign <= "힣" for sign in question.text.ko), question.id
            for choice in getattr(question, "choices", []):
                assert any("가" <= sign <= "힣" for sign in choice.why.ko), question.id


def test_the_example_of_the_readme_is_a_bank(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "quizzes" / "README.md").read_text(encoding="utf-8")
    text = readme.split("```yaml\n")[1].split("```")[0]
    assert bank.load(example.write(tmp_path, text)).questions[0].key == "A"
