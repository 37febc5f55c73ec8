"""The checks of lesson 06, notebook 1, accept right answers built in different ways and name wrong ones' symptoms."""

import contextlib
import csv
from collections import deque
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from torchcourse.lessons.datasets import by_hand
from torchcourse.lessons.datasets.checks import datasets as check
from torchcourse.lessons.datasets.collate import pad
from torchcourse.lessons.datasets.folder import ImageTable, read_image
from torchcourse.lessons.datasets.samplers import BucketBatches
from torchcourse.lessons.datasets.splits import fingerprint, leaks
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["pictures", "batches", "collate", "bucket_batches", "find_leaks"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


class Pictures(Dataset):
    """A right answer; each wrong one below breaks one method."""

    def __init__(self, folder):
        self.folder = Path(folder)
        with open(self.folder / "labels.csv", newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.classes = sorted({row["label"] for row in self.rows})
        self.look()

    def look(self):
        for row in self.rows:
            if not (self.folder / row["file"]).exists():
                raise FileNotFoundError(row["file"])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return read_image(self.folder / row["file"]), self.classes.index(row["label"])


class LeavesOut(Pictures):
    def look(self):
        self.rows = [row for row in self.rows if (self.folder / row["file"]).exists()]


class OtherError(Pictures):
    def look(self):
        assert all((self.folder / row["file"]).exists() for row in self.rows), "an image is missing"


class FromOne(Pictures):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 1


@pytest.mark.parametrize(
    ("answer", "symptom", "words"),
    [
        (LeavesOut, "skipped", "4 of 5 samples"),
        (OtherError, "other_error", "AssertionError: an image is missing"),
        (FromOne, "class_number", "counted from 0"),
    ],
)
def test_the_hint_on_a_data_set_names_what_was_seen(answer, symptom, words):
    checked = check.pictures(answer)
    refused(checked, symptom)
    assert words in checked.message


class WithTensors(Pictures):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, torch.tensor(label)


@pytest.mark.parametrize("answer", [Pictures, ImageTable, WithTensors])
def test_right_data_sets(answer):
    accepted(check.pictures(answer))


class Eager(Pictures):
    def __init__(self, folder):
        super().__init__(folder)
        self.images = [super(Eager, self).__getitem__(number) for number in range(len(self.rows))]

    def __getitem__(self, index):
        return self.images[index]


class InFolderOrder(Pictures):
    def __getitem__(self, index):
        names = sorted(row["file"] for row in self.rows)
        return read_image(self.folder / names[index]), super().__getitem__(index)[1]


class ByRow(Pictures):
    def __init__(self, folder):
        super().__init__(folder)
        self.classes = list(dict.fromkeys(row["label"] for row in self.rows))


class Text(Pictures):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], self.rows[index]["label"]


class Late(Pictures):
    def look(self):
        pass


class Nameless(Pictures):
    def look(self):
        if len(list(self.folder.glob("*.png"))) < 6:
            raise FileNotFoundError("an image is missing")


class WholeFolder(Pictures):
    def __len__(self):
        return len(list(self.folder.glob("*.png")))


class ImageOnly(Pictures):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


class Flat(Pictures):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image[0], label


class Keeping(Pictures):
    """Opens an image when it is asked for, and keeps it: after one epoch all are in memory."""

    def __getitem__(self, index):
        self.images = getattr(self, "images", {})
        if index not in self.images:
            self.images[index] = super().__getitem__(index)
        return self.images[index]


class OneHot(Pictures):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, torch.eye(3)[label]


class FloatNumber(Pictures):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, torch.tensor(label + 0.3)


class ByPlace(Pictures):
    """Takes the first column for the file and the second for the label, whatever they are called."""

    def __init__(self, folder):
        self.folder = Path(folder)
        with open(self.folder / "labels.csv", newline="") as file:
            self.rows = [dict(zip(("file", "label"), row, strict=False)) for row in list(csv.reader(file))[1:]]
        self.classes = sorted({row["label"] for row in self.rows})
        self.look()


class OfAllFolders(Pictures):
    """Keeps its rows in the class: each dataset begins with those of the ones before."""

    all_rows: ClassVar[list] = []

    def look(self):
        super().look()
        self.all_rows.extend(self.rows)
        self.rows = list(self.all_rows)


class RowsOfTheClass(Pictures):
    """Keeps its rows in the class: the dataset that was made last has them."""

    def __init__(self, folder):
        super().__init__(folder)
        RowsOfTheClass.rows, RowsOfTheClass.classes = self.rows, self.classes
        del self.rows, self.classes


class ImagesOfTheClass(Pictures):
    """Keeps each image that it has opened, by its name, for all datasets."""

    images: ClassVar[dict] = {}

    def __getitem__(self, index):
        name = self.rows[index]["file"]
        if name not in self.images:
            self.images[name] = super().__getitem__(index)
        return self.images[name]


class RoundAndRound(Pictures):
    def __getitem__(self, index):
        return super().__getitem__(index % len(self.rows))


class ShortLabelsFirst(Pictures):
    def look(self):
        super().look()
        self.classes.sort(key=len)


class Wrapped(Pictures):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, torch.tensor([label])


class Reversed(Pictures):
    def __init__(self, folder):
        super().__init__(folder)
        self.classes = self.classes[::-1]


class LooksInto(Pictures):
    """Reads each image to see whether it is there, and drops it again."""

    def look(self):
        super().look()
        for row in self.rows:
            read_image(self.folder / row["file"])


class AllForOne(Pictures):
    def __getitem__(self, index):
        return [super(AllForOne, self).__getitem__(number) for number in range(len(self.rows))][index]


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (Eager, "eager"),
        (LooksInto, "opened_at_once"),
        (AllForOne, "opens_others"),
        (InFolderOrder, "folder_order"),
        (ByRow, "numbered_by_row"),
        (Text, "label_is_text"),
        (Late, "missing_late"),
        (Nameless, "nameless"),
        (WholeFolder, "count"),
        (ImageOnly, "wrong_type"),
        (Flat, "shape"),
        (Reversed, "class_number"),
        (Keeping, "kept"),
        (OneHot, "no_number"),
        (FloatNumber, "no_number"),
        (ByPlace, "columns_by_place"),
        (OfAllFolders, "count"),
        (ShortLabelsFirst, "class_number"),
        (Wrapped, "no_number"),
        (RowsOfTheClass, "shared"),
        (ImagesOfTheClass, "outlives"),
        (RoundAndRound, "endless"),
    ],
)
def test_wrong_data_sets(answer, symptom):
    refused(check.pictures(answer), symptom)


