"""The check of milestone M1: the dataset made of the customer's files."""

import contextlib
import inspect
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import other_text_hashes
from torchcourse.lessons.capstone.delivery import broken_files, deliver
from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.lessons.transfer.backbones import MNIST_SCALING
from torchcourse.units import counted

IMAGES = 160
SHARES = (0.1, 0.4)
"""Between which shares of the pictures the validation part lies."""


@check
def dataset(learner: Callable[[Path, str], Any]) -> str:
    """Open both parts of a new delivery, and compare files, cards, labels and pixels with the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = deliver(Path(place) / "delivery", IMAGES, seed=11)
        parts = {part: _opened(learner, folder, part) for part in ("train", "val")}
        rows = {row["file"]: row for row in read_table(folder / "labels.csv", ("file", "card", "label"))}
        _judge_files(parts, set(rows))
        _judge_cards(parts, rows)
        for part, data in parts.items():
            _judge_samples(data, part, folder, rows)
        _judge_again(learner, folder, parts["val"], len(rows))
        _judge_another(learner, Path(place) / "another")
    return "Both parts hold whole cards, every file is in a part or reported, and the backbone gets what it knows."


def _judge_again(learner: Callable[[Path, str], Any], folder: Path, val: Any, rows: int) -> None:
    """Refuse a split or pictures that are different when made once more, or a split that might be elsewhere."""
    files = val.files
    with other_text_hashes():
        again = _opened(learner, folder, "val")
    if list(again.files) != list(files):
        raise Wrong(
            "split_moves",
            "Opened a second time, the validation part holds different files: what one process trains on, "
            "a different one validates on. What does your split depend on?",
        )
    for place in range(0, len(val), 7):
        if not torch.equal(again[place][0], val[place][0]):
            raise Wrong(
                "val_random",
                f"Opened a second time, the validation part has a different picture of {files[place]}. Then two "
                "models are not judged by the same ones. Only what is trained on may be random.",
            )
    with _cards_of_another_process(learner):
        elsewhere = list(_opened(learner, folder, "val").files)
    # A text that is made again, by NumPy say, is not found among cards with another hash: that proves nothing.
    if sorted(elsewhere) != sorted(files) and SHARES[0] <= len(elsewhere) / rows <= SHARES[1]:
        raise Wrong(
            "split_moves",
            "In a different process, the validation part holds different files: the order of a set of texts is not "
            "the same there. What one process trains on, the other one validates on.",
        )


class _Card(str):
    """A text with a hash that it might have in a different process, where Python salts it again."""

    __slots__ = ()

    def __hash__(self) -> int:
        return str.__hash__(self) * 1_000_003 % 2**61


@contextlib.contextmanager
def _cards_of_another_process(learner: Callable[[Path, str], Any]) -> Iterator[None]:
    """Let `read_table`, wherever the learner's cells have it, give cards with other hashes."""

    def salted(*given: Any, **more: Any) -> list[dict[str, str]]:
        return [row | ({"card": _Card(row["card"])} if "card" in row else {}) for row in read_table(*given, **more)]

    place = getattr(inspect.unwrap(learner), "__globals__", {})
    names = [name for name, value in place.items() if value is read_table]
    with patch.dict(place, dict.fromkeys(names, salted)) if names else contextlib.nullcontext():
        yield


