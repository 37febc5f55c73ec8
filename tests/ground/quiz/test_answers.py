"""What a typed answer means, and what it earns."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchcourse.quiz import answers, texts
from torchcourse.quiz.answers import AnswerError, read, score


@pytest.mark.parametrize(
    ("kind", "typed", "meant"),
    [
        ("several", "AC", "AC"),
        ("several", "ca", "AC"),
        ("several", "A,C", "AC"),
        ("several", " a c ", "AC"),
        ("several", "(A) & (C)", "AC"),
        ("several", ["A", "C"], "AC"),
        ("several", {"C", "A"}, "AC"),
        ("several", "AAC", "AC"),
        ("several", "ＡＣ", "AC"),
        ("several", "A·C", "AC"),
        ("several", "A\u200b,\ufeff C.", "AC"),  # copied from a page, with signs that nobody sees
        ("several", "\u0410\u0421\u0415", "ACE"),  # on a Cyrillic keyboard
        ("one", "\u0392", "B"),  # on a Greek one
        ("one", "b", "B"),
        ("one", "B.", "B"),
        ("one", ("B",), "B"),
        ("order", "c-a-b", "CAB"),
        ("order", "C > A > B", "CAB"),
        ("order", "C → A → B", "CAB"),
        ("order", ["C", "A", "B"], "CAB"),
        ("number", 4, 4.0),
        ("number", "4", 4.0),
        ("number", "1/4", 0.25),
        ("number", "1e-3", 0.001),
        ("number", " -2.5 ", -2.5),
        ("number", "0,001", 0.001),
        ("number", "0,5", 0.5),
        ("number", "1,25", 1.25),
        ("number", "1,690", 1690.0),
        ("number", "12,300.5", 12300.5),
        ("number", "1 / 8", 0.125),
        ("number", "½", 0.5),
        ("number", "2½", 2.5),
        ("number", "-2 1/2", -2.5),
        ("number", "1 250/2", 625.0),
        ("number", "12 345 678", 12345678.0),
        ("number", "1\u00a0250\u200b", 1250.0),
        ("number", "2.5 * 10 ^ 3\n", 2500.0),
        ("number", "0.1/0.4", 0.25),
        ("number", "2.5×10⁻¹", 0.25),
        ("number", "2.5*10^-1", 0.25),
        ("number", "10**3", 1000.0),
        ("number", "１２", 12.0),
        ("number", "−3", -3.0),
        ("number", np.float32(0.5), 0.5),
        ("text", " map_location ", "map_location"),
        ("text", 8, "8"),
        ("open", "Because.", "Because."),
        *[(kind, nothing, None) for kind in answers.KINDS for nothing in (..., None, "")],
        ("several", "  ", None),
        ("open", "  \n", None),
        ("several", [], None),
    ],
)
def test_an_answer_with_one_meaning_is_understood(kind, typed, meant) -> None:
    letters = "ABC" if kind == "order" else "ABCDE"
    assert read(kind, typed, letters) == meant


@pytest.mark.parametrize(
    ("kind", "typed", "said"),
    [
        ("several", "AF", "no choice F"),
        ("several", "A-C", "no choice -"),  # A and C, or A to C?
        ("several", "A...C", "no choice ."),
        ("order", {"C", "A", "B"}, 'such as "EDCBA"'),  # a set has no order, and each start of Python a different one
        *[("number", typed, "not read as a number") for typed in ("1 25", "1 2 3", "2 1/0", "3 3/2 1")],
        *[
            ("number", typed, "not read as a number")
            for typed in ("1.690,5", "1,2,3", "12%", "3 steps", "1_000", "1e9999")
        ],
        ("several", "A1", "no choice 1"),
        ("several", 3, "between quotes"),
        ("several", ["A", 2], "between quotes"),
        ("several", ["AB", "C"], "between quotes"),
        ("one", "AB", "one letter"),
        ("one", True, "between quotes"),
        ("order", "AB", "each letter from A to E once"),
        ("order", "ABCDEE", "each letter from A to E once"),
        ("number", "a lot", "not read as a number"),
        ("number", "0.5.1", "with a point"),
        ("number", True, "not True"),
        ("number", "1/0", "not read as a number"),
        ("number", float("nan"), "finite"),
        ("number", object(), "not read as a number"),
    ],
)
def test_an_answer_without_a_clear_meaning_gets_a_sentence(kind, typed, said) -> None:
    with pytest.raises(AnswerError, match=said):
        read(kind, typed, "ABCDE")


@pytest.mark.parametrize(
    ("kind", "typed", "said"),
    [
        ("number", "many", "수로 읽히지"),
        ("one", "F", "A~E에 있는 글자"),
        ("order", "AB", "한 번씩"),
        ("one", "AB", "하나만"),
    ],
)
def test_a_reader_of_korean_gets_the_sentence_in_korean(kind, typed, said, monkeypatch) -> None:
    monkeypatch.setattr(texts, "_chosen", "ko")
    with pytest.raises(AnswerError, match=said):
        read(kind, typed, "ABCDE")


@pytest.mark.parametrize(
    ("answer", "share"),
    [("ACE", 1), ("AC", 2 / 3), ("A", 1 / 3), ("ACD", 2 / 3 - 1 / 2), ("ABCDE", 0), ("BD", 0), ("D", 0), (None, 0)],
)
def test_several_choices_of_a_b_c_d_e_with_the_key_a_c_e(answer, share) -> None:
    assert score("several", answer, "ACE", "ABCDE") == pytest.approx(share)


@pytest.mark.parametrize("count", range(2, 7))
def test_ticking_everything_or_nothing_or_at_random_earns_nothing(count: int) -> None:
    letters = answers.LETTERS[:count]
    subsets = ["".join(part) for size in range(count + 1) for part in itertools.combinations(letters, size)]
    for key in subsets[1:-1]:
        assert score("several", letters, key, letters) == 0
        assert score("several", None, key, letters) == 0
        assert score("several", key, key, letters) == 1
        assert all(score("several", other, key, letters) < 1 for other in subsets[1:] if other != key)
        right, wrong = set(key), set(letters) - set(key)
        gain = [len(right & {*part}) / len(right) - len(wrong & {*part}) / len(wrong) for part in subsets]
        assert sum(gain) == pytest.approx(0), "blind ticking gains nothing before the cut at 0"


@pytest.mark.parametrize(
    ("kind", "answer", "key", "tolerance", "share"),
    [
        ("one", "B", "B", 0, 1),
        ("one", "A", "B", 0, 0),
        ("number", 4.0, 4.0, 0, 1),
        ("number", 0.1 + 0.2, 0.3, 0, 1),
        ("number", 4.3, 4, 0.3, 1),
        ("number", 4.31, 4, 0.3, 0),
        ("number", 9.5367e-7, 9.537e-7, 0.6e-7, 1),
        ("number", 1e-6, 9.537e-7, 0.4e-7, 0),
        ("text", "All-Reduce()", ["all_reduce"], 0, 1),
        ("text", "ＤＤＰ", ["ddp"], 0, 1),
        ("text", "기울기 평균", ["기울기평균"], 0, 1),
        ("text", "reduce", ["all_reduce"], 0, 0),
        ("order", "ABC", "ABC", 0, 1),
        ("order", "BAC", "ABC", 0, 1 / 3),
        ("order", "CBA", "ABC", 0, 0),
    ],
)
def test_the_other_kinds(kind, answer, key, tolerance, share) -> None:
    assert score(kind, answer, key, "ABC", tolerance) == pytest.approx(share)


@pytest.mark.slow
@given(st.sampled_from(answers.KINDS), st.none() | st.booleans() | st.text() | st.floats() | st.lists(st.text()))
def test_whatever_is_typed_is_read_or_refused_with_a_sentence(kind, typed) -> None:
    sentence, meant = "", None
    try:
        meant = read(kind, typed, "ABCDE")
    except AnswerError as error:
        sentence = str(error)
    assert sentence.endswith(".") if sentence else meant is None or isinstance(meant, str | float)


@pytest.mark.parametrize(
    "typed",
    [
        "all_reduce",
        "All-Reduce",
        "`dist.all_reduce(x)`",
        "torch.distributed.all_reduce(x, op=ReduceOp.SUM)",
        "the all-reduce",
        "올리듀스",
        "올 리듀스",
        "올리듀스(all-reduce)",
        "올리듀스입니다.",
        "all_reduce = True",
    ],
)
def test_a_name_is_known_in_each_of_its_forms(typed: str) -> None:
    assert score("text", typed, ["all_reduce", "올리듀스"]) == 1


@pytest.mark.parametrize(
    "typed", ["reduce", "reduce(all_reduce)", "all_reduce = False", "not all_reduce", "()", "…", "a" * 10**5]
)
def test_a_different_name_is_not(typed: str) -> None:
    assert score("text", typed, ["all_reduce", "올리듀스"]) == 0


def test_where_several_orders_are_right_the_nearest_counts() -> None:
    assert score("order", "CAB", ["ABC", "CAB"], "ABC") == 1
    assert score("order", "ABC", ["ABC", "CAB"], "ABC") == 1
    assert score("order", "ACB", ["ABC", "CAB"], "ABC") == pytest.approx(1 / 3)
