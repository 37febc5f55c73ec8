"""The checks of notebook 2 of lesson 01 accept right answers built in different ways and name wrong ones' symptoms."""

import contextlib
import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.lessons.data_parallelism import collectives, data_parallel
from torchcourse.lessons.data_parallelism.checks import ddp as check
from torchcourse.ranks import RankTimeout
from verdicts import accepted, refused, todo

# ring_all_reduce


def neighbours():
    rank, n = dist.get_rank(), dist.get_world_size()
    return rank, n, (rank + 1) % n, (rank - 1) % n


def pass_right(outgoing, incoming):
    _, _, right, left = neighbours()
    sending = dist.isend(outgoing, right)
    dist.recv(incoming, left)
    sending.wait()


def ring(tensor, cut=torch.tensor_split, first_steps=None, second_steps=None, second_offset=1, adds=False, mean=False):
    """The ring of the notebook, with switches for its mistakes."""
    rank, n, *_ = neighbours()
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
    rank, n, right, left = neighbours()
    chunks = tensor.tensor_split(n)
    for step in range(2 * (n - 1)):
        target = chunks[(rank + step + 1) % n]
        arrived = torch.empty_like(target)
        if rank % 2:  # odd ranks send first
            dist.send(chunks[(rank + step) % n], left)
            dist.recv(arrived, right)
        elif n % 2 and rank == 0:  # in an odd ring two even ranks are neighbours
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
    rank, n, *_ = neighbours()
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
    rank, n, *_ = neighbours()
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
    _, _, right, left = neighbours()
    arrived = torch.empty_like(tensor)
    dist.send(tensor, right)
    dist.recv(arrived, left)


def other_length_arrives(tensor):
    pass_right(tensor[: 6 if dist.get_rank() == 0 else 3], torch.empty_like(tensor[:3]))


@pytest.mark.parametrize("answer", [ring, collectives.ring_all_reduce, ring_to_the_left, ring_of_padded_chunks])
def test_ring_all_reduce_accepts(answer):
    accepted(check.ring_all_reduce(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda tensor: ring(tensor, second_steps=0), "only_reduce_scatter"),
        (lambda tensor: ring(tensor, adds=True), "added_twice"),
        (lambda tensor: ring(tensor, second_offset=0), "incomplete"),
        (lambda tensor: ring(tensor, second_steps=1), "incomplete"),
        (lambda tensor: ring(tensor, first_steps=1), "incomplete"),
        (lambda tensor: ring(tensor, mean=True), "mean_not_sum"),
        (lambda tensor: ring(tensor, cut=torch.chunk), "not_divisible"),
        (lambda tensor: ring(tensor, cut=even_pieces), "not_divisible"),
        (result_returned, "nothing_changed"),
        (library, "library_collective"),
        (gather_on_rank_0, "too_many_bytes"),
        (whole_tensors_round_the_ring, "too_many_bytes"),
        (straight_to_each_rank, "not_a_ring"),
        (other_length_arrives, "sizes_differ"),
    ],
)
def test_ring_all_reduce_refuses(answer, symptom):
    refused(check.ring_all_reduce(answer), symptom)


def test_ring_all_reduce_sees_a_hang(monkeypatch):
    monkeypatch.setattr(check, "TIME_LIMIT", 3.0)
    refused(check.ring_all_reduce(everybody_sends_first), "hang")


def test_a_hang_names_each_ranks_line_of_the_cell(monkeypatch):
    stacks = """rank 0 was here:
  File "/course/checks/lesson01_ddp.py", line 5, in _ring
    learner(tensor)
  Cell In[7], line 4, in ring_all_reduce
    dist.send(chunks[0], right)
  Cell In[6], line 2, in inner
    work.wait()
rank 1 was here:
  File "/course/checks/lesson01_ddp.py", line 5, in _ring
    learner(tensor)
rank 2 was here:
  Cell In[7], line 9, in ring_all_reduce
    dist.recv(arrived, left)"""

    def hang(*_, **__):
        raise RankTimeout(0, "TimeoutError", "ranks 0, 1, 2 had not finished", stacks)

    monkeypatch.setattr(check, "run_ranks", hang)
    message = check.ring_all_reduce(ring).message
    assert "Rank 0 waits in line 4: dist.send(chunks[0], right)\nRank 2 waits in line 9" in message
    assert "Rank 1" not in message


# fill_buckets


def fill(parameters, limit, size=lambda p: p.numel() * p.element_size()):
    buckets = []
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        if not buckets or sum(map(size, buckets[-1])) + size(parameter) > limit:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets


