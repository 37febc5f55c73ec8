"""A folder of images with a label table: read lazily, and refused with the names of what is wrong."""

import io
import struct
import unicodedata
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

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


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_sixteen_bits_keep_their_steps(tmp_path, name):
    pixels = np.random.default_rng(0).integers(1000, 60000, (8, 9), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / name)
    should = torch.from_numpy(pixels.astype(np.float32) / 65535)[None]
    torch.testing.assert_close(read_image(tmp_path / name), should, rtol=0, atol=1e-6)


def test_floats_from_0_to_1_are_kept_and_unknown_ranges_are_refused(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[0.25, 1.0]], np.float32)).save(path)
    assert read_image(path).tolist() == [[[0.25, 1.0]]]
    for pixels in (
        np.array([[0.0, 255.0]], np.float32),
        np.array([[0.0, np.nan]], np.float32),
        np.array([[0, 70000]], np.int32),
    ):
        Image.fromarray(pixels).save(path)
        with pytest.raises(ValueError, match=r"x\.tif .*0 to 1"):
            read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_a_picture_stands_as_its_exif_data_say(tmp_path, name, orientation):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :16] = 255  # the light quarter lies above on the left
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    image = read_image(tmp_path / name)[0]
    turned = np.stack([pixels] * 8)[orientation - 1]
    views = [
        turned,
        turned[:, ::-1],
        turned[::-1, ::-1],
        turned[::-1],
        turned.T,
        turned.T[:, ::-1],
        turned[::-1, ::-1].T,
        turned.T[::-1],
    ]
    should = torch.from_numpy(views[orientation - 1].copy()).float() / 255
    assert image.shape == should.shape
    assert (image - should).abs().max() < 0.1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_eight_bits_become_grey(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode in ("PA", "CMYK", "YCbCr") else "x.png")
    grey = Image.fromarray(np.full((4, 4), 255, np.uint8))
    grey = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "P") else grey.convert(mode)
    try:
        grey.save(path)
    except OSError:
        pytest.skip(f"Pillow writes no file of mode {mode}")
    torch.testing.assert_close(read_image(path), torch.ones(1, 4, 4), rtol=0, atol=0.02)


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0, 3] = 255  # a black point; the rest is transparent black
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [[[0.0, 1.0], [1.0, 1.0]]]


