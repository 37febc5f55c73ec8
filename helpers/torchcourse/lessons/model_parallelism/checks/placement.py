"""Checks of lesson 02 on what lies where: which heads a rank computes, and which ranks hold equal layers or samples."""

from collections.abc import Callable
from operator import index
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.errors import learners_line
from torchcourse.checks.kit import refuse_known
from torchcourse.lessons.model_parallelism.tensor_parallel import outputs_of_heads


@check
def head_outputs(learner: Callable) -> str:
    """Compare with the outputs that belong to whole heads, for several sizes."""
    for heads, width, ranks in ((4, 8, 2), (4, 32, 4), (6, 12, 3), (2, 6, 1)):
        for rank in range(ranks):
            call = f"head_outputs({heads}, {width}, {rank}, {ranks})"
            _judge_heads(_indices(learner(heads, width, rank, ranks), call), heads, width, rank, ranks, call)
    return "Each rank has the queries, keys and values of its own heads, in the order that attention expects."


@check
def mesh_groups(learner: Callable) -> str:
    """Compare with a mesh of data × tensor in which a tensor group is made of neighbors."""
    for ranks, tensor in ((8, 2), (4, 2), (8, 4), (6, 3), (4, 4), (4, 1)):
        _judge_mesh(learner(ranks, tensor), ranks, tensor)
    return "Every rank is in one group of each kind, for six meshes; neighbors divide the layers among them."


# Heads


def _indices(answer: Any, call: str) -> list[int]:
    """The learner's answer as a list of whole numbers; a mask counts as the places where it is true."""
    if isinstance(answer, list | tuple) and not answer:
        return []
    try:
        tensor = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        if learners_line(error):
            raise
        tensor = None
    if tensor is not None and tensor.dtype == torch.bool:
        tensor = tensor.nonzero().flatten()
    if tensor is None or tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise Wrong("wrong_type", f"{call} is {answer!r}. A list or a tensor of whole numbers was asked for.")
    return tensor.tolist()


def _judge_heads(answer: list[int], heads: int, width: int, rank: int, ranks: int, call: str) -> None:
    right = outputs_of_heads(heads, width, rank, ranks).tolist()
    if answer == right:
        return
    share, total = 3 * width // ranks, 3 * width
    if outside := [index for index in answer if not 0 <= index < total]:
        raise Wrong("no_such_output", f"{call} names the output {outside[0]}; they are numbered 0 to {total - 1}.")
    if answer == [index + 1 for index in right]:
        raise Wrong("counted_from_one", f"{call} is one too large everywhere: outputs are numbered from 0.")
    if len(set(answer)) < len(answer):
        twice = next(index for index in answer if answer.count(index) > 1)
        raise Wrong(
            "twice",
            f"{call} names the output {twice} {answer.count(twice)} times. Queries are the outputs 0 to {width - 1}; "
            "where do keys and values begin?",
        )
    if answer == list(range(rank * share, (rank + 1) * share)):
        thirds = sorted({"qkv"[index // width] for index in answer}, key="qkv".index)
        raise Wrong(
            "one_block",
            f"{call} is one block of neighbors. It holds only outputs of {' and '.join(thirds)}: print which third "
            "each of them lies in.",
        )
    if set(answer) < set(right):
        kinds = {index // width for index in answer}
        lack = "those of all its heads" if len(kinds) == 3 else "queries, keys *and* values"
        raise Wrong("some_missing", f"{call} has {len(answer)} outputs, but a rank holds {share}: {lack}.")
    if set(answer) == set(right):
        raise Wrong(
            "order",
            f"{call} has the right outputs in a different order. Attention takes the rank's outputs apart in three "
            "equal blocks: what must be in the first?",
        )
    if len(answer) != share:
        raise Wrong("too_many", f"{call} has {len(answer)} outputs; a rank's share of {total} is {share}.")
    size = width // heads
    here = {(index % width) // size for index in answer}
    if len(here) * size * 3 == share:
        raise Wrong(
            "other_heads",
            f"{call} holds whole heads, {sorted(here)}, but they are not this rank's: rank r has the r-th block of "
            "neighbors.",
        )
    raise Wrong(
        "torn_heads",
        f"{call} holds parts of the heads {sorted(here)}. A head that lies on two ranks can compute no attention: it "
        "needs all of its numbers in one place.",
    )


# The mesh


def _judge_mesh(answer: Any, ranks: int, tensor: int) -> None:
    call = f"mesh_groups({ranks}, {tensor})"
    try:
        tensor_groups, data_groups = ([sorted(index(rank) for rank in group) for group in kind] for kind in answer)
    except (TypeError, ValueError) as error:
        if learners_line(error):  # an error of a generator that the learner returned
            raise
        raise Wrong(
            "wrong_type", f"{call} is {answer!r}. Two lists of groups of whole numbers were asked for."
        ) from None
    order = torch.arange(ranks).view(-1, tensor)
    right_tensor, right_data = order.tolist(), order.T.tolist()
    found = [sorted(tensor_groups), sorted(data_groups)]
    if found == [right_tensor, right_data]:
        return
    swapped = "these are the groups, but the two kinds are exchanged. It is neighbors that divide the layers."
    refuse_known(found, {"swapped": ([right_data, right_tensor], swapped)}, where=f"{call}: ")
    neighbors = found[0] == right_tensor
    if not neighbors:
        other = torch.arange(ranks).view(tensor, -1)
        known = {
            "number_for_size": (
                other.tolist(),
                f"there are {tensor} tensor groups. {tensor} is how many ranks are *in* each of them.",
            ),
            "not_neighbors": (
                sorted(other.T.tolist()),
                f"the tensor groups have the right size, but {other.T[0].tolist()} are no neighbors. Which ranks sit "
                "in one machine?",
            ),
        }
        refuse_known(found[0], known, where=f"{call}: ")
    for name, groups in (("tensor", tensor_groups), ("data", data_groups)):
        if sorted(rank for group in groups for rank in group) != list(range(ranks)):
            raise Wrong(
                "not_once",
                f"{call}: each of the {ranks} ranks is in one {name} group, and in one only. Here: {groups}.",
            )
    if neighbors:
        raise Wrong(
            "wrong_data_groups",
            f"{call}: the tensor groups are right, but not the data groups, {data_groups}. Who holds the *same* part "
            "of each layer as rank 0?",
        )
    raise Wrong("wrong_tensor_groups", f"{call}: the tensor groups are {tensor_groups}. Write the ranks down in rows.")