def test_a_sampler_has_no_places():
    def cut(dataset, sampler, size, collate, submit, ahead):
        pieces = [sampler[at : at + size] for at in range(0, len(sampler), size)]
        return from_a_list(dataset, [n for piece in pieces for n in piece], size, collate, submit, ahead)

    checked = check.batches(cut)
    assert checked.symptom == "raised_TypeError"
    assert "'_Sampler' object is not subscriptable" in checked.message


def test_the_hint_on_a_loader_says_what_was_submitted():
    def alone(dataset, sampler, size, collate, submit, ahead):
        return (collate([dataset[n] for n in part]) for part in parts(sampler, size))

    checked = check.batches(alone)
    refused(checked, "fetched_in_front")
    assert "gave it nothing yet" in checked.message

    def spread(dataset, sampler, size, collate, submit, ahead):
        return from_a_list(dataset, sampler, size, lambda samples: collate(*samples), submit, ahead)

    checked = check.batches(spread)
    assert checked.symptom == "raised_TypeError"
    assert "collate() takes 1 positional argument but 2 were given" in checked.message


def parts(sampler, size):
    numbers = iter(sampler)
    while part := list(islice(numbers, size)):
        yield part


def from_a_list(dataset, sampler, batch_size, collate, submit, ahead):
    todo = list(parts(sampler, batch_size))

    def start(part):
        return submit(lambda: collate([dataset[n] for n in part]))

    futures = [start(part) for part in todo[:ahead]]
    for k in range(len(todo)):
        if k + ahead < len(todo):
            futures.append(start(todo[k + ahead]))
        yield futures[k].result()


@pytest.mark.parametrize("answer", [by_hand.batches, from_a_list])
def test_right_loaders(answer):
    accepted(check.batches(answer))


def cutting_the_sampler(dataset, sampler, batch_size, collate, submit, ahead):
    """Goes through the sampler once for each batch."""

    def start(first):
        part = list(sampler)[first : first + batch_size]
        return submit(lambda: collate([dataset[n] for n in part]))

    starts = deque(range(0, len(sampler), batch_size))
    futures = deque(start(starts.popleft()) for _ in range(min(ahead, len(starts))))
    while futures or starts:
        if starts:
            futures.append(start(starts.popleft()))
        yield futures.popleft().result()


