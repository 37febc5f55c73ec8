"""The checks of notebook 2 of lesson 06 accept right answers built in different ways and name wrong ones' symptoms."""

import itertools
import math

import numpy as np
import pytest
import torch

from torchcourse.lessons.datasets.checks import loading as check
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["workers_for", "my_share", "fetch", "rest_of_epoch"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# workers_for


def by_formula(load, step, send, cores):
    return 0 if load <= send else min(cores, math.ceil(load / (step + send)))


def by_trying(load, step, send, cores):
    best, shortest = 0, load + step
    for workers in range(1, cores + 1):
        took = max(load / workers, step + send)
        if took < shortest - 1e-9:
            best, shortest = workers, took
    return best


def as_numpy(load, step, send, cores):
    return np.int64(by_formula(load, step, send, cores))


@pytest.mark.parametrize("learner", [by_formula, by_trying, as_numpy])
def test_workers_for_accepts(learner):
    accepted(check.workers_for(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda load, step, send, cores: load / (step + send), "no_number"),
        (lambda load, step, send, cores: cores, "idle"),
        (lambda load, step, send, cores: math.ceil(load / (step + send)), "too_many"),
        (lambda load, step, send, cores: min(cores, math.ceil(load / (step + send))), "zero_can_win"),
        (lambda load, step, send, cores: min(cores, math.ceil(load / step)) if load > send else 0, "send_forgotten"),
        (lambda load, step, send, cores: min(cores, int(load / (step + send))), "waits"),
        (lambda load, step, send, cores: min(cores, round(load / (step + send))) if load > send else 0, "waits"),
        (lambda *given: float(by_formula(*given)), "no_number"),
        (lambda *given: torch.tensor(float(by_formula(*given))), "no_number"),
        (lambda load, step, send, cores: by_formula(load, step, send, min(cores, 8)), "waits"),
        (lambda load, step, send, cores: by_formula(load / 1.05, step, send, cores), "waits"),
        (lambda load, step, send, cores: 0 if load < send else max(1, by_formula(load, step, send, cores)), "idle"),
    ],
)
def test_workers_for_refuses(learner, symptom):
    refused(check.workers_for(learner), symptom)


# my_share


def by_slices(records, rank, world_size, worker, workers):
    return itertools.islice(records, rank * workers + worker, None, world_size * workers)


def in_two_steps(records, rank, world_size, worker, workers):
    of_rank = (record for number, record in enumerate(records) if number % world_size == rank)
    for number, record in enumerate(of_rank):
        if number % workers == worker:
            yield record


@pytest.mark.parametrize("learner", [by_slices, in_two_steps])
def test_my_share_accepts(learner):
    accepted(check.my_share(learner))


def every(reader, readers):
    """A share by a learner's own numbering of the readers."""

    def learner(records, rank, world_size, worker, workers):
        number, count = reader(rank, world_size, worker, workers), readers(world_size, workers)
        return (record for position, record in enumerate(records) if position % count == number)

    return learner


def in_blocks(records, rank, world_size, worker, workers):
    records = list(itertools.islice(records, 1000))
    size = len(records) // (world_size * workers)
    return iter(records[(rank * workers + worker) * size :][:size])


def uneven(records, rank, world_size, worker, workers):
    readers, reader = world_size * workers, rank * workers + worker
    for number, record in enumerate(records):
        if min(number, readers - 1) == reader:
            yield record


def in_groups(records, rank, world_size, worker, workers):
    while group := list(itertools.islice(records, world_size * workers)):
        yield from group[rank * workers + worker :][:1]


def without_the_empty(records, *place):
    return (record for record in by_slices(records, *place) if record)


def until_none(records, *place):
    share = iter(by_slices(records, *place))
    return iter(lambda: next(share, None), None)


def one_ahead(records, *place):
    waiting = None
    for record in by_slices(records, *place):
        if waiting is not None:
            yield waiting
        waiting = record
    if waiting is not None:
        yield waiting


def over_and_over(records, *place):
    while True:
        yield from by_slices(records, *place)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (over_and_over, "asks_again"),
        (in_groups, "reads_ahead"),
        (one_ahead, "reads_ahead"),
        (without_the_empty, "empty_lost"),
        (until_none, "empty_lost"),
        (lambda records, *place: next(by_slices(records, *place), None) or "record 0", "wrong_type"),
        (lambda records, *place: by_slices(enumerate(records), *place), "no_record"),
        (lambda records, *place: by_slices(map(len, records), *place), "no_record"),
        (lambda *place: None, "nothing_returned"),
        (every(lambda r, w, k, n: r, lambda w, n: w), "workers_repeat"),
        (every(lambda r, w, k, n: k, lambda w, n: n), "ranks_repeat"),
        (every(lambda r, w, k, n: r + k, lambda w, n: w * n), "twice"),
        (every(lambda r, w, k, n: r * n + k, lambda w, n: w * n + 1), "lost"),
        (in_blocks, "lost"),
        (uneven, "uneven"),
        (lambda records, r, w, k, n: list(records)[r * n + k :: w * n], "reads_ahead"),
        (lambda records, *place: itertools.islice(by_slices(records, *place), 12), "stops"),
    ],
)
def test_my_share_refuses(learner, symptom):
    refused(check.my_share(learner), symptom)


