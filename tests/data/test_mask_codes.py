"""What mask files say: numbers and colours become classes, and what means nothing is named with its file."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segjax.data.mask_codes import ColourCode, IdCode, colour_code, read_colours, read_label_map
from segjax.data.source import DataError
from segjax.data.voc import VOC_CLASSES
from segjax.types import IGNORE

SKY, ROAD, VOID = (128, 128, 128), (128, 64, 128), (0, 0, 0)


def file_of(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    file.seek(0)
    return file


def read(image, code, size=None):
    return read_label_map(image if isinstance(image, io.BytesIO) else file_of(image), code, where="'a.png'", size=size)


def grey_png(pixels, bits):
    """A grey PNG of `bits` bits a pixel, which Pillow cannot write: optimisers of file sizes make such."""
    height, width = pixels.shape
    each = ((pixels[..., None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(each, axis=1))

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + content)


@pytest.fixture
def ids(rng):
    return rng.integers(0, 12, (30, 41)).astype(np.uint8)


def test_numbers_become_classes_and_void_does_not_count(ids):
    found = read(Image.fromarray(ids), IdCode(tuple(range(11)), ignore=(11,)))
    np.testing.assert_array_equal(found, np.where(ids == 11, IGNORE, ids))
    shuffled = tuple(np.random.default_rng(1).permutation(12).tolist())
    expected = np.array([shuffled.index(i) for i in range(12)])[ids]
    np.testing.assert_array_equal(read(Image.fromarray(ids), IdCode(shuffled)), expected)
    halves = IdCode(tuple(range(12)), classes=tuple(i // 2 for i in range(12)))
    np.testing.assert_array_equal(read(Image.fromarray(ids), halves), ids // 2)


def test_of_a_palette_image_the_indices_count(ids):
    image = Image.fromarray(ids, "L")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert image.mode == "P"
    np.testing.assert_array_equal(read(image, IdCode(tuple(range(12)))), ids)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_numbers_of_any_depth(rng, bits):
    pixels = rng.integers(0, 2**bits, (7, 13)).astype(np.uint8)
    known = tuple(range(2**bits - (bits == 8)))
    np.testing.assert_array_equal(read(grey_png(pixels, bits), IdCode(known, () if bits < 8 else (255,))), pixels)


def test_sixteen_bits_and_three_equal_channels(ids):
    code = IdCode(tuple(range(12)))
    np.testing.assert_array_equal(read(Image.fromarray(ids.astype(np.uint16)), code), ids)
    np.testing.assert_array_equal(read(Image.fromarray(np.stack([ids] * 3, axis=-1)), code), ids)


def test_ids_of_no_class_are_named_with_their_counts(ids):
    ids[:2] = 40
    ids[3, :5] = 77
    message = r"'a.png' has ids of no class: 40 \(82 pixels\), 77 \(5 pixels\); known are 0 to 11 and to ignore: 255"
    with pytest.raises(DataError, match=message):
        read(Image.fromarray(ids), IdCode(tuple(range(12))))
    with pytest.raises(DataError, match=r"300 \(1 pixels\); known are 0, 1\."):
        read(Image.fromarray(np.array([[0, 1, 300]], np.uint16)), IdCode((0, 1), ()))


def test_colours_become_classes(rng):
    table = ((SKY, 0), (ROAD, 1), ((1, 2, 3), 0), (VOID, IGNORE))
    which = rng.integers(0, 4, (20, 30))
    image = Image.fromarray(np.array([colour for colour, _ in table], np.uint8)[which])
    np.testing.assert_array_equal(read(image, ColourCode(table)), np.array([0, 1, 0, IGNORE])[which])
    message = r"'a.png' has colours that the table lacks: \(1, 2, 3\) \(\d+ pixels\), \(0, 0, 0\) \(\d+"
    with pytest.raises(DataError, match=message if (which == 2).sum() >= (which == 3).sum() else "lacks"):
        read(image, ColourCode(table[:2]))


def test_colours_of_a_palette_count_where_the_table_is_of_colours(ids):
    image = Image.fromarray(ids % 2, "L")
    image.putpalette(bytes([*SKY, *ROAD]))
    np.testing.assert_array_equal(read(image, ColourCode(((SKY, 1), (ROAD, 0)))), 1 - ids % 2)


def test_a_table_of_colours_in_a_file(tmp_path):
    file = tmp_path / "label_colors.txt"
    file.write_text("128 128 128\tSky\n\n128 64 128 Road marking\n192 0 64\tSky\n0 0 0\tVoid\n")
    table = read_colours(file)
    assert table == ((SKY, "Sky"), (ROAD, "Road marking"), ((192, 0, 64), "Sky"), (VOID, "Void"))
    assert colour_code(table, ("Road marking", "Sky")).table == (
        (SKY, 1), (ROAD, 0), ((192, 0, 64), 1), (VOID, IGNORE)
    )  # fmt: skip
    with pytest.raises(DataError, match="none for the class 'Car'; it has Road marking, Sky, Void"):
        colour_code(table, ("Sky", "Car"))
    file.write_text("128 128 128 Sky\n128 640 1 Road\n")
    with pytest.raises(DataError, match="label_colors.txt', line 2: '128 640 1 Road' is not 'R G B name'"):
        read_colours(file)
    with pytest.raises(DataError, match="gone.txt' cannot be read"):
        read_colours(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (Image.new("RGB", (4, 3), (1, 2, 3)), "label map in colour", "3 channels that differ: colours and no ids"),
        (file_of(Image.new("L", (4, 3)), "JPEG"), "label map in a lossy format", "is a JPEG, which blurs ids"),
        (Image.new("L", (3, 4)), "label map of another size", "'a.png' is 3x4 pixels, its image 4x3; make them equal"),
        (io.BytesIO(b"no image"), "undecodable image", "'a.png' is not an image that can be read"),
        (Image.new("L", (4, 3), 9), "label map with pixels of no class", r"9 \(12 pixels\)"),
    ],
)
def test_files_that_cannot_be_used(image, kind, message):
    with pytest.raises(DataError, match=message) as error:
        read(image, IdCode((0, 1)), size=(3, 4))
    assert error.value.kind == kind


def test_a_file_that_is_cut_short():
    whole = file_of(Image.fromarray(np.random.default_rng(0).integers(0, 2, (50, 50)).astype(np.uint8))).getvalue()
    with pytest.raises(DataError, match="'a.png' cannot be decoded"):
        read(io.BytesIO(whole[: len(whole) // 2]), IdCode((0, 1)))


@pytest.mark.parametrize("make", [
    lambda: IdCode((0, 0)),
    lambda: IdCode((0, 255)),
    lambda: IdCode((0, 256)),
    lambda: IdCode(()),
    lambda: IdCode((0, 1), classes=(0,)),
    lambda: IdCode((0, 1), classes=(0, 255)),
    lambda: ColourCode(()),
    lambda: ColourCode(((SKY, 0), (SKY, 1))),
    lambda: colour_code(((SKY, "sky"),), ()),
])  # fmt: skip
def test_codes_that_mean_nothing(make):
    with pytest.raises(ValueError):
        make()


def test_codes_travel(ids):
    code = IdCode(tuple(range(12)))
    read(Image.fromarray(ids), code)
    again = pickle.loads(pickle.dumps(code))
    assert again == code and hash(again) == hash(code)
    np.testing.assert_array_equal(read(Image.fromarray(ids), again), ids)


def test_all_255_classes_can_be_told_apart():
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read(Image.fromarray(ids), IdCode(tuple(range(255)))), ids)
    assert len(VOC_CLASSES) == 20
