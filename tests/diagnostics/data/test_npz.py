"""Arrays on disk: conversion from pickles, reading in place, the cache of decoded images, and damage to each."""

import gc
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from diagnostics.data import array_files, cache, image_cache
from diagnostics.data.array_files import StoredImages, write_npy, write_npz
from diagnostics.data.bad_data import BadData
from diagnostics.data.conversion import convert
from diagnostics.data.library import load
from tests.diagnostics.data import made

SIDE = 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADGAUGE_CACHE", str(tmp_path / "the cache"))
    return tmp_path / "the cache"


def of_class(folder: Path, name: str) -> np.ndarray:
    data = load(str(folder))
    place = data.classes.index(name)
    first = int(data.counts[:place].sum())
    return data.source.read(np.arange(first, first + int(data.counts[place])))


def test_mini_imagenets_pickles_become_a_data_set(tmp_path: Path):
    for place, split in enumerate(("train", "val", "test")):
        path = tmp_path / f"mini-imagenet-cache-{split}.pkl"
        made.mini_imagenet_pickle(path, protocol=2 + place, first=100 * place, names=(f"b{place}", f"a{place}"))
        assert convert(path, None, tmp_path / "set" / f"mini-imagenet-cache-{split}.npz") == (2 * made.DRAWINGS, 2)
    data = load(str(tmp_path / "set"))
    assert data.layout == "npz" and data.named
    assert {name: data.classes[at.start : at.stop] for name, at in data.splits.items()} == {
        "test": ("a2", "b2"), "train": ("a0", "b0"), "validation": ("a1", "b1"),
    }  # fmt: skip
    assert data.source.shape == (6 * made.DRAWINGS, 3, SIDE, SIDE)
    expected = made.images_of(2, made.DRAWINGS, first=100)[made.DRAWINGS :].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(of_class(tmp_path / "set", "a1"), expected)


@pytest.mark.parametrize("byte_strings", [True, False])
def test_cifar_fs_pickles(byte_strings: bool, tmp_path: Path):
    for split, labels in (("train", [7, 7, 3, 3]), ("test", [5, 5, 9, 9])):
        value = {"data": made.images_of(2, 2, side=32, first=labels[0]), "labels": labels}
        path = tmp_path / f"CIFAR_FS_{split}.pickle"
        path.write_bytes(made.python2(value) if byte_strings else pickle.dumps(value))
        convert(path, None, tmp_path / "set" / f"{split}.npz")
    data = load(str(tmp_path / "set"))
    assert not data.named and data.classes == ("train/3", "train/7", "test/5", "test/9")
    images = made.images_of(2, 2, side=32, first=7).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(of_class(tmp_path / "set", "train/3"), images[2:])
    np.testing.assert_array_equal(of_class(tmp_path / "set", "train/7"), images[:2])


def test_tiered_imagenets_png_lists_and_labels(tmp_path: Path):
    images = made.images_of(2, 3, side=84)
    files = [np.frombuffer(made.png(image), np.uint8)[:, None] for image in images]  # a column, as OpenCV makes them
    (tmp_path / "train_images_png.pkl").write_bytes(pickle.dumps(files, protocol=2))
    labels = {"label_specific": np.array([1, 1, 0, 0, 1, 0]), "label_specific_str": ["n09", "n02"], "label_general": []}
    (tmp_path / "train_labels.pkl").write_bytes(pickle.dumps(labels, protocol=2))
    convert(tmp_path / "train_images_png.pkl", tmp_path / "train_labels.pkl", tmp_path / "train.npz")
    data = load(str(tmp_path / "train.npz"))
    assert data.classes == ("n02", "n09") and data.counts.tolist() == [3, 3]
    np.testing.assert_array_equal(of_class(tmp_path / "train.npz", "n02"), images[[0, 1, 4]].transpose(0, 3, 1, 2))
    # The same images decoded, as others keep them.
    np.savez(tmp_path / "train_images.npz", images=images)
    convert(tmp_path / "train_images.npz", tmp_path / "train_labels.pkl", tmp_path / "again" / "train.npz")
    np.testing.assert_array_equal(of_class(tmp_path / "again", "n09"), of_class(tmp_path / "train.npz", "n09"))


