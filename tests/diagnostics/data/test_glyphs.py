"""The glyphs: what is in them, and that no shape crosses from one split to another."""

import importlib.util
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from diagnostics.data import glyphs
from diagnostics.data.glyphs import Glyphs
from diagnostics.data.shapes import cropped, same_shape


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Glyphs]:
    """Rendered into a folder of its own unless this process has them already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADGAUGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {split: glyphs.load(split) for split in glyphs.SPLITS}


@pytest.fixture(scope="module")
def classes(splits: dict[str, Glyphs]) -> list[str]:
    """The class of each drawing, in the order of the splits; Unicode names are unique over all of them."""
    return [data.names[label] for data in splits.values() for label in data.labels]


@pytest.fixture(scope="module")
def inks(splits: dict[str, Glyphs]) -> list[np.ndarray]:
    return [cropped(image) for data in splits.values() for image in data.images]


def test_every_ink_belongs_to_one_class_and_one_drawing(inks: list[np.ndarray], classes: list[str]):
    owners = Counter((ink.shape, ink.tobytes()) for ink in inks)
    assert len(owners) == len(inks) == len(classes)


def test_no_two_classes_share_a_shape_even_up_to_anti_aliasing(inks: list[np.ndarray], classes: list[str]):
    named = np.array(classes)
    i, j = same_shape(inks).T
    shared = named[i] != named[j]
    assert not shared.any(), list(zip(named[i][shared], named[j][shared], strict=True))


def test_no_class_is_in_two_splits(splits: dict[str, Glyphs]):
    names = [name for data in splits.values() for name in data.names]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "kept, twin",
    [
        ("LATIN CAPITAL LETTER A", "GREEK CAPITAL LETTER ALPHA"),  # the same outline
        ("LATIN CAPITAL LETTER A", "CYRILLIC CAPITAL LETTER A"),
        ("LATIN CAPITAL LETTER H", "CANADIAN SYLLABICS NUNAVUT H"),
        ("LATIN SMALL LETTER O", "ARMENIAN SMALL LETTER OH"),
        ("MODIFIER LETTER SMALL U", "LATIN SUBSCRIPT SMALL LETTER U"),  # only moved
        ("LATIN SMALL LETTER TURNED M", "ARMENIAN SMALL LETTER AYB"),  # a grey level apart, in one font
        ("LATIN SMALL LETTER L", "ARABIC LETTER ALEF"),  # a faint row more, in one font
    ],
)
def test_of_known_twins_the_earlier_is_kept(splits: dict[str, Glyphs], kept: str, twin: str):
    names = {name for data in splits.values() for name in data.names}
    assert kept in names
    assert twin not in names


def test_case_pairs_that_differ_in_size_stay(splits: dict[str, Glyphs]):
    assert {"LATIN SMALL LETTER O", "LATIN CAPITAL LETTER O"} <= set(splits["train"].names)


# Ranges, not numbers: another matplotlib may bring other font files.
@pytest.mark.parametrize("split, low, high", [("train", 1400, 1700), ("validation", 470, 530), ("test", 320, 400)])
def test_there_are_as_many_classes_as_stated(splits: dict[str, Glyphs], split: str, low: int, high: int):
    assert low <= len(splits[split].names) <= high


def test_splits_go_by_script(splits: dict[str, Glyphs]):
    assert {split: set(data.scripts) for split, data in splits.items()} == {
        "train": {"Latin", "Greek", "Cyrillic"},
        "validation": {"Georgian", "Canadian Aboriginal"},
        "test": {"Armenian", "Hebrew", "Arabic"},
    }


@pytest.mark.parametrize("split", glyphs.SPLITS)
def test_shapes_types_and_order(splits: dict[str, Glyphs], split: str):
    data = splits[split]
    drawings = len(data.labels)
    assert data.images.shape == (drawings, glyphs.SIDE, glyphs.SIDE) and data.images.dtype == np.uint8
    assert data.fonts.shape == (drawings,) and len(data.names) == len(data.scripts)
    assert np.unique(data.labels).tolist() == list(range(len(data.names)))
    order = data.labels * len(glyphs.FONTS) + data.fonts
    assert (np.diff(order) > 0).all(), "rows go by class, then by font, each font once"


@pytest.mark.parametrize("split", glyphs.SPLITS)
def test_every_class_has_enough_drawings(splits: dict[str, Glyphs], split: str):
    assert np.bincount(splits[split].labels).min() >= glyphs.MIN_DRAWINGS


@pytest.mark.parametrize("split", glyphs.SPLITS)
def test_nothing_is_clipped_blank_or_faint(splits: dict[str, Glyphs], split: str):
    images = splits[split].images
    border = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
    assert not any(edge.any() for edge in border)
    assert (images.max(axis=(1, 2)) > 127).all()


def test_letters_keep_one_baseline_and_their_relative_size(splits: dict[str, Glyphs]):
    data = splits["train"]

    def rows(name: str) -> np.ndarray:
        drawing = data.images[(data.labels == data.names.index(name)) & (data.fonts == 0)][0]
        return np.flatnonzero(drawing.any(axis=1))

    capital, small, descending = (rows(f"LATIN {name}") for name in
                                  ("CAPITAL LETTER E", "SMALL LETTER X", "SMALL LETTER P"))  # fmt: skip
    assert capital[-1] == small[-1] == glyphs.BASELINE - 1 < descending[-1]
    assert len(capital) > len(small)
    assert small[0] == pytest.approx(descending[0], abs=1)


def test_no_placeholder_is_among_the_drawings(inks: list[np.ndarray]):
    known = {(ink.shape, ink.tobytes()) for ink in inks}
    for name, file in glyphs._font_files().items():
        font = ImageFont.truetype(file, glyphs.EM, layout_engine=ImageFont.Layout.BASIC)
        box = glyphs._picture("\U0010ffff", font)
        assert (box is not None) == name.startswith("DejaVu"), "STIX draws nothing in place of a missing letter"
        if box is not None:
            ink = cropped(box)
            assert (ink.shape, ink.tobytes()) not in known


def test_what_would_not_fit_is_no_picture():
    font = ImageFont.truetype(glyphs._font_files()["DejaVuSans-Bold"], glyphs.EM)
    assert glyphs._picture("\N{CANADIAN SYLLABICS NNGI}", font) is None
    assert glyphs._picture(" ", font) is None
    assert glyphs._picture("a", font) is not None


def test_rendering_anew_and_reading_back_give_the_loaded_arrays(splits: dict[str, Glyphs], tmp_path: Path):
    loaded, fresh, kept = glyphs._arrays(), glyphs.read_or_render(tmp_path), glyphs.read_or_render(tmp_path)
    assert list(loaded) == list(fresh) == list(kept)
    for name, array in loaded.items():
        assert fresh[name] is not kept[name]
        for other in (fresh[name], kept[name]):
            assert other.dtype == array.dtype
            np.testing.assert_array_equal(other, array)


def test_load_is_paid_once_and_shared_read_only(splits: dict[str, Glyphs]):
    data = glyphs.load("test")
    assert data is splits["test"]
    for array in (data.images, data.labels, data.fonts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(ValueError, match="train, validation, test.*'dev'"):
        glyphs.load("dev")


def test_the_manifest_says_what_the_arrays_are_made_of(splits: dict[str, Glyphs]):
    manifest = glyphs.manifest()
    assert manifest["recipe"] == glyphs.RECIPE and manifest["pillow"] and manifest["freetype"]
    fonts, content, counts = manifest["fonts"], manifest["content"], manifest["splits"]
    assert isinstance(fonts, dict) and tuple(fonts) == glyphs.FONTS
    assert isinstance(content, str) and all(len(text) == 64 for text in (content, *fonts.values()))
    assert counts == {
        split: {"classes": len(data.names), "drawings": len(data.labels)} for split, data in splits.items()
    }


class Renderer:
    """Stands in for the recipe, which takes seconds, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"images": np.arange(8, dtype=np.uint8)}


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Renderer:
    stub = Renderer()
    monkeypatch.setattr(glyphs, "_render", stub)
    return stub


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink])
def test_a_damaged_cache_is_made_again_silently(renderer: Renderer, tmp_path: Path, caplog, damage):
    glyphs.read_or_render(tmp_path)
    glyphs.read_or_render(tmp_path)
    assert renderer.calls == 1
    (file,) = tmp_path.glob("*.npz")
    damage(file)
    assert glyphs.read_or_render(tmp_path)["images"].tolist() == list(range(8))
    assert renderer.calls == 2
    glyphs.read_or_render(tmp_path)
    assert renderer.calls == 2 and not caplog.records