def _judge_another(learner: Callable[[Path, str], Any], place: Path) -> None:
    """Refuse what is right for the first delivery only."""
    folder = deliver(place, IMAGES // 2, seed=12)
    broken, whole = _broken_elsewhere(folder)
    opened = [_opened(learner, folder, part) for part in ("train", "val")]
    listed = {name for data in opened for name in (*data.files, *data.skipped)}
    known = {row["file"] for row in read_table(folder / "labels.csv", ("file",))}
    if listed != known:
        raise Wrong(
            "first_folder",
            f"Asked for a second delivery, of {len(known)} files, your parts list {len(listed)}. What does your "
            "function keep from its first call?",
        )
    _judge_other_breaks(opened, broken, whole)


def _broken_elsewhere(folder: Path) -> tuple[str, str]:
    """Cut off a file of a delivery further on than `deliver` does, and mend one: no number and no size tells them."""
    whole = broken_files(IMAGES // 2)[0]
    files = [folder / row["file"] for row in read_table(folder / "labels.csv", ("file",))]
    longest = max(files, key=lambda file: file.stat().st_size)
    (folder / whole).write_bytes(min(files[:7], key=lambda file: file.stat().st_size).read_bytes())
    longest.write_bytes(longest.read_bytes()[:-30])
    return longest.name, whole


def _judge_other_breaks(opened: list[Any], broken: str, whole: str) -> None:
    """Refuse what knows the files that cannot be read by their names or sizes, and does not read them."""
    skipped = {name for data in opened for name in data.skipped}
    if broken in skipped and whole not in skipped:
        return
    said = f"{broken} cannot be read to its end, and is among your samples"
    if broken in skipped:
        said = f"{whole} can be read, and you report it as skipped"
    raise Wrong(
        "not_read",
        f"In a second delivery {said}. There other files are broken, and one of them is nearly as large as a whole "
        "one. Whether a file can be read shows when it is read.",
    )


def _opened(learner: Callable[[Path, str], Any], folder: Path, part: str) -> Any:
    try:
        data = learner(folder, part)
    except ValueError as error:
        if "cannot be read as an image" not in str(error):
            raise
        raise Wrong(
            "stopped_by_a_file",
            f"{error}. A delivery of real files has such ones: report them in `skipped`, and go on.",
        ) from None
    for name in ("files", "skipped"):
        if not isinstance(getattr(data, name, None), list | tuple):
            raise Wrong("wrong_type", f"The dataset of part {part!r} has no list `{name}`, which the brief asks for.")
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise Wrong(
            "wrong_type", f"A {type(data).__name__} is no map-style dataset: `len(data)` and `data[i]` have to work."
        )
    if len(data) != len(data.files):
        raise Wrong("count", f"Part {part!r} has the length {len(data)}, but its list `files` has {len(data.files)}.")
    return data


def _judge_files(parts: dict[str, Any], known: set[str]) -> None:
    train, val = (set(data.files) for data in parts.values())
    reported = {file for data in parts.values() for file in data.skipped}
    broken = set(broken_files(IMAGES))
    # What is trained on may come several times, to balance it. What is judged by may not.
    if again := sorted(file for file, times in Counter(parts["val"].files).items() if times > 1):
        raise Wrong(
            "listed_twice",
            f"The validation part lists {counted(len(again), 'file')} twice or more, such as {again[0]}.",
        )
    if unknown := sorted(str(file) for file in (train | val | reported) - known):
        raise Wrong("unknown_file", f"Your lists name {unknown[0]!r}, and the column `file` of the table does not.")
    twice = train & val
    if twice:
        raise Wrong("same_file", f"Both parts have {counted(len(twice), 'file')}, such as {min(twice)}.")
    kept = broken & (train | val)
    if kept:
        raise Wrong("broken_kept", f"{min(kept)} is cut off in the middle, and it is among your samples.")
    if broken - reported:
        raise Wrong(
            "silent_skip",
            f"{min(broken - reported)} cannot be read. It is in neither part, and no list `skipped` names it: "
            "nobody will learn that it is missing.",
        )
    whole = reported - broken
    if whole:
        raise Wrong("whole_skipped", f"{min(whole)} can be read, but you report it as skipped.")
    lost = known - train - val - reported
    if lost:
        raise Wrong("lost", f"Neither part has {counted(len(lost), 'file')} of the table, such as {min(lost)}.")
    low, high = SHARES
    share = len(val) / (len(train) + len(val))
    if not low <= share <= high:
        raise Wrong("val_share", f"The validation part has {share:.0%} of the pictures: take {low:.0%} to {high:.0%}.")


def _judge_cards(parts: dict[str, Any], rows: dict[str, dict[str, str]]) -> None:
    train, val = ({rows[file]["card"] for file in data.files} for data in parts.values())
    if train & val:
        raise Wrong(
            "leak",
            f"Both parts have pictures of {counted(len(train & val), 'card')}. The pictures of a card share light, "
            "paper and slant, and one of its digits comes twice: your validation knows them already.",
        )

    skipped = Counter(file for data in parts.values() for file in data.skipped)
    if again := sorted(file for file, times in skipped.items() if times > 1):
        raise Wrong(
            "reported_twice", f"{again[0]} is reported as skipped {skipped[again[0]]} times. It is in one part."
        )


def _judge_samples(data: Any, part: str, folder: Path, rows: dict[str, dict[str, str]]) -> None:
    held = torch.zeros(()), torch.zeros(())  # a picture as it was given, and a copy of it
    for place in range(0, len(data), 7):
        sample = data[place]
        if not torch.equal(*held):
            raise Wrong(
                "one_place",
                f"When `data[{place}]` is read, a picture that was read before turns into a different one: all come in "
                "the same tensor. A batch of them is one picture many times.",
            )
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            kind = f"{len(sample)} values" if isinstance(sample, tuple | list) else f"a {type(sample).__name__}"
            raise Wrong("sample_parts", f"`data[{place}]` is a picture and its label. Yours is {kind}.")
        image, label = sample
        file = data.files[place]
        if not isinstance(image, torch.Tensor) or image.shape != (1, 28, 28) or image.dtype != torch.float32:
            kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, torch.Tensor) else type(image).__name__
            raise Wrong("shape", f"The backbone takes float32 [1, 28, 28]; your dataset returns {kind}.")
        if not image.isfinite().all():
            raise Wrong("not_finite", f"In the picture of {file} are values that are no number. What is divided by 0?")
        if _class(label) is None:
            raise Wrong(
                "label_type",
                f"A label is one whole number, as `F.cross_entropy` wants it. For {file} you return {label!r}.",
            )
        if _class(label) != int(rows[file]["label"]):
            raise Wrong("label", f"{file} shows the digit {rows[file]['label']}, and your dataset says {int(label)}.")
        if part == "val":  # what is trained on may be augmented
            before = image.clone()  # the dataset may give the same tensor again, with other numbers in it
            if not torch.equal(before, data[place][0]):
                raise Wrong(
                    "val_random",
                    f"Read twice, {file} of the validation part gives two different pictures. Then two models are not "
                    "judged by the same ones. Only what is trained on may be random.",
                )
            picture = read_image(folder / file)
            _refuse_border(image, picture)
            _judge_pixels(image, MNIST_SCALING(1 - picture[None], 1)[0], file)
        held = image, image.clone()


def _class(label: Any) -> int | None:
    """The number of a label; None for what does not make a batch of class numbers: text, a float, several numbers."""
    if isinstance(label, torch.Tensor):
        return int(label) if label.dim() == 0 and not label.is_floating_point() else None
    return int(label) if isinstance(label, Integral) and not isinstance(label, bool) else None


def _refuse_border(image: torch.Tensor, picture: torch.Tensor) -> None:
    """Raise where the picture was put into a frame or a corner: ink or paper, in whatever scaling."""
    side = picture.shape[-1]
    for top in range(image.shape[-1] - side + 1):
        inner = image[:, top : top + side, top : top + side]
        if abs(_likeness(inner, picture)) > 0.99:
            raise Wrong(
                "border",
                f"You keep the picture's {side} × {side} pixels, and a border fills the rest. The backbone knows "
                "larger digits: enlarge the picture itself, to 28 × 28.",
            )


def _likeness(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1].item()


def _from_black_to_ink(image: torch.Tensor) -> bool:
    """Whether the paper was taken away: nothing is outside of MNIST's black and white, paper is black, ink is light.

    On such pictures a head on frozen features reads more cards than on those that were only turned round.
    """
    black, white = MNIST_SCALING(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 28, 28), 1).flatten(1)[:, 0]
    lowest, highest = image.min(), image.max()
    return bool(
        black - 0.05 <= lowest <= black + 0.25
        and black + 1.4 <= highest <= white + 0.05
        and image.median() <= black + 1.1
    )


def _judge_pixels(image: torch.Tensor, right: torch.Tensor, file: str) -> None:
    """Any way of making the picture larger, or its paper darker, will do: likeness, brightness, contrast count."""
    likeness = _likeness(image, right)
    if likeness < -0.5:
        raise Wrong(
            "paper_and_ink",
            "Your pictures are negatives of what the backbone was trained on: in MNIST, is ink light or dark?",
        )
    if not likeness > 0.8:
        raise Wrong("wrong_picture", f"The pixels of sample {file} are not those of its file.")
    shift, contrast = (image.mean() - right.mean()).abs().item(), (image.std() / right.std()).item()
    if (shift > 0.2 or not 0.7 < contrast < 1.4) and not _from_black_to_ink(image):
        raise Wrong(
            "scaling",
            f"The pixels of {file} have mean {image.mean():.2f} and deviation {image.std():.2f}; scaled as the "
            f"backbone was trained, they have {right.mean():.2f} and {right.std():.2f}.",
        )