def counting_by_the_dataset(dataset, sampler, batch_size, collate, submit, ahead):
    """Begins no batch where the dataset has none that is full."""
    if len(dataset) >= batch_size:
        yield from by_hand.batches(dataset, sampler, batch_size, collate, submit, ahead)


def loader(
    window=lambda ahead: ahead, fetch_here=False, collate_here=False, lose_end=False, whole_only=False, pop="popleft"
):
    def answer(dataset, sampler, batch_size, collate, submit, ahead):
        def fetch(part):
            samples = [dataset[n] for n in part]
            return samples if collate_here else collate(samples)

        def start(part):
            return submit(lambda batch: batch, fetch(part)) if fetch_here else submit(fetch, part)

        def finish(future):
            return collate(future.result()) if collate_here else future.result()

        futures = deque()
        for part in parts(sampler, batch_size):
            if whole_only and len(part) < batch_size:
                continue
            futures.append(start(part))
            if len(futures) > window(ahead):
                yield finish(getattr(futures, pop)())
        while futures and not lose_end:
            yield finish(getattr(futures, pop)())

    return answer


def in_two_pieces(dataset, sampler, batch_size, collate, submit, ahead):
    """Fetches ahead, and collates elsewhere too, but with a second piece of work."""
    futures = deque()
    for part in parts(sampler, batch_size):
        fetched = submit(lambda part: [dataset[n] for n in part], part)
        futures.append(submit(lambda fetched: collate(fetched.result()), fetched))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def all_of_them_made(dataset, sampler, batch_size, collate, submit, ahead):
    futures = deque()
    for part in parts(sampler, batch_size):
        futures.append(submit(lambda part: collate([dataset[n] for n in part]), part))
        if len(futures) > ahead:
            made = [future.result() for future in futures]
            futures.popleft()
            yield made[0]
    while futures:
        yield futures.popleft().result()


def without_a_list(dataset, sampler, batch_size, collate, submit, ahead):
    for part in parts(sampler, batch_size):
        yield submit(lambda part: collate(dataset[n] for n in part), part).result()


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (in_two_pieces, "in_pieces"),
        (all_of_them_made, "waited_for"),
        (without_a_list, "lazy_samples"),
        (loader(window=lambda ahead: 0), "not_far_enough"),
        (loader(window=lambda ahead: 1), "not_far_enough"),
        (loader(window=lambda ahead: 1000), "too_far"),
        (loader(fetch_here=True), "fetched_in_front"),
        (loader(collate_here=True), "collated_in_front"),
        (loader(lose_end=True), "end_lost"),
        (loader(whole_only=True), "end_lost"),
        (loader(pop="pop"), "order"),
        (cutting_the_sampler, "drawn_again"),
        (counting_by_the_dataset, "end_lost"),
        (lambda d, s, b, c, submit, a: by_hand.batches(d, s, b, list, submit, a), "not_collated"),
        (lambda d, s, b, c, submit, a: by_hand.batches(d, [n + 1 for n in s], b, c, submit, a), "wrong_value"),
    ],
)
def test_wrong_loaders(answer, symptom):
    refused(check.batches(answer), symptom)


def leaving_out(dataset, sampler, batch_size, collate, submit, ahead):
    def fetch(part):
        samples = []
        for n in part:
            with contextlib.suppress(ValueError):
                samples.append(dataset[n])
        return collate(samples)

    futures = []
    for part in parts(sampler, batch_size):
        futures.append(submit(fetch, part))
        if len(futures) > ahead:
            yield futures.pop(0).result()
    for future in futures:
        yield future.result()


def from_one_queue(dataset, sampler, batch_size, collate, submit, ahead, futures=deque()):  # noqa: B006
    for part in parts(sampler, batch_size):
        futures.append(submit(lambda part: collate([dataset[n] for n in part]), part))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def endless(dataset, sampler, batch_size, collate, submit, ahead):
    yield from by_hand.batches(dataset, sampler, batch_size, collate, submit, ahead)
    while True:
        yield collate([])


def calls_its_work(dataset, sampler, batch_size, collate, submit, ahead):
    for part in parts(sampler, batch_size):
        yield submit(collate([dataset[n] for n in part])).result()


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (endless, "too_many"),
        (leaving_out, "swallowed"),
        (from_one_queue, "left_over"),
        (calls_its_work, "no_function"),
        (lambda *args: list(by_hand.batches(*args)), "not_yielded"),
        (lambda *args: None, "not_yielded"),
        (lambda d, s, b, c, submit, a: [c([d[n] for n in part]) for part in parts(s, b)], "fetched_in_front"),
    ],
)
def test_loaders_that_are_no_loaders(answer, symptom):
    refused(check.batches(answer), symptom)


