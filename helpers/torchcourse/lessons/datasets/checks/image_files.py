"""Check of lesson 06, notebook 1: a dataset of image files."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchcourse.checks import Wrong, check, errors
from torchcourse.checks.kit import numbers as numbers_in
from torchcourse.checks.kit import refuse_known, same, tensor_of
from torchcourse.lessons.datasets.folder import write_images


@check
def pictures(learner: Callable[[Path], Any]) -> str:
    """Make a folder with a table in an order of its own, change it under the dataset, then take an image away."""
    labels = ["fox", "owl", "ant", "owl", "fox"]
    files = ["m.png", "c.png", "x.png", "a.png", "k.png"]
    pixels = torch.arange(5 * 12).reshape(5, 3, 4).to(torch.uint8)
    rows = [{"file": file, "label": label} for file, label in zip(files, labels, strict=True)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder, torch.cat([pixels, pixels[:1]]), [*rows, {"file": "unlisted.png", "label": "owl"}])
        write_images(folder, pixels, rows)  # the table again, now without the last image
        data = learner(folder)
        if len(data) != 5:
            more = (
                " Is the line of column names counted, or the image in the folder that the table does not list?"
                if len(data) == 6
                else ""
            )
            raise Wrong("count", f"The table has 5 rows, and your dataset has the length {len(data)}.{more}")
        _judge_samples(data, pixels, files, labels)
        _judge_end(data)
        unread = learner(folder)
        write_images(folder, pixels[:1] + 100, [{"file": "m.png", "label": "fox"}], table="other.csv")
        _judge_lazy(data, unread, learner(folder), pixels[:1] / 255)
        (folder / "x.png").unlink()
        _judge_missing(learner, folder)
    _judge_opened(learner, pixels, rows)
    _judge_other_table(learner, pixels, files)
    _judge_two(learner, pixels)
    return "Five images in the table's order, each opened when it is asked for; a missing one is named at once."


def _judge_opened(learner: Callable[[Path], Any], pixels: torch.Tensor, rows: list[dict[str, str]]) -> None:
    """Make a dataset of files that hold no images; then mend one of them, and ask for its sample alone."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder, pixels, rows)
        for row in rows:
            (folder / row["file"]).write_bytes(b"no image")
        try:
            data = learner(folder)
        except Exception as error:
            raise Wrong(
                "opened_at_once",
                "Each file of the table is there, but none holds an image, and making your dataset ends with "
                f"{type(error).__name__}: {error}. It opens the images. To look whether a file is there, it need not "
                "be read.",
            ) from error
        write_images(folder, pixels[2:3], rows[2:3], table="other.csv")
        try:
            data[2]
        except Exception as error:
            raise Wrong(
                "opens_others",
                "The file of sample 2 holds an image, and no other file does. Asked for sample 2, your dataset ends "
                f"with {type(error).__name__}: {error}. Which files does it open for one sample?",
            ) from error


