"""Heads and groups named in different ways are accepted; each wrong choice has its symptom."""

import pytest
import torch

from torchcourse.lessons.model_parallelism import tensor_parallel as tp
from torchcourse.lessons.model_parallelism.checks import placement as check
from verdicts import accepted, refused, todo

# head_outputs


def heads_by_slices(heads, width, rank, ranks):
    share = width // ranks
    return [third * width + rank * share + k for third in range(3) for k in range(share)]


def heads_by_mask(heads, width, rank, ranks):
    head = torch.arange(3 * width) % width // (width // heads)
    return head // (heads // ranks) == rank


def by_head(heads, width, rank, ranks):
    size = width // heads
    here = range(rank * heads // ranks, (rank + 1) * heads // ranks)
    return [third * width + head * size + k for head in here for third in range(3) for k in range(size)]


def strided_heads(heads, width, rank, ranks):
    return torch.arange(3 * width).view(3, heads, -1)[:, rank::ranks].flatten()


def strided_numbers(heads, width, rank, ranks):
    return torch.arange(3 * width).view(3, width)[:, rank::ranks].flatten()


@pytest.mark.parametrize("answer", [tp.outputs_of_heads, heads_by_slices, heads_by_mask])
def test_head_outputs_accepts(answer):
    accepted(check.head_outputs(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda h, w, r, n: torch.arange(3 * w).chunk(n)[r], "one_block"),
        (lambda h, w, r, n: torch.arange(w).chunk(n)[r], "some_missing"),
        (by_head, "order"),
        (strided_heads, "other_heads"),
        (strided_numbers, "torn_heads"),
        (lambda h, w, r, n: torch.arange(3 * w), "too_many"),
        (lambda h, w, r, n: tp.outputs_of_heads(h, w, r, n) + 1, "counted_from_one"),
        (lambda h, w, r, n: torch.arange(w).chunk(n)[r].repeat(3), "twice"),
        (lambda h, w, r, n: tp.outputs_of_heads(h, w, r, n) + 3 * w, "no_such_output"),
        (lambda h, w, r, n: slice(0, 8), "wrong_type"),
        (lambda h, w, r, n: [], "some_missing"),
        (lambda h, w, r, n: torch.arange(3 * w).view(3, h, -1)[:, r].flatten(), "some_missing"),  # one head
        (lambda h, w, r, n: torch.randn(4), "wrong_type"),
        (lambda h, w, r, n: torch.arange(3 * w).view(3, h, -1).chunk(n, 1)[r], "wrong_type"),
    ],
)
def test_head_outputs_refuses(answer, symptom):
    refused(check.head_outputs(answer), symptom)


# mesh_groups


def mesh(ranks, tensor):
    order = torch.arange(ranks).view(-1, tensor)
    return order.tolist(), order.T.tolist()


def mesh_by_ranges(ranks, tensor):
    return (
        [range(start, start + tensor) for start in range(0, ranks, tensor)],
        [tuple(range(start, ranks, tensor)) for start in reversed(range(tensor))],
    )


def mesh_of_tensors(ranks, tensor):
    order = torch.arange(ranks).reshape(ranks // tensor, tensor)
    return order, order.T


@pytest.mark.parametrize("answer", [mesh, mesh_by_ranges, mesh_of_tensors])
def test_mesh_groups_accepts(answer):
    accepted(check.mesh_groups(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda ranks, tensor: mesh(ranks, tensor)[::-1], "swapped"),
        (lambda ranks, tensor: mesh(ranks, ranks // tensor), "number_for_size"),
        (lambda ranks, tensor: mesh(ranks, ranks // tensor)[::-1], "not_neighbors"),
        (lambda ranks, tensor: ([], []), "not_once"),
        (lambda ranks, tensor: (mesh(ranks, tensor)[0][1:], mesh(ranks, tensor)[1]), "not_once"),
        (lambda ranks, tensor: (mesh(ranks, tensor)[0], [list(range(ranks))] * 2), "not_once"),
        (lambda ranks, tensor: (mesh(ranks, tensor)[0], [list(range(ranks))]), "wrong_data_groups"),
        (lambda ranks, tensor: (mesh(ranks, tensor)[0], mesh(ranks, tensor)[0]), "wrong_data_groups"),
        (lambda ranks, tensor: ([[r] for r in range(ranks)], mesh(ranks, tensor)[1]), "wrong_tensor_groups"),
        (lambda ranks, tensor: None, "wrong_type"),
        (lambda ranks, tensor: [half.double().tolist() for half in mesh_of_tensors(ranks, tensor)], "wrong_type"),
        (lambda ranks, tensor: list(range(ranks)), "wrong_type"),
    ],
)
def test_mesh_groups_refuses(answer, symptom):
    refused(check.mesh_groups(answer), symptom)


@pytest.mark.parametrize("shape", [(4, 4), (4, 2)])
def test_right_tensor_groups_are_never_told_as_wrong(shape):
    def no_group_of_one(ranks, tensor):
        groups = mesh(ranks, tensor)
        return groups if (ranks, tensor) != shape else (groups[0], [])

    verdict = check.mesh_groups(no_group_of_one)
    refused(verdict, "not_once")
    assert "one data group" in verdict.message


def with_an_error(error):
    def yielded(ranks, tensor):
        yield mesh(ranks, tensor)[0]
        raise error

    return yielded


@pytest.mark.parametrize("error", [TypeError("no number"), ValueError("no group"), KeyError("no rank")])
def test_an_error_in_a_generator_of_groups_is_the_learners_own(error):
    checked = check.mesh_groups(with_an_error(error))
    assert checked.symptom == f"raised_{type(error).__name__}"
    assert "raise error" in checked.message


def test_the_output_that_does_not_exist_is_named():
    checked = check.head_outputs(lambda h, w, r, n: tp.outputs_of_heads(h, w, r, n) - w // n)
    refused(checked, "no_such_output")
    assert "names the output -4" in checked.message


# both


@pytest.mark.parametrize("exercise", [check.head_outputs, check.mesh_groups])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"
    assert exercise(...).state == "not done"
