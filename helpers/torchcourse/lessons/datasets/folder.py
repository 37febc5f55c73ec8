"""A folder of images with a label table: the dataset that most projects begin with."""

import codecs
import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset


class ImageTable(Dataset):
    """A map-style dataset of gray image files that a table lists with their labels.

    When it is made, it reads the table alone and looks whether each file is there. A file is opened when its sample is
    asked for, so the memory that is needed does not grow with the folder. `table[i]` is `(image, label)`: a float32
    tensor [1, H, W] from 0 to 1, whatever `transform` makes of it, and the number of the class in `classes`.

    Args:
        folder: where the images lie.
        table: a CSV file with a header, in the folder or elsewhere.
        file_column, label_column: the columns of file names (relative to the folder) and of labels. Korean names are
            found in both forms of Unicode, behind links, and with either separator.
        transform: applied to the image.
        classes: the labels in the order of their numbers; the table's own, sorted, if None. Give the training set's to
            the test set, so that a number means the same in both.
        encoding: of the table, if it is not UTF-8: "cp949" is what Excel saves as "CSV" on Korean Windows.

    Raises:
        FileNotFoundError: if folder, table or an image is missing; names the first five.
        ValueError: if the table cannot be read, lacks a column, is empty, names a file twice, leaves a label out, or
            has a label that is not in `classes`.
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
        encoding: str = "utf-8",
    ) -> None:
        self.folder, self.transform = Path(folder), transform
        self.rows = read_table(self.folder / table, (file_column, label_column), encoding)
        self.files = [row[file_column] for row in self.rows]
        names = [_one_form(row[label_column]) for row in self.rows]
        self._paths = _find(self.folder, self.files, Path(table).name)
        _must_be_whole(self.files, self._paths, names, Path(table).name)
        self.classes = sorted(set(names)) if classes is None else [_one_form(name) for name in classes]
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise ValueError(f"{table} has the labels {_some(unknown)}, which are not among the classes given.")
        number = {name: position for position, name in enumerate(self.classes)}
        self.labels = torch.tensor([number[name] for name in names])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = read_image(self.folder / self._paths[index])
        return image if self.transform is None else self.transform(image), int(self.labels[index])


def read_table(path: str | os.PathLike, columns: Sequence[str], encoding: str = "utf-8") -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, which must have these columns. The first of them is never empty.

    Blanks around a value are dropped, and rows without any value. A byte order mark counts more than `encoding`. The
    header tells whether values stand between commas, semicolons (Excel in countries with a decimal comma) or tabs.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the text is in a different encoding, a column is missing, a row does not fit the header, or
            there are no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no label table {path.name} in {path.parent}.")
    text = _decode(path, encoding)
    found = (text.partition("\n")[0].split(mark) for mark in ",;\t")
    mark = next((mark for mark, names in zip(",;\t", found, strict=True) if len(names) > 1), ",")
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path.name} cannot be read as a table: {error}. Is a quotation mark left open?") from error
    header = _header(path.name, lines, columns)
    rows = []
    for number, line in enumerate(lines[1:], 2):
        values = [value.strip() for value in line]
        if not any(values):
            continue
        if any(values[len(header) :]):
            raise ValueError(
                f"Row {number} of {path.name} has {len(values)} fields and its header {len(header)}. "
                f"A value with a {_MARKS[mark]} in it needs quotation marks."
            )
        row = dict.fromkeys(header, "") | dict(zip(header, values, strict=False))
        if not row[columns[0]]:
            raise ValueError(f"Row {number} of {path.name} has nothing in the column {columns[0]!r}.")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path.name} has a header and no rows.")
    return rows


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """Return the first picture of a file in gray, as a float32 tensor [1, H, W] from 0 to 1.

    It stands as its EXIF data say, 16 bits keep all their steps, and what is transparent is white.

    Raises:
        ValueError: if the file is no image that can be read to its end, or the range of its values is not known; names
            the file.
    """
    try:
        # Not by its path: Pillow 13 maps such files and mixes up the pixels of a turned TIFF without compression.
        with open(path, "rb") as file, Image.open(file) as image:
            form = image.format
            pixels, most = _grey(ImageOps.exif_transpose(image), form)
    except MemoryError:
        raise  # which says nothing about the file
    except Exception as error:  # the readers of Pillow have no common class for what they raise
        raise ValueError(f"{Path(path).name} cannot be read as an image: {error or type(error).__name__}") from error
    values = torch.from_numpy(pixels.astype(np.float32))[None].div_(most)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"{Path(path).name} has values from {values.min()} to {values.max()}. Scale them to 0 to 1.")
    return values


def write_images(
    folder: str | os.PathLike, pixels: torch.Tensor, rows: Sequence[dict[str, Any]], table: str = "labels.csv"
) -> None:
    """Write gray images and their table: what `ImageTable` reads.

    Args:
        folder: made if it is not there.
        pixels: [N, H, W], uint8.
        rows: one for each image, all with the same columns; `file` names it, and its ending (`.png`, `.pgm`, …) says in
            which format. One that changes pixels, as `.jpg` does, is refused.
        table: name of the CSV file.

    Raises:
        ValueError: for pixels of a different type or shape, or rows that do not name each image once.
    """
    if pixels.dtype != torch.uint8 or pixels.dim() != 3:
        raise ValueError(f"Pixels are uint8 [N, H, W], but these are {pixels.dtype} {list(pixels.shape)}.")
    _must_name_each(rows, len(pixels))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for image, row in zip(pixels.numpy(), rows, strict=True):
        (folder / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / row["file"])
    with (folder / table).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _must_name_each(rows: Sequence[dict[str, Any]], count: int) -> None:
    if len(rows) != count:
        raise ValueError(f"There are {count} images and {len(rows)} rows. Give each image its row.")
    seen: set[str] = set()
    for row in rows:
        if row.keys() != rows[0].keys() or "file" not in row:
            raise ValueError(f"A row has the columns {_some([*row])}, and the first one {_some([*rows[0]])}.")
        name = str(row["file"])
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} does not lie in the folder. Name files from there.")
        if Path(name).suffix.lower() in _LOSSY:
            raise ValueError(f"{name!r} would not keep all pixels as they are. Let it end in .png.")
        if name.casefold() in seen:
            raise ValueError(f"Two rows name {name!r}, in capitals or not: one image would replace the other.")
        seen.add(name.casefold())


def _header(table: str, lines: list[list[str]], columns: Sequence[str]) -> list[str]:
    found = [name.strip() for name in lines[0]] if lines else []
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(
            f"{table} has the columns {_some(found) or 'none'}, but not {_some(missing)}. Say which to use."
        )
    twice = [column for column in columns if found.count(column) > 1]
    if twice:
        raise ValueError(f"{table} has the column {twice[0]!r} twice. Rename one of them.")
    return found


def _decode(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    if content.startswith((b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")):  # zip and .xlsx, gzip, .xls
        raise ValueError(f"{path.name} is an archive or a file of Excel, and no text. Save it as CSV UTF-8.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"  # what Excel saves as "Unicode text"
    elif content.startswith(codecs.BOM_UTF8) or encoding == "utf-8":
        encoding = "utf-8-sig"  # with such a mark or without
    try:
        return content.decode(encoding)
    except LookupError as error:
        raise ValueError(f"There is no encoding {encoding!r}. Korean tables are in 'utf-8' or 'cp949'.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is not {encoding.removesuffix('-sig')} (byte {error.start}). Save it as CSV UTF-8, or say "
            "in which encoding it is: encoding='cp949' reads what Excel saves on Korean Windows."
        ) from error


def _grey(image: Image.Image, form: str | None) -> tuple[np.ndarray, float]:
    """Return the values [H, W] and the one that stands for white."""
    if image.mode.startswith("I;16"):
        values = np.array(image)
        if isinstance(clear := image.info.get("transparency"), int):  # one value of a PNG stands for nothing
            values[values == clear] = 65535
        return values, 65535
    if image.mode == "I":
        if form not in ("PNG", "PPM"):  # these two have at most 16 bits, which Pillow may hold in 32
            raise ValueError("nobody knows which of its 32-bit values is white. Scale them to 0 to 1 and save floats.")
        return np.array(image), 65535
    if image.mode == "F":
        return np.array(image), 1
    if "A" in image.getbands() or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return np.array(image.convert("L")), 255


def _find(folder: Path, files: list[str], table: str) -> list[str]:
    """Return under which path in the folder each file lies.

    Raises:
        FileNotFoundError: if one is missing.
    """
    there = _files_below(folder, links=False)  # one look, not one for each file
    paths = [name if Path(name).as_posix() in there else "" for name in files]
    if not all(paths):
        paths = [path or (name if (folder / name).is_file() else "") for path, name in zip(paths, files, strict=True)]
    if not all(paths):
        alike = {_one_form(path): path for path in sorted(_files_below(folder, links=True))}
        paths = [
            path or alike.get(_one_form(Path(name.replace("\\", "/")).as_posix()), "")
            for path, name in zip(paths, files, strict=True)
        ]
    missing = [name for name, path in zip(files, paths, strict=True) if not path]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} files in {table} are not in {folder}: {_some(missing)}."
        )
    return paths


def _files_below(folder: Path, links: bool) -> set[str]:
    found, seen = set(), set()
    for top, folders, names in os.walk(folder, followlinks=links):
        real = os.path.realpath(top)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        found |= {(Path(top) / name).relative_to(folder).as_posix() for name in names}
    return found


def _must_be_whole(files: list[str], paths: list[str], labels: list[str], table: str) -> None:
    times = Counter(os.path.normpath(path) for path in paths)
    twice = [name for name, path in zip(files, paths, strict=True) if times[os.path.normpath(path)] > 1]
    if twice:
        raise ValueError(f"{table} names {_some(list(dict.fromkeys(twice)))} more than once.")
    unlabeled = [name for name, label in zip(files, labels, strict=True) if not label]
    if unlabeled:
        raise ValueError(f"{table} has no label for {_some(unlabeled)}.")


_MARKS = {",": "comma", ";": "semicolon", "\t": "tab"}
_LOSSY = {".jpg", ".jpeg", ".jfif", ".jp2", ".webp", ".avif", ".gif"}


def _one_form(text: str) -> str:
    """As composed characters (NFC): macOS writes Korean decomposed (NFD), which looks the same."""
    return unicodedata.normalize("NFC", text.strip())


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + rest
