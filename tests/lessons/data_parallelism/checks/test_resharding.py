"""Shards cut again for a different number of ranks: right however they are put together, and each fault has a name."""

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.data_parallelism import flat_shards
from torchcourse.lessons.data_parallelism.checks import resharding as check
from verdicts import accepted, refused, todo


def lengths(old_ranks, length, ranks):
    return -(-length // old_ranks), -(-length // ranks)


def number_by_number(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    files: dict = {}
    own = []
    for place in range(rank * new, (rank + 1) * new):
        if place < length:
            if place // old not in files:
                files[place // old] = open_shard(place // old)
            own.append(files[place // old][place % old].item())
        else:
            own.append(0.0)
    return torch.tensor(own, dtype=torch.float64)


def overlap_of_each_file(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    own = torch.zeros(new, dtype=torch.float64)
    for source in range(old_ranks):
        left = max(rank * new, source * old)
        right = min((rank + 1) * new, (source + 1) * old, length)
        if left < right:
            own[left - rank * new : right - rank * new] = open_shard(source)[left - source * old : right - source * old]
    return own


def only_needed_in_a_long_row(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    row = torch.zeros(max(old * old_ranks, new * ranks), dtype=torch.float64)
    for source in sorted({place // old for place in range(rank * new, min((rank + 1) * new, length))}):
        row[source * old : (source + 1) * old] = open_shard(source)
    row[length:] = 0
    return row[rank * new : (rank + 1) * new].clone()


def walking(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    place, pieces = rank * new, [torch.zeros(0, dtype=torch.float64)]
    while place < min((rank + 1) * new, length):
        within = place % old
        take = min(old - within, (rank + 1) * new - place, length - place)
        pieces.append(open_shard(place // old)[within : within + take])
        place += take
    own = torch.cat(pieces)
    return torch.cat([own, own.new_zeros(new - len(own))])


def first_to_last(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    start, stop = rank * new, min((rank + 1) * new, length)
    if start >= stop:
        return torch.zeros_like(open_shard(0))[:1].expand(new).clone()
    first, last = start // old, (stop - 1) // old
    opened = torch.cat([open_shard(source) for source in range(first, last + 1)])[start - first * old :]
    return F.pad(opened[: stop - start], (0, new - stop + start))


def zeros_without_a_type(open_shard, old_ranks, length, rank, ranks):
    new = lengths(old_ranks, length, ranks)[1]
    if rank * new >= length:
        return torch.zeros(new)
    return first_to_last(open_shard, old_ranks, length, rank, ranks)


@pytest.mark.parametrize(
    "answer",
    [
        flat_shards.reshard,
        number_by_number,
        overlap_of_each_file,
        only_needed_in_a_long_row,
        walking,
        first_to_last,
    ],
)
def test_reshard_accepts(answer):
    accepted(check.reshard(answer))


def all_of(open_shard, old_ranks):
    return torch.cat([open_shard(source) for source in range(old_ranks)])


def one_file(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    source = min(rank * new // old, old_ranks - 1)
    start = rank * new - source * old
    own = open_shard(source)[start : start + new]
    return F.pad(own, (0, new - len(own)))


def without_the_offset(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    start, stop = min(rank * new, length), min((rank + 1) * new, length)
    first = min(start // old, old_ranks - 1)
    last = max(min((stop - 1) // old, old_ranks - 1), first)
    opened = torch.cat([open_shard(source) for source in range(first, last + 1)])
    own = opened[:new]
    return F.pad(own, (0, new - len(own)))


def one_file_too_far(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    files = range(rank * new // old, (rank + 1) * new // old + 1)
    opened = torch.cat([open_shard(source) for source in files])
    return opened[:new]


def opened_for_each_number(open_shard, old_ranks, length, rank, ranks):
    old, new = lengths(old_ranks, length, ranks)
    numbers = [open_shard(place // old)[place % old] for place in range(rank * new, min((rank + 1) * new, length))]
    return torch.stack([*numbers, *[torch.zeros((), dtype=torch.float64)] * (new - len(numbers))])


def fresh(unit, rank, ranks):
    return flat_shards.own_shard([unit], rank, ranks)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], r, n), "opens_too_much"),
        (lambda o, s, length, r, n: fresh(all_of(o, s), r, n), "old_zeros"),
        (lambda o, s, length, r, n: all_of(o, s).tensor_split(n)[r], "wrong_length"),
        (lambda o, s, length, r, n: all_of(o, s)[:length].tensor_split(n)[r], "wrong_length"),
        (lambda o, s, length, r, n: all_of(o, s)[:length][r * -(-length // n) :][: -(-length // n)], "wrong_length"),
        (lambda o, s, length, r, n: all_of(o, s)[:length][r * (length // n) :][: length // n], "wrong_length"),
        (lambda o, s, length, r, n: all_of(o, s)[:length], "wrong_length"),
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], (r + 1) % n, n), "wrong_place"),
        (lambda o, s, length, r, n: o(r % s), "old_shards"),
        (lambda o, s, length, r, n: o(r), "no_such_file"),
        (one_file_too_far, "no_such_file"),
        (opened_for_each_number, "opens_again"),
        (one_file, "one_file_only"),
        (without_the_offset, "wrong_place"),
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], r, n).float(), "dtype"),
        (zeros_without_a_type, "dtype"),
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], r, n)[None], "shape"),
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], r, n).tolist(), "wrong_type"),
        (lambda o, s, length, r, n: None, "nothing_returned"),
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], r, n) + 0.5, "wrong_value"),
        (lambda o, s, length, r, n: fresh(all_of(o, s)[:length], r, n)[:-1], "wrong_length"),
    ],
)
def test_reshard_refuses(answer, symptom):
    refused(check.reshard(answer), symptom)


def test_a_stub_is_not_done_yet():
    assert check.reshard(todo).state == "not done"
