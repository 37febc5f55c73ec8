"""A folder of images with a label table: the data set that most projects begin with."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset


class ImageTable(Dataset):
    """A map-style data set of grey image files that a table lists with their labels.

    When it is made, it reads the table alone and looks whether each file is there. A file is opened when its sample is
    asked for, so the memory that is needed does not grow with the folder. `table[i]` is `(image, label)`: a float32
    tensor [1, H, W] from 0 to 1, whatever `transform` makes of it, and the number of the class in `classes`.

    Args:
        folder: where the images lie.
        table: a CSV file with a header, in the folder or elsewhere.
        file_column, label_column: the columns of file names (relative to the folder) and of labels.
        transform: applied to the image.
        classes: the labels in the order of their numbers; the table's own, sorted, if None. Give the training set's to
            the test set, so that a number means the same in both.

    Raises:
        FileNotFoundError: if folder, table or an image is missing; names the first five.
        ValueError: if the table lacks a column, is empty, names a file twice, leaves a label out, or has a label that
            is not in `classes`.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        table: str | os.PathLike = "labels.csv",
        *,
        file_column: str = "file",
        label_column: str = "label",
        transform: Callable[[torch.Tensor], Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.transform = Path(folder), transform
        self.rows = read_table(self.folder / table, (file_column, label_column))
        self.files = [row[file_column] for row in self.rows]
        names = [row[label_column] for row in self.rows]
        _must_be_whole(self.folder, self.files, names, Path(table).name)
        self.classes = sorted(set(names)) if classes is None else list(classes)
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise ValueError(f"{table} has the labels {_some(unknown)}, which are not among the classes given.")
        number = {name: position for position, name in enumerate(self.classes)}
        self.labels = torch.tensor([number[name] for name in names])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = read_image(self.folder / self.files[index])
        return image if self.transform is None else self.transform(image), int(self.labels[index])


def read_table(path: str | os.PathLike, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, which must have these columns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing or there are no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no label table {path.name} in {path.parent}.")
    with path.open(newline="", encoding="utf-8-sig") as file:  # a table saved by Excel begins with a byte order mark
        reader = csv.DictReader(file)
        found = list(reader.fieldnames or [])
        missing = [column for column in columns if column not in found]
        if missing:
            raise ValueError(
                f"{path.name} has the columns {_some(found) or 'none'}, but not {_some(missing)}. Say which to use."
            )
        rows = list(reader)
    if not rows:
        raise ValueError(f"{path.name} has a header and no rows.")
    return rows


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """Return a grey image as a float32 tensor [1, H, W] from 0 to 1.

    Raises:
        ValueError: if the file is no image that can be read to its end; names the file.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("L"))
    except (OSError, SyntaxError) as error:  # Pillow calls some broken PNG files a SyntaxError
        raise ValueError(f"{Path(path).name} cannot be read as an image: {error}") from error
    return torch.from_numpy(pixels)[None].float().div_(255)


def write_images(
    folder: str | os.PathLike, pixels: torch.Tensor, rows: Sequence[dict[str, Any]], table: str = "labels.csv"
) -> None:
    """Write grey images and their table: what `ImageTable` reads.

    Args:
        folder: made if it is not there.
        pixels: [N, H, W], uint8.
        rows: one for each image; `file` names it, and its ending (`.png`, `.pgm`, …) says in which format.
        table: name of the CSV file, with the columns of the first row.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for image, row in zip(pixels.numpy(), rows, strict=True):
        Image.fromarray(image).save(folder / row["file"])
    with (folder / table).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _must_be_whole(folder: Path, files: list[str], labels: list[str], table: str) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}  # one look, not one for each file
    missing = [name for name in files if Path(name).as_posix() not in there]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} files in {table} are not in {folder}: {_some(missing)}."
        )
    twice = [name for name, times in Counter(files).items() if times > 1]
    if twice:
        raise ValueError(f"{table} names {_some(twice)} more than once.")
    unlabelled = [name for name, label in zip(files, labels, strict=True) if not label]
    if unlabelled:
        raise ValueError(f"{table} has no label for {_some(unlabelled)}.")


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + rest
