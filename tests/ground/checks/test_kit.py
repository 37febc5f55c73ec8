"""The kit of the checks: values are compared as a check means it, and a failure on ranks gets its one symptom."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import torchcourse
from torchcourse.checks import Wrong, kit, symptoms
from torchcourse.checks.kit import (
    AnyOf,
    number,
    number_of,
    numbers,
    numbers_of,
    on_ranks,
    one_thread,
    other_text_hashes,
    refuse_known,
    result_of,
    same,
    tensor_of,
)
from torchcourse.ranks import RankError, RankTimeout

ONE = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (ONE, ONE.double()),
        ([ONE, None], (ONE.clone(), None)),
        ({"a": ONE}, {"a": ONE}),
        (1.0 + 1e-10, 1.0),
        (torch.tensor(2.0), 2),
        (True, True),
        ("a", "a"),
        ([np.ones(2)], [np.ones(2)]),
    ],
)
def test_same(ours, other):
    assert same(ours, other)


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (ONE.T, ONE),
        (None, ONE),
        ([ONE], [ONE, ONE]),
        ([None], [ONE]),
        (ONE, None),
        ({"a": ONE}, {"b": ONE}),
        (ONE, [[1.0] * 3] * 2),
        (math.nan, 1.0),
        ("1", [1]),
        (1 + 1e-6, 1.0),
        (torch.ones(2), 1.0),
        ("a", "b"),
        ([1.0, 1.0], np.ones(2)),
        (np.ones(2), np.ones(3)),
    ],
)
def test_not_same(ours, other):
    assert not same(ours, other)


def test_a_text_has_the_hash_of_a_different_process_for_a_while():
    values = "epoch 1", b"1", ("a", 1), (1, 2), 7, 0.5
    before = [hash(value) for value in values]
    with other_text_hashes():
        inside = [hash(value) for value in values]
        assert {"epoch 1": 3}["epoch 1"] == 3
    assert [a == b for a, b in zip(before, inside, strict=True)] == [False] * 3 + [True] * 3
    assert [hash(value) for value in values] == before


def test_numbers():
    assert number(torch.tensor([3])) == 3
    assert number("x") is number("1") is number(None) is number(math.inf) is number(torch.ones(2)) is None
    assert numbers([1, torch.tensor(2.0)]) == [1, 2]
    assert numbers(3) is numbers([1, "x"]) is None
    values: list = [1, None]
    with pytest.raises(TypeError, match="unary -"):  # an error of what a generator calls is no answer
        numbers(-value for value in values)
    assert numbers_of((1, 2), 2, "MFU and HFU") == [1, 2]
    for given in (None, [1], [1, 2, 3], [1, "x"]):
        with pytest.raises(Wrong, match="Return 2 numbers: MFU and HFU"):
            numbers_of(given, 2, "MFU and HFU")
    assert number_of(torch.tensor(2), "the share") == 2
    with pytest.raises(Wrong, match=r"Return one number, the share\. You return None"):
        number_of(None, "the share")


def test_a_function_that_changes_what_it_was_given_is_refused():
    given = [torch.zeros(2)], {"a": [1]}, np.zeros(2)
    assert result_of(lambda tensors, lists, array: 7, *given) == 7
    for change in (
        lambda tensors, lists, array: tensors[0].add_(1),
        lambda tensors, lists, array: lists["a"].append(2),
        lambda tensors, lists, array: array.fill(1),
    ):
        with pytest.raises(Wrong, match="changed the table") as caught:
            result_of(change, *given, what="the table")
        assert caught.value.symptom == "inputs_changed"
        assert (given[0][0].sum(), given[1], given[2].sum()) == (0, {"a": [1]}, 0)


def test_one_thread_is_for_the_inside_only():
    torch.set_num_threads(2)
    assert one_thread()(torch.get_num_threads)() == 1
    with pytest.raises(ZeroDivisionError):
        one_thread()(fail)("else")
    assert torch.get_num_threads() == 2


def test_a_known_mistake_is_named_and_others_pass():
    known = {"halved": (ONE / 2, "Half."), "zero": (ONE * 0, "Nothing.")}
    refuse_known(ONE, known)
    with pytest.raises(Wrong, match=r"On 2 ranks: Nothing\.") as caught:
        refuse_known(ONE * 0, known, where="On 2 ranks: ")
    assert caught.value.symptom == "zero"
    refuse_known(ONE, {"either": (AnyOf((ONE / 2, ONE / 3)), "Either.")})
    with pytest.raises(Wrong, match="Either"):
        refuse_known(ONE / 3, {"either": (AnyOf((ONE / 2, ONE / 3)), "Either.")})


@pytest.mark.parametrize(
    ("value", "symptom", "words"),
    [(None, "wrong_type", "of type NoneType"), ([[1.0] * 3] * 2, "wrong_type", "list"), (ONE.T, "shape", r"\[3, 2\]")],
)
def test_what_is_not_a_tensor_of_the_shape_is_refused(value, symptom, words):
    assert tensor_of(ONE, [2, 3], "Two rows.") is ONE
    with pytest.raises(Wrong, match=rf"Two rows\. You return .*{words}") as caught:
        tensor_of(value, ONE.shape, "Two rows.")
    assert caught.value.symptom == symptom


def test_a_tensor_of_another_type_than_was_given_is_refused():
    assert tensor_of(ONE, [2, 3], "Two rows.", torch.float32) is ONE
    with pytest.raises(Wrong, match=r"given torch\.float64, and return torch\.float32") as caught:
        tensor_of(ONE, [2, 3], "Two rows.", torch.float64)
    assert caught.value.symptom == "dtype"


def fail(kind: str):
    if kind == "hangs":
        dist.recv(torch.ones(1), 1 - dist.get_rank())
    if kind == "none":
        raise TypeError("'NoneType' object is not iterable")
    if kind == "else":
        raise ZeroDivisionError("division by zero")
    return kind


@pytest.mark.slow
def test_failures_on_ranks_get_their_symptom():
    assert on_ranks(fail, "fine", world_size=2) == ["fine", "fine"]
    known = {"TypeError & NoneType": ("nothing_sent", "Rank {rank} met None: {first_line}.")}
    for kind, symptom, text in [
        ("hangs", "hang", "After 2 s the 2 ranks"),
        ("none", "nothing_sent", "met None: 'NoneType'"),
    ]:
        with pytest.raises(Wrong, match=text) as caught:
            on_ranks(fail, kind, world_size=2, seconds=2, known=known)
        assert caught.value.symptom == symptom
    with pytest.raises(RankError, match="division"):
        on_ranks(fail, "else", world_size=2, known=known)


STACKS = f"""rank 0 was here:
  File "{kit.__file__}", line 5, in _ring
    learner(tensor)
  Cell In[7], line 4, in ring_all_reduce
    dist.send(chunks[0], right)
  Cell In[6], line 2, in inner
    work.wait()