def test_a_wrong_batch_is_told_from_the_right_one():
    checked = check.batches(lambda d, s, b, c, submit, a: by_hand.batches(d, range(len(s)), b, c, submit, a))
    refused(checked, "wrong_value")
    assert "batch 0 is (0, 10), and should be (60, 0)" in checked.message


def with_the_package(samples):
    batch, labels = pad(samples)
    return batch.x, batch.lengths, batch.mask, labels


def step_by_step(samples):
    lengths = torch.tensor([len(x) for x, _ in samples])
    x = torch.zeros(len(samples), int(lengths.max()), samples[0][0].shape[1])
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    for row, (steps, _) in enumerate(samples):
        x[row, : len(steps)] = steps
        mask[row, : len(steps)] = True
    return x, lengths, mask, torch.LongTensor([label for _, label in samples])


@pytest.mark.parametrize("answer", [with_the_package, step_by_step])
def test_right_collates(answer):
    accepted(check.collate(answer))


def change(**parts):
    def answer(samples):
        out = dict(zip(("x", "lengths", "mask", "labels"), with_the_package(samples), strict=True))
        return tuple(parts[name](samples, out) if name in parts else out[name] for name in out)

    return answer


def time_first(samples, out):
    return pad_sequence([x for x, _ in samples])


def in_front(samples, out):
    return pad_sequence([x for x, _ in samples], batch_first=True, padding_side="left")


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (change(x=time_first), "time_first"),
        (change(x=in_front), "left"),
        (change(x=lambda s, o: pad_sequence([x for x, _ in s], batch_first=True, padding_value=-1)), "not_zero"),
        (change(x=lambda s, o: torch.nn.functional.pad(o["x"], (0, 0, 0, 1))), "shape"),
        (change(x=lambda s, o: o["x"].flip(0)), "steps"),
        (change(lengths=lambda s, o: torch.full_like(o["lengths"], o["x"].shape[1])), "lengths"),
        (change(mask=lambda s, o: ~o["mask"]), "mask_inverted"),
        (change(mask=lambda s, o: o["mask"].float()), "dtype"),
        (change(mask=lambda s, o: o["x"] != 0), "shape"),
        (change(mask=lambda s, o: o["x"][..., 0] > 0), "mask"),
        (change(labels=lambda s, o: o["labels"].float()), "labels"),
        (change(lengths=lambda s, o: o["lengths"].float()), "dtype"),
        (lambda samples: with_the_package(samples)[:3], "wrong_type"),
        (lambda samples: (with_the_package(samples), [x.zero_() for x, _ in samples])[0], "inputs_changed"),
        (lambda samples: (with_the_package(samples), samples.reverse())[0], "inputs_changed"),
    ],
)
def test_wrong_collates(answer, symptom):
    refused(check.collate(answer), symptom)


def filled_with(value, whole_steps):
    """A collate whose lengths, mask or both are made from what it filled in."""

    def answer(samples):
        x = pad_sequence([x for x, _ in samples], batch_first=True, padding_value=value)
        mask = (x != value).all(-1) if whole_steps else (x != value).any(-1)
        return x.masked_fill(~mask[..., None], 0), mask.sum(1), mask, torch.tensor([label for _, label in samples])

    return answer


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (change(mask=lambda s, o: o["x"][..., 0] != 0), "mask"),
        (change(mask=lambda s, o: (o["x"] != 0).any(-1)), "mask"),
        (change(mask=lambda s, o: o["x"].abs().sum(-1) > 0), "mask"),
        (change(lengths=lambda s, o: (o["x"] != 0).any(-1).sum(1)), "lengths"),
        (filled_with(0.0, whole_steps=True), "lengths"),
        (filled_with(-1.0, whole_steps=False), "lengths"),
        (filled_with(-1.0, whole_steps=True), "lengths"),
        (filled_with(-1e9, whole_steps=True), "lengths"),
        (filled_with(-torch.inf, whole_steps=False), "lengths"),
    ],
)
def test_a_mask_or_lengths_from_values(answer, symptom):
    checked = check.collate(answer)
    refused(checked, symptom)
    assert "from values?" in checked.message


