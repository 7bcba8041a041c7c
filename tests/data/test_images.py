"""Image decoding and the safety of file names."""

import os
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segjax.data.images import FileFault, Folder, decode, read_size
from segjax.data.source import DataError


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 7, 3), np.uint8)


def test_rgb_is_returned_as_stored(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png", image_id=1, size=(5, 7))
    np.testing.assert_array_equal(image, pixels)
    assert image.dtype == np.uint8 and image.flags.writeable and read_size(tmp_path / "a.png") == (5, 7)


def test_grey_is_repeated_and_alpha_dropped(tmp_path, pixels):
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([pixels, grey])).save(tmp_path / "rgba.png")
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(pixels[..., 1])]).save(tmp_path / "la.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png"), np.dstack([grey] * 3))
    np.testing.assert_array_equal(decode(tmp_path / "la.png"), np.dstack([grey] * 3))
    np.testing.assert_array_equal(decode(tmp_path / "rgba.png"), pixels)


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])], ids=["opaque", "one index", "alpha table"])
def test_palette_images_are_looked_up(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image = Image.frombytes("P", image.size, image.tobytes())
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "p.png", **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(decode(tmp_path / "p.png"), colours[None])


def test_cmyk_white_is_white(tmp_path):
    Image.new("CMYK", (4, 3), (0, 0, 0, 0)).save(tmp_path / "c.jpg")
    np.testing.assert_array_equal(decode(tmp_path / "c.jpg"), np.full((3, 4, 3), 255))


def test_sixteen_bits_keep_the_high_byte(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(decode(tmp_path / name)[..., 0], [[0, 0, 1, 128, 255]])


def test_thirty_two_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match=r"f\.tiff.*'F'.*convert it"):
        decode(tmp_path / "f.tiff")


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.new("RGB", (8, 4)).save(tmp_path / "e.jpg", exif=exif)
    assert decode(tmp_path / "e.jpg", size=(4, 8)).shape == (4, 8, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_a_truncated_file_is_named(tmp_path, rng, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFault, match=rf"cut\.{suffix}.*image 17.*cannot be decoded") as caught:
        decode(path, image_id=17)
    assert caught.value.kind == "undecodable image"


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg.*image abc.*not an image"):
        decode(tmp_path / "x.jpg", image_id="abc")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFault, match=r"gone\.jpg.*image 3.*does not exist"):
        decode(tmp_path / "gone.jpg", image_id=3)


def test_another_size_than_stated_is_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(FileFault, match=r"a\.png.*image 4.*7x5.*state 5x7") as caught:
        decode(tmp_path / "a.png", image_id=4, size=(7, 5))
    assert caught.value.kind == "image size differs from the annotations"


@pytest.mark.parametrize("side", [9_500, 60_000], ids=["Pillow would warn", "Pillow would raise"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(FileFault, match=r"bomb\.png.*image 5.*pixels") as caught:
        decode(path, image_id=5)
    assert caught.value.kind == "image too large"


def test_a_fault_survives_pickling():
    fault = pickle.loads(pickle.dumps(FileFault("undecodable image", "no")))
    assert (fault.kind, str(fault)) == ("undecodable image", "no")


@pytest.fixture
def folder(tmp_path):
    """A folder with a.jpg and sub/b.jpg, and a secret beside it."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for file in (root / "a.jpg", root / "sub" / "b.jpg", tmp_path / "secret.jpg"):
        file.write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", ["a.jpg", "sub/b.jpg", "./a.jpg", "sub//b.jpg"])
def test_files_below_the_folder_are_found(folder, name):
    found = Folder(folder).find(name)
    assert os.path.samefile(found, folder / name) and os.path.isabs(found)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "sub/../../secret.jpg", "sub/../a.jpg", "..\\secret.jpg", "C:/a.jpg"]
)
def test_names_that_climb_out_are_refused(folder, name):
    with pytest.raises(FileFault, match="leads out of") as caught:
        Folder(folder).find(name)
    assert caught.value.kind == "file outside the data folder"


def test_an_absolute_name_is_refused_even_to_the_folder_itself(folder):
    with pytest.raises(FileFault, match="leads out of"):
        Folder(folder).find(str(folder / "a.jpg"))


def test_links_may_point_inside_but_not_outside(folder):
    (folder / "inside.jpg").symlink_to(folder / "a.jpg")
    (folder / "outside.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "up").symlink_to(folder.parent)
    files = Folder(folder)
    assert os.path.samefile(files.find("inside.jpg"), folder / "a.jpg")
    for name in ("outside.jpg", "up/secret.jpg"):
        with pytest.raises(FileFault, match=f"'{name}' leads out of"):
            files.find(name)
    with pytest.raises(FileFault, match=r"'dangling\.jpg' is not in"):
        files.find("dangling.jpg")


def test_the_folder_itself_may_be_a_link(folder):
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert os.path.samefile(Folder(link).find("a.jpg"), folder / "a.jpg")


@pytest.mark.parametrize("name", ["b.jpg", "sub", "nowhere/a.jpg", "", "a\0.jpg", None, 3])
def test_what_is_not_a_file_is_missing(folder, name):
    with pytest.raises(FileFault) as caught:
        Folder(folder).find(name)
    assert caught.value.kind == "missing image file"


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"image folder .*nowhere"):
        Folder(tmp_path / "nowhere")
