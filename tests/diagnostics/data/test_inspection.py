"""What `gradgauge data check` finds."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diagnostics.data import inspection
from diagnostics.data.bad_data import BadData
from diagnostics.data.inspection import PUBLISHED, Finding, checked, described
from diagnostics.data.library import _on_disk, load
from tests.diagnostics.data import made


def check(folder: Path, expect: str | None = None, content: str | None = None, **how: object) -> dict[str, Finding]:
    _on_disk.cache_clear()
    data, done = load(str(folder), **how), []  # type: ignore[arg-type]
    found = checked(data, data.source.read, expect, content, done.append)
    assert done[-1] == data.source.shape[0]
    return {finding.what: finding for finding in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made.cifar_fs(tmp_path / "set")


def test_a_good_set_is_good(folder: Path):
    found = check(folder)
    assert all(finding.good for finding in found.values())
    assert found["images"].value == "28 of 3 x 32 x 32, 86,016 bytes"
    assert found["split validation"].value == "2 classes, 8 images, 4 each"
    assert found["images shared by splits"].value == "none"
    assert len(found["content"].value) == 64
    assert described(load(str(folder)))[0] == Finding("layout", "class folders")


def test_the_content_depends_on_pixels_classes_and_splits_alone(folder: Path, tmp_path: Path):
    content = check(folder)["content"].value
    for path in (folder / "data" / "apple").iterdir():  # other names, other times, another file format
        with Image.open(path) as image:
            image.save(path.with_name(f"z{9 - int(path.stem)}.bmp"))
        path.unlink()
    assert check(folder)["content"].value == content
    assert check(folder, content=content)["content"].good
    moved = tmp_path / "moved"
    for name in ("train", "val", "test"):
        for kind in (folder / "splits" / "bertinetto" / f"{name}.txt").read_text().split():
            shutil.copytree(folder / "data" / kind, moved / name / kind)
    assert check(moved)["content"].value == content  # another layout of the same
    with Image.open(moved / "val" / "elephant" / "00000.png") as image:
        pixels = np.array(image)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(moved / "val" / "elephant" / "00000.png")
    changed = check(moved, content=content)["content"]
    assert not changed.good and changed.value != content and content in changed.advice
    (folder / "data" / "apple").rename(folder / "data" / "apricot")
    lists = folder / "splits" / "bertinetto" / "train.txt"
    lists.write_text(lists.read_text().replace("apple", "apricot"))
    assert check(folder)["content"].value != content


def test_an_image_in_two_splits_is_a_fault_and_twice_in_one_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection, "PIECE", 3)
    source = folder / "data" / "apple" / "00000.png"
    shutil.copy(source, folder / "data" / "bear" / "copy.png")
    found = check(folder)
    assert found["images shared by splits"].good
    assert found["images twice within a split"].value.startswith("1: ")
    with Image.open(source) as image:
        image.save(folder / "data" / "girl" / "other.bmp")  # the same pixels in another format
    found = check(folder)
    assert not found["images shared by splits"].good
    value = found["images shared by splits"].value
    assert value.startswith("1: ") and value.endswith("girl/other.bmp") and "apple/00000.png" in value


def test_many_shared_images_are_counted_and_some_named(folder: Path):
    for kind in ("apple", "bear"):
        for place in range(4):
            shutil.copy(folder / "data" / kind / f"{place:05d}.png", folder / "data" / "fox" / f"{kind}{place}.png")
    value = check(folder)["images shared by splits"].value
    assert value.startswith("8: ") and value.endswith("; ...") and value.count(" = ") == inspection.NAMED


def test_counts_are_compared_with_those_published(folder: Path, monkeypatch: pytest.MonkeyPatch):
    found = check(folder, expect="cifar-fs")["counts of cifar-fs"]
    assert not found.good and "expected train 64 classes of 38400 images" in found.advice
    small = {"train": (3, 12), "validation": (2, 8), "test": (2, 8)}
    monkeypatch.setitem(PUBLISHED, "cifar-fs", small)  # type: ignore[arg-type]
    assert check(folder, expect="cifar-fs")["counts of cifar-fs"].good
    (folder / "data" / "fox" / "00003.png").unlink()
    assert not check(folder, expect="cifar-fs")["counts of cifar-fs"].good
    with pytest.raises(ValueError, match="unknown data set 'cifarfs'; did you mean 'cifar-fs'"):
        check(folder, expect="cifarfs")


def test_the_published_counts_add_up():
    """Ren et al. 2018: tieredImageNet has 608 classes and 779,165 images; Omniglot 1623 characters of 20 drawings."""
    totals = {name: np.sum(list(splits.values()), axis=0).tolist() for name, splits in PUBLISHED.items()}
    assert totals["tiered-imagenet"] == [608, 779165]
    assert totals["omniglot"] == totals["omniglot-lake"] == [1623, 32460]
    assert totals["mini-imagenet"] == totals["cifar-fs"] == [100, 60000]


def test_every_image_that_cannot_be_read_is_found_and_the_first_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection, "PIECE", 5)
    for name in ("fox/00002", "can/00001", "elephant/00003"):
        path = folder / "data" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadData, match=r"00\d\d\d.png: expected a whole image.*; 3 of 28 images cannot be read"):
        check(folder)


def test_splits_without_names_of_classes_are_told(tmp_path: Path):
    for place, split in enumerate(("train", "test")):
        np.savez(tmp_path / f"{split}.npz", images=made.images_of(2, 2, first=4 * place), labels=[0, 0, 1, 1])
    assert "not known" in check(tmp_path)["classes shared by splits"].value
    np.savez(tmp_path / "test.npz", images=made.images_of(2, 2, first=3), labels=[0, 0, 1, 1])
    assert not check(tmp_path)["images shared by splits"].good


def test_the_glyphs_are_a_data_set_like_others():
    data = load("glyphs")
    found = {finding.what: finding for finding in checked(data, data.source.read, None, None, lambda done: None)}
    assert all(finding.good for finding in found.values())
    assert found["images twice within a split"].value == "none"
    assert found["split train"].value.endswith("4 to 16 each")