@pytest.mark.parametrize(
    ("answer", "symptom", "words"),
    [
        (lambda samples: with_the_package(sorted(samples, key=lambda s: -len(s[0]))), "order", "[5, 3, 2]"),
        (change(x=lambda s, o: o["x"].double()), "dtype", "float64"),
        (change(lengths=lambda s, o: o["lengths"].tolist()), "wrong_type", "the lengths are of type list"),
        (lambda samples: None, "wrong_type", "NoneType"),
        (change(mask=lambda s, o: torch.arange(o["x"].shape[1]) <= o["lengths"][:, None]), "mask", "[4, 5, 3]"),
    ],
)
def test_the_hint_on_a_collate_names_what_was_seen(answer, symptom, words):
    checked = check.collate(answer)
    refused(checked, symptom)
    assert words in checked.message
    assert "from values?" not in checked.message


def test_the_four_tensors_may_come_as_a_list():
    accepted(check.collate(lambda samples: list(with_the_package(samples))))


def buckets(lengths, size, pool, generator, mix=True, sort=True, mix_batches=True, keep_short=True, cut_pools=True):
    order = torch.randperm(len(lengths), generator=generator).tolist() if mix else list(range(len(lengths)))
    step = size * pool if cut_pools else len(lengths)
    batches = []
    for at in range(0, len(order), step):
        part = order[at : at + step]
        if sort:
            part = sorted(part, key=lengths.__getitem__)
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    if not keep_short:
        batches = [batch for batch in batches if len(batch) == size]
    if mix_batches:
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    return batches