@pytest.mark.parametrize(
    "value, message",
    [
        ({"image_data": np.zeros((4, 5, 5, 3), np.float32), "labels": [0] * 4}, "images .* of uint8, found float32"),
        ({"image_data": np.zeros((4, 5, 5, 2), np.uint8), "labels": [0] * 4}, r"1 or 3 channels, found .* \(5, 5, 2\)"),
        ({"image_data": np.zeros((4, 75), np.uint8), "labels": [0] * 4}, r"images .*found uint8 \(4, 75\)"),
        ({"image_data": np.zeros((4, 5, 5, 3), np.uint8), "labels": [0] * 3}, "labels or class_dict for 4 images"),
        ({"image_data": np.zeros((4, 5, 5, 3), np.uint8)}, "a dictionary with image_data; give them with --labels"),
        ({"pictures": 1}, "found a dictionary with pictures"),
        ({}, "found a dictionary with nothing"),
        (3, "found a int"),
        ([], "found a list"),
        ({"data": np.zeros((2, 5, 5, 3), np.uint8), "class_dict": {"a": [0, 2]}}, "each image in one class"),
        ({"data": np.zeros((2, 5, 5, 3), np.uint8), "class_dict": {"a": [0], "b": [0]}}, "each image in one class"),
        ({"data": np.zeros((2, 5, 5, 3), np.uint8), "class_dict": {"a": [0], "b": []}}, "each image in one class"),
        ({"data": np.zeros((2, 5, 5, 3), np.uint8), "class_dict": {"a": [0]}}, "found 1 of 2 without"),
    ],
)
def test_pickles_of_other_things_are_refused(value: object, message: str, tmp_path: Path):
    path = tmp_path / "train.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(BadData, match=f"^{path}: expected .*{message}"):
        convert(path, None, tmp_path / "train.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.pkl"]


def test_a_bad_png_in_a_list_is_named_and_nothing_is_left(tmp_path: Path):
    files = [made.png(made.pixels(place, 84, 84, 3)) for place in range(3)]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([*files[:2], files[2][:-40]]))
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"labels": [0, 1, 1]}))
    with pytest.raises(BadData, match="x.pkl, image 2: expected a whole image"):
        convert(tmp_path / "x.pkl", tmp_path / "y.pkl", tmp_path / "train.npz")
    assert sorted(os.listdir(tmp_path)) == ["x.pkl", "y.pkl"]