def fill_with_a_running_total(parameters, limit):
    done, open_bucket, total = [], [], 0
    for parameter in list(parameters)[::-1]:
        if not parameter.requires_grad:
            continue
        if open_bucket and total + parameter.nbytes > limit:
            done.append(tuple(open_bucket))
            open_bucket, total = [], 0
        open_bucket.append(parameter)
        total += parameter.nbytes
    return [*done, tuple(open_bucket)]


def fill_as_the_package(parameters, limit):
    trained = [p for p in parameters if p.requires_grad]
    return [bucket.parameters for bucket in data_parallel.fill_buckets(trained, limit / 2**20)]


def fill_until_full(parameters, limit):
    buckets = [[]]
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        buckets[-1].append(parameter)
        if sum(p.nbytes for p in buckets[-1]) >= limit:
            buckets.append([])
    return [bucket for bucket in buckets if bucket]


def last_bucket_forgotten(parameters, limit):
    done, open_bucket = [], []
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        if open_bucket and sum(p.nbytes for p in open_bucket) + parameter.nbytes > limit:
            done.append(open_bucket)
            open_bucket = []
        open_bucket.append(parameter)
    return done


def large_left_out(parameters, limit):
    return fill([p for p in parameters if p.nbytes <= limit], limit)


def empty_before_large(parameters, limit):
    buckets, total = [[]], 0
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        if total + parameter.nbytes > limit:
            buckets.append([])
            total = 0
        buckets[-1].append(parameter)
        total += parameter.nbytes
    return buckets


def total_never_reset(parameters, limit):
    buckets, total = [[]], 0
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        total += parameter.nbytes
        if total > limit and buckets[-1]:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets


@pytest.mark.parametrize("answer", [fill, fill_with_a_running_total, fill_as_the_package])
def test_fill_buckets_accepts(answer):
    accepted(check.fill_buckets(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda parameters, limit: fill(parameters[::-1], limit), "forward_order"),
        (lambda parameters, limit: [bucket[::-1] for bucket in fill(parameters, limit)], "other_order"),
        (lambda parameters, limit: fill(parameters, limit, size=torch.numel), "numbers_not_bytes"),
        (fill_until_full, "too_full"),
        (last_bucket_forgotten, "lost"),
        (large_left_out, "lost"),
        (empty_before_large, "empty"),
        (total_never_reset, "closed_early"),
        (lambda parameters, limit: fill(parameters, 0), "closed_early"),
        (lambda parameters, limit: [b + b[-1:] for b in fill(parameters, limit)], "twice"),
        (lambda parameters, limit: [[p] for p in reversed(parameters)], "closed_early"),
        (lambda parameters, limit: fill_with_frozen(parameters, limit), "frozen"),
        (lambda parameters, limit: [[p.data for p in bucket] for bucket in fill(parameters, limit)], "no_lists"),
        (lambda parameters, limit: None, "no_lists"),
        (lambda parameters, limit: fill(parameters, limit)[0], "no_lists"),
    ],
)
def test_fill_buckets_refuses(answer, symptom):
    refused(check.fill_buckets(answer), symptom)


def fill_with_frozen(parameters, limit):
    buckets = fill([p.requires_grad_() for p in parameters], limit)
    for parameter in parameters:
        parameter.requires_grad_(parameter.numel() not in (7, 9))
    return buckets


# average_bucket


def row_of(bucket):
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])


def put_back(bucket, row, shape=True):
    for parameter, part in zip(bucket, row.split([p.numel() for p in bucket]), strict=True):
        parameter.grad = part.view_as(parameter).clone() if shape else part


def averaged(bucket, divide=lambda n: n):
    row = row_of(bucket)
    dist.all_reduce(row)
    put_back(bucket, row / divide(dist.get_world_size()))


def averaged_by_avg(bucket):
    row = row_of(bucket)
    dist.all_reduce(row, op=dist.ReduceOp.AVG)
    start = 0
    for parameter in bucket:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad.copy_(row[start : start + parameter.numel()].reshape(parameter.shape))
        start += parameter.numel()


def averaged_by_the_package(bucket):
    whole = data_parallel.Bucket(bucket)
    whole.launch()
    whole.wait()


def one_by_one(bucket):
    for parameter in bucket:
        averaged([parameter])


def not_put_back(bucket):
    row = row_of(bucket) / dist.get_world_size()
    dist.all_reduce(row)


def no_message(bucket):
    put_back(bucket, row_of(bucket) / dist.get_world_size())


