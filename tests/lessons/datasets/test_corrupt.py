"""A corrupt record raises or is counted and reported by name: it never goes missing in silence."""

import struct
import zlib

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from torchcourse.data.loaders import make_loader, set_epoch
from torchcourse.lessons.datasets.corrupt import CheckedLoader, CorruptRecord, Guarded

BAD = {3: "truncated", 8: "truncated", 17: "not a number"}


class Records(torch.utils.data.Dataset):
    def __init__(self, count=20, bad=BAD):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"{index}.png: {self.bad[index]}")
        return torch.tensor(float(index))


def loader(records=None, batch=6, workers=0, **options):
    records = records or Records()
    names = [f"{index}.png" for index in range(len(records))]
    return CheckedLoader(make_loader(Guarded(records, names), batch, num_workers=workers), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_records_are_counted_and_named(workers):
    checked = loader(workers=workers, on_corrupt="report", most=0.2)
    values = torch.cat(list(checked)).tolist()
    assert sorted(values) == [index for index in range(20) if index not in BAD]
    assert checked.report.seen == 20
    assert {record.name: record.reason for record in checked.report.records} == {
        f"{index}.png": reason for index, reason in BAD.items()
    }
    text = str(checked.report)
    assert "3 of 20 records are corrupt (15.0%)" in text
    assert "2 × truncated: " in text
    assert "1 × not a number: 17.png" in text


def test_the_first_corrupt_record_raises_unless_told_otherwise():
    with pytest.raises(CorruptRecord, match=r"^(3|8)\.png: truncated|17\.png: not a number"):
        list(loader())


def test_too_many_raise():
    with pytest.raises(CorruptRecord, match=r"More than 10\.0% .* 3 of \d+ records"):
        list(loader(on_corrupt="report", most=0.1))


@pytest.mark.parametrize("sized", [True, False])
def test_a_batch_sampler_that_gives_a_rank_a_part_is_judged_by_that_part(sized):
    """2 of the 10 records of this rank are corrupt, that is 20 percent, and not 2 of 20."""

    class Part:
        def __iter__(self):
            return iter([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])

    class Sized(Part):
        batch_size = 5

        def __len__(self):
            return 2

    for most, fits in ((0.15, False), (0.2, True)):
        inside = DataLoader(Guarded(Records()), batch_sampler=Sized() if sized else Part())
        checked = CheckedLoader(inside, on_corrupt="report", most=most)
        if fits:
            assert sum(map(len, checked)) == 8
        else:
            with pytest.raises(CorruptRecord, match=r"More than 15\.0% .* 2 of (9|10) records"):
                list(checked)


def test_a_batch_without_a_whole_record_raises():
    with pytest.raises(CorruptRecord, match="no whole record"):
        list(loader(Records(4, dict.fromkeys(range(4), "empty")), 4, on_corrupt="report", most=1))


def test_each_epoch_counts_anew():
    checked = loader(on_corrupt="report", most=0.2)
    for epoch in range(2):
        set_epoch(checked, epoch)
        assert len(list(checked)) == len(checked)
        assert (len(checked.report), checked.report.seen) == (3, 20)
    whole = loader(Records(bad={}))
    list(whole)
    assert str(whole.report) == "20 records, none of them corrupt."


def test_a_bug_is_not_taken_for_a_bad_record():
    class Broken(Records):
        def __getitem__(self, index):
            return self.nothing  # type: ignore[attr-defined]  # a program with a mistake

    with pytest.raises(AttributeError):
        list(loader(Broken(), on_corrupt="report"))


def test_names_and_reasons_that_are_missing():
    class Silent(Records):
        def __getitem__(self, index):
            raise OSError

    record = Guarded(Silent())[7]
    assert (record.name, record.reason) == ("record 7", "OSError")


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="batch_size=None"):
        CheckedLoader(DataLoader(Guarded(Records()), batch_size=None))
    with pytest.raises(ValueError, match="'skip'"):
        loader(on_corrupt="skip")
    with pytest.raises(ValueError, match="Guarded"):
        CheckedLoader(DataLoader(TensorDataset(torch.zeros(3))))


@pytest.mark.parametrize("error", [Image.DecompressionBombError, SyntaxError, EOFError, struct.error, zlib.error])
def test_what_readers_raise_for_a_damaged_file_is_a_corrupt_record(error):
    class Damaged(Records):
        def __getitem__(self, index):
            raise error("damaged")

    assert Guarded(Damaged())[3].reason == "damaged"


def test_records_and_names_are_equally_many():
    with pytest.raises(ValueError, match="There are 3 records and 1 names"):
        Guarded(TensorDataset(torch.ones(3)), ["a"])