def npz(path: Path, **arrays: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("names", [("images", "labels"), ("image_data", "targets"), ("data", "label_specific")])
@pytest.mark.parametrize("shape", [(6, 9, 9), (6, 9, 9, 1), (6, 9, 9, 3), (6, 3, 9, 9), (6, 1, 9, 9)])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_form_of_npz_is_read(names: tuple[str, str], shape: tuple[int, ...], compressed: bool, tmp_path: Path):
    images, labels = made.pixels(0, *shape), np.array([4, 2, 4, 2, 4, 2])
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", **{names[0]: images, names[1]: labels})
    data = load(str(tmp_path / "x.npz"))
    expected = images[:, None] if images.ndim == 3 else images if shape[1] in (1, 3) else images.transpose(0, 3, 1, 2)
    assert data.source.shape == expected.shape and data.classes == ("all/2", "all/4")
    np.testing.assert_array_equal(data.source.read(np.arange(6)), expected[[1, 3, 5, 0, 2, 4]])
    np.testing.assert_array_equal(data.source.read(np.array([5, 0])), expected[[4, 1]])
    assert data.source.name(0) == f"{_file(data.source)}, image 1"


def _file(source: object) -> str:
    assert isinstance(source, StoredImages)
    return source.arrays[0].path


def test_an_uncompressed_array_is_not_copied_and_a_compressed_one_once(own_cache: Path, tmp_path: Path):
    images, labels = made.images_of(2, 2), np.array([0, 0, 1, 1])
    np.savez(tmp_path / "plain.npz", images=images, labels=labels)
    assert _file(load(str(tmp_path / "plain.npz")).source) == str(tmp_path / "plain.npz") and not own_cache.exists()
    np.savez_compressed(tmp_path / "small.npz", images=images, labels=labels)
    (copy,) = [Path(_file(load(str(tmp_path / "small.npz")).source))]
    assert copy.parent == own_cache and [copy.name] == os.listdir(own_cache)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": np.zeros((2, 5, 5), np.float64), "labels": [0, 1]}, "images of uint8, 0 to 255, found float64"),
        ({"images": np.zeros((2, 5, 5, 4), np.uint8), "labels": [0, 1]}, r"1 or 3 channels, found .* \(5, 5, 4\)"),
        ({"images": np.zeros((2, 25), np.uint8), "labels": [0, 1]}, r"images \(D, H, W\), .* found \(2, 25\)"),
        ({"images": np.zeros((0, 5, 5), np.uint8), "labels": []}, r"found \(0, 5, 5\)"),
        (
            {"images": np.zeros((2, 5, 5), np.uint8), "labels": [0, 1, 2]},
            r"a label for each of 2 images, found int64 \(3,\)",
        ),
        ({"images": np.zeros((2, 5, 5), np.uint8), "labels": [0.5, 1]}, "a label for each of 2 images, found float64"),
        ({"images": np.zeros((2, 5, 5), np.uint8)}, "array named labels or .*, found images"),
        ({"labels": [0]}, "array named images or .*, found labels"),
        ({"images": np.zeros((2, 5, 5), np.uint8), "labels": [0, 2], "classes": ["a", "b"]}, "labels from 0 to 1"),
        ({"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array([{}, 1], object)}, "plain numbers or text"),
        ({"images": np.array([{}], object), "labels": [0]}, "plain numbers in C's order, found Python objects"),
        ({"images": np.asfortranarray(made.pixels(0, 2, 5, 5)), "labels": [0, 1]}, "found Fortran's order"),
    ],
)
def test_arrays_that_are_none_of_these_are_refused(arrays: dict[str, object], message: str, tmp_path: Path):
    path = npz(tmp_path / "train.npz", **arrays)
    with pytest.raises(BadData, match=f"^{path}.*{message}"):
        load(str(path))


def test_splits_in_files_may_share_no_class_and_no_shape(tmp_path: Path):
    images = made.images_of(2, 2)
    npz(tmp_path / "a" / "train.npz", images=images, labels=["x", "x", "y", "y"])
    npz(tmp_path / "a" / "test.npz", images=images, labels=["y", "y", "z", "z"])
    with pytest.raises(BadData, match=f"{tmp_path / 'a'}: expected splits that share no class, found 'y' in train and"):
        load(str(tmp_path / "a"))
    npz(tmp_path / "b" / "train.npz", images=images, labels=[0, 0, 1, 1])
    npz(tmp_path / "b" / "test.npz", images=images[:, :10, :10], labels=[0, 0, 1, 1])
    with pytest.raises(BadData, match="images of one shape in all splits"):
        load(str(tmp_path / "b"))
    npz(tmp_path / "c" / "train.npz", images=images, labels=[0, 0, 1, 1])
    npz(tmp_path / "c" / "my_train.npz", images=images, labels=[0, 0, 1, 1])
    with pytest.raises(BadData, match="one file for each split, found two for train"):
        load(str(tmp_path / "c"))


@pytest.mark.parametrize("cut", [10, 1000, -100])
def test_a_truncated_npz_is_refused(cut: int, tmp_path: Path):
    path = npz(tmp_path / "train.npz", images=made.images_of(2, 2), labels=[0, 0, 1, 1])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadData, match=f"^{path}: expected an .npz, found a damaged one"):
        load(str(path))


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path):
    path = tmp_path / "train.npz"
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 900000, 900000), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.ljust(127) + b"\n" + b"\0" * 50)
        with archive.open("labels.npy", "w") as member:
            np.save(member, np.array([0, 1]))
    with pytest.raises(BadData, match="expected 1620000000000 bytes of numbers, found"):
        load(str(path))


# Writing.


