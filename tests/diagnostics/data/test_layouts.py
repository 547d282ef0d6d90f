"""Each layout of the real data sets, in small, through its reader."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diagnostics.data.bad_data import BadData
from diagnostics.data.image_data import ImageData
from diagnostics.data.library import load
from tests.diagnostics.data import made


def classes(data: ImageData) -> dict[str, list[str]]:
    return {name: list(data.classes[at.start : at.stop]) for name, at in data.splits.items()}


def image(data: ImageData, name: str, place: int) -> np.ndarray:
    """The `place`-th image of a class."""
    row = int(data.counts[: data.classes.index(name)].sum()) + place
    return data.source.read(np.array([row]))[0]


@pytest.mark.parametrize("make", [made.omniglot, made.omniglot_zips])
def test_omniglot_in_folders_and_zips(make, tmp_path: Path):
    data = load(str(make(tmp_path / "a set, with [odd] name")))
    assert data.layout == "omniglot"
    assert classes(data) == {
        "train": [
            *(f"Alphabet_of_the_Magi/character0{n}" for n in (1, 2, 3)), "Angelic/character01", "Angelic/character02",
        ],
        "validation": ["Armenian/character01", "Armenian/character02"],
        "test": ["Tibetan/character01", "Tibetan/character02"],
    }  # fmt: skip
    assert data.source.shape == (9 * made.DRAWINGS, 1, 105, 105)
    assert set(data.counts.tolist()) == {made.DRAWINGS}
    # Dark ink on white becomes white ink on black, and no pixel moves.
    np.testing.assert_array_equal(
        image(data, "Armenian/character01", 2)[0], np.where(made.drawing(3 * made.DRAWINGS + 2), 0, 255)
    )


def test_folders_and_zips_of_omniglot_give_the_same_images(tmp_path: Path):
    a, b = load(str(made.omniglot(tmp_path / "a"))), load(str(made.omniglot_zips(tmp_path / "b")))
    every = np.arange(a.source.shape[0])
    np.testing.assert_array_equal(a.source.read(every), b.source.read(every))
    assert a.classes == b.classes and a.source.key != b.source.key


def test_omniglot_as_lake_splits_it(tmp_path: Path):
    found = classes(load(str(made.omniglot(tmp_path)), partition="lake"))
    assert {name.partition("/")[0] for name in found["train"]} == {"Alphabet_of_the_Magi", "Armenian"}
    assert {name.partition("/")[0] for name in found["test"]} == {"Angelic", "Tibetan"}
    with pytest.raises(ValueError, match="partition: expected one of vinyals, lake, found 'snell'"):
        load(str(tmp_path), partition="snell")


def test_the_split_of_vinyals_has_its_published_counts():
    """The alphabets' real sizes, as the set's own documentation has them, through the rule."""
    from diagnostics.data.layouts import _omniglot

    background = dict(zip(
        "Alphabet_of_the_Magi Anglo-Saxon_Futhorc Arcadian Armenian Asomtavruli_(Georgian) Balinese Bengali "
        "Blackfoot_(Canadian_Aboriginal_Syllabics) Braille Burmese_(Myanmar) Cyrillic Early_Aramaic Futurama Grantha "
        "Greek Gujarati Hebrew Inuktitut_(Canadian_Aboriginal_Syllabics) Japanese_(hiragana) Japanese_(katakana) "
        "Korean Latin Malay_(Jawi_-_Arabic) Mkhedruli_(Georgian) N_Ko Ojibwe_(Canadian_Aboriginal_Syllabics) Sanskrit "
        "Syriac_(Estrangelo) Tagalog Tifinagh".split(),
        (20, 29, 26, 41, 40, 24, 46, 14, 26, 34, 33, 22, 26, 43, 24, 48, 22, 16, 52, 47, 40, 26, 40, 41, 33, 14, 42, 23,
         17, 55), strict=True,
    ))  # fmt: skip
    evaluation = dict(zip(
        "Angelic Atemayar_Qelisayer Atlantean Aurek-Besh Avesta Ge_ez Glagolitic Gurmukhi Kannada Keble Malayalam "
        "Manipuri Mongolian Old_Church_Slavonic_(Cyrillic) Oriya Sylheti Syriac_(Serto) Tengwar Tibetan ULOG".split(),
        (20, 26, 26, 26, 26, 26, 45, 45, 41, 26, 47, 40, 30, 45, 46, 28, 23, 25, 42, 26), strict=True,
    ))  # fmt: skip
    assert sum(background.values()) == 964 and sum(evaluation.values()) == 659
    parts = [
        (half, alphabet, f"character{n:02d}", "0001_01.png")
        for half, alphabets in (("images_background", background), ("images_evaluation", evaluation))
        for alphabet, count in alphabets.items()
        for n in range(1, count + 1)
    ]
    assert {name: len(of) for name, of in _omniglot(parts, "vinyals").items()} == {
        "train": 1028, "validation": 172, "test": 423,
    }  # fmt: skip
    assert {name: len(of) for name, of in _omniglot(parts, "lake").items()} == {"train": 964, "test": 659}


def test_quarter_turns_are_classes_of_the_same_split(tmp_path: Path):
    plain, data = load(str(made.omniglot(tmp_path))), load(str(tmp_path), turns=4)
    assert data.source.shape[0] == 4 * plain.source.shape[0]
    assert {name: len(at) for name, at in data.splits.items()} == {"train": 20, "validation": 8, "test": 8}
    for quarter in range(4):
        np.testing.assert_array_equal(
            image(data, f"Tibetan/character02/rot{90 * quarter:03d}", 1),
            np.rot90(image(plain, "Tibetan/character02", 1), quarter, (1, 2)),
        )
    assert classes(data)["test"][:4] == [f"Tibetan/character01/rot{angle}" for angle in ("000", "090", "180", "270")]
    with pytest.raises(ValueError, match="turns: expected one of"):
        load(str(tmp_path), turns=2)


@pytest.mark.parametrize("header", ["filename,label", "filename, label", "\ufefffilename,label", " Filename ,Label"])
def test_mini_imagenet_with_lists(header: str, tmp_path: Path):
    data = load(str(made.mini_imagenet(tmp_path, header)))
    assert data.layout == "csv lists"
    expected = {"train": ["n01", "n02", "n03"], "validation": ["n04", "n05"], "test": ["n06", "n07"]}
    assert classes(data) == expected
    assert data.source.shape == (7 * made.DRAWINGS, 3, 84, 84)
    with Image.open(tmp_path / "images" / "n05000000000001.jpg") as original:
        np.testing.assert_array_equal(image(data, "n05", 1), np.asarray(original).transpose(2, 0, 1))


def test_mini_imagenet_in_class_folders(tmp_path: Path):
    for place, split in enumerate(("train", "val", "test")):
        names = {f"n{place}{n}": made.DRAWINGS for n in range(2)}
        made.class_folders(tmp_path / split, names, side=84, first=100 * place)
    data = load(str(tmp_path))
    assert data.layout == "split folders"
    assert classes(data) == {"train": ["n00", "n01"], "validation": ["n10", "n11"], "test": ["n20", "n21"]}
    np.testing.assert_array_equal(image(data, "n11", 3), made.pixels(107, 84, 84, 3).transpose(2, 0, 1))


def test_cifar_fs(tmp_path: Path):
    data = load(str(made.cifar_fs(tmp_path)))
    assert data.layout == "class folders" and data.source.shape[1:] == (3, 32, 32)
    expected = {"train": ["apple", "bear", "can"], "validation": ["dolphin", "elephant"], "test": ["fox", "girl"]}
    assert classes(data) == expected
    assert classes(load(str(tmp_path), partition="bertinetto")) == expected
    (tmp_path / "splits" / "other").mkdir()
    (tmp_path / "splits" / "other" / "train.txt").write_text("girl\nfox\n")
    assert classes(load(str(tmp_path), partition="other")) == {"train": ["fox", "girl"]}
    with pytest.raises(ValueError, match="partition: expected one of bertinetto, other, the path of a list, found 'x'"):
        load(str(tmp_path), partition="x")


def test_low_shot_imagenet_by_its_list(tmp_path: Path):
    root, lists = made.low_shot(tmp_path / "ILSVRC" / "train")
    data = load(str(root), partition=str(lists))
    assert classes(data) == {
        "base": ["n00000000", "n00000002", "n00000003", "n00000005"],
        "novel": ["n00000001", "n00000004"],
    }
    assert data.source.shape == (24, 3, 84, 84)  # sizes differ: each is cut to its square and scaled
    with Image.open(root / "n00000003" / "n00000003_1.JPEG") as original:  # 90 wide, 120 high
        cut = original.crop((0, 15, 90, 105)).resize((84, 84), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image(data, "n00000003", 1), np.asarray(cut).transpose(2, 0, 1))
    assert load(str(root), partition=str(lists), side=48).source.shape[2:] == (48, 48)


def test_a_plain_folder_of_classes_is_one_split(tmp_path: Path):
    data = load(str(made.class_folders(tmp_path, {"b": 2, "a": 3}, colour=False)))
    assert classes(data) == {"all": ["a", "b"]} and data.counts.tolist() == [3, 2]
    assert data.source.shape == (5, 1, 20, 20)


def test_rows_do_not_depend_on_the_order_of_the_file_system(tmp_path: Path):
    """The same files, written in two orders."""
    made.class_folders(tmp_path / "a", {"x": 2, "y": 2})
    for path in reversed(sorted((tmp_path / "a").rglob("*.png"))):
        made.write(tmp_path / "b" / path.relative_to(tmp_path / "a"), path.read_bytes())
    a, b = load(str(tmp_path / "a")), load(str(tmp_path / "b"))
    every = np.arange(4)
    np.testing.assert_array_equal(a.source.read(every), b.source.read(every))


def test_what_systems_leave_behind_is_passed_by(tmp_path: Path):
    made.class_folders(tmp_path, {"a": 1, "b": 1})
    for name in (".DS_Store", "a/.hidden.png", "a/Thumbs.db", "__MACOSX/a/._00000.png", "README.md"):
        made.write(tmp_path / name, b"nothing")
    assert load(str(tmp_path)).source.shape[0] == 2


def test_a_link_in_a_circle_comes_to_an_end(tmp_path: Path):
    made.class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    with pytest.raises(BadData, match="expected images as <class>/<image>"):
        load(str(tmp_path))


def broken(tmp_path: Path, what: str) -> Path:
    """A data set with something wrong in how its files lie."""
    if what in ("empty folder", "no images", "nothing", "a text file"):
        if what != "nothing":
            (tmp_path / "set").mkdir()
        if what == "no images":
            (tmp_path / "set" / "notes.txt").write_text("none")
        return tmp_path / "set" if what != "a text file" else _written(tmp_path / "text", "none")
    if what == "class in two folders":
        made.class_folders(tmp_path / "train", {"a": 2, "b": 2})
        made.class_folders(tmp_path / "test", {"b": 2})
    elif what == "class in two lists":
        made.cifar_fs(tmp_path)
        (tmp_path / "splits" / "bertinetto" / "test.txt").write_text("fox\napple\n")
    elif what == "listed, not there":
        made.cifar_fs(tmp_path)
        (tmp_path / "splits" / "bertinetto" / "test.txt").write_text("fox\nzebra\n")
    elif what == "empty list":
        made.cifar_fs(tmp_path)
        (tmp_path / "splits" / "bertinetto" / "test.txt").write_text("\n")
    elif what == "number beyond":
        made.class_folders(tmp_path / "set", {"a": 1, "b": 1})
        return tmp_path / "set"
    elif what == "flat":
        made.write(tmp_path / "0.png", made.png(made.pixels(0, 5, 5)))
    elif what == "too deep":
        made.write(tmp_path / "a" / "b" / "c" / "d" / "0.png", made.png(made.pixels(0, 5, 5)))
    elif what == "stray file":
        made.write(made.omniglot(tmp_path) / "images_background" / "stray.png", made.png(made.drawing(0)))
    else:
        made.mini_imagenet(tmp_path)
        path, text = tmp_path / "test.csv", (tmp_path / "test.csv").read_text()
        if what == "image not there":
            (tmp_path / "images" / "n06000000000000.jpg").unlink()
        elif what == "image in two lists":
            path.write_text(text + "n01000000000000.jpg,n06\n")
        elif what == "class in two csv":
            made.write(tmp_path / "images" / "other.jpg", (tmp_path / "images" / "n01000000000000.jpg").read_bytes())
            path.write_text(text + "other.jpg,n01\n")
        elif what == "no header":
            path.write_text(text.partition("\n")[2])
        elif what == "short row":
            path.write_text(text + "n06000000000000.jpg\n")
        elif what == "no rows":
            path.write_text("filename,label\n")
        elif what == "latin csv":
            path.write_bytes(b"filename,label\n\xe9.jpg,n06\n")
    return tmp_path


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "what, message",
    [
        ("nothing", "expected a folder, a .zip or a .npz of images, found nothing there"),
        ("a text file", "expected a folder, a .zip or a .npz of images, found a file"),
        ("empty folder", "expected images .* found none; unpack them"),
        ("no images", "expected images .* found none"),
        ("class in two folders", "splits that share no class, found 'b' in train and in test"),
        ("class in two lists", "splits that share no class, found 'apple' in train and in test"),
        ("class in two csv", "splits that share no class, found 'n01' in train and in test"),
        ("listed, not there", "every class of the list test, found none for 'zebra' among 7 classes"),
        ("empty list", "expected classes in the list test, found none"),
        ("flat", "expected images as <class>/<image>.* found 0.png; choose the folder that holds the classes"),
        ("too deep", "expected images as <class>/<image>.* found a/b/c/d/0.png"),
        ("stray file", "omniglot: expected .* found images_background/stray.png; take it out"),
        ("image not there", "test.csv: expected every image that it lists, found no 'n06000000000000.jpg'"),
        ("image in two lists", "expected each image once, found 'n01000000000000.jpg' in test.csv too"),
        ("no header", "test.csv: expected the header filename,label, found 'n06000000000000.jpg,n06'"),
        ("short row", "test.csv: expected rows with a file name and a label, found the row 'n06000000000000.jpg'"),
        ("no rows", "test.csv: expected rows with a file name and a label, found no rows"),
        ("latin csv", "test.csv: expected a CSV"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(what: str, message: str, tmp_path: Path):
    path = broken(tmp_path, what)
    with pytest.raises(BadData, match=message) as caught:
        load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"base_classes": [0], "novel_classes": [2]}, "every class of the list novel, found none for 2 among 2"),
        ({"base_classes": [0], "novel_classes": [-1]}, "every class of the list novel, found none for -1"),
        ({"base_classes": [0, 1], "novel_classes": ["b"]}, "share no class, found 'b' in base and in novel"),
        ({"base_classes": [0.5]}, "expected names or numbers of classes in base"),
        ({"base_classes": [True]}, "expected names or numbers of classes in base"),
        ({"others": [0]}, "expected lists named .* found none"),
        ([0, 1], "expected lists named .* found none"),
        (None, "expected JSON"),
    ],
)
def test_a_list_that_is_wrong_is_refused(content: object, message: str, tmp_path: Path):
    made.class_folders(tmp_path / "set", {"a": 1, "b": 1})
    (tmp_path / "list.json").write_text("{" if content is None else json.dumps(content))
    with pytest.raises(BadData, match=message):
        load(str(tmp_path / "set"), partition=str(tmp_path / "list.json"))


def test_an_episode_needs_classes_and_images(tmp_path: Path):
    data = load(str(made.class_folders(tmp_path, {"a": 3, "b": 2, "c": 3})))
    data.require("all", 3, 1, 1)
    with pytest.raises(BadData, match="all: expected at least 4 classes for an episode of 4 ways, found 3"):
        data.require("all", 4, 1, 1)
    with pytest.raises(BadData, match=r"at least 3 images of each class \(1 shots and 2 queries\), found 2 of 'b'"):
        data.require("all", 2, 1, 2)
    with pytest.raises(ValueError, match="expected 'all', the only one there is, found 'train'; sort the classes"):
        data.split("train")


def test_an_image_is_decoded_once_however_often_it_is_asked_for(tmp_path: Path):
    data = load(str(made.class_folders(tmp_path, {"a": 3, "b": 3})))
    asked: list[list[int]] = []

    def read(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return data.source.read(rows)

    images = data.split("all", read).images
    rows = np.array([4, 0, 4, 1, 0])
    np.testing.assert_array_equal(images[rows], data.source.read(rows))
    assert asked == [[0, 1, 4]]


def test_a_split_shows_its_own_images_and_no_others(tmp_path: Path):
    data = load(str(made.cifar_fs(tmp_path)))
    seen = []
    for name, at in data.splits.items():
        split = data.split(name)
        assert len(split.images) == len(split.labels) == made.DRAWINGS * len(at)
        assert [split.names[label] for label in split.labels] == np.repeat(split.names, made.DRAWINGS).tolist()
        for row, label in enumerate(split.labels):
            path = tmp_path / "data" / split.names[label] / f"{row % made.DRAWINGS:05d}.png"
            with Image.open(path) as original:
                expected = np.asarray(original).transpose(2, 0, 1)
            np.testing.assert_array_equal(split.images[np.array([row])][0], expected)
            seen.append(path)
    assert len(set(seen)) == data.source.shape[0]


def test_grey_and_colour_classes_together_are_a_set_in_colour(tmp_path: Path):
    made.class_folders(tmp_path, {"a": 1}, colour=False)
    made.class_folders(tmp_path, {"b": 1}, colour=True)
    made.class_folders(tmp_path, {"c": 1}, colour=False)
    data = load(str(tmp_path))
    assert data.source.shape == (3, 3, 20, 20)
    images = data.source.read(np.arange(3))
    assert (images[0] == images[0, :1]).all() and not (images[1] == images[1, :1]).all()


def test_a_mode_of_one_bit_is_black_and_white():
    assert Image.open(io.BytesIO(made.png(made.drawing(0)))).mode == "1"  # the fixture is what Omniglot has
