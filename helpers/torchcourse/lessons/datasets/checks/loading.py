"""Checks of lesson 06, notebook 2: loading at scale. Each names the symptom of a mistake.

In the notebook's order: `workers_for`, `my_share`, `fetch`, `rest_of_epoch`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import refuse_known, result_of, whole
from torchcourse.lessons.datasets.checks.sequences import batches_of
from torchcourse.lessons.datasets.waiting import batch_time, best_workers

LOADERS = [
    (40, 10, 1, 8),
    (25, 10, 1, 2),
    (9, 10, 0.5, 8),
    (30, 9, 1, 8),
    (0.4, 5, 2, 4),
    (200, 12, 3, 6),
    (33, 10, 1, 8),
    (32, 9, 1, 8),
    (34, 10, 1, 8),
    (150, 9, 1, 16),
    (2, 5, 2, 4),
]
"""(load, step, send, cores), times in ms."""


@check
def workers_for(learner: Callable[[float, float, float, int], int]) -> str:
    """Compare with the fewest workers that give the shortest time per batch on a simulated clock."""
    for load, step, send, cores in LOADERS:
        given = learner(load, step, send, cores)
        number = whole(given)
        if number is None:
            raise Wrong(
                "no_number",
                f"Return a whole number of workers, an int. You returned {given!r}, of type {type(given).__name__}.",
            )
        _judge_workers(number, load, step, send, cores)
    return f"As few workers as are needed, on {len(LOADERS)} loaders and machines."


@check
def my_share(learner: Callable[[Iterable, int, int, int, int], Iterable]) -> str:
    """Let all readers of several layouts read; count each record. Then an endless stream."""
    for world_size, workers, samples in [(1, 2, 10), (2, 1, 10), (2, 2, 24), (3, 2, 17), (2, 4, 5), (1, 1, 3)]:
        shares = {}
        for rank, worker in itertools.product(range(world_size), range(workers)):
            given = learner(_Stream(samples), rank, world_size, worker, workers)
            shares[rank, worker] = [_number_of(record) for record in _iterable(given)]
        _judge_shares(shares, world_size, workers, samples)
    stream = _Stream()
    taken = 0
    for record in itertools.islice(_iterable(learner(stream, 1, 2, 0, 2)), 20):
        taken += 1
        if stream.read > _number_of(record) + 1:
            raise Wrong(
                "reads_ahead",
                f"Of an endless stream, it hands over {record!r} when it has read up to "
                f"{_NAME.format(stream.read - 1)!r}. Hand over each record as soon as it is read.",
            )
    if taken < 20:
        raise Wrong("stops", f"Of an endless stream it yields {taken} records and ends.")
    _judge_empty_records(learner)
    return "Every record exactly once in six layouts of ranks and workers; an endless stream is no obstacle."


@check
def fetch(learner: Callable[[Any, Sequence[str], Sequence[int]], tuple[list, list]]) -> str:
    """Fetch batches with bad records, with none, with nothing but bad ones; then from a dataset with a bug."""
    for numbers in ([4, 0, 7, 2], [1, 2, 5], [9, 3, 8, 0, 6], [3, 7], [2, 2, 3, 3]):
        bad: dict[int, Exception] = {3: UnicodeError("cut off"), 7: FileNotFoundError("no such block")}
        bad |= {8: OSError(5, "bad block"), 9: ValueError("not a PNG")}
        records = _Records(bad)
        try:
            given = result_of(partial(learner, records), records.names, numbers, what="the names or the numbers")
        except (ValueError, OSError) as error:
            if error not in records.bad.values():
                raise
            kind = next(kind.__name__ for kind in (ValueError, OSError) if isinstance(error, kind))
            what = kind if type(error).__name__ == kind else f"{type(error).__name__}, a kind of {kind}"
            raise Wrong(
                "raises", f'Batch {numbers} ends with {what}: "{error}". Remember that record, and go on.'
            ) from error
        pair = isinstance(given, (tuple, list)) and len(given) == 2
        if not pair or not all(isinstance(part, list) for part in given):
            raise Wrong(
                "wrong_type",
                f"Return two lists: the samples, and what could not be read as (name, reason). You return {given!r}.",
            )
        samples, corrupt = given
        _judge_fetched(samples, corrupt, numbers, records)
    for bug in (AttributeError, KeyError, IndexError, TypeError, RuntimeError, ZeroDivisionError):
        _judge_bug(learner, bug("nothing"))
    return "Whole records in order, corrupt ones by name and reason, and a bug is still a bug."


@check
def rest_of_epoch(learner: Callable[[int, int, int, int, int, int], list[list[int]]]) -> str:
    """Compare with the batches of a whole epoch, for interruptions early, late, and with batches in the queue."""
    for samples, size, seed, epoch, drawn, waiting in [
        (40, 4, 0, 0, 0, 0),
        (40, 4, 0, 2, 3, 0),
        (30, 4, 5, 1, 7, 4),
        (30, 4, 5, 1, 8, 2),
        (9, 2, 1, 3, 4, 4),
        (12, 5, 2, 1, 3, 0),
        (12, 5, 2, 1, 1, 0),
    ]:
        torch.manual_seed(samples + drawn)
        torch.rand(())  # at the start of the stream, a seed that is put back looks like a state that is
        before = torch.get_rng_state()
        given = learner(samples, size, seed, epoch, drawn, waiting)
        if not torch.equal(before, torch.get_rng_state()):
            raise Wrong(
                "global_stream",
                "It draws from (or seeds) torch's global generator, which dropout uses too. A generator of its own "
                "changes nothing for others.",
            )
        given = batches_of(given)
        _judge_rest(given, samples, size, seed, epoch, drawn, waiting)
    return "The batches that were not used yet, in their order, after seven interruptions."


def _judge_workers(given: int, load: float, step: float, send: float, cores: int) -> None:
    best = best_workers(load, step, cores, send)
    if given == best:
        return
    case = f"load {load:g} ms, step {step:g} ms, send {send:g} ms, {cores} cores"
    if not 0 <= given <= cores:
        raise Wrong("too_many", f"{case}: you ask for {given} workers. There is no core for each of them.")
    took, least = batch_time(load, step, given, send), batch_time(load, step, best, send)
    if best == 0 and took > least:
        raise Wrong(
            "zero_can_win",
            f"{case}: with {given} workers a batch takes {took:g} ms, without any {least:g} ms. What does the loop do "
            "for a batch that a worker has made?",
        )
    if given < best:
        raise Wrong("waits", f"{case}: with {given} workers a batch takes {took:g} ms; {least:g} ms are possible.")
    if best and given == min(cores, math.ceil(load / step)):
        raise Wrong(
            "send_forgotten",
            f"{case}: {given} workers keep up with the step. But the loop receives each batch, too: it is slower, "
            "and fewer workers keep up with it.",
        )
    raise Wrong("idle", f"{case}: {given} workers, and fewer would give the same {took:g} ms per batch.")


_NAME = "record {}"
_EMPTY: list[Any] = [0, None, "", False, 7, [], 0.0, None, 3]


def _judge_empty_records(learner: Callable[[Iterable, int, int, int, int], Iterable]) -> None:
    """Deal records that count as false in a condition to two ranks."""
    shares = [list(_iterable(learner(iter(_EMPTY), rank, 2, 0, 1))) for rank in (0, 1)]
    if sorted(map(repr, shares[0] + shares[1])) != sorted(map(repr, _EMPTY)):
        raise Wrong(
            "empty_lost",
            f"Of the records {_EMPTY}, two ranks get {shares[0]} and {shares[1]}. A 0, a None and an empty list are "
            "records, too.",
        )


def _iterable(given: Any) -> Iterable:
    if given is None:
        raise Wrong("nothing_returned", "It returned None. Yield the records, or return an iterator over them.")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise Wrong("wrong_type", f"It returned {given!r}. Yield the records, or return an iterator over them.")
    return given


def _number_of(record: Any) -> int:
    name, _, number = record.partition(" ") if isinstance(record, str) else ("", "", "")
    if name != "record" or not number.isdigit():
        raise Wrong(
            "no_record", f"It yields {record!r}. The records look like {_NAME.format(0)!r}; yield them as they are."
        )
    return int(number)


class _Stream:
    """A stream of so many records, or without an end; `read` counts how often the next one was asked for."""

    def __init__(self, samples: float = math.inf) -> None:
        self.samples, self.read = samples, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.read > 5000 and self.samples < math.inf:
            raise Wrong(
                "asks_again",
                f"A stream of {self.samples} records has ended, and it asks for the next one over and over. A stream "
                "cannot be read again. What ends your loop?",
            )
        if self.read > 5000:
            raise Wrong(
                "reads_ahead",
                "Of an endless stream, 20 records were asked for, and it read 5,000: it never ends. "
                "Does it make a list?",
            )
        self.read += 1
        if self.read > self.samples:
            raise StopIteration
        return _NAME.format(self.read - 1)


def _judge_shares(shares: dict[tuple[int, int], list], world_size: int, workers: int, samples: int) -> None:
    layout = f"{world_size} rank(s) × {workers} worker(s), {samples} records"
    counts = Counter(itertools.chain(*shares.values()))
    if counts and max(counts.values()) > 1:
        if workers > 1 and all(shares[rank, 0] == shares[rank, 1] for rank in range(world_size)):
            raise Wrong("workers_repeat", f"{layout}: the workers of a rank all read the same records.")
        if world_size > 1 and all(shares[0, worker] == shares[1, worker] for worker in range(workers)):
            raise Wrong("ranks_repeat", f"{layout}: the ranks read the same records.")
        record, times = counts.most_common(1)[0]
        raise Wrong(
            "twice",
            f"{layout}: record {record} comes {times} times. Do two readers have the same number? Write down the "
            "numbers of all readers.",
        )
    lost = sorted(set(range(samples)) - set(counts))
    if lost:
        raise Wrong("lost", f"{layout}: nobody reads record {lost[0]} ({len(lost)} of {samples} are lost).")
    lengths = [len(part) for part in shares.values()]
    if max(lengths) - min(lengths) > 1:
        raise Wrong("uneven", f"{layout}: the shares have {lengths} records. They can differ by one at most.")


def _judge_bug(learner: Callable, bug: Exception) -> None:
    records = _Records({2: bug})
    try:
        given = learner(records, records.names, [1, 2])
    except Exception as error:
        if error is bug or bug in (error.__cause__, error.__context__):
            return
        raise
    raise Wrong(
        "hides_bugs",
        f"The dataset raised {type(bug).__name__}: that is a mistake in the program, and it "
        f"{'was taken for a bad record' if records.names[2] in repr(given) else 'went by in silence'}. Which "
        "exceptions mean a bad record?",
    )


class _Records:
    """Ten numbers, 0 among them; some raise when they are read."""

    def __init__(self, bad: dict[int, Exception]) -> None:
        self.bad, self.names = bad, [f"scan-{number:02d}.png" for number in range(10)]

    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> int:
        if number in self.bad:
            raise self.bad[number]
        return 100 * number


def _judge_fetched(samples: list, corrupt: list, numbers: list[int], records: _Records) -> None:
    whole = [100 * number for number in numbers if number not in records.bad]
    bad = [number for number in numbers if number in records.bad]
    case = f"Batch {numbers}, " + (f"where {sorted(set(bad))} cannot be read" if bad else "of which all can be read")
    if len(samples) > len(whole):
        what = f"{case}: you return {len(samples)} samples, more than are whole."
        if len(samples) > len(numbers) and samples[-len(whole) :] == whole:
            raise Wrong("left_over", f"{what} The first of them are those of earlier calls.")
        raise Wrong("too_many", f"{what} What took a corrupt one's place, or was not asked for?")
    if samples != whole:
        raise Wrong("samples", f"{case}: the samples are {samples}, not {whole}.")
    if len(corrupt) < len(bad):
        again = " One was asked for twice: report it each time." if len(corrupt) == len(set(bad)) else ""
        raise Wrong("silent", f"{case}: {len(corrupt)} of {len(bad)} corrupt records are reported.{again}")
    if len(corrupt) > len(bad):
        raise Wrong("too_many_reported", f"{case}: {len(corrupt)} are reported.")
    for number, entry in zip(bad, corrupt, strict=True):
        if not (isinstance(entry, (tuple, list)) and len(entry) == 2):
            raise Wrong("entry", f"{case}: an entry of the report is (name, reason), not {entry!r}.")
        name, reason = entry
        if name != records.names[number]:
            raise Wrong(
                "other_name",
                f"{case}: the report says {name!r}, and record {number} is {records.names[number]!r}. Nobody finds the "
                "file by anything else.",
            )
        if str(records.bad[number].args[-1]) not in str(reason):
            raise Wrong("no_reason", f"{case}: the reason given is {reason!r}. The exception says more.")


def _judge_rest(
    given: list[list[int]], samples: int, size: int, seed: int, epoch: int, drawn: int, waiting: int
) -> None:
    def batches(number: int) -> list[list[int]]:
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed + number))
        return [part.tolist() for part in order.split(size)]

    whole, used = batches(epoch), drawn - waiting
    rest = whole[used:]
    if given == rest:
        return
    case = f"{drawn} batches drawn, {waiting} of them in the queue: "
    order = list(itertools.chain(*whole))
    equal = [part.tolist() for part in torch.tensor(order).chunk(len(whole))]
    known = {
        "empty_batch": ([*rest, []], "the batches are right, and then comes one of no sample."),
        "queue_lost": (
            whole[drawn:],
            f"you go on after the last one drawn. Nobody has trained on the {waiting} yet.",
        ),
        "waiting_added": (
            whole[drawn + waiting :],
            f"you leave out {drawn + waiting} batches. Those in the queue are among the drawn.",
        ),
        "epoch_ignored": (batches(0)[used:], f"that is the order of epoch 0. This is epoch {epoch}."),
        "equal_parts": (
            equal[used:],
            f"your batches are {len(equal)} equal parts of {samples} samples, and the size of a batch is {size}. "
            "`chunk` is told how many, `split` how large.",
        ),
        "last_missing": (rest[:-1], "the last, smaller batch is missing."),
    }
    refuse_known(given, known, where=case)
    flat = list(itertools.chain(*given))
    if used:
        starts = {
            "samples_not_batches": (order[used:], f"you leave out {used} samples, and {used} batches were used."),
            "from_the_start": (order, f"the epoch begins again, and {used} batches come a second time."),
        }
        refuse_known(flat, starts, where=case)
    if flat and sorted(flat) == sorted(itertools.chain(*rest)):
        raise Wrong("reordered", f"{case}the right samples, but not in the batches that the epoch would have had.")
    if len(flat) == len(order) - used * size:
        raise Wrong(
            "order_of_another_epoch",
            f"{case}as many samples as are left, but others: the order is not that of the epoch.",
        )
    first = f", beginning with {rest[0]}" if rest else ""
    yours = f", beginning with {given[0]}" if given else ""
    raise Wrong("wrong_value", f"{case}{len(rest)} batches are left{first}; you return {len(given)}{yours}.")