# fetch


def right(dataset, names, numbers):
    samples, corrupt = [], []
    for number in numbers:
        try:
            samples.append(dataset[number])
        except (ValueError, OSError) as error:
            corrupt.append((names[number], str(error)))
    return samples, corrupt


def with_a_helper(dataset, names, numbers):
    def read(number):
        try:
            return True, dataset[number]
        except OSError as error:
            return False, (names[number], repr(error))
        except ValueError as error:
            return False, (names[number], repr(error))

    results = [read(number) for number in numbers]
    return [what for whole, what in results if whole], [what for whole, what in results if not whole]


def in_two_readings(dataset, names, numbers):
    """Looks for what cannot be read first, and reads the rest again: slow, and right."""
    reasons = {}
    for number in numbers:
        try:
            dataset[number]
        except (ValueError, OSError) as error:
            reasons[number] = str(error)
    corrupt = [(names[number], reasons[number]) for number in numbers if number in reasons]
    return [dataset[number] for number in numbers if number not in reasons], corrupt


def as_lists(dataset, names, numbers):
    samples, corrupt = right(dataset, names, numbers)
    return [samples, [list(entry) for entry in corrupt]]


@pytest.mark.parametrize("learner", [right, with_a_helper, as_lists, in_two_readings])
def test_fetch_accepts(learner):
    accepted(check.fetch(learner))


def these_classes_alone(dataset, names, numbers):
    """`except` would take their kinds too, such as a file that is not there."""
    samples, corrupt = [], []
    for number in numbers:
        try:
            samples.append(dataset[number])
        except Exception as error:
            if type(error) not in (ValueError, OSError):
                raise
            corrupt.append((names[number], str(error)))
    return samples, corrupt


def fetches(errors=(ValueError, OSError), instead=None, entry=lambda name, number, error: (name, str(error))):
    def learner(dataset, names, numbers):
        samples, corrupt = [], []
        for number in numbers:
            try:
                samples.append(dataset[number])
            except errors as error:
                if instead is not None:
                    samples.append(instead(dataset, number))
                if entry:
                    corrupt.append(entry(names[number], number, error))
        return samples, corrupt

    return learner


def each_bad_one_once(*given):
    samples, corrupt = right(*given)
    return samples, list(dict(corrupt).items())


def into_kept_lists(dataset, names, numbers, kept=([], [])):
    for parts, more in zip(kept, right(dataset, names, numbers), strict=True):
        parts.extend(more)
    return kept


def taking_numbers_off(dataset, names, numbers):
    return right(dataset, names, [numbers.pop(0) for _ in list(numbers)])


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (taking_numbers_off, "inputs_changed"),
        (fetches(entry=lambda name, number, error: (name, error.args[0])), "no_reason"),
        (fetches(errors=(OSError,)), "raises"),
        (fetches(errors=Exception), "hides_bugs"),
        (fetches(instead=lambda dataset, number: dataset[(number + 1) % 10 and 1]), "too_many"),
        (fetches(instead=lambda dataset, number: None), "too_many"),
        (fetches(errors=(ValueError, FileNotFoundError)), "raises"),
        (into_kept_lists, "left_over"),
        (lambda dataset, names, numbers: right(dataset, names, range(10)), "too_many"),
        (fetches(entry=None), "silent"),
        (fetches(entry=lambda name, number, error: (number, str(error))), "other_name"),
        (fetches(entry=lambda name, number, error: (name, "corrupt")), "no_reason"),
        (fetches(entry=lambda name, number, error: name), "entry"),
        (lambda *given: right(*given)[0], "wrong_type"),
        (fetches(errors=(ValueError, OSError, KeyError)), "hides_bugs"),
        (fetches(errors=(ValueError, OSError, RuntimeError, ZeroDivisionError)), "hides_bugs"),
        (lambda *given: (list(filter(None, right(*given)[0])), right(*given)[1]), "samples"),
        (each_bad_one_once, "silent"),
        (lambda dataset, names, numbers: right(dataset, names[1:] + names[:1], numbers), "other_name"),
        (lambda dataset, names, numbers: right(dataset, names, sorted(numbers)), "samples"),
        (lambda dataset, names, numbers: (right(dataset, names, numbers)[0], [("a", "b")] * 9), "too_many_reported"),
    ],
)
def test_fetch_refuses(learner, symptom):
    refused(check.fetch(learner), symptom)


def test_a_bug_that_goes_by_is_not_said_to_be_taken_for_a_bad_record():
    def returns_whatever_happens(*given):
        try:
            return right(*given)
        except Exception:
            return [], []

    checked = check.fetch(returns_whatever_happens)
    refused(checked, "hides_bugs")
    assert "went by in silence" in checked.message


