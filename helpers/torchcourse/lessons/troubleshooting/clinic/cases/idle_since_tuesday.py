"""Patient: unreadable files are left out of the images but not of the labels, which are off by one from there on."""

import tempfile
from pathlib import Path

import torch
from IPython.display import display
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.errors import still_at
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, expect_pair, numbers_of_images
from torchcourse.lessons.troubleshooting.clinic.program import Program

SHOWN = 10  # images at once


def evidence(program: Program) -> None:
    images, labels = _loaded(program, 500, (41,))

    def draw(first: int) -> Figure:
        figure, axes = figures.new(9, 1.7, ncols=SHOWN)
        for axis, position in zip(axes, range(first, first + SHOWN), strict=True):
            axis.imshow(images[position, 0], cmap="gray_r")
            axis.set_xlabel(f"label {labels[position]}")
            axis.set(xticks=[], yticks=[])
        figure.suptitle(f"Images {first} to {first + SHOWN - 1} of {len(images)}, with the labels they train under")
        return figure

    def words(first: int) -> str:
        digits = ", ".join(str(label) for label in labels[first : first + SHOWN].tolist())
        return f"The images {first} to {first + SHOWN - 1}; the labels below them are {digits}."

    display(figures.explorer(draw, alt=words, first=(0, len(images) - SHOWN, 0)))


def judge(program: Program, seed: int) -> str:
    """Load two folders with unreadable files at other places, and compare each pair with what was exported."""
    count = 120 + 10 * (seed % 5)
    places = (41 + seed, count - 30), (0, 17 + 2 * seed, 18 + 2 * seed, count - 1)
    for share, unreadable in zip((0.0, 0.5), places, strict=True):
        _compare(*_loaded(program, count, unreadable, share), count, unreadable)
    return (
        "Healed: in two folders, with unreadable files in front, in a row and at the end, each scan has its own label."
    )


def _loaded(
    program: Program, count: int, unreadable: tuple[int, ...], share: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    with tempfile.TemporaryDirectory() as name:
        program.export(Path(name), count, ())
        whole = _contents(Path(name))
        program.export(Path(name), count, unreadable)
        if share:  # such a file can be opened, and its pixels cannot be read
            for file in (f"{number:04}.png" for number in unreadable):
                Path(name, file).write_bytes(whole[file][: int(share * len(whole[file]))])
        before = _contents(Path(name))
        try:
            with called_with(
                f"a folder of {count} scans; unreadable: {', '.join(f'number {number}' for number in unreadable)}"
            ):
                given = program.load_scans(Path(name))
        except (OSError, ValueError, AssertionError, IndexError) as error:
            raise Wrong(
                "stops",
                f"{len(unreadable)} unreadable files among {count}, and loading ends in {type(error).__name__}: "
                f"{str(error)[:90]}.{still_at(error)}\nThe scanner will go on leaving such files; the other scans are "
                "wanted.",
            ) from None
        changed = [path for path, was in before.items() if _contents(Path(name)).get(path) != was]
    if changed:
        raise Wrong(
            "inputs_changed",
            f"Loading has removed or rewritten {len(changed)} files of the folder, the first of them {changed[0]}. "
            "Whoever looks for the scanner's fault needs them as they came.",
        )
    expect_pair(given, "scans and labels")
    images, labels = given
    fits = [isinstance(value, torch.Tensor) and (value.dtype, value.dim(), *value.shape[1:]) for value in given]
    if fits != [(torch.float32, 4, 1, 28, 28), (torch.int64, 1)]:
        told = [
            f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            for value in given
        ]
        raise Wrong(
            "wrong_type",
            "As before, return scans as a float32 tensor [N, 1, 28, 28] and labels as an int64 tensor [N]. You return "
            f"{' and '.join(told)}.",
        )
    return images, labels


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _compare(images: torch.Tensor, labels: torch.Tensor, count: int, unreadable: tuple[int, ...]) -> None:
    case = f"{count} files, {len(unreadable)} of them unreadable:"
    if len(images) != len(labels):
        raise Wrong("lengths_differ", f"{case} you return {len(images)} scans and {len(labels)} labels.")
    found = numbers_of_images(images, count, unreadable, "are no scan of the folder")
    wrong = (mnist()[:count][1][found] != labels).nonzero().flatten().tolist()
    if wrong:
        raise Wrong(
            "still_there",
            f"{case} scans have a wrong label, {len(wrong)} of {len(found)}, the first of them at position {wrong[0]}. "
            "Which label belongs to the scan before it, and which to the scan after it?",
        )
