"""A ring of single messages is accepted in every direction and cut; each wrong one has its symptom."""

import pytest
import torch
import torch.distributed as dist

from torchcourse.lessons.data_parallelism import collectives
from torchcourse.lessons.data_parallelism.checks import ring as check
from verdicts import accepted, refused, todo


def neighbors():
    rank, n = dist.get_rank(), dist.get_world_size()
    return rank, n, (rank + 1) % n, (rank - 1) % n


def pass_right(outgoing, incoming):
    _, _, right, left = neighbors()
    sending = dist.isend(outgoing, right)
    dist.recv(incoming, left)
    sending.wait()


def ring(tensor, cut=torch.tensor_split, first_steps=None, second_steps=None, second_offset=1, adds=False, mean=False):
    """The ring of the notebook, with switches for its mistakes."""
    rank, n, *_ = neighbors()
    chunks = cut(tensor, n)
    for step in range(n - 1 if first_steps is None else first_steps):
        arrived = torch.empty_like(chunks[(rank - step - 1) % n])
        pass_right(chunks[(rank - step) % n], arrived)
        chunks[(rank - step - 1) % n].add_(arrived)
    for step in range(n - 1 if second_steps is None else second_steps):
        target = chunks[(rank - step + second_offset - 1) % n]
        arrived = torch.empty_like(target)
        pass_right(chunks[(rank - step + second_offset) % n], arrived)
        target.add_(arrived) if adds else target.copy_(arrived)
    if mean:
        tensor /= n


def ring_to_the_left(tensor):
    rank, n, right, left = neighbors()
    chunks = tensor.tensor_split(n)
    for step in range(2 * (n - 1)):
        target = chunks[(rank + step + 1) % n]
        arrived = torch.empty_like(target)
        if rank % 2:  # odd ranks send first
            dist.send(chunks[(rank + step) % n], left)
            dist.recv(arrived, right)
        elif n % 2 and rank == 0:  # in an odd ring two even ranks are neighbors
            sending = dist.isend(chunks[(rank + step) % n], left)
            dist.recv(arrived, right)
            sending.wait()
        else:
            dist.recv(arrived, right)
            dist.send(chunks[(rank + step) % n], left)
        target.copy_(arrived if step >= n - 1 else target + arrived)