def test_arrays_are_written_whole_or_not_at_all(tmp_path: Path):
    images = made.images_of(1, 5, side=6)
    total = write_npy(tmp_path / "new" / "x.npy", images.shape, (images[k : k + 2] for k in (0, 2, 4)))
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "x.npy"), images)
    done = subprocess.run(["sha256sum", str(tmp_path / "new" / "x.npy")], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == total
    write_npz(tmp_path / "x.npz", {"labels": np.arange(5)}, "images", images.shape, (image[None] for image in images))
    with np.load(tmp_path / "x.npz") as file:
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["labels"], np.arange(5))
    before = (tmp_path / "x.npz").read_bytes()
    write_npz(tmp_path / "x.npz", {"labels": np.arange(5)}, "images", images.shape, [images])
    assert (tmp_path / "x.npz").read_bytes() == before  # equal arrays, equal bytes, however cut
    for pieces in ([images[:4]], [images, images[:1]], [images[:, :5]], [images.astype(float)]):
        with pytest.raises(ValueError, match="expected"):
            write_npy(tmp_path / "y.npy", images.shape, pieces)
        with pytest.raises(ValueError, match="expected"):
            write_npz(tmp_path / "y.npz", {}, "images", images.shape, pieces)
    assert sorted(os.listdir(tmp_path)) == ["new", "x.npz"]


def test_reading_keeps_no_file_mapped(tmp_path: Path):
    """What was read stays, and the map is gone: this is what bounds the memory."""
    data = load(str(npz(tmp_path / "train.npz", images=made.images_of(2, 2), labels=[0, 0, 1, 1])))
    images = data.source.read(np.array([0, 3]))
    gc.collect()
    assert images.any() and str(tmp_path) not in Path("/proc/self/maps").read_text()


# The cache of decoded images.


def kept(folder: Path) -> tuple[Path, list[int]]:
    data, done = load(str(folder)), []
    return image_cache.keep(data.source, data.source.read, done.append), done


def again(folder: Path):  # noqa: ANN201
    """The data set as another process would load it."""
    from diagnostics.data import library

    library._on_disk.cache_clear()
    return load(str(folder))


def test_decoded_images_are_kept_and_read_from_there(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_cache, "PIECE", 3)
    folder = made.class_folders(tmp_path / "set", {"a": 4, "b": 4})
    before = load(str(folder)).source.read(np.arange(8))
    path, done = kept(folder)
    assert done == [3, 6, 8]
    assert sorted(os.listdir(own_cache)) == [path.name, f"{path.name}.sha256"]
    subprocess.run(["sha256sum", "-c", "--quiet", f"{path.name}.sha256"], cwd=own_cache, check=True)
    data = again(folder)
    assert isinstance(data.source, StoredImages)
    (folder / "b" / "00003.png").write_bytes(b"broken")  # not looked at any more ...
    np.testing.assert_array_equal(data.source.read(np.arange(8)), before)
    with pytest.raises(BadData):  # ... until the set is loaded again, for then it is another one
        again(folder).source.read(np.array([7]))


@pytest.mark.parametrize("harm", ["cut", "empty", "other shape"])
def test_a_damaged_cache_is_passed_by(harm: str, own_cache: Path, tmp_path: Path):
    folder = made.class_folders(tmp_path / "set", {"a": 2, "b": 2})
    path, _ = kept(folder)
    if harm == "other shape":
        write_npy(path, (1, 3, 2, 2), [np.zeros((1, 3, 2, 2), np.uint8)])
    else:
        path.write_bytes(path.read_bytes()[: -1 if harm == "cut" else 0])
    data = again(folder)
    assert not isinstance(data.source, StoredImages)
    assert data.source.read(np.arange(4)).any()


def test_a_corrupt_image_leaves_no_cache_behind(own_cache: Path, tmp_path: Path):
    folder = made.class_folders(tmp_path / "set", {"a": 2, "b": 2})
    (folder / "b" / "00001.png").write_bytes(b"")
    with pytest.raises(BadData, match="b/00001.png"):
        kept(folder)
    assert os.listdir(own_cache) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path):
    folder = made.class_folders(tmp_path / "set", {"a": 2, "b": 2})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files.os, "fsync", full)
    with pytest.raises(ValueError, match="expected a folder with room for 4800 bytes, found No space left on device"):
        kept(folder)
    assert os.listdir(own_cache) == []


def test_the_cache_of_arrays_and_that_of_images_share_a_folder(own_cache: Path):
    assert cache.folder() == own_cache