def bomb():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some of the damage before it raises
@pytest.mark.parametrize("form", ["png", "ppm", "jpeg", "gif", "tiff", "bmp", "webp", "tga", "ico", "pcx", "jpeg2000"])
def test_a_damaged_image_is_a_value_error_or_an_image(tmp_path, form):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if form in ("png", "jpeg", "tiff", "webp") else {}
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(file, form, **options)
    good, draw, path = file.getvalue(), np.random.default_rng(0), tmp_path / "x"
    broken = [bomb(), b"", *(good[:size] for size in range(0, len(good), 1 + len(good) // 25))]
    for _ in range(80):
        content = bytearray(good)
        for _ in range(draw.integers(1, 6)):
            content[draw.integers(min(len(good), 120))] = draw.integers(256)
        broken.append(bytes(content))
    refusals = []
    for content in broken:
        path.write_bytes(content)
        try:
            image = read_image(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert image.dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1
    assert len(refusals) > 10
    assert all(text.startswith("x ") for text in refusals)


def test_a_table_that_is_not_utf8_is_refused_with_the_remedy(folder):
    table = folder / "labels.csv"
    text = table.read_text().replace("cat", "고양이")
    table.write_bytes(text.encode("cp949"))
    with pytest.raises(ValueError, match=r"labels\.csv is not utf-8.*encoding='cp949'"):
        ImageTable(folder)
    assert ImageTable(folder, encoding="cp949").classes == ["ant", "고양이"]
    with pytest.raises(ValueError, match="no encoding 'cp9490'"):
        ImageTable(folder, encoding="cp9490")
    table.write_bytes(text.encode("utf-16"))  # what Excel calls "Unicode text": the byte order mark says so
    assert ImageTable(folder).classes == ["ant", "고양이"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,label\n0.pgm,a,b\n", "Row 2 of labels.csv has 3 fields and its header 2"),
        ("file,label,label\n0.pgm,a,b\n", "'label' twice"),
        ("file,label\n0.pgm,a\n,b\n", "Row 3 of labels.csv has nothing in the column 'file'"),
        ("file,label\n0.pgm\n", "no label for '0.pgm'"),
        ("file,label\n0.pgm," + "x" * 140_000, "labels.csv cannot be read as a table"),
        ("file,label\n0.pgm,a\n./0.pgm,a\n", "more than once"),
        ('file,label\n0.pgm,"a\n1.png,b\n', "quotation mark left open"),
        ("file;label\n0.pgm;a;b\n", "with a semicolon in it"),
    ],
)
def test_rows_that_do_not_fit_the_header_are_refused(folder, content, sentence):
    (folder / "labels.csv").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        ImageTable(folder)


def test_blanks_empty_rows_and_separators_of_windows_do_no_harm(folder):
    (folder / "new").mkdir()
    (folder / "1.png").rename(folder / "new" / "1.png")
    (folder / "labels.csv").write_text("file, label \n0.pgm, cat\nnew\\1.png,cat \n,\n")
    data = ImageTable(folder)
    assert data.classes == ["cat"]
    torch.testing.assert_close(data[1][0], PIXELS[1][None] / 255)


@pytest.mark.parametrize("mark", ";\t")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_semicolons_and_tabs_of_excel_are_read(folder, mark, encoding):
    """Where a comma is the decimal point Excel writes semicolons, and tabs into what it calls Unicode text."""
    text = (folder / "labels.csv").read_text().replace(",", mark)
    before = ImageTable(folder)
    (folder / "labels.csv").write_text(text, encoding=encoding)
    assert ImageTable(folder).files == before.files
    assert torch.equal(ImageTable(folder).labels, before.labels)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b\x08", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_an_archive_or_a_file_of_excel_is_no_table(folder, start):
    (folder / "labels.csv").write_bytes(start + bytes(range(128)))
    with pytest.raises(ValueError, match="is an archive or a file of Excel"):
        ImageTable(folder)


@pytest.mark.parametrize(("disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_both_forms_of_a_korean_name_are_one(folder, disk, written):
    def form(kind, text):
        return unicodedata.normalize(kind, text)

    (folder / form(disk, "고양이")).mkdir()
    (folder / "1.png").rename(folder / form(disk, "고양이") / form(disk, "하나.png"))
    lines = [form(written, "고양이/하나.png") + "," + form("NFC", "고양이"), "0.pgm," + form("NFD", "고양이")]
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]))
    data = ImageTable(folder, classes=[form("NFD", "고양이")])
    assert data.labels.tolist() == [0, 0]
    torch.testing.assert_close(data[0][0], PIXELS[1][None] / 255)


def test_links_and_absolute_paths_are_followed(folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (folder / "1.png").rename(other / "1.png")
    (folder / "link").symlink_to(other)
    (folder / "circle").symlink_to(folder)
    for name in ("link/1.png", "../elsewhere/1.png", str(other / "1.png"), "link\\1.png"):
        (folder / "labels.csv").write_text(f"file,label\n{name},a\n")
        torch.testing.assert_close(ImageTable(folder)[0][0], PIXELS[1][None] / 255)
    (folder / "labels.csv").write_text("file,label\nlink,a\n")
    with pytest.raises(FileNotFoundError, match="'link'"):
        ImageTable(folder)


def test_pixels_that_are_no_bytes_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W\]"):
        write_images(tmp_path, PIXELS / 255, [{"file": f"{n}.png", "label": 0} for n in range(6)])


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a.png", "a.png"], "'a.png'.* one image would replace the other"),
        (["a.png", "A.PNG"], "'A.PNG'.* one image would replace the other"),
        (["a.png", "../b.png"], "does not lie in the folder"),
        (["a.png", "/b.png"], "does not lie in the folder"),
        (["a.png", "b.jpg"], "would not keep all pixels"),
        (["a.png"], "2 images and 1 rows"),
    ],
)
def test_names_under_which_images_would_be_lost_are_refused_before_any_is_written(tmp_path, names, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_images(tmp_path / "new", PIXELS[:2], [{"file": name, "label": 0} for name in names])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="A row has the columns"):
        write_images(tmp_path, PIXELS[:2], [{"file": "a.png", "label": 0}, {"file": "b.png", "writer": 0}])


def test_a_16_bit_png_with_a_transparent_value_shows_it_white(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head, rows = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0), b"\0" + struct.pack(">2H", 700, 0x8000)
    parts = [(b"IHDR", head), (b"tRNS", struct.pack(">H", 700)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    assert read_image(tmp_path / "deep.png").flatten().tolist() == [1.0, pytest.approx(0x8000 / 65535)]


def test_images_are_written_into_the_folders_that_their_names_tell(tmp_path):
    write_images(tmp_path, torch.zeros(1, 2, 2, dtype=torch.uint8), [{"file": "반/고양이.png", "label": "x"}])
    assert len(ImageTable(tmp_path)) == 1
