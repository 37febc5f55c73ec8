"""A prediction is kept and shown beside the outcome; without one nothing breaks."""

import base64

import pytest

from torchcourse import journal
from torchcourse.quiz import outcome, predict
from torchcourse.quiz.widget import PredictionForm

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


def test_without_a_prediction_the_outcome_waits_behind_its_question() -> None:
    predict("x", "What is averaged?", CHOICES)
    for shown in (
        outcome("x", "So it came.", right="the gradients"),
        outcome("never-asked", "So it came.", right="any"),
    ):
        assert shown.right is None
        assert "You made no prediction." in repr(shown)
        seen, folded = shown._repr_html_().split("<details><summary>Show it anyway</summary>")
        assert "So it came." in folded
        assert "So it came." not in seen
        assert "← right" not in seen + folded
    asked = outcome("x", "So it came.", right="the gradients")._repr_html_()
    assert "What is averaged?" in asked
    assert "nothing &lt;at all&gt;" in asked


def test_the_right_choice_is_marked_with_ones_own_beside_it() -> None:
    predict("x", "What is averaged?", CHOICES).choose("A")
    shown = outcome("x", "So.", right="the gradients")._repr_html_()
    assert '<code>outputs</code></span> <i class="tc-meta">← your prediction</i>' in shown
    assert 'the gradients</span> <i class="tc-meta">← right</i>' in shown
    predict("x").choose("B")
    assert "← right, your prediction" in outcome("x", "So.", right="the gradients")._repr_html_()
    assert "← right" not in outcome("x", "It depends.")._repr_html_()


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
        outcome("x", "So.", key=base64.b64encode(b"gradients").decode())


def test_what_was_measured_may_be_none_of_the_choices() -> None:
    """On a busy machine something else may be the longest: the notebook goes on, and no choice is called right."""
    predict("x", "?", CHOICES).choose("a")
    shown = outcome("x", "The rest took longest.", right="the rest")
    assert shown.right is False
    assert "It came out differently" in repr(shown)
    assert "← right" not in shown._repr_html_()


def shown() -> PredictionForm:
    asked = predict("x", "Which `one`?", CHOICES)
    return PredictionForm(asked.question, asked.choices, asked.kept, asked.choose)


def test_a_click_is_kept_at_once_and_found_again() -> None:
    form = shown()
    assert form.parts["kept"].endswith("></span>")
    form.do("input", answer=["A"])
    form.do("input", answer=["C"])
    assert "Kept" in form.parts["kept"]
    assert outcome("x", "So.").predicted == "nothing <at all>"
    again = shown()
    assert again.values == {"answer": ["C"]}
    assert "Which <code>one</code>?" in again.parts["answer"]
    again.do("ask")
    assert len([entry for entry in journal.read() if entry["kind"] == "prediction"]) == 2


def test_a_prediction_is_read_and_made_where_nothing_can_be_clicked() -> None:
    asked = predict("x", "Which `one`?", CHOICES)
    lines = repr(asked).splitlines()
    assert lines[:4] == ["Which `one`?", "  A  the `outputs`", "  B  the gradients", "  C  nothing <at all>"]
    assert "nothing &lt;at all&gt;" in asked._repr_html_()
    exec(lines[-1].rpartition(": ")[2], {})
    assert asked.kept == "the `outputs`"
    assert "← your prediction" in asked._repr_html_()
    with pytest.raises(ValueError, match="run the cell with this question first"):
        predict("never-asked")


def test_the_right_choice_may_come_in_base64():
    predict("coded", "?", ["a", "가"]).choose("B")
    assert outcome("coded", "It came.", key="6rCA").right is True
    assert outcome("coded", "It came.", key="YQ==").right is False
