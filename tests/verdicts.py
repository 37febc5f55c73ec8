"""What the tests of the checks expect of an answer: accepted with its point, or refused with a symptom and a hint."""


def accepted(checked):
    assert checked.state == "right", checked.message
    assert checked.score == 1


def refused(checked, symptom):
    """Assert that the answer was refused with this symptom, and that the hint is a sentence or more."""
    assert (checked.state, checked.symptom) == ("wrong", symptom), checked.message
    assert checked.message.endswith((".", "?"))
    assert checked.score == 0


def todo(*_):
    """The stub of an exercise."""
    raise NotImplementedError("Write your code here, then run this cell again.")