def ring_of_padded_chunks(tensor):
    n = dist.get_world_size()
    each = -(-len(tensor) // n)
    padded = torch.zeros(n * each, dtype=tensor.dtype, device=tensor.device)
    padded[: len(tensor)] = tensor
    ring(padded)
    tensor.copy_(padded[: len(tensor)])


def gather_on_rank_0(tensor):
    rank, n, *_ = neighbors()
    arrived = torch.empty_like(tensor)
    if rank > 0:
        dist.send(tensor, 0)
        dist.recv(tensor, 0)
        return
    for other in range(1, n):
        dist.recv(arrived, other)
        tensor += arrived
    for other in range(1, n):
        dist.send(tensor, other)


def whole_tensors_round_the_ring(tensor):
    outgoing, incoming = tensor.clone(), torch.empty_like(tensor)
    for _ in range(dist.get_world_size() - 1):
        pass_right(outgoing, incoming)
        tensor += incoming
        outgoing.copy_(incoming)


def straight_to_each_rank(tensor):
    rank, n, *_ = neighbors()
    chunks = tensor.tensor_split(n)
    others = [other for other in range(n) if other != rank]
    sent = [dist.isend(chunks[other].clone(), other) for other in others]
    for other in others:
        arrived = torch.empty_like(chunks[rank])
        dist.recv(arrived, other)
        chunks[rank].add_(arrived)
    sent += [dist.isend(chunks[rank], other) for other in others]
    for other in others:
        dist.recv(chunks[other], other)
    for work in sent:
        work.wait()


def library(tensor):
    dist.all_reduce(tensor)


def result_returned(tensor):
    own = tensor.clone()
    ring(own)
    return own


def even_pieces(tensor, n):
    return tensor[: len(tensor) // n * n].view(n, -1)


def everybody_sends_first(tensor):
    _, _, right, left = neighbors()
    arrived = torch.empty_like(tensor)
    dist.send(tensor, right)
    dist.recv(arrived, left)


def other_length_arrives(tensor):
    pass_right(tensor[: 6 if dist.get_rank() == 0 else 3], torch.empty_like(tensor[:3]))


def ring_of_a_list(tensor, keep_first=True, keep_second=True):
    """The chunks as a list, whose entries get new tensors unless they are kept."""
    rank, n, *_ = neighbors()
    chunks = list(tensor.tensor_split(n))
    for step in range(2 * (n - 1)):
        place, first = (rank - step - 1) % n, step < n - 1
        arrived = torch.empty_like(chunks[place])
        pass_right(chunks[(rank - step) % n], arrived)
        result = chunks[place] + arrived if first else arrived
        if keep_first if first else keep_second:
            chunks[place].copy_(result)
        else:
            chunks[place] = result


def entry_of_a_tuple(tensor):
    chunks = tensor.tensor_split(dist.get_world_size())
    chunks[0] += 1


def result_of_pass_right(tensor):
    tensor += pass_right(tensor, torch.empty_like(tensor))


def in_float32(tensor):
    single = tensor.float()
    ring(single)
    tensor.copy_(single)


def nothing_but_what_lay_there(tensor):
    pass_right(tensor, torch.empty_like(tensor))
    tensor.zero_()


def other_dtype_arrives(tensor):
    pass_right(tensor, torch.empty(len(tensor)))


def own_chunk_again(tensor):
    rank, n, *_ = neighbors()
    chunk = tensor.tensor_split(n)[rank]
    for _ in range(n - 1):
        arrived = torch.empty_like(chunk)
        pass_right(chunk, arrived)
        chunk.add_(arrived)


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [ring_of_a_list, ring, collectives.ring_all_reduce, ring_to_the_left, ring_of_padded_chunks]
)
def test_ring_all_reduce_accepts(answer):
    accepted(check.ring_all_reduce(answer))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda tensor: ring(tensor, second_steps=0), "only_reduce_scatter"),
        (lambda tensor: ring(tensor, adds=True), "added_twice"),
        (own_chunk_again, "added_twice"),
        (lambda tensor: ring(tensor, second_offset=0), "incomplete"),
        (lambda tensor: ring(tensor, second_steps=1), "incomplete"),
        (lambda tensor: ring(tensor, first_steps=1), "incomplete"),
        (in_float32, "dtype"),
        (nothing_but_what_lay_there, "incomplete"),
        (lambda tensor: ring(tensor, mean=True), "mean_not_sum"),
        (lambda tensor: ring(tensor, cut=torch.chunk), "not_divisible"),
        (lambda tensor: ring(tensor, cut=even_pieces), "not_divisible"),
        (result_returned, "nothing_changed"),
        (library, "library_collective"),
        (gather_on_rank_0, "too_many_bytes"),
        (whole_tensors_round_the_ring, "too_many_bytes"),
        (straight_to_each_rank, "not_a_ring"),
        (other_length_arrives, "sizes_differ"),
        (other_dtype_arrives, "sizes_differ"),
        (lambda tensor: ring_of_a_list(tensor, keep_second=False), "not_in_the_tensor"),
        (lambda tensor: ring_of_a_list(tensor, keep_first=False), "not_in_the_tensor"),
        (lambda tensor: ring(tensor, second_steps=dist.get_world_size()), "too_many_steps"),
        (entry_of_a_tuple, "tuple"),
        (result_of_pass_right, "nothing_returned"),
    ],
)
def test_ring_all_reduce_refuses(answer, symptom):
    refused(check.ring_all_reduce(answer), symptom)


@pytest.mark.slow
def test_a_ring_without_a_second_half_is_not_asked_what_happens_there():
    assert "a different chunk in each step" in check.ring_all_reduce(own_chunk_again).message
    assert "in the second half" in check.ring_all_reduce(lambda tensor: ring(tensor, adds=True)).message


@pytest.mark.slow
def test_ring_all_reduce_sees_a_hang(monkeypatch):
    monkeypatch.setattr(check, "TIME_LIMIT", 3.0)
    refused(check.ring_all_reduce(everybody_sends_first), "hang")


def test_a_stub_is_not_done_yet():
    assert check.ring_all_reduce(todo).state == "not done"


def test_a_learners_error_is_told_in_one_sentence():
    def misspelt(tensor):
        dist.isent(tensor, 0)  # type: ignore[attr-defined]  # the misspelling is what is tested

    checked = check.ring_all_reduce(misspelt)
    assert (checked.state, checked.symptom) == ("wrong", "raised_AttributeError")
    assert "isent" in checked.message
    assert "Traceback" not in checked.message