def test_fetch_names_the_kind_of_an_error_that_comes_out():
    checked = check.fetch(these_classes_alone)
    refused(checked, "raises")
    assert 'ends with FileNotFoundError, a kind of OSError: "no such block".' in checked.message


def test_a_batch_without_a_bad_record_is_said_to_be_whole():
    kept = []

    def with_the_earlier_ones(dataset, names, numbers):
        samples, corrupt = right(dataset, names, numbers)
        kept.extend(samples)
        return list(kept), corrupt

    checked = check.fetch(with_the_earlier_ones)
    refused(checked, "left_over")
    assert "Batch [1, 2, 5], of which all can be read: you return" in checked.message


def unpacks_too_much(dataset, names, numbers):
    samples, corrupt, _ = right(dataset, names, numbers)
    return samples, corrupt


def looks_for_a_name(dataset, names, numbers):
    return fetches(entry=lambda name, number, error: (names.index(number), str(error)))(dataset, names, numbers)


@pytest.mark.parametrize("learner", [unpacks_too_much, looks_for_a_name])
def test_an_error_of_the_learners_own_is_no_bad_record(learner):
    checked = check.fetch(learner)
    assert checked.symptom == "raised_ValueError"
    assert "test_checks_loading.py" in checked.message


# rest_of_epoch


def rest(samples, batch_size, seed, epoch, drawn, waiting):
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed + epoch))
    return [part.tolist() for part in order.split(batch_size)][drawn - waiting :]


def from_the_first_sample(samples, batch_size, seed, epoch, drawn, waiting):
    generator = torch.Generator()
    generator.manual_seed(seed + epoch)
    order = torch.randperm(samples, generator=generator).tolist()
    begin = (drawn - waiting) * batch_size
    return [order[first : first + batch_size] for first in range(begin, samples, batch_size)]


@pytest.mark.parametrize("learner", [rest, from_the_first_sample])
def test_rest_of_epoch_accepts(learner):
    accepted(check.rest_of_epoch(learner))


def by_global_seed(samples, batch_size, seed, epoch, drawn, waiting):
    torch.manual_seed(seed + epoch)
    return [part.tolist() for part in torch.randperm(samples).split(batch_size)][drawn - waiting :]


def by_a_seed_put_back(*given):
    seed = torch.initial_seed()
    batches = by_global_seed(*given)
    torch.manual_seed(seed)
    return batches


def by_samples(samples, batch_size, seed, epoch, drawn, waiting):
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed + epoch))
    return [part.tolist() for part in order[drawn - waiting :].split(batch_size)]


def in_equal_parts(samples, batch_size, seed, epoch, drawn, waiting):
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed + epoch))
    return [part.tolist() for part in order.chunk(-(-samples // batch_size))][drawn - waiting :]


def shuffled_again(samples, batch_size, seed, epoch, drawn, waiting):
    left = [number for batch in rest(samples, batch_size, seed, epoch, drawn, waiting) for number in batch]
    return [left[::-1][first : first + batch_size] for first in range(0, len(left), batch_size)]


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (by_global_seed, "global_stream"),
        (by_a_seed_put_back, "global_stream"),
        (by_samples, "samples_not_batches"),
        (lambda *given: None, "nothing_returned"),
        (lambda *given: len(rest(*given)), "wrong_type"),
        (lambda *given: [number for batch in rest(*given) for number in batch], "wrong_type"),
        (lambda n, size, *place: rest(n, -(-n // size), *place), "reordered"),
        (lambda n, size, *place: rest(n, size, *place) or [[]], "empty_batch"),
        (shuffled_again, "reordered"),
        (in_equal_parts, "equal_parts"),
        (lambda n, size, seed, epoch, drawn, waiting: rest(n, size, seed, epoch, drawn, 0), "queue_lost"),
        (lambda n, size, seed, epoch, drawn, waiting: rest(n, size, seed, 0, drawn, waiting), "epoch_ignored"),
        (lambda n, size, seed, epoch, drawn, waiting: rest(n, size, seed, epoch, drawn, -waiting), "waiting_added"),
        (lambda n, size, seed, epoch, drawn, waiting: rest(n, size, seed, epoch, 0, 0), "from_the_start"),
        (
            lambda n, size, seed, epoch, *place: [b for b in rest(n, size, seed, epoch, *place) if len(b) == size],
            "last_missing",
        ),
        (
            lambda n, size, seed, epoch, *place: rest(n, size, seed + 100 * epoch, epoch, *place),
            "order_of_another_epoch",
        ),
        (
            lambda n, size, seed, epoch, drawn, waiting: rest(n, size, seed, epoch, drawn + (drawn > 0), waiting),
            "wrong_value",
        ),
    ],
)
def test_rest_of_epoch_refuses(learner, symptom):
    refused(check.rest_of_epoch(learner), symptom)