def put_back_where_there_was_one(bucket):
    row = row_of(bucket)
    dist.all_reduce(row)
    row /= dist.get_world_size()
    for parameter, part in zip(bucket, row.split([p.numel() for p in bucket]), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))


def none_left_out(bucket):
    averaged([parameter for parameter in bucket if parameter.grad is not None])


def none_met(bucket):
    row = torch.cat([parameter.grad.flatten() for parameter in bucket])
    dist.all_reduce(row)


def cut_in_another_order(bucket):
    row = row_of(bucket)
    dist.all_reduce(row)
    put_back(bucket[::-1], row / dist.get_world_size())


def weights_averaged(bucket):
    averaged(bucket)
    for parameter in bucket:
        parameter.data.mul_(0.99)


def rank_0_alone(bucket):
    if dist.get_rank() == 0:
        averaged(bucket)


@pytest.mark.parametrize("answer", [averaged, averaged_by_avg, averaged_by_the_package])
def test_average_bucket_accepts(answer):
    accepted(check.average_bucket(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (one_by_one, "many_messages"),
        (not_put_back, "nothing_changed"),
        (no_message, "only_divided"),
        (lambda bucket: averaged(bucket, lambda n: 1), "sum_not_mean"),
        (lambda bucket: averaged(bucket, lambda n: n * n), "divided_twice"),
        (lambda bucket: averaged(bucket, lambda n: 2), "two_ranks_only"),
        (put_back_where_there_was_one, "missing_gradient"),
        (none_left_out, "sizes_differ"),
        (none_met, "no_gradient"),
        (cut_in_another_order, "some_parameters"),
        (weights_averaged, "weights_changed"),
        (rank_0_alone, "left_alone"),
    ],
)
def test_average_bucket_refuses(answer, symptom):
    refused(check.average_bucket(answer), symptom)


# accumulate


def accumulate(ddp, optimizer, batches, divide=None, quiet=lambda index, last: index < last, outside=False):
    """The accumulation of the notebook, with switches for its mistakes."""
    optimizer.zero_grad()
    for index, (images, labels) in enumerate(batches):
        sync = ddp.no_sync() if quiet(index, len(batches) - 1) else contextlib.nullcontext()
        if outside:
            outputs = ddp(images)
        with sync:
            loss = F.cross_entropy(outputs if outside else ddp(images), labels)
            (loss / (len(batches) if divide is None else divide)).backward()
    optimizer.step()


def accumulate_in_two_parts(ddp, optimizer, batches):
    *first, last = batches
    optimizer.zero_grad()
    with ddp.no_sync():
        for images, labels in first:
            F.cross_entropy(ddp(images), labels).backward()
    F.cross_entropy(ddp(last[0]), last[1]).backward()
    for parameter in ddp.parameters():
        parameter.grad /= len(batches)
    optimizer.step()


def accumulate_the_loss(ddp, optimizer, batches):
    """One backward pass through all micro-batches: one all-reduce, though all graphs stay in memory."""
    losses = []
    with ddp.no_sync():
        losses += [F.cross_entropy(ddp(images), labels) for images, labels in batches[:-1]]
    losses.append(F.cross_entropy(ddp(batches[-1][0]), batches[-1][1]))
    optimizer.zero_grad()
    torch.stack(losses).mean().backward()
    optimizer.step()


def zero_grad_in_the_loop(ddp, optimizer, batches):
    for index, (images, labels) in enumerate(batches):
        optimizer.zero_grad()
        with ddp.no_sync() if index < len(batches) - 1 else contextlib.nullcontext():
            (F.cross_entropy(ddp(images), labels) / len(batches)).backward()
    optimizer.step()


def step_in_the_loop(ddp, optimizer, batches):
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(ddp(images), labels).backward()
        optimizer.step()


def one_big_batch(ddp, optimizer, batches):
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    step_in_the_loop(ddp, optimizer, [(images, labels)])


def first_only(ddp, optimizer, batches):
    accumulate(ddp, optimizer, batches[:1])


def never_cleared(ddp, optimizer, batches):
    optimizer.zero_grad = lambda: None
    accumulate(ddp, optimizer, batches)


def through_the_module(ddp, optimizer, batches):
    accumulate(ddp.module, optimizer, batches, quiet=lambda *_: False)


