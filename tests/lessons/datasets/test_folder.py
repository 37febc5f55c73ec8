"""A folder of images with a label table: read lazily, and refused with the names of what is wrong."""

import pytest
import torch

from torchcourse.lessons.datasets.folder import ImageTable, read_image, write_images

PIXELS = torch.arange(6 * 4 * 5).reshape(6, 4, 5).to(torch.uint8)


@pytest.fixture
def folder(tmp_path):
    rows = [{"file": f"{n}.{'png' if n % 2 else 'pgm'}", "label": "cat" if n < 2 else "ant"} for n in range(6)]
    write_images(tmp_path / "images", PIXELS, rows)
    return tmp_path / "images"


def edit(folder, old, new):
    table = folder / "labels.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def test_images_and_labels_come_back(folder):
    data = ImageTable(folder)
    assert data.classes == ["ant", "cat"]
    assert data.labels.tolist() == [1, 1, 0, 0, 0, 0]
    for number, (image, label) in enumerate(data):
        torch.testing.assert_close(image, PIXELS[number][None] / 255)
        assert label == data.labels[number]
    assert number == 5


def test_an_image_is_opened_when_it_is_asked_for(folder):
    data = ImageTable(folder, transform=lambda image: 1 - image)
    (folder / "3.png").write_bytes(b"no image any more")
    torch.testing.assert_close(data[2][0], 1 - PIXELS[2][None] / 255)
    with pytest.raises(ValueError, match=r"3\.png cannot be read"):
        data[3]


def test_a_file_that_is_cut_short_is_named(folder):
    path = folder / "1.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"1\.png cannot be read"):
        read_image(path)


def test_other_columns_and_given_classes(folder):
    edit(folder, "file,label", "name,kind")
    data = ImageTable(folder, file_column="name", label_column="kind", classes=["dog", "cat", "ant"])
    assert data.labels.tolist() == [1, 1, 2, 2, 2, 2]


def test_a_table_saved_by_a_spreadsheet_is_read(folder):
    table = folder / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(ImageTable(folder)) == 6


@pytest.mark.parametrize(
    ("old", "new", "error", "sentence"),
    [
        ("file,label", "file,species", ValueError, "columns 'file', 'species', but not 'label'"),
        ("5.png", "7.png", FileNotFoundError, "1 of the 6 files .* '7.png'"),
        ("5.png", "4.pgm", ValueError, "names '4.pgm' more than once"),
        ("5.png,ant", "5.png,", ValueError, "no label for '5.png'"),
    ],
)
def test_a_wrong_table_is_refused_when_the_data_set_is_made(folder, old, new, error, sentence):
    edit(folder, old, new)
    with pytest.raises(error, match=sentence):
        ImageTable(folder)


def test_a_missing_or_empty_table_and_an_unknown_class_are_refused(folder):
    with pytest.raises(FileNotFoundError, match=r"no label table other\.csv"):
        ImageTable(folder, "other.csv")
    with pytest.raises(ValueError, match="labels 'ant', which are not among"):
        ImageTable(folder, classes=["cat"])
    (folder / "labels.csv").write_text("file,label\n")
    with pytest.raises(ValueError, match="no rows"):
        ImageTable(folder)


def test_many_missing_files_are_counted_and_five_named(folder):
    for path in folder.glob("*.p?m"):
        path.unlink()
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"6 of the 6 .*'4\.pgm' and 1 more"):
        ImageTable(folder)
