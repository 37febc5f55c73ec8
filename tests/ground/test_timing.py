"""Candidates take turns, and what was measured is told with its spread."""

from torchcourse.timing import in_turn, ratio, spread


def test_candidates_take_turns_and_the_first_round_is_not_counted():
    calls = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_spread_is_median_and_range():
    assert spread([0.3, 0.1, 0.2], "ms", 1e3) == "200 ms (100–300)"
    assert ratio([3.0, 2.0, 4.0], [2.0]) == "1.50×"