@pytest.mark.parametrize("answer", [accumulate, accumulate_in_two_parts])
def test_accumulate_accepts(answer):
    accepted(check.accumulate(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda *given: accumulate(*given, quiet=lambda *_: False), "too_many_messages"),
        (lambda *given: accumulate(*given, outside=True), "too_many_messages"),
        (lambda *given: accumulate(*given, quiet=lambda *_: True), "never_averaged"),
        (through_the_module, "never_averaged"),
        (lambda *given: accumulate(*given, quiet=lambda index, last: index > 0), "averaged_too_early"),
        (lambda *given: accumulate(*given, divide=1), "not_divided"),
        (lambda *given: accumulate(*given, divide=len(given[2]) ** 2), "divided_twice"),
        (lambda *given: accumulate(*given, divide=len(given[2]) * dist.get_world_size()), "divided_by_ranks"),
        (zero_grad_in_the_loop, "only_last"),
        (step_in_the_loop, "steps_each"),
        (one_big_batch, "one_big_batch"),
        (first_only, "batches_left_out"),
        (never_cleared, "second_step"),
    ],
)
def test_accumulate_refuses(answer, symptom):
    refused(check.accumulate(answer), symptom)


# train_and_log


def trained(model, batches, log, rate=check.LOG_RATE):
    """The training loop of the lab; `log(loss, entries)` is called by every rank after each second step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    entries = []
    for step, (images, labels) in enumerate(batches):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        data_parallel.average_gradients(model)
        optimizer.step()
        if step % 2 == 1:
            log(loss.detach().clone(), entries)
    return entries


def reduced(loss, entries):
    dist.reduce(loss, dst=0)
    if dist.get_rank() == 0:
        entries.append(loss.item() / dist.get_world_size())


def all_reduced(loss, entries):
    dist.all_reduce(loss, op=dist.ReduceOp.AVG)
    if dist.get_rank() == 0:
        entries.append(loss)


def gathered(loss, entries):
    losses = [None] * dist.get_world_size()
    dist.all_gather_object(losses, loss.item())
    entries.append(sum(losses) / len(losses))


def only_rank_0_calls(loss, entries):
    if dist.get_rank() == 0:
        reduced(loss, entries)


def own_loss(loss, entries):
    if dist.get_rank() == 0:
        entries.append(loss.item())


def summed(loss, entries):
    dist.reduce(loss, dst=0)
    if dist.get_rank() == 0:
        entries.append(loss.item())


def only_divided(loss, entries):
    if dist.get_rank() == 0:
        entries.append(loss.item() / dist.get_world_size())


def all_ranks_log_a_reduce(loss, entries):
    dist.reduce(loss, dst=0)
    entries.append(loss.item() / dist.get_world_size())


def largest(loss, entries):
    dist.all_reduce(loss, op=dist.ReduceOp.MAX)
    entries.append(loss.item())


@pytest.mark.parametrize("log", [reduced, all_reduced, gathered])
def test_train_and_log_accepts(log):
    accepted(check.train_and_log(lambda model, batches: trained(model, batches, log)))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda model, batches: trained(model, batches, own_loss), "own_loss"),
        (lambda model, batches: trained(model, batches, summed), "sum_not_mean"),
        (lambda model, batches: trained(model, batches, only_divided), "only_divided"),
        (lambda model, batches: trained(model, batches, all_ranks_log_a_reduce), "other_ranks_log"),
        (lambda model, batches: trained(model, batches, largest), "wrong_log"),
        (lambda model, batches: trained(model, batches, reduced)[:1], "missing_entries"),
        (lambda model, batches: trained(model, batches, lambda *_: None), "missing_entries"),
        (lambda model, batches: print(trained(model, batches, reduced)), "missing_entries"),
        (lambda model, batches: trained(model, batches[:-1], reduced), "training_changed"),
        (lambda model, batches: trained(copy.deepcopy(model), batches, reduced), "training_changed"),
    ],
)
def test_train_and_log_refuses(answer, symptom):
    refused(check.train_and_log(answer), symptom)


def test_train_and_log_sees_the_hang_of_the_lab(monkeypatch):
    monkeypatch.setattr(check, "TIME_LIMIT", 3.0)
    refused(check.train_and_log(lambda model, batches: trained(model, batches, only_rank_0_calls)), "hang")


# all of them


@pytest.mark.parametrize("name", ["ring_all_reduce", "fill_buckets", "average_bucket", "accumulate", "train_and_log"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


def test_the_exercises_count_for_lesson_01():
    assert check.fill_buckets(fill).exercise == "lesson01.fill_buckets"


def test_a_learners_error_is_told_in_one_sentence():
    def misspelt(tensor):
        dist.isent(tensor, 0)

    checked = check.ring_all_reduce(misspelt)
    assert (checked.state, checked.symptom) == ("wrong", "raised_AttributeError")
    assert "isent" in checked.message
    assert "Traceback" not in checked.message
