"""Image files, whole and broken, and zips that were made to deceive."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diagnostics.data import decoding, listing
from diagnostics.data.bad_data import BadData
from diagnostics.data.decoding import LARGEST, decoded, measured
from diagnostics.data.library import load
from tests.diagnostics.data import made


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims that size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


COLOUR = made.pixels(0, 12, 12, 3)


@pytest.mark.parametrize(
    "mode, channels", [("1", 1), ("L", 1), ("RGB", 3), ("P", 3), ("CMYK", 3), ("YCbCr", 3)]
)  # fmt: skip
def test_every_mode_of_eight_bits_is_read(mode: str, channels: int):
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    image = Image.fromarray(COLOUR).convert(mode)
    content = saved(image, kind)
    assert measured(content, "x") == (channels, 12, 12)
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    found = decoded(content, "x", channels, 12)
    np.testing.assert_array_equal(found, expected[None] if channels == 1 else expected.transpose(2, 0, 1))


def test_grey_among_colour_gets_three_equal_channels_and_colour_among_grey_is_refused():
    grey = made.pixels(1, 12, 12)
    found = decoded(made.png(grey), "x", 3, 12)
    assert found.shape == (3, 12, 12)
    for channel in found:
        np.testing.assert_array_equal(channel, grey)
    with pytest.raises(BadData, match="here.png: expected a grey image like the others .* found mode RGB"):
        decoded(made.png(COLOUR), "here.png", 1, 12)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "I", "F"])
def test_other_channel_counts_and_depths_are_refused(mode: str):
    if mode in ("RGBA", "LA"):
        content = saved(Image.fromarray(COLOUR).convert(mode))
    else:
        content = saved(Image.new(mode, (12, 12)), "TIFF")
    for read in (lambda: measured(content, "here.png"), lambda: decoded(content, "here.png", 3, 12)):
        with pytest.raises(BadData, match=r"here.png: expected a grey or colour image of 8 bits .* found mode"):
            read()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "expected an image .* found an empty file"),
        (b"<html>not found</html>", "expected an image .* found none of these"),
        (made.png(COLOUR)[:60], "expected a whole image, found a damaged one"),
        (
            saved(Image.fromarray(made.pixels(0, 64, 64, 3)), "JPEG")[:-700],
            "expected a whole image, found a damaged one",
        ),
        (made.png(COLOUR)[:20], "expected an image"),
        (claiming(12, 12), "expected a whole image, found a damaged one"),
        (claiming(2**13, 2**13 + 1), "expected at most 67108864 pixels, found 8192 x 8193; scale it down"),
        (claiming(10**4, 10**4), "expected at most 67108864 pixels"),
        (claiming(10**6, 10**6), "expected at most 67108864 pixels, found many more"),
    ],
)
def test_damaged_images_and_bombs_are_named(content: bytes, message: str):
    with pytest.raises(BadData, match=f"^here.png: {message}") as caught:
        decoded(content, "here.png", 3, 12)
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


def test_the_limit_is_a_limit_on_pixels_and_below_that_of_pillow(monkeypatch: pytest.MonkeyPatch):
    assert Image.MAX_IMAGE_PIXELS is not None and LARGEST < Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(decoding, "LARGEST", 144)
    decoded(made.png(COLOUR), "x", 3, 12)
    monkeypatch.setattr(decoding, "LARGEST", 143)
    with pytest.raises(BadData, match="at most 143 pixels, found 12 x 12"):
        decoded(made.png(COLOUR), "x", 3, 12)


def test_a_corrupt_image_in_a_set_is_named_with_its_path(tmp_path: Path):
    data = load(str(made.class_folders(tmp_path, {"a": 2, "b": 2})))
    bad = tmp_path / "b" / "00001.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    data.source.read(np.array([0, 1, 2]))
    with pytest.raises(BadData, match=f"{bad}: expected a whole image"):
        data.source.read(np.array([2, 3]))
    bad.unlink()
    with pytest.raises(BadData, match=f"{bad}: expected a file that can be read, found No such file"):
        data.source.read(np.array([3]))


# Zips.


def zipped(path: Path, fill: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/0.png", made.png(COLOUR))
        fill(archive)
    return path


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("a/link.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def encrypted(archive: zipfile.ZipFile) -> None:
    archive.writestr("a/1.png", b"secret")
    archive.infolist()[-1].flag_bits |= 1


@pytest.mark.parametrize(
    "fill, message",
    [
        (lambda z: z.writestr("../outside.png", b""), "found a path that leads outside: '../outside.png'"),
        (lambda z: z.writestr("a/../../outside.png", b""), "found a path that leads outside"),
        (lambda z: z.writestr("/etc/outside.png", b""), "found a path that leads outside"),
        (lambda z: z.writestr("a\\..\\outside.png", b""), "found a path that leads outside"),
        (lambda z: z.writestr("C:/outside.png", b""), "found a path that leads outside"),
        (lambda z: z.writestr("../readme", b""), "found a path that leads outside"),
        (link, "found a link: 'a/link.png'"),
        (encrypted, "found an encrypted member: 'a/1.png'"),
    ],
)
def test_unsafe_zips_are_refused_whole(fill: Callable[[zipfile.ZipFile], None], message: str, tmp_path: Path):
    path = zipped(tmp_path / "set.zip", fill)
    with pytest.raises(BadData, match=message) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}: expected plain files in the zip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.zip"]


def test_a_member_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listing, "LARGEST_FILE", 10_000)

    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("a/1.png", b"\0" * 10_001, zipfile.ZIP_DEFLATED)

    with pytest.raises(BadData, match="found 10001 bytes in one member: 'a/1.png'"):
        load(str(zipped(tmp_path / "set.zip", fill)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_are_damaged_or_ambiguous_are_refused(tmp_path: Path):
    path = tmp_path / "cut.zip"
    zipped(path, lambda z: None)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadData, match=f"{path}: expected a zip, found a damaged one"):
        load(str(path))
    twice = zipped(tmp_path / "twice.zip", lambda z: z.writestr("a/0.png", made.png(COLOUR)))
    with pytest.raises(BadData, match="expected each name once, found a/0.png twice"):
        load(str(twice))
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(BadData, match=f"{empty}: expected images"):
        load(str(empty))


def test_a_flipped_byte_in_a_zip_is_found_and_named(tmp_path: Path):
    path = zipped(tmp_path / "set.zip", lambda z: z.writestr("b/0.png", made.png(made.pixels(5, 12, 12, 3))))
    content = bytearray(path.read_bytes())
    content[content.index(b"b/0.png") + 60] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadData, match=f"{path}: expected a whole zip, found b/0.png damaged"):
        load(str(path))