def _judge_other_table(learner: Callable[[Path], Any], pixels: torch.Tensor, files: list[str]) -> None:
    """A table with one more column, in a different order, and with labels of two lengths."""
    labels = ["ox", "owl", "ant", "owl", "ox"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder, pixels, [{"file": file} for file in files])
        lines = ["note,label,file", *(f"seen,{label},{file}" for label, file in zip(labels, files, strict=True))]
        (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            data = learner(folder)
        except FileNotFoundError as error:
            raise Wrong(
                "columns_by_place",
                "A second table has the columns `note`, `label` and `file`, in this order, and no image is missing. "
                f"Your dataset says: {error}. A column is known by its name.",
            ) from None
        if len(data) != 5:
            raise Wrong(
                "count",
                f"A second table has 5 rows, too, and the dataset that you make of it has the length {len(data)}.",
            )
        _judge_samples(data, pixels, files, labels)


def _judge_two(learner: Callable[[Path], Any], pixels: torch.Tensor) -> None:
    """Two datasets at once, as a training set and a test set are: the second must not change the first."""
    with tempfile.TemporaryDirectory() as place:
        for part, labels in (("first", ["yak", "emu", "yak"]), ("second", ["ape", "emu"])):
            rows = [{"file": f"{part}-{n}.png", "label": label} for n, label in enumerate(labels)]
            write_images(Path(place) / part, pixels[: len(labels)] + len(labels), rows)
        data = learner(Path(place) / "first")
        learner(Path(place) / "second")
        try:
            images, numbers = zip(*(data[number] for number in range(len(data))), strict=True)
            whole = [int(number) for number in numbers] == [1, 0, 1]
            kept = whole and same(torch.stack(images), (pixels[:3, None] + 3) / 255, 1e-5)
        except Exception:
            kept = False
        if not kept:
            raise Wrong(
                "shared",
                "A dataset was made of one folder and then one of a different folder, as for training and for test. "
                "Now the first has not its own samples any more. What belongs to one dataset is set on `self`: what "
                "lies in the class, or outside of it, is one for all.",
            )


def _judge_end(data: Any) -> None:
    try:
        data[len(data)]
    except Exception:
        return
    raise Wrong(
        "endless",
        f"A dataset of {len(data)} samples gives one for the number {len(data)}, too. Python goes through a dataset by "
        "its numbers until one raises an IndexError: `for image, label in data` would never end.",
    )


def _judge_lazy(data: Any, unread: Any, afterwards: Any, old: torch.Tensor) -> None:
    for symptom, dataset, hint in (
        (
            "outlives",
            afterwards,
            "A dataset that is made after a file was changed returns the old image, which an earlier dataset had "
            "opened. What is kept in the class, or outside of it, is one for all datasets.",
        ),
        (
            "eager",
            unread,
            "A file was changed after your dataset had been made, and it still returns the old image: all images are "
            "in memory. When is a file to be opened?",
        ),
        (
            "kept",
            data,
            "A file was changed after its image had been asked for, and your dataset still returns the old image: it "
            "keeps each image that it has opened. After one epoch the whole folder is in memory.",
        ),
    ):
        if torch.equal(dataset[0][0], old):
            raise Wrong(symptom, hint)


def _judge_missing(learner: Callable[[Path], Any], folder: Path) -> None:
    try:
        data = learner(folder)
    except FileNotFoundError as error:
        if "x.png" not in str(error):
            raise Wrong("nameless", f"Of a missing image your message says: {error}. Which one is it?") from None
        return
    except Exception as error:
        if errors.is_hole(error):
            raise
        raise Wrong(
            "other_error",
            f"An image of the table is missing, and making your dataset ends with {type(error).__name__}: {error}. "
            "FileNotFoundError was asked for, with the name of the image.",
        ) from error
    if len(data) < 5:
        raise Wrong(
            "skipped",
            f"An image of the table is missing, and your dataset leaves it out: it has {len(data)} of 5 samples, and "
            "nobody is told. Raise FileNotFoundError with its name when it is made.",
        )
    raise Wrong(
        "missing_late",
        "An image of the table is missing, and your dataset is made all the same. The error "
        "will come in the middle of an epoch. Raise FileNotFoundError with its name when it is made.",
    )


def _judge_samples(data: Any, pixels: torch.Tensor, files: list[str], labels: list[str]) -> None:
    got = [data[number] for number in range(len(files))]
    if not all(isinstance(sample, tuple) and len(sample) == 2 for sample in got):
        raise Wrong("wrong_type", f"A sample is a pair (image, class number). You return {type(got[0]).__name__}.")
    images, numbers = zip(*got, strict=True)
    right = pixels[:, None] / 255
    for image in images:
        tensor_of(image, right[0].shape, f"An image has the shape {list(right[0].shape)}, as `read_image` returns it.")
    by_name = torch.tensor(sorted(range(len(files)), key=files.__getitem__))
    refuse_known(
        torch.stack(images),
        {
            "folder_order": (
                right[by_name],
                "Your images come in the order of their file names, and the labels in that of the table. Image and "
                "label of a sample must come from one row.",
            )
        },
    )
    if not same(torch.stack(images), right, 1e-5):
        raise Wrong("wrong_value", "Image i is not what the file of row i holds.")
    _judge_class_numbers(numbers, labels)


def _judge_class_numbers(given: tuple, labels: list[str]) -> None:
    if any(isinstance(number, str) for number in given):
        raise Wrong("label_is_text", f"The label of sample 0 is {given[0]!r}. A loss takes the number of a class.")
    found = numbers_in(given)
    if found is None or any(
        "float" in str(getattr(value, "dtype", type(value))) or getattr(value, "ndim", 0) for value in given
    ):
        raise Wrong(
            "no_number",
            f"The label of sample 0 is {given[0]!r}. The number of a class is one whole number without a dimension of "
            "its own: a loss takes labels [N], and no [N, 1].",
        )
    numbers, by_row, by_name = [int(number) for number in found], list(dict.fromkeys(labels)), sorted(set(labels))
    if numbers == [by_row.index(label) for label in labels]:
        raise Wrong(
            "numbered_by_row",
            "Your classes are numbered as they appear in the table. The test set's table has a different order, and "
            "there the same animal gets a different number. Number the sorted labels.",
        )
    if numbers != [by_name.index(label) for label in labels]:
        raise Wrong(
            "class_number",
            f"The labels {labels} have the numbers {numbers}. A class's number is its place among the sorted labels, "
            "and places are counted from 0.",
        )
