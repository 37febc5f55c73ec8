"""A prediction is kept and shown beside the outcome; without one nothing breaks."""

import pytest

from torchcourse import journal
from torchcourse.quiz import outcome, predict
from torchcourse.quiz.widget import PredictionWidget

CHOICES = ["the `outputs`", "the gradients", "nothing <at all>"]


def test_a_prediction_is_shown_beside_the_outcome() -> None:
    predict("01-1.mean", "What is averaged?", CHOICES).choose("the `outputs`")
    shown = outcome("01-1.mean", "Both ranks hold *equal* gradients.", right="the gradients")
    assert shown.right is False
    assert repr(shown) == (
        "You predicted: the `outputs`. It came out differently.\nOutcome: Both ranks hold equal gradients."
    )
    assert "<em>equal</em>" in shown._repr_html_()
    kinds = [(entry["kind"], entry["id"]) for entry in journal.read()]
    assert kinds == [("prediction", "01-1.mean"), ("outcome", "01-1.mean")]
    assert journal.read()[1]["right"] is False


def test_the_last_prediction_counts_and_a_letter_will_do() -> None:
    predict("x", "?", CHOICES).choose("the `outputs`").choose("b").choose("B")
    assert outcome("x", "So.", right="the gradients").right is True
    assert len([entry for entry in journal.read() if entry["kind"] == "prediction"]) == 2


def test_without_a_prediction_the_outcome_says_so_gently() -> None:
    shown = outcome("never-asked", "So.", right="anything")
    assert shown.right is None
    assert "You made no prediction this time." in repr(shown)
    assert "So." in shown._repr_html_()


def test_an_outcome_that_none_predicted_rightly_or_wrongly() -> None:
    predict("x", "?", CHOICES).choose("a")
    shown = outcome("x", "It depends.")
    assert shown.right is None
    assert repr(shown).startswith("You predicted: the `outputs`.\n")


def test_what_is_no_choice_is_refused() -> None:
    question = predict("x", "?", CHOICES)
    for wrong in ("d", "outputs", "", "ab"):
        with pytest.raises(ValueError, match="a letter from A to C"):
            question.choose(wrong)
    with pytest.raises(ValueError, match="'gradients' is none of the choices"):
        outcome("x", "So.", right="gradients")


def shown() -> PredictionWidget:
    asked = predict("x", "Which `one`?", CHOICES)
    return PredictionWidget(asked.question, asked.choices, asked.kept, asked.choose)


def test_a_click_is_kept_at_once_and_found_again() -> None:
    box = shown()
    assert "Kept" not in box.kept.value
    box.choices[0].value = True
    box.choices[2].value = True
    assert [choice.value for choice in box.choices] == [False, False, True]
    assert "Kept" in box.kept.value
    assert outcome("x", "So.").predicted == "nothing <at all>"
    again = shown()
    assert [choice.value for choice in again.choices] == [False, False, True]
    assert "Which <code>one</code>?" in again.box.children[2].value


def test_a_prediction_shows_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    bundle = predict("x", "Which `one`?", CHOICES)._repr_mimebundle_()
    assert bundle["text/plain"] == "Which `one`?\n  A  the `outputs`\n  B  the gradients\n  C  nothing <at all>"
    assert "nothing &lt;at all&gt;" in bundle["text/html"]