def in_pools_of_one_size(lengths, size, pool, generator):
    """Pools that are as equal as can be, so that each ends with a short batch."""
    order = torch.randperm(len(lengths), generator=generator)
    parts = [sorted(p.tolist(), key=lengths.__getitem__) for p in order.tensor_split(-(-len(order) // (size * pool)))]
    found = [part[i : i + size] for part in parts for i in range(0, len(part), size)]
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def with_class(lengths, size, pool, generator):
    return BucketBatches(lengths, size, pool, seed=int(torch.randint(2**20, (), generator=generator))).batches()


@pytest.mark.parametrize("answer", [buckets, with_class, in_pools_of_one_size])
def test_right_buckets(answer):
    accepted(check.bucket_batches(answer))


@pytest.mark.parametrize(
    ("changed", "symptom"),
    [
        ({"sort": False}, "too_much_padding"),
        ({"mix_batches": False}, "by_length"),
        ({"keep_short": False}, "lost"),
        ({"mix": False, "mix_batches": False}, "never_shuffled"),
        ({"cut_pools": False}, "one_pool"),
        ({"mix": False}, "same_batches"),
    ],
)
def test_wrong_buckets(changed, symptom):
    refused(check.bucket_batches(lambda *args: buckets(*args, **changed)), symptom)


def from_its_seed(lengths, size, pool, generator):
    return buckets(lengths, size, pool, torch.Generator().manual_seed(generator.initial_seed()))


def sorted_in_place(lengths, size, pool, generator):
    found = buckets(lengths, size, pool, generator)
    lengths.sort()
    return found


def in_as_many_batches(lengths, size, pool, generator):
    """Cuts each pool, the last one too, into as many batches."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    found = []
    for at in range(0, len(order), size * pool):
        part = sorted(order[at : at + size * pool], key=lengths.__getitem__)
        each = max(len(part) // pool, 1)
        found += [part[i : i + each] for i in range(0, len(part), each)]
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def to_and_fro(lengths, size, pool, generator):
    """Does not mix the batches, and sorts every other pool from long to short."""
    order = torch.randperm(len(lengths), generator=generator).split(size * pool)
    pools = [sorted(p.tolist(), key=lengths.__getitem__, reverse=at % 2 == 1) for at, p in enumerate(order)]
    return [part[i : i + size] for part in pools for i in range(0, len(part), size)]


def test_more_wrong_buckets():
    refused(check.bucket_batches(to_and_fro), "by_length")
    refused(check.bucket_batches(lambda n, b, p, g: buckets(n, b, 2 * p, g)), "one_pool")
    refused(check.bucket_batches(lambda n, b, p, g: buckets(n, b, p // 2, g)), "too_much_padding")
    refused(check.bucket_batches(in_as_many_batches), "too_many_batches")
    refused(check.bucket_batches(sorted_in_place), "inputs_changed")
    refused(check.bucket_batches(from_its_seed), "not_drawn")
    refused(check.bucket_batches(lambda n, b, p, g: [k for batch in buckets(n, b, p, g) for k in batch]), "wrong_type")
    refused(check.bucket_batches(lambda *args: None), "nothing_returned")
    refused(check.bucket_batches(lambda n, b, p, g: buckets(n, b + 1, p, g)), "too_large")
    refused(check.bucket_batches(lambda n, b, p, g: [*buckets(n, b, p, g), [0]]), "not_once")
    refused(check.bucket_batches(lambda n, b, p, g: buckets(n, b, p, None)), "not_repeatable")


def by_sum(samples, groups, train, test):
    sums = {int(samples[n].sum()) for n in train}
    return by_group(groups, train, test) | {n for n in test if n in train or int(samples[n].sum()) in sums}


def by_the_beginning_of_names(samples, groups, train, test):
    found = {n for n in test if n in train or groups[n].startswith(tuple(groups[known] for known in train))}
    return found | by_content(samples, train, test)


def group_by_place(samples, groups, train, test):
    known = {groups[place] for place, _ in enumerate(train)}
    return by_content(samples, train, test) | {n for n in test if n in train or groups[n] in known}


def group_of_a_leaking_sample(samples, groups, train, test):
    found = all_three(samples, groups, train, test)
    return found | {n for n in test if groups[n] in {groups[other] for other in found}}


@pytest.mark.parametrize("answer", [by_sum, group_by_place, group_of_a_leaking_sample, by_the_beginning_of_names])
def test_finders_that_find_too_much(answer):
    refused(check.find_leaks(answer), "no_leak")


def by_bytes(samples, groups, train, test):
    known = {samples[n].numpy().tobytes() for n in train}
    return all_three(samples, groups, train, test) | {n for n in test if samples[n].numpy().tobytes() in known}


def by_printed_text(samples, groups, train, test):
    known = {str(samples[n]) for n in train}
    return all_three(samples, groups, train, test) | {n for n in test if str(samples[n]) in known}


def by_nearness(samples, groups, train, test):
    def near(a, b):
        return a.shape == b.shape and torch.allclose(a, b)

    return all_three(samples, groups, train, test) | {
        n for n in test if any(near(samples[n], samples[other]) for other in train)
    }


@pytest.mark.parametrize(
    ("answer", "words"),
    [(by_bytes, "different shape"), (by_printed_text, "in one number"), (by_nearness, "nearly")],
)
def test_what_is_taken_for_a_content(answer, words):
    checked = check.find_leaks(answer)
    refused(checked, "no_leak")
    assert words in checked.message


def test_equal_groups_need_not_be_one_object():
    def by_identity(samples, groups, train, test):
        content = by_content(samples, train, test) | set(train) & set(test)
        return content | {n for n in test if any(groups[n] is groups[other] for other in train)}

    refused(check.find_leaks(by_identity), "misses_groups")


def test_a_finder_leaves_the_split_alone():
    def repair(samples, groups, train, test):
        found = all_three(samples, groups, train, test)
        test[:] = [n for n in test if n not in found]
        return found

    refused(check.find_leaks(repair), "inputs_changed")


def all_three(samples, groups, train, test):
    return set(leaks(samples, groups, train, test))


def pair_by_pair(samples, groups, train, test):
    return {t for t in test for n in train if t == n or groups[t] == groups[n] or torch.equal(samples[t], samples[n])}


@pytest.mark.parametrize("answer", [all_three, pair_by_pair, lambda *given: frozenset(all_three(*given))])
def test_right_finders(answer):
    accepted(check.find_leaks(answer))


def by_content(samples, train, test):
    known = {fingerprint(samples[n]) for n in train}
    return {n for n in test if fingerprint(samples[n]) in known}


def by_group(groups, train, test):
    return {n for n in test if groups[n] in {groups[t] for t in train}}


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda s, g, train, test: by_content(s, train, test), "misses_groups"),
        (lambda s, g, train, test: by_group(g, train, test), "misses_contents"),
        (lambda s, g, train, test: set(train) & set(test), "misses_groups"),
        (
            lambda s, g, train, test: (by_group(g, train, test) | by_content(s, train, test)) - set(train),
            "misses_samples",
        ),
        (lambda s, g, train, test: by_group(g, test, train) | by_content(s, test, train), "train_side"),
        (lambda s, g, train, test: all_three(s, g, train, test) | ({7, 9} & set(test)), "no_leak"),
        (lambda s, g, train, test: len(all_three(s, g, train, test)), "wrong_type"),
    ],
)
def test_wrong_finders(answer, symptom):
    refused(check.find_leaks(answer), symptom)