def test_another_recipe_or_library_makes_another_cache(renderer: Renderer, tmp_path: Path, monkeypatch):
    glyphs.read_or_render(tmp_path)
    monkeypatch.setattr(glyphs, "RECIPE", glyphs.RECIPE + 1)
    glyphs.read_or_render(tmp_path)
    monkeypatch.setattr(glyphs, "pillow_version", "0.0")
    glyphs.read_or_render(tmp_path)
    assert renderer.calls == 3
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_a_cache_under_the_wrong_name_is_not_believed(renderer: Renderer, tmp_path: Path, monkeypatch):
    glyphs.read_or_render(tmp_path)
    (old,) = tmp_path.glob("*.npz")
    monkeypatch.setattr(glyphs, "RECIPE", glyphs.RECIPE + 1)
    glyphs.read_or_render(tmp_path)
    (new,) = set(tmp_path.glob("*.npz")) - {old}
    for suffix in ("", ".sha256"):
        Path(f"{new}{suffix}").write_bytes(Path(f"{old}{suffix}").read_bytes())
    glyphs.read_or_render(tmp_path)
    assert renderer.calls == 3


def test_without_a_folder_to_write_the_glyphs_come_all_the_same(renderer: Renderer, tmp_path: Path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        arrays = glyphs.read_or_render(tmp_path / "file" / "cache")
    assert arrays["images"].tolist() == list(range(8))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_missing_fonts_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(glyphs, "FONTS", (*glyphs.FONTS, "NoSuchFont"))
    with pytest.raises(FileNotFoundError, match="found no NoSuchFont"):
        glyphs.read_or_render(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="found no matplotlib"):
        glyphs.read_or_render(tmp_path)


def test_the_fonts_are_found_without_importing_matplotlib():
    code = "import sys; from diagnostics.data import glyphs; glyphs._font_files(); print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