rank 1 was here:
  File "{kit.__file__}", line 5, in _ring
    learner(tensor)
rank 2 was here:
  Cell In[7], line 9, in ring_all_reduce
    dist.recv(arrived, left)"""


SAME_LINE = "".join(
    f"""rank {rank} was here:
  Cell In[7], line 4, in train
    dist.broadcast(p.data, src=rank)
"""
    for rank in (0, 1)
)


def test_a_hang_names_each_ranks_line_of_the_cell(monkeypatch):
    def hang(*_, **__):
        raise RankTimeout(0, "TimeoutError", "ranks 0, 1, 2 had not finished", STACKS)

    monkeypatch.setattr(kit, "run_ranks", hang)
    with pytest.raises(Wrong) as caught:
        on_ranks(fail, "fine", world_size=3)
    assert "Rank 0 waits in line 4: dist.send(chunks[0], right)\nRank 2 waits in line 9" in caught.value.hint
    assert "Rank 1" not in caught.value.hint


def test_ranks_that_all_stand_in_one_line_are_told_so(monkeypatch):
    def hang(*_, **__):
        raise RankTimeout(0, "TimeoutError", "ranks 0, 1 had not finished", SAME_LINE)

    monkeypatch.setattr(kit, "run_ranks", hang)
    with pytest.raises(Wrong, match="all 2 ranks were still in the same line") as caught:
        on_ranks(fail, "fine", world_size=2)
    assert "inside an `if`" not in caught.value.hint


def test_a_rank_left_alone_is_that_or_a_hang(monkeypatch):
    def alone(*_, **__):
        raise RankError(1, "RuntimeError", "[gloo] Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(kit, "run_ranks", alone)
    with pytest.raises(Wrong, match="Rank 1 waited") as caught:
        on_ranks(fail, "fine", world_size=2)
    assert caught.value.symptom == "left_alone"
    with pytest.raises(Wrong) as caught:
        on_ranks(fail, "fine", world_size=2, left_alone=None)
    assert caught.value.symptom == "hang"
    assert "Rank 1 waited for a rank that had already left" in caught.value.hint
    assert "20 s" not in caught.value.hint  # nobody waited so long


def test_one_name_for_one_general_symptom():
    assert not symptoms.SYNONYMS.keys() & symptoms.GENERAL.keys()
    assert set(symptoms.SYNONYMS.values()) <= symptoms.GENERAL.keys()
    package = Path(torchcourse.__file__).parent
    files = [*package.glob("lessons/*/checks/*.py"), *package.glob("lessons/*/checks.py")]
    files += package.glob("lessons/troubleshooting/clinic/cases/*.py")
    assert len(files) > 30
    quoted = re.compile(r'"(\w+)"')
    used = {
        (file.name, name)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"Wrong\(|^\s+\"\w+\",$|^\s+\"\w+\": \(", line)
        for name in quoted.findall(line)[:1]
    }
    assert {(file, name) for file, name in used if name in symptoms.SYNONYMS} == set()
